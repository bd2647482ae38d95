"""Fréchet and kernel distance against closed forms, loops over samples and other libraries."""

import numpy as np
import pytest
import scipy.linalg
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from deconv_jax.errors import InputError
from deconv_jax.metrics.feature_distance import (
    FeatureStatistics,
    frechet_distance,
    kernel_distance,
)

of = FeatureStatistics.of


def normal(*shape, seed=0):
    return np.random.default_rng((seed, *shape)).standard_normal(shape)


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


# Errors


def test_too_few_samples_are_errors():
    three, one = normal(3, 2), normal(1, 2)
    with pytest.raises(InputError, match="for a covariance must be at least 2; got 1"):
        frechet_distance(of(three), of(one))
    with pytest.raises(InputError, match="for a mean must be at least 1; got 0"):
        frechet_distance(FeatureStatistics(), of(three))
    with pytest.raises(InputError, match="number of fake features must be at least 2; got 1"):
        kernel_distance(three, one)


def test_block_size_below_two_is_an_error():
    points = normal(9, 2)
    with pytest.raises(InputError, match="block_size must be at least 2; got 1"):
        kernel_distance(points, points, block_size=1)


@pytest.mark.usefixtures("without_type_checks")
def test_sets_that_cannot_be_compared_are_errors():
    with pytest.raises(InputError, match="equal dimensions; got 2 and 3"):
        kernel_distance(normal(9, 2), normal(9, 3))
    with pytest.raises(InputError, match=r"fake features must be an array of two axes; got shape"):
        kernel_distance(normal(9, 2), normal(9, 2, 1))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_non_finite_features_are_errors(value):
    points = normal(9, 2)
    invalid = points.copy()
    invalid[4, 1] = value
    with pytest.raises(InputError, match="fake features must be finite"):
        kernel_distance(points, invalid)
    with pytest.raises(InputError, match="features must be finite"):
        of(invalid)


def test_statistics_of_different_dimensions_are_errors():
    statistics = of(normal(5, 2))
    with pytest.raises(InputError, match="equal dimensions; got 3 and 2"):
        statistics.update(normal(5, 3))
    with pytest.raises(InputError, match="a and b must have equal dimensions; got 2 and 3"):
        frechet_distance(statistics, of(normal(5, 3)))
