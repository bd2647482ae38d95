"""How well an image continues across its own borders, when it is repeated like a tile."""

import math

import numpy as np
from jaxtyping import Real

from deconv_jax.errors import InputError


def seam_energy(image: Real[np.ndarray, "height width channels"], axis: int) -> float:
    """Return the gradient energy across the seam of a repeated image, over that inside.

    The energy is the mean squared difference of neighboring pixels: of the last and the first row (or
    column) at the seam, and of all other neighbors inside. A texture that tiles has a ratio of about 1; noise
    of the estimate is that of a single row. A visible seam has a ratio far above 1.

    Args:
      image: Image of floats or integers with at least two pixels along the axis.
      axis: 0 for the seam between the bottom and the top, 1 for that between the right and the left.

    Returns:
      The ratio; for an image that is constant inside, 1 without a seam and infinity with one.

    Raises:
      InputError: The image has fewer than two pixels along the axis.
    """
    image = np.asarray(image, np.float64)
    if image.shape[axis] < 2:
        raise InputError(f"an image must have two pixels along axis {axis}; got {image.shape}")
    energy = np.square(np.roll(image, -1, axis) - image)
    seam = energy.take(-1, axis).mean()
    inside = energy.take(range(image.shape[axis] - 1), axis).mean()
    if not inside:
        return math.inf if seam else 1.0
    return float(seam / inside)
