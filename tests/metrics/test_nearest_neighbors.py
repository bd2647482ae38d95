"""Precision, recall, density, coverage and repetition against loops over samples."""

import numpy as np
import pytest

from deconv_jax.errors import InputError
from deconv_jax.metrics import nearest_neighbors
from deconv_jax.metrics.nearest_neighbors import density_coverage, precision_recall, repetition


def normal(*shape, seed=0):
    return np.random.default_rng((seed, *shape)).standard_normal(shape)


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
    monkeypatch.setattr(nearest_neighbors, "_BLOCK", 200)


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


# Errors


def test_too_few_samples_are_errors():
    three, one = normal(3, 2), normal(1, 2)
    with pytest.raises(InputError, match="number of real features must be at least 4; got 3"):
        precision_recall(three, normal(9, 2))
    with pytest.raises(InputError, match="number of real features must be at least 6; got 3"):
        density_coverage(three, one)
    with pytest.raises(InputError, match="number of fake features must be at least 2; got 1"):
        repetition(three, one)


@pytest.mark.parametrize("metric", [precision_recall, density_coverage])
def test_k_below_one_is_an_error(metric):
    points = normal(9, 2)
    with pytest.raises(InputError, match="k must be at least 1; got 0"):
        metric(points, points, k=0)


on_metrics = pytest.mark.parametrize("metric", [precision_recall, density_coverage, repetition])


@pytest.mark.usefixtures("without_type_checks")
@on_metrics
def test_sets_that_cannot_be_compared_are_errors(metric):
    with pytest.raises(InputError, match="equal dimensions; got 2 and 3"):
        metric(normal(9, 2), normal(9, 3))
    with pytest.raises(InputError, match=r"fake features must be an array of two axes; got shape"):
        metric(normal(9, 2), normal(9, 2, 1))


@on_metrics
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_non_finite_features_are_errors(metric, value):
    """They would change the neighbors without notice."""
    points = normal(9, 2)
    invalid = points.copy()
    invalid[4, 1] = value
    with pytest.raises(InputError, match="fake features must be finite"):
        metric(points, invalid)


def test_mostly_duplicated_real_samples_are_an_error():
    with pytest.raises(InputError, match="more than half of which are duplicates"):
        repetition(np.ones((5, 3)), normal(5, 3))
