"""Distances between images, against their formulas and the invariances these have."""

import jax.numpy as jnp
import numpy as np
import pytest

from deconv_jax.metrics.image import mean_squared_error, psnr

PREDICTION, TARGET = jnp.asarray(np.random.default_rng(0).random((2, 5, 6, 7, 3), np.float32))

on_both = pytest.mark.parametrize("measure", [mean_squared_error, psnr])


def test_mean_squared_error_is_that_of_each_image_in_double_precision():
    p, t = np.asarray(PREDICTION, np.float64), np.asarray(TARGET, np.float64)
    expected = [np.mean((p[i] - t[i]) ** 2) for i in range(len(p))]
    np.testing.assert_allclose(mean_squared_error(PREDICTION, TARGET), expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("difference", "decibels"),
    [(1.0, 0.0), (0.1, 20.0), (0.01, 40.0), (1 / 255, 48.1308)],
)
def test_psnr_of_a_constant_difference(difference, decibels):
    """-10 log10(d**2) = -20 log10 d; one gray level of 255 is 20 log10 255 = 48.1308 dB."""
    target = jnp.zeros((1, 4, 4, 1))
    assert psnr(target + difference, target)[0] == pytest.approx(decibels, abs=1e-3)


def test_psnr_of_equal_images_is_infinite():
    assert jnp.isposinf(psnr(TARGET, TARGET)).all()


@on_both
def test_prediction_and_target_may_be_exchanged(measure):
    np.testing.assert_array_equal(measure(PREDICTION, TARGET), measure(TARGET, PREDICTION))


@on_both
def test_an_images_figure_does_not_depend_on_the_others(measure):
    order = jnp.array([3, 1, 4, 0, 2])
    together = measure(PREDICTION, TARGET)
    np.testing.assert_array_equal(measure(PREDICTION[order], TARGET[order]), together[order])
    alone = jnp.concatenate([measure(PREDICTION[i : i + 1], TARGET[i : i + 1]) for i in range(5)])
    np.testing.assert_allclose(alone, together, rtol=1e-6)


@on_both
def test_flipping_and_shifting_the_gray_of_both_images_changes_nothing(measure):
    moved = [1.0 - jnp.flip(a, (1, 2)) for a in (PREDICTION, TARGET)]
    np.testing.assert_allclose(measure(*moved), measure(PREDICTION, TARGET), rtol=1e-5)
