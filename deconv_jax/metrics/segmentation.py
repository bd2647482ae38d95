"""Measures of a segmentation, exact over a set: counts that add up, and what is made of the sums.

The confusion matrix counts pixels by their class in the truth and in the prediction; intersection
over union, pixel accuracy and Dice follow from it. The boundary F1 is that of Csurka et al., "What is
a good evaluation measure for semantic segmentation?", BMVC 2013: of each class the pixels where it
borders on others, a boundary pixel being right if the other boundary is no further than a tolerance.

What a reader would get wrong: these are ratios of sums over all pixels of the set, not means of
ratios an image, which for the boundary F1 the paper takes. And a class that occurs neither in the
truth nor in the prediction has no ratio: means over classes leave it out, so that they do not depend
on how many names a data set has for what it does not show.
"""

import math
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Int32
from numpy.typing import ArrayLike

from deconv_jax.errors import InputError, at_least
from deconv_jax.metrics.finite import check_finite

TOLERANCE = 0.0075
"""Of the boundary F1, as a part of the image's diagonal (section 3 of the paper)."""

Segments = Int[Array, "batch height width"]


def one_hot(segments: Segments, num_classes: int) -> Bool[Array, "batch height width num_classes"]:
    """Whether a pixel has each class; none is that of pixels that are ignored or of others."""
    return segments[..., None] == jnp.arange(num_classes).reshape(1, 1, 1, -1)


def confusion_matrix(
    truth: Segments, prediction: Segments, num_classes: int
) -> Int32[Array, "num_classes num_classes"]:
    """Pixels of each class in the truth (rows) that have each class in the prediction (columns).

    Args:
      truth: classes; pixels that are none of them, such as ignored ones, are not counted.
      prediction: likewise.
      num_classes: from 0.

    Raises:
      InputError: segments of different shapes, or images of more pixels than float32 counts, 2^24.
    """
    _check("confusion_matrix", truth, prediction)
    if math.prod(truth.shape[1:]) > 2**24:
        raise InputError(f"confusion_matrix counts up to 2^24 pixels; got images {truth.shape}")
    # A product of one-hot matrices, exact in float32; a scatter is slow on every device.
    rows, columns = (
        one_hot(segments, num_classes).astype(jnp.float32).reshape(len(segments), -1, num_classes)
        for segments in (truth, prediction)
    )
    counts = jnp.einsum("bpi,bpj->bij", rows, columns, precision="highest")
    return jnp.sum(counts.astype(jnp.int32), axis=0)


class SegmentationScores(NamedTuple):
    """What a confusion matrix says.

    Attributes:
      iou: of each class intersection over union, true / (true + wrongly there + missed) pixels; NaN
        for a class that occurs neither in the truth nor in the prediction.
      dice: of each class 2 true / (2 true + wrongly there + missed) pixels; NaN likewise.
      accuracy: of each class the part of its pixels that were found; NaN for one not in the truth.
      miou, mean_dice, mean_accuracy: means over the classes that are not NaN.
      pixel_accuracy: the part of all pixels that are right.
    """

    iou: Float[np.ndarray, " num_classes"]
    dice: Float[np.ndarray, " num_classes"]
    accuracy: Float[np.ndarray, " num_classes"]
    miou: float
    mean_dice: float
    mean_accuracy: float
    pixel_accuracy: float


def segmentation_scores(confusion: ArrayLike) -> SegmentationScores:
    """Of a confusion matrix (num_classes, num_classes), or a multiple of one.

    Raises:
      InputError: it counts no pixels, or is not finite.
    """
    check_finite("counts of pixels", confusion)
    confusion = np.asarray(confusion, np.float64)
    right, truth, predicted = np.diag(confusion), confusion.sum(axis=1), confusion.sum(axis=0)
    if not truth.sum() > 0:
        raise InputError("a segmentation without pixels has no measures: all were ignored")
    iou = _divided(right, truth + predicted - right)
    dice = _divided(2 * right, truth + predicted)
    accuracy = _divided(right, truth)
    return SegmentationScores(
        iou,
        dice,
        accuracy,
        miou=nan_mean(iou),
        mean_dice=nan_mean(dice),
        mean_accuracy=nan_mean(accuracy),
        pixel_accuracy=float(right.sum() / truth.sum()),
    )


def nan_mean(values: Float[np.ndarray, " num_classes"]) -> float:
    """The mean over classes that are not NaN; NaN where all are."""
    occurring = values[~np.isnan(values)]
    return float(occurring.mean()) if len(occurring) else math.nan


