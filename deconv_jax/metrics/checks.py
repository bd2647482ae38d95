"""Checks of the inputs of metrics: finite numbers, and feature sets that can be compared."""

import numpy as np
from numpy.typing import ArrayLike

from deconv_jax.errors import InputError, at_least


def check_finite(name: str, values: ArrayLike) -> None:
    """Raise InputError if an array holds infinity or NaN.

    Args:
      name: Name of the array in the error message, in the plural.
      values: Numbers of any shape, on the host.
    """
    array = np.asarray(values)
    wrong = int(np.count_nonzero(~np.isfinite(array)))
    if wrong:
        raise InputError(
            f"{name} must be finite; got infinity or NaN in {wrong} of {array.size} numbers "
            f"{array.shape}"
        )


def checked_rows(name: str, values: np.ndarray, least: int) -> np.ndarray:
    """Check that there are at least `least` rows, all finite; return them in double precision.

    Raises:
      InputError: There are fewer rows, the array does not have two axes, or a value is not finite.
    """
    if values.ndim != 2:
        raise InputError(f"{name} must be an array of two axes; got shape {values.shape}")
    at_least(f"the number of {name}", len(values), least)
    check_finite(name, values)
    return np.asarray(values, np.float64)


def feature_pair(
    real: np.ndarray, fake: np.ndarray, least: int, least_fake: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Check two sets of features, and convert them to double precision.

    Args:
      real: Features of real images, one row per image.
      fake: Features of generated images.
      least: Minimum number of rows of each set.
      least_fake: Minimum number of rows of `fake`, if it is another one.

    Raises:
      InputError: A set has fewer rows, an array does not have two axes, a value is not finite, or the numbers
        of dimensions differ.
    """
    real = checked_rows("real features", real, least)
    fake = checked_rows("fake features", fake, least if least_fake is None else least_fake)
    check_same_dims("real features", real, "fake features", fake)
    return real, fake


def check_same_dims(a_name: str, a: np.ndarray, b_name: str, b: np.ndarray) -> None:
    """Raise InputError if two arrays of rows differ in their number of columns."""
    if a.shape[1] != b.shape[1]:
        raise InputError(
            f"{a_name} and {b_name} must have equal dimensions; got {a.shape[1]} and {b.shape[1]}"
        )
