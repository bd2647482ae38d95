"""Tests of functions with surrogate gradients."""

import jax
import jax.numpy as jnp
import numpy as np

from deconv_jax.ops.straight_through import lower_bound, straight_through


def test_lower_bound_passes_gradients_whose_descent_increases_x():
    x = jnp.array([-1.0, -1.0, 0.5, 2.0, 2.0])
    cotangent = jnp.array([1.0, -1.0, 1.0, 1.0, -1.0])
    value, pull_back = jax.vjp(lambda x: lower_bound(x, 0.5), x)
    np.testing.assert_array_equal(value, jnp.maximum(x, 0.5))
    np.testing.assert_array_equal(pull_back(cotangent)[0], [0.0, -1.0, 1.0, 1.0, -1.0])


def test_gradient_descent_raises_a_parameter_above_the_bound():
    def loss(x):
        return (lower_bound(x, 0.5) - 2.0) ** 2

    x = jnp.array(-3.0)
    for _ in range(200):
        x = x - 0.1 * jax.grad(loss)(x)
    np.testing.assert_allclose(x, 2.0, atol=1e-3)


def test_straight_through_returns_the_value_and_passes_the_gradient():
    x, cotangent = jnp.array([0.4, 1.6, -0.3]), jnp.array([1.0, -2.0, 3.0])
    value, pull_back = jax.vjp(lambda x: straight_through(x, jnp.round(x)), x)
    np.testing.assert_array_equal(value, jnp.round(x))
    np.testing.assert_array_equal(pull_back(cotangent)[0], cotangent)
