"""A check that metrics are computed from finite numbers, because NaN and infinity would go unnoticed."""

import numpy as np
from numpy.typing import ArrayLike

from deconv_jax.errors import InputError


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
