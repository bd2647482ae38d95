"""JAX primitives whose derivatives of every order and mode are again these primitives.

Convolution. `conv`, its adjoint and its kernel gradient are the derivatives of one trilinear form:

    T(x, kernel, y) = <conv(x, kernel), y>
    dT/dy = conv(x, kernel)
    dT/dx = conv_transpose(kernel, y)
    dT/dkernel = kernel_gradient(x, y)

Each is bilinear, and its derivatives are the other two, in forward and reverse mode. So the three
primitives are closed under differentiation, and derivatives of every order run as written in
`lax.py` and `cpu.py`. JAX's automatic transposition would instead compute the kernel gradient of a
transposed convolution by convolving an image dilated with zeros, which is far slower on a CPU.

Linear maps. `apply_linear_map` differentiates a linear function by an adjoint that the caller
implements, where automatic transposition would turn a gather into a slow scatter.

This is the only module that uses JAX internals. Public JAX offers no equivalent:
`jax.custom_derivatives.linear_call` has no batching rule, and `jax.custom_vjp` has no forward mode.

Arrays of a convolution have their channels split into (groups, channels per group), as in `lax.py`.
An axis added by `vmap` can therefore always be folded into an existing axis: the batch if x and y
are batched, the input channels if x and the kernel are, the output channels if the kernel and y
are, and the groups if all three are.

The primitives work under `jit`, `pmap`, `shard_map`, and over meshes with automatic or explicit
axes. Over explicit axes the batch may be sharded, and the kernel must be replicated.
"""

import abc
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
from deconv_jax.ops.conv import lax as lax_conv
from deconv_jax.ops.conv.lax import Geometry
from deconv_jax.ops.conv.window import Size

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
"""The axis that only these arrays share: batch, inputs, outputs or groups."""


def conv(x: Array, kernel: Array, geometry: Geometry) -> Array:
    """Compute dT/dy, the convolution of x with the kernel.

    Args:
      x: Images of shape (batch, *input_size, groups, inputs).
      kernel: Weights of shape (*kernel_size, inputs, groups, outputs), of the dtype of x.
      geometry: Sizes, stride, dilation and padding.

    Returns:
      Images y of shape (batch, *output_size, groups, outputs).
    """
    return _derivative("y", geometry, x=x, kernel=kernel)


def conv_transpose(kernel: Array, y: Array, geometry: Geometry) -> Array:
    """Compute dT/dx, the adjoint of `conv` applied to y; arguments and shapes as for `conv`."""
    return _derivative("x", geometry, kernel=kernel, y=y)


class LinearMap(abc.ABC):
    """A hashable linear function of an array, with its adjoint.

    It acts on the trailing axes of its argument, which it counts from the end. All other axes are
    batch axes.
    """

    @abc.abstractmethod
    def __call__(self, x: Array) -> Array:
        """Apply the map."""

    @abc.abstractmethod
    def output_shape(self, shape: Size) -> Size:
        """Return the shape of the result for an argument of `shape`."""

    @property
    @abc.abstractmethod
    def adjoint(self) -> "LinearMap":
        """The adjoint map."""


def apply_linear_map(linear_map: LinearMap, x: Array) -> Array:
    """Compute `linear_map(x)`, with derivatives of every order and mode by `linear_map.adjoint`."""
    return _LINEAR_MAP.bind(x, linear_map=linear_map)


def _run_compiled(primitive: Primitive, static: tuple[str, ...]) -> Callable[..., Array]:
    """Return the eager implementation of a primitive, which compiles its lowering.

    A primitive has no smaller steps, so it is compiled even where compilation is disabled, by the
    user or by `jax.debug_nans`.

    Args:
      primitive: Primitive with a lowering.
      static: Names of its parameters.
    """
    compiled = jit(primitive.bind, static_argnames=static)

    def run(*operands: Array, **parameters) -> Array:
        with jax.disable_jit(False):
            return compiled(*operands, **parameters)

    return run


def _derivative(role: Role, geometry: Geometry, **arrays: Array) -> Array:
    """Compute dT/d(role) from the two other arrays, passed by their roles."""
    operands = _equally_varying(*(arrays[operand] for operand in _OPERANDS[role]))
    return _PRIMITIVES[role].bind(*operands, geometry=geometry)


def _equally_varying(*arrays: Array) -> list[Array]:
    """Mark all arrays as varying over every `shard_map` axis over which one of them varies.

    Each device applies the shared kernel to its own images. JAX sums the kernel gradients of the
    devices only if this broadcast is explicit.
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
    """Return the transpose rule of dT/d(role) with respect to its operand `by`: it is dT/d(by)."""

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
    """Merge a batch dimension into another axis.

    Args:
      array: Array with the batch dimension.
      dimension: Position of the batch dimension.
      axis: Axis to merge it into, counted without the batch dimension.

    Returns:
      The merged array, and the length of the axis before.
    """
    axis = axis % (array.ndim - 1)
    array = jnp.moveaxis(array, dimension, axis)
    shape = array.shape
    merged = array.reshape(*shape[:axis], shape[axis] * shape[axis + 1], *shape[axis + 2 :])
    return merged, shape[axis + 1]


def _formulation(module: ModuleType, name: str, role: Role) -> Callable[..., Array]:
    """Return the function `name` of a module, with explicit mesh axes turned into automatic ones.

    Its result is sharded along the batch axis like the images; a kernel gradient is replicated.
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


def _convolution_primitive(role: Role, name: str) -> Primitive:
    """Create the primitive of dT/d(role), lowered as `name` of `cpu` or of `lax_conv`."""
    primitive = Primitive(f"convolution_d{role}")

    def abstract(*avals, geometry):
        function = functools.partial(_formulation(lax_conv, name, role), geometry=geometry)
        return jax.make_jaxpr(function)(*avals).out_avals[0]

    primitive.def_abstract_eval(abstract)
    primitive.def_impl(_run_compiled(primitive, ("geometry",)))
    for module, platform in ((lax_conv, None), (cpu, "cpu")):
        lowering = mlir.lower_fun(_formulation(module, name, role), multiple_results=False)
        mlir.register_lowering(primitive, lowering, platform=platform)
    first, second = _OPERANDS[role]
    ad.defbilinear(primitive, _transpose_rule(role, first), _transpose_rule(role, second))
    batching.primitive_batchers[primitive] = _batching_rule(role)
    return primitive


_PRIMITIVES: dict[Role, Primitive] = {
    "y": _convolution_primitive("y", "conv"),
    "x": _convolution_primitive("x", "conv_transpose"),
    "kernel": _convolution_primitive("kernel", "kernel_gradient"),
}


def _linear_map_primitive() -> Primitive:
    """Create the primitive of `apply_linear_map`."""
    primitive = Primitive("linear_map")

    def abstract(x, *, linear_map):
        return x.update(shape=linear_map.output_shape(x.shape))

    def transpose(cotangent, _, *, linear_map):
        return [apply_linear_map(linear_map.adjoint, cotangent)]

    def batch(operands, dimensions, *, linear_map):
        return apply_linear_map(linear_map, jnp.moveaxis(operands[0], dimensions[0], 0)), 0

    def call(x, *, linear_map):
        return linear_map(x)

    primitive.def_abstract_eval(abstract)
    primitive.def_impl(_run_compiled(primitive, ("linear_map",)))
    mlir.register_lowering(primitive, mlir.lower_fun(call, multiple_results=False))
    ad.deflinear2(primitive, transpose)
    batching.primitive_batchers[primitive] = batch
    return primitive


_LINEAR_MAP = _linear_map_primitive()
