"""The noise level of an image, estimated from the image alone.

The finest diagonal wavelet coefficients of a photograph are mostly noise. Their median absolute value
is that of a normal distribution with the noise's standard deviation (Donoho and Johnstone, "Ideal
spatial adaptation by wavelet shrinkage", Biometrika 81(3), 1994).

Note: Texture raises the estimate: clean photographs give 1 to 4 gray levels. Lossy compression and
processing in a camera remove fine noise, which lowers it.
"""

import math

import numpy as np
from jaxtyping import Float

from deconv_jax.ops.wavelets import scaling_filter

MAX_COEFFICIENTS = 2**20
"""Maximum number of coefficients per channel that an estimate uses, from evenly spaced rows."""

_NORMAL_MAD = 0.6744897501960817
"""Median absolute value of the standard normal distribution."""
_ZERO = 1e-6
"""Coefficients up to this value are of constant regions, such as saturated ones, without noise."""


def estimate_noise_sigma(pixels: Float[np.ndarray, "height width channels"]) -> float:
    """Return an estimate of the standard deviation of an image's Gaussian noise, in units of 1/255.

    It is the mean over channels of the estimates for each, which agree with those of scikit-image's
    `estimate_sigma`. Large images use at most 2^20 (`MAX_COEFFICIENTS`) coefficients per channel.

    Args:
      pixels: Image in [0, 1].

    Returns:
      The estimate; 0 for a constant image, and for one with a side below 4 pixels.
    """
    low = scaling_filter("db2")
    taps = low[::-1] * (-1.0) ** np.arange(len(low))
    height, width = ((n - len(taps)) // 2 + 1 for n in pixels.shape[:2])
    if height < 1 or width < 1:
        return 0.0
    step = math.ceil(height * width / MAX_COEFFICIENTS)
    rows = sum(
        tap * pixels[k : k + 2 * height - 1 : 2 * step].astype(np.float32)
        for k, tap in enumerate(taps.astype(np.float32))
    )
    details = sum(
        tap * rows[:, k : k + 2 * width - 1 : 2]
        for k, tap in enumerate(taps.astype(np.float32))
    )
    sigmas = []
    for channel in np.moveaxis(np.abs(details), -1, 0):
        noisy = channel[channel > _ZERO]
        sigmas.append(float(np.median(noisy)) / _NORMAL_MAD if noisy.size else 0.0)
    return 255.0 * float(np.mean(sigmas))
