"""ONNX nodes of primitives that move, cut, join, index and reduce arrays."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from deconv_jax.errors import InputError
from deconv_jax.export.onnx.graph import Graph, number
from deconv_jax.export.onnx.value import (
    Value,
    broadcast,
    name_of,
    reshaped,
    stored,
    transposed,
)

_TO_THE_END = 2**63 - 1
_CHANNELS_FIRST = (0, 3, 1, 2)
_REDUCTIONS = {
    "reduce_max": "ReduceMax",
    "reduce_min": "ReduceMin",
    "reduce_prod": "ReduceProd",
    "reduce_sum": "ReduceSum",
}


def _reshape(graph: Graph, equation: Any, x: Value, *_: Value) -> Value:
    shape = equation.outvars[0].aval.shape
    found = _pixel_shuffle(graph, x, shape) or reshaped(graph, x, shape)
    return _from(equation, found, x)


def _squeeze(graph: Graph, equation: Any, x: Value) -> Value:
    return reshaped(graph, x, equation.outvars[0].aval.shape)


def _transpose(_: Graph, equation: Any, x: Value) -> Value:
    return _from(equation, transposed(x, equation.params["permutation"]), x)


def _broadcast(graph: Graph, equation: Any, x: Value, *_: Value) -> Value:
    shape, axes = equation.outvars[0].aval.shape, equation.params["broadcast_dimensions"]
    return broadcast(graph, x, shape, axes)


def _concatenate(graph: Graph, equation: Any, *values: Value) -> Value:
    axis = equation.params["dimension"]
    shape = equation.outvars[0].aval.shape
    values = tuple(value for value in values if number(value.shape[axis]))
    if len(values) == 1:
        return values[0]
    largest = max(values, key=lambda value: (len(value.axes), not value.is_constant))
    missing = [a for a in range(len(shape)) if a not in largest.axes]
    axes = (*missing, *largest.axes)
    names = [stored(graph, value, axes, full=True) for value in values]
    content = graph.emit("Concat", *names, axis=axes.index(axis))
    return _from(equation, Value(shape, axes, content), *values)


def _slice(graph: Graph, equation: Any, x: Value) -> Value:
    params = equation.params
    strides = params["strides"] or (1,) * len(x.shape)
    return _part(graph, x, params["start_indices"], params["limit_indices"], strides)


def _part(
    graph: Graph, x: Value, starts: Sequence[Any], limits: Sequence[Any], strides: Sequence[int]
) -> Value:
    found = _part_of_concatenation(x, starts, limits, strides)
    if found is not None:
        axis, x = found
        starts, limits = list(starts), list(limits)
        starts[axis], limits[axis] = 0, x.shape[axis]
    return _cut(graph, x, starts, limits, strides)


def _part_of_concatenation(
    x: Value, starts: Sequence[Any], limits: Sequence[Any], strides: Sequence[int]
) -> tuple[int, Value] | None:
    """Return the axis of a concatenation and its part that is just what a slice keeps of the axis."""
    if x.source is None or x.source[0] != "concatenate":
        return None
    axis, start = x.source[1]["dimension"], 0
    for part in x.source[2]:
        end = start + part.shape[axis]
        kept = (number(starts[axis]), number(limits[axis]), strides[axis])
        if kept == (number(start), number(end), 1):
            return axis, part
        start = end
    return None


def _cut(
    graph: Graph,
    x: Value,
    starts: Sequence[Any],
    limits: Sequence[Any],
    strides: Sequence[int],
) -> Value:
    """Return a part of a value; axes along which it is constant need no node."""
    places = []
    for place, axis in enumerate(x.axes):
        whole = number(starts[axis]) == 0 and number(limits[axis]) == number(x.shape[axis])
        if not whole or strides[axis] != 1:
            places.append(place)
    content = x.content
    if places:
        axes = [x.axes[place] for place in places]
        ends = [
            _TO_THE_END if number(limits[axis]) == number(x.shape[axis]) else limits[axis]
            for axis in axes
        ]
        content = graph.emit(
            "Slice",
            name_of(graph, x),
            graph.sizes([starts[axis] for axis in axes]),
            graph.sizes(ends),
            graph.integers(places),
            graph.integers([strides[axis] for axis in axes]),
        )
    slices = zip(starts, limits, strides, strict=True)
    shape = tuple(-(-(limit - start) // stride) for start, limit, stride in slices)
    return Value(shape, x.axes, content)


def _split(graph: Graph, equation: Any, x: Value) -> list[Value]:
    axis, start, parts = equation.params["axis"], 0, []
    for length in equation.params["sizes"]:
        starts, limits = [0] * len(x.shape), list(x.shape)
        starts[axis], limits[axis] = start, start + length
        parts.append(_cut(graph, x, starts, limits, [1] * len(x.shape)))
        start += length
    return parts


def _pad(graph: Graph, equation: Any, x: Value, filling: Value) -> Value:
    config = equation.params["padding_config"]
    if any(interior for _, _, interior in config):
        raise InputError("ONNX export does not support arrays that are dilated with zeros")
    return pad(graph, x, [(low, high) for low, high, _ in config], filling)


def pad(graph: Graph, x: Value, sides: Sequence[tuple[Any, Any]], filling: Value) -> Value:
    """Return a padded value; negative numbers of pixels crop it.

    Args:
      graph: Graph.
      x: Value.
      sides: Pixels (before, after) to add along each axis.
      filling: Value of the added pixels.
    """
    shape = tuple(n + low + high for n, (low, high) in zip(x.shape, sides, strict=True))
    starts = [-low if number(low) < 0 else 0 for low, _ in sides]
    limits = [
        n + high if number(high) < 0 else n for n, (_, high) in zip(x.shape, sides, strict=True)
    ]
    x = _cut(graph, x, starts, limits, [1] * len(starts))
    widths = [
        (low if number(low) > 0 else 0, high if number(high) > 0 else 0) for low, high in sides
    ]
    padded = [axis for axis, width in enumerate(widths) if width != (0, 0)]
    if not padded:
        return Value(shape, x.axes, x.content)
    axes = (*(axis for axis in padded if axis not in x.axes), *x.axes)
    name = stored(graph, x, axes, full=True)
    amounts = [widths[axis][side] for side in (0, 1) for axis in axes]
    content = graph.emit("Pad", name, graph.sizes(amounts), name_of(graph, filling))
    return Value(shape, axes, content)


def _gather(graph: Graph, equation: Any, x: Value, indices: Value) -> Value:
    """Write a Slice, which is a gather if sizes are symbolic, or a Gather of the rows of a table."""
    numbers, sizes = equation.params["dimension_numbers"], equation.params["slice_sizes"]
    shape = equation.outvars[0].aval.shape
    if len(indices.shape) == 1 and indices.is_constant:
        starts: list[Any] = [0] * len(x.shape)
        for axis, start in zip(numbers.start_index_map, indices.array(), strict=True):
            starts[axis] = int(start)
        limits = [start + n for start, n in zip(starts, sizes, strict=True)]
        return reshaped(graph, _part(graph, x, starts, limits, [1] * len(starts)), shape)
    rows_only = (
        numbers.collapsed_slice_dims == (0,)
        and numbers.start_index_map == (0,)
        and tuple(sizes[1:]) == tuple(x.shape[1:])
        and tuple(numbers.offset_dims) == tuple(range(len(indices.shape) - 1, len(shape)))
    )
    if not rows_only:
        raise InputError(
            "ONNX export supports only slices and the indexing of rows; got a gather with "
            f"{numbers}"
        )
    table = stored(graph, x, range(len(x.shape)), full=True)
    rows = reshaped(graph, indices, indices.shape[:-1])
    name = stored(graph, rows, range(len(rows.shape)), full=True)
    return Value(shape, tuple(range(len(shape))), graph.emit("Gather", table, name, axis=0))


def _iota(graph: Graph, equation: Any, *_: Value) -> Value:
    shape, axis = equation.params["shape"], equation.params["dimension"]
    zero, one = (graph.constant(np.array(n, np.int64)) for n in (0, 1))
    values = graph.emit("Range", zero, graph.scalar_size(shape[axis]), one)
    return Value(shape, (axis,), graph.cast(values, equation.params["dtype"]))


def _dim_as_value(graph: Graph, equation: Any) -> Value:
    size = graph.scalar_size(equation.params["dim"])
    return Value((), (), graph.cast(size, equation.outvars[0].aval.dtype))


def _reduction(operator: str) -> Callable[..., Value]:
    def rule(graph: Graph, equation: Any, x: Value) -> Value:
        reduced = tuple(equation.params["axes"])
        missing = [axis for axis in reduced if axis not in x.axes]
        axes = (*missing, *x.axes)
        name = stored(graph, x, axes, full=True)
        places = graph.integers([axes.index(axis) for axis in reduced])
        content = graph.emit(operator, name, places, keepdims=0)
        kept = [axis for axis in range(len(x.shape)) if axis not in reduced]
        left = tuple(kept.index(axis) for axis in axes if axis not in reduced)
        return Value(equation.outvars[0].aval.shape, left, content)

    return rule


def _pixel_shuffle(graph: Graph, x: Value, shape: Sequence[Any]) -> Value | None:
    """Return the result of a DepthToSpace or SpaceToDepth, if that is what a value is reshaped to."""
    if x.source is None or x.source[0] != "transpose" or len(x.shape) != 6 or len(shape) != 4:
        return None
    order = tuple(x.source[1]["permutation"])
    split = x.source[2][0]
    if split.source is None or split.source[0] != "reshape" or len(split.source[2][0].shape) != 4:
        return None
    image = split.source[2][0]
    # Axes of `split`: (batch, height, width, channels, factor, factor) or with channels last.
    to_space = {(0, 1, 4, 2, 5, 3): (4, "CRD"), (0, 1, 3, 2, 4, 5): (3, "DCR")}
    to_depth = {(0, 1, 3, 5, 2, 4): "CRD", (0, 1, 3, 2, 4, 5): "DCR"}
    sizes = [number(n) for n in split.shape]
    if order in to_space and [number(n) for n in image.shape[:3]] == sizes[:3]:
        first, mode = to_space[order]
        factor = sizes[first]
        if sizes[first + 1] != factor or number(shape[1]) != factor * sizes[1]:
            return None
        name = stored(graph, image, _CHANNELS_FIRST, full=True)
        content = graph.emit("DepthToSpace", name, blocksize=factor, mode=mode)
        return Value(tuple(shape), _CHANNELS_FIRST, content)
    if order in to_depth and number(image.shape[3]) == sizes[5]:
        factor = sizes[2]
        # ONNX has only one order of the channels, which matters for several channels.
        ordered = to_depth[order] == "DCR" or sizes[5] == 1
        if sizes[4] != factor or number(shape[1]) != sizes[1] or not ordered:
            return None
        name = stored(graph, image, _CHANNELS_FIRST, full=True)
        content = graph.emit("SpaceToDepth", name, blocksize=factor)
        return Value(tuple(shape), _CHANNELS_FIRST, content)
    return None


def _from(equation: Any, value: Value, *inputs: Value) -> Value:
    """Return a value that remembers where it comes from."""
    source = (equation.primitive.name, equation.params, inputs)
    return Value(value.shape, value.axes, value.content, source)


STRUCTURE_RULES: dict[str, Callable[..., Any]] = {
    **{name: _reduction(operator) for name, operator in _REDUCTIONS.items()},
    "broadcast_in_dim": _broadcast,
    "concatenate": _concatenate,
    "dim_as_value": _dim_as_value,
    "gather": _gather,
    "iota": _iota,
    "pad": _pad,
    "reshape": _reshape,
    "slice": _slice,
    "split": _split,
    "squeeze": _squeeze,
    "transpose": _transpose,
}
"""Rules by the name of the primitive."""
