"""Codecs loaded from the workdir of a run."""

import sys
from pathlib import Path
from typing import cast

import jax
import jax.numpy as jnp

from deconv_jax.errors import InputError
from deconv_jax.inference.compression.codec import Codec
from deconv_jax.inference.compression.coding_tables import load_tables, save_tables
from deconv_jax.models.codec import FactorizedCodec
from deconv_jax.tasks import Compression
from deconv_jax.workdir import Checkpoint, load_state, open_task

TABLES_FOLDER = "codec"
"""Folder of the workdir for the tables of the entropy coder."""


def load_codec(workdir: Path, checkpoint: Checkpoint = "last") -> tuple[Compression, Codec]:
    """Return the task of a compression run and its codec.

    The codec's tables are derived once and stored in the workdir, as codec/STEP.safetensors, so that a
    copy of the workdir on another machine has the same tables. If they cannot be stored, a warning is
    printed.

    Args:
      workdir: Folder of the run.
      checkpoint: "last", "best" on the validation split, or a step.

    Raises:
      InputError: The folder is not the workdir of a compression run, the checkpoint is missing or
        damaged, the stored tables are damaged, or no tables can be derived from the weights.
    """
    task = open_task(workdir, Compression)
    model = cast(FactorizedCodec, task.model)
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
            print(f"warning: cannot save the codec's tables: {error}", file=sys.stderr)
    return task, codec
