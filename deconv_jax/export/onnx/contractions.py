"""ONNX nodes of convolutions, transposed convolutions and matrix products."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from deconv_jax.errors import InputError
from deconv_jax.export.onnx.graph import Graph, number
from deconv_jax.export.onnx.structure import pad
from deconv_jax.export.onnx.value import Value, stored
from deconv_jax.ops.conv.lax import Geometry


def _conv(graph: Graph, equation: Any, x: Value, kernel: Value) -> Value:
    """Write a Conv. Arrays are those of `ops.conv.primitives`, with channels split into groups."""
    geometry: Geometry = equation.params["geometry"]
    weights, groups = _weights(kernel)
    sides = _static_sides(geometry.padding)
    if any(side < 0 for pair in sides for side in pair):
        cropped = [(min(low, 0), min(high, 0)) for low, high in sides]
        x = pad(graph, x, [(0, 0), *cropped, (0, 0), (0, 0)], Value.of(np.float32(0)))
        sides = [(max(low, 0), max(high, 0)) for low, high in sides]
    content = graph.emit(
        "Conv",
        _channels_first(graph, x),
        graph.constant(weights),
        kernel_shape=list(geometry.kernel_size),
        strides=list(geometry.stride),
        dilations=list(geometry.dilation),
        pads=[pair[side] for side in (0, 1) for pair in sides],
        group=groups,
    )
    return _split_channels(graph, content, equation.outvars[0].aval.shape)


def _conv_transpose(graph: Graph, equation: Any, kernel: Value, y: Value) -> Value:
    """Write a ConvTranspose, whose output has the size of the input of the convolution."""
    geometry: Geometry = equation.params["geometry"]
    weights, groups = _weights(kernel)
    sides = _static_sides(geometry.padding)
    extra = [max(-high, 0) for _, high in sides]
    if any(low < 0 for low, _ in sides) or any(
        e >= s for e, s in zip(extra, geometry.stride, strict=True)
    ):
        raise InputError(
            f"ONNX export does not support a transposed convolution with padding {sides} and stride "
            f"{geometry.stride}"
        )
    content = graph.emit(
        "ConvTranspose",
        _channels_first(graph, y),
        graph.constant(weights),
        kernel_shape=list(geometry.kernel_size),
        strides=list(geometry.stride),
        dilations=list(geometry.dilation),
        pads=[low for low, _ in sides] + [max(high, 0) for _, high in sides],
        output_padding=extra,
        group=groups,
    )
    return _split_channels(graph, content, equation.outvars[0].aval.shape)


def _dot_general(graph: Graph, equation: Any, x: Value, y: Value) -> Value:
    """Write a MatMul, or a Conv for a product with the channels of a feature map."""
    ((from_x, from_y), batch) = equation.params["dimension_numbers"]
    shape = equation.outvars[0].aval.shape
    if tuple(map(len, batch)) != (0, 0) or len(from_x) != 1 or len(y.shape) != 2:
        raise InputError("ONNX export supports only products of an array with a matrix")
    (axis,), (row,) = from_x, from_y
    rest = [a for a in range(len(x.shape)) if a != axis]
    if len(x.shape) == 4 and axis == 3 and y.is_constant:
        kernel = y.array() if row == 1 else y.array().T
        name = stored(graph, x, (0, 3, 1, 2), full=True)
        weights = graph.constant(kernel[:, :, None, None])
        return Value(shape, (0, 3, 1, 2), graph.emit("Conv", name, weights, kernel_shape=[1, 1]))
    left = stored(graph, x, (*rest, axis), full=True)
    right = stored(graph, y, (row, 1 - row), full=True)
    return Value(shape, tuple(range(len(shape))), graph.emit("MatMul", left, right))


def _weights(kernel: Value) -> tuple[np.ndarray, int]:
    """Return a kernel (*size, inputs, groups, outputs) as (groups * outputs, inputs, *size), and the groups."""
    if not kernel.is_constant:
        raise InputError("ONNX export requires kernels that do not depend on the input")
    array = kernel.array()
    rank = array.ndim - 3
    moved = array.transpose(rank + 1, rank + 2, rank, *range(rank))
    return moved.reshape(-1, *moved.shape[2:]), array.shape[-2]


def _static_sides(padding: Sequence[tuple[Any, Any]]) -> list[tuple[int, int]]:
    """Return padding in pixels, which must not depend on the size of the image."""
    if not all(isinstance(side, int) for pair in padding for side in pair):
        raise InputError(
            f"ONNX export requires padding that does not depend on the image's size; got {padding}"
        )
    return [(int(low), int(high)) for low, high in padding]


def _channels_first(graph: Graph, x: Value) -> str:
    """Return the name of images (batch, *size, groups, channels) as (batch, groups * channels, *size)."""
    *size, groups, channels = range(1, len(x.shape))
    if number(x.shape[groups]) == 1:
        return stored(graph, x, (0, channels, *size), full=True)
    name = stored(graph, x, (0, groups, channels, *size), full=True)
    merged = x.shape[groups] * x.shape[channels]
    return graph.emit(
        "Reshape", name, graph.sizes([x.shape[0], merged, *(x.shape[axis] for axis in size)])
    )


def _split_channels(graph: Graph, content: str, shape: tuple[Any, ...]) -> Value:
    """Invert `_channels_first`."""
    *size, groups, channels = range(1, len(shape))
    if number(shape[groups]) == 1:
        return Value(shape, (0, channels, *size), content)
    axes = (0, groups, channels, *size)
    split = graph.emit("Reshape", content, graph.sizes([shape[axis] for axis in axes]))
    return Value(shape, axes, split)


def _linear_map(graph: Graph, equation: Any, x: Value) -> Value:
    """Write the product of a matrix with an axis, which a resizing to a fixed size is."""
    linear_map = equation.params["linear_map"]
    matrix, axis = getattr(linear_map, "matrix", None), getattr(linear_map, "axis", None)
    if matrix is None or axis is None:
        raise InputError(f"ONNX export does not support {type(linear_map).__name__}")
    rows = len(matrix.indices)
    dense = np.zeros((rows, matrix.columns), equation.outvars[0].aval.dtype)
    np.add.at(dense, (np.arange(rows)[:, None], matrix.indices), matrix.weights)
    place = len(x.shape) + axis
    others = [a for a in range(len(x.shape)) if a != place]
    name = stored(graph, x, (*others, place), full=True)
    content = graph.emit("MatMul", name, graph.constant(dense.T))
    return Value(equation.outvars[0].aval.shape, (*others, place), content)


CONTRACTION_RULES: dict[str, Callable[..., Value]] = {
    "convolution_dx": _conv_transpose,
    "convolution_dy": _conv,
    "dot_general": _dot_general,
    "linear_map": _linear_map,
}
"""Rules by the name of the primitive."""
