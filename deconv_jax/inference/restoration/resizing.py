"""The size of a restored image, and resizing to it."""

import math

import jax.numpy as jnp
import numpy as np

from deconv_jax import ops
from deconv_jax.data.images import MAX_PIXELS
from deconv_jax.errors import InputError
from deconv_jax.inference.restoration.learned_restorer import Pixels


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


def resize(pixels: Pixels, size: tuple[int, int]) -> Pixels:
    """Return an image resized bicubically; the image itself if it has that size."""
    if pixels.shape[:2] == size:
        return pixels
    return np.asarray(ops.imresize(jnp.asarray(pixels), size=size))
