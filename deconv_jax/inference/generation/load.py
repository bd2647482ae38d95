"""Generators of runs and named models."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from deconv_jax.inference.trained_model import TrainedModel, open_task
from deconv_jax.tasks import GAN, Variational
from deconv_jax.training.state import TrainState
from deconv_jax.workdir import Checkpoint, load_state
from deconv_jax.zoo import ZooModel


def load_generator(
    trained: TrainedModel, checkpoint: Checkpoint = "last"
) -> tuple[GAN | Variational, dict[str, Any]]:
    """Return the task of a GAN or VAE and the variables that it samples with.

    Args:
      trained: Workdir of a run, or a named model.
      checkpoint: "last", "best" on the validation split, or a step, of a run.

    Returns:
      The task, and its `TrainState.inference_variables` as NumPy arrays.

    Raises:
      InputError: The run or the named model is not that of a GAN or VAE, or the checkpoint is missing
        or damaged.
    """
    task = open_task(trained, GAN, Variational)
    if isinstance(trained, ZooModel):
        return task, trained.variables
    return task, jax.device_get(_state(task, trained, checkpoint).inference_variables())


def load_discriminator(
    trained: TrainedModel, checkpoint: Checkpoint = "last"
) -> dict[str, Any] | None:
    """Return the variables of a discriminator as NumPy arrays; None for a VAE and for a named model.

    Arguments and errors are those of `load_generator`.
    """
    task = open_task(trained, GAN, Variational)
    if isinstance(trained, ZooModel) or not isinstance(task, GAN):
        return None
    return jax.device_get(task.discriminator_variables(_state(task, trained, checkpoint)))


def _state(task: GAN | Variational, workdir: Path, checkpoint: Checkpoint) -> TrainState:
    example = {
        "image": jnp.zeros((1, *task.image_shape), jnp.uint8),
        "label": jnp.zeros(1, jnp.int32),
    }
    return load_state(workdir, checkpoint, lambda key: task.init(key, example))[1]
