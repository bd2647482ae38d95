"""Metrics of generative models against closed forms, loops over samples and other libraries."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
import scipy.spatial.distance
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import config as jaxtyping_config

from deconv_jax.errors import InputError
from deconv_jax.metrics import generative
from deconv_jax.metrics.generative import (
    FeatureStatistics,
    class_imbalance,
    classifier_score,
    density_coverage,
    frechet_distance,
    kernel_distance,
    mean_pairwise_ms_ssim,
    mode_coverage,
    precision_recall,
    repetition,
)
from deconv_jax.metrics.image import ms_ssim

of = FeatureStatistics.of


def normal(*shape, seed=0):
    return np.random.default_rng((seed, *shape)).standard_normal(shape)


@pytest.fixture
def as_without_type_checks(monkeypatch):
    """Disable the run-time type checks of the tests, so that the functions' own errors show."""
    monkeypatch.setattr(jaxtyping_config, "jaxtyping_disable", True)


# Mean and covariance


@settings(max_examples=30, deadline=None, derandomize=True)
@given(
    sizes=st.lists(st.integers(0, 6), min_size=1, max_size=8).filter(lambda s: sum(s) > 1),
    offset=st.sampled_from([0.0, 1e6, -1e8]),
)
def test_statistics_are_the_same_for_any_batches(sizes, offset):
    """An offset costs no more precision than the features themselves have lost."""
    spread = normal(sum(sizes), 3)
    features = spread + offset
    statistics = FeatureStatistics()
    for batch in np.split(features, np.cumsum(sizes)[:-1]):
        statistics.update(batch)
    assert statistics.count == len(features)
    rounding = 1e-14 + 4e-16 * abs(offset)
    np.testing.assert_allclose(statistics.mean, spread.mean(0) + offset, rtol=1e-15, atol=rounding)
    expected = np.cov(spread, rowvar=False)
    np.testing.assert_allclose(statistics.covariance, expected, rtol=0, atol=10 * rounding)


def test_statistics_of_float32_are_computed_in_float64():
    features = (normal(1000, 2) + 1000).astype(np.float32)
    statistics = of(features)
    assert statistics.mean.dtype == statistics.covariance.dtype == np.float64
    expected = np.cov(features.astype(np.float64), rowvar=False)
    np.testing.assert_allclose(statistics.covariance, expected, rtol=1e-12)


# Fréchet distance


def with_moments(mean, covariance_root, count=40):
    """Return rows with exactly this mean and the covariance root'root."""
    rows = normal(count, len(mean))
    rows = rows - rows.mean(0)
    white = rows @ np.linalg.inv(np.linalg.cholesky(rows.T @ rows / (count - 1)).T)
    return mean + white @ covariance_root


def test_frechet_distance_equals_the_formula_with_a_matrix_square_root():
    a, b = normal(60, 7), normal(50, 7, seed=1) @ normal(7, 7) + 0.5
    root = scipy.linalg.sqrtm(np.cov(a, rowvar=False) @ np.cov(b, rowvar=False))
    expected = np.sum((a.mean(0) - b.mean(0)) ** 2) + np.trace(
        np.cov(a, rowvar=False) + np.cov(b, rowvar=False) - 2 * root.real
    )
    assert frechet_distance(of(a), of(b)) == pytest.approx(expected, rel=1e-10)


def test_frechet_distance_of_diagonal_covariances_is_a_sum_over_axes():
    """Each axis contributes (mean - mean)^2 + (sigma - sigma)^2."""
    means, sigmas = normal(2, 6), np.abs(normal(2, 6, seed=1))
    a, b = (with_moments(mean, np.diag(sigma)) for mean, sigma in zip(means, sigmas, strict=True))
    expected = np.sum((means[0] - means[1]) ** 2 + (sigmas[0] - sigmas[1]) ** 2)
    assert frechet_distance(of(a), of(b)) == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("cosine", [0.0, 0.6, 1.0])
