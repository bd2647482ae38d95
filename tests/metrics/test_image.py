"""PSNR, SSIM and MS-SSIM against their formulas, other libraries and their invariances."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from skimage.metrics import structural_similarity

from deconv_jax.errors import InputError
from deconv_jax.metrics.image import (
    MS_SSIM_MIN_SIZE,
    SSIM_MIN_SIZE,
    max_ms_ssim_scales,
    mean_squared_error,
    ms_ssim,
    psnr,
    ssim,
)

torch.set_num_threads(1)  # The arrays are small; more threads would only compete with JAX.

PREDICTION, TARGET = jnp.asarray(np.random.default_rng(0).random((2, 5, 6, 7, 3), np.float32))

on_both = pytest.mark.parametrize("measure", [mean_squared_error, psnr])


def test_mean_squared_error_equals_numpy_in_double_precision():
    p, t = np.asarray(PREDICTION, np.float64), np.asarray(TARGET, np.float64)
    expected = [np.mean((p[i] - t[i]) ** 2) for i in range(len(p))]
    np.testing.assert_allclose(mean_squared_error(PREDICTION, TARGET), expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("difference", "decibels"),
    [(1.0, 0.0), (0.1, 20.0), (0.01, 40.0), (1 / 255, 48.1308)],
)
def test_psnr_of_a_constant_difference(difference, decibels):
    """-10 log10(d**2) = -20 log10 d, so one gray level of 255 has 20 log10 255 = 48.1308 dB."""
    target = jnp.zeros((1, 4, 4, 1))
    assert psnr(target + difference, target)[0] == pytest.approx(decibels, abs=1e-3)


def test_psnr_of_equal_images_is_infinite():
    assert jnp.isposinf(psnr(TARGET, TARGET)).all()


@on_both
def test_metric_is_symmetric(measure):
    np.testing.assert_array_equal(measure(PREDICTION, TARGET), measure(TARGET, PREDICTION))


@on_both
def test_metric_of_an_image_is_independent_of_the_batch(measure):
    order = jnp.array([3, 1, 4, 0, 2])
    together = measure(PREDICTION, TARGET)
    np.testing.assert_array_equal(measure(PREDICTION[order], TARGET[order]), together[order])
    alone = jnp.concatenate([measure(PREDICTION[i : i + 1], TARGET[i : i + 1]) for i in range(5)])
    np.testing.assert_allclose(alone, together, rtol=1e-6)


@on_both
def test_metric_is_invariant_to_flipping_and_inverting_both_images(measure):
    inverted = [1.0 - jnp.flip(a, (1, 2)) for a in (PREDICTION, TARGET)]
    np.testing.assert_allclose(measure(*inverted), measure(PREDICTION, TARGET), rtol=1e-5)


# Structural similarity


def scene(*shape, seed=0):
    """Return images with smooth blobs and regions of flat black and white."""
    noise = np.random.default_rng((seed, *shape)).standard_normal(shape)
    spectrum = np.fft.rfft2(noise, axes=(1, 2))
    rows, columns = np.fft.fftfreq(shape[1]), np.fft.rfftfreq(shape[2])
    low = np.exp(-200 * (rows[:, None] ** 2 + columns**2))[..., None]
    smooth = np.fft.irfft2(spectrum * low, shape[1:3], axes=(1, 2))
    return np.clip(0.5 + smooth / smooth.std() / 2, 0, 1).astype(np.float32)


def with_noise(images, sigma):
    noise = np.random.default_rng(1).standard_normal(images.shape)
    return np.clip(images + sigma * noise, 0, 1).astype(np.float32)


SCENE = scene(2, 40, 52, 3)
VERSIONS = {
    "noisy": with_noise(SCENE, 0.1),
    "almost equal": with_noise(SCENE, 0.5 / 255),
    "negative": 1 - SCENE,
    "another": SCENE[::-1].copy(),
    "flat": np.full_like(SCENE, 0.7),
    "black": np.zeros_like(SCENE),
}
jitted_ssim, jitted_ms_ssim = jax.jit(ssim), jax.jit(ms_ssim)


def skimage_ssim(a, b):
    """Return the mean of scikit-image's map over windows inside the image, in double precision."""
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    _, window_values = structural_similarity(
        a, b, data_range=1.0, channel_axis=-1, full=True, **options
    )
    return window_values[5:-5, 5:-5].mean()


@pytest.mark.parametrize("version", VERSIONS)
def test_ssim_equals_scikit_image_in_double_precision(version):
    """The accuracy is that of float32, although the variances of flat regions are tiny."""
    images = VERSIONS[version]
    expected = [skimage_ssim(a, b) for a, b in zip(images, SCENE, strict=True)]
    np.testing.assert_allclose(jitted_ssim(images, SCENE), expected, rtol=0, atol=1e-6)


