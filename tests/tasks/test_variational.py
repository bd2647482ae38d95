"""Variational autoencoding: bounds of a model with known likelihood, losses, binarization."""

import dataclasses
import functools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from deconv_jax.data.augment import example_keys
from deconv_jax.data.degradations import BoxMask
from deconv_jax.data.sources import ArraySource
from deconv_jax.errors import InputError
from deconv_jax.models import VAE, Autoencoder
from deconv_jax.models.vae import gaussian_kl
from deconv_jax.tasks import Variational
from deconv_jax.training.optimizer import Optimizer
from deconv_jax.training.state import TrainState

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (64, 8, 8, 1)).astype(np.uint8)

# Plain SGD; tests/training/test_parallel.py explains why.
TASK = Variational(
    VAE((8, 8, 1), features=(4, 4), latent_dim=6, norm="none"),
    Optimizer(name="sgd", learning_rate=1e-3),
    binarize="stochastic",
    iwae_samples=3,
)


def with_likelihood(likelihood):
    """Return the task with another likelihood and without binarization."""
    model = TASK.model.clone(likelihood=likelihood)
    return dataclasses.replace(TASK, model=model, binarize="none")


def batch_of(rows=slice(None, 8), **more):
    index = np.arange(len(IMAGES), dtype=np.int32)[rows]
    arrays = {"image": IMAGES[rows], "index": index, "mask": np.ones(len(index), np.float32)}
    return {name: jnp.asarray(array) for name, array in (arrays | more).items()}


@functools.cache
def initial(task=TASK):
    return jax.jit(task.init)(jax.random.key(0, impl="rbg"), batch_of())


# A model with known likelihood: x = 1/2 + W z + noise, where W has orthogonal columns

DEVIATION = 0.1
WEIGHTS = np.array([[0.1, 0.3], [0.2, 0.0], [0.2, -0.15], [-0.1, 0.0]], np.float32)
VARIANCE = 1 / (1 + np.sum(WEIGHTS**2, axis=0) / DEVIATION**2)
"""Variance of the posterior, in which the latents are independent."""


class Linear(nn.Module):
    """A model of 2 x 2 images with the exact posterior, up to a shift and a factor of the variance."""

    shift: float = 0.0
    factor: float = 1.0
    likelihood: str = "gaussian"
    latent_dim: int = 2
    image_shape: tuple[int, ...] = (2, 2, 1)

    def encode(self, images):
        mean = (images.reshape(-1, 4) - 0.5) @ WEIGHTS * VARIANCE[None] / DEVIATION**2
        return mean + self.shift, jnp.zeros_like(mean) + np.log(self.factor * VARIANCE)[None]

    def decode(self, latents):
        return (0.5 + latents @ WEIGHTS.T).reshape(-1, *self.image_shape)

    def log_likelihood(self, images, latents):
        values = jax.scipy.stats.norm.logpdf(images, self.decode(latents), DEVIATION)
        return values.sum((1, 2, 3))


COVARIANCE = WEIGHTS @ WEIGHTS.T + DEVIATION**2 * np.eye(4)
PIXELS = RNG.multivariate_normal(np.full(4, 0.5), COVARIANCE, 64).clip(0, 1)
SMALL = np.round(255 * PIXELS).astype(np.uint8).reshape(-1, 2, 2, 1)
MARGINAL = scipy.stats.multivariate_normal(np.full(4, 0.5), COVARIANCE)
EXACT = float(np.mean(MARGINAL.logpdf(SMALL.reshape(-1, 4) / 255)))


def bounds(samples, **model):
    """Return the metrics of the known model with `samples` latents per image."""
    task = Variational(Linear(**model), Optimizer(), iwae_samples=samples)
    state = TrainState(step=0, params={}, batch_stats={}, opt_state=(), ema={})
    batch = {"image": SMALL, "index": np.arange(64), "mask": np.ones(64, np.float32)}
    return task.evaluate(state, [jax.tree.map(jnp.asarray, batch)])


@pytest.mark.parametrize("samples", [1, 5])
def test_iwae_bound_is_exact_with_the_exact_posterior(samples):
    assert bounds(samples)["iwae"] == pytest.approx(EXACT, abs=1e-4)