def test_frechet_distance_of_rank_one_covariances(cosine):
    """It is s^2 + t^2 - 2 s t |cos| for any axes."""
    u, other = np.linalg.qr(normal(30, 30))[0][:2]
    v = cosine * u + np.sqrt(1 - cosine**2) * other
    a, b = (
        with_moments(np.zeros(1), np.array([[sigma]])) * line for sigma, line in ((2, u), (3, v))
    )
    expected = 4 + 9 - 12 * cosine
    assert frechet_distance(of(a), of(b)) == pytest.approx(expected, rel=1e-6)


def test_frechet_distance_of_fewer_samples_than_dimensions():
    """Tr (A B)^(1/2) is then the sum of the singular values of X Y', for centered X and Y, over n - 1."""
    a, b = normal(12, 64), normal(12, 64, seed=1) + 0.3
    x, y = a - a.mean(0), b - b.mean(0)
    cross = np.sum(np.linalg.svd(x @ y.T)[1])
    variances = np.sum(x**2) + np.sum(y**2)
    expected = np.sum((a.mean(0) - b.mean(0)) ** 2) + (variances - 2 * cross) / 11
    assert frechet_distance(of(a), of(b)) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("count", [12, 200])
def test_frechet_distance_is_symmetric_zero_for_equal_sets_and_rotation_invariant(count):
    a, b = normal(count, 20), normal(count, 20, seed=1) * 2 + 1
    distance = frechet_distance(of(a), of(b))
    assert frechet_distance(of(b), of(a)) == pytest.approx(distance, rel=1e-7)
    assert 0 <= frechet_distance(of(a), of(a)) < 1e-10
    rotation = np.linalg.qr(normal(20, 20))[0]
    rotated = frechet_distance(of(a @ rotation), of(b @ rotation))
    assert rotated == pytest.approx(distance, rel=1e-7)


# Kernel distance


def discrepancy(x, y):
    """Compute the unbiased estimate term by term."""

    def kernel(a, b):
        return (sum(p * q for p, q in zip(a, b, strict=True)) / len(a) + 1) ** 3

    n, m = len(x), len(y)
    of_x = sum(kernel(x[i], x[j]) for i in range(n) for j in range(n) if i != j)
    of_y = sum(kernel(y[i], y[j]) for i in range(m) for j in range(m) if i != j)
    across = sum(kernel(a, b) for a in x for b in y)
    return of_x / (n * (n - 1)) + of_y / (m * (m - 1)) - 2 * across / (n * m)


def test_kernel_distance_is_the_mean_over_blocks_with_its_standard_error():
    """Only blocks that are full in both sets count; 5 rows and 15 rows are left over."""
    real, fake = normal(35, 4), normal(45, 4, seed=1) + 0.5
    blocks = [discrepancy(real[i : i + 10], fake[i : i + 10]) for i in (0, 10, 20)]
    mean, error = kernel_distance(real, fake, block_size=10)
    assert mean == pytest.approx(np.mean(blocks), rel=1e-12)
    assert error == pytest.approx(scipy.stats.sem(blocks), rel=1e-10)


def test_kernel_distance_of_small_sets_has_a_single_block():
    real, fake = normal(9, 4), normal(7, 4, seed=1)
    mean, error = kernel_distance(real, fake)
    assert mean == pytest.approx(discrepancy(real[:7], fake), rel=1e-12)
    assert np.isnan(error)


@pytest.mark.parametrize(("shift", "expected"), [(0, 0), (1, 22)])
def test_kernel_distance_is_unbiased_with_a_correct_standard_error(shift, expected):
    """The expectation for N(0, 1) and N(shift, 1) in one dimension is sum_j C(3, j) (E x^j - E y^j)^2.

    For a shift of 1, the moments 0, 1, 0 and 1, 2, 4 give 3 + 3 + 16. Blocks are small, so a biased estimate
    would be far off. The standard errors of 40 sets predict the scatter of their means.
    """
    x, y = normal(40, 500, 1), normal(40, 500, 1, seed=1) + shift
    estimates = [kernel_distance(a, b, block_size=20) for a, b in zip(x, y, strict=True)]
    means, errors = np.transpose(estimates)
    assert abs(np.mean(means) - expected) < 3 * scipy.stats.sem(means)
    assert np.std(means) == pytest.approx(np.sqrt(np.mean(errors**2)), rel=0.35)


