"""Top patches are those of an exhaustive search, and maximized images activate their targets."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deconv_jax.data.preprocessing import Preprocessing
from deconv_jax.errors import InputError
from deconv_jax.inference.interpretation import feature_visualization
from deconv_jax.inference.interpretation.activations import feature_maps
from deconv_jax.inference.interpretation.attribution import Target, deconvnet
from deconv_jax.inference.interpretation.feature_visualization import (
    maximize_activation,
    top_patches,
)
from deconv_jax.models import Classifier
from deconv_jax.models.layers import Activation, Conv

MODEL = Classifier(num_classes=3, features=(3, 4), convs_per_block=1, embedding_dim=5)
STANDARDIZED = Preprocessing(standardize=True)


def standardized(images):
    return STANDARDIZED.standardized(images)[0]


class Matched(nn.Module):
    """A linear filter followed by a ReLU."""

    features: int = 1

    @nn.compact
    def __call__(self, x):
        return Activation("relu")(Conv(self.features, 5, use_bias=False)(x))


@pytest.fixture
def network(random_variables):
    variables = random_variables(MODEL, 1, size=(12, 16))
    return jax.tree.map(jnp.asarray, variables)


def kernel_variables(kernel):
    return {"params": {"Conv_0": {"kernel": jnp.asarray(kernel)}}, "batch_stats": {}}


@pytest.fixture
def template():
    """A zero-mean pattern in [-0.5, 0.5]."""
    pattern = np.random.default_rng(3).uniform(size=(5, 5)).astype(np.float32)
    pattern -= pattern.mean()
    return 0.5 * pattern / np.abs(pattern).max()


def test_a_planted_pattern_is_found_and_projected(template):
    images = 0.5 + 0.02 * np.random.default_rng(0).normal(size=(20, 24, 30, 1)).astype(np.float32)
    row, column = 7, 18
    images[13, row - 2 : row + 3, column - 2 : column + 3, 0] = 0.5 + template
    found = top_patches(
        Matched(), kernel_variables(template[..., None, None]), images, "conv1", count=3
    )
    assert found.examples[0, 0] == 13
    np.testing.assert_array_equal(found.positions[0, 0], [row, column])
    np.testing.assert_allclose(found.patches[0, 0, ..., 0], 0.5 + template, rtol=1e-6)
    # The activation is the energy of the kernel, and the projection is the kernel times that.
    energy = float(np.sum(template**2))
    assert found.activations[0, 0] == pytest.approx(energy, rel=1e-4)
    np.testing.assert_allclose(
        found.projections[0, 0, ..., 0], energy * template, rtol=1e-4, atol=1e-6
    )
    assert found.activations[0, 1] < 0.5 * energy
    assert found.valid[0, 0].all()


def test_patches_at_the_border_are_zero_outside_the_image(template):
    images = np.full((2, 9, 9, 1), 0.5, np.float32)
    images[1, :3, 5:, 0] = 0.5 + template[2:, :4]
    kernel = template.copy()
    kernel[:2] = kernel[:, 4:] = 0
    found = top_patches(
        Matched(), kernel_variables(kernel[..., None, None]), images, "conv1", count=1
    )
    assert found.examples[0, 0] == 1
    np.testing.assert_array_equal(found.positions[0, 0], [0, 7])
    expected = np.zeros((5, 5), bool)
    expected[2:, :4] = True
    np.testing.assert_array_equal(found.valid[0, 0], expected)
    np.testing.assert_allclose(found.patches[0, 0, 2:, :4, 0], 0.5 + template[2:, :4], rtol=1e-6)
    assert not found.patches[0, 0][~expected].any()
    assert not found.projections[0, 0][~expected].any()


@pytest.mark.slow
def test_top_patches_equal_an_exhaustive_search(network, draw):
    images = draw(23, 12, 16, 1)
    found = top_patches(MODEL, network, images, "conv2", count=4, maps=3)
    (maps,) = feature_maps(MODEL, network, jnp.asarray(images), "conv2")
    maps = np.asarray(maps)
    best = maps.max(axis=(1, 2))  # (images, features)
    features = np.argsort(-best.max(axis=0), kind="stable")[:3]
    np.testing.assert_array_equal(found.features, features)
    for place, feature in enumerate(features):
        order = np.argsort(-best[:, feature], kind="stable")[:4]
        np.testing.assert_array_equal(found.examples[place], order)
        np.testing.assert_allclose(found.activations[place], best[order, feature], rtol=1e-5)
        for image, position in zip(order, found.positions[place], strict=True):
            assert maps[image, *position, feature] == maps[image, ..., feature].max()


def test_result_does_not_depend_on_batches(network, draw):
    images = (255 * draw(23, 12, 16, 1)).astype(np.uint8)
    search = functools.partial(top_patches, MODEL, network, layer="conv2", count=5)
    whole = search(images)
    parts = search(iter([images[:7], images[7:8], images[8:20], images[20:]]))
    for name in ("features", "examples", "positions", "valid"):
        np.testing.assert_array_equal(getattr(whole, name), getattr(parts, name))
    for name in ("activations", "patches", "projections"):
        a, b = getattr(whole, name), getattr(parts, name)
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    assert 0 <= whole.patches.min() <= whole.patches.max() <= 1


def test_only_images_with_top_patches_are_kept(network, draw):
    batches = [draw(8, 12, 16, 1, seed=seed) for seed in range(3)]
    best, kept = feature_visualization._search(
        MODEL, network, iter(batches), "conv1", 2, "gradient", feature_visualization._identity
    )
    assert kept.keys() == set(best.examples.ravel().tolist())
    for number, image in kept.items():
        np.testing.assert_array_equal(image, batches[number // 8][number % 8])
        # A view would keep its whole batch.
        assert image.base is None


def test_unsuitable_rules_are_refused_before_the_search(network, draw):
    batches = iter([draw(2, 12, 16, 1)] * 3)
    with pytest.raises(InputError, match=r"has 'gelu' up to conv2; use .*--method gradient"):
        top_patches(MODEL.clone(activation="gelu"), network, batches, "conv2")
    assert len(list(batches)) == 2


@pytest.mark.slow
def test_projection_is_the_deconvnet_times_the_activation(network, draw):
    images = draw(6, 12, 16, 1)
    found = top_patches(MODEL, network, images, "dense1", count=2, preprocess=standardized)
    best = int(found.examples[0, 0])
    seen = standardized(jnp.asarray(images[best : best + 1]))
    unit = jax.jit(deconvnet, static_argnums=0)(
        MODEL, network, seen, Target(int(found.features[0]), layer="dense1")
    )
    # The window of a dense layer is the whole image, which is returned as given.
    np.testing.assert_array_equal(found.patches[0, 0], images[best])
    expected = found.activations[0, 0] * np.asarray(unit[0])
    assert np.abs(expected).max() > 0
    size = np.abs(expected).max()
    np.testing.assert_allclose(found.projections[0, 0], expected, atol=1e-5 * size)


def test_there_are_at_most_as_many_patches_as_images(network, draw):
    found = top_patches(MODEL, network, draw(2, 12, 16, 1), "conv1")
    assert found.examples.shape == (3, 2)
    assert {tuple(sorted(row)) for row in found.examples} == {(0, 1)}
    with pytest.raises(InputError, match="no images"):
        top_patches(MODEL, network, [], "conv1")
    with pytest.raises(InputError, match="no layer 'conv3'"):
        top_patches(MODEL, network, draw(2, 12, 16, 1), "conv3")
    for arguments in ({"count": 0}, {"maps": 0}):
        with pytest.raises(InputError, match=next(iter(arguments))):
            top_patches(MODEL, network, draw(2, 12, 16, 1), "conv1", **arguments)


def test_maximized_image_of_a_linear_unit_has_the_signs_of_its_kernel(template):
    kernel = template + 0.2 * np.sign(template)
    target = Target(np.array([0]), np.array([[4, 5]]), layer="conv1")
    images = maximize_activation(
        Matched(),
        kernel_variables(kernel[..., None, None]),
        target,
        (9, 11, 1),
        steps=60,
        jitter=0,
        decay=0,
        blur=0,
    )
    window = np.asarray(images)[0, 2:7, 3:8, 0]
    np.testing.assert_array_equal(window, (template > 0).astype(np.float32))
    outside = np.asarray(images)[0, ..., 0].copy()
    outside[2:7, 3:8] = 0.5
    assert np.abs(outside - 0.5).max() < 0.3  # Still the initial noise.


@pytest.mark.slow
@pytest.mark.parametrize("preprocess", [None, standardized])
def test_maximized_images_activate_more_than_noise(preprocess, network):
    features = np.arange(3, dtype=np.int32)
    # Without regularization, which lowers the activation.
    unregularized = {"jitter": 0, "decay": 0, "blur": 0}
    images = maximize_activation(
        MODEL,
        network,
        Target(features),
        (12, 16, 1),
        steps=60,
        preprocess=preprocess,
        **unregularized,
    )
    assert 0 <= images.min() <= images.max() <= 1
    noise = 0.5 + 0.05 * np.random.default_rng(0).normal(size=(200, 12, 16, 1))

    def logits(images):
        return MODEL.apply(network, preprocess(images) if preprocess else images)

    own = np.asarray(jax.jit(logits)(images))[features, features]
    assert (own > np.asarray(jax.jit(logits)(jnp.asarray(noise, jnp.float32))).max(axis=0)).all()


@pytest.mark.slow
def test_seed_determines_the_images(template):
    make = functools.partial(
        maximize_activation,
        Matched(2),
        kernel_variables(np.stack([template, -template], axis=-1)[:, :, None]),
        Target(np.array([0, 1]), layer="conv1"),
        (9, 11, 1),
        steps=3,
    )
    first, again, other = np.asarray(make()), np.asarray(make()), np.asarray(make(seed=1))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 0.01
    assert np.abs(first[0] - first[1]).max() > 0.01


def test_inactive_units_are_maximized_too():
    # With a kernel of negative sum, the ReLU is inactive for the gray start.
    kernel = np.full((5, 5, 1, 1), -0.1, np.float32)
    kernel[2, 2] = 1.0
    target = Target(np.array([0]), np.array([[4, 4]]), layer="conv1")
    images = maximize_activation(
        Matched(), kernel_variables(kernel), target, (9, 9, 1), jitter=0, blur=0
    )
    (maps,) = feature_maps(Matched(), kernel_variables(kernel), images, "conv1")
    assert maps[0, 4, 4, 0] > 0.1


def test_settings_out_of_range_are_refused(network):
    make = functools.partial(
        maximize_activation, MODEL, network, Target(np.array([0])), (12, 16, 1)
    )
    for setting in ({"steps": 0}, {"blur_every": 0}, {"jitter": -1}, {"decay": -0.1}, {"seed": -1}):
        with pytest.raises(InputError, match=next(iter(setting))):
            make(**setting)
