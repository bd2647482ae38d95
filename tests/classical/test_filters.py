"""Filters and Tikhonov regularization against scikit-image and normal equations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import skimage.restoration
from arrays import draw

from deconv_jax import ops
from deconv_jax.classical import inverse, problem, tikhonov, unsupervised_wiener, wiener
from deconv_jax.data.degradations import Blur, Chain, Decimate, Downsample, GaussianNoise, Mask
from deconv_jax.errors import InputError

pytestmark = pytest.mark.usefixtures("double_precision")


def gaussian_psf(size, sigma):
    profile = np.exp(-0.5 * np.square((np.arange(size) - size // 2) / sigma))
    return (np.outer(profile, profile) / np.sum(profile) ** 2).astype("float32")


def field(count, n, exponent, seed=0):
    """Draw Gaussian images of mean 0.5 and power 1 / |L|^exponent, with the Laplacian's transfer function L."""
    frequency = 4 * np.sin(np.pi * np.fft.fftfreq(n)) ** 2
    roughness = frequency[:, None] + frequency[: n // 2 + 1]
    roughness[0, 0] = np.inf
    amplitude = 0.02 / roughness ** (exponent / 2)
    spectrum = np.fft.rfft2(draw(count, n, n, seed=seed)) * amplitude
    return 0.5 + np.fft.irfft2(spectrum, (n, n))[..., None]


def observe(x, model, sigma, seed=1):
    blurred = np.asarray(model.forward(jnp.asarray(x)))
    return jnp.asarray(blurred + sigma * draw(*blurred.shape, seed=seed))


def error(a, b):
    return float(np.mean(np.square(np.asarray(a) - np.asarray(b))))


BLUR = Blur(gaussian_psf(7, 1.2))


def test_inverse_filter_undoes_an_invertible_blur():
    psf = 0.4 * gaussian_psf(5, 1.0)
    psf[2, 2] += 0.6
    x = draw(2, 10, 12, 3)
    model = Chain((Blur(psf), Blur(np.roll(psf, 1, axis=0))))
    y = observe(x, model, 0)
    np.testing.assert_allclose(inverse(y, model), x, atol=1e-10)


def test_strength_may_be_per_image_or_per_frequency():
    y = jnp.asarray(draw(2, 12, 10, 1))
    psf = jnp.asarray(BLUR.psf, float)
    ratios = np.array([0.01, 0.2])
    spectra = ratios[:, None, None] + np.square(draw(2, 12, 6))
    by_image, by_frequency = (wiener(y, BLUR, noise_to_signal=r) for r in (ratios, spectra))
    cut = inverse(y, BLUR, threshold=ratios)
    for i in range(2):
        expected = ops.wiener_filter(y[i], psf, noise_to_signal=ratios[i])
        np.testing.assert_allclose(by_image[i], expected, atol=1e-10)
        expected = ops.wiener_filter(y[i], psf, noise_to_signal=jnp.asarray(spectra[i]))
        np.testing.assert_allclose(by_frequency[i], expected, atol=1e-10)
        expected = ops.inverse_filter(y[i], psf, threshold=ratios[i])
        np.testing.assert_allclose(cut[i], expected, atol=1e-10)
    shared = wiener(y, BLUR, noise_to_signal=spectra[0])
    np.testing.assert_allclose(shared[0], by_frequency[0], atol=1e-12)


def test_power_estimated_by_wiener_is_nearly_optimal():
    sigma = 0.02
    x = field(3, 48, 1.5)
    y = observe(x, BLUR, sigma)
    estimated = error(wiener(y, Chain((BLUR, GaussianNoise(255 * sigma)))), x)
    frequency = 4 * np.sin(np.pi * np.fft.fftfreq(48)) ** 2
    truth = (sigma / 0.02) ** 2 * (frequency[:, None] + frequency[:25]) ** 1.5
    best = error(wiener(y, BLUR, noise_to_signal=truth), x)
    assert estimated < 1.01 * best
    assert best < 0.7 * error(y, x)


def test_unsupervised_wiener_estimates_noise_and_image_power():
    sigmas = np.array([0.01, 0.05])
    x = field(2, 64, 2.0)
    y = observe(x, BLUR, sigmas.reshape(2, 1, 1, 1))
    _, estimates = unsupervised_wiener(y, BLUR, return_estimates=True)
    np.testing.assert_allclose(estimates["sigma"], sigmas, rtol=0.05)
    np.testing.assert_allclose(estimates["noise_to_signal"], (sigmas / 0.02) ** 2, rtol=0.25)


@pytest.mark.slow
def test_estimates_are_invariant_to_transposing_the_image():
    """The half spectrum counts correctly along either axis."""
    model = Blur(gaussian_psf(7, 1.2)[1:])
    y = observe(field(1, 12, 2.0)[:, :7], model, 0.02)
    aside = Blur(np.asarray(model.psf).T)
    x, found = unsupervised_wiener(y, model, return_estimates=True)
    turned, again = unsupervised_wiener(y.swapaxes(1, 2), aside, return_estimates=True)
    np.testing.assert_allclose(again["sigma"], found["sigma"], rtol=1e-9)
    np.testing.assert_allclose(turned.swapaxes(1, 2), x, atol=1e-9)


def test_unsupervised_wiener_is_close_to_the_posterior_mean_of_scikit_image():
    """scikit-image averages samples of a Markov chain; maximum likelihood is closer to the true powers."""
    sigma = 0.03
    x = field(1, 64, 2.0)
    y = observe(x, BLUR, sigma)
    ours, found = unsupervised_wiener(y, BLUR, return_estimates=True)
    theirs, chains = skimage.restoration.unsupervised_wiener(
        np.asarray(y)[0, ..., 0],
        np.asarray(BLUR.psf, float),
        clip=False,
        rng=0,
        user_params={"max_num_iter": 300, "min_num_iter": 300, "burnin": 50},
    )
    assert found["sigma"][0] == pytest.approx(np.mean(chains["noise"][50:]) ** -0.5, rel=0.01)
    assert error(ours[0, ..., 0], theirs) < 0.1 * error(theirs, x[0, ..., 0])
    assert error(ours, x) < error(theirs, x[0, ..., 0])


def test_tikhonov_with_laplacian_equals_the_wiener_filter_of_scikit_image():
    y = draw(1, 16, 16, 1)
    ours = tikhonov(jnp.asarray(y), BLUR, weight=0.1)
    theirs = skimage.restoration.wiener(y[0, ..., 0], np.asarray(BLUR.psf, float), 0.1, clip=False)
    np.testing.assert_allclose(ours[0, ..., 0], theirs, atol=1e-10)


def dense(function, size):
    """Return the matrix of a linear map of single images."""
    basis = jnp.eye(size[0] * size[1]).reshape(-1, *size, 1)
    return np.asarray(jax.vmap(lambda e: function(e[None]).ravel())(basis)).T


@pytest.mark.slow
@pytest.mark.parametrize("regularizer", ["laplacian", "identity"])
@pytest.mark.parametrize(
    "model",
    [
        Chain((Blur(gaussian_psf(5, 1.0), "zeros"), Decimate(2))),
        Mask((draw(10, 8) > 0).astype("float32")),
        BLUR,
    ],
    ids=["blur, decimate", "mask", "circular"],
)
def test_tikhonov_solves_the_normal_equations(model, regularizer):
    size, weights = (10, 8), np.array([0.05, 0.5])
    y = jnp.asarray(draw(2, *model.output_size(size), 1))
    x = tikhonov(y, model, weight=weights, regularizer=regularizer, tolerance=1e-12)
    matrix = dense(model.forward, size)
    penalty = np.eye(80)
    if regularizer == "laplacian":
        penalty = dense(problem.laplacian, size)
        if model is BLUR:
            stencil = jnp.asarray([[0.0, -1, 0], [-1, 4, -1], [0, -1, 0]])
            penalty = dense(lambda image: ops.fft_conv(image, stencil), size)
    for image, observed, weight in zip(x, y, weights, strict=True):
        normal = matrix.T @ matrix + weight * penalty.T @ penalty
        expected = np.linalg.solve(normal, matrix.T @ np.asarray(observed).ravel())
        np.testing.assert_allclose(np.ravel(image), expected, atol=1e-8)


@pytest.mark.slow
@pytest.mark.parametrize("boundary", ["zeros", "reflect", "valid"])
def test_other_boundaries_are_tapered_and_the_interior_is_restored(boundary):
    x = 0.5 + 8 * (field(1, 80, 1.5)[:, 16:64, 16:64] - 0.5)
    model = Chain((Blur(gaussian_psf(9, 1.5), boundary), GaussianNoise(0.5)))
    y = observe(x, model, 0.5 / 255)
    middle = np.s_[:, 12:-12, 12:-12]
    same_size = np.asarray(Blur(gaussian_psf(9, 1.5)).forward(jnp.asarray(x)))
    for method in (wiener, unsupervised_wiener, inverse):
        restored = np.asarray(method(y, model))
        assert restored.shape == x.shape
        assert error(restored[middle], x[middle]) < 0.6 * error(same_size[middle], x[middle])


@pytest.mark.parametrize("method", [inverse, wiener, unsupervised_wiener])
@pytest.mark.parametrize(
    ("model", "kinds"),
    [
        (Chain((BLUR, Downsample(2), GaussianNoise(1.0))), "Blur, Downsample"),
        (Mask(np.ones((8, 8))), "Mask"),
        (Chain((Blur(BLUR.psf, "zeros"), BLUR)), "Blur, Blur"),
    ],
)
def test_models_that_are_no_blur_are_errors_that_suggest_other_methods(method, model, kinds):
    with pytest.raises(InputError, match=f"got {kinds}; tikhonov, cgls, tv, wavelet and plug"):
        method(jnp.zeros((1, 8, 8, 1)), model)


@pytest.mark.usefixtures("without_type_checks")
def test_missing_noise_level_and_unknown_regularizer_are_errors():
    y = jnp.zeros((1, 8, 8, 1))
    with pytest.raises(InputError, match=r"requires noise_to_signal .*; got Blur without Gaussian"):
        wiener(y, BLUR)
    with pytest.raises(InputError, match="no regularizer 'laplace'; did you mean 'laplacian'"):
        tikhonov(y, BLUR, regularizer="laplace")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"weight": 0.0}, "weight must be above 0; got 0.0"),
        ({"iterations": 0}, "iterations must be at least 1; got 0"),
    ],
)
def test_options_out_of_range_are_errors(options, words):
    with pytest.raises(InputError, match=words):
        tikhonov(jnp.zeros((1, 8, 8, 1)), BLUR, **options)
