"""ONNX nodes of elementwise primitives."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from jax import lax

from deconv_jax.errors import InputError
from deconv_jax.export.onnx.graph import Graph
from deconv_jax.export.onnx.value import Value, common_axes, stored

_SAME = {
    "abs": "Abs",
    "add": "Add",
    "add_any": "Add",
    "and": "And",
    "ceil": "Ceil",
    "cos": "Cos",
    "div": "Div",
    "eq": "Equal",
    "erf": "Erf",
    "exp": "Exp",
    "floor": "Floor",
    "ge": "GreaterOrEqual",
    "gt": "Greater",
    "le": "LessOrEqual",
    "log": "Log",
    "logistic": "Sigmoid",
    "lt": "Less",
    "max": "Max",
    "min": "Min",
    "mul": "Mul",
    "neg": "Neg",
    "not": "Not",
    "or": "Or",
    "pow": "Pow",
    "sign": "Sign",
    "sin": "Sin",
    "sqrt": "Sqrt",
    "sub": "Sub",
    "tanh": "Tanh",
}
"""Operators of ONNX with the meaning of a primitive."""

_FORMULAS: Mapping[str, Callable[[Graph, str, str], str]] = {
    "erfc": lambda g, x, one: g.emit("Sub", one, g.emit("Erf", x)),
    "expm1": lambda g, x, one: g.emit("Sub", g.emit("Exp", x), one),
    "log1p": lambda g, x, one: g.emit("Log", g.emit("Add", x, one)),
    "rsqrt": lambda g, x, _: g.emit("Reciprocal", g.emit("Sqrt", x)),
    "square": lambda g, x, _: g.emit("Mul", x, x),
}
"""Functions of the name of a float array and of the number 1."""


def apply_elementwise(graph: Graph, equation: Any, operator: str, *values: Value) -> Value:
    """Write one node of an elementwise operator, with the values in a common storage."""
    shape = equation.outvars[0].aval.shape
    axes = common_axes(values)
    names = [stored(graph, value, axes if value.axes else ()) for value in values]
    content = graph.emit(operator, *names)
    return Value(shape, axes, content, (equation.primitive.name, equation.params, values))


def _named(operator: str) -> Callable[..., Value]:
    def rule(graph: Graph, equation: Any, *values: Value) -> Value:
        if equation.primitive.name in ("and", "or", "not"):
            _require_bool(equation)
        if operator == "Max" and any(_is_scalar(value, 0.0) for value in values):
            (x,) = [value for value in values if not _is_scalar(value, 0.0)]
            return apply_elementwise(graph, equation, "Relu", x)
        return apply_elementwise(graph, equation, operator, *values)

    return rule


def _round(graph: Graph, equation: Any, x: Value) -> Value:
    if equation.params["rounding_method"] != lax.RoundingMethod.TO_NEAREST_EVEN:
        raise InputError("ONNX export supports rounding of halves to even only, as by jnp.round")
    return Value(
        equation.outvars[0].aval.shape, x.axes, graph.emit("Round", stored(graph, x, x.axes))
    )


def _formula(name: str) -> Callable[..., Value]:
    def rule(graph: Graph, equation: Any, x: Value) -> Value:
        one = graph.constant(np.ones((), equation.outvars[0].aval.dtype))
        content = _FORMULAS[name](graph, stored(graph, x, x.axes), one)
        return Value(equation.outvars[0].aval.shape, x.axes, content)

    return rule


def _not_equal(graph: Graph, equation: Any, x: Value, y: Value) -> Value:
    equal = apply_elementwise(graph, equation, "Equal", x, y)
    return apply_elementwise(graph, equation, "Not", equal)


def _integer_pow(graph: Graph, equation: Any, x: Value) -> Value:
    exponent = equation.params["y"]
    if exponent == 2:
        return apply_elementwise(graph, equation, "Mul", x, x)
    power = Value.of(np.array(exponent, equation.outvars[0].aval.dtype))
    return apply_elementwise(graph, equation, "Pow", x, power)


def _clamp(graph: Graph, equation: Any, low: Value, x: Value, high: Value) -> Value:
    raised = apply_elementwise(graph, equation, "Max", x, low)
    return apply_elementwise(graph, equation, "Min", raised, high)


def _convert(graph: Graph, equation: Any, x: Value) -> Value:
    old, new = equation.invars[0].aval.dtype, equation.params["new_dtype"]
    if old == new:
        return x
    return Value(x.shape, x.axes, graph.cast(stored(graph, x, x.axes), new))


def _select(graph: Graph, equation: Any, which: Value, *cases: Value) -> Value:
    """Write a Where, or a PRelu or LeakyRelu for `where(x < 0, slope * x, x)`."""
    _require_bool(equation)
    slope = _slope(which, *cases)
    if slope is not None:
        x = which.source[2][0]  # type: ignore[index]
        name = stored(graph, x, x.axes)
        if slope.axes:
            content = graph.emit("PRelu", name, stored(graph, slope, x.axes))
        else:
            content = graph.emit("LeakyRelu", name, alpha=float(slope.array()))
        return Value(equation.outvars[0].aval.shape, x.axes, content)
    no, yes = cases
    return apply_elementwise(graph, equation, "Where", which, yes, no)


def _slope(which: Value, no: Value, yes: Value) -> Value | None:
    """Return the constant slope for negative numbers, if a selection is a leaky ReLU."""
    if which.source is None or len(which.source[2]) != 2 or not _is_scalar(which.source[2][1], 0.0):
        return None
    comparison, x = which.source[0], which.source[2][0]
    if comparison not in ("lt", "le", "ge", "gt"):
        return None
    negative, other = (yes, no) if comparison in ("lt", "le") else (no, yes)
    if other is not x or negative.source is None or negative.source[0] != "mul":
        return None
    factors = [value for value in negative.source[2] if value is not x]
    fits = len(factors) == 1 and factors[0].is_constant and set(factors[0].axes) <= set(x.axes)
    return factors[0] if fits else None


def _same(_: Graph, __: Any, *values: Value) -> Any:
    return list(values) if len(values) > 1 else values[0]


def _is_scalar(value: Value, expected: float) -> bool:
    content = value.content
    return isinstance(content, np.ndarray) and content.size == 1 and content.item() == expected


def _require_bool(equation: Any) -> None:
    dtype = equation.invars[0].aval.dtype
    if dtype != "bool":
        raise InputError(f"ONNX export does not support {equation.primitive.name} of {dtype}")


ELEMENTWISE_RULES: dict[str, Callable[..., Any]] = {
    **{name: _named(operator) for name, operator in _SAME.items()},
    **{name: _formula(name) for name in _FORMULAS},
    "round": _round,
    "clamp": _clamp,
    "convert_element_type": _convert,
    "copy": _same,
    "copy_p": _same,
    "integer_pow": _integer_pow,
    "ne": _not_equal,
    "optimization_barrier": _same,
    "reduce_precision": _same,
    "select_n": _select,
    "stop_gradient": _same,
}
"""Rules by the name of the primitive."""
