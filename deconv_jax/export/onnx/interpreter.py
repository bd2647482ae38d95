"""The walk over a jaxpr that writes its ONNX graph."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal

from deconv_jax.errors import InputError
from deconv_jax.export.onnx.contractions import CONTRACTION_RULES
from deconv_jax.export.onnx.elementwise import ELEMENTWISE_RULES
from deconv_jax.export.onnx.graph import Graph
from deconv_jax.export.onnx.pooling import max_pool
from deconv_jax.export.onnx.structure import STRUCTURE_RULES
from deconv_jax.export.onnx.value import Value

Rule = Callable[..., Any]
"""Function (graph, equation, *values) -> value, or a list of values for a primitive with several results."""

_RULES: dict[str, Rule] = {**ELEMENTWISE_RULES, **STRUCTURE_RULES, **CONTRACTION_RULES}
_CALLS = frozenset(
    {"checkpoint", "closed_call", "custom_jvp_call", "custom_vjp_call", "jit", "pjit", "remat2"}
)
"""Primitives that compute another program once."""
_INNER_JAXPRS = ("jaxpr", "call_jaxpr", "fun_jaxpr")
_NOT_FOLDED = frozenset({"broadcast_in_dim", "dim_as_value", "reshape", "squeeze", "transpose"})
"""Primitives that are not evaluated for constants: most cost no node, and their result would take memory."""


def interpret(graph: Graph, closed: ClosedJaxpr, inputs: Sequence[Value]) -> list[Value]:
    """Write the nodes of a program, and return its results.

    Args:
      graph: Graph to append to.
      closed: Program.
      inputs: Its arguments.

    Raises:
      InputError: A primitive of the program has no rule.
    """
    return _walk(graph, closed.jaxpr, closed.consts, inputs)


def _walk(
    graph: Graph, jaxpr: Jaxpr, constants: Sequence[Any], inputs: Sequence[Value]
) -> list[Value]:
    known: dict[Any, Value] = dict(zip(jaxpr.constvars, map(Value.of, constants), strict=True))
    known |= dict(zip(jaxpr.invars, inputs, strict=True))

    def read(variable: Any) -> Value:
        if isinstance(variable, Literal):
            aval: Any = variable.aval
            return Value.of(np.asarray(variable.val, aval.dtype))
        return known[variable]

    used = {v for e in jaxpr.eqns for v in e.invars if not isinstance(v, Literal)}
    used |= {v for v in jaxpr.outvars if not isinstance(v, Literal)}
    for equation in jaxpr.eqns:
        values = list(map(read, equation.invars))
        pooled = None
        if used.isdisjoint(equation.outvars[1:]):
            pooled = max_pool(graph, equation, values)
        if pooled is None:
            results = _results(graph, equation, values)
        else:
            results = [pooled] * len(equation.outvars)
        known |= dict(zip(equation.outvars, results, strict=True))
    return list(map(read, jaxpr.outvars))


def _results(graph: Graph, equation: Any, values: Sequence[Value]) -> Sequence[Value]:
    for key in _INNER_JAXPRS if equation.primitive.name in _CALLS else ():
        inner = equation.params.get(key)
        if isinstance(inner, ClosedJaxpr):
            return _walk(graph, inner.jaxpr, inner.consts, values)
        if isinstance(inner, Jaxpr):
            return _walk(graph, inner, (), values)
    name = equation.primitive.name
    if name not in _NOT_FOLDED and _is_static(equation, values):
        return _fold(equation, values)
    if name not in _RULES:
        raise InputError(f"ONNX export does not support the operation {name} of this network")
    found = _RULES[name](graph, equation, *values)
    return found if isinstance(found, list) else [found]


def _is_static(equation: Any, values: Sequence[Value]) -> bool:
    shapes = [value.shape for value in values] + [v.aval.shape for v in equation.outvars]
    known = all(value.is_constant for value in values)
    return known and all(isinstance(n, int) for shape in shapes for n in shape)


def _fold(equation: Any, values: Sequence[Value]) -> list[Value]:
    """Evaluate an operation on constants."""
    with jax.ensure_compile_time_eval():
        found = equation.primitive.bind(*(v.array() for v in values), **equation.params)
    results = found if equation.primitive.multiple_results else [found]
    return [Value.of(np.asarray(result)) for result in results]
