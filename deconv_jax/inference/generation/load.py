"""Generators of runs and named models."""

from typing import Any

import jax
import jax.numpy as jnp

from deconv_jax.inference.trained_model import TrainedModel, open_task
from deconv_jax.tasks import GAN, Variational
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
      The task, and its `sampling_variables` as NumPy arrays.

    Raises:
      InputError: The run or the named model is not that of a GAN or VAE, or the checkpoint is missing
        or damaged.
    """
    task = open_task(trained, GAN, Variational)
    if isinstance(trained, ZooModel):
        return task, trained.variables
    example = {
        "image": jnp.zeros((1, *task.image_shape), jnp.uint8),
        "label": jnp.zeros(1, jnp.int32),
    }
    _, state = load_state(trained, checkpoint, lambda key: task.init(key, example))
    return task, jax.device_get(task.sampling_variables(state))
