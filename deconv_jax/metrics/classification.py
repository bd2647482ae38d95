"""Measures of classifiers: top-k accuracy and calibration.

Calibration error is that of Guo et al. (arXiv:1706.04599, equation 3) with 15 bins of equal width; the
bins' sums are added up over a whole set before any difference is taken, so that it is exact, whatever the
batches. What a reader would get wrong: bins are open at their lower end, (0, 1/15], and so is the formula's;
the mean of the errors of batches would be another, larger number.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from deconv_jax.errors import InputError
from deconv_jax.metrics.finite import check_finite

BINS = 15
"""Of confidence, equally wide, as in the paper's tables."""


def in_top(
    logits: Float[Array, "batch classes"], labels: Int[Array, " batch"], k: int
) -> Float[Array, " batch"]:
    """1 where the label is among the k classes of the largest logits, else 0; of equal logits the first count.

    Note: an example with a logit that is infinite or NaN has no order of classes and gives 0.
    """
    _, best = jax.lax.top_k(logits, k)
    found = jnp.any(best == labels[:, None], axis=-1) & _finite(logits)
    return found.astype(jnp.float32)


def calibration_sums(
    logits: Float[Array, "batch classes"],
    labels: Int[Array, " batch"],
    mask: Float[Array, " batch"],
) -> Float[Array, "3 bins"]:
    """Of each bin of confidence the examples, their confidence and how many are right, over mask 1.

    Confidence is the largest probability. Sums of several batches add up to those of a set. An
    example with a logit that is infinite or NaN makes the first bin's confidence NaN.
    """
    confidence = jnp.max(jax.nn.softmax(logits), axis=-1)
    confidence = jnp.where(_finite(logits), confidence, jnp.nan)
    right = jnp.argmax(logits, axis=-1) == labels
    bins = jnp.nan_to_num(jnp.ceil(confidence * BINS)).astype(jnp.int32)
    place = jnp.clip(bins - 1, 0, BINS - 1)
    counted = mask > 0
    values = jnp.stack([jnp.ones_like(confidence), confidence, right.astype(confidence.dtype)])
    # A filling's value may be anything, NaN included.
    values = jnp.where(counted[None], values, 0.0)
    return jnp.zeros((3, BINS)).at[:, jnp.where(counted, place, 0)].add(values)


def calibration_error(sums: Float[np.ndarray, "3 bins"]) -> float:
    """Mean over examples of |accuracy - confidence| of the bin each is in, in [0, 1].

    Args:
      sums: of `calibration_sums`, of a whole set.

    Raises:
      InputError: sums of no example, or of logits that are not finite.
    """
    check_finite("confidences", sums)
    counts, confidence, right = sums
    if not counts.sum() > 0:
        raise InputError("calibration is of examples; there is none")
    return float(np.abs(right - confidence).sum() / counts.sum())


def _finite(logits: Array) -> Array:
    """Which examples have logits that are numbers, all of them."""
    return jnp.all(jnp.isfinite(logits), axis=-1)
