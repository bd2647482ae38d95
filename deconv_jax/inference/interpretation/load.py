"""Networks to interpret, loaded from the workdir of a run."""

from pathlib import Path
from typing import Any

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
from deconv_jax.inference.interpretation.figures import InterpretableModel
from deconv_jax.inference.recognition.load import image_color, load_recognition
from deconv_jax.inference.recognition.predictor import center_resize_pixels
from deconv_jax.inference.restoration.load import load_restoration
from deconv_jax.tasks import Classification, Detection, Restoration, Segmentation
from deconv_jax.training.state import images_in_unit_range
from deconv_jax.workdir import Checkpoint, open_task, open_workdir, read_input_shapes

RESTORED_SIDE = 96
"""Height and width, in pixels, of the images that a restoration network is interpreted on."""


def load_interpretable_model(workdir: Path, checkpoint: Checkpoint = "last") -> InterpretableModel:
    """A run's network to look inside.

    Image files are shown to it as large as the images of its data, as `center_resize_pixels` makes them;
    to a restoration network the middle `RESTORED_SIDE` pixels a side as they are, of its data too.

    Args:
      workdir, checkpoint: as for `load_restoration`.

    Raises:
      InputError: as for `load_recognition`; or the run learned neither to recognise nor to restore.
    """
    color = open_workdir(workdir).data.source.color
    kind = open_task(workdir, Classification, Segmentation, Detection, Restoration)
    if isinstance(kind, Restoration):
        return _restoration_subject(*load_restoration(workdir, checkpoint), color)
    task, variables = load_recognition(workdir, checkpoint)
    preprocessing = task.preprocessing if isinstance(task, Classification) else Preprocessing()

    @jit
    def seen(batch: Batch) -> jax.Array:
        if isinstance(task, Classification):
            return preprocessing.resized(images_in_unit_range(batch["image"]), batch.get("size"))
        return evaluation_view(task.view, batch)["image"]

    height, width, channels = jax.eval_shape(seen, read_input_shapes(workdir)).shape[1:]
    classes = 0
    if not isinstance(task, Detection):
        image = jax.ShapeDtypeStruct((1, height, width, channels), jnp.float32)
        classes = jax.eval_shape(task.model.apply, variables, image).shape[-1]
    return InterpretableModel(
        task.model,
        jax.tree.map(jnp.asarray, variables),
        (height, width, channels),
        seen,
        fitted=lambda pixels: center_resize_pixels(pixels, (height, width)),
        color=image_color(channels, color),
        prepare=lambda images: preprocessing.standardized(images)[0],
        classes=classes,
        class_names=task.class_names,
    )


def _restoration_subject(
    task: Restoration, variables: dict[str, Any], color: Color
) -> InterpretableModel:
    model: Any = task.model
    degrade = jit(lambda batch: task.evaluation_pair(batch)[0])

    def seen(batch: Batch) -> jax.Array:
        sizes = np.asarray(valid_sizes(batch)) // task.scale
        return jnp.asarray(center_crops(np.asarray(degrade(batch)), sizes, RESTORED_SIDE))

    def fitted(pixels: np.ndarray) -> np.ndarray:
        if task.noise_conditional:
            raise InputError(
                "this network is given the level of the noise too, which a file does not say; "
                "leave images out to see its test split"
            )
        if min(pixels.shape[:2]) < RESTORED_SIDE:
            raise InputError(
                f"a restoration network is shown {RESTORED_SIDE} pixels a side; got {pixels.shape[:2]}"
            )
        sizes = np.array([pixels.shape[:2]])
        return center_crops(pixels[None], sizes, RESTORED_SIDE)[0].astype(np.float32) / 255.0

    return InterpretableModel(
        model,
        jax.tree.map(jnp.asarray, variables),
        (RESTORED_SIDE, RESTORED_SIDE, model.channels + task.noise_conditional),
        seen,
        fitted,
        color=image_color(model.channels, color),
        prepare=lambda images: images,
    )
