"""Means over an evaluation set that count every example once, whatever the batches and devices."""

from collections.abc import Callable, Iterable, Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from deconv_jax.errors import InputError

PerExample = Mapping[str, Float[Array, " batch"]]


def masked_sums(per_example: PerExample, mask: Float[Array, " batch"]) -> dict[str, Array]:
    """Sums over the examples with mask 1, and their number as "count"; float32 scalars.

    A filling's value may be anything, infinity and NaN included.
    """
    sums = {name: jnp.sum(jnp.where(mask > 0, values, 0.0)) for name, values in per_example.items()}
    return sums | {"count": jnp.sum(mask)}


def mean_over(
    batches: Iterable[Mapping[str, Array]], sums: Callable[[Mapping[str, Array]], dict[str, Array]]
) -> dict[str, float]:
    """The mean of each measure over all batches; `sums` gives a batch's `masked_sums`.

    Batches are added up on the host in double precision, after all have been dispatched.

    Raises:
      InputError: there is no batch.
    """
    per_batch = jax.device_get([sums(batch) for batch in batches])
    if not per_batch:
        raise InputError("the split to evaluate on has no examples")
    totals = {name: sum(float(batch[name]) for batch in per_batch) for name in per_batch[0]}
    count = totals.pop("count")
    return {name: total / count for name, total in totals.items()}
