"""The model of a task: checks of its type and its output, and calls in evaluation mode."""

from typing import Any, Protocol

import flax.linen as nn
import jax
import numpy as np

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
    task: HasModel, variables: Tree, *inputs: jax.Array, method: str | None = None
) -> Any:
    """Run a task's model in evaluation mode and return its output, with floats in float32.

    Args:
      task: Task with the model and the precision.
      variables: "params" and "batch_stats" of the model.
      inputs: Inputs of the method.
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


def check_finite_output(values: Any) -> None:
    """Raise InputError if values computed from the model's output hold infinity or NaN."""
    if not np.isfinite(values).all():
        raise InputError("the model's output has infinity or NaN for some image of the split")
