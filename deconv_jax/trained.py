"""What a run has learned, ready for work: of its workdir alone, without the data that it learned from."""

import sys
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp

from deconv_jax.data.images import Color
from deconv_jax.data.views import evaluation_view
from deconv_jax.errors import InputError
from deconv_jax.experiment import load_state, open_workdir, read_example
from deconv_jax.inference.codec import Codec
from deconv_jax.inference.coding_tables import load_tables, save_tables
from deconv_jax.inference.predict import Predictor
from deconv_jax.tasks import (
    Compression,
    Detection,
    Recognition,
    Restoration,
    Segmentation,
    Synthesis,
    Variational,
)
from deconv_jax.training.overlays import class_name
from deconv_jax.training.state import init_state

Checkpoint = Literal["last", "best"] | int

LEAST_SCORE = 0.3
"""Of the boxes that a detector reports, unless told otherwise."""
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


def load_recognition(
    workdir: Path, checkpoint: Checkpoint = "last"
) -> tuple[Recognition | Segmentation | Detection, dict[str, Any]]:
    """The task of a run that learned to recognise, and the variables that it predicts with.

    Args and returns as for `load_restoration`.

    Raises:
      InputError: as for `load_restoration`, or as `experiment.read_example`.
    """
    task = _task_of(workdir, Recognition, Segmentation, Detection)
    example = read_example(workdir)
    _, state = load_state(workdir, checkpoint, lambda key: task.init(key, example))
    return task, jax.device_get(state.inference_variables())


def load_predictor(
    workdir: Path, checkpoint: Checkpoint = "last", threshold: float | None = None
) -> Predictor:
    """A run that learned to recognise, ready for images of any size.

    Args:
      workdir, checkpoint: as for `load_restoration`.
      threshold: least score of a box, in [0, 1]; None for `LEAST_SCORE`.

    Raises:
      InputError: as for `load_recognition`; or a threshold that is out of range or for a run that is of
        no detection; or a network of images that files do not have.
    """
    task, variables = load_recognition(workdir, checkpoint)
    detects = isinstance(task, Detection)
    if threshold is not None and not (detects and 0 <= threshold <= 1):
        raise InputError(
            "threshold is in [0, 1], of a run of Detection; got "
            f"{threshold} for one of {type(task).__name__}"
        )
    data, example = open_workdir(workdir).data, read_example(workdir)
    size, canvas, multiple = None, data.canvas, 1
    if isinstance(task, Recognition):
        height, width, channels = example["image"].shape[1:]
        side = task.preprocessing.resize or (height, width)
        if task.preprocessing.resize or canvas is None:
            size, canvas = side, None
    else:
        shown = jax.eval_shape(lambda batch: evaluation_view(task.view, batch), example)
        channels = shown["image"].shape[-1]
        multiple = task.model.multiple  # type: ignore[attr-defined]
        side = (multiple, multiple)
    if channels not in (1, 3):
        raise InputError(f"files have images of 1 or 3 channels; this network takes {channels}")
    color: Color = "rgb" if channels == 3 else "y" if data.color == "y" else "gray"
    if isinstance(task, Detection):
        classes = task.num_classes
    else:
        image = jax.ShapeDtypeStruct((1, *side, channels), jnp.float32)
        classes = jax.eval_shape(task.predict, variables, image)["probabilities"].shape[-1]
    return Predictor(
        task.predict,
        variables,
        color,
        tuple(class_name(number, task.class_names) for number in range(classes)),
        size=size,
        canvas=canvas,
        multiple=multiple,
        threshold=LEAST_SCORE if threshold is None else threshold,
    )


def _task_of(workdir: Path, *kinds: type) -> Any:
    task = open_workdir(workdir).task
    if not isinstance(task, kinds):
        wanted = " or ".join(kind.__name__ for kind in kinds)
        raise InputError(
            f"{workdir} is a run of {type(task).__name__}; wanted is a run of {wanted}"
        )
    return task
