"""Classifiers, segmentation networks and detectors loaded from the workdir of a run."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from deconv_jax.data.images import Color
from deconv_jax.data.views import evaluation_view
from deconv_jax.errors import InputError
from deconv_jax.inference.recognition.predictor import Predictor
from deconv_jax.tasks import Classification, Detection, Segmentation
from deconv_jax.tasks.detection import MIN_SCORE
from deconv_jax.viz.overlays import class_name
from deconv_jax.workdir import Checkpoint, load_state, open_task, open_workdir, read_input_shapes


def load_recognition(
    workdir: Path, checkpoint: Checkpoint = "last"
) -> tuple[Classification | Segmentation | Detection, dict[str, Any]]:
    """The task of a run that learned to recognise, and the variables that it predicts with.

    Args and returns as for `load_restoration`.

    Raises:
      InputError: as for `load_restoration`, or as `workdir.read_input_shapes`.
    """
    task = open_task(workdir, Classification, Segmentation, Detection)
    example = read_input_shapes(workdir)

    def init(key: jax.Array) -> Any:
        zeros = {name: jnp.zeros(like.shape, like.dtype) for name, like in example.items()}
        return task.init(key, zeros)

    _, state = load_state(workdir, checkpoint, init)
    return task, jax.device_get(state.inference_variables())


def load_predictor(
    workdir: Path, checkpoint: Checkpoint = "last", threshold: float | None = None
) -> Predictor:
    """A run that learned to recognise, ready for images of any size.

    Args:
      workdir, checkpoint: as for `load_restoration`.
      threshold: least score of a box, in [0, 1]; None for `MIN_SCORE`.

    Raises:
      InputError: as for `load_recognition`; or a threshold that is out of range or for a run that is of
        no detection; or a network of images that files do not have.
    """
    task, variables = load_recognition(workdir, checkpoint)
    detects = isinstance(task, Detection)
    if threshold is not None and not detects:
        raise InputError(f"threshold is for a run of Detection; got one of {type(task).__name__}")
    if threshold is not None and not 0 <= threshold <= 1:
        raise InputError(f"threshold is in [0, 1]; got {threshold}")
    source, example = open_workdir(workdir).data.source, read_input_shapes(workdir)
    size, canvas, multiple = None, source.canvas, 1
    if isinstance(task, Classification):
        height, width, channels = example["image"].shape[1:]
        side = task.preprocessing.resize or (height, width)
        if task.preprocessing.resize or canvas is None:
            size, canvas = side, None
    else:
        shown = jax.eval_shape(lambda batch: evaluation_view(task.view, batch), example)
        channels = shown["image"].shape[-1]
        multiple = task.model.multiple  # type: ignore[attr-defined]
        side = (multiple, multiple)
    color = image_color(channels, source.color)
    if isinstance(task, Detection):
        classes = task.num_classes
    else:
        image = jax.ShapeDtypeStruct((1, *side, channels), jnp.float32)
        classes = jax.eval_shape(task.predict, variables, image)["probabilities"].shape[-1]
    return Predictor(
        task.predict,
        # Once, and not with every image.
        jax.device_put(variables),
        color,
        tuple(class_name(number, task.class_names) for number in range(classes)),
        size=size,
        canvas=canvas,
        multiple=multiple,
        threshold=MIN_SCORE if threshold is None else threshold,
    )


def image_color(channels: int, of_data: Color) -> Color:
    """What image files are read as for a network of so many channels."""
    if channels not in (1, 3):
        raise InputError(f"files have images of 1 or 3 channels; this network takes {channels}")
    return "rgb" if channels == 3 else "y" if of_data == "y" else "gray"
