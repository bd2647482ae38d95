"""What a network of annotated images will see, in training and in evaluation, before it is made."""

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
    wanted: Literal["segments", "boxes"],
) -> tuple[AnnotatedBatch, AnnotatedBatch]:
    """Shapes and types of what a view makes of a batch's first example, in training and in evaluation.

    Raises:
      InputError: the view lacks what is wanted, or its images do not fit the model's `multiple`.
    """
    first = {
        name: jax.ShapeDtypeStruct((1, *array.shape[1:]), array.dtype)
        for name, array in batch.items()
    }
    first["index"] = jax.ShapeDtypeStruct((1,), jnp.int32)
    step = jnp.zeros((), jnp.int32)

    def checked(seen: AnnotatedBatch) -> AnnotatedBatch:
        if wanted not in seen:
            raise InputError(
                f"this task needs images with {wanted}; task.view gives {sorted(seen)} of a batch of "
                f"{sorted(batch)}, which data.source has"
            )
        if hasattr(model, "multiple"):
            check_sides(type(model).__name__, seen["image"], model.multiple)
        return seen

    return (
        jax.eval_shape(lambda b: checked(training_view(view, b, 0, step)), first),
        jax.eval_shape(lambda b: checked(evaluation_view(view, b)), first),
    )
