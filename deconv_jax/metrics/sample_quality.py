"""All measures of a set of samples beside a set of real images, from what was seen of either.

`generative` has the measures themselves. Here are the choices that a table states: numbers of
neighbours, blocks and pairs, and which measures a set of images permits.
"""

import dataclasses
from collections.abc import Iterable, Mapping

import numpy as np
from jaxtyping import Float, Int

from deconv_jax.errors import InputError
from deconv_jax.metrics import generative

PROTOCOL = (
    "kid with blocks of 1,000 and its standard error; precision and recall with k=3, density and "
    "coverage with k=5; repetition: samples nearer to another one than a tenth of real images' median "
    "distance; modes and reverse KL (nats) of the extractor's classes; diversity: MS-SSIM of 1,000 "
    "pairs; checkerboard energy of stride 2, median"
)

_PAIRS_OF = 1000
"""Images at most that pairs are drawn from."""


@dataclasses.dataclass(frozen=True)
class Seen:
    """What is known of a set of images, a row an image; None for what is not.

    Attributes:
      features: of an extractor.
      probabilities: of its classes, for each plane that it looks at by itself.
      images: the images, or the first of them, in [0, 1].
      energy: checkerboard energy.
    """

    features: Float[np.ndarray, "count dims"]
    probabilities: Float[np.ndarray, "count planes classes"] | None = None
    images: Float[np.ndarray, "some height width channels"] | None = None
    energy: Float[np.ndarray, " count"] | None = None


def gathered(batches: Iterable[tuple[Mapping[str, np.ndarray], np.ndarray]]) -> Seen:
    """One `Seen` of (its arrays, mask) of batches; rows of mask 0 are left out.

    Raises:
      InputError: there is no row.
    """
    rows: dict[str, list[np.ndarray]] = {}
    kept = 0
    for arrays, mask in batches:
        for name, array in arrays.items():
            if name != "images" or kept < _PAIRS_OF:
                rows.setdefault(name, []).append(array[mask > 0])
        kept += int(np.sum(mask > 0))
    if not kept:
        raise InputError("the split to evaluate on has no examples")
    return Seen(**{name: np.concatenate(arrays) for name, arrays in rows.items()})


def classified_as(
    probabilities: Float[np.ndarray, "count planes classes"],
) -> Int[np.ndarray, " count"]:
    """The class of every image: of several planes the number that theirs spell."""
    digits = probabilities.argmax(axis=-1)
    base = probabilities.shape[-1] ** np.arange(digits.shape[-1])[::-1]
    return digits @ base


def sample_quality(real: Seen, fake: Seen) -> dict[str, float]:
    """The measures of `PROTOCOL` that what was seen permits, by name.

    Raises:
      InputError: as the measures do.
    """
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
        planes, classes = fake.probabilities.shape[1:]
        labels, reference = classified_as(fake.probabilities), classified_as(real.probabilities)
        modes, reverse_kl = generative.mode_coverage(labels, reference, classes**planes)
        measures |= {"modes": modes, "reverse_kl": reverse_kl}
        if planes == 1:
            score, deviation = generative.inception_score(fake.probabilities[:, 0])
            measures |= {"inception_score": score, "inception_score_deviation": deviation}
    for name, seen in (("real_", real), ("", fake)):
        if seen.images is not None:
            images = seen.images[:_PAIRS_OF]
            measures[f"{name}diversity"] = generative.diversity(images)
        if seen.energy is not None and np.isfinite(seen.energy).any():
            # An image of one colour has no energy to speak of.
            measures[f"{name}checkerboard_energy"] = float(np.nanmedian(seen.energy))
    return measures
