"""Generators loaded from the workdir of a run."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from deconv_jax.tasks import GAN, Variational
from deconv_jax.workdir import Checkpoint, load_state, open_task


def load_generator(
    workdir: Path, checkpoint: Checkpoint = "last"
) -> tuple[GAN | Variational, dict[str, Any]]:
    """Return the task of a GAN or VAE run and the variables that it samples with.

    Args:
      workdir: Folder of the run.
      checkpoint: "last", "best" on the validation split, or a step.

    Returns:
      The task, and its `sampling_variables` as NumPy arrays.

    Raises:
      InputError: The folder is not the workdir of a GAN or VAE run, or the checkpoint is missing or
        damaged.
    """
    task = open_task(workdir, GAN, Variational)
    example = {
        "image": jnp.zeros((1, *task.image_shape), jnp.uint8),
        "label": jnp.zeros(1, jnp.int32),
    }
    _, state = load_state(workdir, checkpoint, lambda key: task.init(key, example))
    return task, jax.device_get(task.sampling_variables(state))
