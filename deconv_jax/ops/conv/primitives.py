"""The JAX primitives behind `conv`, its adjoint and their gradients.

All three are derivatives of one trilinear form:

    T(x, kernel, y) = <conv(x, kernel), y>
    dT/dy = conv(x, kernel)    dT/dx = conv_transpose(kernel, y)    dT/dkernel = kernel_gradient(x, y)

Each of them is bilinear, and its derivatives, forward and reverse, are the other two. So the three
primitives are closed under differentiation: derivatives of every order run as `lax` and `cpu` state.
JAX's automatic transposition would instead convolve an image dilated with zeros for the kernel
gradient of a transposed convolution, which is far slower on a CPU.

Public JAX has no rule that does the same: `jax.custom_derivatives.linear_call` has no batching rule,
and `jax.custom_vjp` has no forward mode.

Arrays have their channels split into (groups, channels per group), as in `lax`. A dimension that
`vmap` adds then always merges with one axis: the one shared by exactly the arrays that have it.

The primitives work under `jit` and `pmap`, `shard_map`, and over meshes with automatic or explicit
axes. Over explicit axes the batch may be sharded; the kernel is whole on each device.
"""

import functools
from collections.abc import Callable
from types import ModuleType
from typing import Literal

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jax.sharding import AxisType, PartitionSpec, auto_axes
from jaxtyping import Array

from deconv_jax.compilation import jit
from deconv_jax.ops.conv import cpu
from deconv_jax.ops.conv import lax as plain
from deconv_jax.ops.conv.lax import Geometry

Role = Literal["x", "kernel", "y"]

_OPERANDS: dict[Role, tuple[Role, Role]] = {
    "y": ("x", "kernel"),
    "x": ("kernel", "y"),
    "kernel": ("x", "y"),
}
"""The operands of dT/d(role): the other two arrays."""

_SHARED: dict[frozenset[Role], dict[Role, int]] = {
    frozenset({"x", "y"}): {"x": 0, "y": 0},
    frozenset({"x", "kernel"}): {"x": -1, "kernel": -3},
    frozenset({"kernel", "y"}): {"kernel": -1, "y": -1},
    frozenset({"x", "kernel", "y"}): {"x": -2, "kernel": -2, "y": -2},
}
"""The axis that these arrays share: batch, inputs, outputs or groups."""


def conv(x: Array, kernel: Array, geometry: Geometry) -> Array:
    """Return dT/dy, of y's shape: (batch, *output size, groups, outputs).

    Args:
      x: (batch, *input size, groups, inputs).
      kernel: (*kernel size, inputs, groups, outputs), of x's dtype.
      geometry: sizes, stride, dilation and padding.
    """
    return _derivative("y", geometry, x=x, kernel=kernel)


def conv_transpose(kernel: Array, y: Array, geometry: Geometry) -> Array:
    """Return dT/dx, of x's shape; arguments and shapes as in `conv`."""
    return _derivative("x", geometry, kernel=kernel, y=y)


def run_compiled(primitive: Primitive, static: tuple[str, ...]) -> Callable[..., Array]:
    """Return an implementation that runs a primitive outside of `jit`, by compiling its lowering.

    A primitive has no smaller steps. So it is compiled even where compilation is disabled, by the
    user or by JAX's search for NaNs.

    Args:
      primitive: a primitive with a lowering.
      static: names of its parameters.
    """
    compiled = jit(primitive.bind, static_argnames=static)

    def run(*operands: Array, **parameters) -> Array:
        with jax.disable_jit(False):
            return compiled(*operands, **parameters)

    return run


def _derivative(role: Role, geometry: Geometry, **arrays: Array) -> Array:
    """Return dT/d(role), a function of the two `arrays` that are named by their roles."""
    operands = _equally_varying(*(arrays[operand] for operand in _OPERANDS[role]))
    return _PRIMITIVES[role].bind(*operands, geometry=geometry)


def _equally_varying(*arrays: Array) -> list[Array]:
    """Mark all arrays as varying over the `shard_map` axes that any of them varies over.

    Each device applies the shared kernel to its own images. JAX sums the devices' kernel gradients
    only if that broadcast is explicit.
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
    """Map a cotangent of dT/d(role) to that of its operand `by`, which is dT/d(by)."""

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
        arrays = dict(zip(roles, operands, strict=True))
        for r, dimension in zip(roles, dimensions, strict=True):
            if r in batched:
                size = arrays[r].shape[dimension]
                arrays[r], length = _merge(arrays[r], dimension, axes[r])
        result = _derivative(role, geometry, **arrays)
        axis = axes[role] % result.ndim
        shape = result.shape
        return result.reshape(*shape[:axis], size, length, *shape[axis + 1 :]), axis

    return rule


def _merge(array: Array, dimension: int, axis: int) -> tuple[Array, int]:
    """Merge a batch dimension into the axis that is the `axis`-th without it.

    Returns:
      The array, and the length that this axis had.
    """
    axis = axis % (array.ndim - 1)
    array = jnp.moveaxis(array, dimension, axis)
    shape = array.shape
    merged = array.reshape(*shape[:axis], shape[axis] * shape[axis + 1], *shape[axis + 2 :])
    return merged, shape[axis + 1]


def _formulation(module: ModuleType, name: str, role: Role) -> Callable[..., Array]:
    """Return a function of a module; within it the axes of an explicit mesh are the compiler's.

    Its result is sharded along the batch as the images are; a kernel gradient is whole everywhere.
    """

    def formulation(*operands: Array, geometry: Geometry) -> Array:
        function = functools.partial(getattr(module, name), geometry=geometry)
        images = operands[_OPERANDS[role].index("y" if role == "x" else "x")]
        sharding = jax.typeof(images).sharding
        if AxisType.Explicit not in sharding.mesh.axis_types:
            return function(*operands)
        spec = PartitionSpec() if role == "kernel" else PartitionSpec(sharding.spec[0])
        return auto_axes(function, out_sharding=spec)(*operands)

    return formulation


def _primitive(role: Role, name: str) -> Primitive:
    """Return the primitive of dT/d(role), `name` in `cpu` on a CPU and in `lax` elsewhere."""
    primitive = Primitive(f"convolution_d{role}")

    def abstract(*avals, geometry):
        function = functools.partial(_formulation(plain, name, role), geometry=geometry)
        return jax.make_jaxpr(function)(*avals).out_avals[0]

    primitive.def_abstract_eval(abstract)
    primitive.def_impl(run_compiled(primitive, ("geometry",)))
    for module, platform in ((plain, None), (cpu, "cpu")):
        lowering = mlir.lower_fun(_formulation(module, name, role), multiple_results=False)
        mlir.register_lowering(primitive, lowering, platform=platform)
    first, second = _OPERANDS[role]
    ad.defbilinear(primitive, _transpose_rule(role, first), _transpose_rule(role, second))
    batching.primitive_batchers[primitive] = _batching_rule(role)
    return primitive


_PRIMITIVES: dict[Role, Primitive] = {
    "y": _primitive("y", "conv"),
    "x": _primitive("x", "conv_transpose"),
    "kernel": _primitive("kernel", "kernel_gradient"),
}