def test_ssim_of_flat_images_is_the_luminance_factor():
    """Without variance only the first factor remains, (2ab + C1) / (a^2 + b^2 + C1)."""
    flat = jnp.full((1, 40, 52, 3), 0.4)
    expected = (2 * 0.4 * 0.6 + 1e-4) / (0.4**2 + 0.6**2 + 1e-4)
    assert jitted_ssim(flat, 1 - flat)[0] == pytest.approx(expected, abs=5e-6)


def test_ssim_of_equal_images_is_one():
    np.testing.assert_array_equal(jitted_ssim(SCENE, SCENE), [1, 1])


def double_similarities(a, b):
    """Compute SSIM's two factors from E[xy] - E[x]E[y] with PyTorch in double precision."""
    taps = torch.exp(-((torch.arange(11, dtype=torch.float64) - 5) ** 2) / 4.5)
    window = torch.outer(taps, taps).div(taps.sum() ** 2).expand(a.shape[1], 1, 11, 11)

    def mean(x):
        return torch.nn.functional.conv2d(x, window, groups=a.shape[1])

    covariance = {(x, y): mean(x * y) - mean(x) * mean(y) for x, y in ((a, a), (b, b), (a, b))}
    structure = (2 * covariance[a, b] + 9e-4) / (covariance[a, a] + covariance[b, b] + 9e-4)
    luminance = (2 * mean(a) * mean(b) + 1e-4) / (mean(a) ** 2 + mean(b) ** 2 + 1e-4)
    return luminance, structure


def double_ms_ssim(a, b, scales=5):
    """Evaluate the formula of the 2003 paper for each channel; negative means count as 0."""
    a, b = (torch.from_numpy(np.moveaxis(np.float64(x), -1, 1).copy()) for x in (a, b))
    factors = []
    for scale in range(scales):
        if scale:
            # The last row and column of an odd size are repeated.
            a, b = (
                torch.nn.functional.pad(x, (0, x.shape[3] % 2, 0, x.shape[2] % 2), "replicate")
                for x in (a, b)
            )
            a, b = (torch.nn.functional.avg_pool2d(x, 2) for x in (a, b))
        luminance, structure = double_similarities(a, b)
        similarity = structure if scale < scales - 1 else luminance * structure
        factors.append(similarity.mean(dim=(2, 3)).clamp(min=0))
    weights = torch.tensor([0.0448, 0.2856, 0.3001, 0.2363, 0.1333], dtype=torch.float64)
    weights = weights if scales == 5 else weights[:scales] / weights[:scales].sum()
    powers = torch.stack(factors, -1) ** weights
    return powers.prod(dim=-1).mean(dim=1).numpy()


@pytest.mark.slow
def test_ms_ssim_equals_the_formula_in_double_precision():
    """The size is odd, and the structure factor of the last pair is negative at every scale."""
    large = scene(1, 176, 189, 2)
    images = np.concatenate([with_noise(large, 0.1), with_noise(large, 0.5 / 255), 1 - large])
    targets = np.repeat(large, 3, axis=0)
    measured = jitted_ms_ssim(images, targets)
    np.testing.assert_allclose(measured, double_ms_ssim(images, targets), rtol=0, atol=1e-6)
    assert measured[2] == 0.0
    np.testing.assert_array_equal(jitted_ms_ssim(targets, targets), [1, 1, 1])


@pytest.mark.slow
@pytest.mark.parametrize("scales", [2, 3])
def test_fewer_scales_use_the_finest_ones(scales):
    """Also at the minimum size, and with a few more rows and columns."""
    least = 11 * 2 ** (scales - 1)
    for size in [(least, least), (least + 1, least + 3)]:
        images = scene(2, *size, 2)
        noisy = with_noise(images, 0.1)
        measured = jax.jit(ms_ssim, static_argnums=2)(noisy, images, scales)
        expected = double_ms_ssim(noisy, images, scales)
        np.testing.assert_allclose(measured, expected, rtol=0, atol=1e-6)


def test_ms_ssim_of_one_scale_is_ssim():
    """They agree if no channel has a negative mean."""
    measured = jax.jit(ms_ssim, static_argnums=2)(VERSIONS["noisy"], SCENE, 1)
    expected = jitted_ssim(VERSIONS["noisy"], SCENE)
    np.testing.assert_allclose(measured, expected, rtol=0, atol=1e-6)


def test_similarity_to_an_image_with_nan_is_nan():
    spoilt = jnp.asarray(SCENE).at[:, 3, 4].set(jnp.nan)
    assert jnp.isnan(jax.jit(ms_ssim, static_argnums=2)(spoilt, SCENE, 1)).all()
    assert jnp.isnan(jitted_ssim(spoilt, SCENE)).all()


def test_max_scales_leave_room_for_a_window():
    for size in range(1, 400):
        expected = sum(size >= 11 * 2**scale for scale in range(5))
        assert max_ms_ssim_scales(size, 1000) == max_ms_ssim_scales(1000, size) == expected


