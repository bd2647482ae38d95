"""Functions whose gradients are not their derivatives: a bound that can be left again, and rounding."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def lower_bound(x: Float[Array, "*shape"], bound: float) -> Float[Array, "*shape"]:
    """max(x, bound), with a gradient also below the bound where descending it leads upwards.

    The gradient of the maximum itself is zero there, and what is once below would stay
    (Balle et al., arXiv:1611.01704, appendix).
    """
    return jnp.maximum(x, bound)


def _forward(x: Any, bound: float) -> tuple[Array, Any]:
    return jnp.maximum(x, bound), x


def _backward(bound: float, x: Any, cotangent: Array) -> tuple[Array]:
    return (jnp.where((x >= bound) | (cotangent < 0), cotangent, 0.0),)


lower_bound.defvjp(_forward, _backward)


def straight_through(
    x: Float[Array, "*shape"], value: Float[Array, "*shape"]
) -> Float[Array, "*shape"]:
    """`value` to the bit, with the gradient of the result for that of `x` (Bengio et al., arXiv:1308.3432)."""
    return jax.lax.stop_gradient(value) + (x - jax.lax.stop_gradient(x))
