"""Iterative methods against scikit-image, SciPy, closed forms and their stopping rule."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse.linalg
import skimage.restoration
from arrays import draw
from jaxtyping import config as jaxtyping_config

from deconv_jax.classical import cgls, landweber, richardson_lucy
from deconv_jax.classical.problem import total_variation
from deconv_jax.data.degradations import Blur, Chain, Decimate, GaussianNoise, Mask
from deconv_jax.errors import InputError

pytestmark = pytest.mark.usefixtures("double_precision")

SIZE = (12, 10)


def uniform(*shape, seed=0):
    return np.random.default_rng((seed, *shape)).uniform(size=shape)


def psf(*size):
    """Return positive numbers that sum to 1, in float32 like forward models."""
    weights = np.exp(draw(*size, seed=5))
    return (weights / np.sum(weights)).astype("float32")


CIRCULAR = Blur(psf(3, 4))
BLUR_AND_DECIMATE = Chain((Blur(psf(3, 3), "zeros"), Decimate(2)))


def dense(model, size=SIZE):
    basis = jnp.eye(size[0] * size[1]).reshape(-1, *size, 1)
    return np.asarray(jax.vmap(lambda e: model.forward(e[None]).ravel())(basis)).T


def test_richardson_lucy_equals_scikit_image_for_images_with_a_black_border():
    """scikit-image does not divide by A^T 1, which differs from 1 only near the border."""
    kernel = psf(5, 3)
    y = uniform(20, 18)
    y[:5] = y[-5:] = y[:, :5] = y[:, -5:] = 0
    model = Blur(kernel, "zeros")
    ours = richardson_lucy(jnp.asarray(y)[None, ..., None], model, iterations=6)[0, ..., 0]
    theirs = skimage.restoration.richardson_lucy(y, kernel.astype(float), num_iter=6, clip=False)
    np.testing.assert_allclose(ours, theirs, atol=1e-9)


def test_richardson_lucy_decreases_its_objective_and_keeps_flux_and_sign():
    x = uniform(2, *SIZE, 1)
    y = jnp.asarray(np.asarray(CIRCULAR.forward(jnp.asarray(x))) + 0.05 * draw(2, *SIZE, 1))
    restored, objective = richardson_lucy(y, CIRCULAR, iterations=20, return_objective=True)
    objective = np.asarray(objective)
    assert objective.shape == (20, 2)
    assert np.all(np.diff(objective, axis=0) < 0)
    assert np.all(np.asarray(restored) >= 0)
    light = np.sum(np.maximum(y, 0), axis=(1, 2, 3))
    np.testing.assert_allclose(np.sum(restored, axis=(1, 2, 3)), light, rtol=1e-6)
    mean = CIRCULAR.forward(restored)
    seen = np.maximum(y, 1e-300)
    divergence = np.sum(mean - np.maximum(y, 0) + seen * np.log(seen / mean), axis=(1, 2, 3))
    np.testing.assert_allclose(objective[-1], divergence, rtol=1e-9)


def test_total_variation_term_of_richardson_lucy_equals_that_of_the_paper():
    y, weight = uniform(1, *SIZE, 1), 0.05
    matrix = dense(CIRCULAR)
    x = np.full(SIZE, 0.5)
    for _ in range(4):
        down = np.append(np.diff(x, axis=0), np.zeros((1, SIZE[1])), axis=0)
        right = np.append(np.diff(x, axis=1), np.zeros((SIZE[0], 1)), axis=1)
        length = np.sqrt(down**2 + right**2 + 1e-6)
        down, right = down / length, right / length
        divergence = np.diff(down, axis=0, prepend=0) + np.diff(right, axis=1, prepend=0)
        ratio = y.ravel() / (matrix @ x.ravel())
        x = (
            x
            * (matrix.T @ ratio).reshape(SIZE)
            / (np.sum(CIRCULAR.psf, dtype=float) - weight * divergence)
        )
    ours = richardson_lucy(jnp.asarray(y), CIRCULAR, iterations=4, tv_weight=weight)
    np.testing.assert_allclose(ours[0, ..., 0], x, rtol=1e-9)
    plain = richardson_lucy(jnp.asarray(y), CIRCULAR, iterations=4)
    assert float(total_variation(ours)[0]) < float(total_variation(plain)[0])


def test_richardson_lucy_restores_observed_pixels_and_keeps_the_others():
    """With a mask, observed pixels are restored in one step, and masked ones stay gray."""
    mask = (draw(*SIZE) > 0).astype("float32")
    x = uniform(1, *SIZE, 1)
    restored = richardson_lucy(jnp.asarray(mask[..., None] * x), Mask(mask), iterations=2)
    np.testing.assert_allclose(restored, np.where(mask[..., None] > 0, x, 0.5), atol=1e-12)
    y = jnp.asarray(uniform(1, 6, 5, 1))
    restored = richardson_lucy(y, BLUR_AND_DECIMATE, iterations=200)
    np.testing.assert_allclose(BLUR_AND_DECIMATE.forward(restored), y, atol=0.02)


def test_landweber_equals_its_spectral_filter():
    """k steps from a black image are the filter (1 - (1 - rate |H|^2)^k) / H."""
    y = draw(2, *SIZE, 1)
    steps, relaxation = 7, 1.3
    response = np.asarray(
        np.fft.rfft2(CIRCULAR.forward(jnp.zeros((1, *SIZE, 1)).at[0, 0, 0].set(1.0)), axes=(1, 2))
    )
    power = np.abs(response) ** 2
    kept = (1 - (1 - relaxation * power / np.max(power)) ** steps) / response
    expected = np.fft.irfft2(kept * np.fft.rfft2(y, axes=(1, 2)), SIZE, axes=(1, 2))
    ours = landweber(jnp.asarray(y), CIRCULAR, iterations=steps, relaxation=relaxation)
    np.testing.assert_allclose(ours, expected, atol=1e-10)


@pytest.mark.slow
@pytest.mark.parametrize("model", [CIRCULAR, BLUR_AND_DECIMATE], ids=["circular", "decimate"])
def test_cgls_has_the_iterates_of_lsqr(model):
    """The algorithm of Paige and Saunders has another recurrence for the same iterates."""
    y = draw(2, *model.output_size(SIZE), 1)
    ours, objective = cgls(jnp.asarray(y), model, iterations=5, return_objective=True)
    matrix = dense(model)
    for i in range(2):
        options = {"iter_lim": 5, "atol": 0, "btol": 0, "conlim": 0}
        expected = scipy.sparse.linalg.lsqr(matrix, y[i].ravel(), **options)[0]
        np.testing.assert_allclose(np.ravel(ours[i]), expected, atol=1e-8)
        misfit = 0.5 * np.sum((matrix @ expected - y[i].ravel()) ** 2)
        assert float(objective[-1, i]) == pytest.approx(misfit, rel=1e-8)
    assert np.all(np.diff(objective, axis=0) < 0)


@pytest.mark.slow
@pytest.mark.parametrize("method", [landweber, cgls])
def test_each_image_stops_at_its_noise_level(method):
    x = 0.5 + 0.3 * np.sin(np.arange(SIZE[0]) / 2).reshape(1, -1, 1, 1) + np.zeros((3, *SIZE, 1))
    sigmas = np.array([0.002, 0.03, 5.0])
    blurred = np.asarray(CIRCULAR.forward(jnp.asarray(x)))
    y = jnp.asarray(blurred + sigmas.reshape(3, 1, 1, 1) * draw(3, *SIZE, 1))
    drawn = GaussianNoise((0.0, 1.0))._with(sigma=jnp.asarray(255 * sigmas))
    model = Chain((CIRCULAR, drawn))
    options = {"iterations": 400, "tau": 1.1, "return_objective": True, "return_iterations": True}
    restored, objective, counts = method(y, model, **options)
    objective, counts = np.asarray(objective), np.asarray(counts)
    limit = 0.5 * (1.1 * sigmas) ** 2 * SIZE[0] * SIZE[1]
    # The third image is weaker than its noise, so the black start satisfies the stopping rule.
    assert counts[2] == 0
    assert not np.any(restored[2])
    assert 0 < counts[1] < counts[0] < 400
    for i in range(2):
        assert objective[counts[i] - 1, i] <= limit[i]
        assert np.all(objective[: counts[i] - 1, i] > limit[i])
        assert np.all(objective[counts[i] :, i] == objective[counts[i] - 1, i])
        misfit = 0.5 * np.sum(np.square(CIRCULAR.forward(restored[i : i + 1]) - y[i : i + 1]))
        assert objective[-1, i] == pytest.approx(float(misfit), rel=1e-6)
        alone = Chain((CIRCULAR, GaussianNoise(255 * sigmas[i])))
        single = method(y[i : i + 1], alone, iterations=400, tau=1.1, return_iterations=True)
        np.testing.assert_allclose(single[0][0], restored[i], atol=1e-10)
        assert int(single[1][0]) == counts[i]
    assert np.all(np.diff(objective[:, :2], axis=0) <= 0)


def test_all_iterations_run_without_a_noise_level():
    y = jnp.asarray(draw(1, *SIZE, 1))
    _, counts = cgls(y, CIRCULAR, iterations=3, return_iterations=True)
    assert np.asarray(counts).tolist() == [3]


@pytest.mark.parametrize(
    ("method", "options", "words"),
    [
        (richardson_lucy, {"tv_weight": 0.4}, r"tv_weight must be .* below 0.3536; got 0.4"),
        (richardson_lucy, {"iterations": 0}, "iterations must be at least 1; got 0"),
        (landweber, {"relaxation": 2.0}, "relaxation must be above 0 and below 2; got 2.0"),
        (landweber, {"relaxation": np.float32(2.0)}, "relaxation must be above 0 and below 2"),
        (richardson_lucy, {"tv_weight": np.int64(1)}, r"tv_weight must be .*; got 1"),
        (cgls, {"iterations": 0}, "iterations must be at least 1; got 0"),
        (cgls, {"tau": 0.0}, "tau must be above 0; got 0.0"),
        (landweber, {"tau": -1.0}, "tau must be above 0; got -1.0"),
        (landweber, {"tau": float("nan")}, "tau must be above 0; got nan"),
    ],
)
def test_options_out_of_range_are_errors(method, options, words, monkeypatch):
    # The run-time type checks of the tests would reject NumPy numbers.
    monkeypatch.setattr(jaxtyping_config, "jaxtyping_disable", True)
    with pytest.raises(InputError, match=words):
        method(jnp.zeros((1, *SIZE, 1)), CIRCULAR, **options)
