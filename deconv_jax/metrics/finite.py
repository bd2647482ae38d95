"""The check that a measure is of numbers: infinity and NaN compare as anything, or as nothing."""

import numpy as np
from numpy.typing import ArrayLike

from deconv_jax.errors import InputError


def check_finite(name: str, values: ArrayLike) -> None:
    """Raise InputError if an array holds infinity or NaN.

    Args:
      name: what the message calls the array, in the plural.
      values: numbers of any shape, on the host.
    """
    array = np.asarray(values)
    wrong = int(np.count_nonzero(~np.isfinite(array)))
    if wrong:
        raise InputError(
            f"{name} must be finite; got infinity or NaN in {wrong} of {array.size} numbers "
            f"{array.shape}"
        )
