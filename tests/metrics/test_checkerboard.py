"""Checkerboard energy against patterns of known power."""

import jax.numpy as jnp
import numpy as np
import pytest

from deconv_jax.errors import InputError
from deconv_jax.metrics.checkerboard import checkerboard_energy

RNG = np.random.default_rng(0)


def noise(count=40, size=(96, 102)):
    return RNG.normal(size=(count, *size, 1))


@pytest.mark.slow
@pytest.mark.parametrize("stride", [2, 3, 4])
def test_white_noise_has_energy_of_about_one(stride):
    energy = np.asarray(checkerboard_energy(jnp.asarray(noise(), jnp.float32), stride))
    assert energy.mean() == pytest.approx(1, abs=0.25)


@pytest.mark.parametrize("stride", [2, 3, 4])
def test_pattern_adds_its_power_relative_to_the_noise(stride):
    """A cosine of amplitude a has power (a/2 * sum of the window)^2 in its bin, noise the sum of squares."""
    size = 96
    amplitude = 0.5
    pattern = amplitude * np.cos(2 * np.pi * np.arange(size) / stride).reshape(1, 1, size, 1)
    images = jnp.asarray(noise(size=(size, size)) + pattern, jnp.float32)
    window = np.outer(*2 * (np.hanning(size + 1)[:-1],))
    bins = 1 if stride == 2 else 2  # A cosine of period 2 has a single bin.
    peak = (amplitude * (1 if stride == 2 else 0.5) * window.sum()) ** 2
    expected = 1 + bins * peak / ((stride**2 - 1) * np.square(window).sum())
    measured = np.asarray(checkerboard_energy(images, stride)).mean()
    assert measured == pytest.approx(expected, rel=0.15)


def test_other_periods_and_offsets_have_no_effect():
    images = noise()
    ramp = np.linspace(0, 3, images.shape[2]).reshape(1, 1, -1, 1)
    seven = np.cos(2 * np.pi * np.arange(images.shape[1]) / 7).reshape(1, -1, 1, 1)
    plain, disturbed = (
        np.asarray(checkerboard_energy(jnp.asarray(x, jnp.float32), 2))
        for x in (images, images + ramp + seven + 5)
    )
    np.testing.assert_allclose(disturbed, plain, rtol=0.05)


@pytest.mark.slow
def test_channels_have_equal_weight_and_contrast_has_no_effect():
    one = jnp.asarray(noise(4), jnp.float32)
    energy = checkerboard_energy(one, 2)
    both = checkerboard_energy(jnp.concatenate([one, one[::-1]], axis=-1), 2)
    np.testing.assert_allclose(both, (energy + energy[::-1]) / 2, rtol=1e-4)
    np.testing.assert_allclose(checkerboard_energy(0.1 * one, 2), energy, rtol=1e-4)


@pytest.mark.parametrize(("stride", "size"), [(1, 96), (4, 55)])
def test_small_strides_and_images_are_errors(stride, size):
    with pytest.raises(InputError):
        checkerboard_energy(jnp.zeros((1, size, size, 1)), stride)
