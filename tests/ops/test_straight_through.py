"""Surrogate gradients: a maximum whose gradient leads back above it."""

import jax
import jax.numpy as jnp
import numpy as np

from deconv_jax.ops.straight_through import lower_bound


def test_values_are_the_maximum_and_gradients_pass_where_they_lead_upwards():
    x = jnp.array([-1.0, -1.0, 0.5, 2.0, 2.0])
    cotangent = jnp.array([1.0, -1.0, 1.0, 1.0, -1.0])
    value, pull_back = jax.vjp(lambda x: lower_bound(x, 0.5), x)
    np.testing.assert_array_equal(value, jnp.maximum(x, 0.5))
    np.testing.assert_array_equal(pull_back(cotangent)[0], [0.0, -1.0, 1.0, 1.0, -1.0])


def test_a_parameter_below_the_bound_comes_back_by_descent():
    def loss(x):
        return (lower_bound(x, 0.5) - 2.0) ** 2

    x = jnp.array(-3.0)
    for _ in range(200):
        x = x - 0.1 * jax.grad(loss)(x)
    np.testing.assert_allclose(x, 2.0, atol=1e-3)
