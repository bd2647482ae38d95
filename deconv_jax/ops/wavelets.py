"""Orthogonal changes of basis in which photographs are sparse: periodic wavelets, DCT of blocks.

A wavelet transform (Mallat, IEEE Trans. PAMI 11, 674-693, 1989) is a strided convolution of the
image, wrapped around at its borders, with a scaling filter h and its mirror: a quarter of the
coefficients is a coarser image, which is transformed again. The filters are Daubechies' (Comm. Pure
Appl. Math. 41, 909-996, 1988), factored here from the polynomial that defines them. The basis is
orthonormal, so the inverse is the adjoint, the transposed convolution.

What a reader would get wrong: the coefficients have the shape of the image, coarse ones at the top
left. Only that corner is an image; a threshold there changes the brightness of whole regions, so
methods that shrink coefficients leave it alone (`coarse_mask`).

Images are (..., height, width, channels), any number of axes before height; channels are
transformed alone.
"""

import functools
import itertools
import math
import re
from collections.abc import Iterable

import jax.numpy as jnp
import jax.scipy.fft
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from deconv_jax.errors import InputError, at_least

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
    if not levels:
        return x
    rows, columns = x.ndim - 3, x.ndim - 2
    top, bottom = _analyse(x, wavelet, rows)
    coarse, right = _analyse(top, wavelet, columns)
    coarse = wavelet_transform(coarse, wavelet, levels=levels - 1)
    top = jnp.concatenate([coarse, right], columns)
    bottom = jnp.concatenate(_analyse(bottom, wavelet, columns), columns)
    return jnp.concatenate([top, bottom], rows)


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
    if not levels:
        return coefficients
    rows, columns = coefficients.ndim - 3, coefficients.ndim - 2
    top, bottom = jnp.split(coefficients, 2, rows)
    coarse, right = jnp.split(top, 2, columns)
    coarse = inverse_wavelet_transform(coarse, wavelet, levels=levels - 1)
    top = _synthesise(coarse, right, wavelet, columns)
    left, both = jnp.split(bottom, 2, columns)
    bottom = _synthesise(left, both, wavelet, columns)
    return _synthesise(top, bottom, wavelet, rows)


def coarse_mask(size: tuple[int, int], levels: int) -> np.ndarray:
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


def _filters(wavelet: str) -> tuple[np.ndarray, np.ndarray]:
    """The scaling filter h and its mirror g."""
    low = scaling_filter(wavelet)
    return low, low[::-1] * (-1.0) ** np.arange(len(low))


def _analyse(x: Array, wavelet: str, axis: int) -> tuple[Array, Array]:
    """The coarse and the detail coefficients along an axis, each of half its length."""
    n = x.shape[axis]
    filters = _filters(wavelet)
    margin = len(filters[0]) // 2 - 1
    x = _wrap(x, margin, axis)
    met = [lax.slice_in_dim(x, k, k + n - 1, 2, axis) for k in range(len(filters[0]))]
    coarse, detail = (_weighted_sum(taps, met) for taps in filters)
    return coarse, detail


def _synthesise(coarse: Array, detail: Array, wavelet: str, axis: int) -> Array:
    """The adjoint of `_analyse`, its inverse: even and odd places by every second tap each."""
    n = coarse.shape[axis]
    filters = _filters(wavelet)
    moments = len(filters[0]) // 2
    parts = [_wrap(part, moments // 2, axis) for part in (coarse, detail)]

    def places(parity: int) -> Array:
        taps = range((parity + moments - 1) % 2, 2 * moments, 2)
        starts = [moments // 2 + (parity + moments - 1 - k) // 2 for k in taps]
        met = [lax.slice_in_dim(part, s, s + n, 1, axis) for part in parts for s in starts]
        return _weighted_sum([taps_of[k] for taps_of in filters for k in taps], met)

    both = jnp.stack([places(0), places(1)], axis=axis + 1)
    return both.reshape(*coarse.shape[:axis], 2 * n, *coarse.shape[axis + 1 :])


def _weighted_sum(weights: Iterable[float], images: Iterable[Array]) -> Array:
    terms = (float(w) * image for w, image in zip(weights, images, strict=True))
    return functools.reduce(jnp.add, terms)


def _wrap(x: Array, margin: int, axis: int) -> Array:
    """x continued periodically by `margin` places on each side of an axis."""
    return jnp.pad(x, [(margin, margin) if i == axis else (0, 0) for i in range(x.ndim)], "wrap")
