"""Conversion of RGB to YCbCr and to gray by ITU-R BT.601.

YCbCr has the studio range of MATLAB's `rgb2ycbcr`: Y uses the levels 16 to 235 of 256, and Cb and
Cr use 16 to 240. RGB values are gamma-encoded, as image files store them.

Note: JPEG, Pillow's modes "L" and "YCbCr", and `rgb_to_gray_uint8` use full-range luma instead.
Studio-range errors are 219/255 of full-range errors, so a PSNR on Y is 1.32 dB higher.
"""

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, UInt8

_LUMA = np.array([299, 587, 114])
"""Weights of red, green and blue in luma, times 1000."""
_STUDIO = np.array([219 * _LUMA, [-37797, -74203, 112000], [112000, -93786, -18214]]) / 1000
"""Matrix from RGB in [0, 1] to 8-bit levels of Y, Cb and Cr, without the offsets."""
_OFFSETS = np.array([16.0, 128.0, 128.0])

RGBUInt8 = UInt8[Array, "*batch 3"] | UInt8[np.ndarray, "*batch 3"]
GrayUInt8 = UInt8[Array, "*batch 1"] | UInt8[np.ndarray, "*batch 1"]


def rgb_to_ycbcr(images: Float[Array, "*batch 3"]) -> Float[Array, "*batch 3"]:
    """Convert RGB in [0, 1] to YCbCr, without rounding.

    Equal to MATLAB's `rgb2ycbcr` of floats, and to `skimage.color.rgb2ycbcr` divided by 255.

    Args:
      images: Float RGB images in [0, 1]; not clipped.

    Returns:
      Images with Y in [16/255, 235/255], and Cb and Cr in [16/255, 240/255].
    """
    return _mix(images, _STUDIO / 255) + _offsets(images)


def ycbcr_to_rgb(images: Float[Array, "*batch 3"]) -> Float[Array, "*batch 3"]:
    """Convert YCbCr to RGB without clipping; invert `rgb_to_ycbcr`.

    Args:
      images: YCbCr images in the range of `rgb_to_ycbcr`.

    Returns:
      RGB images. Some YCbCr colors lie outside of [0, 1].
    """
    return _mix(images - _offsets(images), np.linalg.inv(_STUDIO / 255))


def rgb_to_y(images: Float[Array, "*batch 3"]) -> Float[Array, "*batch 1"]:
    """Convert RGB in [0, 1] to the Y channel of `rgb_to_ycbcr`, in [16/255, 235/255]."""
    return _mix(images, _STUDIO[:1] / 255) + 16 / 255


def gray_to_y(images: Float[Array, "..."]) -> Float[Array, "..."]:
    """Convert gray in [0, 1] to Y, in [16/255, 235/255], as `rgb_to_y` converts three equal channels."""
    return (219 * images + 16) / 255


def y_to_gray(images: Float[Array, "..."]) -> Float[Array, "..."]:
    """Convert Y to gray without clipping; invert `gray_to_y`."""
    return (255 * images - 16) / 219


def rgb_to_y_uint8(images: RGBUInt8) -> GrayUInt8:
    """Convert 8-bit RGB to 8-bit Y from 16 to 235, as MATLAB's `rgb2ycbcr` of uint8 does.

    Halves are rounded up. The arithmetic is exact, and equal for NumPy and JAX arrays.
    """
    return (_scaled_luma(images, 219, 255) + 16).astype("uint8")


def rgb_to_gray_uint8(images: RGBUInt8) -> GrayUInt8:
    """Convert 8-bit RGB to 8-bit luma 0.299 R + 0.587 G + 0.114 B, from 0 to 255.

    Halves are rounded up. The arithmetic is exact, and equal for NumPy and JAX arrays. Pillow's
    mode "L" and MATLAB's `rgb2gray` round the same weights to about four digits, and differ by at
    most one level.
    """
    return _scaled_luma(images, 1, 1).astype("uint8")


def _scaled_luma(
    images: Array | np.ndarray, numerator: int, denominator: int
) -> Array | np.ndarray:
    """Return the luma of 8-bit RGB, scaled by a fraction and rounded, as int32.

    The largest intermediate sum fits in 26 bits.
    """
    red, green, blue = (
        (int(weight) * numerator) * images[..., c : c + 1].astype("int32")
        for c, weight in enumerate(_LUMA)
    )
    divisor = 1000 * denominator
    return (red + green + blue + divisor // 2) // divisor


def _mix(images: Array, weights: np.ndarray) -> Array:
    """Multiply the channels by a matrix in full precision; accelerators round factors by default."""
    matrix = jnp.asarray(weights, images.dtype)
    return jnp.einsum("...i,oi->...o", images, matrix, precision=lax.Precision.HIGHEST)


def _offsets(images: Array) -> Array:
    return jnp.asarray(_OFFSETS / 255, images.dtype).reshape((1,) * (images.ndim - 1) + (3,))
