"""Lossy JPEG compression of images on the device, bit-exact with libjpeg.

DCT, quantization and the tables of annex K follow ITU-T T.81, and the color conversion follows
JFIF 1.02. Choices that these standards leave open follow the defaults of libjpeg 6b and
libjpeg-turbo, and so of Pillow: scaling of the tables by a quality from 1 to 100, the accurate
integer DCT, the alternating rounding of averaged chroma, and chroma upsampling by a triangle
filter. Entropy coding is lossless and left out, so there is no file size.

Note: the derivative is that of the same steps without rounding and clipping (the straight-through
estimator, arXiv:1308.3432), since the true one is zero almost everywhere. DCT and inverse DCT then
cancel, so that the derivative is the identity, except for the subsampling of chroma.
"""

import functools
import numbers
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Int32

from deconv_jax.errors import InputError

Subsampling = Literal["4:4:4", "4:2:2", "4:2:0"]
"""Resolution of chroma: full, half the columns, or half the columns and rows."""

_REDUCTION = {"4:4:4": (1, 1), "4:2:2": (1, 2), "4:2:0": (2, 2)}
"""Rows and columns of pixels per chroma sample."""

_LUMINANCE = np.array(
    [
        [16, 11, 10, 16, 24, 40, 51, 61],
        [12, 12, 14, 19, 26, 58, 60, 55],
        [14, 13, 16, 24, 40, 57, 69, 56],
        [14, 17, 22, 29, 51, 87, 80, 62],
        [18, 22, 37, 56, 68, 109, 103, 77],
        [24, 35, 55, 64, 81, 104, 113, 92],
        [49, 64, 78, 87, 103, 121, 120, 101],
        [72, 92, 95, 98, 112, 100, 103, 99],
    ],
    np.int32,
)
"""Table K.1: quantization step of each frequency at quality 50; the first axis is vertical."""

_CHROMINANCE = np.full((8, 8), 99, np.int32)
"""Table K.2, for chrominance."""
_CHROMINANCE[:4, :4] = [[17, 18, 24, 47], [18, 21, 26, 66], [24, 26, 56, 99], [47, 66, 99, 99]]

_HALF_DCT = np.array(
    [
        [8192, 8192, 8192, 8192],
        [11363, 9633, 6437, 2260],
        [10703, 4433, -4433, -10703],
        [9633, -2259, -11362, -6436],
        [8192, -8192, -8192, 8192],
        [6437, -11362, 2261, 9633],
        [4433, -10704, 10704, -4433],
        [2260, -6436, 9633, -11363],
    ],
    np.int32,
)
"""DCT matrix of 8 pixels times sqrt(8), in units of 2^-13: a row per frequency, a column for each of
the first 4 pixels. Some entries differ by 1 from the nearest integer, since libjpeg sums rounded
constants.
"""

_SIGN = np.array([[1], [-1]] * 4, np.int32)
_DCT = np.concatenate([_HALF_DCT, _SIGN * _HALF_DCT[:, ::-1]], axis=1)
"""Full DCT matrix: even frequencies are symmetric about the middle of the 8 pixels, odd ones
antisymmetric.
"""

_ALONG_ROWS = "kn,bhiwn->bhiwk"
_ALONG_COLUMNS = "kn,bhnwj->bhkwj"
"""Einsum specifications of the 1-d DCT passes over blocks (batch, rows, 8, columns, 8)."""

_COLOR_BITS = 16
_TO_YCBCR = np.array(
    [[19595, 38470, 7471], [-11059, -21709, 32768], [32768, -27439, -5329]], np.int32
)
"""Matrix from RGB to YCbCr (JFIF 1.02, section 7), in units of 2^-16."""
_HALF = 2 ** (_COLOR_BITS - 1)
_CHROMA_OFFSET = (128 << _COLOR_BITS) + _HALF - 1
_TO_YCBCR_OFFSET = (_HALF, _CHROMA_OFFSET, _CHROMA_OFFSET)

_Plane = Callable[[Array], Array]
_Division = Callable[[Array, int, tuple[int, int]], Array]


