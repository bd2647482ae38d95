"""The level of the noise that a photograph had before its JPEG compression.

Quantization sets most DCT coefficients of weak noise to zero, so the noise that is left in the file
says little. But the quantization steps are known: the energy E[q(x)^2] of a normal coefficient x after
quantization is a known function of its standard deviation, which is inverted here. The coefficients
are those of the luma in smooth blocks, chosen by other coefficients than the ones that are measured.
"""

import math

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.special import ndtr

LUMA = (0.299, 0.587, 0.114)
"""Weights of R, G and B in JPEG's luma."""
LUMA_NOISE = math.sqrt(sum(weight**2 for weight in LUMA))
"""Standard deviation of the luma of independent noise of 1 in R, G and B."""
MAX_BLOCKS = 2**15
"""Maximum number of blocks that an estimate examines, in evenly spaced rows of blocks."""
MAX_CLIPPED = 0.02
"""Fraction of a block's samples that may be 0 or 1."""

_SIDE = 8
_MEASURED, _CHOOSING = (6, 8), (1, 2, 3, 4, 5, 7)
"""Sums of the indices of the DCT coefficients that are measured, and by which blocks are chosen."""
_SMOOTH_FRACTION = 0.015
_MIN_BLOCKS = 24
"""Minimum number of smooth blocks; the 1,536 wavelet coefficients of 24 give an error of about 3 %."""
_LEVELS = np.geomspace(0.25, 128.0, 200)
"""Standard deviations of the luma, in gray levels, for which the energy is computed."""
_ROUNDING = 1.0 / 12.0
"""Variance of the rounding of pixels to integers."""
_TERMS = 32


def estimate_jpeg_noise_sigma(
    pixels: Float[np.ndarray, "height width channels"], table: Float[np.ndarray, "8 8"]
) -> float | None:
    """Return an estimate of the standard deviation of the noise before compression, in units of 1/255.

    The noise is independent in R, G and B, or gray.

    Args:
      pixels: Image in [0, 1] whose first block starts at the first pixel.
      table: Quantization steps of the luma, by vertical and horizontal frequency.

    Returns:
      The estimate, or None for an image without a block of 8 x 8 pixels.
    """
    height, width = (n // _SIDE for n in pixels.shape[:2])
    if not height or not width:
        return None
    step = math.ceil(height * width / MAX_BLOCKS)
    rows = [
        _blocks(pixels[_SIDE * row : _SIDE * (row + 1), : _SIDE * width])
        for row in range(0, height, step)
    ]
    luma, clipped = (np.concatenate(parts) for parts in zip(*rows, strict=True))
    transform = _dct_matrix()
    coefficients = transform @ luma @ transform.T
    order = np.add.outer(np.arange(_SIDE), np.arange(_SIDE))
    measured = np.isin(order, _MEASURED)
    activity = np.square(coefficients[:, np.isin(order, _CHOOSING)]).sum(axis=1)
    usable = clipped <= max(MAX_CLIPPED, np.quantile(clipped, 0.1))
    smooth = smoothest_blocks(activity, usable, _SMOOTH_FRACTION)
    energy = float(np.square(coefficients[smooth][:, measured]).mean())
    known = _quantized_energy(_LEVELS, table[measured]).mean(axis=1) + _ROUNDING
    level = float(np.interp(energy, known, _LEVELS, left=0.0))
    return level if pixels.shape[-1] == 1 else level / LUMA_NOISE


def smoothest_blocks(
    activity: Float[np.ndarray, " blocks"], usable: Bool[np.ndarray, " blocks"], fraction: float
) -> Int[np.ndarray, " chosen"]:
    """Return the indices of the usable blocks with the least activity: a fraction of them, or at least 24."""
    count = min(usable.sum(), max(_MIN_BLOCKS, round(fraction * usable.sum())))
    return np.argsort(np.where(usable, activity, np.inf), kind="stable")[:count]


def _blocks(strip: Float[np.ndarray, "8 width channels"]) -> tuple[np.ndarray, np.ndarray]:
    """Return the luma of each block in gray levels, and its fraction of clipped samples."""
    weights = np.ones(1) if strip.shape[-1] == 1 else np.array(LUMA)
    planes = 255.0 * (strip @ weights), ((strip == 0.0) | (strip == 1.0)).mean(axis=-1)
    luma, clipped = (plane.reshape(_SIDE, -1, _SIDE).swapaxes(0, 1) for plane in planes)
    return luma, clipped.mean(axis=(1, 2))


def _dct_matrix() -> np.ndarray:
    """Return the orthonormal DCT-II of 8 samples, frequencies by samples."""
    frequency, sample = np.mgrid[:_SIDE, :_SIDE]
    matrix = np.cos(np.pi * (2 * sample + 1) * frequency / (2 * _SIDE)) * math.sqrt(2.0 / _SIDE)
    matrix[0] /= math.sqrt(2.0)
    return matrix


def _quantized_energy(
    levels: Float[np.ndarray, " levels"], steps: Float[np.ndarray, " steps"]
) -> Float[np.ndarray, "levels steps"]:
    """Return the mean square of normal variables that are rounded to multiples of the steps."""
    sigma, width = levels[:, None, None], steps[:, None].astype(np.float64)
    value = np.arange(1, _TERMS + 1) * width
    probability = ndtr((value + width / 2) / sigma) - ndtr((value - width / 2) / sigma)
    exact = 2.0 * (np.square(value) * probability).sum(axis=-1)
    # With fine steps, the error of the quantization is uniform and independent.
    fine = np.square(levels)[:, None] + np.square(steps) / 12.0
    return np.where(levels[:, None] > 4.0 * steps, fine, exact)
