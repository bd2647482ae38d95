"""Top-k accuracy and calibration error against NumPy, examples computed by hand, and any batch size."""

import jax
import numpy as np
import pytest
import scipy.special
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deconv_jax.errors import InputError
from deconv_jax.metrics.classification import (
    CALIBRATION_BINS,
    calibration_error,
    calibration_sums,
    in_top_k,
)

SUMS = jax.jit(calibration_sums)
TOP = jax.jit(in_top_k, static_argnums=2)


def draw(count, classes, seed=0):
    """Return logits with confidences in every bin, and random labels."""
    random = np.random.default_rng((seed, count, classes))
    scale = random.uniform(0, 8, (count, 1))
    logits = (scale * random.random((count, classes))).astype(np.float32)
    return logits, random.integers(0, classes, count).astype(np.int32)


def of_logits(logits, labels):
    mask = np.ones(len(labels), np.float32)
    return np.asarray(SUMS(logits, labels, mask), np.float64)


def guo(confidence, right):
    """Equations 1 to 3 of arXiv:1706.04599 bin by bin; bin m is ((m - 1) / M, m / M]."""
    error = 0.0
    for m in range(1, CALIBRATION_BINS + 1):
        members = (confidence > (m - 1) / CALIBRATION_BINS) & (confidence <= m / CALIBRATION_BINS)
        if members.any():
            gap = right[members].mean() - confidence[members].mean()
            error += members.mean() * abs(gap)
    return error


@pytest.mark.parametrize("k", [1, 2, 5])
def test_in_top_finds_labels_with_fewer_than_k_larger_logits(k):
    logits, labels = draw(40, 7)
    larger = (logits > logits[np.arange(40), labels][:, None]).sum(axis=1)
    found = TOP(logits, labels, k)
    np.testing.assert_array_equal(found, larger < k)
    best = torch.tensor(logits).topk(k).indices.numpy()
    np.testing.assert_array_equal(found, (best == labels[:, None]).any(axis=1))


def test_ties_go_to_the_lower_class():
    logits = np.array([[1, 2, 2, 2, 0]], np.float32).repeat(5, axis=0)
    labels = np.arange(5)
    for k, found in ((1, [0, 1, 0, 0, 0]), (2, [0, 1, 1, 0, 0]), (4, [1, 1, 1, 1, 0])):
        np.testing.assert_array_equal(TOP(logits, labels, k), found)
    # Top-1 agrees with the argmax of accuracy.
    np.testing.assert_array_equal(TOP(logits, labels, 1), logits.argmax(-1) == labels)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_non_finite_logits_are_never_correct(value):
    logits = np.array([[0, value, 0], [0, 1, 0]], np.float32)
    labels = np.array([1, 1], np.int32)
    for k in (1, 2, 3):
        np.testing.assert_array_equal(TOP(logits, labels, k), [0, 1])
    with pytest.raises(InputError, match="confidences must be finite"):
        calibration_error(of_logits(logits, labels))


def test_calibration_error_of_no_examples_is_an_error():
    with pytest.raises(InputError, match="at least one example; got 0"):
        calibration_error(np.zeros((3, CALIBRATION_BINS)))


def test_top_k_of_all_classes_contains_every_label():
    logits, labels = draw(9, 4)
    np.testing.assert_array_equal(TOP(logits, labels, 4), np.ones(9))


def test_calibration_error_equals_an_example_by_hand():
    """0.9 correct, 0.9 wrong and 0.6 correct: (|1 - 1.8| + |1 - 0.6|) / 3 = 0.4."""
    confidence = np.array([0.9, 0.9, 0.6])
    logits = np.log(np.stack([confidence, 1 - confidence], axis=1)).astype(np.float32)
    sums = of_logits(logits, np.array([0, 1, 0], np.int32))
    assert calibration_error(sums) == pytest.approx(0.4, abs=1e-6)
    counts, total, right = sums
    # 0.9 is in (13/15, 14/15], and 0.6 = 9/15 is the upper edge of (8/15, 9/15].
    assert (counts[13], right[13], counts[8], right[8]) == (2, 1, 1, 1)
    assert counts.sum() == 3
    assert total[[13, 8]] == pytest.approx([1.8, 0.6], abs=1e-6)


