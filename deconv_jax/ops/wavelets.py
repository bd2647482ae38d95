"""Orthonormal transforms in which photographs are sparse: periodic wavelets and block DCT.

A wavelet transform (Mallat, IEEE Trans. PAMI 11, 674-693, 1989) convolves the image with a scaling
filter h and its mirror g, with stride 2 and circular padding. A quarter of the coefficients forms a
coarser image, which is transformed again. The filters are those of Daubechies (Comm. Pure Appl.
Math. 41, 909-996, 1988). The basis is orthonormal, so the inverse is the adjoint.

Images have the shape (*batch, height, width, channels), and each channel is transformed on its own.
Coefficients have the shape of the image, in a pyramid layout with the coarse image at the top left.

Note: do not threshold the coarse image (`coarse_mask`), which would change the brightness of whole
regions.
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
"""Available numbers of vanishing moments of each family."""


@functools.cache
def scaling_filter(wavelet: str) -> Float[np.ndarray, " taps"]:
    """Return the scaling filter h of an orthogonal wavelet.

    It is orthogonal to its shifts by 2, and sums to sqrt(2). The wavelet with N vanishing moments
    has 2 N taps, and its power spectrum is

        |H(w)|^2 = 2 cos(w/2)^(2 N) P(sin(w/2)^2),
        P(y) = sum over k < N of binomial(N - 1 + k, k) y^k.

    Among the filters with this spectrum, "db" is the minimum-phase one, and "sym" is the one
    closest to linear phase, and so to symmetry.

    Args:
      wavelet: "haar", which is "db1"; "dbN" with N from 1 to 10; or "symN" with N from 2 to 9.

    Returns:
      Read-only float64 array of 2 N taps.

    Raises:
      InputError: The wavelet is unknown.
    """
    named = re.fullmatch(r"(db|sym)([1-9]\d*)", "db1" if wavelet == "haar" else wavelet)
    if not named or int(named[2]) not in _MOMENTS[named[1]]:
        raise InputError(f"no wavelet {wavelet!r}; known are haar, db1 to db10 and sym2 to sym9")
    moments = int(named[2])
    groups = _zeros_inside(moments)
    if named[1] == "db":
        taps = _filter_with_zeros(moments, groups)
    else:
        # Keep the first group inside: reflecting all groups only reverses the filter in time.
        choices = itertools.product((False, True), repeat=len(groups) - 1)
        taps = min(
            (_filter_with_zeros(moments, groups, (False, *outside)) for outside in choices),
            key=_phase_nonlinearity,
        )
    taps.flags.writeable = False
    return taps


def _zeros_inside(moments: int) -> list[np.ndarray]:
    """Return the zeros of z^(N - 1) P((2 - z - 1/z) / 4) inside the unit circle.

    Each entry holds a real zero or a pair of conjugate zeros.
    """
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
    """Return the filter with N zeros at -1 and one zero of each reciprocal pair.

    Args:
      moments: N.
      groups: Zeros inside the unit circle, grouped as by `_zeros_inside`.
      outside: Whether to use the reciprocals of each group, outside of the unit circle; default
        none.
    """
    outside = outside or (False,) * len(groups)
    zeros = [1.0 / zeros if out else zeros for zeros, out in zip(groups, outside, strict=True)]
    taps = np.poly(np.concatenate([-np.ones(moments), *zeros])).real
    return taps * (math.sqrt(2.0) / np.sum(taps))


def _phase_nonlinearity(taps: np.ndarray) -> float:
    """Return the squared deviation of a filter's phase from a linear fit, in the pass band."""
    frequencies = np.linspace(0.0, 0.9 * np.pi, 64)
    response = np.exp(-1j * np.outer(frequencies, np.arange(len(taps)))) @ taps
    phase = np.unwrap(np.angle(response))
    slope = phase @ frequencies / (frequencies @ frequencies)
    return float(np.sum((phase - slope * frequencies) ** 2))


def wavelet_transform(
    x: Float[Array, "*batch height width channels"], wavelet: str = "db4", *, levels: int = 4
) -> Float[Array, "*batch height width channels"]:
    """Compute the coefficients of images in an orthonormal periodic wavelet basis.

    Each level splits the coarse image into quarters: the coarser image (top left), and details
    along the width (top right), along the height (bottom left) and along both. Along an axis, with
    the scaling filter h of 2 N taps and g[k] = (-1)^k h[2 N - 1 - k],

        coarse[n] = sum over k of h[k] x[2 n + k - (N - 1)],    detail[n] likewise with g

    where indices wrap around.

    Args:
      x: Images with height and width divisible by `2**levels`.
      wavelet: Wavelet, as for `scaling_filter`.
      levels: Number of levels, at least 0.

    Returns:
      Coefficients of the shape and type of x.

    Raises:
      InputError: The wavelet is unknown, `levels` is negative, or the size is not divisible by
        `2**levels`.
    """
    _check_levels(x.shape, levels)
    if not levels:
        return x
    rows, columns = x.ndim - 3, x.ndim - 2
    top, bottom = _analyze(x, wavelet, rows)
    coarse, right = _analyze(top, wavelet, columns)
    coarse = wavelet_transform(coarse, wavelet, levels=levels - 1)
    top = jnp.concatenate([coarse, right], columns)
    bottom = jnp.concatenate(_analyze(bottom, wavelet, columns), columns)
    return jnp.concatenate([top, bottom], rows)


