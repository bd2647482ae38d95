"""Checkerboard energy: how strongly an image repeats with the stride of a layer that enlarged it.

A transposed convolution gives the `stride` phases of its output different weights; where they do not
agree the output carries a pattern of period `stride` (Odena et al., "Deconvolution and checkerboard
artifacts", Distill 2016), which in the spectrum is a peak at the multiples of 1 / stride cycles a
pixel. What a reader would get wrong: natural images have power there as well, so the measure is the
peak's height over its surroundings, and a pattern-free image has about 1, not 0.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from deconv_jax.errors import InputError, at_least

_INNER, _OUTER = 3, 6
"""Distances, in frequency bins, between which a peak's surroundings lie; a Hann window's own lobe is
two bins wide."""


def minimum_side(stride: int) -> int:
    """Pixels a side that `checkerboard_energy` needs: no harmonic lies in another's surroundings."""
    return (2 * _OUTER + 2) * stride


def checkerboard_energy(
    images: Float[Array, "batch height width channels"], stride: int
) -> Float[Array, " batch"]:
    """Power at the harmonics of 1 / stride over that of their surroundings, mean over channels.

    The images are cut at the bottom and right to a multiple of `stride`, so that the harmonics fall
    on bins of the discrete spectrum, and weighted by a Hann window, so that neither their edges nor
    a strong neighbour leak into them.

    Args:
      images: of any range; a constant offset does not count.
      stride: of the layer, pixels, at least 2.

    Returns:
      About 1 for images without the pattern; 10 is a peak of 10 dB. NaN where the surroundings have
      no power, as of a constant image.

    Raises:
      InputError: a stride below 2, or images smaller than `minimum_side`.
    """
    at_least("stride", stride, 2)
    if min(images.shape[1:3]) < minimum_side(stride):
        raise InputError(
            f"checkerboard_energy needs images of at least {minimum_side(stride)} pixels a side for "
            f"stride={stride}; got {images.shape[1]} x {images.shape[2]}"
        )
    height, width = (n - n % stride for n in images.shape[1:3])
    cut = images[:, :height, :width]
    cut = cut - jnp.mean(cut, axis=(1, 2), keepdims=True)
    window = np.hanning(height + 1)[:-1, None] * np.hanning(width + 1)[:-1]
    windowed = cut * jnp.asarray(window, cut.dtype).reshape(1, height, width, 1)
    power = jnp.square(jnp.abs(jnp.fft.fft2(windowed, axes=(1, 2))))
    peaks, around = [], []
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
                around.append(jnp.mean(power[:, rows, columns], axis=1))
    ratio = sum(peaks) / sum(around)
    return jnp.mean(ratio, axis=-1)
