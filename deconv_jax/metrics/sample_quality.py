"""All measures of a set of samples beside a set of real images, from what was seen of either.

`generative` has the measures themselves. Here are the choices that a table states: numbers of
neighbours, blocks and pairs, and which measures a set of images permits.
"""

import collections
import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from jaxtyping import Float, Int, UInt8

from deconv_jax.errors import InputError
from deconv_jax.metrics import generative
from deconv_jax.metrics.finite import check_finite

METRIC_NAMES = (
    "fid",
    "kid",
    "kid_standard_error",
    "precision",
    "recall",
    "density",
    "coverage",
    "repetition",
    "diversity",
    "real_diversity",
    "checkerboard_energy",
    "real_checkerboard_energy",
    "modes",
    "reverse_kl",
    "inception_score",
    "inception_score_deviation",
)
"""Names of all metrics that `sample_quality` can return."""

PROTOCOL = (
    "rows in a random order; kid with blocks of 1,000 and its standard error; precision and recall "
    "with k=3, density and coverage with k=5; repetition: samples nearer to another one than a tenth of "
    "real images' median distance; modes and reverse KL (nats) of the extractor's classes; diversity: "
    "MS-SSIM of 1,000 pairs; checkerboard energy of stride 2, median"
)

_PAIRS_OF = 1000
"""Images that pairs are drawn from."""
_MOST_MODES = 1000
"""Classes up to which they are taken for modes of the data."""
_ORDER_SEED = 0
"""Of the random order that blocks and parts are taken in, whatever the order of the data."""


@dataclasses.dataclass(frozen=True)
class ImageSetFeatures:
    """What is known of a set of images, a row an image; None for what is not.

    Attributes:
      features: of an extractor.
      probabilities: of its classes, for each plane that it looks at by itself.
      images: the images.
      energy: checkerboard energy.
    """

    features: Float[np.ndarray, "count dims"]
    probabilities: Float[np.ndarray, "count planes classes"] | None = None
    images: UInt8[np.ndarray, "count height width channels"] | None = None
    energy: Float[np.ndarray, " count"] | None = None


def concatenate_batches(
    batches: Iterable[tuple[Mapping[str, np.ndarray], np.ndarray]],
) -> ImageSetFeatures:
    """One `ImageSetFeatures` of (its arrays, mask) of batches; rows of mask 0 are left out.

    Raises:
      InputError: there is no row.
    """
    rows: dict[str, list[np.ndarray]] = collections.defaultdict(list)
    for arrays, mask in batches:
        for name, array in arrays.items():
            rows[name].append(array[mask > 0])
    if not sum(map(len, rows["features"])):
        raise InputError("the split to evaluate on has no examples")
    return ImageSetFeatures(**{name: np.concatenate(arrays) for name, arrays in rows.items()})


def classified_as(
    probabilities: Float[np.ndarray, "count planes classes"],
) -> Int[np.ndarray, " count"]:
    """The class of every image: of several planes the number that theirs spell.

    Raises:
      InputError: probabilities are not finite.
    """
    check_finite("probabilities", probabilities)
    digits = probabilities.argmax(axis=-1)
    base = probabilities.shape[-1] ** np.arange(digits.shape[-1])[::-1]
    return digits @ base


def sample_quality(real: ImageSetFeatures, fake: ImageSetFeatures) -> dict[str, float]:
    """The measures of `PROTOCOL` that what was seen permits, by name.

    Rows are taken in a random order of fixed seeds, so that blocks and parts are fair samples of sets
    that come sorted.

    Raises:
      InputError: as the measures do.
    """
    real, fake = _shuffled(real, _ORDER_SEED), _shuffled(fake, _ORDER_SEED + 1)
    statistics = [generative.FeatureStatistics.of(seen.features) for seen in (real, fake)]
    kid, kid_error = generative.kernel_distance(real.features, fake.features)
    precision, recall = generative.precision_recall(real.features, fake.features)
    density, coverage = generative.density_coverage(real.features, fake.features)
    measures = {
        "fid": generative.frechet_distance(*statistics),
        "kid": kid,
        "precision": precision,
        "recall": recall,
        "density": density,
        "coverage": coverage,
        "repetition": generative.repetition(real.features, fake.features),
    }
    if np.isfinite(kid_error):  # More than one block.
        measures["kid_standard_error"] = kid_error
    if real.probabilities is not None and fake.probabilities is not None:
        measures |= _of_classes(real.probabilities, fake.probabilities)
    for name, seen in (("real_", real), ("", fake)):
        if seen.images is not None and generative.ms_ssim_scales(*seen.images.shape[1:3]):
            images = (seen.images[:_PAIRS_OF] / 255).astype(np.float32)
            measures[f"{name}diversity"] = generative.diversity(images)
        if seen.energy is not None and np.isfinite(seen.energy).any():
            # An image of one colour has no energy to speak of.
            measures[f"{name}checkerboard_energy"] = float(np.nanmedian(seen.energy))
    return measures


def _of_classes(real: np.ndarray, fake: np.ndarray) -> dict[str, float]:
    planes, classes = fake.shape[1:]
    measures: dict[str, float] = {}
    if classes**planes <= _MOST_MODES:
        modes, reverse_kl = generative.mode_coverage(
            classified_as(fake), classified_as(real), classes**planes
        )
        measures |= {"modes": float(modes), "reverse_kl": reverse_kl}
    if planes == 1 and len(fake) >= generative.SCORE_SPLITS:
        score, deviation = generative.inception_score(fake[:, 0])
        measures |= {"inception_score": score, "inception_score_deviation": deviation}
    return measures


def _shuffled(seen: ImageSetFeatures, seed: int) -> ImageSetFeatures:
    order = np.random.default_rng(seed).permutation(len(seen.features))
    shuffled: dict[str, Any] = {}
    for field in dataclasses.fields(seen):
        array = getattr(seen, field.name)
        shuffled[field.name] = None if array is None else array[order]
    return ImageSetFeatures(**shuffled)