# Neighbours


def radii(points, k):
    return [sorted(np.linalg.norm(points - p, axis=1))[k] for p in points]


def inside(points, centers, center_radii):
    """Return whether each point (row) lies in the closed ball of each center (column)."""
    return np.array(
        [
            [np.linalg.norm(p - c) <= r for c, r in zip(centers, center_radii, strict=True)]
            for p in points
        ]
    )


@pytest.fixture
def small_blocks(monkeypatch):
    """Use blocks of a few rows, so that there are several, the last one smaller."""
    monkeypatch.setattr(generative, "_BLOCK", 200)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("k", [1, 3, 5])
@pytest.mark.parametrize("offset", [0, 1e5])
def test_neighbor_metrics_equal_loops_over_samples(k, offset):
    real, fake = normal(53, 3) + offset, 0.7 * normal(41, 3, seed=1) + 0.4 + offset
    fake_in_real = inside(fake, real, radii(real, k))
    real_in_fake = inside(real, fake, radii(fake, k))
    expected = (fake_in_real.any(1).mean(), real_in_fake.any(1).mean())
    assert precision_recall(real, fake, k) == pytest.approx(expected)
    expected = (fake_in_real.sum() / (k * 41), fake_in_real.any(0).mean())
    assert density_coverage(real, fake, k) == pytest.approx(expected)


def test_equal_sets_lie_on_each_others_manifolds():
    """The ball of a sample contains the sample and its k neighbors, the farthest on its surface."""
    points = normal(50, 8)
    assert precision_recall(points, points.copy()) == (1, 1)
    assert density_coverage(points, points.copy()) == (pytest.approx(6 / 5), 1)
    assert repetition(points, points) == 0


def test_distant_sets_have_all_metrics_zero():
    points = normal(50, 8)
    assert precision_recall(points, points + 100) == (0, 0)
    assert density_coverage(points, points + 100) == (0, 0)


def test_collapsed_set_has_high_precision_and_low_recall_and_coverage():
    real = normal(50, 8).astype(np.float32)
    collapsed = np.repeat(real[:1], 50, axis=0)
    assert precision_recall(real, collapsed) == (1, 1 / 50)
    density, coverage = density_coverage(real, collapsed)
    covering = inside(real[:1], real, radii(real, 5)).sum()
    assert density == pytest.approx(covering / 5)
    assert coverage == pytest.approx(covering / 50)
    assert repetition(real, collapsed) == 1


def test_density_and_coverage_of_one_distribution_have_the_expected_means():
    """They are 1 and 1 - 2^-k by lemmas 1 and 2 of arXiv:2002.09797."""
    values = [
        density_coverage(normal(300, 2, seed=i), normal(300, 2, seed=i + 100), k=2)
        for i in range(20)
    ]
    density, coverage = np.mean(values, axis=0)
    assert density == pytest.approx(1, abs=0.03)
    assert coverage == pytest.approx(0.75, abs=0.01)


def test_repetition_counts_all_copies():
    """There are three copies and one close pair among 20 samples, relative to the spacing of real samples."""
    real = 10.0 * np.eye(20) + 5
    fake = real[:, ::-1].copy()
    fake[1] = fake[2] = fake[0]
    fake[4] = fake[3] + 0.01 * normal(20)
    assert repetition(real, fake) == 5 / 20


def test_repetition_of_uniform_points_in_two_dimensions():
    """1 - 2^(-1/100) of them have a neighbor within a tenth of the median; edge effects are small."""
    points = np.random.default_rng(0).random((2, 2500, 2))
    assert repetition(*points) == pytest.approx(0.0069, abs=0.004)


def test_repetition_uses_the_distance_to_the_nearest_other_sample():
    real, fake = normal(60, 1), normal(80, 1, seed=1)
    scale = np.median(radii(real, 1))
    expected = np.mean(np.array(radii(fake, 1)) < scale / 10)
    assert 0 < expected < 1
    assert repetition(real, fake) == expected


