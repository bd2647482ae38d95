"""Arrays of the program in the ONNX graph, which may be stored with other axes than they have.

JAX's arrays have channels last, and ONNX's convolutions take channels first. Therefore an array knows the order in
which its axes are stored, and a transposition changes only this order. Axes along which an array is constant, because
they are new or broadcast, are not stored. Nodes are written only where an operator needs another storage.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from deconv_jax.export.onnx.graph import Graph, number


@dataclasses.dataclass(frozen=True, eq=False)
class Value:
    """An array of the program.

    Attributes:
      shape: Length of each axis, an int or a symbolic dimension.
      axes: The axis that each stored axis is. The array is constant along all other axes.
      content: Name in the graph, or the stored array of a constant.
      source: Primitive, parameters and inputs that the value comes from, for patterns.
    """

    shape: tuple[Any, ...]
    axes: tuple[int, ...]
    content: str | np.ndarray
    source: "tuple[str, Mapping[str, Any], Sequence[Value]] | None" = None

    @property
    def is_constant(self) -> bool:
        """Whether the array is known."""
        return isinstance(self.content, np.ndarray)

    @property
    def stored_shape(self) -> tuple[Any, ...]:
        """Length of each stored axis."""
        return tuple(self.shape[axis] for axis in self.axes)

    def array(self) -> np.ndarray:
        """Return a constant of static shape with all its axes."""
        assert isinstance(self.content, np.ndarray)
        return np.broadcast_to(_arranged(self, range(len(self.shape))), self.shape)

    @staticmethod
    def of(array: Any) -> "Value":
        """Return a constant."""
        array = np.asarray(array)
        return Value(array.shape, tuple(range(array.ndim)), array)


def name_of(graph: Graph, value: Value) -> str:
    """Return the name of a value as it is stored."""
    return value.content if isinstance(value.content, str) else graph.constant(value.content)


def stored(graph: Graph, value: Value, axes: Sequence[int], *, full: bool = False) -> str:
    """Return the name of a value that is stored with these axes.

    Args:
      graph: Graph.
      value: Value. Stored axes that are not among `axes` must have length 1.
      axes: Order of the stored axes.
      full: Whether axes along which the value is constant get their full length instead of 1.
    """
    axes = tuple(axes)
    shape = tuple(value.shape[axis] for axis in axes)
    if value.is_constant:
        array = _arranged(value, axes)
        if full and all(isinstance(n, int) for n in shape):
            array = np.broadcast_to(array, shape)
        name = graph.constant(array)
        complete = array.shape == shape
    else:
        name = name_of(graph, value)
        superfluous = [i for i, axis in enumerate(value.axes) if axis not in axes]
        if superfluous:
            name = graph.emit("Squeeze", name, graph.integers(superfluous))
        kept = [axis for axis in value.axes if axis in axes]
        order = sorted(kept, key=axes.index)
        if order != kept:
            name = graph.emit("Transpose", name, perm=[kept.index(axis) for axis in order])
        missing = [i for i, axis in enumerate(axes) if axis not in kept]
        if missing:
            name = graph.emit("Unsqueeze", name, graph.integers(missing))
        complete = all(number(shape[i]) == 1 for i in missing)
    return name if complete or not full else graph.emit("Expand", name, graph.sizes(shape))


def common_axes(values: Sequence[Value]) -> tuple[int, ...]:
    """Return an order in which all values can be stored, that of the largest one."""
    best = max(values, key=lambda v: (len(v.axes), not v.is_constant))
    union = {axis for value in values for axis in value.axes}
    return best.axes if union == set(best.axes) else tuple(sorted(union))


def transposed(value: Value, permutation: Sequence[int]) -> Value:
    """Return a value with permuted axes; no node is needed."""
    shape = tuple(value.shape[axis] for axis in permutation)
    order = list(permutation)
    return Value(shape, tuple(order.index(axis) for axis in value.axes), value.content)


def broadcast(graph: Graph, value: Value, shape: Sequence[Any], axes: Sequence[int]) -> Value:
    """Return a value of another shape in which its axes are the given ones."""
    widened = [
        i
        for i, axis in enumerate(value.axes)
        if number(value.shape[axis]) != number(shape[axes[axis]])
    ]
    content = value.content
    if widened:
        if isinstance(content, np.ndarray):
            content = content.squeeze(tuple(widened))
        else:
            content = graph.emit("Squeeze", content, graph.integers(widened))
    kept = [axes[axis] for i, axis in enumerate(value.axes) if i not in widened]
    return Value(tuple(shape), tuple(kept), content)


def reshaped(graph: Graph, value: Value, shape: Sequence[Any]) -> Value:
    """Return a value of another shape; no node is needed if only axes of length 1 differ."""
    groups = _groups(value.shape, shape)
    value = _with_whole_groups(graph, value, [before for before, _ in groups])
    new_axes: list[int] = []
    position = 0
    is_same = True
    while position < len(value.axes):
        axis = value.axes[position]
        before, after = next(group for group in groups if axis in group[0])
        in_group = [a for a in before if a in value.axes]
        position += len(in_group)
        new_axes += after
        is_same &= len(in_group) == len(after) == 1
        # An axis of length 1 that is gone.
        is_same &= len(after) > 0
    content = value.content
    if not is_same:
        if isinstance(content, np.ndarray):
            content = content.reshape([shape[axis] for axis in new_axes])
        else:
            content = graph.emit("Reshape", content, _target(graph, value, shape, new_axes))
    return Value(tuple(shape), tuple(new_axes), content)


def _arranged(value: Value, axes: Sequence[int]) -> np.ndarray:
    """Return the array of a constant with these axes, of length 1 where it is constant."""
    assert isinstance(value.content, np.ndarray)
    axes = tuple(axes)
    kept = [axis for axis in value.axes if axis in axes]
    gone = tuple(i for i, axis in enumerate(value.axes) if axis not in axes)
    order = sorted(kept, key=axes.index)
    array = value.content.squeeze(gone).transpose([kept.index(axis) for axis in order])
    return np.expand_dims(array, tuple(i for i, axis in enumerate(axes) if axis not in kept))


def _groups(before: Sequence[Any], after: Sequence[Any]) -> list[tuple[list[int], list[int]]]:
    """Return the smallest groups of consecutive axes of two shapes that have equal products.

    Axes of length 1 are matched with each other, from the right, between the groups.
    """
    sizes = [number(n) for n in before], [number(n) for n in after]
    groups: list[tuple[list[int], list[int]]] = []
    i = j = 0
    rows = [[k for k, n in enumerate(side) if n != 1] for side in sizes]
    while i < len(rows[0]) or j < len(rows[1]):
        group: tuple[list[int], list[int]] = ([], [])
        products = [1, 1]
        while not group[0] or products[0] != products[1]:
            if not group[0] or products[0] < products[1]:
                group[0].append(rows[0][i])
                products[0] *= sizes[0][rows[0][i]]
                i += 1
            else:
                group[1].append(rows[1][j])
                products[1] *= sizes[1][rows[1][j]]
                j += 1
        groups.append(group)
    units = _unit_groups(sizes, groups)
    return [*groups, *units]


def _unit_groups(
    sizes: tuple[list[int], list[int]], groups: Sequence[tuple[list[int], list[int]]]
) -> list[tuple[list[int], list[int]]]:
    """Return groups for the axes of length 1 of the first shape."""
    gaps: dict[int, tuple[list[int], list[int]]] = {}
    for side in (0, 1):
        for axis, n in enumerate(sizes[side]):
            if n == 1:
                gap = sum(group[side][-1] < axis for group in groups)
                gaps.setdefault(gap, ([], []))[side].append(axis)
    found = []
    for first, second in gaps.values():
        for back in range(1, len(first) + 1):
            found.append(([first[-back]], [second[-back]] if back <= len(second) else []))
    return found


def _with_whole_groups(graph: Graph, value: Value, groups: Sequence[list[int]]) -> Value:
    """Return a value in which the axes of each group of several axes are stored together, in order.

    A group of which no axis is stored stays so.
    """
    needed: list[list[int]] = []
    for group in groups:
        present = [axis for axis in group if axis in value.axes]
        if present:
            # A group is stored from the position of its first stored axis.
            needed.append(group if len(group) > 1 else present)
    needed.sort(key=lambda group: min(value.axes.index(a) for a in group if a in value.axes))
    order = tuple(axis for group in needed for axis in group)
    if order == value.axes:
        return value
    if value.is_constant:
        array = np.broadcast_to(_arranged(value, order), [value.shape[axis] for axis in order])
        return Value(value.shape, order, array)
    full = len(order) > len(value.axes)
    return Value(value.shape, order, stored(graph, value, order, full=full))


def _target(graph: Graph, value: Value, shape: Sequence[Any], axes: Sequence[int]) -> str:
    """Return the name of the shape for a Reshape: 0 keeps a length, and -1 is the rest."""
    lengths: list[Any] = [shape[axis] for axis in axes]
    old = value.stored_shape
    entries: list[Any] = [
        n if isinstance(n, int) else 0 if i < len(old) and number(old[i]) == number(n) else n
        for i, n in enumerate(lengths)
    ]
    symbolic = [i for i, n in enumerate(entries) if not isinstance(n, int)]
    if len(symbolic) == 1:
        entries[symbolic[0]] = -1
    elif symbolic:
        entries = lengths
    return graph.sizes(entries)