@pytest.mark.parametrize("classes", [2, 10])
def test_calibration_error_equals_the_formula_of_the_paper(classes):
    logits, labels = draw(600, classes)
    confidence = scipy.special.softmax(logits, axis=1).max(axis=1)
    # Leave out confidences so close to a bin edge that rounding decides their bin.
    apart = np.abs(confidence * CALIBRATION_BINS - (confidence * CALIBRATION_BINS).round()) > 1e-4
    logits, labels, confidence = logits[apart], labels[apart], confidence[apart].astype(np.float64)
    error = calibration_error(of_logits(logits, labels))
    assert error == pytest.approx(guo(confidence, logits.argmax(axis=1) == labels), abs=1e-6)
    assert 0.05 < error < 1


def test_confident_predictions_have_error_0_if_correct_and_1_if_wrong():
    logits = 100 * np.eye(4, dtype=np.float32)
    labels = np.arange(4, dtype=np.int32)
    assert calibration_error(of_logits(logits, labels)) == 0.0
    assert calibration_error(of_logits(logits, (labels + 1) % 4)) == 1.0


def test_uniform_predictions_of_balanced_labels_are_calibrated():
    labels = np.arange(20, dtype=np.int32) % 5
    error = calibration_error(of_logits(np.zeros((20, 5), np.float32), labels))
    assert error == pytest.approx(0.0, abs=1e-7)


def test_opposite_errors_cancel_within_a_bin_but_not_across_bins():
    """The error is a property of bins, not of examples."""
    confidence = np.array([0.95, 0.95])
    logits = np.log(np.stack([confidence, 1 - confidence], axis=1)).astype(np.float32)
    together = calibration_error(of_logits(logits, np.array([0, 1], np.int32)))
    assert together == pytest.approx(0.45, abs=1e-6)
    apart = np.mean([calibration_error(of_logits(logits[[i]], np.array([i]))) for i in range(2)])
    assert apart == pytest.approx((0.05 + 0.95) / 2, abs=1e-6)


@pytest.mark.slow
@settings(max_examples=15, deadline=None, derandomize=True)
@given(
    count=st.integers(1, 20),
    padding=st.sampled_from([0.0, np.inf, np.nan]),
    seed=st.integers(0, 99),
)
def test_sums_are_the_same_for_any_batch_size_and_padding(count, padding, seed):
    logits, labels = draw(count, 3, seed)
    whole = np.zeros((3, CALIBRATION_BINS))
    size = 6
    for start in range(0, count, size):
        part = slice(start, start + size)
        missing = size - len(labels[part])
        padded = np.pad(logits[part], ((0, missing), (0, 0)), constant_values=padding)
        mask = np.pad(np.ones(size - missing, np.float32), (0, missing))
        sums = SUMS(padded, np.pad(labels[part], (0, missing)), mask)
        whole += np.asarray(sums, np.float64)
    confidence = scipy.special.softmax(logits.astype(np.float64), axis=1).max(axis=1)
    right = logits.argmax(axis=1) == labels
    place = np.clip(
        np.ceil(confidence * np.float32(CALIBRATION_BINS)).astype(int) - 1, 0, CALIBRATION_BINS - 1
    )
    for row, values in zip(whole, (np.ones(count), confidence, right), strict=True):
        expected = np.bincount(place, weights=values, minlength=CALIBRATION_BINS)
        np.testing.assert_allclose(row, expected, atol=1e-5)
    assert calibration_error(whole) == pytest.approx(guo(confidence, right), abs=1e-6)
