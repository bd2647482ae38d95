"""Metrics of segmentations, exact over a set: counts that add up over batches, and ratios of their sums.

Intersection over union (IoU), Dice and pixel accuracy follow from the confusion matrix. The boundary F1 is
that of Csurka et al., "What is a good evaluation measure for semantic segmentation?", BMVC 2013. It compares
the boundary pixels of each class, which match if they are no further apart than a tolerance.

Note: All metrics are ratios of sums over the pixels of the set, not means over images. The paper's boundary
F1 is a mean over images. Means over classes leave out classes that occur neither in the truth nor in the
prediction, so they do not depend on classes that a data set names but does not show.
"""

import math
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Int32
from numpy.typing import ArrayLike

from deconv_jax.errors import InputError, at_least
from deconv_jax.metrics.checks import check_finite

BOUNDARY_TOLERANCE = 0.0075
"""Default tolerance of the boundary F1 as a fraction of the image diagonal (section 3 of the paper)."""

LabelMaps = Int[Array, "batch height width"]


def one_hot(segments: LabelMaps, num_classes: int) -> Bool[Array, "batch height width num_classes"]:
    """Return a one-hot encoding; pixels of other values, such as ignored ones, are False everywhere."""
    return segments[..., None] == jnp.arange(num_classes).reshape(1, 1, 1, -1)


def confusion_matrix(
    truth: LabelMaps, prediction: LabelMaps, num_classes: int
) -> Int32[Array, "num_classes num_classes"]:
    """Count the pixels of each class in the truth (rows) and the prediction (columns).

    Args:
      truth: Class of each pixel. Pixels of other values, such as ignored ones, are not counted.
      prediction: Predicted class of each pixel; other values are not counted either.
      num_classes: Number of classes, numbered from 0.

    Raises:
      InputError: The shapes differ, or an image has more than 2^24 pixels, which float32 cannot count.
    """
    _check_shapes("confusion_matrix", truth, prediction)
    if math.prod(truth.shape[1:]) > 2**24:
        raise InputError(
            f"confusion_matrix requires images of up to 2^24 pixels; got shape {truth.shape}"
        )
    # A product of one-hot matrices, exact in float32. A scatter is slow on every device.
    rows, columns = (
        one_hot(segments, num_classes).astype(jnp.float32).reshape(len(segments), -1, num_classes)
        for segments in (truth, prediction)
    )
    counts = jnp.einsum("bpi,bpj->bij", rows, columns, precision="highest")
    return jnp.sum(counts.astype(jnp.int32), axis=0)


class SegmentationScores(NamedTuple):
    """Metrics that follow from a confusion matrix.

    TP, FP and FN are the true positive, false positive and false negative pixels of a class.

    Attributes:
      iou: TP / (TP + FP + FN) of each class; NaN if it occurs neither in the truth nor in the prediction.
      dice: 2 TP / (2 TP + FP + FN) of each class; NaN as for `iou`.
      accuracy: TP / (TP + FN) of each class, its recall; NaN if it does not occur in the truth.
      miou, mean_dice, mean_accuracy: Means over the classes that are not NaN.
      pixel_accuracy: Fraction of all counted pixels that are correct.
    """

    iou: Float[np.ndarray, " num_classes"]
    dice: Float[np.ndarray, " num_classes"]
    accuracy: Float[np.ndarray, " num_classes"]
    miou: float
    mean_dice: float
    mean_accuracy: float
    pixel_accuracy: float


def segmentation_scores(confusion: ArrayLike) -> SegmentationScores:
    """Compute metrics from a confusion matrix (num_classes, num_classes), or a multiple of one.

    Args:
      confusion: Counts of pixels, with the truth in rows and the prediction in columns.

    Raises:
      InputError: The matrix is zero or not finite.
    """
    check_finite("counts of pixels", confusion)
    confusion = np.asarray(confusion, np.float64)
    true_positives = np.diag(confusion)
    in_truth, in_prediction = confusion.sum(axis=1), confusion.sum(axis=0)
    if not in_truth.sum() > 0:
        raise InputError("segmentation scores require at least one pixel; all were ignored")
    iou = _divide(true_positives, in_truth + in_prediction - true_positives)
    dice = _divide(2 * true_positives, in_truth + in_prediction)
    accuracy = _divide(true_positives, in_truth)
    return SegmentationScores(
        iou,
        dice,
        accuracy,
        miou=nan_mean(iou),
        mean_dice=nan_mean(dice),
        mean_accuracy=nan_mean(accuracy),
        pixel_accuracy=float(true_positives.sum() / in_truth.sum()),
    )


def nan_mean(values: Float[np.ndarray, " num_classes"]) -> float:
    """Return the mean over classes that are not NaN, or NaN if all are."""
    present = values[~np.isnan(values)]
    return float(present.mean()) if len(present) else math.nan


