"""Metrics of classifiers: top-k accuracy and calibration error.

The expected calibration error is that of Guo et al. (arXiv:1706.04599, equation 3) with 15 bins of equal
width. It is exact for any batch size, because the sums per bin are accumulated over the whole set first.

Note: Bins exclude their lower edge, as in the paper: (0, 1/15], (1/15, 2/15], ... The mean of the errors
of batches is larger than the error of the set.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from deconv_jax.errors import InputError
from deconv_jax.metrics.checks import check_finite

CALIBRATION_BINS = 15
"""Number of confidence bins, as in the paper's tables."""


def in_top_k(
    logits: Float[Array, "batch classes"], labels: Int[Array, " batch"], k: int
) -> Float[Array, " batch"]:
    """Return 1 where the label is among the k classes of largest logits, else 0.

    Ties go to the lower class. An example with a non-finite logit gives 0. A k above the number of
    classes is a ValueError.
    """
    _, best = jax.lax.top_k(logits, k)
    found = jnp.any(best == labels[:, None], axis=-1) & _all_finite(logits)
    return found.astype(jnp.float32)


def calibration_sums(
    logits: Float[Array, "batch classes"],
    labels: Int[Array, " batch"],
    mask: Float[Array, " batch"],
) -> Float[Array, "3 bins"]:
    """Return the count, the sum of confidences and the number of correct predictions of each bin.

    Row 0 holds the counts, row 1 the sums of confidences (the largest softmax probabilities), row 2 the
    numbers of correct predictions. Only examples with mask 1 count. Sums of batches add up to those
    of the set. An example with a non-finite logit makes the confidence of the first bin NaN.
    """
    confidence = jnp.max(jax.nn.softmax(logits), axis=-1)
    confidence = jnp.where(_all_finite(logits), confidence, jnp.nan)
    correct = jnp.argmax(logits, axis=-1) == labels
    bins = jnp.nan_to_num(jnp.ceil(confidence * CALIBRATION_BINS)).astype(jnp.int32)
    index = jnp.clip(bins - 1, 0, CALIBRATION_BINS - 1)
    counted = mask > 0
    values = jnp.stack([jnp.ones_like(confidence), confidence, correct.astype(confidence.dtype)])
    # Padding examples may hold any value, NaN included.
    values = jnp.where(counted[None], values, 0.0)
    return jnp.zeros((3, CALIBRATION_BINS)).at[:, jnp.where(counted, index, 0)].add(values)


def calibration_error(sums: Float[np.ndarray, "3 bins"]) -> float:
    """Return the expected calibration error, in [0, 1].

    It is the mean of |accuracy - confidence| over the bins, weighted by their number of examples.

    Args:
      sums: Sums of `calibration_sums` over a whole set.

    Raises:
      InputError: There is no example, or a logit was not finite.
    """
    check_finite("confidences", sums)
    counts, confidence, correct = sums
    if not counts.sum() > 0:
        raise InputError("calibration error requires at least one example; got 0")
    return float(np.abs(correct - confidence).sum() / counts.sum())


def _all_finite(logits: Array) -> Array:
    return jnp.all(jnp.isfinite(logits), axis=-1)
