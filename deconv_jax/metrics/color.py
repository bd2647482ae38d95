"""RGB to YCbCr and to gray by the weights of ITU-R BT.601, as restoration papers measure it.

YCbCr is in studio range, that of MATLAB's `rgb2ycbcr`: of 256 levels Y uses 16 to 235, Cb and Cr 16
to 240. This is not the luma of JPEG or of Pillow's modes "L" and "YCbCr", which use all 256 and
are what `to_gray` gives: errors in studio range are 219/255 of those, so a PSNR is 1.32 dB higher.
RGB is as stored, with its gamma.
"""

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, UInt8

from deconv_jax.errors import InputError

_STUDIO = np.array(
    [[65.481, 128.553, 24.966], [-37.797, -74.203, 112.0], [112.0, -93.786, -18.214]]
)
"""Levels of Y, Cb and Cr that the whole range of red, green and blue contributes."""

_OFFSETS = np.array([16.0, 128.0, 128.0])
_GRAY = np.array([[0.299, 0.587, 0.114]])


def rgb_to_ycbcr(images: Float[Array, "*batch 3"]) -> Float[Array, "*batch 3"]:
    """Y in [16/255, 235/255] and Cb, Cr in [16/255, 240/255] of RGB in [0, 1], not rounded.

    It is MATLAB's `rgb2ycbcr` of floats, and `skimage.color.rgb2ycbcr` divided by 255.
    """
    return _mix(images, _STUDIO / 255) + _offsets(images)


def ycbcr_to_rgb(images: Float[Array, "*batch 3"]) -> Float[Array, "*batch 3"]:
    """The inverse of `rgb_to_ycbcr`, not clipped: some YCbCr are no RGB in [0, 1]."""
    return _mix(images - _offsets(images), np.linalg.inv(_STUDIO / 255))


def rgb_to_y(images: Float[Array, "*batch 3"]) -> Float[Array, "*batch 1"]:
    """The channel Y of `rgb_to_ycbcr`, in [16/255, 235/255], not rounded."""
    return _mix(images, _STUDIO[:1] / 255) + 16 / 255


def rgb_to_y_uint8(
    images: UInt8[Array, "*batch 3"] | UInt8[np.ndarray, "*batch 3"],
) -> UInt8[Array, "*batch 1"] | UInt8[np.ndarray, "*batch 1"]:
    """Y of 8-bit RGB, rounded to 8 bits as MATLAB's `rgb2ycbcr` does: 16 to 235, halves upwards.

    Integers throughout, so the levels are exact: those of NumPy arrays and of JAX's are the same.
    """
    red, green, blue = (images[..., c : c + 1].astype("int32") for c in range(3))
    # The sum is of thousandths of a level, times 255; twice that fits in 27 bits.
    y = (2 * (65481 * red + 128553 * green + 24966 * blue) + 255000) // 510000 + 16
    return y.astype("uint8")


def to_gray(images: Float[Array, "*batch channels"]) -> Float[Array, "*batch 1"]:
    """Luma 0.299 R + 0.587 G + 0.114 B in [0, 1], not rounded; gray images are returned as they are.

    Rounded to 8 bits, it is within a level of Pillow's mode "L" and of MATLAB's `rgb2gray`, which
    have the same weights to about four digits.

    Raises:
      InputError: for images of neither 1 nor 3 channels.
    """
    channels = images.shape[-1]
    if channels not in (1, 3):
        raise InputError(f"to_gray takes images of 1 or 3 channels; got {channels}")
    return images if channels == 1 else _mix(images, _GRAY)


def _mix(images: Array, weights: np.ndarray) -> Array:
    """New channels, each a weighted sum of the old ones; accelerators round the factors otherwise."""
    matrix = jnp.asarray(weights, images.dtype)
    return jnp.einsum("...i,oi->...o", images, matrix, precision=lax.Precision.HIGHEST)


def _offsets(images: Array) -> Array:
    return jnp.asarray(_OFFSETS / 255, images.dtype).reshape((1,) * (images.ndim - 1) + (3,))
