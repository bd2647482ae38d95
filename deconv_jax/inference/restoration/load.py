"""Restoration networks loaded from the workdir of a run."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from deconv_jax.tasks import Restoration
from deconv_jax.training.state import init_state
from deconv_jax.workdir import Checkpoint, load_state, open_task


def load_restoration(
    workdir: Path, checkpoint: Checkpoint = "last"
) -> tuple[Restoration, dict[str, Any]]:
    """The task of a run of restoration and the variables that its network restores with.

    Args:
      workdir, checkpoint: as for `workdir.load_state`.

    Returns:
      The variables are NumPy arrays.

    Raises:
      InputError: as `workdir.load_state`, or the run learned something else.
    """
    task = open_task(workdir, Restoration)
    model: Any = task.model
    # Parameters do not depend on the size of an image, nor on how it was degraded.
    side = 4 * model.receptive_field().multiple
    image = jnp.zeros((1, side, side, model.channels + task.noise_conditional))
    _, state = load_state(
        workdir, checkpoint, lambda key: init_state(model, task.optimizer, key, image)
    )
    return task, jax.device_get(state.inference_variables())
