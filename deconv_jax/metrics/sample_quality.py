"""All metrics of generated against real images, computed from extracted features.

The metrics themselves are in `feature_distance`, `nearest_neighbors` and `sample_diversity`. This
module sets the parameters that tables of results state (neighbors, block size, pairs) and computes
the metrics that the available data permits.
"""

import collections
import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from jaxtyping import Float, Int, UInt8

from deconv_jax.errors import InputError
from deconv_jax.metrics.checks import check_finite
from deconv_jax.metrics.feature_distance import (
    FeatureStatistics,
    frechet_distance,
    kernel_distance,
)
from deconv_jax.metrics.image import max_ms_ssim_scales
from deconv_jax.metrics.nearest_neighbors import density_coverage, precision_recall, repetition
from deconv_jax.metrics.sample_diversity import (
    SCORE_SPLITS,
    classifier_score,
    mean_pairwise_ms_ssim,
    mode_coverage,
)

PROTOCOL = (
    "images in random order; kernel distance over blocks of 1,000, with its standard error; precision and "
    "recall with k=3, density and coverage with k=5; repetition: share of samples closer to another one "
    "than a tenth of the median distance between nearest real images; modes and reverse KL (nats) over the "
    "extractor's classes; pairwise MS-SSIM: mean of 1,000 pairs; checkerboard energy of stride 2, median"
)

_INCEPTION_NAMES = {
    "frechet_distance": "fid",
    "kernel_distance": "kid",
    "kernel_distance_standard_error": "kid_standard_error",
    "classifier_score": "inception_score",
    "classifier_score_deviation": "inception_score_deviation",
}
"""Established names of metrics, reserved for features of InceptionV3."""

_NAMES = (
    "frechet_distance",
    "kernel_distance",
    "kernel_distance_standard_error",
    "precision",
    "recall",
    "density",
    "coverage",
    "repetition",
    "pairwise_ms_ssim",
    "real_pairwise_ms_ssim",
    "checkerboard_energy",
    "real_checkerboard_energy",
    "modes",
    "reverse_kl",
    "classifier_score",
    "classifier_score_deviation",
)

_MS_SSIM_IMAGES = 1000
"""Number of images from which the pairs for MS-SSIM are drawn."""
_MAX_MODES = 1000
"""Largest number of classes that are treated as modes of the data."""
_SHUFFLE_SEED = 0
"""Seed of the order of images, so that blocks and splits do not depend on how the data is sorted."""


def metric_names(*, inception: bool) -> tuple[str, ...]:
    """Return the names of all metrics that `sample_quality` can return.

    Args:
      inception: Whether the extractor is InceptionV3. It replaces "frechet_distance" by "fid", "kernel_distance"
        by "kid" and "classifier_score" by "inception_score", also in names that start with these.
    """
    return tuple(_INCEPTION_NAMES.get(name, name) if inception else name for name in _NAMES)


@dataclasses.dataclass(frozen=True)
class ImageSetFeatures:
    """Data extracted from a set of images, one row per image; None where it is not available.

    Attributes:
      features: Features of an extractor.
      probabilities: Class probabilities of the extractor for each plane that it classifies separately.
      images: The images.
      checkerboard_energy: Checkerboard energy of each image.
    """

    features: Float[np.ndarray, "count dims"]
    probabilities: Float[np.ndarray, "count planes classes"] | None = None
    images: UInt8[np.ndarray, "count height width channels"] | None = None
    checkerboard_energy: Float[np.ndarray, " count"] | None = None


def concatenate_batches(
    batches: Iterable[tuple[Mapping[str, np.ndarray], np.ndarray]],
) -> ImageSetFeatures:
    """Concatenate batches, leaving out rows where the mask is 0.

    Args:
      batches: Arrays of each batch by the name of their attribute of `ImageSetFeatures`, "features" among them;
        and the mask of its rows.

    Raises:
      InputError: There is no row.
    """
    rows: dict[str, list[np.ndarray]] = collections.defaultdict(list)
    for arrays, mask in batches:
        for name, array in arrays.items():
            rows[name].append(array[mask > 0])
    if not sum(map(len, rows["features"])):
        raise InputError("the split to evaluate on has no examples")
    return ImageSetFeatures(**{name: np.concatenate(arrays) for name, arrays in rows.items()})


