"""Evaluation of a GAN: sample quality against real images, its baseline, and signs of failure.

The functions see images through a `describe` function that the task supplies, which returns one row of
numbers per image; they know nothing of the networks.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from deconv_jax.data.batch import Batch
from deconv_jax.data.random_keys import GAN_EVALUATION_SEED
from deconv_jax.data.sources import Source
from deconv_jax.errors import InputError
from deconv_jax.metrics.checkerboard import checkerboard_energy, minimum_side
from deconv_jax.metrics.sample_quality import concatenate_batches, sample_quality
from deconv_jax.tasks.gan_losses import AdversarialLoss
from deconv_jax.training.parallel import gather_to_host
from deconv_jax.training.state import Tree

Images = Float[Array, "batch height width channels"]
PerImageArrays = dict[str, Array]
"""Arrays with one row per image: fields of `sample_quality.ImageSetFeatures` and, optionally, "logits"."""
Extract = Callable[[Tree, Array], tuple[Array, Array]]
"""The `apply` of an `Extractor`: (variables, images) -> (features, probabilities)."""

_UPSAMPLING_STRIDE = 2
"""Stride of a generator's upsampling layers, at which checkerboard energy is measured."""
_BASELINE_BATCH = 100
_MAX_ACCURACY = 0.99
"""Discriminator accuracy above which a run warns that the discriminator wins."""
_MAX_REPETITION, _MIN_COVERAGE = 0.05, 0.03
"""Repetition above which, and coverage below which, a run warns of mode collapse."""


def round_to_8_bits(images: Images) -> Images:
    """Round images in [0, 1] to multiples of 1/255, as an 8-bit file stores them."""
    return jnp.round(images * 255) / 255


def feature_rows(extract: Extract, variables: Tree, images: Images) -> PerImageArrays:
    """Return the "features" of images and, if the extractor has classes, their "probabilities"."""
    features, probabilities = extract(variables, images)
    rows = {"features": features}
    return rows | ({"probabilities": probabilities} if probabilities.size else {})


def pixel_rows(images: Images) -> PerImageArrays:
    """Return uint8 "images" and, if both sides reach `minimum_side(2)`, their "checkerboard_energy"."""
    rows = {"images": jnp.round(images * 255).astype(jnp.uint8)}
    if min(images.shape[1:3]) >= minimum_side(_UPSAMPLING_STRIDE):
        rows["checkerboard_energy"] = checkerboard_energy(images, _UPSAMPLING_STRIDE)
    return rows


def evaluate_samples(
    batches: Iterable[Batch],
    describe: Callable[[Batch], dict[str, PerImageArrays]],
    loss: AdversarialLoss,
    num_classes: int,
    *,
    inception: bool,
) -> dict[str, float]:
    """Compare generated samples with the real images of a split.

    Args:
      batches: Batches of the split; examples with mask 0 are ignored.
      describe: Function that returns the arrays of a batch's images as "real", and those of the same
        number of samples as "fake".
      loss: Adversarial loss, which defines the discriminator's accuracies; used only if the rows have
        "logits".
      num_classes: Number of classes of a conditional generator; 0 if unconditional. If positive, the
        batches need "label".
      inception: Whether the features are InceptionV3's, so that metrics have their established names
        ("fid" for "frechet_distance", ...).

    Returns:
      The metrics of `sample_quality`. If the arrays include "logits", also the discriminator's
      "real_accuracy" and "fake_accuracy" on the split; a low "real_accuracy" indicates that it has
      memorized the training images.

    Raises:
      InputError: A label is out of range, the split is empty, or a metric cannot be computed.
    """
    sets: dict[str, list[tuple[dict[str, np.ndarray], np.ndarray]]] = {"real": [], "fake": []}
    logits: dict[str, list[np.ndarray]] = {"real": [], "fake": []}
    for batch in batches:
        described = describe(batch)
        if num_classes:
            _check_labels(gather_to_host(batch["label"]), num_classes)
        mask = gather_to_host(batch["mask"])
        for name, rows in described.items():
            on_host = {field: gather_to_host(array) for field, array in rows.items()}
            if "logits" in on_host:
                logits[name].append(on_host.pop("logits")[mask > 0])
            sets[name].append((on_host, mask))
    metrics = sample_quality(
        concatenate_batches(sets["real"]), concatenate_batches(sets["fake"]), inception=inception
    )
    if not logits["real"]:
        return metrics
    real, fake = (jnp.asarray(np.concatenate(logits[name])) for name in ("real", "fake"))
    accuracies = loss.accuracies(real, fake)
    names = ("real_accuracy", "fake_accuracy")
    return metrics | dict(zip(names, map(float, accuracies), strict=True))


