"""Input windows of the units of any layer, found by propagating marks through the network."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from deconv_jax import ops
from deconv_jax.compilation import jit
from deconv_jax.inference.interpretation.activations import (
    DENSE_LAYERS,
    SPATIAL_LAYERS,
    HasShape,
    find_layers,
    get_layer,
    max_batch_size,
    run_with_replacements,
)
from deconv_jax.models.layers import Unpool
from deconv_jax.models.normalization import Norm
from deconv_jax.training.state import Tree

_MIN_MARK = 1e-3
"""Absolute value above which an output counts as marked."""


def receptive_windows(
    model: nn.Module, variables: Tree, images: HasShape, layer: str
) -> tuple[Int[np.ndarray, "rows 2"], Int[np.ndarray, "columns 2"]]:
    """Return the input rows and columns that the units of a layer depend on.

    The first array has the first and last input row for each row of units, the second array the same for
    columns. Both ends are inclusive.

    A line of ones is propagated through the network with positive weights and without activations and
    normalization, and every nonzero output of a layer is reset to one. The units that are nonzero in
    the end depend on that line. The windows are exact for any arrangement of layers, with skips and
    branches. They are clipped to the image; a unit that depends on no pixel has the window (0, -1). A
    layer without spatial axes has one row and one column.

    Args:
      model: Network that takes only images.
      variables: Variables of the network.
      images: Images (batch, height, width, channels); only their shape matters.
      layer: Name of the layer.

    Raises:
      InputError: There is no such layer.
    """
    size = images.shape[1:3]
    lines_at_once = max_batch_size(size)
    layers = {layer: get_layer(find_layers(model, variables, images), layer)}
    weights = jax.tree_util.tree_map_with_path(_positive_weight, variables)

    @jit
    def propagate(marks: Array) -> Array:
        output = run_with_replacements(model, weights, marks, layers, _propagate_marks)[layer]
        # A module may add a constant to its output, so the output for zero input is subtracted.
        return jnp.abs(output[1:] - output[:1]) > _MIN_MARK

    def windows(axis: int) -> np.ndarray:
        found = []
        for start in range(0, size[axis], lines_at_once):
            lines = np.arange(start, start + lines_at_once)
            ones = lines[:, None] == np.arange(size[axis])
            ones = np.concatenate([np.zeros((1, size[axis]), bool), ones])
            spread = ones[:, :, None, None] if axis == 0 else ones[:, None, :, None]
            marks = np.broadcast_to(spread, (len(ones), *images.shape[1:]))
            outputs = np.asarray(propagate(marks.astype(np.float32)))
            found.append(_any_along_lines(outputs, axis)[: size[axis] - start])
        return _extents(np.concatenate(found))

    return windows(0), windows(1)


def _any_along_lines(
    outputs: Bool[np.ndarray, "marked *map"], axis: int
) -> Bool[np.ndarray, "marked n"]:
    """Return whether any unit in each line of an axis is marked."""
    if outputs.ndim < 4:
        return outputs.reshape(len(outputs), -1).max(axis=1, keepdims=True)
    return outputs.max(axis=(2 - axis, 3))


def _extents(depends: Bool[np.ndarray, "pixels units"]) -> Int[np.ndarray, "units 2"]:
    """Return the first and last pixel on which each unit depends, or (0, -1)."""
    first = depends.argmax(axis=0)
    last = len(depends) - 1 - depends[::-1].argmax(axis=0)
    return np.where(depends.max(axis=0)[:, None], np.stack([first, last], axis=-1), [[0, -1]])


def _positive_weight(path: Sequence[Any], weight: Array) -> Array:
    """Return the weight with which marks are propagated: distinct positive values for a kernel.

    Distinct values avoid cancellation, for example in a kernel from which the mean is subtracted.
    """
    name = getattr(path[-1], "key", None)
    if name == "kernel":
        *taps, first, second = weight.shape
        ramp = 1 + np.arange(weight.size, dtype=np.float32) / weight.size
        # Sums stay near one, far from `_MIN_MARK` and from rounding errors of large numbers.
        return jnp.asarray(ramp.reshape(weight.shape) / (math.prod(taps) * min(first, second)))
    return jnp.zeros_like(weight) if name == "bias" else weight


def _propagate_marks(call: int, module: Any, args: Any, compute: Callable[..., Array]) -> Array:
    """Return the marks in the output of a layer."""
    del call
    x = args[0]
    if isinstance(module, SPATIAL_LAYERS + DENSE_LAYERS):
        return (jnp.abs(compute(x)) > _MIN_MARK).astype(x.dtype)
    if isinstance(module, Unpool):
        # A value may be placed anywhere in its window.
        return ops.avg_unpool(
            x, module.window, stride=module.stride, padding=module.padding, output_size=args[1]
        )
    if isinstance(module, Norm) and module.kind == "group":
        # Group statistics depend on the whole image.
        return jnp.broadcast_to(jnp.max(jnp.abs(x), range(1, x.ndim), keepdims=True), x.shape)
    return x
