"""Codecs loaded from the workdir of a run."""

import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from deconv_jax.errors import InputError
from deconv_jax.inference.compression.codec import Codec
from deconv_jax.inference.compression.coding_tables import load_tables, save_tables
from deconv_jax.tasks import Compression
from deconv_jax.workdir import Checkpoint, load_state, open_task

TABLES_FOLDER = "codec"
"""Folder in a workdir for the tables of the entropy coder."""


def load_codec(workdir: Path, checkpoint: Checkpoint = "last") -> tuple[Compression, Codec]:
    """The task of a run of compression and its codec.

    The tables of the codec are made once and kept in the workdir, so that a copy of it on another
    machine has the same.

    Args, returns and errors as for `load_restoration`.
    """
    task = open_task(workdir, Compression)
    model: Any = task.model
    example = {"image": jnp.zeros((1, task.crop, task.crop, model.channels), jnp.uint8)}
    step, state = load_state(workdir, checkpoint, lambda key: task.init(key, example))
    variables = jax.device_get(state.inference_variables())
    path = workdir / TABLES_FOLDER / f"{step:07d}.safetensors"
    tables = load_tables(path, model, variables)
    codec = Codec(model, variables, tables)
    if tables is None:
        try:
            save_tables(path, codec.tables, variables)
        except InputError as error:
            print(f"warning: the codec's tables are not kept: {error}", file=sys.stderr)
    return task, codec
