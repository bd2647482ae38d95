"""JPEG compression and decompression of images, to the bit as libjpeg does it, on the device.

After ITU-T T.81 (the DCT, the quantisation, the example tables of annex K) and JFIF 1.02 (the
colours), with the choices that those leave open made as libjpeg 6b and libjpeg-turbo, which Pillow
uses, make them by default: the scaling of the tables by a quality from 1 to 100, the accurate integer
DCT, the alternate rounding of averaged chroma, and the triangle filter that enlarges chroma again.
Entropy coding loses nothing and is left out: there is no file and no number of bytes here.

What a reader would get wrong: the derivative. That of a rounded, clipped value is zero almost
everywhere; here it is that of the same steps without any rounding or clipping (the straight-through
estimator of Bengio et al., arXiv:1308.3432). The DCT and its inverse then cancel: the derivative is
the identity, but for chroma, which goes through the reduction and enlargement of the subsampling.
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
"""Chroma at full resolution, at half the columns, or at half the columns and rows."""

_REDUCTION = {"4:4:4": (1, 1), "4:2:2": (1, 2), "4:2:0": (2, 2)}
"""Rows and columns of pixels that share a chroma sample."""

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
"""Table K.1: the quantiser's step at each frequency (rows: vertical) at quality 50."""

_CHROMINANCE = np.full((8, 8), 99, np.int32)
"""Table K.2."""
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
"""The DCT of 8 pixels times sqrt(8), in units of 2^-13: row k is the wave of frequency k over the
first 4 pixels. A few entries are one off the nearest integer: such are the sums of the rounded
factors by which libjpeg multiplies.
"""

_SIGN = np.array([[1], [-1]] * 4, np.int32)
_DCT = np.concatenate([_HALF_DCT, _SIGN * _HALF_DCT[:, ::-1]], axis=1)
"""Even frequencies are symmetric about the middle of the 8 pixels, odd ones antisymmetric."""

_ALONG_ROWS = "kn,bhiwn->bhiwk"
_ALONG_COLUMNS = "kn,bhnwj->bhkwj"
"""One pass of the two over blocks (batch, rows of blocks, 8, columns of blocks, 8)."""

_COLOR_BITS = 16
_TO_YCBCR = np.array(
    [[19595, 38470, 7471], [-11059, -21709, 32768], [32768, -27439, -5329]], np.int32
)
"""RGB to YCbCr, JFIF 1.02 section 7, in units of 2^-16."""
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
    """Images as they come back from a JPEG file.

    Args:
      x: gray images (1 channel) or RGB (3), in [0, 1], of any size; clipped and rounded to 8 bits.
      quality: 1 (worst) to 100, one for all or one an example; arrays are clipped to that range.
      subsampling: of chroma; gray images have none.

    Returns:
      Images of x's shape and type, multiples of 1 / 255 in [0, 1].

    Raises:
      InputError: for another number of channels, or values out of range.
    """
    check_subsampling(subsampling)
    if x.ndim != 4 or x.shape[-1] not in (1, 3):
        raise InputError(
            f"jpeg takes images (batch, height, width, channels) of 1 or 3 channels; got {x.shape}"
        )
    if isinstance(quality, numbers.Integral) and not 1 <= quality <= 100:
        raise InputError(f"quality is an integer from 1 to 100; got {quality}")
    each = jnp.broadcast_to(jnp.clip(jnp.asarray(quality, jnp.int32), 1, 100), x.shape[:1])
    return _straight_through(subsampling, x, each)


def check_subsampling(subsampling: str) -> None:
    """Raises InputError for another name than those of `Subsampling`."""
    if subsampling not in _REDUCTION:
        raise InputError(f"subsampling is one of {', '.join(_REDUCTION)}; got {subsampling!r}")


def quantization_tables(
    quality: Int[Array, "*batch"],
) -> tuple[Int32[Array, "*batch 8 8"], Int32[Array, "*batch 8 8"]]:
    """Tables for luminance and chrominance at a quality: those of annex K, scaled by libjpeg.

    Args:
      quality: 1 to 100; at 50 the tables are those of the standard, at 100 all steps are 1.

    Returns:
      Steps of the quantiser, 1 to 255, first axis vertical frequency.
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
    """The value to the bit, in int32 throughout; the derivative of `_without_rounding`."""
    levels = jnp.clip(jnp.round(x * 255), 0, 255).astype(jnp.int32)
    luminance, chrominance = quantization_tables(quality)
    if x.shape[-1] == 1:
        decoded = _coded(levels[..., 0], luminance)[..., None]
    else:
        luma, *chroma = _ycbcr_levels(levels)
        code_chroma = functools.partial(_coded, table=chrominance)
        planes = [
            _coded(luma, luminance),
            *(_through_subsampling(c, subsampling, code_chroma, _shifted) for c in chroma),
        ]
        decoded = _rgb_levels(*planes)
    return decoded.astype(x.dtype) / 255


@_straight_through.defjvp
def _straight_through_jvp(subsampling, primals, tangents):
    x, quality = primals
    return _straight_through(subsampling, x, quality), _without_rounding(tangents[0], subsampling)


def _without_rounding(x: Array, subsampling: Subsampling) -> Array:
    """JPEG without rounding, clipping or quantisation, which is linear in the image."""
    if x.shape[-1] == 1 or _REDUCTION[subsampling] == (1, 1):
        return x
    to_ycbcr = (_TO_YCBCR / 2**_COLOR_BITS).astype(x.dtype)
    luma, *chroma = _planes(jnp.einsum("kc,bhwc->bhwk", to_ycbcr, x, precision="highest"))
    seen = [_through_subsampling(c, subsampling, lambda c: c, _divided) for c in chroma]
    to_rgb = np.linalg.inv(_TO_YCBCR / 2**_COLOR_BITS).astype(x.dtype)
    ycbcr = jnp.stack([luma, *seen], axis=-1)
    return jnp.einsum("kc,bhwc->bhwk", to_rgb, ycbcr, precision="highest")


def _planes(images: Array) -> list[Array]:
    return [images[..., c] for c in range(images.shape[-1])]


def _ycbcr_levels(levels: Array) -> list[Array]:
    """Planes of Y, Cb and Cr of RGB, all 0 to 255."""
    rgb = _planes(levels)
    return [
        (sum(int(w) * c for w, c in zip(weights, rgb, strict=True)) + offset) >> _COLOR_BITS
        for weights, offset in zip(_TO_YCBCR, _TO_YCBCR_OFFSET, strict=True)
    ]


def _rgb_levels(luma: Array, blue: Array, red: Array) -> Array:
    """RGB of Y, Cb and Cr, clipped to 0 to 255; JFIF's factors in units of 2^-16."""
    blue, red = blue - 128, red - 128
    rgb = [
        luma + ((91881 * red + _HALF) >> _COLOR_BITS),
        luma + ((-22554 * blue - 46802 * red + _HALF) >> _COLOR_BITS),
        luma + ((116130 * blue + _HALF) >> _COLOR_BITS),
    ]
    return jnp.clip(jnp.stack(rgb, axis=-1), 0, 255)


