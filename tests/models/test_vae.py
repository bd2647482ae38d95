"""VAE: KL divergence and likelihoods equal scipy's and PyTorch's; shapes, precision, errors."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
import torch

from deconv_jax.errors import InputError
from deconv_jax.models import VAE
from deconv_jax.models.vae import _log_discretized_logistic, gaussian_kl

RNG = np.random.default_rng(0)
SHAPE = (8, 8, 2)
IMAGES = jnp.asarray(RNG.integers(0, 256, (3, *SHAPE)) / np.float32(255))
LATENTS = jnp.asarray(RNG.normal(size=(3, 5)), jnp.float32)
LOG_SCALE = np.log(np.array([0.05, 0.3], np.float32))
LEVELS = np.arange(256) / np.float32(255)


@functools.cache
def make_vae(likelihood):
    """Return a VAE and its variables, with a different scale for each channel."""
    model = VAE(SHAPE, features=(4, 4), latent_dim=5, likelihood=likelihood)
    variables = jax.jit(model.init)(jax.random.key(0, impl="rbg"), IMAGES, LATENTS)
    if likelihood != "bernoulli":
        np.testing.assert_allclose(np.exp(variables["params"]["log_scale"]), 0.1, rtol=1e-6)
        variables["params"]["log_scale"] = jnp.asarray(LOG_SCALE)
    return model, variables


def likelihood_and_mean(likelihood, images):
    """Return log p(x|z) of images, and the mean of p(x|z) in double precision."""
    model, variables = make_vae(likelihood)

    @jax.jit
    def both(variables):
        values = model.apply(variables, images, LATENTS, method="log_likelihood")
        return values, model.apply(variables, LATENTS, method="decode")

    values, mean = both(variables)
    assert (values.shape, values.dtype, mean.shape) == ((3,), np.float32, (3, *SHAPE))
    return values, np.asarray(mean, np.float64)


def test_kl_divergence_is_the_mean_log_ratio():
    mean, log_variance = (RNG.normal(size=6).astype(np.float32) for _ in range(2))
    deviation = np.exp(log_variance / 2)
    samples = RNG.normal(mean, deviation, (100_000, 6))
    norm = scipy.stats.norm
    ratios = norm.logpdf(samples, mean, deviation) - norm.logpdf(samples)
    error = ratios.std(axis=0) / len(samples) ** 0.5
    kl = gaussian_kl(jnp.asarray(mean), jnp.asarray(log_variance))
    assert np.all(np.abs(kl - ratios.mean(axis=0)) < 4 * error)


@pytest.mark.parametrize(
    ("mean", "variance", "expected"),
    [(0.0, 1.0, 0.0), (3.0, 1.0, 4.5), (0.0, 4.0, 1.5 - np.log(2))],
)
def test_kl_divergence_has_known_values(mean, variance, expected):
    kl = gaussian_kl(jnp.full((2, 3), mean), jnp.full((2, 3), np.log(variance)))
    assert kl.shape == (2, 3)
    np.testing.assert_allclose(kl, expected, atol=1e-6)


@pytest.mark.parametrize("images", [IMAGES, jnp.round(IMAGES)], ids=["gray", "binary"])
def test_bernoulli_is_the_binary_cross_entropy(images):
    values, mean = likelihood_and_mean("bernoulli", images)
    entropy = torch.nn.functional.binary_cross_entropy(
        torch.tensor(mean), torch.tensor(np.asarray(images, np.float64)), reduction="none"
    )
    np.testing.assert_allclose(values, -entropy.sum((1, 2, 3)), rtol=1e-5)


def test_gaussian_is_the_normal_density_with_a_scale_per_channel():
    values, mean = likelihood_and_mean("gaussian", IMAGES)
    expected = scipy.stats.norm.logpdf(np.asarray(IMAGES), mean, np.exp(LOG_SCALE))
    np.testing.assert_allclose(values, expected.sum((1, 2, 3)), rtol=1e-5)


def test_discretized_logistic_is_the_probability_of_a_level():
    values, mean = likelihood_and_mean("discretized_logistic", IMAGES)
    levels = np.round(255 * np.asarray(IMAGES, np.float64))
    lower = np.where(levels == 0, -np.inf, (levels - 0.5) / 255)
    upper = np.where(levels == 255, np.inf, (levels + 0.5) / 255)
    cdf = scipy.stats.logistic(mean, np.exp(LOG_SCALE.astype(np.float64))).cdf
    expected = np.log(cdf(upper) - cdf(lower)).sum((1, 2, 3))
    np.testing.assert_allclose(values, expected, rtol=1e-5)


@pytest.mark.parametrize("log_scale", [-8.0, -5.0, -2.0, 0.0, 6.0])
def test_probabilities_of_all_levels_sum_to_one(log_scale):
    means = jnp.array([0.0, 1e-3, 0.3, 0.5, 0.999, 1.0])[:, None]
    logs = jax.jit(_log_discretized_logistic)(LEVELS[None], means, jnp.asarray(log_scale))
    assert np.all(np.asarray(logs) <= 0)
    np.testing.assert_allclose(np.exp(np.asarray(logs, np.float64)).sum(1), 1, rtol=1e-4)


@pytest.mark.parametrize("log_scale", [-12.0, 12.0])
def test_discretized_logistic_has_finite_gradients_at_extreme_scales(log_scale):
    def total(means, log_scale):
        return jnp.sum(_log_discretized_logistic(jnp.asarray(LEVELS)[None], means, log_scale))

    means = jnp.array([0.0, 0.5, 1.0])[:, None]
    gradients = jax.jit(jax.grad(total, (0, 1)))(means, jnp.asarray(log_scale))
    assert all(np.all(np.isfinite(g)) for g in gradients)


@pytest.mark.parametrize("likelihood", ["gaussian", "discretized_logistic"])
def test_gradient_moves_the_scale_towards_the_error(likelihood):
    model, variables = make_vae(likelihood)

    @jax.jit
    @jax.grad
    def gradient_of(log_scale):
        params = variables["params"] | {"log_scale": log_scale}
        given = variables | {"params": params}
        return jnp.sum(model.apply(given, IMAGES, LATENTS, method="log_likelihood"))

    for log_scale, sign in ((-4.0, 1), (2.0, -1)):
        gradient = gradient_of(jnp.full(2, log_scale))
        assert gradient.shape == (2,)
        assert np.all(sign * np.asarray(gradient) > 0)


def test_call_returns_the_likelihood_of_the_reparameterized_sample(apply):
    model, variables = make_vae("bernoulli")

    @jax.jit
    def value_and_code(variables):
        return model.apply(variables, IMAGES, LATENTS), model.apply(
            variables, IMAGES, method="encode"
        )

    (value, mean, log_variance), encoded = value_and_code(variables)
    assert mean.shape == log_variance.shape == (3, 5)
    for ours, theirs in zip((mean, log_variance), encoded, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    latents = mean + np.exp(log_variance / 2) * LATENTS
    direct = apply(model, variables, IMAGES, latents, method="log_likelihood")
    np.testing.assert_allclose(value, direct, rtol=1e-6)
    decoded = apply(model, variables, LATENTS, method="decode")
    assert decoded.shape == IMAGES.shape
    assert 0 <= decoded.min() < decoded.max() <= 1


@pytest.mark.slow
@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian", "discretized_logistic"])
def test_likelihood_is_float32_for_bfloat16_inputs(apply, likelihood):
    model, variables = make_vae(likelihood)
    half = jax.tree.map(lambda a: a.astype(jnp.bfloat16), (variables, IMAGES, LATENTS))
    value = apply(model, half[0], *half[1:], method="log_likelihood")
    exact = apply(model, variables, IMAGES, LATENTS, method="log_likelihood")
    assert value.dtype == jnp.float32
    np.testing.assert_allclose(value, exact, rtol=0.05)


def test_latent_map_is_refused():
    with pytest.raises(InputError, match="a VAE requires latent='vector'; got 'map'"):
        VAE(SHAPE, latent="map").init(jax.random.key(0), IMAGES, LATENTS)
