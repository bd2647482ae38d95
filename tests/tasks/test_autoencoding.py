"""Autoencoding: the PCA baseline, losses and penalties, and degraded inputs."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deconv_jax.data.degradations import (
    Blur,
    Chain,
    Decimate,
    GaussianNoise,
    RandomPixelMask,
    SaltAndPepperNoise,
)
from deconv_jax.data.sources import ArraySource
from deconv_jax.errors import InputError
from deconv_jax.metrics.image import ms_ssim
from deconv_jax.models import Autoencoder, Classifier
from deconv_jax.tasks import Autoencoding
from deconv_jax.tasks.autoencoding import pca_reconstruction, squared_jacobian_norms
from deconv_jax.training.optimizer import Optimizer

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (6, 8, 8, 1)).astype(np.uint8)
SMALL = Autoencoder(image_shape=(8, 8, 1), features=(3, 4), latent_dim=5, norm="none")
PLAIN = Autoencoding(SMALL, Optimizer())
NOISE = dataclasses.replace(PLAIN, degradation=GaussianNoise(50.0))


def batch_of(rows=slice(None), **more):
    arrays = {"image": PIXELS, "index": np.arange(6, dtype=np.int32), "mask": np.ones(6)}
    return {name: jnp.asarray(array[rows]) for name, array in (arrays | more).items()}


def unit(batch):
    return jnp.asarray(batch["image"], jnp.float32) / 255


def decibels(output, clean):
    return -10 * np.log10(np.mean((np.asarray(output) - np.asarray(clean)) ** 2, axis=(1, 2, 3)))


def test_pca_error_is_the_variance_of_the_omitted_components():
    # Small deviations around 0.5, so that nothing is clipped.
    images = 0.5 + 0.01 * RNG.standard_normal((200, 4, 4, 1)) @ np.diag([3.0])
    rows = images.reshape(200, 16)
    eigenvalues = np.linalg.eigvalsh(np.cov(rows.T, bias=True))
    for components in (1, 5, 16):
        error = np.sum((pca_reconstruction(images, images, components) - images) ** 2) / 200
        assert error == pytest.approx(eigenvalues[: 16 - components].sum(), abs=1e-12)


def test_baseline_has_as_many_components_as_the_code_has_entries():
    images = RNG.integers(0, 256, (50, 8, 8, 1)).astype(np.uint8)
    source = ArraySource({"image": images})
    for latent, components in (("vector", 3), ("map", 3 * 2 * 2)):
        model = Autoencoder(image_shape=(8, 8, 1), features=(4, 4), latent=latent, latent_dim=3)
        measured = Autoencoding(model, Optimizer()).baseline(source, source)
        expected = pca_reconstruction(images / 255, images / 255, components)
        assert measured["pca_mse"] == pytest.approx(np.mean((expected - images / 255) ** 2))
    wide = Autoencoder(image_shape=(8, 8, 1), features=(4, 4), latent_dim=64)
    assert Autoencoding(wide, Optimizer()).baseline(source, source) == {}


def test_bce_is_the_bernoulli_log_likelihood_without_saturation():
    task = dataclasses.replace(PLAIN, loss="bce")
    logits = jnp.asarray(RNG.normal(0, 3, PIXELS.shape), jnp.float32)
    clean = unit(batch_of())
    x, t = 1 / (1 + np.exp(-np.asarray(logits, np.float64))), np.asarray(clean, np.float64)
    likelihood = np.mean(t * np.log(x) + (1 - t) * np.log(1 - x), axis=(1, 2, 3))
    np.testing.assert_allclose(
        jax.jit(task._reconstruction_losses)(logits, clean), -likelihood, rtol=1e-5
    )
    gradient = jax.jit(jax.grad(lambda z: jnp.sum(task._reconstruction_losses(z, clean))))(logits)
    np.testing.assert_allclose(gradient, (x - t) / t[0].size, atol=1e-7)
    far = jnp.full((1, 8, 8, 1), 200.0)
    wrong = (
        task._reconstruction_losses(far, jnp.zeros_like(far)),
        task._reconstruction_losses(-far, jnp.ones_like(far)),
    )
    np.testing.assert_array_equal(wrong, 200.0)
    np.testing.assert_array_equal(task._reconstruction_losses(far, jnp.ones_like(far)), 0.0)


@pytest.mark.slow
@pytest.mark.parametrize(("loss", "distance"), [("l1", np.abs), ("l2", np.square)])
def test_ms_ssim_is_mixed_with_its_weight(loss, distance):
    """Images of 24 pixels allow two scales."""
    clean, other = (jnp.asarray(RNG.random((2, 24, 24, 1)), jnp.float32) for _ in range(2))
    output = 0.7 * clean + 0.3 * other
    logits = jnp.log(output) - jnp.log1p(-output)
    alone = np.mean(distance(np.asarray(output - clean)), axis=(1, 2, 3))
    dissimilarity = 1 - np.asarray(jax.jit(lambda a, b: ms_ssim(a, b, scales=2))(output, clean))
    for weight in (0.0, 0.84, 1.0):
        task = dataclasses.replace(PLAIN, loss=loss, ms_ssim=weight)
        expected = weight * dissimilarity + (1 - weight) * alone
        np.testing.assert_allclose(
            jax.jit(task._reconstruction_losses)(logits, clean), expected, rtol=1e-4
        )


@pytest.mark.slow
def test_jacobian_norm_estimate_is_unbiased():
    model = dataclasses.replace(SMALL, activation="elu")
    x = unit(batch_of())
    variables = jax.jit(model.init)(jax.random.key(0, impl="rbg"), x)

    def encode(images):
        return model.apply(variables, images, method="encode")

    jacobians = jax.jit(jax.vmap(jax.jacrev(lambda image: encode(image[None])[0])))(x)
    norms = jnp.sum(jnp.square(jacobians), axis=(1, 2, 3, 4))

    @jax.jit
    @jax.vmap
    def draw(keys):
        code, vjp = jax.vjp(encode, x)
        return squared_jacobian_norms(vjp, code, keys)

    draws = np.asarray(draw(jax.random.split(jax.random.key(1), (2000, len(x)))))
    error = draws.std(axis=0) / np.sqrt(len(draws))
    assert (draws.std(axis=0) > 0.1 * norms).all()
    assert (np.abs(draws.mean(axis=0) - norms) < 4 * error).all()


def test_jacobian_norm_is_exact_for_orthogonal_rows():
    """J J^T is diagonal, so cross terms vanish; the three rows have lengths 2, 3 and 6."""
    rows = np.linalg.qr(RNG.standard_normal((16, 3)))[0].T * np.array([[2.0], [3.0], [6.0]])
    weights = jnp.asarray(rows.reshape(3, 4, 4, 1), jnp.float32)
    x = jnp.asarray(RNG.random((5, 4, 4, 1)), jnp.float32)
    code, vjp = jax.vjp(lambda images: jnp.einsum("bhwc,khwc->bk", images, weights), x)
    norms = squared_jacobian_norms(vjp, code, jax.random.split(jax.random.key(0), 5))
    np.testing.assert_allclose(norms, 4 + 9 + 36, rtol=1e-5)


@pytest.mark.slow
def test_penalties_use_the_codes_of_the_degraded_images(drawn_state):
    """The contractive penalty of a code with one entry is exact, not an estimate."""
    model = dataclasses.replace(SMALL, latent_dim=1, activation="elu")
    task = dataclasses.replace(NOISE, model=model, contractive=0.3, sparsity=0.2, seed=3)
    batch = batch_of()
    state = drawn_state(task, batch)

    @jax.jit
    def expected(variables, batch):
        def encode(images):
            return model.apply(variables, images, method="encode")

        seen, clean = task._input_and_target(jax.random.fold_in(jax.random.key(3), 0), batch)
        jacobians = jax.vmap(jax.jacrev(lambda image: encode(image[None])[0]))(seen)
        contractive = jnp.mean(jnp.sum(jnp.square(jacobians), axis=(1, 2, 3, 4)))
        error = jnp.mean(jnp.square(model.apply(variables, seen) - clean))
        return contractive, jnp.mean(jnp.abs(encode(seen))), error

    contractive, sparsity, error = expected({"params": state.params}, batch)
    _, scalars = jax.jit(task.train_step)(state, batch)
    assert scalars["contractive"] == pytest.approx(float(contractive), rel=1e-4)
    assert scalars["sparsity"] == pytest.approx(float(sparsity), rel=1e-5)
    total = error + 0.3 * contractive + 0.2 * sparsity
    assert scalars["loss"] == pytest.approx(float(total), rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("field", ["contractive", "sparsity"])
def test_training_reduces_a_penalty(field):
    task = dataclasses.replace(PLAIN, optimizer=Optimizer(learning_rate=1e-2), **{field: 1.0})
    state = jax.jit(task.init)(jax.random.key(0, impl="rbg"), batch_of())
    step = jax.jit(task.train_step)
    values = []
    for _ in range(40):
        state, scalars = step(state, batch_of())
        values.append(float(scalars[field]))
    assert np.mean(values[-5:]) < 0.2 * np.mean(values[:5])


@pytest.mark.slow
def test_evaluation_does_not_depend_on_batching(drawn_state):
    state = drawn_state(NOISE, batch_of())
    mask = np.array([1, 1, 1, 1, 1, 0], np.float32)
    together = NOISE.evaluate(state, [batch_of(mask=mask)])
    apart = NOISE.evaluate(state, [batch_of([i], mask=mask) for i in (2, 0, 1, 4, 3)])
    pairs = NOISE.evaluate(state, [batch_of([3, 1]), batch_of([0, 4]), batch_of([2, 5], mask=mask)])
    assert together == pytest.approx(apart, rel=1e-5)
    assert together == pytest.approx(pairs, rel=1e-5)
    seen = NOISE.model_input(batch_of())
    np.testing.assert_array_equal(NOISE.model_input(batch_of([4, 2])), seen[np.array([4, 2])])
    output = jax.jit(SMALL.apply)({"params": state.params}, seen)
    expected = decibels(output, unit(batch_of()))[:5].mean()
    assert together["psnr"] == pytest.approx(expected, rel=1e-5)


def test_noise_has_its_level_is_unclipped_and_new_at_each_step():
    images = np.broadcast_to(np.array([0, 255], np.uint8).reshape(2, 1, 1, 1), (2, 64, 64, 1))
    batch = {"image": jnp.asarray(images), "index": jnp.arange(2)}
    noise = np.asarray(NOISE.model_input(batch)) - images / 255
    assert noise.std() * 255 == pytest.approx(50, rel=0.03)
    assert noise.mean() * 255 == pytest.approx(0, abs=2)
    assert not np.allclose(noise[0], noise[1])
    steps = [jax.random.fold_in(jax.random.key(0), step) for step in (0, 1)]
    drawn = [np.asarray(NOISE._input_and_target(key, batch)[0]) - images / 255 for key in steps]
    for one, other in [(drawn[0], drawn[1]), (drawn[0], noise)]:
        assert abs(np.mean(one * other)) < 0.05 * noise.var()


@pytest.mark.slow
def test_seed_matters_only_with_random_numbers(drawn_state):
    state = drawn_state(PLAIN, batch_of())

    def loss(task):
        return float(jax.jit(task.train_step)(state, batch_of())[1]["loss"])

    assert loss(PLAIN) == loss(dataclasses.replace(PLAIN, seed=1))
    assert loss(NOISE) != loss(dataclasses.replace(NOISE, seed=1))


def test_denoising_baselines_are_the_input_and_its_projection():
    train = RNG.integers(0, 256, (40, 8, 8, 1)).astype(np.uint8)
    measured = NOISE.baseline(ArraySource({"image": train}), ArraySource({"image": PIXELS}))
    seen, clean = np.asarray(NOISE.model_input(batch_of()), np.float64), PIXELS / 255
    assert seen.min() < 0 < 1 < seen.max()
    clipped = np.clip(seen, 0, 1)
    assert measured["input_psnr"] == pytest.approx(decibels(clipped, clean).mean())
    assert measured["input_mse"] == pytest.approx(np.mean((clipped - clean) ** 2))
    projected = pca_reconstruction(train / 255, seen, 5)
    assert measured["pca_psnr"] == pytest.approx(decibels(projected, clean).mean())
    source = ArraySource({"image": PIXELS})
    assert set(PLAIN.baseline(source, source)) == {"pca_psnr", "pca_mse"}


def test_pca_with_all_components_returns_the_clipped_image():
    images = RNG.standard_normal((7, 4, 4, 1))
    np.testing.assert_allclose(
        pca_reconstruction(RNG.random((50, 4, 4, 1)), images, 100), np.clip(images, 0, 1), atol=1e-9
    )


def test_protocol_and_pictures_include_the_degradation(drawn_state):
    assert "GaussianNoise" not in PLAIN.protocol
    assert NOISE.protocol.startswith("GaussianNoise(sigma=50); ")
    assert PLAIN.protocol in NOISE.protocol
    state = drawn_state(PLAIN, batch_of())
    heights = [t.pictures(state, batch_of())["reconstructions"].height for t in (PLAIN, NOISE)]
    assert heights[1] == 1.5 * heights[0]


@pytest.mark.slow
@pytest.mark.parametrize(
    "degradation",
    [
        RandomPixelMask(0.5),
        SaltAndPepperNoise((0.0, 0.3)),
        Chain((Blur(np.full((3, 3), 1 / 9)), GaussianNoise((5.0, 20.0)))),
    ],
    ids=lambda degradation: type(degradation).__name__,
)
def test_shape_preserving_degradations_are_supported(drawn_state, degradation):
    task = dataclasses.replace(PLAIN, degradation=degradation)
    state = drawn_state(task, batch_of())
    assert np.isfinite(jax.jit(task.train_step)(state, batch_of())[1]["loss"])
    assert np.abs(np.asarray(task.model_input(batch_of())) - unit(batch_of())).mean() > 0.01


@pytest.mark.slow
def test_training_learns_to_denoise():
    smooth = np.kron(RNG.integers(0, 256, (16, 2, 2, 1)), np.ones((1, 4, 4, 1))).astype(np.uint8)
    task = dataclasses.replace(NOISE, optimizer=Optimizer(learning_rate=1e-2))
    task = dataclasses.replace(task, model=dataclasses.replace(SMALL, features=(16, 16)))
    batch = {"image": jnp.asarray(smooth), "index": jnp.arange(16)}
    state = jax.jit(task.init)(jax.random.key(0, impl="rbg"), batch)
    step = jax.jit(task.train_step)
    for _ in range(200):
        state, _ = step(state, batch)
    source = ArraySource({"image": smooth})
    reached = task.evaluate(state, [batch | {"mask": jnp.ones(16)}])["psnr"]
    assert reached > task.baseline(source, source)["input_psnr"] + 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": Classifier()}, "must be an autoencoder such as 'autoencoder'; got Classifier"),
        ({"loss": "l3"}, "no task.loss 'l3'; known are: bce, l1, l2"),
        ({"ms_ssim": -0.1}, "task.ms_ssim must be at least 0; got -0.1"),
        ({"ms_ssim": 1.5}, "task.ms_ssim must be at most 1; got 1.5"),
        ({"contractive": -1.0}, "task.contractive must be at least 0; got -1.0"),
        ({"sparsity": -1.0}, "task.sparsity must be at least 0; got -1.0"),
        (
            {"contractive": 1.0, "model": dataclasses.replace(SMALL, norm="batch")},
            "task.contractive requires task.model.norm != 'batch'",
        ),
    ],
)
def test_invalid_settings_are_rejected(changes, message):
    with pytest.raises(InputError, match=message):
        dataclasses.replace(PLAIN, **changes)


def test_ms_ssim_requires_images_as_large_as_its_window():
    task = dataclasses.replace(PLAIN, ms_ssim=0.84)
    state = jax.eval_shape(task.init, jax.random.key(0), batch_of())
    with pytest.raises(InputError, match="at least 11 x 11 pixels; got 8 x 8"):
        jax.eval_shape(task.train_step, state, batch_of())


@pytest.mark.parametrize("degradation", [Decimate(2), Blur(np.full((3, 3), 1 / 9), "valid")])
def test_shape_changing_degradation_is_rejected(degradation):
    task = dataclasses.replace(PLAIN, degradation=degradation)
    state = jax.eval_shape(task.init, jax.random.key(0), batch_of())
    with pytest.raises(InputError, match="must keep the shape of images; got"):
        jax.eval_shape(task.train_step, state, batch_of())
