"""Symbolic dimensions of `jax.export` as numbers, and as ONNX nodes that compute them."""

import ast
import operator
from collections.abc import Callable, Mapping
from typing import Any

_OPERATORS: Mapping[type, str] = {
    ast.Add: "Add",
    ast.Sub: "Sub",
    ast.Mult: "Mul",
    ast.Pow: "Pow",
}
_FUNCTIONS = {"floordiv": "Div", "mod": "Mod", "max": "Max", "min": "Min"}

_PYTHON: Mapping[str, Callable[[int, int], int]] = {
    "Add": operator.add,
    "Sub": operator.sub,
    "Mul": operator.mul,
    "Pow": operator.pow,
    "Div": operator.floordiv,
    "Mod": operator.mod,
    "Max": max,
    "Min": min,
}


def fold_dimension(
    dimension: Any, leaf: Callable[[int | str], Any], combine: Callable[[str, Any, Any], Any]
) -> Any:
    """Evaluate a dimension from its text, such as "2*height + 1" or "floordiv(height, 2)".

    Args:
      dimension: An int or a symbolic dimension.
      leaf: Function of a number or the name of a variable.
      combine: Function of the name of an ONNX operator and the values of its two operands.
    """

    def visit(node: ast.expr) -> Any:
        match node:
            case ast.Constant(value=int(value)):
                return leaf(value)
            case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int(value))):
                return leaf(-value)
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return combine("Mul", leaf(-1), visit(operand))
            case ast.Name(id=name):
                return leaf(name)
            case ast.BinOp(left=left, op=op, right=right):
                return combine(_OPERATORS[type(op)], visit(left), visit(right))
            case ast.Call(func=ast.Name(id=name), args=[left, right]):
                return combine(_FUNCTIONS[name], visit(left), visit(right))
        raise ValueError(f"unknown expression of a dimension: {ast.unparse(node)}")

    return visit(ast.parse(str(dimension).replace("^", "**"), mode="eval").body)


def evaluate_dimension(dimension: Any, variables: Mapping[str, int]) -> int:
    """Return the number that a dimension is for these values of its variables."""
    return fold_dimension(
        dimension,
        lambda value: variables[value] if isinstance(value, str) else value,
        lambda name, left, right: _PYTHON[name](left, right),
    )
