"""Orthogonal changes of basis in which photographs are sparse: periodic wavelets, DCT of blocks.

A wavelet transform (Mallat, IEEE Trans. PAMI 11, 674-693, 1989) is a strided convolution of the
image, wrapped around at its borders, with a scaling filter h and its mirror: a quarter of the
coefficients is a coarser image, which is transformed again. The filters are Daubechies' (Comm. Pure
Appl. Math. 41, 909-996, 1988), factored here from the polynomial that defines them. The filter bank
is orthogonal, so its inverse is its adjoint, `conv_transpose` with the same arguments.

What a reader would get wrong: the coefficients have the shape of the image, coarse ones at the top
left. Only that corner is an image; a threshold there changes the brightness of whole regions, so
methods that shrink coefficients leave it alone (`coarse_coefficients`).

Images are (..., height, width, channels), any number of axes before height; channels are
transformed alone.
"""

import functools
import itertools
import math
import re

import jax.numpy as jnp
import jax.scipy.fft
import numpy as np
from jaxtyping import Array, Float

from deconv_jax.errors import InputError, at_least
from deconv_jax.ops.conv import conv, conv_transpose

_MOMENTS = {"db": range(1, 11), "sym": range(2, 10)}


@functools.cache
def scaling_filter(wavelet: str) -> Float[np.ndarray, " taps"]:
    """The scaling filter h of an orthogonal wavelet: orthogonal to its shifts by 2, of sum sqrt(2).

    The wavelet with N vanishing moments has 2 N taps, and |h|^2 has the spectrum

        2 cos(w/2)^(2 N) P(sin(w/2)^2),    P(y) = sum over k < N of binomial(N - 1 + k, k) y^k.

    Of the filters with this spectrum "db" has every zero inside the unit circle, so most of its
    energy comes first; "sym" is the one whose phase is nearest to a straight line, which is
    nearest to symmetric.

    Args:
      wavelet: "haar", which is "db1"; "dbN" with N from 1 to 10; or "symN" with N from 2 to 9.

    Returns:
      2 N taps, float64, read-only.

    Raises:
      InputError: for another name.
    """
    named = re.fullmatch(r"(db|sym)([1-9]\d*)", "db1" if wavelet == "haar" else wavelet)
    if not named or int(named[2]) not in _MOMENTS[named[1]]:
        raise InputError(f"no wavelet {wavelet!r}; known are haar, db1 to db10 and sym2 to sym9")
    moments = int(named[2])
    groups = _zeros_inside(moments)
    if named[1] == "db":
        taps = _filter_with_zeros(moments, groups)
    else:
        # The first group stays inside: all groups reflected give the same filter in reverse.
        choices = itertools.product((False, True), repeat=len(groups) - 1)
        taps = min(
            (_filter_with_zeros(moments, groups, (False, *outside)) for outside in choices),
            key=_phase_nonlinearity,
        )
    taps.flags.writeable = False
    return taps


def _zeros_inside(moments: int) -> list[np.ndarray]:
    """The zeros of z^(N - 1) P((2 - z - 1/z) / 4) inside the unit circle, conjugates together."""
    polynomial = [math.comb(moments - 1 + k, k) for k in reversed(range(moments))]
    groups = []
    for y in np.roots(polynomial):
        if y.imag < 0:
            continue
        # z + 1/z = 2 - 4 y.
        z = np.roots([1.0, 4.0 * y - 2.0, 1.0])
        inside = z[np.argmin(np.abs(z))]
        groups.append(np.array([inside, np.conj(inside)] if y.imag > 0 else [inside]))
    return sorted(groups, key=lambda zeros: float(np.abs(zeros[0])))


def _filter_with_zeros(
    moments: int, groups: list[np.ndarray], outside: tuple[bool, ...] = ()
) -> np.ndarray:
    """The filter with N zeros at -1 and one of each pair of reciprocal zeros: which ones `outside`."""
    outside = outside or (False,) * len(groups)
    zeros = [1.0 / zeros if out else zeros for zeros, out in zip(groups, outside, strict=True)]
    taps = np.poly(np.concatenate([-np.ones(moments), *zeros])).real
    return taps * (math.sqrt(2.0) / np.sum(taps))


def _phase_nonlinearity(taps: np.ndarray) -> float:
    """How far the phase of a filter's response is from a straight line, in the pass band."""
    frequencies = np.linspace(0.0, 0.9 * np.pi, 64)
    response = np.exp(-1j * np.outer(frequencies, np.arange(len(taps)))) @ taps
    phase = np.unwrap(np.angle(response))
    slope = phase @ frequencies / (frequencies @ frequencies)
    return float(np.sum((phase - slope * frequencies) ** 2))


def wavelet_transform(
    x: Float[Array, "*batch height width channels"], wavelet: str = "db4", *, levels: int = 4
) -> Float[Array, "*batch height width channels"]:
    """The coefficients of images in the orthonormal wavelet basis: sum(c^2) = sum(x^2).

    A level turns the coarse image into quarters: coarser at the top left, then detail along the
    width (top right), along the height (bottom left) and along both. With h the scaling filter of
    2 N taps and g[k] = (-1)^k h[2 N - 1 - k], coefficient n of an axis is the sum over k of
    h[k] x[2 n + k - (N - 1)] or of g[k] in h's place, indices wrapped around.

    Args:
      x: images; `2**levels` divides height and width.
      wavelet: as for `scaling_filter`.
      levels: times that the coarse image is halved, at least 0.

    Returns:
      Coefficients of x's shape and dtype.

    Raises:
      InputError: for an unknown wavelet, or a size that cannot be halved so often.
    """
    _check_levels(x.shape, levels)
    height, width = x.shape[-3:-1]
    if not levels:
        return x
    bands = _to_bands(x, _kernel(wavelet, (height, width)).astype(x.dtype))
    coarse, across, down, both = (bands[..., i, :] for i in range(4))
    coarse = wavelet_transform(coarse, wavelet, levels=levels - 1)
    top = jnp.concatenate([coarse, across], axis=-2)
    return jnp.concatenate([top, jnp.concatenate([down, both], axis=-2)], axis=-3)


