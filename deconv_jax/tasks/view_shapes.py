"""Shapes of a view's outputs, from which segmentation and detection models are initialized."""

from collections.abc import Mapping
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from deconv_jax.data.views import AnnotatedBatch, View, evaluation_view, training_view
from deconv_jax.errors import InputError
from deconv_jax.models.layers import check_sides


def view_shapes(
    model: nn.Module,
    view: View,
    batch: Mapping[str, jax.Array],
    required: Literal["segments", "boxes"],
) -> tuple[AnnotatedBatch, AnnotatedBatch]:
    """Return the shapes of a view's outputs in training and in evaluation, for a batch of one.

    The values are `jax.ShapeDtypeStruct`, by the names of the view's outputs, such as "image".

    Args:
      model: Model of the task; its `multiple`, if it has one, must divide the sides of the images.
      view: View of the task.
      batch: Batch of the data set; only shapes and types matter.
      required: Annotation that the task needs.

    Raises:
      InputError: The view lacks the annotation, or its images do not fit the model.
    """
    example = {
        name: jax.ShapeDtypeStruct((1, *array.shape[1:]), array.dtype)
        for name, array in batch.items()
    }
    example["index"] = jax.ShapeDtypeStruct((1,), jnp.int32)
    step = jnp.zeros((), jnp.int32)

    def checked(seen: AnnotatedBatch) -> AnnotatedBatch:
        if required not in seen:
            raise InputError(
                f"this task requires images with {required}; task.view returns {sorted(seen)} for "
                f"data with {sorted(batch)}"
            )
        if hasattr(model, "multiple"):
            check_sides(type(model).__name__, seen["image"], model.multiple)
        return seen

    return (
        jax.eval_shape(lambda b: checked(training_view(view, b, 0, step)), example),
        jax.eval_shape(lambda b: checked(evaluation_view(view, b)), example),
    )
