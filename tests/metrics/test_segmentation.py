"""Segmentation metrics against counts by NumPy and SciPy's distance transform."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import config as jaxtyping_config
from scipy.ndimage import distance_transform_edt

from deconv_jax.errors import InputError
from deconv_jax.metrics.segmentation import (
    boundary_counts,
    boundary_f1,
    confusion_matrix,
    nan_mean,
    segmentation_scores,
)

RNG = np.random.default_rng(0)
IGNORED = 255
CLASSES = 3


def blobs(count, height, width):
    """Return segments of a few large areas: upscaled coarse noise."""
    coarse = RNG.integers(0, CLASSES, (count, -(-height // 5), -(-width // 5)))
    return coarse.repeat(5, axis=1).repeat(5, axis=2)[:, :height, :width].astype(np.int32)


TRUTH = blobs(5, 17, 23)
TRUTH[RNG.random(TRUTH.shape) < 0.05] = IGNORED
PREDICTION = np.roll(blobs(5, 17, 23) * (RNG.random((5, 1, 1)) < 0.5) + TRUTH % 3, 1, 2) % CLASSES


@jax.jit
def confusion(truth, prediction):
    return confusion_matrix(truth, prediction, CLASSES)


def boundaries(truth, prediction, tolerance=None):
    count = jax.jit(boundary_counts, static_argnums=(2, 3))
    return np.asarray(count(truth, prediction, CLASSES, tolerance))


def test_confusion_matrix_counts_pairs_of_classes():
    expected = np.zeros((CLASSES, CLASSES), int)
    known = TRUTH != IGNORED
    np.add.at(expected, (TRUTH[known], PREDICTION[known]), 1)
    np.testing.assert_array_equal(confusion(TRUTH, PREDICTION), expected)


def test_scores_equal_ratios_of_pixel_sets():
    known = TRUTH != IGNORED
    measured = segmentation_scores(confusion(TRUTH, PREDICTION))
    for label in range(CLASSES):
        true, found = (label == TRUTH) & known, (label == PREDICTION) & known
        both = (true & found).sum()
        assert measured.iou[label] == pytest.approx(both / (true | found).sum())
        assert measured.dice[label] == pytest.approx(2 * both / (true.sum() + found.sum()))
        assert measured.accuracy[label] == pytest.approx(both / true.sum())
        # Dice is a function of IoU.
        iou, dice = measured.iou[label], measured.dice[label]
        assert dice == pytest.approx(2 * iou / (1 + iou))
    assert measured.miou == pytest.approx(measured.iou.mean())
    assert measured.pixel_accuracy == pytest.approx((TRUTH == PREDICTION)[known].mean())


def test_scores_equal_an_example_with_missing_classes():
    """Class 2 occurs nowhere, class 3 only in the prediction."""
    measured = segmentation_scores([[6, 1, 0, 1], [2, 4, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]])
    np.testing.assert_allclose(measured.iou, [6 / 10, 4 / 7, np.nan, 0])
    np.testing.assert_allclose(measured.dice, [12 / 16, 8 / 11, np.nan, 0])
    np.testing.assert_allclose(measured.accuracy, [6 / 8, 4 / 6, np.nan, np.nan])
    assert measured.miou == pytest.approx((6 / 10 + 4 / 7) / 3)
    assert measured.mean_dice == pytest.approx((12 / 16 + 8 / 11) / 3)
    assert measured.mean_accuracy == pytest.approx((6 / 8 + 4 / 6) / 2)
    assert measured.pixel_accuracy == pytest.approx(10 / 14)
    assert np.isnan(nan_mean(np.full(3, np.nan)))


def boundary_by_distances(truth, prediction, tolerance):
    """Compute `boundary_counts` for each image and class."""
    counts = np.zeros((CLASSES, 4), int)
    for true, predicted in zip(truth, prediction, strict=True):
        known = (true != IGNORED) & (predicted != IGNORED)
        for label in range(CLASSES):
            edges = [outline(segments, label, known) for segments in (true, predicted)]
            near = [
                distance_transform_edt(~edge) <= tolerance + 1e-9
                if edge.any()
                else np.zeros_like(edge)
                for edge in edges
            ]
            of_truth, of_prediction = edges
            counts[label] += [
                (of_prediction & near[0]).sum(),
                of_prediction.sum(),
                (of_truth & near[1]).sum(),
                of_truth.sum(),
            ]
    return counts


def outline(segments, label, known):
    """Return the pixels of a class that have a 4-neighbor of another class."""
    edge = np.zeros(segments.shape, bool)
    height, width = segments.shape
    for row, column in np.argwhere((segments == label) & known):
        for other in ((row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1)):
            if 0 <= other[0] < height and 0 <= other[1] < width and known[other]:
                edge[row, column] |= segments[other] != label
    return edge


@pytest.mark.parametrize("tolerance", [0.0, 1.0, 1.5, 2.3, 5.0])
def test_boundary_counts_equal_those_of_a_distance_transform(tolerance):
    expected = boundary_by_distances(TRUTH, PREDICTION, tolerance)
    assert (expected > 0).all()
    np.testing.assert_array_equal(boundaries(TRUTH, PREDICTION, tolerance), expected)


def test_default_tolerance_is_a_fraction_of_the_diagonal():
    """200 x 150 pixels have a diagonal of 250; 0.75 % of it is 1.875, whose square is 3.5."""
    square = np.zeros((1, 150, 200), np.int32)
    square[:, 40:90, 60:120] = 1
    for move, within in (((0, 1), True), ((1, 1), True), ((0, 2), False)):
        moved = np.roll(square, move, axis=(1, 2))
        f1 = boundary_f1(boundaries(square, moved))
        assert (f1[1] == 1) == within
        np.testing.assert_array_equal(
            boundaries(square, moved), boundaries(square, moved, 250 * 0.0075)
        )
    small = square[:, 35:95, 55:125]
    assert boundary_f1(boundaries(small, np.roll(small, 1, axis=2)))[1] == 1  # The minimum is 1.


def test_boundary_f1_equals_examples_by_hand():
    """Precision 3/4 and recall 1/2; nothing matched; boundary in only one of the two; in neither."""
    f1 = boundary_f1([[3, 4, 5, 10], [0, 4, 0, 10], [0, 4, 0, 0], [0, 0, 0, 0]])
    np.testing.assert_allclose(f1, [2 * 0.75 * 0.5 / 1.25, 0, 0, np.nan])


def test_equal_segments_are_perfect_for_any_prediction_of_ignored_pixels():
    measured = segmentation_scores(confusion(TRUTH, np.where(TRUTH == IGNORED, 1, TRUTH)))
    assert measured.miou == measured.mean_dice == measured.pixel_accuracy == 1
    f1 = boundary_f1(boundaries(TRUTH, np.where(TRUTH == IGNORED, 1, TRUTH), 0.0))
    np.testing.assert_array_equal(f1, 1)


@pytest.mark.parametrize("transform", [lambda a: a[:, ::-1], lambda a: a.swapaxes(1, 2)])
def test_counts_are_invariant_to_orientation(transform):
    turned = transform(TRUTH), transform(PREDICTION)
    np.testing.assert_array_equal(confusion(*turned), confusion(TRUTH, PREDICTION))
    np.testing.assert_array_equal(boundaries(*turned, 2.0), boundaries(TRUTH, PREDICTION, 2.0))


def test_swapping_truth_and_prediction_transposes_counts():
    np.testing.assert_array_equal(
        confusion(PREDICTION, TRUTH), np.transpose(confusion(TRUTH, PREDICTION))
    )
    counts, swapped = boundaries(TRUTH, PREDICTION, 2.0), boundaries(PREDICTION, TRUTH, 2.0)
    np.testing.assert_array_equal(swapped, counts[:, [2, 3, 0, 1]])


def test_counts_of_batches_add_up_to_those_of_the_set():
    for count in (confusion, boundaries):
        whole = count(TRUTH, PREDICTION)
        parts = [count(TRUTH[rows], PREDICTION[rows]) for rows in (slice(0, 2), slice(2, 5))]
        np.testing.assert_array_equal(sum(map(np.asarray, parts)), whole)


def test_invalid_input_is_an_error(monkeypatch):
    monkeypatch.setattr(jaxtyping_config, "jaxtyping_disable", True)
    truth, prediction = jnp.asarray(TRUTH), jnp.asarray(PREDICTION)
    with pytest.raises(InputError, match=r"truth \(5, 17, 23\) and prediction \(4, 17, 23\)"):
        confusion_matrix(truth, prediction[:4], CLASSES)
    with pytest.raises(InputError, match="boundary_counts requires segments of equal shape"):
        boundary_counts(truth, prediction[:, :4], CLASSES)
    with pytest.raises(InputError, match="tolerance"):
        boundary_counts(truth, prediction, CLASSES, -1.0)
    with pytest.raises(InputError, match="all were ignored"):
        segmentation_scores(np.zeros((2, 2)))
    with pytest.raises(InputError, match="counts of pixels must be finite"):
        segmentation_scores([[1.0, np.inf], [0.0, 1.0]])
    with pytest.raises(InputError, match="counts of boundary pixels must be finite"):
        boundary_f1([[np.nan, 1, 1, 1]])
    huge = jax.ShapeDtypeStruct((1, 2**13, 2**12), np.int32)
    with pytest.raises(InputError, match="up to 2\\^24 pixels"):
        jax.eval_shape(lambda t: confusion_matrix(t, t, CLASSES), huge)
