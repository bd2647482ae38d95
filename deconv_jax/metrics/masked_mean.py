"""Means over an evaluation set that count every example once, for any batch size and device count."""

import collections
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from deconv_jax.errors import InputError

PerExample = Mapping[str, Float[Array, " batch"]]


def masked_sums(per_example: PerExample, mask: Float[Array, " batch"]) -> dict[str, Array]:
    """Return the sum of each metric over the examples with mask 1, as float32 scalars.

    The result has the names of `per_example`, and "count" for the number of examples with mask 1. Values of
    padding examples (mask 0) are ignored, including infinity and NaN.
    """
    sums = {name: jnp.sum(jnp.where(mask > 0, values, 0.0)) for name, values in per_example.items()}
    return sums | {"count": jnp.sum(mask)}


def accumulate_sums(
    batches: Iterable[Mapping[str, Array]],
    sum_batch: Callable[[Mapping[str, Array]], dict[str, Array]],
) -> dict[str, Any]:
    """Add up the sums of all batches.

    The host accumulates in double precision, each batch after the next one has been dispatched.

    Args:
      batches: Arguments of `sum_batch`.
      sum_batch: Function that returns the `masked_sums` of a batch, among them "count", and optionally sums that are
        arrays.

    Returns:
      A float64 scalar or array for each name that `sums` returns, "count" among them.

    Raises:
      InputError: There is no example.
    """
    totals: dict[str, Any] = collections.defaultdict(float)

    def add(sums_of_batch: Mapping[str, Array]) -> None:
        for name, value in sums_of_batch.items():
            totals[name] = totals[name] + np.asarray(value, np.float64)

    pending: Mapping[str, Array] = {}
    for batch in batches:
        dispatched = sum_batch(batch)
        add(pending)
        pending = dispatched
    add(pending)
    if not totals["count"]:
        raise InputError("the split to evaluate on has no examples")
    return dict(totals)


def mean_over(
    batches: Iterable[Mapping[str, Array]],
    sum_batch: Callable[[Mapping[str, Array]], dict[str, Array]],
) -> dict[str, Any]:
    """Return the mean of each metric over all examples: `accumulate_sums` divided by "count".

    Args:
      batches, sums: As for `accumulate_sums`.

    Returns:
      A float for each scalar sum, a float64 array for each sum that is an array; "count" is left out.

    Raises:
      InputError: There is no example.
    """
    totals = accumulate_sums(batches, sum_batch)
    count = totals.pop("count")
    means = {name: total / count for name, total in totals.items()}
    return {name: mean if np.ndim(mean) else float(mean) for name, mean in means.items()}