def jpeg(
    x: Float[Array, "batch height width channels"],
    quality: int | Int[Array, ""] | Int[Array, " batch"],
    *,
    subsampling: Subsampling = "4:2:0",
) -> Float[Array, "batch height width channels"]:
    """Compress images as JPEG and decompress them, bit-exact with libjpeg.

    The derivative is that of the same steps without rounding and clipping: the identity, except for
    the subsampling of chroma.

    Args:
      x: Gray images (1 channel) or RGB images (3 channels) in [0, 1]; clipped and rounded to 8
        bits.
      quality: Quality from 1 (worst) to 100: one for all images, or one per image. If it is an
        array, its values are clipped to this range.
      subsampling: Resolution of chroma; ignored for gray images.

    Returns:
      Images of the shape and type of x, with values that are multiples of 1/255 in [0, 1].

    Raises:
      InputError: x does not have four axes and 1 or 3 channels, `subsampling` is unknown, or a
        quality that is not an array is out of range.

    Example:
      >>> jpeg(jnp.full((1, 16, 16, 3), 0.4), quality=50).shape
      (1, 16, 16, 3)
    """
    check_subsampling(subsampling)
    if x.ndim != 4 or x.shape[-1] not in (1, 3):
        raise InputError(
            "jpeg: images must have the axes (batch, height, width, channels) and 1 or 3 channels; "
            f"got shape {x.shape}"
        )
    if isinstance(quality, numbers.Integral) and not 1 <= quality <= 100:
        raise InputError(f"quality must be an integer from 1 to 100; got {quality}")
    each = jnp.broadcast_to(jnp.clip(jnp.asarray(quality, jnp.int32), 1, 100), x.shape[:1])
    return _straight_through(subsampling, x, each)


def check_subsampling(subsampling: str) -> None:
    """Raise InputError unless `subsampling` is one of the names of `Subsampling`."""
    if subsampling not in _REDUCTION:
        raise InputError(f"subsampling must be one of {', '.join(_REDUCTION)}; got {subsampling!r}")


