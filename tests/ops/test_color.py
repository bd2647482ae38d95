"""Tests of color conversion against scikit-image, Pillow and exact fractions."""

from fractions import Fraction

import jax.numpy as jnp
import numpy as np
import pytest
import skimage.color
from PIL import Image

from deconv_jax.ops.color import (
    gray_to_y,
    rgb_to_gray_uint8,
    rgb_to_y,
    rgb_to_y_uint8,
    rgb_to_ycbcr,
    y_to_gray,
    ycbcr_to_rgb,
)

PIXELS = np.random.default_rng(0).integers(0, 256, (2, 40, 50, 3), np.uint8)
CORNERS = np.stack(np.meshgrid(*[np.array([0, 255], np.uint8)] * 3, indexing="ij"), -1)
IMAGES = jnp.asarray(PIXELS / 255, jnp.float32)


def test_ycbcr_equals_scikit_image():
    expected = skimage.color.rgb2ycbcr(PIXELS / 255) / 255
    np.testing.assert_allclose(rgb_to_ycbcr(IMAGES), expected, rtol=0, atol=3e-7)
    np.testing.assert_allclose(rgb_to_y(IMAGES), expected[..., :1], rtol=0, atol=3e-7)


def test_corners_of_the_color_cube_span_the_studio_range():
    ycbcr = 255 * np.asarray(rgb_to_ycbcr(jnp.asarray(CORNERS / 255, jnp.float32))).reshape(-1, 3)
    np.testing.assert_allclose(ycbcr.min(axis=0), [16, 16, 16], atol=1e-4)
    np.testing.assert_allclose(ycbcr.max(axis=0), [235, 240, 240], atol=1e-4)


def test_ycbcr_to_rgb_inverts_rgb_to_ycbcr():
    np.testing.assert_allclose(ycbcr_to_rgb(rgb_to_ycbcr(IMAGES)), IMAGES, rtol=0, atol=1e-6)


def test_gray_has_no_chroma_and_keeps_its_luma():
    levels = jnp.linspace(0, 1, 7).reshape(7, 1)
    gray = jnp.concatenate([levels] * 3, axis=1)
    np.testing.assert_allclose(rgb_to_ycbcr(gray)[:, 1:], 128 / 255, atol=1e-6)
    np.testing.assert_allclose(rgb_to_y(gray), gray_to_y(levels), atol=1e-6)
    np.testing.assert_allclose(y_to_gray(gray_to_y(levels)), levels, atol=1e-6)


def rounded(value):
    """Round a fraction, halves up."""
    return int(value + Fraction(1, 2))


def exact_y(red, green, blue):
    """Return Y by MATLAB's formula, rounded only at the end."""
    return rounded(Fraction(65481 * red + 128553 * green + 24966 * blue, 255_000) + 16)


def exact_gray(red, green, blue):
    return rounded(Fraction(299 * red + 587 * green + 114 * blue, 1000))


TIES = np.array([[0, 204, 68], [1, 173, 225], [255, 51, 187], [0, 4, 168], [3, 1, 44]], np.uint8)
"""Colors whose Y (the first three) or luma (the others) lies half-way between two levels."""


@pytest.mark.parametrize(
    ("convert", "exact"), [(rgb_to_y_uint8, exact_y), (rgb_to_gray_uint8, exact_gray)]
)
def test_8_bit_luma_equals_the_rounded_formula_for_numpy_and_jax_arrays(convert, exact):
    colors = np.concatenate([PIXELS.reshape(-1, 3)[:500], CORNERS.reshape(-1, 3), TIES])
    expected = np.array([[exact(*map(int, color))] for color in colors])
    luma = convert(colors)
    assert isinstance(luma, np.ndarray)
    assert luma.dtype == np.uint8
    np.testing.assert_array_equal(luma, expected)
    np.testing.assert_array_equal(convert(jnp.asarray(colors)), expected)


def test_8_bit_luma_of_gray_is_the_gray_level():
    levels = np.arange(256, dtype=np.uint8).reshape(-1, 1)
    gray = np.repeat(levels, 3, axis=1)
    np.testing.assert_array_equal(rgb_to_y_uint8(gray), np.floor(16 + levels * (219 / 255) + 0.5))
    np.testing.assert_array_equal(rgb_to_gray_uint8(gray), levels)


def test_8_bit_gray_differs_from_pillow_by_at_most_one_level():
    """Pillow's weights have 16 bits, so the two may round differently near a half."""
    pillow = np.stack([np.asarray(Image.fromarray(image).convert("L")) for image in PIXELS])
    difference = np.abs(rgb_to_gray_uint8(PIXELS)[..., 0].astype(int) - pillow)
    assert difference.max() <= 1
    assert difference.mean() < 2e-3
