"""The noise level of an image, estimated from the image alone.

The finest diagonal wavelet coefficients of a smooth region are noise, and their median absolute value
is that of a normal distribution (Donoho and Johnstone, "Ideal spatial adaptation by wavelet
shrinkage", Biometrika 81(3), 1994). Texture raises the median over a whole photograph by 1 to 4 gray
levels. The estimate therefore uses only the smoothest blocks: those with the least energy in the
horizontal and vertical coefficients. For white noise these are independent of the diagonal ones, so
the choice of blocks does not bias the estimate. Blocks with clipped pixels, where noise is reduced,
are left out.

Note: Lossy compression other than JPEG and processing in a camera remove fine noise, which lowers the
estimate.
"""

import math

import numpy as np
from jaxtyping import Float

from deconv_jax.inference.restoration.jpeg_noise_level import (
    LUMA,
    LUMA_NOISE,
    MAX_CLIPPED,
    estimate_jpeg_noise_sigma,
    smoothest_blocks,
)
from deconv_jax.ops.wavelets import scaling_filter

MAX_BLOCKS = 2**14
"""Maximum number of blocks that an estimate examines, in evenly spaced rows of blocks."""

_BLOCK = 8
"""Side of a block, in coefficients; 16 pixels."""
_SMOOTH_FRACTION = 0.05
"""Fraction of the blocks without clipping that count as smooth."""
_CORRELATED = 1.2
"""Ratio above which the luma has more noise than independent channels; 1.5 for equal channels."""
_NORMAL_MAD = 0.6744897501960817
"""Median absolute value of the standard normal distribution."""
_ZERO = 1e-6
"""Coefficients up to this value are those of regions without noise."""


def estimate_noise_sigma(
    pixels: Float[np.ndarray, "height width channels"],
    jpeg_table: Float[np.ndarray, "8 8"] | None = None,
) -> float:
    """Return an estimate of the standard deviation of an image's Gaussian noise, in units of 1/255.

    It is the mean over the channels, or the level of independent noise with the same luma if that is
    much larger: noise may be equal in all channels, or weaker in the chroma. At most 2^14 (`MAX_BLOCKS`)
    blocks of 16 x 16 pixels are examined, so that large images take little time and memory.

    Args:
      pixels: Image in [0, 1].
      jpeg_table: Quantization steps of the luma if the image is from a JPEG file; the estimate is then
        the level before the compression, see `estimate_jpeg_noise_sigma`.

    Returns:
      The estimate; 0 for an image with a side below 4 pixels, and for drawings: images that are
      clipped almost everywhere, or constant in more than half of the blocks without clipping.
    """
    if jpeg_table is not None:
        before = estimate_jpeg_noise_sigma(pixels, jpeg_table)
        if before is not None:
            return before
    height, width = ((n - 2) // 2 for n in pixels.shape[:2])
    side = min(_BLOCK, height, width)
    if side < 1:
        return 0.0
    step = math.ceil((height // side) * (width // side) / MAX_BLOCKS)
    strips = [
        _examine(pixels[2 * side * row : 2 * side * (row + 1) + 2], side)
        for row in range(0, height // side, step)
    ]
    details, activity, clipped = (np.concatenate(parts) for parts in zip(*strips, strict=True))
    least_clipped = max(MAX_CLIPPED, np.quantile(clipped, 0.1))
    usable = clipped <= least_clipped
    flat = details.max(axis=(1, 2)) <= _ZERO
    if least_clipped > 0.5 or flat[usable].mean() > 0.5:
        return 0.0
    usable &= ~flat
    smooth = smoothest_blocks(activity, usable, _SMOOTH_FRACTION)
    planes = np.moveaxis(details[smooth], -1, 0)
    levels = [float(np.median(v[v > _ZERO])) if (v > _ZERO).any() else 0.0 for v in planes]
    if len(levels) > 1:
        *channels, luma = levels
        mean, equivalent = float(np.mean(channels)), luma / LUMA_NOISE
        levels = [equivalent if equivalent > _CORRELATED * mean else mean]
    return 255.0 / _NORMAL_MAD * levels[0]


def _examine(
    strip: Float[np.ndarray, "rows width channels"], side: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return what describes each block of a row of blocks.

    Args:
      strip: Rows of pixels, 2 more than those of the blocks.
      side: Side of a block, in coefficients.

    Returns:
      Absolute diagonal coefficients (blocks, side^2, channels), with the luma as the last of several
      channels; energy of the horizontal and vertical ones (blocks,); and fraction of clipped samples
      (blocks,).
    """
    low = scaling_filter("db2").astype(np.float32)
    high = low[::-1] * np.array([1, -1, 1, -1], np.float32)
    # Images in memory may have noise beyond [0, 1].
    clipped = ((strip == 0.0) | (strip == 1.0)).mean(axis=-1, keepdims=True)
    if strip.shape[-1] > 1:
        luma = strip @ np.array(LUMA, np.float32)
        strip = np.concatenate([strip, luma[..., None]], axis=-1)
    count = (strip.shape[1] - 2) // 2 // side

    def filtered(x: np.ndarray, taps: np.ndarray, axis: int) -> np.ndarray:
        """Filter along an axis and keep every second value, without padding."""
        size = 2 * ((x.shape[axis] - len(taps)) // 2) + 1
        shifted = [np.take(x, range(k, k + size, 2), axis=axis) for k in range(len(taps))]
        return np.tensordot(taps, shifted, axes=1)

    def blocks(x: np.ndarray, length: int) -> np.ndarray:
        """Return (blocks, values, channels) from (length, width, channels)."""
        x = x[:length, : count * length].reshape(length, count, length, -1)
        return x.swapaxes(0, 1).reshape(count, length**2, x.shape[-1])

    smooth, rough = filtered(strip, low, 0), filtered(strip, high, 0)
    diagonal = np.abs(blocks(filtered(rough, high, 1), side))
    energy = sum(
        np.square(blocks(filtered(x, taps, 1), side)).mean(axis=(1, 2))
        for x, taps in ((smooth, high), (rough, low))
    )
    return diagonal, np.asarray(energy), blocks(clipped, 2 * side).mean(axis=(1, 2))
