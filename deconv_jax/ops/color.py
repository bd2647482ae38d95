"""RGB to YCbCr and to gray by the weights of ITU-R BT.601, as restoration papers measure it.

YCbCr is in studio range, that of MATLAB's `rgb2ycbcr`: of 256 levels Y uses 16 to 235, Cb and Cr 16
to 240. This is not the luma of JPEG or of Pillow's modes "L" and "YCbCr", which use all 256 and are
what `rgb_to_gray_uint8` gives: errors in studio range are 219/255 of those, so a PSNR is 1.32 dB
higher. RGB is as stored, with its gamma.
"""

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, UInt8

_LUMA = np.array([299, 587, 114])
"""Thousandths of red, green and blue in luma."""
_STUDIO = np.array([219 * _LUMA, [-37797, -74203, 112000], [112000, -93786, -18214]]) / 1000
"""Levels of Y, Cb and Cr that the whole range of red, green and blue contributes."""
_OFFSETS = np.array([16.0, 128.0, 128.0])

RGBUInt8 = UInt8[Array, "*batch 3"] | UInt8[np.ndarray, "*batch 3"]
GrayUInt8 = UInt8[Array, "*batch 1"] | UInt8[np.ndarray, "*batch 1"]


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


def rgb_to_y_uint8(images: RGBUInt8) -> GrayUInt8:
    """Y of 8-bit RGB, rounded to 8 bits as MATLAB's `rgb2ycbcr` does: 16 to 235, halves upwards.

    Integers throughout, so the levels are exact: those of NumPy arrays and of JAX's are the same.
    """
    return (_luma(images, 219, 255) + 16).astype("uint8")


def rgb_to_gray_uint8(images: RGBUInt8) -> GrayUInt8:
    """Luma 0.299 R + 0.587 G + 0.114 B of 8-bit RGB, rounded to 0 to 255, halves upwards.

    Exact, as `rgb_to_y_uint8` is. It is within a level of Pillow's mode "L" and of MATLAB's
    `rgb2gray`, which have the same weights to about four digits.
    """
    return _luma(images, 1, 1).astype("uint8")


def _luma(images: Array | np.ndarray, levels: int, of: int) -> Array | np.ndarray:
    """Luma of 8-bit RGB times levels / of, rounded, as int32: the largest sum fits in 26 bits."""
    red, green, blue = (
        (int(weight) * levels) * images[..., c : c + 1].astype("int32")
        for c, weight in enumerate(_LUMA)
    )
    whole = 1000 * of
    return (red + green + blue + whole // 2) // whole


def _mix(images: Array, weights: np.ndarray) -> Array:
    """New channels, each a weighted sum of the old ones; accelerators round the factors otherwise."""
    matrix = jnp.asarray(weights, images.dtype)
    return jnp.einsum("...i,oi->...o", images, matrix, precision=lax.Precision.HIGHEST)


def _offsets(images: Array) -> Array:
    return jnp.asarray(_OFFSETS / 255, images.dtype).reshape((1,) * (images.ndim - 1) + (3,))
