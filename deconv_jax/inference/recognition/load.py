"""Classifiers, segmentation networks and detectors of runs and named models."""

from typing import Any, cast

import jax
import jax.numpy as jnp

from deconv_jax.data.images import Color
from deconv_jax.data.views import evaluation_view
from deconv_jax.errors import InputError
from deconv_jax.inference.recognition.predictor import Predictor
from deconv_jax.inference.trained_model import (
    TrainedModel,
    open_experiment,
    open_task,
    read_input_shapes,
)
from deconv_jax.models.interfaces import HasMultiple
from deconv_jax.tasks import Classification, Detection, Segmentation
from deconv_jax.tasks.detection import MIN_SCORE
from deconv_jax.viz.overlays import class_name
from deconv_jax.workdir import Checkpoint, load_state
from deconv_jax.zoo import ZooModel


def load_recognition(
    trained: TrainedModel, checkpoint: Checkpoint = "last"
) -> tuple[Classification | Segmentation | Detection, dict[str, Any]]:
    """Return the task of a recognition network and its variables.

    Args:
      trained: Workdir of a run, or a named model.
      checkpoint: "last", "best" on the validation split, or a step, of a run.

    Returns:
      The task, and "params" (averaged weights, if there are any) and "batch_stats" as NumPy arrays.

    Raises:
      InputError: The run or the named model is not one of recognition; the checkpoint is missing or
        damaged; or inputs.json is damaged, or missing because an older version trained the run.
    """
    task = open_task(trained, Classification, Segmentation, Detection)
    if isinstance(trained, ZooModel):
        return task, trained.variables
    _, state = load_state(trained, checkpoint)
    return task, jax.device_get(state.inference_variables())


def load_predictor(
    trained: TrainedModel, checkpoint: Checkpoint = "last", threshold: float | None = None
) -> Predictor:
    """Return a recognition network as a function of images of any size.

    Args:
      trained: Workdir of a run, or a named model.
      checkpoint: "last", "best" on the validation split, or a step, of a run.
      threshold: Minimum score of a box, in [0, 1], for a detector; None for 0.3 (`MIN_SCORE`).

    Raises:
      InputError: The run or the named model is not one of recognition; the checkpoint or inputs.json
        is missing or damaged; the threshold is out of range, or given for a network other than a
        detector; or the network expects other than 1 or 3 channels.
    """
    task, variables = load_recognition(trained, checkpoint)
    if threshold is not None and not isinstance(task, Detection):
        raise InputError(f"threshold requires a detector; got {type(task).__name__}")
    if threshold is not None and not 0 <= threshold <= 1:
        raise InputError(f"threshold must be in [0, 1]; got {threshold}")
    source, example = open_experiment(trained).data.source, read_input_shapes(trained)
    size, canvas, multiple = None, source.canvas, 1
    if isinstance(task, Classification):
        height, width, channels = example["image"].shape[1:]
        side = task.preprocessing.resize or (height, width)
        if task.preprocessing.resize or canvas is None:
            size, canvas = side, None
    else:
        view = jax.eval_shape(lambda batch: evaluation_view(task.view, batch), example)
        channels = view["image"].shape[-1]
        multiple = cast(HasMultiple, task.model).multiple
        side = (multiple, multiple)
    color = image_color(channels, source.color)
    if isinstance(task, Detection):
        num_classes = task.num_classes
    else:
        image = jax.ShapeDtypeStruct((1, *side, channels), jnp.float32)
        num_classes = jax.eval_shape(task.predict, variables, image)["probabilities"].shape[-1]
    return Predictor(
        task.predict,
        jax.device_put(variables),  # Once, rather than with every image.
        color,
        tuple(class_name(number, task.class_names) for number in range(num_classes)),
        size=size,
        canvas=canvas,
        multiple=multiple,
        threshold=MIN_SCORE if threshold is None else threshold,
    )


def image_color(channels: int, data_color: Color) -> Color:
    """Return the color mode in which to read image files for a network.

    It is "rgb" for three channels. For one channel it is "y" if the training data has it, else "gray".

    Args:
      channels: Number of channels that the network expects.
      data_color: Color mode of the network's training data.

    Raises:
      InputError: The network expects other than 1 or 3 channels.
    """
    if channels not in (1, 3):
        raise InputError(f"image files have 1 or 3 channels; the network expects {channels}")
    return "rgb" if channels == 3 else "y" if data_color == "y" else "gray"
