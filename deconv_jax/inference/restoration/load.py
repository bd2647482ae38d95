"""Restoration networks loaded from the workdir of a run."""

from pathlib import Path
from typing import Any, cast

import jax
import jax.numpy as jnp

from deconv_jax.models.interfaces import RestorationModel
from deconv_jax.tasks import Restoration
from deconv_jax.training.step import init_state
from deconv_jax.workdir import Checkpoint, load_state, open_task


def load_restoration(
    workdir: Path, checkpoint: Checkpoint = "last"
) -> tuple[Restoration, dict[str, Any]]:
    """Return the task of a restoration run and the variables of its network.

    Args:
      workdir: Folder of the run.
      checkpoint: "last", "best" on the validation split, or a step.

    Returns:
      The task, and "params" (averaged weights, if there are any) and "batch_stats" as NumPy arrays.

    Raises:
      InputError: The folder is not the workdir of a restoration run, or the checkpoint is missing or
        damaged.
    """
    task = open_task(workdir, Restoration)
    model = cast(RestorationModel, task.model)
    # The parameters depend neither on the image size nor on the degradation.
    side = 4 * model.receptive_field().multiple
    image = jnp.zeros((1, side, side, model.channels + task.noise_conditional))
    _, state = load_state(
        workdir, checkpoint, lambda key: init_state(task.model, task.optimizer, key, image)
    )
    return task, jax.device_get(state.inference_variables())