def predicted_class(
    probabilities: Float[np.ndarray, "count planes classes"],
) -> Int[np.ndarray, " count"]:
    """Return the most probable class of each image.

    The classes of several planes are combined as the digits of one number in base `classes`, the first plane
    first.

    Raises:
      InputError: A probability is not finite.
    """
    check_finite("probabilities", probabilities)
    digits = probabilities.argmax(axis=-1)
    base = probabilities.shape[-1] ** np.arange(digits.shape[-1])[::-1]
    return digits @ base


def sample_quality(
    real: ImageSetFeatures, fake: ImageSetFeatures, *, inception: bool = False
) -> dict[str, float]:
    """Compute the metrics of generated images that the data permits, by name.

    Both sets are shuffled with fixed seeds, so that blocks and splits of sorted data are representative.
    `PROTOCOL` states the numbers of neighbors, blocks and pairs.

    Args:
      real: Real images.
      fake: Generated images.
      inception: Whether the extractor is InceptionV3, so that the Fréchet distance, the kernel distance
        and the classifier score are called "fid", "kid" and "inception_score".

    Returns:
      Always "frechet_distance", "kernel_distance", "precision", "recall", "density", "coverage" and
      "repetition". For more than one block of 1000 also "kernel_distance_standard_error". With probabilities
      of both sets also "modes" and "reverse_kl", for up to 1000 modes; and "classifier_score" and
      "classifier_score_deviation", for one plane and at least 10 fake images. With images of at least 11 pixels
      per side also "pairwise_ms_ssim", and with a finite checkerboard energy "checkerboard_energy", its median;
      the names of those of the real images start with "real_".

    Raises:
      InputError: There are fewer than 6 real or 4 fake images; the features differ in their number of
        dimensions; a value is not finite; a row of probabilities does not sum to 1; or more than half of the
        real features are duplicates.
    """
    real, fake = _shuffle(real, _SHUFFLE_SEED), _shuffle(fake, _SHUFFLE_SEED + 1)
    statistics = [FeatureStatistics.of(images.features) for images in (real, fake)]
    distance, standard_error = kernel_distance(real.features, fake.features)
    precision, recall = precision_recall(real.features, fake.features)
    density, coverage = density_coverage(real.features, fake.features)
    metrics = {
        "frechet_distance": frechet_distance(*statistics),
        "kernel_distance": distance,
        "precision": precision,
        "recall": recall,
        "density": density,
        "coverage": coverage,
        "repetition": repetition(real.features, fake.features),
    }
    if np.isfinite(standard_error):  # It is NaN for a single block.
        metrics["kernel_distance_standard_error"] = standard_error
    if real.probabilities is not None and fake.probabilities is not None:
        metrics |= _class_metrics(real.probabilities, fake.probabilities)
    for prefix, images in (("real_", real), ("", fake)):
        metrics |= {f"{prefix}{name}": value for name, value in _image_metrics(images).items()}
    if inception:
        metrics = {_INCEPTION_NAMES.get(name, name): value for name, value in metrics.items()}
    return metrics


def _class_metrics(real: np.ndarray, fake: np.ndarray) -> dict[str, float]:
    planes, classes = fake.shape[1:]
    metrics: dict[str, float] = {}
    if classes**planes <= _MAX_MODES:
        modes, reverse_kl = mode_coverage(
            predicted_class(fake), predicted_class(real), classes**planes
        )
        metrics |= {"modes": float(modes), "reverse_kl": reverse_kl}
    if planes == 1 and len(fake) >= SCORE_SPLITS:
        score, deviation = classifier_score(fake[:, 0])
        metrics |= {"classifier_score": score, "classifier_score_deviation": deviation}
    return metrics


def _image_metrics(images: ImageSetFeatures) -> dict[str, float]:
    metrics: dict[str, float] = {}
    if images.images is not None and max_ms_ssim_scales(*images.images.shape[1:3]):
        pixels = (images.images[:_MS_SSIM_IMAGES] / 255).astype(np.float32)
        metrics["pairwise_ms_ssim"] = mean_pairwise_ms_ssim(pixels)
    energy = images.checkerboard_energy
    if energy is not None and np.isfinite(energy).any():
        # The energy of an image of one color is NaN.
        metrics["checkerboard_energy"] = float(np.nanmedian(energy))
    return metrics


def _shuffle(images: ImageSetFeatures, seed: int) -> ImageSetFeatures:
    order = np.random.default_rng(seed).permutation(len(images.features))
    shuffled: dict[str, Any] = {}
    for field in dataclasses.fields(images):
        array = getattr(images, field.name)
        shuffled[field.name] = None if array is None else array[order]
    return ImageSetFeatures(**shuffled)
