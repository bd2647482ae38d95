"""The model of a task: checks of its type, input and output, and calls in evaluation mode."""

from typing import Any, Protocol

import flax.linen as nn
import jax
import numpy as np
from jaxtyping import Array, Float, Key

from deconv_jax.data.degradations import Degradation
from deconv_jax.errors import InputError
from deconv_jax.training.state import Precision, Tree
from deconv_jax.training.step import apply_model


class HasModel(Protocol):
    """A task with a single model."""

    @property
    def model(self) -> nn.Module:
        """The model."""

    @property
    def precision(self) -> Precision:
        """Precision of the computation."""


def run_model(
    task: HasModel, variables: Tree, *inputs: jax.Array | None, method: str | None = None
) -> Any:
    """Run a task's model in evaluation mode and return its output, with floats in float32.

    Args:
      task: Task with the model and the precision.
      variables: "params" and "batch_stats" of the model.
      inputs: Inputs of the method; those that are None are omitted.
      method: Method of the model; None means `__call__`.
    """
    output, _ = apply_model(
        task.model, variables, *inputs, train=False, precision=task.precision, method=method
    )
    return output


def check_model(model: nn.Module, attribute: str, kind: str, example: str) -> None:
    """Raise InputError if a task's model lacks an attribute, because it is of the wrong kind.

    Args:
      model: Value of `task.model`.
      attribute: Name of the attribute.
      kind: Kind of model, with an article, for the message.
      example: Name of such a model in a config.
    """
    if not hasattr(model, attribute):
        raise InputError(
            f"task.model must be {kind} such as {example!r}; got {type(model).__name__}"
        )


def degrade_same_shape(
    degradation: Degradation, images: Array, keys: Key[Array, " batch"]
) -> Float[Array, "batch height width channels"]:
    """Return degraded images for a model whose input has the shape of the clean ones.

    Args:
      degradation: Value of `task.degradation`.
      images: Clean images (batch, height, width, channels) in [0, 1].
      keys: Key of each image.

    Raises:
      InputError: The degradation changes the shape of the images.
    """
    degraded = degradation(images, keys)
    if degraded.shape != images.shape:
        raise InputError(
            f"task.degradation must keep the shape of images; got {type(degradation).__name__}, which maps "
            f"shape {images.shape[1:]} to {degraded.shape[1:]}"
        )
    return degraded


def check_finite_output(values: Any) -> None:
    """Raise InputError if values computed from the model's output hold infinity or NaN."""
    if not np.isfinite(values).all():
        raise InputError("the model's output has infinity or NaN for some image of the split")