@pytest.mark.slow
@pytest.mark.parametrize(
    ("measure", "images"),
    [(ssim, SCENE), (ms_ssim, scene(1, 176, 176, 1))],
    ids=["ssim", "ms_ssim"],
)
def test_derivative_toward_the_target_is_positive_zero_there_and_finite(measure, images):
    """It is finite also where every scale of MS-SSIM counts as 0."""

    @jax.jit
    def slope(x, direction):
        return jax.jvp(lambda x: measure(x, jnp.asarray(images)), (x,), (direction,))[1]

    noisy = with_noise(images, 0.1)
    assert (slope(noisy, images - noisy) > 0).all()
    np.testing.assert_allclose(slope(images, images - noisy), jnp.zeros(len(images)), atol=1e-6)
    at_negative = slope(1 - images, images - noisy)
    assert (at_negative == 0).all() if measure is ms_ssim else jnp.isfinite(at_negative).all()


@pytest.mark.slow
def test_gradient_of_a_scale_with_negative_mean_is_zero():
    """It is not 0 * infinity. The backward program is compiled without optimization to save time."""
    images = jnp.asarray(scene(1, 176, 176, 1))
    gradient = jax.grad(lambda x: ms_ssim(x, images)[0])
    unoptimized = jax.jit(gradient, compiler_options={"xla_backend_optimization_level": 0})
    np.testing.assert_array_equal(unoptimized(1 - images), jnp.zeros_like(images))


def test_ssim_is_invariant_to_swapping_flipping_and_splitting_channels():
    a, b = VERSIONS["noisy"], SCENE
    expected = np.asarray(jitted_ssim(a, b))
    np.testing.assert_allclose(jitted_ssim(b, a), expected, rtol=0, atol=1e-6)
    flipped = jitted_ssim(a[::-1, ::-1, ::-1].copy(), b[::-1, ::-1, ::-1].copy())
    np.testing.assert_allclose(flipped[::-1], expected, rtol=0, atol=1e-6)
    channel_values = jitted_ssim(*(np.moveaxis(x, -1, 1).reshape(6, 40, 52, 1) for x in (a, b)))
    np.testing.assert_allclose(channel_values.reshape(2, 3).mean(1), expected, rtol=0, atol=1e-6)


# Images of several sizes in one array

SIZES = np.array([[40, 52], [17, 30], [40, 11]], np.int32)


@pytest.mark.slow
@pytest.mark.parametrize("measure", [mean_squared_error, psnr, ssim])
def test_padding_is_ignored(measure):
    measure = jax.jit(measure)
    a, b = (np.repeat(x[:1], len(SIZES), axis=0) for x in (VERSIONS["noisy"], SCENE))
    alone = []
    for i, (height, width) in enumerate(SIZES):
        alone.append(measure(*(jnp.asarray(x[i : i + 1, :height, :width]) for x in (a, b)))[0])
        a[i, height:], a[i, :, width:], b[i, height:] = np.nan, np.nan, 0.5
    together = measure(a, b, SIZES)
    np.testing.assert_allclose(together, alone, rtol=2e-5)


# Errors


@pytest.mark.parametrize(("measure", "least"), [(ssim, SSIM_MIN_SIZE), (ms_ssim, MS_SSIM_MIN_SIZE)])
def test_images_smaller_than_the_window_are_errors(measure, least):
    images = jnp.zeros((1, least + 4, least - 1, 1))
    words = f"at least {least} x {least} pixels; got {least + 4} x {least - 1}"
    with pytest.raises(InputError, match=words):
        measure(images, images)


def test_fewer_scales_have_a_smaller_minimum_size():
    images = jnp.zeros((1, 44, 43, 1))
    with pytest.raises(InputError, match="at least 44 x 44 pixels; got 44 x 43"):
        ms_ssim(images, images, scales=3)


@pytest.mark.parametrize("scales", [0, 6])
def test_scales_out_of_range_are_errors(scales):
    with pytest.raises(InputError, match=f"scales must be from 1 to 5; got {scales}"):
        ms_ssim(jnp.asarray(SCENE), jnp.asarray(SCENE), scales=scales)


@pytest.mark.usefixtures("without_type_checks")
@pytest.mark.parametrize("measure", [mean_squared_error, psnr, ssim, ms_ssim])
def test_images_that_cannot_be_compared_are_errors(measure):
    """Broadcasting, or differences that wrap around, would give a wrong value."""
    rgb, gray = jnp.zeros((2, 16, 16, 3)), jnp.zeros((2, 16, 16, 1))
    with pytest.raises(InputError, match=re.escape("(2, 16, 16, 3) and target (2, 16, 16, 1)")):
        measure(rgb, gray)
    with pytest.raises(InputError, match="requires floats in"):
        measure(gray.astype("uint8"), gray)