def boundary_counts(
    truth: LabelMaps,
    prediction: LabelMaps,
    num_classes: int,
    tolerance: float | None = None,
) -> Int32[Array, "num_classes 4"]:
    """Count matching boundary pixels for `boundary_f1`, summed over the batch.

    A boundary pixel of a class has a pixel of another class above, below, to the left or to the right.
    Image edges and ignored pixels are no boundaries.

    Args:
      truth: Class of each pixel. Pixels of other values are ignored in the prediction too.
      prediction: Predicted class of each pixel; other values are ignored too.
      num_classes: Number of classes, numbered from 0.
      tolerance: Largest distance between the centers of matching pixels. The default is 0.75 % of the
        diagonal of the arrays, at least 1.

    Returns:
      Number of boundary pixels of each class, in this order: matched ones of the prediction, all of the
      prediction, matched ones of the truth, all of the truth.

    Raises:
      InputError: The shapes differ, or the tolerance is negative.
    """
    _check_shapes("boundary_counts", truth, prediction)
    if tolerance is None:
        tolerance = max(1.0, BOUNDARY_TOLERANCE * math.hypot(*truth.shape[1:]))
    at_least("tolerance", tolerance, 0)
    classes = (one_hot(truth, num_classes), one_hot(prediction, num_classes))
    known = (jnp.any(classes[0], -1) & jnp.any(classes[1], -1))[..., None]
    true, predicted = (_boundaries(each & known, known) for each in classes)
    counted = (
        predicted & _dilate(true, tolerance),
        predicted,
        true & _dilate(predicted, tolerance),
        true,
    )
    return jnp.stack([jnp.sum(c, axis=(0, 1, 2), dtype=jnp.int32) for c in counted], axis=-1)


def boundary_f1(counts: ArrayLike) -> Float[np.ndarray, " num_classes"]:
    """Compute the boundary F1 of each class, 2 P R / (P + R), from summed `boundary_counts`.

    Precision P is the matched fraction of the predicted boundary, recall R that of the true
    boundary. Add up the counts of all batches before. The result is NaN for a class without
    boundary pixels in either map, and 0 for a class with boundary pixels in only one.

    Raises:
      InputError: A count is not finite.
    """
    check_finite("counts of boundary pixels", counts)
    matched_predicted, predicted, matched_true, true = np.asarray(counts, np.float64).T
    precision, recall = _divide(matched_predicted, predicted), _divide(matched_true, true)
    f1 = _divide(2 * precision * recall, precision + recall)
    return np.where(predicted + true > 0, np.nan_to_num(f1), np.nan)


def _boundaries(
    in_class: Bool[Array, "batch height width num_classes"],
    known: Bool[Array, "batch height width 1"],
) -> Bool[Array, "batch height width num_classes"]:
    others = known & ~in_class
    adjacent = jnp.zeros_like(others)
    for axis in (1, 2):
        for step in (-1, 1):
            adjacent |= _shift(others, step, axis)
    return in_class & adjacent


def _dilate(
    pixels: Bool[Array, "batch height width num_classes"], distance: float
) -> Bool[Array, "batch height width num_classes"]:
    """Dilate by a disc: True where one of `pixels` is no further than `distance`.

    The disc is a stack of rows, each as wide as the chord at its height. Rows are visited from the top, so
    that the horizontal dilation only grows; each is then shifted up and down to its height.
    """
    squared = int(distance**2 + 1e-9)  # Squared distances between pixels are integers.
    widened, dilated, half_width = pixels, jnp.zeros_like(pixels), 0
    for height in range(math.isqrt(squared), -1, -1):
        chord = math.isqrt(squared - height**2)
        for step in range(half_width + 1, chord + 1):
            widened |= _shift(pixels, step, 2) | _shift(pixels, -step, 2)
        half_width = chord
        dilated |= _shift(widened, height, 1) | _shift(widened, -height, 1)
    return dilated


def _shift(pixels: Bool[Array, "..."], step: int, axis: int) -> Bool[Array, "..."]:
    """Shift along an axis, filling with False."""
    count = min(abs(step), pixels.shape[axis])
    kept = pixels.shape[axis] - count
    widths = [(0, 0)] * pixels.ndim
    widths[axis] = (count, 0) if step > 0 else (0, count)
    start = 0 if step > 0 else count
    index = [slice(None)] * pixels.ndim
    index[axis] = slice(start, start + kept)
    return jnp.pad(pixels[tuple(index)], widths)


def _divide(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return a / b, or NaN where b is not positive."""
    return np.divide(a, b, out=np.full(np.shape(a), np.nan), where=b > 0)


def _check_shapes(name: str, truth: Array, prediction: Array) -> None:
    if truth.shape != prediction.shape:
        raise InputError(
            f"{name} requires segments of equal shape; got truth {truth.shape} and prediction "
            f"{prediction.shape}"
        )
