"""The one form behind `conv`, its adjoint and their gradients, as JAX primitives.

    T(x, kernel, y) = <conv(x, kernel), y>
    dT/dy = conv(x, kernel)    dT/dx = conv_transpose(kernel, y)    dT/dkernel = kernel_gradient(x, y)

T is linear in each of its three arrays. So each of these three functions is bilinear, and the
derivatives of any one, forward or reverse, are the other two. As primitives with just these rules
they are closed under differentiation: derivatives of every order stay on the paths of
`formulations`, and none meets what automatic transposition makes of a transposed convolution, a
kernel gradient over an image spread with zeros, which is far slower on a CPU.

What a reader would get wrong: the arrays have their channels split into (groups, channels per
group), as in `formulations`. Thereby a dimension added by `vmap` always merges with a named axis:
the one which just those arrays share that have it.

Over several devices they work under `jit` with automatic mesh axes, `shard_map` and `pmap`; arrays
sharded over explicit mesh axes have to be resharded first, or JAX asks for an output sharding.
"""

import functools
from typing import Literal

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jaxtyping import Array

from deconv_jax.ops import cpu, formulations
from deconv_jax.ops.formulations import Geometry
from deconv_jax.ops.primitives import run_compiled

Role = Literal["x", "kernel", "y"]

_OPERANDS: dict[Role, tuple[Role, Role]] = {
    "y": ("x", "kernel"),
    "x": ("kernel", "y"),
    "kernel": ("x", "y"),
}
"""What T is differentiated by, to the other two: the function's operands."""

_SHARED: dict[frozenset[Role], dict[Role, int]] = {
    frozenset({"x", "y"}): {"x": 0, "y": 0},
    frozenset({"x", "kernel"}): {"x": -1, "kernel": -3},
    frozenset({"kernel", "y"}): {"kernel": -1, "y": -1},
    frozenset({"x", "kernel", "y"}): {"x": -2, "kernel": -2, "y": -2},
}
"""Where these arrays have the axis that they share: batch, inputs, outputs and groups."""


def conv(x: Array, kernel: Array, geometry: Geometry) -> Array:
    """dT/dy, which has y's shape: (batch, *output size, groups, outputs).

    Args:
      x: (batch, *input size, groups, inputs).
      kernel: (*kernel size, inputs, groups, outputs), of x's dtype.
      geometry: their sizes, stride, dilation and padding.
    """
    return _derivative("y", geometry, x=x, kernel=kernel)


def conv_transpose(kernel: Array, y: Array, geometry: Geometry) -> Array:
    """dT/dx, which has x's shape; arguments and shapes as in `conv`."""
    return _derivative("x", geometry, kernel=kernel, y=y)


def _derivative(role: Role, geometry: Geometry, **arrays: Array) -> Array:
    """dT/d(role), a function of the two `arrays` that are named by their roles."""
    operands = _equally_varying(*(arrays[operand] for operand in _OPERANDS[role]))
    return _PRIMITIVES[role].bind(*operands, geometry=geometry)


def _equally_varying(*arrays: Array) -> list[Array]:
    """Marks all as varying over the `shard_map` axes that any of them varies over.

    A kernel that all devices share meets images of their own: for its gradient to be the sum of
    the devices', the broadcast has to be said.
    """
    kinds = [getattr(jax.typeof(array), "manual_axis_type", None) for array in arrays]
    varying = [kind.varying if kind else frozenset() for kind in kinds]
    everything = frozenset().union(*varying)
    missing = [tuple(everything - own) for own in varying]
    return [
        lax.pcast(array, axes, to="varying") if axes else array
        for array, axes in zip(arrays, missing, strict=True)
    ]


def _transpose_rule(role: Role, by: Role):
    """Maps a cotangent of dT/d(role) to that of its operand `by`, which is dT/d(by)."""

    def rule(cotangent, *operands, geometry):
        (other,) = set(_OPERANDS[role]) - {by}
        kept = operands[_OPERANDS[role].index(other)]
        return _derivative(by, geometry, **{role: cotangent, other: kept})

    return rule


def _batching_rule(role: Role):
    def rule(operands, dimensions, *, geometry):
        roles = _OPERANDS[role]
        batched = {r for r, d in zip(roles, dimensions, strict=True) if d is not None}
        axes = _SHARED[frozenset({role, *batched})]
        arrays, size = dict(zip(roles, operands, strict=True)), 0
        for r, dimension in zip(roles, dimensions, strict=True):
            if r in batched:
                size = arrays[r].shape[dimension]
                arrays[r] = _merge(arrays[r], dimension, axes[r])
        result = _derivative(role, geometry, **arrays)
        axis = axes[role] % result.ndim
        shape = result.shape
        return result.reshape(*shape[:axis], size, shape[axis] // size, *shape[axis + 1 :]), axis

    return rule


def _merge(array: Array, dimension: int, axis: int) -> Array:
    """Merges a batch dimension into the axis that is the `axis`-th without it."""
    axis = axis % (array.ndim - 1)
    array = jnp.moveaxis(array, dimension, axis)
    shape = array.shape
    return array.reshape(*shape[:axis], shape[axis] * shape[axis + 1], *shape[axis + 2 :])


def _primitive(role: Role, native, on_cpu) -> Primitive:
    """The primitive of dT/d(role), computed by `on_cpu` there and by `native` elsewhere."""
    primitive = Primitive(f"convolution_d{role}")

    def abstract(*avals, geometry):
        shaped = jax.make_jaxpr(functools.partial(native, geometry=geometry))(*avals)
        return shaped.out_avals[0]

    primitive.def_abstract_eval(abstract)
    primitive.def_impl(run_compiled(primitive, ("geometry",)))
    mlir.register_lowering(primitive, mlir.lower_fun(native, multiple_results=False))
    mlir.register_lowering(
        primitive, mlir.lower_fun(on_cpu, multiple_results=False), platform="cpu"
    )
    first, second = _OPERANDS[role]
    ad.defbilinear(primitive, _transpose_rule(role, first), _transpose_rule(role, second))
    batching.primitive_batchers[primitive] = _batching_rule(role)
    return primitive


_PRIMITIVES: dict[Role, Primitive] = {
    "y": _primitive("y", formulations.native_conv, cpu.conv),
    "x": _primitive("x", formulations.native_conv_transpose, cpu.conv_transpose),
    "kernel": _primitive("kernel", formulations.native_kernel_gradient, cpu.kernel_gradient),
}
