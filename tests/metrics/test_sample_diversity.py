"""Classifier score, modes, class balance and pairwise MS-SSIM against formulas and examples."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from deconv_jax.errors import InputError
from deconv_jax.metrics.image import ms_ssim
from deconv_jax.metrics.sample_diversity import (
    class_imbalance,
    classifier_score,
    mean_pairwise_ms_ssim,
    mode_coverage,
)


def test_classifier_score_lies_between_one_and_the_number_of_classes():
    certain = np.tile(np.eye(5), (20, 1))
    assert classifier_score(certain, splits=4) == pytest.approx((5, 0))
    equal = np.tile(np.array([[0.7, 0.3, 0.0]]), (20, 1))
    assert classifier_score(equal) == pytest.approx((1, 0))


def test_classifier_score_is_a_mean_over_consecutive_splits():
    probabilities = np.random.default_rng(0).dirichlet(np.full(6, 0.3), 20).astype(np.float32)
    parts = np.float64(probabilities[:7]), np.float64(probabilities[7:14]), probabilities[14:]
    scores = [
        np.exp(np.mean([scipy.stats.entropy(p, part.mean(0)) for p in part])) for part in parts
    ]
    expected = np.mean(scores), np.std(scores)
    assert classifier_score(probabilities, splits=3) == pytest.approx(expected, rel=1e-5)


def test_mode_coverage_equals_count_and_reverse_divergence():
    generator = np.random.default_rng(0)
    labels, reference = generator.integers(3, 9, 200), generator.integers(0, 10, 500)
    modes, divergence = mode_coverage(labels.astype(np.uint8), reference, 10)
    fake, real = (np.bincount(x, minlength=10) for x in (labels, reference))
    assert modes == 6
    # Counts of real samples are increased by one.
    assert divergence == pytest.approx(scipy.stats.entropy(fake, real + 1), rel=1e-12)
    uniform = np.tile(np.arange(10), 7)
    assert mode_coverage(uniform, uniform, 10) == (10, pytest.approx(0, abs=1e-15))


def test_divergence_is_finite_for_a_mode_without_real_samples():
    modes, divergence = mode_coverage(np.array([0, 1]), np.array([0, 0]), 3)
    assert modes == 2
    # The fake frequencies are 1/2 each, the real ones 3/5 and 1/5.
    assert divergence == pytest.approx(0.5 * np.log(5 / 6) + 0.5 * np.log(5 / 2), rel=1e-12)
    more = mode_coverage(np.array([0, 1]), np.zeros(200, int), 3)[1]
    assert divergence < more < np.inf


def test_divergence_of_two_samples_of_one_distribution():
    """It is about (modes - 1) / n for n samples in each."""
    samples = np.random.default_rng(0).integers(0, 100, (50, 2, 5000))
    divergences = [mode_coverage(labels, reference, 100)[1] for labels, reference in samples]
    assert np.mean(divergences) == pytest.approx(99 / 5000, rel=0.1)


def test_divergence_of_a_sample_from_its_distribution():
    """It is about (modes - 1) / (2 n)."""
    all_modes = np.arange(100)
    samples = np.random.default_rng(0).integers(0, 100, (50, 5000))
    divergences = [mode_coverage(labels, all_modes, 100)[1] for labels in samples]
    assert np.mean(divergences) == pytest.approx(99 / 10000, rel=0.1)


def test_class_imbalance_is_the_ratio_of_largest_to_smallest_class():
    labels = np.repeat(np.arange(3), [4, 10, 5])
    assert class_imbalance(labels, 3) == 2.5
    assert class_imbalance(labels, 4) == np.inf
    assert class_imbalance(np.arange(7), 7) == 1


# Pairwise MS-SSIM


@pytest.mark.slow
def test_pairwise_ms_ssim_is_the_mean_over_pairs_of_distinct_images():
    """Two images have a single pair; for three images, all pairs are equally likely."""
    images = jnp.asarray(np.random.default_rng(0).random((3, 25, 23, 2), np.float32))
    blurred = (images + jnp.roll(images, 1, axis=1) + 2 * images[:1]) / 4
    pairs = jax.jit(ms_ssim, static_argnums=2)(blurred, jnp.roll(blurred, 1, axis=0), 2)
    two = mean_pairwise_ms_ssim(np.asarray(blurred[:2]), pairs=50)
    assert two == pytest.approx(float(pairs[1]), rel=1e-5)
    three = mean_pairwise_ms_ssim(blurred, pairs=1000)
    assert three == pytest.approx(float(jnp.mean(pairs)), rel=0.05)
    assert mean_pairwise_ms_ssim(blurred, pairs=100, seed=1) != mean_pairwise_ms_ssim(
        blurred, pairs=100, seed=2
    )


def test_pairwise_ms_ssim_of_equal_images_is_one():
    assert mean_pairwise_ms_ssim(jnp.full((4, 12, 12, 1), 0.3), pairs=5) == 1


# Errors


def test_too_few_samples_are_errors():
    with pytest.raises(InputError, match="number of probabilities must be at least 10; got 3"):
        classifier_score(np.eye(3))
    with pytest.raises(InputError, match="number of images must be at least 2; got 1"):
        mean_pairwise_ms_ssim(jnp.zeros((1, 16, 16, 1)))
    with pytest.raises(InputError, match="number of reference labels must be at least 1; got 0"):
        mode_coverage(np.arange(3), np.arange(0), 3)


def test_arguments_below_their_minimum_are_errors():
    with pytest.raises(InputError, match="splits must be at least 1; got 0"):
        classifier_score(np.eye(3), splits=0)
    with pytest.raises(InputError, match="pairs must be at least 1; got 0"):
        mean_pairwise_ms_ssim(jnp.zeros((2, 16, 16, 1)), pairs=0)
    with pytest.raises(InputError, match="at least 11 x 11 pixels; got 16 x 10"):
        mean_pairwise_ms_ssim(jnp.zeros((2, 16, 10, 1)))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_non_finite_images_are_errors(value):
    with pytest.raises(InputError, match="images must be finite"):
        mean_pairwise_ms_ssim(np.full((2, 12, 12, 1), value))


@pytest.mark.parametrize("row", [[0.5, 0.6], [1.5, -0.5], [0.0, 0.0]])
def test_rows_that_are_no_distribution_are_errors(row):
    with pytest.raises(InputError, match="must be at least 0 and sum to 1 in each row"):
        classifier_score(np.array([[0.5, 0.5], row]), splits=1)


@pytest.mark.parametrize("labels", [[0, -1], [0, 3]])
def test_labels_out_of_range_are_errors(labels):
    with pytest.raises(InputError, match="labels must be from 0 to 2; got"):
        class_imbalance(np.array(labels), 3)
    with pytest.raises(InputError, match="labels must be from 0 to 2; got"):
        mode_coverage(np.array(labels), np.arange(3), 3)


@pytest.mark.usefixtures("without_type_checks")
def test_labels_that_are_not_integers_are_errors():
    with pytest.raises(InputError, match=r"integers on one axis; got float64 \(2,\)"):
        class_imbalance(np.array([0.0, 1.0]), 3)
