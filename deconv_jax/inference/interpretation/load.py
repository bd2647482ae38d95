"""Networks to interpret, of runs and named models."""

from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np

from deconv_jax.compilation import jit
from deconv_jax.data.batch import Batch, valid_sizes
from deconv_jax.data.crops import center_crops
from deconv_jax.data.images import Color
from deconv_jax.data.preprocessing import Preprocessing
from deconv_jax.data.views import evaluation_view
from deconv_jax.errors import InputError
from deconv_jax.inference.interpretation.interpretable_model import InterpretableModel
from deconv_jax.inference.recognition.load import image_color, load_recognition
from deconv_jax.inference.recognition.predictor import center_resize_pixels
from deconv_jax.inference.restoration.load import load_restoration
from deconv_jax.inference.trained_model import (
    TrainedModel,
    open_experiment,
    open_task,
    read_input_shapes,
)
from deconv_jax.models.interfaces import RestorationModel
from deconv_jax.tasks import Classification, Detection, Restoration, Segmentation
from deconv_jax.training.step import images_in_unit_range
from deconv_jax.workdir import Checkpoint

RESTORATION_CROP = 96
"""Side of the center crops on which a restoration network is interpreted, in pixels."""


def load_interpretable_model(
    trained: TrainedModel, checkpoint: Checkpoint = "last"
) -> InterpretableModel:
    """Return a recognition or restoration network, ready for interpretation.

    A recognition network sees image files cropped centrally to the aspect ratio of its training data and
    resized to its size. A restoration network sees center crops of 96 pixels (`RESTORATION_CROP`), both
    of files and of its data; a noise-conditional one refuses files.

    Args:
      trained: Workdir of a run, or a named model.
      checkpoint: "last", "best" on the validation split, or a step, of a run.

    Raises:
      InputError: The run or the named model is not one of recognition or restoration; the checkpoint is
        missing or damaged; or the network expects other than 1 or 3 channels. For recognition also:
        inputs.json is damaged, or missing because an older version trained the run.
    """
    color = open_experiment(trained).data.source.color
    kind = open_task(trained, Classification, Segmentation, Detection, Restoration)
    if isinstance(kind, Restoration):
        return _load_restoration_model(*load_restoration(trained, checkpoint), color)
    task, variables = load_recognition(trained, checkpoint)
    preprocessing = task.preprocessing if isinstance(task, Classification) else Preprocessing()

    @jit
    def images_from_batch(batch: Batch) -> jax.Array:
        if isinstance(task, Classification):
            return preprocessing.resized(images_in_unit_range(batch["image"]), batch.get("size"))
        return evaluation_view(task.view, batch)["image"]

    height, width, channels = jax.eval_shape(images_from_batch, read_input_shapes(trained)).shape[
        1:
    ]
    num_classes = 0
    if not isinstance(task, Detection):
        image = jax.ShapeDtypeStruct((1, height, width, channels), jnp.float32)
        num_classes = jax.eval_shape(task.model.apply, variables, image).shape[-1]
    return InterpretableModel(
        task.model,
        jax.tree.map(jnp.asarray, variables),
        (height, width, channels),
        images_from_batch,
        image_from_pixels=lambda pixels: center_resize_pixels(pixels, (height, width)),
        color=image_color(channels, color),
        preprocess=lambda images: preprocessing.standardized(images)[0],
        num_classes=num_classes,
        class_names=task.class_names,
    )


def _load_restoration_model(
    task: Restoration, variables: dict[str, Any], color: Color
) -> InterpretableModel:
    channels = cast(RestorationModel, task.model).channels
    degrade = jit(lambda batch: task.evaluation_pair(batch)[0])

    def images_from_batch(batch: Batch) -> jax.Array:
        sizes = np.asarray(valid_sizes(batch)) // task.scale
        return jnp.asarray(center_crops(np.asarray(degrade(batch)), sizes, RESTORATION_CROP))

    def image_from_pixels(pixels: np.ndarray) -> np.ndarray:
        if task.noise_conditional:
            raise InputError(
                "a noise-conditional network cannot be interpreted on files, whose noise level is "
                "unknown; omit them to use the test split"
            )
        if min(pixels.shape[:2]) < RESTORATION_CROP:
            raise InputError(
                f"images for a restoration network must have at least {RESTORATION_CROP} pixels per "
                f"side; got {pixels.shape[:2]}"
            )
        sizes = np.array([pixels.shape[:2]])
        return center_crops(pixels[None], sizes, RESTORATION_CROP)[0].astype(np.float32) / 255.0

    return InterpretableModel(
        task.model,
        jax.tree.map(jnp.asarray, variables),
        (RESTORATION_CROP, RESTORATION_CROP, channels + task.noise_conditional),
        images_from_batch,
        image_from_pixels,
        color=image_color(channels, color),
        preprocess=lambda images: images,
    )
