"""Variational and plug-and-play restoration against optimality conditions and other solvers."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import skimage.restoration
from arrays import draw
from jax.tree_util import Partial

from deconv_jax.classical import (
    any_level_denoiser,
    any_level_options,
    plug_and_play,
    tikhonov,
    tv,
    wavelet,
)
from deconv_jax.classical.problem import total_variation
from deconv_jax.data.degradations import (
    Blur,
    Chain,
    Decimate,
    GaussianNoise,
    Mask,
    RandomProjection,
)
from deconv_jax.errors import InputError
from deconv_jax.ops.wavelets import (
    coarse_mask,
    inverse_wavelet_transform,
    wavelet_transform,
)

pytestmark = pytest.mark.usefixtures("double_precision")

SIZE = (16, 12)


def psf(*size):
    weights = np.exp(draw(*size, seed=5))
    return (weights / np.sum(weights)).astype("float32")


def scene(count, channels=1):
    """Return flat regions that differ between images and channels."""
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]]
    steps = [
        0.2 + 0.6 * (rows + (1 + i) * columns > 12 + 3 * c)
        for i in range(count)
        for c in range(channels)
    ]
    return np.moveaxis(np.stack(steps).reshape(count, channels, *SIZE), 1, -1)


MASK = Mask((draw(*SIZE) > -0.5).astype("float32"))
CIRCULAR = Blur(psf(3, 4))
MODELS = {
    "identity": Chain(),
    "circular": CIRCULAR,
    "mask": MASK,
    "blur, decimate": Chain((Blur(psf(3, 3), "zeros"), Decimate(2))),
}
on_models = pytest.mark.parametrize("model", MODELS.values(), ids=MODELS.keys())


variation_of = jax.jit(total_variation)


def observe(model, count=2, channels=1, sigma=0.05):
    y = np.asarray(jax.jit(model.forward)(scene(count, channels)))
    return jnp.asarray(y + sigma * draw(*y.shape, seed=1))


def fidelity(x, y, model):
    misfit = np.asarray(jax.jit(model.forward)(jnp.asarray(x))) - np.asarray(y)
    return 0.5 * np.sum(misfit**2, axis=(1, 2, 3))


def test_tv_reaches_the_minimum_of_scikit_image_for_each_channel():
    y, weight = observe(Chain(), count=1, channels=2, sigma=0.1), 0.15
    ours, objective = tv(y, Chain(), weight=weight, iterations=4000, return_objective=True)
    theirs = skimage.restoration.denoise_tv_chambolle(
        np.asarray(y[0]), weight=weight, eps=0, max_num_iter=3000, channel_axis=-1
    )
    reached = fidelity(theirs[None], y, Chain()) + weight * variation_of(theirs[None])
    excess = float(reached[0]) - float(objective[-1, 0])
    assert -1e-9 <= excess <= 5e-5 * float(reached[0])
    # The objective is at least half the squared distance above its minimum.
    assert np.sum(np.square(ours[0] - theirs)) <= 2 * excess + 1e-8


@pytest.mark.slow
@on_models
def test_tv_satisfies_its_optimality_conditions(model):
    """At the minimum r = A^T (y - A x) is weight times a subgradient of TV at x.

    TV is the support function of its subgradients. Therefore <r, x> = weight TV(x), and <r, d> <= weight TV(d)
    for every image d, including constant ones.
    """
    y, weights = observe(model), np.array([0.01, 0.05])
    options = {"weight": weights, "iterations": 4000, "return_objective": True}
    x, objective = tv(y, model, **options)
    residual = np.asarray(jax.jit(lambda x, y: model.adjoint(y - model.forward(x), SIZE))(x, y))
    variation = np.asarray(variation_of(x))
    inner = np.sum(residual * np.asarray(x), axis=(1, 2, 3))
    np.testing.assert_allclose(inner, weights * variation, rtol=1e-4)
    for direction in (*draw(20, *SIZE, 1), np.ones((*SIZE, 1)), *(scene(2) - np.asarray(x))):
        slope = np.sum(residual * direction, axis=(1, 2, 3))
        bound = weights * float(variation_of(direction[None])[0])
        assert np.all(np.abs(slope) <= bound + 1e-4)
    np.testing.assert_allclose(objective[-1], fidelity(x, y, model) + weights * variation)
    default = tv(y, model, weight=weights, return_objective=True)[1]
    assert np.all(default[-1] <= 1.03 * objective[-1])


@pytest.mark.slow
def test_tv_of_a_circular_blur_is_the_same_with_and_without_the_closed_form():
    y = observe(CIRCULAR)
    whole = Chain((CIRCULAR, Mask(np.ones(SIZE))))
    closed, dual = (tv(y, m, weight=0.02, iterations=3000) for m in (CIRCULAR, whole))
    np.testing.assert_allclose(closed, dual, atol=1e-4)


def shrink(c, by):
    return np.sign(c) * np.maximum(np.abs(c) - by, 0)


@pytest.mark.slow
def test_wavelet_denoising_is_soft_thresholding():
    y = observe(Chain())
    options = {"basis": "db2", "levels": 2}
    x = wavelet(y, Chain(), weight=0.1, iterations=1, **options)
    c = np.asarray(jax.jit(lambda y: wavelet_transform(y, "db2", levels=2))(y))
    free = coarse_mask(SIZE, 2)[..., None]
    expected = np.where(free, c, shrink(c, 0.1))
    expected = jax.jit(lambda c: inverse_wavelet_transform(c, "db2", levels=2))(expected)
    np.testing.assert_allclose(x, expected, atol=1e-12)


def dct_matrix(n):
    """Return the orthonormal DCT matrix, one frequency per row."""
    matrix = np.cos(np.pi * np.outer(np.arange(n), np.arange(n) + 0.5) / n) * np.sqrt(2 / n)
    matrix[0] /= np.sqrt(2)
    return matrix


@pytest.mark.slow
@pytest.mark.parametrize("model", [CIRCULAR, MASK], ids=["circular", "mask"])
def test_fista_decreases_monotonically_to_the_minimum_of_ista(model):
    """The basis is the DCT of 4 x 4 blocks, applied here as matrices."""
    y, weights, block = np.asarray(observe(model)), np.array([0.01, 0.1]), 4
    rows, columns = (np.kron(np.eye(n // block), dct_matrix(block)) for n in SIZE)

    def forward(x):
        return np.einsum("ij,bjkc,lk->bilc", rows, x, columns)

    def backward(c):
        return np.einsum("ij,bikc,kl->bjlc", rows, c, columns)

    penalty = np.ones((1, *SIZE, 1)) * weights.reshape(-1, 1, 1, 1)
    penalty[:, ::block, ::block] = 0
    apply, adjoint = jax.jit(model.forward), jax.jit(lambda r: model.adjoint(r, SIZE))
    c = forward(np.zeros((2, *SIZE, 1)))
    for _ in range(2000):
        slope = forward(np.asarray(adjoint(np.asarray(apply(backward(c))) - y)))
        c = shrink(c - slope, penalty)
    minimum = fidelity(backward(c), y, model) + np.sum(penalty * np.abs(c), axis=(1, 2, 3))

    options = {"weight": weights, "basis": "dct", "levels": 2, "return_objective": True}
    x, objective = wavelet(jnp.asarray(y), model, iterations=300, **options)
    objective = np.asarray(objective)
    assert objective.shape == (300, 2)
    assert np.all(np.diff(objective, axis=0) <= 1e-12)
    np.testing.assert_allclose(objective[-1], minimum, rtol=1e-6)
    c = forward(np.asarray(x))
    reached = fidelity(x, y, model) + np.sum(penalty * np.abs(c), axis=(1, 2, 3))
    np.testing.assert_allclose(reached, objective[-1], rtol=1e-9)


@pytest.mark.slow
@pytest.mark.slow
def test_pixel_basis_satisfies_the_optimality_conditions_of_the_lasso():
    """A^T (A x - y) is -weight sign(x) where x is not 0, and at most the weight elsewhere."""
    sparse = np.where(draw(2, *SIZE, 1) > 1.5, draw(2, *SIZE, 1, seed=1), 0.0)
    model, weight = RandomProjection(90), 0.02
    y = model(jnp.asarray(sparse))
    x = wavelet(y, model, weight=weight, basis="pixel", iterations=3000, size=SIZE)
    slope = np.asarray(model.adjoint(model.forward(x) - y, SIZE))
    chosen = np.asarray(x) != 0
    assert 5 < np.sum(chosen) < 150
    np.testing.assert_allclose(slope[chosen], -weight * np.sign(x)[chosen], atol=1e-4)
    assert np.max(np.abs(slope)) <= weight + 1e-4
    np.testing.assert_allclose(x, sparse, atol=0.1)


def test_sizes_that_are_not_divisible_are_padded():
    y = jnp.asarray(draw(1, 13, 10, 1))
    x, objective = wavelet(
        y, Chain(), weight=0.01, basis="haar", levels=3, iterations=300, return_objective=True
    )
    assert x.shape == y.shape
    assert float(np.max(np.abs(x - y))) < 0.05
    assert float(objective[-1, 0]) < 0.01 * np.sum(np.abs(y)) * 4
    np.testing.assert_allclose(wavelet(y, Chain(), weight=1e-9, basis="haar"), y, atol=1e-6)


def quadratic(x, sigma):
    """Apply the proximal operator of |x|^2 / 2 with weight sigma^2 / 0.1."""
    return x / (1.0 + sigma**2 / 0.1)


@pytest.mark.slow
@on_models
def test_admm_with_a_proximal_operator_reaches_the_regularized_minimum(model):
    """At a fixed level sigma the objective is |A x - y|^2 / 2 + mu sigma^2 / 0.1 |x|^2 / 2."""
    y, sigma = observe(model), 0.2
    options = {"sigma": sigma, "first_sigma": sigma, "data_weight": 0.5, "iterations": 300}
    x = plug_and_play(y, model, denoiser=quadratic, splitting="admm", data_iterations=60, **options)
    weight = 0.5 * sigma**2 / 0.1
    expected = tikhonov(y, model, weight=weight, regularizer="identity", tolerance=1e-10)
    np.testing.assert_allclose(x, expected, atol=5e-5)


@pytest.mark.parametrize("last", [None, 0.1, 0.5])
def test_admm_keeps_its_multiplier_while_the_levels_fall(last):
    """The reference is ADMM for A = identity with the unscaled multiplier mu u."""
    y, sigma, count = np.asarray(observe(Chain())), 0.05, 4
    z, multiplier = y, np.zeros_like(y)
    for level in np.geomspace(max(0.4, last or 0.0), last or sigma, count):
        mu = 0.23 * sigma**2 / level**2
        x = (y + mu * z - multiplier) / (1 + mu)
        z = quadratic(x + multiplier / mu, level)
        multiplier = multiplier + mu * (x - z)
    options = {"sigma": sigma, "first_sigma": 0.4, "last_sigma": last, "iterations": count}
    options["splitting"] = "admm"
    ours = plug_and_play(jnp.asarray(y), Chain(), denoiser=quadratic, **options)
    np.testing.assert_allclose(ours, z, atol=1e-9)


def smooth(x, sigma):
    """A linear denoiser that blurs more for higher noise levels."""
    spectrum = jnp.fft.rfft2(x, axes=(1, 2))
    frequency = np.hypot(np.fft.fftfreq(x.shape[1])[:, None], np.fft.rfftfreq(x.shape[2]))
    response = 1.0 / (1.0 + sigma * 20 * frequency**2)
    return jnp.fft.irfft2(spectrum * response[None, ..., None], x.shape[1:3], axes=(1, 2))


@pytest.mark.slow
def test_half_quadratic_splitting_equals_the_steps_of_the_paper():
    """The reference uses a linear denoiser and works in the frequency domain."""
    sigma, count = 7.65 / 255, 5
    y = observe(CIRCULAR, sigma=sigma)
    response = np.fft.rfft2(
        np.asarray(CIRCULAR.forward(jnp.zeros((1, *SIZE, 1)).at[0, 0, 0].set(1.0))), axes=(1, 2)
    )
    spectrum = np.fft.rfft2(np.asarray(y), axes=(1, 2))
    z = np.asarray(y)
    for level in np.geomspace(49 / 255, sigma, count):
        alpha = 0.23 * sigma**2 / level**2
        quotient = np.conj(response) * spectrum + alpha * np.fft.rfft2(z, axes=(1, 2))
        x = np.fft.irfft2(quotient / (np.abs(response) ** 2 + alpha), SIZE, axes=(1, 2))
        z = np.asarray(smooth(jnp.asarray(x), level))
    noisy = Chain((CIRCULAR, GaussianNoise(7.65)))
    ours, misfit = plug_and_play(y, noisy, denoiser=smooth, iterations=count, return_objective=True)
    np.testing.assert_allclose(ours, z, atol=1e-7)
    np.testing.assert_allclose(misfit[-1], fidelity(ours, y, CIRCULAR), rtol=1e-7)
    whole = Chain((noisy, Mask(np.ones(SIZE))))
    options = {"denoiser": smooth, "iterations": count, "data_iterations": 200}
    by_gradients = plug_and_play(y, whole, **options)
    # The initial estimate differs, and little of the difference remains.
    assert float(np.max(np.abs(by_gradients - ours))) < 0.1
    at_once = plug_and_play(y, noisy, denoiser=smooth, iterations=1)
    x = np.fft.irfft2(
        (np.conj(response) * spectrum + 0.23 * spectrum) / (np.abs(response) ** 2 + 0.23),
        SIZE,
        axes=(1, 2),
    )
    np.testing.assert_allclose(at_once, smooth(jnp.asarray(x), sigma), atol=1e-7)


def soft(x, level):
    return jnp.sign(x) * jnp.maximum(jnp.abs(x) - level, 0.0)


@pytest.mark.slow
def test_any_level_denoiser_scales_the_image_or_the_correction():
    """Soft thresholding at t is exact after scaling. A small offset identifies the level used."""
    levels = (0.2, 0.05, 0.1)
    denoiser = any_level_denoiser([lambda x, t=t: soft(x, t) + 1e-3 * t for t in levels], levels)
    x = jnp.asarray(draw(1, *SIZE, 1))
    for sigma in (0.05, 0.09, 0.1, 0.15, 0.5):
        expected = soft(x, sigma) + 1e-3 * sigma
        np.testing.assert_allclose(denoiser(x, sigma), expected, atol=1e-7)
    below = x + 0.02 / 0.05 * (soft(x, 0.05) + 5e-5 - x)
    np.testing.assert_allclose(denoiser(x, 0.02), below, atol=1e-7)
    offsets = [lambda x, t=t: x + t**2 for t in levels]
    denoiser = any_level_denoiser(offsets, levels)
    for sigma, level in ((0.05, 0.05), (0.09, 0.05), (0.1, 0.1), (0.15, 0.1), (0.5, 0.2)):
        # The offset of the level is scaled by sigma / level.
        added = float(jnp.mean(denoiser(x, sigma) - x))
        assert added == pytest.approx(level * sigma, rel=1e-5)


def test_weights_of_a_denoiser_are_leaves_and_sigma_may_be_per_image():
    y = observe(CIRCULAR, count=2)

    def network(weights, x):
        return weights * x

    def denoiser(weight):
        return any_level_denoiser(Partial(network, jnp.asarray(weight)), 0.1)

    assert len(jax.tree.leaves(denoiser(0.9))) == 2
    sigmas = np.array([0.03, 0.1])
    together = plug_and_play(y, CIRCULAR, denoiser=denoiser(0.9), sigma=sigmas)
    for i, sigma in enumerate(sigmas):
        alone = plug_and_play(y[i : i + 1], CIRCULAR, denoiser=denoiser(0.9), sigma=float(sigma))
        np.testing.assert_allclose(alone[0], together[i], atol=1e-7)
    other = plug_and_play(y, CIRCULAR, denoiser=denoiser(0.5), sigma=sigmas)
    assert float(np.max(np.abs(other - together))) > 0.1


@pytest.mark.slow
def test_gradient_through_plug_and_play_equals_central_differences():
    """A network could be trained through the iterations."""
    y = observe(CIRCULAR, count=1)

    def loss(weight):
        denoiser = Partial(lambda weight, x, sigma: x / (1 + weight * sigma), weight)
        options = {"denoiser": denoiser, "sigma": 0.05, "iterations": 3}
        return jnp.sum(plug_and_play(y, CIRCULAR, **options) ** 2)

    slope = (loss(0.5 + 1e-5) - loss(0.5 - 1e-5)) / 2e-5
    assert float(jax.grad(loss)(0.5)) == pytest.approx(float(slope), rel=1e-6)


@pytest.mark.usefixtures("without_type_checks")
@pytest.mark.parametrize(
    ("method", "options", "words"),
    [
        (tv, {}, "tv requires a weight, or a forward model .*; got Blur without Gaussian noise"),
        (tv, {"weight": 0.1, "iterations": 0}, "iterations must be at least 1; got 0"),
        (tv, {"weight": 0.0}, "weight must be above 0; got 0.0"),
        (wavelet, {}, "wavelet requires a weight"),
        (wavelet, {"weight": -0.1}, "weight must be above 0; got -0.1"),
        (wavelet, {"weight": 0.1, "basis": "db"}, "no wavelet 'db'"),
        (wavelet, {"weight": 0.1, "levels": 0}, "levels must be at least 1; got 0"),
        (plug_and_play, {"denoiser": smooth}, "plug_and_play requires sigma, or"),
        (
            plug_and_play,
            {"denoiser": smooth, "sigma": 0.1, "splitting": "hqs"},
            "no splitting 'hqs'; known are: admm, half_quadratic",
        ),
    ],
)
def test_invalid_options_are_errors(method, options, words):
    with pytest.raises(InputError, match=words):
        method(jnp.zeros((1, *SIZE, 1)), CIRCULAR, **options)


def test_tv_without_weight_requires_a_positive_noise_level():
    with pytest.raises(InputError, match=r"noise without a weight must be above 0; got 0\.0"):
        tv(jnp.zeros((1, *SIZE, 1)), Chain((CIRCULAR, GaussianNoise(0.0))))


def test_any_level_denoiser_requires_a_positive_level_per_denoiser():
    with pytest.raises(InputError, match=r"for each of 1 denoisers; got \(0.1, 0.2\)"):
        any_level_denoiser(soft, (0.1, 0.2))
    for levels in (0.0, ()):
        for function in (any_level_options, functools.partial(any_level_denoiser, soft)):
            with pytest.raises(InputError, match="trained_sigma requires one or more positive"):
                function(levels)
