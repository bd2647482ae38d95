"""Blur kernels read from image files and NumPy arrays."""

from pathlib import Path

import numpy as np
from jaxtyping import Float

from deconv_jax.data.images import read_image
from deconv_jax.errors import InputError
from deconv_jax.io import open_regular

_MAX_PIXELS = 2**24
"""Maximum number of pixels of a kernel."""
_MAX_REASON_LENGTH = 200
"""Maximum length of NumPy's error message, which may quote the header of the file."""


def read_kernel(path: Path) -> Float[np.ndarray, "height width"]:
    """Return a blur kernel read from an image or from a NumPy file (.npy) with a 2-D array.

    Returns:
      Float32 array that sums to 1. The channels of a color image are averaged.

    Raises:
      InputError: The file is unreadable, or the array is not 2-D, is empty, has more than 2^24
        pixels or non-finite values, or does not have a positive sum.
    """
    suffix = path.suffix.lower()
    if suffix == ".mat":
        raise InputError(
            f"cannot read kernel {path}: MATLAB files are not supported; use .png or .npy"
        )
    if suffix == ".npy":
        try:
            # Memory-mapped, so that a header that claims too many elements allocates nothing.
            with open_regular(path):
                kernel = np.load(path, mmap_mode="r", allow_pickle=False)
        except Exception as error:  # NumPy raises many kinds of errors for a damaged header.
            reason = getattr(error, "strerror", None) or str(error).strip() or type(error).__name__
            raise InputError(
                f"cannot read kernel {path}: {reason.splitlines()[0][:_MAX_REASON_LENGTH]}"
            ) from error
    else:
        kernel = read_image(path, _MAX_PIXELS).pixels.mean(axis=-1, dtype=np.float64)
    if not isinstance(kernel, np.ndarray) or kernel.ndim != 2 or kernel.dtype.kind not in "biuf":
        raise InputError(f"kernel {path} must be a 2-D array of real numbers")
    if kernel.size > _MAX_PIXELS:
        raise InputError(
            f"kernel {path} must have at most {_MAX_PIXELS} pixels; got shape {kernel.shape}"
        )
    kernel = kernel.astype(np.float64)
    total = kernel.sum()
    if not kernel.size or not np.isfinite(kernel).all() or not total > 0:
        raise InputError(
            f"kernel {path} must have finite values with a positive sum; got shape {kernel.shape} "
            f"with sum {total}"
        )
    return (kernel / total).astype(np.float32)