def boundary_counts(
    truth: Segments,
    prediction: Segments,
    num_classes: int,
    tolerance: float | None = None,
) -> Int32[Array, "num_classes 4"]:
    """What `boundary_f1` is made of, sums over the batch.

    A boundary pixel of a class is one of it beside (above, below, to the left or right of) a pixel
    of another; neither the image's edge nor pixels that are ignored make a boundary.

    Args:
      truth: classes; pixels that are none of the classes are ignored, in the prediction too.
      prediction: likewise.
      num_classes: from 0.
      tolerance: the largest distance between the centres of matching pixels; None for 0.75 % of the
        diagonal of the arrays' images, at least 1.

    Returns:
      Of each class boundary pixels: of the prediction that the truth matches, of the prediction, of
      the truth that the prediction matches, of the truth.

    Raises:
      InputError: segments of different shapes, or a negative tolerance.
    """
    _check("boundary_counts", truth, prediction)
    if tolerance is None:
        tolerance = max(1.0, TOLERANCE * math.hypot(*truth.shape[1:]))
    at_least("tolerance", tolerance, 0)
    classes = (one_hot(truth, num_classes), one_hot(prediction, num_classes))
    known = (jnp.any(classes[0], -1) & jnp.any(classes[1], -1))[..., None]
    true, predicted = (_boundaries(each & known, known) for each in classes)
    counted = (
        predicted & _within(true, tolerance),
        predicted,
        true & _within(predicted, tolerance),
        true,
    )
    return jnp.stack([jnp.sum(c, axis=(0, 1, 2), dtype=jnp.int32) for c in counted], axis=-1)


def boundary_f1(counts: ArrayLike) -> Float[np.ndarray, " num_classes"]:
    """Of sums of `boundary_counts` the boundary F1 of each class, 2 P R / (P + R).

    P is the part of the prediction's boundary that is right, R the part of the truth's that was found.
    A class without boundary in both has NaN, one that has it in one of them alone 0.

    Raises:
      InputError: counts are not finite.
    """
    check_finite("counts of boundary pixels", counts)
    matched, predicted, found, true = np.asarray(counts, np.float64).T
    precision, recall = _divided(matched, predicted), _divided(found, true)
    f1 = _divided(2 * precision * recall, precision + recall)
    return np.where(predicted + true > 0, np.nan_to_num(f1), np.nan)


def _boundaries(
    of_class: Bool[Array, "batch height width num_classes"],
    known: Bool[Array, "batch height width 1"],
) -> Bool[Array, "batch height width num_classes"]:
    others = known & ~of_class
    beside = jnp.zeros_like(others)
    for axis in (1, 2):
        for step in (-1, 1):
            beside |= _moved(others, step, axis)
    return of_class & beside


def _within(
    pixels: Bool[Array, "batch height width num_classes"], distance: float
) -> Bool[Array, "batch height width num_classes"]:
    """Which pixels have one of `pixels` no further than `distance`: dilation by a disc.

    The disc's rows are as wide as the chord at their height, so a map is widened row by row as the
    chords grow, and each width moved up and down to where the disc has it.
    """
    squared = int(distance**2 + 1e-9)  # Squares of distances between pixels are whole numbers.
    widened, near, half_width = pixels, jnp.zeros_like(pixels), 0
    for height in range(math.isqrt(squared), -1, -1):
        chord = math.isqrt(squared - height**2)
        for step in range(half_width + 1, chord + 1):
            widened |= _moved(pixels, step, 2) | _moved(pixels, -step, 2)
        half_width = chord
        near |= _moved(widened, height, 1) | _moved(widened, -height, 1)
    return near


def _moved(pixels: Bool[Array, "..."], step: int, axis: int) -> Bool[Array, "..."]:
    """Moved along an axis, False where nothing comes from."""
    count = min(abs(step), pixels.shape[axis])
    kept = pixels.shape[axis] - count
    widths = [(0, 0)] * pixels.ndim
    widths[axis] = (count, 0) if step > 0 else (0, count)
    start = 0 if step > 0 else count
    index = [slice(None)] * pixels.ndim
    index[axis] = slice(start, start + kept)
    return jnp.pad(pixels[tuple(index)], widths)


def _divided(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """a / b, NaN where b is not positive."""
    return np.divide(a, b, out=np.full(np.shape(a), np.nan), where=b > 0)


def _check(name: str, truth: Array, prediction: Array) -> None:
    if truth.shape != prediction.shape:
        raise InputError(
            f"{name} compares segments of one shape; got truth {truth.shape} and prediction "
            f"{prediction.shape}"
        )
