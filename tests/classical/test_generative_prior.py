"""Restoration in the range of a generator: recovery of latents, batches, starts, masks and blending."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from deconv_jax.classical import LatentGenerator, fit_latents, generative_prior
from deconv_jax.classical.generative_prior import context_weights
from deconv_jax.data.degradations import (
    Chain,
    GaussianBlur,
    GaussianNoise,
    Jpeg,
    Mask,
    RandomProjection,
)
from deconv_jax.errors import InputError

SIZE = (12, 10)
LATENT_DIM = 4
WEIGHTS = np.random.default_rng(0).standard_normal((LATENT_DIM, 24)).astype("float32") / 2
PLANES = np.random.default_rng(1).standard_normal((24, *SIZE, 1)).astype("float32") / 5


def decode(weights, planes, latents, labels):
    """Return the images of a generator with one hidden layer; a class adds its number to the layer."""
    hidden = latents @ weights
    if labels is not None:
        hidden = hidden + labels[:, None]
    return jax.nn.sigmoid(jnp.tensordot(jnp.tanh(hidden), planes, 1))


GENERATOR = LatentGenerator(Partial(decode, WEIGHTS, PLANES), LATENT_DIM)


def true_latents(count):
    return np.random.default_rng(count).standard_normal((count, LATENT_DIM)).astype("float32")


def image_of(latents, labels=None):
    return decode(WEIGHTS, PLANES, latents, labels)


def hole():
    mask = np.ones(SIZE, "float32")
    mask[3:9, 2:7] = 0
    return mask


@pytest.mark.slow
@pytest.mark.parametrize(
    "model",
    [RandomProjection(40), Mask(hole()), GaussianBlur(1.0), lambda x: jnp.square(x[:, ::2])],
    ids=["projections", "mask", "blur", "function"],
)
def test_latents_that_made_the_measurements_are_recovered(model):
    latents = true_latents(2)
    x = image_of(latents)
    y = model(x)
    fit = fit_latents(y, model, generator=GENERATOR, weight=0.0, restarts=4)
    assert fit.objective.shape == (500, 2)
    assert np.max(fit.objective[-1]) < 1e-6
    np.testing.assert_allclose(fit.latents, latents, atol=5e-3)


@pytest.mark.slow
def test_class_is_recovered():
    labels = jnp.array([2, 0], jnp.int32)
    generator = LatentGenerator(GENERATOR.decode, LATENT_DIM, num_classes=3)
    y = RandomProjection(30)(image_of(true_latents(2), labels))
    fit = fit_latents(y, RandomProjection(30), generator=generator, weight=0.0, restarts=6)
    np.testing.assert_array_equal(fit.labels, labels)


@pytest.mark.slow
def test_image_is_restored_alike_alone_and_in_a_batch():
    """With a mask per image, whose parameters are not compiled in."""
    masks = np.stack([hole(), hole()[::-1, ::-1]])[..., None]
    y = Mask(masks)(image_of(true_latents(2)))
    options = {"generator": GENERATOR, "iterations": 20, "restarts": 2}
    together = generative_prior(y, Mask(masks), **options)
    for i in range(2):
        alone = generative_prior(y[i : i + 1], Mask(masks[i : i + 1]), **options)
        np.testing.assert_allclose(alone[0], together[i], atol=1e-5)


@pytest.mark.slow
def test_smallest_objective_of_all_starts_is_chosen():
    """Start r is the same whatever the number of starts."""
    y = RandomProjection(9)(image_of(true_latents(3)))
    fits = [
        fit_latents(y, RandomProjection(9), generator=GENERATOR, iterations=15, restarts=count)
        for count in (1, 5)
    ]
    last = np.stack([fit.objective[-1] for fit in fits])
    assert np.all(np.diff(last, axis=0) <= 1e-6)
    assert np.any(np.diff(last, axis=0) < -1e-3)
    residual = RandomProjection(9)(image_of(fits[-1].latents)) - y
    expected = np.sum(np.square(residual), (1, 2, 3)) + 0.1 * np.sum(fits[-1].latents ** 2, 1)
    np.testing.assert_allclose(last[-1], expected, rtol=1e-4)


@pytest.mark.slow
def test_weight_shrinks_latents():
    y = RandomProjection(9)(image_of(true_latents(1)))
    norms = [
        np.linalg.norm(
            fit_latents(
                y,
                RandomProjection(9),
                generator=GENERATOR,
                weight=weight,
                restarts=2,
                iterations=200,
            ).latents
        )
        for weight in (0.0, 0.5, 1e3)
    ]
    assert norms[0] > norms[1] > norms[2]
    assert norms[2] < 1e-2


def test_context_weights_are_the_fraction_of_missing_pixels_around():
    weights = context_weights(jnp.zeros((1, *SIZE, 1)), Mask(hole()), 3)[0, ..., 0]
    assert np.all(weights[3:9, 2:7] == 0)
    assert weights[2, 1] == pytest.approx(1 / 9)  # touches the corner of the hole
    assert weights[2, 4] == pytest.approx(3 / 9)  # an edge
    assert weights[0, 0] == 0


@pytest.mark.slow
def test_blending_restores_an_image_up_to_its_brightness():
    x = image_of(true_latents(2))
    y = Mask(hole())(x)
    shift = jnp.array([0.1, -0.2]).reshape(2, 1, 1, 1)
    generator = LatentGenerator(Partial(lambda shifted, z, labels: shifted, x + shift), 1)  # noqa: ARG005
    blended = generative_prior(
        y, Mask(hole()), generator=generator, blend=True, restarts=1, iterations=1
    )
    np.testing.assert_allclose(blended, x, atol=1e-4)
    known = hole() == 1
    np.testing.assert_array_equal(blended[:, known], y[:, known])


@pytest.mark.slow
def test_critic_moves_images_to_where_it_is_higher():
    critic = Partial(lambda images, labels: 50 * jnp.mean(images, (1, 2, 3)))  # noqa: ARG005
    y = Mask(hole())(image_of(true_latents(1)))
    generator = LatentGenerator(GENERATOR.decode, LATENT_DIM, critic=critic)
    plain, moved = (
        generative_prior(
            y, Mask(hole()), generator=generator, critic_weight=weight, restarts=2, iterations=200
        )
        for weight in (0.0, 1.0)
    )
    assert np.mean(moved) > np.mean(plain) + 1e-3


@pytest.mark.usefixtures("without_type_checks")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"misfit": "huber"}, "misfit"),
        ({"restarts": 0}, "restarts must be at least 1"),
        ({"weight": -1.0}, "weight must be at least 0"),
        ({"learning_rate": 0.0}, "learning_rate must be above 0"),
        ({"context_window": 4}, "context_window must be odd, or 0 for none; got 4"),
        ({"critic_weight": 1.0}, "critic_weight requires a critic"),
        (
            {"blend": True, "model": RandomProjection(3)},
            "blend requires a mask .* RandomProjection",
        ),
        ({"context_window": 3, "model": lambda x: x}, "context_window requires a mask"),
        ({"model": Jpeg(50)}, "Jpeg is not linear"),
        (
            {"y": (1, 5, 5, 1)},
            "maps images of size .12, 10. to size .12, 10.; got y of size .5, 5.",
        ),
        ({"y": (1, *SIZE, 3)}, r"maps images .1, 12, 10, 1. of the generator to .1, 12, 10, 1."),
    ],
)
def test_invalid_arguments_are_errors(options, message):
    model, shape = (
        options.pop("model", Chain((GaussianNoise(1.0),))),
        options.pop("y", (1, *SIZE, 1)),
    )
    with pytest.raises(InputError, match=message):
        generative_prior(np.zeros(shape, "float32"), model, generator=GENERATOR, **options)
