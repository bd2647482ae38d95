"""Diversity of generated samples: classifier score, modes, class balance and pairwise similarity.

The classifier score (Salimans et al. 2016, arXiv:1606.03498) is the Inception score if the classifier is InceptionV3.
"""

import numpy as np
from jaxtyping import Array, Float, Integer

from deconv_jax.compilation import jit
from deconv_jax.errors import InputError, at_least
from deconv_jax.metrics.checks import check_finite, checked_rows
from deconv_jax.metrics.image import max_ms_ssim_scales, ms_ssim

SCORE_SPLITS = 10
"""Number of splits of a classifier score, as in the authors' code of the Inception score."""

_PAIRS = 50
"""Number of image pairs compared at a time."""

_ms_ssim = jit(ms_ssim, static_argnames="scales")


def classifier_score(
    probabilities: Float[np.ndarray, "count classes"], splits: int = SCORE_SPLITS
) -> tuple[float, float]:
    """Return the classifier score exp(E KL(p(y|x) || p(y))) and its deviation over splits.

    With InceptionV3 it is the Inception score of arXiv:1606.03498, section 4. As in the authors' code it is
    computed for each of `splits` consecutive splits, with the mean of the split as p(y). Small splits, or rows
    sorted by class, lower it.

    Args:
      probabilities: Class probabilities p(y|x) of each sample, which sum to 1 within 0.001.
      splits: Number of splits, at least 1. Their sizes differ by at most one row.

    Returns:
      Mean of the score over splits, from 1 to the number of classes, and its population standard deviation over
      splits.

    Raises:
      InputError: `splits` is below 1, there are fewer rows than splits, the array does not have two axes, or a row
        is not a distribution.
    """
    at_least("splits", splits, 1)
    probabilities = checked_rows("probabilities", probabilities, splits)
    sums = np.sum(probabilities, axis=1)
    if np.min(probabilities) < 0 or np.max(np.abs(sums - 1)) > 1e-3:
        raise InputError(
            "probabilities must be at least 0 and sum to 1 in each row; got values from "
            f"{np.min(probabilities):.6g} and sums from {np.min(sums):.6g} to {np.max(sums):.6g}"
        )
    scores = [
        np.exp(np.mean(_relative_entropy(part, np.mean(part, axis=0))))
        for part in np.array_split(probabilities, splits)
    ]
    return float(np.mean(scores)), float(np.std(scores))


def mode_coverage(
    labels: Integer[np.ndarray, " fake"], reference: Integer[np.ndarray, " real"], num_modes: int
) -> tuple[int, float]:
    """Return the number of modes that a generator reaches, and the reverse KL divergence of their frequencies.

    The metrics are those of stacked MNIST in arXiv:1712.04086.

    Args:
      labels: Mode of each fake sample according to a classifier, 0 to num_modes - 1.
      reference: Modes of real samples, preferably according to the same classifier.
      num_modes: Number of modes, 1000 for stacked MNIST.

    Returns:
      Number of distinct modes in `labels`, and KL(fake || real) in nats. Counts of real samples are increased
      by one, so that the divergence stays finite for a mode without real samples. Its expectation for two
      sets of n real samples is about (num_modes - 1) / n.

    Raises:
      InputError: There is no label, a label is out of range, or the labels are not integers on one axis.
    """
    fake = _class_counts("labels", labels, num_modes)
    real = _class_counts("reference labels", reference, num_modes)
    real_frequencies = (real + 1) / np.sum(real + 1)
    divergence = _relative_entropy(fake / np.sum(fake), real_frequencies)
    return int(np.count_nonzero(fake)), float(divergence)


def class_imbalance(labels: Integer[np.ndarray, " count"], num_classes: int) -> float:
    """Return the ratio of the largest to the smallest class, at least 1; infinite if a class is missing.

    Raises:
      InputError: There is no label, a label is out of range, or the labels are not integers on one axis.
    """
    counts = _class_counts("labels", labels, num_classes)
    return float(np.max(counts) / np.min(counts)) if np.min(counts) else np.inf


def mean_pairwise_ms_ssim(
    images: Float[Array | np.ndarray, "count height width channels"],
    *,
    pairs: int = 1000,
    seed: int = 0,
) -> float:
    """Return the mean MS-SSIM of random pairs of distinct images, in [0, 1]; lower is more diverse.

    Odena et al. 2017 (arXiv:1610.09585, section 4.2) compute it within each class and compare it with that of
    real images of the class, because a mixture hides the collapse of a single class. Images with a side below
    176, too small for five scales, are compared at the largest number of scales that fits; such values are not
    comparable with those for five.

    Args:
      images: Float images in [0, 1].
      pairs: Number of pairs to draw, with replacement.
      seed: Seed of the draw.

    Raises:
      InputError: There are fewer than two images, `pairs` is below 1, a side is below 11, a value is not finite,
        or the images are not floats.
    """
    at_least("the number of images", len(images), 2)
    at_least("pairs", pairs, 1)
    check_finite("images", images)
    scales = max(max_ms_ssim_scales(*images.shape[1:3]), 1)
    generator = np.random.default_rng(seed)
    first = generator.integers(len(images), size=pairs)
    second = (first + generator.integers(1, len(images), size=pairs)) % len(images)
    parts = [slice(start, start + _PAIRS) for start in range(0, pairs, _PAIRS)]
    values = [_ms_ssim(images[first[part]], images[second[part]], scales) for part in parts]
    return float(np.mean(np.concatenate(values), dtype=np.float64))


def _relative_entropy(p: np.ndarray, q: np.ndarray) -> np.ndarray | np.float64:
    """Return KL(p || q) over the last axis in nats; 0 log 0 = 0, and infinity where only q is 0."""
    with np.errstate(divide="ignore"):
        ratio = np.divide(p, q, out=np.ones_like(p), where=p > 0)
    return np.sum(p * np.log(ratio), axis=-1)


def _class_counts(name: str, labels: np.ndarray, num_classes: int) -> np.ndarray:
    at_least(f"the number of {name}", labels.size, 1)
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        raise InputError(f"{name} must be integers on one axis; got {labels.dtype} {labels.shape}")
    least, most = np.min(labels), np.max(labels)
    if least < 0 or most >= num_classes:
        raise InputError(f"{name} must be from 0 to {num_classes - 1}; got {least} to {most}")
    return np.bincount(labels.astype(np.int64), minlength=num_classes)
