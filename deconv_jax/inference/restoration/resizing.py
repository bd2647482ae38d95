"""The size of a restored image, and resizing to it."""

import math

import jax.numpy as jnp
import numpy as np

from deconv_jax import ops
from deconv_jax.data.images import MAX_PIXELS
from deconv_jax.errors import InputError
from deconv_jax.inference.restoration.learned_restorer import Pixels
from deconv_jax.inference.restoration.wrapping import Wrap, crop, extend

_SUPPORT = 4
"""Pixels of the larger image within which bicubic interpolation reads."""


def result_size(size: tuple[int, ...], scale: float) -> tuple[int, int]:
    """Return the height and width of an image times a scale, rounded, at least 1.

    Raises:
      InputError: The result would have more than 250 million pixels (`MAX_PIXELS`).
    """
    height, width = (max(1, math.floor(n * scale + 0.5)) for n in size)
    if height * width > MAX_PIXELS:
        raise InputError(
            f"the result would have {width} x {height} pixels; the limit is {MAX_PIXELS} in all"
        )
    return height, width


def resize(pixels: Pixels, size: tuple[int, int], wrap: Wrap = "none") -> Pixels:
    """Return an image resized bicubically; the image itself if it has that size.

    Args:
      pixels: Image to resize.
      size: Height and width of the result.
      wrap: Axes along which the image is periodic.
    """
    if pixels.shape[:2] == size:
        return pixels
    # Extensions that are whole numbers of pixels before and after, so that the pixels keep their phase.
    steps = [math.gcd(n, m) for n, m in zip(pixels.shape, size, strict=False)]
    before, after = [], []
    for n, m, step in zip(pixels.shape, size, steps, strict=False):
        units = math.ceil(_SUPPORT * max(n / m, 1) / (n // step))
        before.append(units * (n // step))
        after.append(units * (m // step))
    extended = extend(pixels, wrap, (before[0], before[1]))
    target = [
        m + 2 * extra if axis in wrap else m
        for axis, m, extra in zip("yx", size, after, strict=True)
    ]
    resized = ops.imresize(jnp.asarray(extended), size=tuple(target))
    return crop(np.asarray(resized), wrap, (after[0], after[1]))
