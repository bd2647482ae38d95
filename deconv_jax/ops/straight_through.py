"""Functions with a surrogate gradient: a lower bound, and the straight-through estimator."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def lower_bound(x: Float[Array, "*shape"], bound: float) -> Float[Array, "*shape"]:
    """Return max(x, bound), with a gradient that can raise values below the bound.

    Below the bound, the gradient passes if a descent step increases x, and is zero otherwise. The
    gradient of the maximum itself would always be zero there, so that such values would never
    change (Ballé et al., arXiv:1611.01704, appendix).

    Args:
      x: Values.
      bound: Lower bound, a number; it receives no gradient.

    Example:
      >>> float(jax.grad(lambda x: lower_bound(x, 0.5))(0.1))  # a descent step would decrease x
      0.0
      >>> float(jax.grad(lambda x: -lower_bound(x, 0.5))(0.1))  # a descent step would increase x
      -1.0
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
    """Return `value` bit for bit, and pass the gradient to x unchanged (arXiv:1308.3432).

    Args:
      x: Differentiable values.
      value: Values to return, for example x rounded. They receive no gradient.
    """
    return jax.lax.stop_gradient(value) + (x - jax.lax.stop_gradient(x))
