"""The ONNX graph under construction: nodes, constants, and sizes computed from the inputs."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from deconv_jax.export.dimensions import evaluate_dimension, fold_dimension

_PROXIES = {"batch": 10007, "height": 10037, "width": 10061}
"""Primes that stand for the variables where the structure of shapes is compared."""


def number(dimension: Any) -> int:
    """Return an int that tells the dimensions of networks' shapes apart: products and sums of the variables."""
    return dimension if isinstance(dimension, int) else evaluate_dimension(dimension, _PROXIES)


def tensor_type(dtype: Any) -> int:
    """Return ONNX's number of a dtype."""
    import onnx

    return onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))


class Graph:
    """Nodes in topological order. Equal nodes and equal constants are shared.

    Attributes:
      nodes: Operator, inputs, outputs and attributes of each node.
      constants: Arrays by name.
    """

    def __init__(self, variables: Mapping[str, tuple[str, int, int]]):
        """Create an empty graph.

        Args:
          variables: For each variable size, the input and its axis whose length is a multiple of it, and the
            factor.
        """
        self.nodes: list[tuple[str, list[str], list[str], dict[str, Any]]] = []
        self.constants: dict[str, np.ndarray] = {}
        self._variables = variables
        self._known: dict[Any, str] = {}
        self._numbers = itertools.count()

    def emit(self, operator: str, *inputs: str, **attributes: Any) -> str:
        """Append a node with one output, unless there is an equal one, and return the output's name."""
        key = (operator, inputs, repr(sorted(attributes.items())))
        if key not in self._known:
            name = self._known[key] = f"{operator.lower()}_{next(self._numbers)}"
            self.nodes.append((operator, list(inputs), [name], attributes))
        return self._known[key]

    def cast(self, name: str, dtype: Any) -> str:
        """Append the conversion of an array to another dtype, and return the output's name."""
        return self.emit("Cast", name, to=tensor_type(dtype))

    def constant(self, array: np.ndarray) -> str:
        """Return the name of a constant."""
        array = np.asarray(array)
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._known:
            self._known[key] = f"constant_{next(self._numbers)}"
        # A simplification may have removed the constant.
        self.constants.setdefault(self._known[key], np.array(array, order="C"))
        return self._known[key]

    def integers(self, values: Sequence[int]) -> str:
        """Return the name of a constant vector of integers."""
        return self.constant(np.array(values, np.int64))

    def size(self, dimension: Any) -> str:
        """Return the name of a vector with one integer, the value of a dimension."""

        def leaf(value: int | str) -> str:
            if isinstance(value, int):
                return self.integers([value])
            name, axis, factor = self._variables[value]
            length = self.emit("Gather", self.emit("Shape", name), self.integers([axis]), axis=0)
            return length if factor == 1 else self.emit("Div", length, self.integers([factor]))

        def combine(operator: str, left: str, right: str) -> str:
            if operator == "Div":
                # ONNX divides toward zero and Python toward minus infinity.
                left = self.emit("Sub", left, self.emit("Mod", left, right))
            return self.emit(operator, left, right)

        return fold_dimension(dimension, leaf, combine)

    def scalar_size(self, dimension: Any) -> str:
        """Return the name of an integer without axes, the value of a dimension."""
        return self.emit("Squeeze", self.size(dimension), self.integers([0]))

    def sizes(self, dimensions: Sequence[Any]) -> str:
        """Return the name of a vector of integers, the values of dimensions."""
        if all(isinstance(n, int) for n in dimensions):
            return self.integers(dimensions)
        if len(dimensions) == 1:
            return self.size(dimensions[0])
        return self.emit("Concat", *map(self.size, dimensions), axis=0)