def _coded(plane: Array, table: Array) -> Array:
    """A plane (batch, height, width) of levels after DCT, quantisation and back, 0 to 255."""
    height, width = plane.shape[1:]
    padded = _padded(plane, 8, 8)
    blocks = padded.reshape(len(plane), padded.shape[1] // 8, 8, padded.shape[2] // 8, 8) - 128
    # The two passes of the DCT leave 8 times the coefficients of T.81.
    frequencies = _pass(_pass(blocks, _DCT, _ALONG_ROWS, 11), _DCT, _ALONG_COLUMNS, 15)
    step = table.reshape(len(plane), 1, 8, 1, 8)
    index = jnp.sign(frequencies) * ((jnp.abs(frequencies) + 4 * step) // (8 * step))
    blocks = _pass(_pass(index * step, _DCT.T, _ALONG_COLUMNS, 11), _DCT.T, _ALONG_ROWS, 18)
    decoded = jnp.clip(blocks + 128, 0, 255).reshape(padded.shape)
    return decoded[:, :height, :width]


def _pass(blocks: Array, matrix: np.ndarray, axes: str, bits: int) -> Array:
    """A fixed-point matrix product along an axis of the blocks, then `bits` fewer, rounded."""
    return (jnp.einsum(axes, matrix, blocks) + (1 << (bits - 1))) >> bits


def _padded(plane: Array, rows: int, columns: int) -> Array:
    """The plane with its last row and column repeated up to multiples."""
    height, width = plane.shape[1:]
    return jnp.pad(plane, ((0, 0), (0, -height % rows), (0, -width % columns)), mode="edge")


def _through_subsampling(
    plane: Array, subsampling: Subsampling, code: _Plane, divide: _Division
) -> Array:
    """A plane of chroma averaged, coded, and enlarged to its old size."""
    rows, columns = _REDUCTION[subsampling]
    if rows * columns == 1:
        return code(plane)
    height, width = plane.shape[1:]
    # libjpeg repeats columns of pixels up to whole blocks, but rows of averages.
    padded = _padded(plane, rows, 8 * columns)
    split = padded.reshape(-1, padded.shape[1] // rows, rows, padded.shape[2] // columns, columns)
    biases = (1, 2) if rows == 2 else (0, 1)
    # A sum of 2 pixels, or of 4: as many bits as rows.
    reduced = code(divide(jnp.sum(split, axis=(2, 4)), rows, biases))
    reduced = reduced[:, : -(-height // rows), : -(-width // columns)]
    return _enlarged(reduced, rows, columns, divide)[:, :height, :width]


def _enlarged(plane: Array, rows: int, columns: int, divide: _Division) -> Array:
    """A plane enlarged by a triangle filter, the plain copy of samples for two columns or fewer."""
    if plane.shape[2] <= 2:
        return jnp.repeat(jnp.repeat(plane, rows, axis=1), columns, axis=2)
    if rows == 1:
        return divide(_triangle(plane, 2), 2, (1, 2))
    return divide(_triangle(_triangle(plane, 1), 2), 4, (8, 7))


def _triangle(plane: Array, axis: int) -> Array:
    """Twice the samples along an axis, times 4: 3 parts the nearest sample, 1 part the next one."""
    n = plane.shape[axis]
    before = jnp.take(plane, np.maximum(np.arange(n) - 1, 0), axis)
    after = jnp.take(plane, np.minimum(np.arange(n) + 1, n - 1), axis)
    pairs = jnp.stack([3 * plane + before, 3 * plane + after], axis + 1)
    return pairs.reshape(*plane.shape[:axis], 2 * n, *plane.shape[axis + 1 :])


def _shifted(total: Array, bits: int, biases: tuple[int, int]) -> Array:
    """total / 2^bits, rounded by what libjpeg adds in even and in odd columns."""
    bias = np.resize(np.array(biases, np.int32), (1, 1, total.shape[2]))
    return (total + bias) >> bits


def _divided(total: Array, bits: int, biases: tuple[int, int]) -> Array:
    """total / 2^bits."""
    del biases
    return total / 2**bits
