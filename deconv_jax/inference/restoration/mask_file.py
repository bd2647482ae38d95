"""Masks of missing pixels read from image files."""

from pathlib import Path

import numpy as np
from jaxtyping import Float

from deconv_jax.data.images import read_image
from deconv_jax.errors import InputError


def read_mask(path: Path) -> Float[np.ndarray, "height width"]:
    """Return a mask from an image whose missing pixels are white and whose other pixels are black.

    Returns:
      Float32 array, 0 for missing pixels, whose mean over channels is above one half, and 1 for known ones.

    Raises:
      InputError: The file is unreadable, or all pixels or none are missing.
    """
    missing = read_image(path).pixels.mean(axis=-1) > 0.5
    if missing.all() or not missing.any():
        number = "all" if missing.all() else "none"
        raise InputError(f"mask {path} must have black and white pixels; {number} are white")
    return (~missing).astype(np.float32)