def test_bounds_are_below_the_log_likelihood_and_rise_with_samples():
    wrong = {"shift": 0.3, "factor": 2.0}
    gap = 0.5 * np.sum(2 - 1 - np.log(2) + 0.3**2 / VARIANCE)  # KL(q || posterior)
    few, many = bounds(1, **wrong), bounds(400, **wrong)
    assert many["elbo"] == pytest.approx(EXACT - gap, abs=0.05 * gap)
    assert few["iwae"] < many["iwae"] - 0.3 * gap
    assert many["elbo"] < many["iwae"] < EXACT + 0.02
    assert many["iwae"] == pytest.approx(EXACT, abs=0.05)


def test_metrics_of_the_known_model():
    measured = bounds(1000)
    assert measured["elbo"] == pytest.approx(EXACT, abs=0.05)
    images = SMALL.reshape(-1, 4) / 255
    mean = (images - 0.5) @ WEIGHTS * VARIANCE / DEVIATION**2
    kl = 0.5 * np.sum(VARIANCE + mean**2 - 1 - np.log(VARIANCE), axis=1)
    assert measured["kl"] == pytest.approx(kl.mean(), rel=1e-4)
    error = np.mean((0.5 + mean @ WEIGHTS.T - images) ** 2, axis=1)
    assert measured["psnr"] == pytest.approx(np.mean(-10 * np.log10(error)), rel=1e-4)
    # The density of images in [0, 255].
    density = scipy.stats.multivariate_normal(np.full(4, 127.5), 255**2 * COVARIANCE)
    bits = -np.mean(density.logpdf(255 * images)) / (4 * math.log(2))
    assert measured["bits_per_dim"] == pytest.approx(bits, abs=0.02)


@pytest.mark.slow
def test_active_units_have_varying_means():
    assert bounds(1)["active_units"] == 2
    task, state = dataclasses.replace(TASK, binarize="none"), initial()
    params = jax.tree.map(np.array, state.params)
    params["to_code"]["kernel"][:, 2:] = 0
    params["to_code"]["kernel"][:, :2] *= 100
    assert task.evaluate(state.replace(params=params), [batch_of()])["active_units"] == 2


# Evaluation


def batches(size, count=10):
    """Yield the first images in batches; the last batch is padded with other images."""
    for start in range(0, count, size):
        rows = np.arange(start, start + size)
        yield batch_of(rows, mask=(rows < count).astype(np.float32))