def real_baseline(
    train: Source,
    test: Source,
    describe: Callable[[Mapping[str, Any]], PerImageArrays],
    num_classes: int,
    *,
    inception: bool,
) -> dict[str, float]:
    """Return the metrics, as "real_NAME", of training images in place of generated samples.

    The training images are a random subset as large as the test set and, for a conditional
    generator, with the class counts of the test set, as far as the training set has enough images.

    Args:
      train: Source of the training images.
      test: Source of the images to compare with, all of which are used.
      describe: Function that returns the arrays of the images of a batch, with "features".
      num_classes: Number of classes of a conditional generator; 0 if unconditional.
      inception: Whether the features are InceptionV3's, see `evaluate_samples`.

    Raises:
      InputError: A metric cannot be computed.
    """
    described = []
    for source, indices in (
        (test, np.arange(len(test))),
        (train, _comparable_indices(train, test, num_classes)),
    ):
        parts = np.array_split(indices, -(-len(indices) // _BASELINE_BATCH))
        rows = [describe(source.gather(part)) for part in parts]
        described.append(
            concatenate_batches(
                (jax.device_get(r), np.ones(len(part))) for r, part in zip(rows, parts, strict=True)
            )
        )
    metrics = sample_quality(*described, inception=inception)
    return {f"real_{name}": value for name, value in metrics.items()}


def failure_warnings(metrics: Mapping[str, float], scalars: Mapping[str, float]) -> list[str]:
    """Return warnings about a discriminator that wins outright and about mode collapse.

    The first is returned if both accuracies exceed 99 %, the second if the repetition exceeds 5 % or the
    coverage is below 3 %.

    Args:
      metrics: Metrics of the validation split; "repetition" and "coverage" are required.
      scalars: Means of the training scalars since the last validation; "real_accuracy" and
        "fake_accuracy" are required.

    Returns:
      Zero to two messages.
    """
    messages = []
    if min(scalars["real_accuracy"], scalars["fake_accuracy"]) > _MAX_ACCURACY:
        messages.append(
            f"the discriminator recognizes {scalars['real_accuracy']:.1%} of real and "
            f"{scalars['fake_accuracy']:.1%} of generated images, so the generator learns little "
            "from it; try r1, augment, spectral_norm or a slower discriminator_optimizer"
        )
    if metrics["repetition"] > _MAX_REPETITION or metrics["coverage"] < _MIN_COVERAGE:
        messages.append(
            f"{metrics['repetition']:.1%} of the samples repeat another sample and the samples cover "
            f"{metrics['coverage']:.1%} of the data: possible mode collapse; try another loss, "
            "minibatch_std_group, r1 or augment"
        )
    return messages


def _check_labels(labels: np.ndarray, num_classes: int) -> None:
    if labels.min() < 0 or labels.max() >= num_classes:
        raise InputError(
            f"task.generator.num_classes={num_classes} requires labels from 0 to {num_classes - 1}; "
            f"the data has labels from {labels.min()} to {labels.max()}"
        )


def _comparable_indices(train: Source, test: Source, num_classes: int) -> np.ndarray:
    """Return indices of training images to compare with the test images."""
    rng = np.random.default_rng(GAN_EVALUATION_SEED)
    if not num_classes:
        return rng.choice(len(train), min(len(train), len(test)), replace=False)
    train_labels, test_labels = (s.gather(np.arange(len(s)))["label"] for s in (train, test))
    counts = np.bincount(test_labels, minlength=num_classes)
    by_class = [np.flatnonzero(train_labels == label) for label in range(num_classes)]
    chosen = [
        rng.choice(indices, min(len(indices), count), replace=False)
        for indices, count in zip(by_class, counts, strict=True)
    ]
    return np.concatenate(chosen)
