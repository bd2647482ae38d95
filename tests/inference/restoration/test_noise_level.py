"""Noise levels estimated from single images."""

import numpy as np
import pytest
from PIL import Image

from deconv_jax.data.images import read_image
from deconv_jax.inference.restoration import noise_level
from deconv_jax.inference.restoration.jpeg_noise_level import LUMA_NOISE, _quantized_energy
from deconv_jax.inference.restoration.noise_level import estimate_noise_sigma


def noisy(sigma, shape=(128, 160, 3), seed=0):
    """Return a smooth scene with Gaussian noise, in [0, 1]."""
    rows, columns = np.mgrid[: shape[0], : shape[1]] / 32.0
    scene = 0.5 + 0.2 * np.sin(rows + columns)[..., None]
    noise = np.random.default_rng(seed).normal(0.0, sigma / 255.0, shape)
    return (scene + noise).astype(np.float32)


@pytest.mark.parametrize("sigma", [1.0, 5.0, 25.0, 75.0])
def test_the_estimate_is_the_standard_deviation_of_gaussian_noise(sigma):
    assert estimate_noise_sigma(noisy(sigma)) == pytest.approx(sigma, rel=0.04)


def test_texture_and_clipping_hardly_change_the_estimate():
    image = noisy(20.0, (256, 256, 1))
    image[:, 128:] += noisy(60.0, (256, 128, 1), seed=1) - 0.5
    image[:64] -= 0.6
    assert estimate_noise_sigma(image.clip(0.0, 1.0)) == pytest.approx(20.0, rel=0.07)


def test_the_estimate_is_the_mean_over_channels_or_that_of_the_luma():
    channels = [noisy(sigma, (128, 128, 1), seed) for seed, sigma in enumerate((5.0, 5.0, 40.0))]
    estimated = estimate_noise_sigma(np.concatenate(channels, axis=-1))
    assert estimated == pytest.approx(50.0 / 3.0, rel=0.1)
    # Equal noise in all channels has a stronger luma than independent noise.
    equal = noisy(10.0, (128, 128, 1)).repeat(3, axis=-1)
    assert estimate_noise_sigma(equal) == pytest.approx(10.0 / LUMA_NOISE, rel=0.05)


@pytest.mark.parametrize("quality", [95, 80, 60])
@pytest.mark.parametrize("channels", [1, 3])
def test_the_level_before_jpeg_is_estimated(tmp_path, quality, channels):
    samples = np.rint(255 * noisy(10.0, (256, 256, channels)).clip(0, 1)).astype(np.uint8)
    Image.fromarray(samples.squeeze()).save(tmp_path / "a.jpg", quality=quality)
    image = read_image(tmp_path / "a.jpg")
    assert estimate_noise_sigma(image.pixels, image.jpeg_table) == pytest.approx(10.0, rel=0.1)
    if quality == 60:
        assert estimate_noise_sigma(image.pixels) < 5.0
    assert estimate_noise_sigma(image.pixels[:6], image.jpeg_table) >= 0.0


def test_quantized_energy_is_that_of_rounded_normal_numbers():
    levels, steps = np.array([1.0, 3.0, 40.0]), np.array([1.0, 8.0])
    numbers = np.random.default_rng(0).normal(size=200_000)[:, None, None] * levels[:, None]
    rounded = steps * np.rint(numbers / steps)
    expected = np.square(rounded).mean(axis=0)
    np.testing.assert_allclose(_quantized_energy(levels, steps), expected, rtol=0.03, atol=0.03)


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (3, 50), (50, 3)])
def test_tiny_and_constant_images_have_no_noise(rows, columns):
    assert estimate_noise_sigma(noisy(25.0, (rows, columns, 3))) == 0.0
    assert estimate_noise_sigma(np.full((16, 16, 1), 0.3, np.float32)) == 0.0
    ramp = np.linspace(0.1, 0.9, 64, dtype=np.float32)[:, None, None]
    assert estimate_noise_sigma(ramp.repeat(64, axis=1)) == 0.0


def test_drawings_have_no_noise():
    rows, columns = np.mgrid[:200, :200] // 20
    drawing = ((rows + columns) % 2).astype(np.float32)[..., None]
    assert estimate_noise_sigma(drawing) == 0.0
    assert estimate_noise_sigma(0.2 + 0.6 * np.float32(rows == 5)[..., None]) == 0.0


def test_large_images_use_some_of_their_rows(monkeypatch):
    image = noisy(10.0, (258, 256, 1))
    monkeypatch.setattr(noise_level, "MAX_BLOCKS", 64)
    changed = image.copy()
    changed[20:60] = noisy(50.0, (40, 256, 1))
    assert estimate_noise_sigma(image) == pytest.approx(10.0, rel=0.07)
    assert estimate_noise_sigma(changed) == estimate_noise_sigma(image)
