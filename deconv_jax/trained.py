"""What a run has learned, ready for work: of its workdir alone, without the data that it learned from."""

import sys
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp

from deconv_jax.errors import InputError
from deconv_jax.experiment import load_state, open_workdir
from deconv_jax.inference.codec import Codec
from deconv_jax.inference.coding_tables import load_tables, save_tables
from deconv_jax.tasks import Compression, Restoration, Synthesis, Variational
from deconv_jax.training.state import init_state

Checkpoint = Literal["last", "best"] | int

TABLES = "codec"
"""Folder of a workdir with the tables that files of a codec are coded by."""


def load_restoration(
    workdir: Path, checkpoint: Checkpoint = "last"
) -> tuple[Restoration, dict[str, Any]]:
    """The task of a run of restoration and the variables that its network restores with.

    Args:
      workdir, checkpoint: as for `experiment.load_state`.

    Returns:
      The variables are NumPy arrays.

    Raises:
      InputError: as `experiment.load_state`, or the run learned something else.
    """
    task = _task_of(workdir, Restoration)
    model: Any = task.model
    # Parameters do not depend on the size of an image, nor on how it was degraded.
    side = 4 * model.receptive_field().multiple
    image = jnp.zeros((1, side, side, model.channels + task.noise_conditional))
    _, state = load_state(
        workdir, checkpoint, lambda key: init_state(model, task.optimizer, key, image)
    )
    return task, jax.device_get(state.inference_variables())


def load_generative(
    workdir: Path, checkpoint: Checkpoint = "last"
) -> tuple[Synthesis | Variational, dict[str, Any]]:
    """The task of a run that learned to make images, and the variables that it samples with.

    Args, returns and errors as for `load_restoration`.
    """
    task = _task_of(workdir, Synthesis, Variational)
    example = {
        "image": jnp.zeros((1, *task.image_shape), jnp.uint8),
        "label": jnp.zeros(1, jnp.int32),
    }
    _, state = load_state(workdir, checkpoint, lambda key: task.init(key, example))
    return task, jax.device_get(task.sampling_variables(state))


def load_codec(workdir: Path, checkpoint: Checkpoint = "last") -> tuple[Compression, Codec]:
    """The task of a run of compression and its codec.

    The tables of the codec are made once and kept in the workdir, so that a copy of it on another
    machine has the same.

    Args, returns and errors as for `load_restoration`.
    """
    task = _task_of(workdir, Compression)
    model: Any = task.model
    example = {"image": jnp.zeros((1, task.crop, task.crop, model.channels), jnp.uint8)}
    step, state = load_state(workdir, checkpoint, lambda key: task.init(key, example))
    variables = jax.device_get(state.inference_variables())
    path = workdir / TABLES / f"{step:07d}.safetensors"
    tables = load_tables(path, model, variables)
    codec = Codec(model, variables, tables)
    if tables is None:
        try:
            save_tables(path, codec.tables, variables)
        except InputError as error:
            print(f"warning: the codec's tables are not kept: {error}", file=sys.stderr)
    return task, codec


def _task_of(workdir: Path, *kinds: type) -> Any:
    task = open_workdir(workdir).task
    if not isinstance(task, kinds):
        wanted = " or ".join(kind.__name__ for kind in kinds)
        raise InputError(
            f"{workdir} is a run of {type(task).__name__}; wanted is a run of {wanted}"
        )
    return task