@pytest.mark.slow
def test_evaluation_does_not_depend_on_batching_or_seed():
    state = initial()
    measured = TASK.evaluate(state, batches(10))
    other = dataclasses.replace(TASK, seed=1)
    assert other.evaluate(state, batches(4)) == pytest.approx(measured, rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("likelihood", ["bernoulli", "discretized_logistic"])
def test_bits_per_dim_follow_from_the_elbo(likelihood):
    task = with_likelihood(likelihood)
    measured = task.evaluate(initial(task), [batch_of()])
    assert measured["bits_per_dim"] == pytest.approx(-measured["elbo"] / (64 * math.log(2)))


# Training


@pytest.mark.slow
def test_steps_do_not_depend_on_devices_or_compiler(assert_trees_equal, run_steps):
    """Some latents are below the free bits on some devices, but not in the mean over the batch."""
    task = dataclasses.replace(TASK, free_bits=1.0)
    rows = np.random.default_rng(1).integers(0, len(IMAGES), (3, 16)).astype(np.int32)
    together = [{"index": i, "image": IMAGES[i]} for i in rows]
    one, one_scalars = run_steps(task, initial(), together, count=1)
    for compiler in ("jit", "pmap"):
        state, scalars = run_steps(task, initial(), together, compiler=compiler)
        assert_trees_equal(state, one, relative=1e-3)
        assert_trees_equal(scalars, one_scalars, relative=1e-4)


@pytest.mark.slow
def test_step_does_not_depend_on_batch_order():
    state, step = initial(), jax.jit(TASK.train_step)
    order = np.array([2, 0, 3, 1, 7, 6, 5, 4])
    first, second = (step(state, batch_of(rows))[0] for rows in (slice(None, 8), order))
    for a, b in zip(*(jax.tree.leaves(s.params) for s in (first, second)), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=1e-6)
    elsewhere = step(state, batch_of(index=np.arange(8, 16)))[1]
    assert elsewhere["loss"] != step(state, batch_of())[1]["loss"]


@pytest.mark.slow
def test_losses_equal_their_formulas():
    plain = dataclasses.replace(TASK, binarize="none")
    state = initial().replace(step=jnp.asarray(3))
    images = jnp.asarray(IMAGES[:8], jnp.float32) / 255
    encode = jax.jit(lambda v, x: TASK.model.apply(v, x, method="encode"))
    by_latent = np.asarray(gaussian_kl(*encode({"params": state.params}, images))).mean(axis=0)
    kl, free = float(by_latent.sum()), float(np.median(by_latent))
    for changes, penalty in (
        ({}, kl),
        ({"beta": 4.0}, 4 * kl),
        ({"beta": 2.0, "kl_warmup_steps": 12}, 2 * kl * 3 / 12),
        ({"beta": 2.0, "kl_warmup_steps": 2}, 2 * kl),
        ({"free_bits": free}, np.maximum(by_latent, free).sum()),
    ):
        task = dataclasses.replace(plain, **changes)

        # None of these scalars depends on the gradient, so the compiler removes it.
        @jax.jit
        def measured(state, batch, task=task):
            scalars = task.train_step(state, batch)[1]
            return {name: scalars[name] for name in ("kl", "elbo", "log_likelihood", "loss")}

        scalars = jax.device_get(measured(state, batch_of()))
        assert scalars["kl"] == pytest.approx(kl, rel=1e-4)
        assert scalars["elbo"] == pytest.approx(scalars["log_likelihood"] - kl, rel=1e-5)
        np.testing.assert_allclose(scalars["loss"] + scalars["log_likelihood"], penalty, atol=1e-4)


@pytest.mark.slow
def test_training_increases_the_elbo():
    task = dataclasses.replace(TASK, optimizer=Optimizer(learning_rate=1e-2))
    smooth = np.kron(RNG.integers(0, 2, (8, 2, 2, 1)) * 255, np.ones((1, 4, 4, 1)))
    batch = batch_of(image=smooth.astype(np.uint8))
    state, step = initial(), jax.jit(task.train_step)
    state = state.replace(opt_state=jax.jit(task.optimizer.transform().init)(state.params))
    before = task.evaluate(state, [batch])
    for _ in range(120):
        state, _ = step(state, batch)
    assert task.evaluate(state, [batch])["elbo"] > 0.6 * before["elbo"]


# Degradations

CONDITIONAL = dataclasses.replace(
    TASK,
    model=TASK.model.clone(conditional=True),
    optimizer=Optimizer(learning_rate=1e-2),
    binarize="none",
    degradation=BoxMask(1, 2),
)


@pytest.mark.slow
def test_samples_belong_to_the_degraded_image():
    """Hidden pixels follow from visible ones here, so all samples equal the image."""
    smooth = np.kron(RNG.integers(0, 2, (8, 2, 2, 1)) * 255, np.ones((1, 4, 4, 1)))
    batch = batch_of(image=smooth.astype(np.uint8))
    state, step = initial(CONDITIONAL), jax.jit(CONDITIONAL.train_step)
    before = CONDITIONAL.evaluate(state, [batch])["elbo"]
    for _ in range(200):
        state, _ = step(state, batch)
    assert CONDITIONAL.evaluate(state, [batch])["elbo"] > 0.5 * before
    keys, images = CONDITIONAL._evaluation_images(batch)
    degraded = CONDITIONAL.degrade(keys, images)
    latents = RNG.standard_normal((3, 8, 6)).astype(np.float32)
    samples = np.asarray(CONDITIONAL.restore(state.inference_variables(), degraded, latents))
    np.testing.assert_array_equal(np.round(samples), np.broadcast_to(images, samples.shape))
    with pytest.raises(InputError, match="of a degraded image only"):
        CONDITIONAL.sample(state.inference_variables(), latents[0])


def test_degradation_and_conditional_model_require_each_other():
    for task in (TASK, CONDITIONAL):
        model = task.model.clone(conditional=not task.model.conditional)
        with pytest.raises(InputError, match="require each other"):
            dataclasses.replace(task, model=model)


def test_condition_is_checked():
    images, latents = jnp.zeros((1, 8, 8, 1)), jnp.zeros((1, 6))
    variables = {"params": jax.eval_shape(CONDITIONAL.init, jax.random.key(0), batch_of()).params}

    def decode(model, *condition):
        return jax.eval_shape(
            lambda v: model.apply(v, latents, *condition, method="decode"), variables
        )

    for model, condition, message in (
        (CONDITIONAL.model, (), "requires a condition"),
        (TASK.model, (images,), "takes no condition"),
        (CONDITIONAL.model, (images[:, :4],), r"must have the shape \(8, 8, 1\); got \(4, 8, 1\)"),
    ):
        with pytest.raises(InputError, match=message):
            decode(model, *condition)


# Binarization


def test_stochastic_binarization_has_the_image_as_mean():
    keys = example_keys(jax.random.key(0), jnp.arange(4000))
    images = np.repeat(IMAGES[:1], 4000, axis=0)
    drawn = np.asarray(TASK._modeled_images(keys, {"image": jnp.asarray(images)}))
    assert set(np.unique(drawn)) == {0, 1}
    mean = IMAGES[0] / 255
    error = np.sqrt(mean * (1 - mean) / 4000)
    assert np.all(np.abs(drawn.mean(axis=0) - mean) <= 4.5 * error)


def test_evaluation_binarization_is_fixed():
    state = initial()
    drawn = TASK._picture_rows(state, batch_of())["original"]
    other = dataclasses.replace(TASK, seed=1)
    later = state.replace(step=jnp.asarray(7))
    again = other._picture_rows(later, batch_of(slice(7, None, -1)))["original"]
    np.testing.assert_array_equal(drawn, again[::-1])
    assert set(TASK.pictures(state, batch_of())) == {"reconstructions"}


def test_threshold_is_one_half():
    task = dataclasses.replace(TASK, binarize="threshold")
    keys = example_keys(jax.random.key(0), jnp.arange(8))
    binary = task._modeled_images(keys, batch_of())
    np.testing.assert_array_equal(binary, IMAGES[:8] > 127)


# The baseline

TRAIN, TEST = (ArraySource({"image": a}) for a in (IMAGES[:40], IMAGES[40:]))


@pytest.mark.slow
@pytest.mark.parametrize("binarize", ["stochastic", "threshold"])
def test_baseline_of_binarized_images(binarize):
    task = dataclasses.replace(TASK, binarize=binarize)
    rows = batch_of(slice(40, None), index=np.arange(24))
    drawn = np.asarray(task._picture_rows(initial(), rows)["original"])
    gray = IMAGES[:40] / 255
    ones = gray if binarize == "stochastic" else gray > 0.5
    mean = (ones.sum(0) + 1) / 42
    expected = scipy.stats.bernoulli.logpmf(drawn, mean[None]).sum((1, 2, 3)).mean()
    assert task.baseline(TRAIN, TEST)["independent_elbo"] == pytest.approx(expected, rel=1e-5)


def test_baseline_of_gray_images():
    fit, look = IMAGES[:40] / 255, IMAGES[40:] / 255
    expected = scipy.stats.norm.logpdf(look, fit.mean(0), fit.std(0)).sum((1, 2, 3)).mean()
    measured = with_likelihood("gaussian").baseline(TRAIN, TEST)
    assert measured["independent_elbo"] == pytest.approx(expected, rel=1e-5)
    seen = np.sum(IMAGES[None, :40] == IMAGES[40:, None], axis=1)
    expected = np.log((seen + 1) / (40 + 256)).sum((1, 2, 3)).mean()
    measured = with_likelihood("discretized_logistic").baseline(TRAIN, TEST)
    assert measured["independent_elbo"] == pytest.approx(expected, rel=1e-5)
    assert with_likelihood("bernoulli").baseline(TRAIN, TEST) == {}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"model": Autoencoder()},
            "must be a variational autoencoder such as 'vae'; got Autoencoder",
        ),
        ({"iwae_samples": 0}, "task.iwae_samples must be at least 1; got 0"),
        ({"beta": -1.0}, "task.beta must be at least 0; got -1.0"),
        ({"kl_warmup_steps": -1}, "task.kl_warmup_steps must be at least 0; got -1"),
        ({"free_bits": -1.0}, "task.free_bits must be at least 0; got -1.0"),
        (
            {"model": VAE(likelihood="gaussian")},
            "task.binarize='stochastic' requires task.model.likelihood='bernoulli'; got 'gaussian'",
        ),
    ],
)
def test_invalid_settings_are_rejected(fields, message):
    with pytest.raises(InputError, match=message):
        dataclasses.replace(TASK, **fields)