def quantization_tables(
    quality: Int[Array, "*batch"],
) -> tuple[Int32[Array, "*batch 8 8"], Int32[Array, "*batch 8 8"]]:
    """Return the quantization tables of annex K, scaled to a quality as libjpeg does.

    Args:
      quality: Quality from 1 to 100 (not checked). At 50 the tables are those of the standard, and
        at 100 all steps are 1.

    Returns:
      (luminance, chrominance): quantization steps from 1 to 255. The first axis of a table is
      vertical frequency, the second horizontal frequency.
    """
    percent = jnp.where(quality < 50, 5000 // quality, 200 - 2 * quality).astype(jnp.int32)
    percent = percent.reshape(*quality.shape, 1, 1)
    luminance, chrominance = (
        jnp.clip(
            (jnp.asarray(t).reshape((1,) * quality.ndim + t.shape) * percent + 50) // 100, 1, 255
        )
        for t in (_LUMINANCE, _CHROMINANCE)
    )
    return luminance, chrominance


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _straight_through(subsampling: Subsampling, x: Array, quality: Array) -> Array:
    """Compute the exact value in int32, with the derivative of `_without_rounding`."""
    levels = jnp.clip(jnp.round(x * 255), 0, 255).astype(jnp.int32)
    luminance, chrominance = quantization_tables(quality)
    if x.shape[-1] == 1:
        decoded = _encode_decode(levels[..., 0], luminance)[..., None]
    else:
        luma, *chroma = _ycbcr_levels(levels)
        code_chroma = functools.partial(_encode_decode, table=chrominance)
        planes = [
            _encode_decode(luma, luminance),
            *(_encode_subsampled(c, subsampling, code_chroma, _divide_rounded) for c in chroma),
        ]
        decoded = _rgb_levels(*planes)
    return decoded.astype(x.dtype) / 255


@_straight_through.defjvp
def _straight_through_jvp(subsampling, primals, tangents):
    x, quality = primals
    return _straight_through(subsampling, x, quality), _without_rounding(tangents[0], subsampling)


def _without_rounding(x: Array, subsampling: Subsampling) -> Array:
    """Apply JPEG without rounding, clipping and quantization, which is linear in the image."""
    if x.shape[-1] == 1 or _REDUCTION[subsampling] == (1, 1):
        return x
    to_ycbcr = (_TO_YCBCR / 2**_COLOR_BITS).astype(x.dtype)
    luma, *chroma = _planes(jnp.einsum("kc,bhwc->bhwk", to_ycbcr, x, precision="highest"))
    seen = [_encode_subsampled(c, subsampling, lambda c: c, _divide_exactly) for c in chroma]
    to_rgb = np.linalg.inv(_TO_YCBCR / 2**_COLOR_BITS).astype(x.dtype)
    ycbcr = jnp.stack([luma, *seen], axis=-1)
    return jnp.einsum("kc,bhwc->bhwk", to_rgb, ycbcr, precision="highest")


def _planes(images: Array) -> list[Array]:
    return [images[..., c] for c in range(images.shape[-1])]


def _ycbcr_levels(levels: Array) -> list[Array]:
    """Convert RGB to planes of Y, Cb and Cr, all from 0 to 255."""
    rgb = _planes(levels)
    return [
        (sum(int(w) * c for w, c in zip(weights, rgb, strict=True)) + offset) >> _COLOR_BITS
        for weights, offset in zip(_TO_YCBCR, _TO_YCBCR_OFFSET, strict=True)
    ]


def _rgb_levels(luma: Array, blue: Array, red: Array) -> Array:
    """Convert Y, Cb and Cr to RGB clipped to 0 to 255, with JFIF's factors in units of 2^-16."""
    blue, red = blue - 128, red - 128
    rgb = [
        luma + ((91881 * red + _HALF) >> _COLOR_BITS),
        luma + ((-22554 * blue - 46802 * red + _HALF) >> _COLOR_BITS),
        luma + ((116130 * blue + _HALF) >> _COLOR_BITS),
    ]
    return jnp.clip(jnp.stack(rgb, axis=-1), 0, 255)


def _encode_decode(plane: Array, table: Array) -> Array:
    """Quantize the DCT coefficients of a plane (batch, height, width) of levels, and decode it."""
    height, width = plane.shape[1:]
    padded = _pad_to_multiples(plane, 8, 8)
    blocks = padded.reshape(len(plane), padded.shape[1] // 8, 8, padded.shape[2] // 8, 8) - 128
    # The two passes of the DCT return 8 times the coefficients of T.81.
    frequencies = _pass(_pass(blocks, _DCT, _ALONG_ROWS, 11), _DCT, _ALONG_COLUMNS, 15)
    step = table.reshape(len(plane), 1, 8, 1, 8)
    index = jnp.sign(frequencies) * ((jnp.abs(frequencies) + 4 * step) // (8 * step))
    blocks = _pass(_pass(index * step, _DCT.T, _ALONG_COLUMNS, 11), _DCT.T, _ALONG_ROWS, 18)
    decoded = jnp.clip(blocks + 128, 0, 255).reshape(padded.shape)
    return decoded[:, :height, :width]


def _pass(blocks: Array, matrix: np.ndarray, axes: str, bits: int) -> Array:
    """Apply a fixed-point matrix along an axis of the blocks, and shift right with rounding."""
    return (jnp.einsum(axes, matrix, blocks) + (1 << (bits - 1))) >> bits


def _pad_to_multiples(plane: Array, rows: int, columns: int) -> Array:
    """Repeat the last row and column of a plane up to multiples of `rows` and `columns`."""
    height, width = plane.shape[1:]
    return jnp.pad(plane, ((0, 0), (0, -height % rows), (0, -width % columns)), mode="edge")


def _encode_subsampled(
    plane: Array, subsampling: Subsampling, code: _Plane, divide: _Division
) -> Array:
    """Average a chroma plane, encode and decode it, and enlarge it to its old size."""
    rows, columns = _REDUCTION[subsampling]
    if rows * columns == 1:
        return code(plane)
    height, width = plane.shape[1:]
    # libjpeg pads columns to whole blocks before averaging, and rows after it.
    padded = _pad_to_multiples(plane, rows, 8 * columns)
    split = padded.reshape(-1, padded.shape[1] // rows, rows, padded.shape[2] // columns, columns)
    biases = (1, 2) if rows == 2 else (0, 1)
    # Shift the sum of 2 or 4 pixels right by 1 or 2 bits, which happens to equal `rows`.
    reduced = code(divide(jnp.sum(split, axis=(2, 4)), rows, biases))
    reduced = reduced[:, : -(-height // rows), : -(-width // columns)]
    return _enlarge(reduced, rows, columns, divide)[:, :height, :width]


def _enlarge(plane: Array, rows: int, columns: int, divide: _Division) -> Array:
    """Enlarge a plane by a triangle filter; repeat its samples if it has at most two columns."""
    if plane.shape[2] <= 2:
        return jnp.repeat(jnp.repeat(plane, rows, axis=1), columns, axis=2)
    if rows == 1:
        return divide(_upsample_triangle(plane, 2), 2, (1, 2))
    return divide(_upsample_triangle(_upsample_triangle(plane, 1), 2), 4, (8, 7))


def _upsample_triangle(plane: Array, axis: int) -> Array:
    """Upsample an axis by 2 with weights 3 (nearest sample) and 1 (next one), which sum to 4."""
    n = plane.shape[axis]
    before = jnp.take(plane, np.maximum(np.arange(n) - 1, 0), axis)
    after = jnp.take(plane, np.minimum(np.arange(n) + 1, n - 1), axis)
    pairs = jnp.stack([3 * plane + before, 3 * plane + after], axis + 1)
    return pairs.reshape(*plane.shape[:axis], 2 * n, *plane.shape[axis + 1 :])


def _divide_rounded(total: Array, bits: int, biases: tuple[int, int]) -> Array:
    """Return total / 2^bits, rounded by libjpeg's biases of even and odd columns."""
    bias = np.resize(np.array(biases, np.int32), (1, 1, total.shape[2]))
    return (total + bias) >> bits


def _divide_exactly(total: Array, bits: int, biases: tuple[int, int]) -> Array:
    """Return total / 2^bits without rounding."""
    del biases
    return total / 2**bits
