"""Checkerboard energy: strength of the periodic pattern that an upsampling layer leaves in images.

A transposed convolution computes the `stride` phases of its output with different weights. Where these
disagree, the output has a pattern of period `stride` (Odena et al., "Deconvolution and checkerboard
artifacts", Distill 2016), which is a spectral peak at the multiples of 1 / stride cycles per pixel.

Note: The metric is the height of the peak relative to its surroundings, because natural images have power
at these frequencies too. Images without the pattern have about 1, not 0.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from deconv_jax.errors import InputError, at_least

_INNER, _OUTER = 3, 6
"""Distances from a peak, in frequency bins, that bound its surroundings. The main lobe of a Hann window
extends two bins."""


def minimum_side(stride: int) -> int:
    """Return the shortest side in pixels of images for `checkerboard_energy`, 14 * stride.

    From this side on, no peak lies in the surroundings of another one.
    """
    return (2 * _OUTER + 2) * stride


def checkerboard_energy(
    images: Float[Array, "batch height width channels"], stride: int
) -> Float[Array, " batch"]:
    """Return the power at the harmonics of 1 / stride relative to their surroundings, for each image.

    It is the summed power of the stride^2 - 1 peaks divided by that of their surroundings, mean over channels.

    Images are cropped at the bottom and right to a multiple of `stride`, so that the harmonics fall on bins
    of the discrete spectrum. A Hann window keeps edges and strong neighbors from leaking into them.

    Args:
      images: Float images of any range; a constant offset has no effect.
      stride: Stride of the upsampling layer, at least 2.

    Returns:
      About 1 for images without the pattern; 10 is a peak of 10 dB. NaN where the surroundings have no
      power, as in a constant image.

    Raises:
      InputError: The stride is below 2, or a side is shorter than `minimum_side`.
    """
    at_least("stride", stride, 2)
    if min(images.shape[1:3]) < minimum_side(stride):
        raise InputError(
            f"checkerboard_energy requires images of at least {minimum_side(stride)} pixels per side for "
            f"stride={stride}; got {images.shape[1]} x {images.shape[2]}"
        )
    height, width = (n - n % stride for n in images.shape[1:3])
    cropped = images[:, :height, :width]
    cropped = cropped - jnp.mean(cropped, axis=(1, 2), keepdims=True)
    window = np.hanning(height + 1)[:-1, None] * np.hanning(width + 1)[:-1]
    windowed = cropped * jnp.asarray(window, cropped.dtype).reshape(1, height, width, 1)
    power = jnp.square(jnp.abs(jnp.fft.fft2(windowed, axes=(1, 2))))
    peaks, surroundings = [], []
    ring = [
        (i, j)
        for i in range(-_OUTER, _OUTER + 1)
        for j in range(-_OUTER, _OUTER + 1)
        if max(abs(i), abs(j)) >= _INNER
    ]
    for row in range(stride):
        for column in range(stride):
            if (row, column) != (0, 0):
                bin_row, bin_column = row * height // stride, column * width // stride
                peaks.append(power[:, bin_row, bin_column])
                rows = np.array([(bin_row + i) % height for i, _ in ring])
                columns = np.array([(bin_column + j) % width for _, j in ring])
                surroundings.append(jnp.mean(power[:, rows, columns], axis=1))
    ratio = sum(peaks) / sum(surroundings)
    return jnp.mean(ratio, axis=-1)