# Labels and probabilities


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
    three, one = normal(3, 2), normal(1, 2)
    with pytest.raises(InputError, match="for a covariance must be at least 2; got 1"):
        frechet_distance(of(three), of(one))
    with pytest.raises(InputError, match="for a mean must be at least 1; got 0"):
        frechet_distance(FeatureStatistics(), of(three))
    with pytest.raises(InputError, match="number of fake features must be at least 2; got 1"):
        kernel_distance(three, one)
    with pytest.raises(InputError, match="number of real features must be at least 4; got 3"):
        precision_recall(three, normal(9, 2))
    with pytest.raises(InputError, match="number of real features must be at least 6; got 3"):
        density_coverage(three, one)
    with pytest.raises(InputError, match="number of fake features must be at least 2; got 1"):
        repetition(three, one)
    with pytest.raises(InputError, match="number of probabilities must be at least 10; got 3"):
        classifier_score(np.eye(3))
    with pytest.raises(InputError, match="number of images must be at least 2; got 1"):
        mean_pairwise_ms_ssim(jnp.zeros((1, 16, 16, 1)))
    with pytest.raises(InputError, match="number of reference labels must be at least 1; got 0"):
        mode_coverage(np.arange(3), np.arange(0), 3)


def test_arguments_below_their_minimum_are_errors():
    points = normal(9, 2)
    with pytest.raises(InputError, match="block_size must be at least 2; got 1"):
        kernel_distance(points, points, block_size=1)
    for measure in (precision_recall, density_coverage):
        with pytest.raises(InputError, match="k must be at least 1; got 0"):
            measure(points, points, k=0)
    with pytest.raises(InputError, match="splits must be at least 1; got 0"):
        classifier_score(np.eye(3), splits=0)
    with pytest.raises(InputError, match="pairs must be at least 1; got 0"):
        mean_pairwise_ms_ssim(jnp.zeros((2, 16, 16, 1)), pairs=0)
    with pytest.raises(InputError, match="at least 11 x 11 pixels; got 16 x 10"):
        mean_pairwise_ms_ssim(jnp.zeros((2, 16, 10, 1)))


on_pairs = pytest.mark.parametrize(
    "measure", [kernel_distance, precision_recall, density_coverage, repetition]
)


@pytest.mark.usefixtures("as_without_type_checks")
@on_pairs
def test_sets_that_cannot_be_compared_are_errors(measure):
    with pytest.raises(InputError, match="equal dimensions; got 2 and 3"):
        measure(normal(9, 2), normal(9, 3))
    with pytest.raises(InputError, match=r"fake features must be an array of two axes; got shape"):
        measure(normal(9, 2), normal(9, 2, 1))


@on_pairs
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_non_finite_values_are_errors(measure, value):
    """They would change the neighbors, or make every metric NaN, without notice."""
    points = normal(9, 2)
    spoilt = points.copy()
    spoilt[4, 1] = value
    with pytest.raises(InputError, match="fake features must be finite"):
        measure(points, spoilt)
    with pytest.raises(InputError, match="features must be finite"):
        of(spoilt)
    with pytest.raises(InputError, match="images must be finite"):
        mean_pairwise_ms_ssim(np.full((2, 12, 12, 1), value))


def test_statistics_of_different_dimensions_are_errors():
    statistics = of(normal(5, 2))
    with pytest.raises(InputError, match="equal dimensions; got 3 and 2"):
        statistics.update(normal(5, 3))
    with pytest.raises(InputError, match="a and b must have equal dimensions; got 2 and 3"):
        frechet_distance(statistics, of(normal(5, 3)))


def test_mostly_duplicated_real_samples_are_an_error():
    with pytest.raises(InputError, match="more than half of which are duplicates"):
        repetition(np.ones((5, 3)), normal(5, 3))


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


@pytest.mark.usefixtures("as_without_type_checks")
def test_labels_that_are_not_integers_are_errors():
    with pytest.raises(InputError, match=r"integers on one axis; got float64 \(2,\)"):
        class_imbalance(np.array([0.0, 1.0]), 3)