def inverse_wavelet_transform(
    coefficients: Float[Array, "*batch height width channels"],
    wavelet: str = "db4",
    *,
    levels: int = 4,
) -> Float[Array, "*batch height width channels"]:
    """The images with these coefficients: inverse and adjoint of `wavelet_transform`.

    Args:
      coefficients: as `wavelet_transform` lays them out.
      wavelet: the same.
      levels: the same.

    Returns:
      Images of the coefficients' shape and dtype.

    Raises:
      InputError: as `wavelet_transform`.
    """
    _check_levels(coefficients.shape, levels)
    height, width = coefficients.shape[-3:-1]
    if not levels:
        return coefficients
    top, bottom = jnp.split(coefficients, 2, axis=-3)
    coarse, across = jnp.split(top, 2, axis=-2)
    down, both = jnp.split(bottom, 2, axis=-2)
    coarse = inverse_wavelet_transform(coarse, wavelet, levels=levels - 1)
    bands = jnp.stack([coarse, across, down, both], axis=-2)
    return _from_bands(bands, _kernel(wavelet, (height, width)).astype(coefficients.dtype))


def coarse_coefficients(size: tuple[int, int], levels: int) -> np.ndarray:
    """Which of the coefficients of `wavelet_transform` are the coarse image.

    Args:
      size: (height, width) of the image, pixels.
      levels: of the transform.

    Returns:
      bool (height, width), True at the top left.
    """
    height, width = size
    coarse = np.zeros(size, bool)
    coarse[: height >> levels, : width >> levels] = True
    return coarse


def block_dct(
    x: Float[Array, "*batch height width channels"], block: int = 8
) -> Float[Array, "*batch height width channels"]:
    """The orthonormal cosine transform (DCT-II) of each `block` x `block` pixels, as in JPEG.

    Args:
      x: images; `block` divides height and width.
      block: pixels.

    Returns:
      Coefficients of x's shape, each block's in its place, frequency 0 at its top left.

    Raises:
      InputError: for a size that is no multiple of `block`.
    """
    return _over_blocks(jax.scipy.fft.dctn, x, block)


def inverse_block_dct(
    coefficients: Float[Array, "*batch height width channels"], block: int = 8
) -> Float[Array, "*batch height width channels"]:
    """The images with these coefficients: inverse and adjoint of `block_dct`.

    Args:
      coefficients: as `block_dct` lays them out.
      block: the same.

    Returns:
      Images of the coefficients' shape.

    Raises:
      InputError: as `block_dct`.
    """
    return _over_blocks(jax.scipy.fft.idctn, coefficients, block)


def _over_blocks(transform, x: Array, block: int) -> Array:
    at_least("block", block, 1)
    *batch, height, width, channels = x.shape
    if height % block or width % block:
        raise InputError(
            f"block divides height and width; got block={block} and {height} x {width} pixels"
        )
    blocks = x.reshape(*batch, height // block, block, width // block, block, channels)
    return transform(blocks, norm="ortho", axes=(-4, -2)).reshape(x.shape)


def _check_levels(shape: tuple[int, ...], levels: int) -> None:
    at_least("levels", levels, 0)
    height, width = shape[-3:-1]
    if height % 2**levels or width % 2**levels:
        raise InputError(
            f"2**levels divides height and width; got levels={levels} and {height} x {width} pixels"
        )


def _kernel(wavelet: str, size: tuple[int, int]) -> np.ndarray:
    """The kernel (taps, taps, 1, 4) that maps an image of even `size` to its quarters."""
    low = scaling_filter(wavelet)
    high = low[::-1] * (-1.0) ** np.arange(len(low))
    rows, columns = ([_wrapped(taps, n) for taps in (low, high)] for n in size)
    return np.stack(
        [np.outer(row, column) for row, column in itertools.product(rows, columns)], axis=-1
    )[:, :, None, :]


def _wrapped(taps: np.ndarray, n: int) -> np.ndarray:
    """A filter of at most n taps that does the same to n pixels: taps n apart meet one pixel."""
    if len(taps) <= n:
        return taps
    # `_padding` puts the middle of a filter in one place, whatever its length.
    shift = (len(taps) - n) // 2
    wrapped = np.zeros(n)
    np.add.at(wrapped, (np.arange(len(taps)) - shift) % n, taps)
    return wrapped


def _padding(kernel: np.ndarray) -> tuple[tuple[int, int], ...]:
    """N - 1 pixels on each side for 2 N taps."""
    return tuple((k // 2 - 1, k // 2 - 1) for k in kernel.shape[:2])


def _to_bands(x: Array, kernel: np.ndarray) -> Array:
    """(..., height / 2, width / 2, 4, channels) by a convolution of every channel alone."""
    alone = jnp.moveaxis(x, -1, 0)[..., None]
    bands = conv(alone, kernel, stride=2, padding=_padding(kernel), padding_mode="circular")
    return jnp.moveaxis(bands, 0, -1)


def _from_bands(bands: Array, kernel: np.ndarray) -> Array:
    alone = jnp.moveaxis(bands, -1, 0)
    x = conv_transpose(alone, kernel, stride=2, padding=_padding(kernel), padding_mode="circular")
    return jnp.moveaxis(x[..., 0], 0, -1)