def inverse_wavelet_transform(
    coefficients: Float[Array, "*batch height width channels"],
    wavelet: str = "db4",
    *,
    levels: int = 4,
) -> Float[Array, "*batch height width channels"]:
    """Compute images from wavelet coefficients: the inverse and adjoint of `wavelet_transform`.

    Args:
      coefficients: Coefficients in the layout of `wavelet_transform`.
      wavelet: Wavelet of the transform.
      levels: Number of levels of the transform.

    Returns:
      Images of the shape and type of the coefficients.

    Raises:
      InputError: The wavelet is unknown, `levels` is negative, or the size is not divisible by
        `2**levels`.
    """
    _check_levels(coefficients.shape, levels)
    if not levels:
        return coefficients
    rows, columns = coefficients.ndim - 3, coefficients.ndim - 2
    top, bottom = jnp.split(coefficients, 2, rows)
    coarse, right = jnp.split(top, 2, columns)
    coarse = inverse_wavelet_transform(coarse, wavelet, levels=levels - 1)
    top = _synthesize(coarse, right, wavelet, columns)
    left, both = jnp.split(bottom, 2, columns)
    bottom = _synthesize(left, both, wavelet, columns)
    return _synthesize(top, bottom, wavelet, rows)


def coarse_mask(size: tuple[int, int], levels: int) -> np.ndarray:
    """Return the mask of the coefficients of `wavelet_transform` that form the coarse image.

    Args:
      size: Height and width of the image, in pixels.
      levels: Number of levels of the transform.

    Returns:
      Boolean array of shape `size`, True in the `size / 2**levels` pixels at the top left.
    """
    height, width = size
    coarse = np.zeros(size, bool)
    coarse[: height >> levels, : width >> levels] = True
    return coarse


def block_dct(
    x: Float[Array, "*batch height width channels"], block: int = 8
) -> Float[Array, "*batch height width channels"]:
    """Compute the orthonormal DCT-II of each block of pixels, as in JPEG.

    Args:
      x: Images with height and width divisible by `block`.
      block: Height and width of a block, in pixels.

    Returns:
      Coefficients of the shape of x. Each block holds its own coefficients, with frequency 0 at its
      top left.

    Raises:
      InputError: The size is not divisible by `block`, or `block` is below 1.
    """
    return _over_blocks(jax.scipy.fft.dctn, x, block)


def inverse_block_dct(
    coefficients: Float[Array, "*batch height width channels"], block: int = 8
) -> Float[Array, "*batch height width channels"]:
    """Compute images from block DCT coefficients: the inverse and adjoint of `block_dct`.

    Args:
      coefficients: Coefficients in the layout of `block_dct`.
      block: As for `block_dct`.

    Returns:
      Images of the shape of the coefficients.

    Raises:
      InputError: The size is not divisible by `block`, or `block` is below 1.
    """
    return _over_blocks(jax.scipy.fft.idctn, coefficients, block)


def _over_blocks(transform, x: Array, block: int) -> Array:
    at_least("block", block, 1)
    *batch, height, width, channels = x.shape
    if height % block or width % block:
        raise InputError(
            "height and width must be divisible by block; got "
            f"block={block} and {height} x {width} pixels"
        )
    blocks = x.reshape(*batch, height // block, block, width // block, block, channels)
    return transform(blocks, norm="ortho", axes=(-4, -2)).reshape(x.shape)


def _check_levels(shape: tuple[int, ...], levels: int) -> None:
    at_least("levels", levels, 0)
    height, width = shape[-3:-1]
    if height % 2**levels or width % 2**levels:
        raise InputError(
            "height and width must be divisible by 2**levels; got "
            f"levels={levels} and {height} x {width} pixels"
        )


def _filters(wavelet: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the scaling filter h and its mirror g."""
    low = scaling_filter(wavelet)
    return low, low[::-1] * (-1.0) ** np.arange(len(low))


def _analyze(x: Array, wavelet: str, axis: int) -> tuple[Array, Array]:
    """Return the coarse and the detail coefficients along an axis, each of half its length."""
    n = x.shape[axis]
    filters = _filters(wavelet)
    margin = len(filters[0]) // 2 - 1
    x = _wrap(x, margin, axis)
    slices = [lax.slice_in_dim(x, k, k + n - 1, 2, axis) for k in range(len(filters[0]))]
    coarse, detail = (_weighted_sum(taps, slices) for taps in filters)
    return coarse, detail


def _synthesize(coarse: Array, detail: Array, wavelet: str, axis: int) -> Array:
    """Invert `_analyze` by its adjoint: even and odd samples each use every second tap."""
    n = coarse.shape[axis]
    filters = _filters(wavelet)
    moments = len(filters[0]) // 2
    parts = [_wrap(part, moments // 2, axis) for part in (coarse, detail)]

    def samples(parity: int) -> Array:
        taps = range((parity + moments - 1) % 2, 2 * moments, 2)
        starts = [moments // 2 + (parity + moments - 1 - k) // 2 for k in taps]
        slices = [lax.slice_in_dim(part, s, s + n, 1, axis) for part in parts for s in starts]
        return _weighted_sum([filter_[k] for filter_ in filters for k in taps], slices)

    both = jnp.stack([samples(0), samples(1)], axis=axis + 1)
    return both.reshape(*coarse.shape[:axis], 2 * n, *coarse.shape[axis + 1 :])


def _weighted_sum(weights: Iterable[float], images: Iterable[Array]) -> Array:
    terms = (float(w) * image for w, image in zip(weights, images, strict=True))
    return functools.reduce(jnp.add, terms)


def _wrap(x: Array, margin: int, axis: int) -> Array:
    """Pad x periodically by `margin` samples on each side of an axis."""
    return jnp.pad(x, [(margin, margin) if i == axis else (0, 0) for i in range(x.ndim)], "wrap")
