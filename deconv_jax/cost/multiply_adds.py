"""Exact counts of the multiply-adds of a traced function, from its jaxpr.

Convolutions, transposed convolutions, their derivatives and matrix products are counted; one multiply-add is
two FLOPs. Elementwise operations, reductions, pooling, resampling and Fourier transforms are not counted.

Rule: every weight of the kernel counts once for each output pixel of a convolution, on padding zeros
too. A transposed convolution and the gradients of both count as the convolution that they are derivatives
of, so zeros that dilate an image never count. `torch.utils.flop_counter` and fvcore count in the same way. XLA's
`cost_analysis` instead skips padding zeros and adds elementwise operations.

Subfunctions are followed: loops with a known length count every iteration, and of branches the largest
counts.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr

Products = Iterator[tuple[str, int]]
"""(name stack, number of multiply-adds) of each convolution and matrix product."""

FLOPS_PER_MULTIPLY_ADD = 2


def count_multiply_adds(function: Callable[..., Any], *args: Any) -> int:
    """Return the number of multiply-adds of `function(*args)`, which is only traced.

    Args:
      function: Traceable function.
      args: Trees of arrays or of `jax.ShapeDtypeStruct`.

    Raises:
      ValueError: The function has convolutions or matrix products in a loop of unknown length.
    """
    return sum(count for _, count in products(jax.make_jaxpr(function)(*args)))


def products(jaxpr: ClosedJaxpr) -> Products:
    """Yield the name stack and the multiply-adds of each convolution and matrix product of a jaxpr.

    A name stack joins the scopes of `jax.named_scope` and the transformations with "/", such as
    "transpose(jvp(scope))/inner". One in a loop is yielded once, with the multiply-adds of all iterations.

    Raises:
      ValueError: There are some in a loop of unknown length.
    """
    yield from _walk(jaxpr.jaxpr, "", 1)


def _walk(jaxpr: Jaxpr, scope: str, times: int) -> Products:
    for equation in jaxpr.eqns:
        inner = "/".join(filter(None, (scope, str(equation.source_info.name_stack))))
        name, parameters = equation.primitive.name, equation.params
        if name in _COUNTS:
            count = times * _COUNTS[name](equation)
            if count:
                yield inner, count
            continue
        nested = list(_subfunctions(parameters))
        if name == "cond":
            branches = [list(_walk(branch, inner, times)) for branch in nested]
            yield from max(branches, key=lambda found: sum(count for _, count in found))
            continue
        length = times * parameters["length"] if name == "scan" else times
        for function in nested:
            found = list(_walk(function, inner, length))
            if name == "while" and found:
                raise ValueError(
                    "cannot count the multiply-adds of a while loop, whose number of iterations is unknown: "
                    f"{inner}"
                )
            yield from found


def _subfunctions(parameters: dict[str, Any]) -> Iterator[Jaxpr]:
    """Yield the jaxprs among the parameters of an equation."""
    for value in parameters.values():
        for entry in value if isinstance(value, tuple | list) else (value,):
            if isinstance(entry, ClosedJaxpr):
                yield entry.jaxpr
            elif isinstance(entry, Jaxpr):
                yield entry


def _of_convolution_primitive(equation: Any) -> int:
    """Count a primitive of `ops.conv.primitives`: each weight and each pixel of y, for every example."""
    geometry = equation.params["geometry"]
    arrays = dict(zip(_ROLES[equation.primitive.name], equation.invars, strict=True))
    arrays["result"] = equation.outvars[0]
    batch = next(arrays[role] for role in ("x", "y", "result") if role in arrays).aval.shape[0]
    spatial = math.prod(geometry.output_size) * math.prod(geometry.kernel_size)
    # x has the channels (groups, inputs), y (groups, outputs) and the kernel (inputs, groups, outputs).
    channels = arrays["kernel" if "kernel" in arrays else "result"].aval.shape[-3:]
    return batch * spatial * math.prod(channels)


_ROLES = {
    "convolution_dy": ("x", "kernel"),
    "convolution_dx": ("kernel", "y"),
    "convolution_dkernel": ("x", "y"),
}
"""Operands of each primitive of `ops.conv.primitives`."""


def _of_lax_convolution(equation: Any) -> int:
    """Count a `lax.conv_general_dilated`.

    Along an axis without a dilated image, every tap counts for every output pixel. Along one with a
    dilated image, as in a transposed convolution, every image pixel counts for every tap, or for every output
    pixel if those are fewer, as in a kernel gradient.
    """
    lhs, rhs = (operand.aval.shape for operand in equation.invars)
    out, places = equation.outvars[0].aval.shape, equation.params["dimension_numbers"]
    count = out[places.out_spec[0]] * out[places.out_spec[1]] * rhs[places.rhs_spec[1]]
    spatial = (places.lhs_spec[2:], places.rhs_spec[2:], places.out_spec[2:])
    dilation = equation.params["lhs_dilation"]
    for image, kernel, result, step in zip(*spatial, dilation, strict=True):
        pixels, taps, outputs = lhs[image], rhs[kernel], out[result]
        count *= outputs * taps if step == 1 else pixels * min(taps, outputs)
    return count


def _of_matrix_product(equation: Any) -> int:
    (contracted, _), _ = equation.params["dimension_numbers"]
    lhs = equation.invars[0].aval.shape
    return math.prod(equation.outvars[0].aval.shape) * math.prod(lhs[axis] for axis in contracted)


_COUNTS: dict[str, Callable[[Any], int]] = {
    **dict.fromkeys(_ROLES, _of_convolution_primitive),
    "conv_general_dilated": _of_lax_convolution,
    "dot_general": _of_matrix_product,
}
