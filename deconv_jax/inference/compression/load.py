"""Codecs of runs and named models."""

import sys
from typing import cast

import jax
import jax.numpy as jnp

from deconv_jax.errors import InputError
from deconv_jax.inference.compression.codec import Codec
from deconv_jax.inference.compression.coding_tables import CodingTables, load_tables, save_tables
from deconv_jax.inference.trained_model import TrainedModel, open_task
from deconv_jax.models.codec import FactorizedCodec
from deconv_jax.tasks import Compression
from deconv_jax.workdir import Checkpoint, load_state
from deconv_jax.zoo import ZooModel

TABLES_FOLDER = "codec"
"""Folder of the workdir for the tables of the entropy coder."""


def load_codec(trained: TrainedModel, checkpoint: Checkpoint = "last") -> tuple[Compression, Codec]:
    """Return the task of a compression network and its codec.

    The tables of a run's codec are derived once and stored in the workdir, as codec/STEP.safetensors, so
    that a copy of the workdir on another machine has the same tables. If they cannot be stored, a warning
    is printed. Those of a named model come with its weights.

    Args:
      trained: Workdir of a run, or a named model.
      checkpoint: "last", "best" on the validation split, or a step, of a run.

    Raises:
      InputError: The run or the named model is not one of compression, the checkpoint is missing or
        damaged, the stored tables are damaged, or no tables can be derived from the weights.
    """
    task = open_task(trained, Compression)
    model = cast(FactorizedCodec, task.model)
    if isinstance(trained, ZooModel):
        stored = CodingTables.from_stored(trained.extras, model, trained.variables)
        return task, Codec(model, trained.variables, stored)
    example = {"image": jnp.zeros((1, task.crop, task.crop, model.channels), jnp.uint8)}
    step, state = load_state(trained, checkpoint, lambda key: task.init(key, example))
    variables = jax.device_get(state.inference_variables())
    path = trained / TABLES_FOLDER / f"{step:07d}.safetensors"
    tables = load_tables(path, model, variables)
    codec = Codec(model, variables, tables)
    if tables is None:
        try:
            save_tables(path, codec.tables, variables)
        except InputError as error:
            print(f"warning: cannot save the codec's tables: {error}", file=sys.stderr)
    return task, codec
