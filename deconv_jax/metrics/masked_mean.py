"""Means over an evaluation set that count every example once, whatever the batches and devices."""

import collections
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from deconv_jax.errors import InputError

PerExample = Mapping[str, Float[Array, " batch"]]


def masked_sums(per_example: PerExample, mask: Float[Array, " batch"]) -> dict[str, Array]:
    """Sums over the examples with mask 1, and their number as "count"; float32 scalars.

    A filling's value may be anything, infinity and NaN included.
    """
    sums = {name: jnp.sum(jnp.where(mask > 0, values, 0.0)) for name, values in per_example.items()}
    return sums | {"count": jnp.sum(mask)}


def accumulate_sums(
    batches: Iterable[Mapping[str, Array]], sums: Callable[[Mapping[str, Array]], dict[str, Array]]
) -> dict[str, Any]:
    """The sum of each measure over all batches.

    Batches are added up on the host in double precision, each once the next has been dispatched.

    Args:
      batches: what `sums` takes.
      sums: gives a batch's `masked_sums`; and arrays, if it likes, summed over the same examples.

    Returns:
      A float64 scalar or array for each sum, "count" among them.

    Raises:
      InputError: there is no example.
    """
    totals: dict[str, Any] = collections.defaultdict(float)

    def add(sums_of_batch: Mapping[str, Array]) -> None:
        for name, value in sums_of_batch.items():
            totals[name] = totals[name] + np.asarray(value, np.float64)

    pending: Mapping[str, Array] = {}
    for batch in batches:
        dispatched = sums(batch)
        add(pending)
        pending = dispatched
    add(pending)
    if not totals["count"]:
        raise InputError("the split to evaluate on has no examples")
    return dict(totals)


def mean_over(
    batches: Iterable[Mapping[str, Array]], sums: Callable[[Mapping[str, Array]], dict[str, Array]]
) -> dict[str, Any]:
    """The mean of each measure over all examples: `accumulate_sums`, and arguments as there, over "count".

    Returns:
      A float for each sum that is a scalar, float64 arrays for others.

    Raises:
      InputError: there is no example.
    """
    totals = accumulate_sums(batches, sums)
    count = totals.pop("count")
    means = {name: total / count for name, total in totals.items()}
    return {name: mean if np.ndim(mean) else float(mean) for name, mean in means.items()}
