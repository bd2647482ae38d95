"""NIQE against a direct transcription of the authors' code, and its behavior."""

import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage, signal, special, stats
from skimage import data as photographs

from deconv_jax import ops
from deconv_jax.errors import InputError
from deconv_jax.metrics.niqe import (
    NiqeParameters,
    block_features,
    fit_generalized_gaussian,
    fit_niqe,
    load_parameters,
    niqe,
    save_parameters,
)

RNG = np.random.default_rng(0)
CAMERA = photographs.camera()[100:300, 150:355, None] / np.float32(255)
BRICK = photographs.brick()[:200, :205, None] / np.float32(255)


def fit_by_search(values):
    """`estimateaggdparam.m`."""
    shapes = np.arange(0.2, 10.0005, 0.001)
    gamma = special.gamma
    ratios = gamma(2 / shapes) ** 2 / (gamma(1 / shapes) * gamma(3 / shapes))
    left = np.sqrt(np.mean(values[values < 0] ** 2))
    right = np.sqrt(np.mean(values[values > 0] ** 2))
    ratio = left / right
    moment = np.mean(np.abs(values)) ** 2 / np.mean(values**2)
    moment *= (ratio**3 + 1) * (ratio + 1) / (ratio**2 + 1) ** 2
    shape = shapes[np.argmin((ratios - moment) ** 2)]
    scale = np.sqrt(gamma(1 / shape) / gamma(3 / shape))
    return shape, left * scale, right * scale


def features_of_block(block):
    """`computefeature.m`."""
    shape, left, right = fit_by_search(block.ravel())
    features = [shape, (left + right) / 2]
    for shift in ((0, 1), (1, 0), (1, 1), (1, -1)):
        pair = block.ravel() * np.roll(block, shift, (0, 1)).ravel()
        shape, left, right = fit_by_search(pair)
        mean = (right - left) * special.gamma(2 / shape) / special.gamma(1 / shape)
        features += [shape, mean, left, right]
    return features


def expected_features(image):
    """Features of each block, by convolution with a two-dimensional window (`computequality.m`)."""
    rows, columns = (n // 96 for n in image.shape[:2])
    levels = np.round(255 * image[: 96 * rows, : 96 * columns, 0].astype(np.float64))
    y, x = np.mgrid[-3:4, -3:4]
    window = np.exp(-(x**2 + y**2) / (2 * (7 / 6) ** 2))
    window /= window.sum()
    parts = []
    for side in (96, 48):
        padded = np.pad(levels, 3, mode="edge")
        mean = signal.convolve2d(padded, window, "valid")
        square = signal.convolve2d(padded**2, window, "valid")
        normalized = (levels - mean) / (np.sqrt(np.abs(square - mean**2)) + 1)
        parts.append(
            [
                features_of_block(normalized[r : r + side, c : c + side])
                for r in range(0, side * rows, side)
                for c in range(0, side * columns, side)
            ]
        )
        half = ops.imresize(jnp.asarray(levels[..., None] / 255, jnp.float32), 0.5)
        levels = 255 * np.asarray(half, np.float64)[..., 0]
    return np.concatenate(parts, axis=1)


def test_features_equal_those_of_the_written_definition():
    features, _ = block_features(CAMERA)
    assert features.shape == (4, 36)
    np.testing.assert_allclose(features, expected_features(CAMERA), rtol=1e-6, atol=1e-9)


def test_value_is_the_distance_of_two_gaussians():
    features = expected_features(CAMERA)
    mean, covariance = RNG.normal(size=36), np.cov(RNG.normal(size=(36, 90)))
    difference = features.mean(axis=0) - mean
    pooled = (covariance + np.cov(features.T)) / 2
    expected = np.sqrt(difference @ np.linalg.inv(pooled) @ difference)
    assert niqe(CAMERA, NiqeParameters(mean, covariance)) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("shape", [0.7, 1.0, 2.0, 4.0])
def test_fit_recovers_the_shape_and_the_scales_of_samples(shape):
    size, share = 200_000, 2 / 5  # The side of the smaller scale has the smaller probability.
    magnitude = np.abs(stats.gennorm.rvs(shape, size=size, random_state=1))
    left = np.random.default_rng(2).uniform(size=size) < share
    samples = np.where(left, -2.0, 3.0) * magnitude
    fitted = np.ravel(fit_generalized_gaussian(samples.reshape(1, 400, 500)))
    np.testing.assert_allclose(fitted, [shape, 2.0, 3.0], rtol=0.03)


def test_natural_photographs_score_better_than_distorted_ones():
    clean = niqe(CAMERA)
    noisy = niqe(CAMERA + RNG.normal(0, 0.1, CAMERA.shape).astype(np.float32))
    blurred = niqe(ndimage.gaussian_filter(CAMERA, (2, 2, 0)))
    assert clean < noisy
    assert clean < blurred


def test_gray_equals_three_equal_channels_and_the_rest_of_blocks_is_ignored():
    value = niqe(CAMERA)
    assert niqe(np.repeat(CAMERA, 3, axis=-1)) == value
    assert niqe(CAMERA[:192, :192]) == value


def test_fit_uses_the_sharp_blocks_alone(tmp_path):
    images = [CAMERA, BRICK]
    described = [block_features(image) for image in images]
    chosen = [
        f
        for fs, sharp in described
        for f, s in zip(fs, sharp, strict=True)
        if s > 0.75 * sharp.max()
    ]
    assert 2 <= len(chosen) < 8
    fitted = fit_niqe(images)
    np.testing.assert_allclose(fitted.mean, np.mean(chosen, axis=0))
    np.testing.assert_allclose(fitted.covariance, np.cov(np.transpose(chosen)))
    save_parameters(fitted, tmp_path / "own.safetensors", {"data": "two"})
    read = load_parameters(tmp_path / "own.safetensors")
    np.testing.assert_array_equal(read.covariance, fitted.covariance)
    assert niqe(CAMERA, read) == niqe(CAMERA, fitted)


def test_parameters_of_the_package_are_a_distribution():
    parameters = load_parameters()
    assert parameters.mean.shape == (36,)
    np.testing.assert_array_equal(parameters.covariance, parameters.covariance.T)
    assert np.linalg.eigvalsh(parameters.covariance).min() > 0


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.full((200, 200, 1), np.nan, np.float32), "pixels of NIQE must be finite"),
        (CAMERA[:, :, [0, 0]], "1 or 3 channels"),
        (CAMERA[:96, :191], "at least two blocks of 96 x 96 pixels; got 96 x 191 pixels"),
        (np.zeros((200, 200, 1), np.float32), "image with texture"),
    ],
)
def test_unsuitable_images_are_refused(image, message):
    with pytest.raises(InputError, match=message):
        niqe(image)
