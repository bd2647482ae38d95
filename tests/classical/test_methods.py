"""Properties of all methods: batches, compilation and supported forward models."""

import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deconv_jax.classical import METHODS
from deconv_jax.data.degradations import (
    Blur,
    Chain,
    Downsample,
    GaussianBlur,
    GaussianNoise,
)

SIZE = (24, 20)


def smooth(x, sigma):
    return x - sigma * (x - jnp.mean(x, (1, 2), keepdims=True))


OPTIONS = {"plug_and_play": {"denoiser": smooth}, "wavelet": {"basis": "haar", "levels": 2}}
# `test_generative_prior` has these properties of "generative_prior", whose images a generator makes.
NAMES = [name for name in METHODS if name != "generative_prior"]
on_methods = pytest.mark.parametrize("name", NAMES)
ANY_MODEL = [name for name in NAMES if name not in ("inverse", "wiener", "unsupervised_wiener")]


def restore(name, y, model):
    return np.asarray(METHODS[name](y, model, **OPTIONS.get(name, {})))


def images(count, channels=1):
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]]
    planes = [
        0.5 + 0.3 * np.sin(rows / (2 + i) + c) * np.cos(columns / 3)
        for i in range(count)
        for c in range(channels)
    ]
    stacked = np.stack(planes).reshape(count, channels, *SIZE)
    return jnp.asarray(np.moveaxis(stacked, 1, -1), jnp.float32)


def psf(*size, seed=5):
    weights = np.exp(np.random.default_rng(seed).standard_normal(size))
    return (weights / np.sum(weights)).astype("float32")


def keys(count):
    return jax.vmap(lambda i: jax.random.fold_in(jax.random.key(0), i))(jnp.arange(count))


@pytest.mark.slow
@on_methods
def test_batches_equal_single_images_and_compile_once(name, caplog):
    """Each image has its own kernel and noise level, which are not compiled in."""
    x = images(2)
    kernels, sigmas = np.stack([psf(5, 4), psf(5, 4, seed=6)]), np.array([2.0, 10.0], "float32")
    together = Chain((Blur(kernels), GaussianNoise(1.0)._with(sigma=jnp.asarray(sigmas))))
    y = together.apply(x, keys(2))
    restored = restore(name, y, together)
    assert restored.shape == x.shape
    assert restored.dtype == np.float32
    models = [
        Chain((Blur(k), GaussianNoise(float(s)))) for k, s in zip(kernels, sigmas, strict=True)
    ]
    first = restore(name, y[:1], models[0])
    # Compile the slicing before compilations are logged.
    other = jax.block_until_ready(y[1:])
    with jax.log_compiles(), caplog.at_level(logging.DEBUG, "jax"):
        second = restore(name, other, models[1])
    assert [r.getMessage() for r in caplog.records if "Compiling" in r.getMessage()] == []
    np.testing.assert_allclose(first[0], restored[0], atol=2e-4)
    np.testing.assert_allclose(second[0], restored[1], atol=2e-4)


def test_log_shows_compilations(caplog):
    restore("inverse", images(1)[:, :-1], Blur(psf(3, 3)))
    with jax.log_compiles(), caplog.at_level(logging.DEBUG, "jax"):
        restore("inverse", images(1)[:, :-2], Blur(psf(3, 3)))
    assert [r for r in caplog.records if "Compiling" in r.getMessage()]


@pytest.mark.slow
@pytest.mark.parametrize("name", ANY_MODEL)
def test_downsampled_images_are_fitted_to_their_noise_and_keep_their_color(name):
    model = Chain((GaussianBlur(0.8, boundary="reflect"), Downsample(2), GaussianNoise(1.0)))
    x = images(1, channels=2)
    y = model.apply(x, keys(1))
    restored = restore(name, y, model)
    assert restored.shape == x.shape
    error = np.sqrt(np.mean(np.square(restored - np.asarray(x)), axis=(0, 1, 2)))
    assert np.all(error < 0.5 * np.std(x, axis=(0, 1, 2)))
    misfit = np.asarray(model.forward(jnp.asarray(restored))) - np.asarray(y)
    assert np.std(misfit) < 0.1 * np.std(y)
