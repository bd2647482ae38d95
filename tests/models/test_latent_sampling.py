"""Latents: distribution, truncation, and interpolation on great circles."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deconv_jax.errors import InputError
from deconv_jax.models.latent_sampling import draw_latents, interpolate_latents

KEY = jax.random.key(0)
LATENT = 5


def normal(*shape, seed=1):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape, np.float32))


path_between = jax.jit(interpolate_latents, static_argnums=2)


@pytest.mark.parametrize("truncation", [None, 0.7])
def test_latents_depend_only_on_their_keys(truncation):
    keys = jax.random.split(KEY, 5)
    latents = draw_latents(keys, LATENT, truncation)
    assert latents.shape == (5, LATENT)
    order = np.array([3, 1, 4])
    np.testing.assert_array_equal(draw_latents(keys[order], LATENT, truncation), latents[order])
    assert len(np.unique(latents)) == latents.size


def test_latents_are_standard_normal():
    """For 16,000 samples the mean has standard error 0.008 and the variance 0.011."""
    latents = np.asarray(draw_latents(jax.random.split(KEY, 1000), 16))
    assert abs(latents.mean()) < 5 * 0.008
    assert abs(latents.var() - 1) < 5 * 0.011
    assert np.abs(latents).max() > 3


@pytest.mark.parametrize("truncation", [0.5, 2.0])
def test_truncated_latents_reach_but_do_not_exceed_the_bound(truncation):
    latents = np.asarray(draw_latents(jax.random.split(KEY, 500), 16, truncation))
    assert 0.99 * truncation < np.abs(latents).max() <= truncation


@pytest.mark.parametrize("truncation", [0.0, -1.0, float("nan")])
def test_truncation_must_be_positive(truncation):
    keys = jax.random.split(KEY, 1)
    with pytest.raises(InputError, match="truncation must be positive"):
        draw_latents(keys, 2, truncation)


def test_path_between_unit_vectors_has_equal_angles():
    start, end = (np.asarray(normal(8, seed=seed)) for seed in (1, 2))
    start, end = (v / np.linalg.norm(v) for v in (start, end))
    path = np.asarray(path_between(start, end, 6), np.float64)
    whole = np.concatenate([path, np.asarray(end)[None]])
    np.testing.assert_allclose(path[0], start, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(path, axis=1), 1.0, atol=1e-6)
    angles = np.arccos(np.sum(whole[1:] * whole[:-1], axis=1))
    expected = np.arccos(np.dot(np.asarray(start, np.float64), np.asarray(end, np.float64))) / 6
    np.testing.assert_allclose(angles, expected, atol=1e-4)


def test_consecutive_paths_do_not_repeat_their_ends():
    """A path ends one step before its end, so that a closed path repeats no image."""
    start, end = normal(8, seed=1), 1.5 * normal(8, seed=2)
    coarse, fine = (path_between(start, end, steps) for steps in (2, 4))
    np.testing.assert_allclose(fine[::2], coarse, atol=1e-6)
    back = path_between(end, start, 4)
    np.testing.assert_allclose(back[1:][::-1], fine[1:], atol=1e-5)
    np.testing.assert_allclose(back[0], end, atol=1e-6)


@pytest.mark.parametrize("factor", [1.0, 1.5, 1.0 + 1e-6])
def test_path_between_parallel_vectors_is_straight(factor):
    start = normal(8)
    path = path_between(start, factor * start, 5)
    expected = start[None] * (1 + (factor - 1) * jnp.arange(5)[:, None] / 5)
    np.testing.assert_allclose(path, expected, rtol=1e-5)


@pytest.mark.parametrize("noise", [0.0, 1e-7, 1e-6, 1e-4])
def test_path_between_opposite_vectors_keeps_their_length(noise):
    rng = np.random.default_rng(0)
    for dims in (2, 3, 16, 128):
        start = rng.normal(size=dims).astype(np.float32)
        end = -start + (noise * rng.normal(size=dims)).astype(np.float32)
        path = np.asarray(path_between(start, end, 5))
        lengths = np.linalg.norm(path, axis=1)
        np.testing.assert_allclose(lengths, np.linalg.norm(start), rtol=1e-3)
        turns = np.sum(path[1:] * path[:-1], axis=1) / (lengths[1:] * lengths[:-1])
        np.testing.assert_allclose(turns, np.cos(np.pi / 5), atol=1e-3)
