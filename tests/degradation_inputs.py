"""Inputs of the tests of degradations. All are different for every shape and without symmetry."""

import jax
import jax.numpy as jnp
import numpy as np

KEY = jax.random.key(0)


def draw(*shape):
    """Draw standard normal float64 numbers."""
    return np.random.default_rng(shape).standard_normal(shape)


def images(*shape):
    """Draw float32 images in [0, 1]."""
    return jnp.asarray(np.random.default_rng(shape).random(shape), jnp.float32)


def keys(count):
    """Return `count` keys."""
    return jax.random.split(KEY, count)


def psf(*shape):
    """Draw positive numbers that sum to 1."""
    weights = np.exp(draw(*shape))
    return weights / weights.sum()
