"""The layers inside a network are found as they run, and what their units see is what moves them."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deconv_jax.errors import InputError
from deconv_jax.inference.interpretation import activations
from deconv_jax.inference.interpretation.activations import (
    check_layer,
    feature_maps,
    last_spatial_layer,
    layer_shapes,
    receptive_windows,
)
from deconv_jax.models import MODELS, Classifier, DnCNN
from deconv_jax.models.layers import Activation, Conv, ConvTranspose, Pool, Upsample
from deconv_jax.models.normalization import Norm

SMALL = Classifier(features=(3, 4), convs_per_block=1, up_features=(5,), embedding_dim=6)


@pytest.fixture
def variables_of(random_variables):
    def make(model, images):
        made = random_variables(model, images.shape[-1], size=images.shape[1:3])
        return jax.tree.map(jnp.asarray, made)

    return make


@pytest.fixture
def images_of(draw):
    def make(*shape, seed=0):
        return jnp.asarray(draw(*shape, seed=seed))

    return make


class Branches(nn.Module):
    """Two paths of different reach, a stride, a dilation, and a layer at the end without an activation."""

    @nn.compact
    def __call__(self, x):
        near = Activation("relu")(Conv(2, 3, stride=2)(x))
        far = Activation("relu")(Conv(2, 3, dilation=2)(Pool(kind="average")(x)))
        return Upsample(3, 2, method="subpixel")(near + far)


class Grouped(nn.Module):
    @nn.compact
    def __call__(self, x):
        return Conv(4, 1)(Norm("group")(Conv(4, 1)(x)))


class Functions(nn.Module):
    """Calls an activation as a function after its first layer."""

    activation: str = "relu"

    @nn.compact
    def __call__(self, x):
        x = Activation("relu")(Conv(2)(x))
        return Conv(2)(getattr(jax.nn, self.activation)(Conv(2)(x)))


def test_layers_are_named_in_the_order_they_run(images_of, variables_of):
    images = images_of(2, 12, 16, 1)
    shapes = layer_shapes(SMALL, variables_of(SMALL, images), images)
    assert shapes == {
        "conv1": (12, 16, 3),
        "conv2": (6, 8, 4),
        "conv3": (6, 8, 5),  # The transposed convolution doubles what pooling left.
        "dense1": (6,),
        "dense2": (10,),
        "logits": (10,),
    }
    assert list(shapes)[:3] == ["conv1", "conv2", "conv3"]
    assert last_spatial_layer(SMALL, variables_of(SMALL, images), images) == "conv3"


def test_feature_maps_are_those_after_the_activation(images_of, variables_of):
    model = Classifier(features=(3,), convs_per_block=1, embedding_dim=6)
    images = images_of(2, 8, 8, 1)
    variables = variables_of(model, images)
    conv, dense, logits = feature_maps(model, variables, images, "conv1", "dense1", "logits")
    before, *_ = feature_maps(model, variables, images, "conv1", before_activation=True)
    np.testing.assert_array_equal(conv, np.maximum(before, 0))
    assert (np.asarray(before) < 0).any()
    np.testing.assert_allclose(dense, model.apply(variables, images, method="embed"), rtol=1e-6)
    np.testing.assert_allclose(logits, model.apply(variables, images), rtol=1e-6)


@pytest.mark.slow
def test_what_is_added_to_a_map_goes_on_through_the_network(images_of, variables_of):
    images, shift = images_of(2, 12, 12, 1), images_of(2, 6, 6, 4, seed=1)
    variables = variables_of(SMALL, images)
    maps, logits = feature_maps(SMALL, variables, images, "conv2", "logits", shift={"conv2": shift})
    plain, before = feature_maps(SMALL, variables, images, "conv2", "logits")
    np.testing.assert_allclose(maps, plain + shift, rtol=1e-6)
    assert np.abs(logits - before).max() > 1e-3
    # The map shifted back is the network as it was.
    back = feature_maps(SMALL, variables, images, "logits", shift={"conv2": shift - shift})
    np.testing.assert_array_equal(back[0], before)


@pytest.mark.slow
def test_maps_are_the_same_through_transformations(images_of, variables_of):
    images = images_of(3, 8, 8, 1)
    network = Classifier(features=(3,), convs_per_block=1, embedding_dim=12, norm="none")
    variables = variables_of(network, images)

    def gradient(model):
        def strength(image):
            (maps,) = feature_maps(model, variables, image[None], "dense1", rule="guided")
            return jnp.sum(maps**2)

        return jax.grad(strength)

    plain = gradient(network)(images[1])
    compiled = jax.jit(jax.vmap(gradient(network)))(images)[1]
    computed_anew = jax.jit(jax.vmap(gradient(network.clone(remat=True))))(images)[1]
    size = np.abs(plain).max()
    assert size > 0
    for found in (compiled, computed_anew):
        np.testing.assert_allclose(found, plain, rtol=1e-4, atol=1e-6 * size)


def gradient_windows(model, variables, shape, layer, axis, tries=24):
    """First and last pixel that moves each line of a layer's units, in any of some random images."""
    random = np.random.default_rng(0)
    images = jnp.asarray(random.normal(size=(tries, *shape)), jnp.float32)
    units = jax.eval_shape(lambda x: feature_maps(model, variables, x, layer)[0], images).shape
    weights = jnp.asarray(random.normal(size=units), jnp.float32)

    @jax.jit
    def slopes(line):
        def total(images):
            (maps,) = feature_maps(model, variables, images, layer)
            on = (jnp.arange(units[1 + axis]) == line).reshape((-1, 1, 1) if axis == 0 else (-1, 1))
            return jnp.sum(jnp.where(on[None], weights * maps, 0.0))

        return jax.grad(total)(images)

    windows = []
    for line in range(units[1 + axis]):
        size = np.abs(np.asarray(slopes(line))).max(axis=(0, 2 - axis, 3))
        seen = np.flatnonzero(size > 1e-5 * size.max())
        windows.append((seen[0], seen[-1]))
    return np.array(windows)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "layer", "size"),
    [
        (SMALL, "conv2", (16, 20)),
        (SMALL, "conv3", (16, 20)),
        (Branches(), "conv2", (16, 18)),
        (Branches(), "logits", (16, 18)),
        (MODELS["unet"](channels=2, features=(3, 4, 5), norm="none", residual=False, activation="elu"), "conv9", (32, 32)),
        (
            MODELS["deconvnet"](num_classes=2, features=(3, 4), bottleneck_features=4, norm="none", activation="elu", convs_per_block=1),
            "logits",
            (16, 20),
        ),
        (MODELS["conv_deconv"](features=(2, 2), kernel_size=3, stride=2), "conv3", (11, 14)),
    ],
)  # fmt: skip
def test_a_unit_sees_the_pixels_that_move_it(model, layer, size, images_of, variables_of):
    images = images_of(1, *size, 1)
    variables = variables_of(model, images)
    found = receptive_windows(model, variables, images, layer)
    for axis in (0, 1):
        wanted = gradient_windows(model, variables, (*size, 1), layer, axis)
        np.testing.assert_array_equal(found[axis], wanted)


def test_windows_by_hand(images_of, variables_of):
    images = images_of(1, 12, 12, 1)
    variables = variables_of(SMALL, images)
    rows, columns = receptive_windows(SMALL, variables, images, "conv2")
    # Pooling doubles the step; a 3x3 layer before and one after it see 1 + 2 * 1 pixels beyond 2 i, 2 i + 1.
    steps = 2 * np.arange(6)
    np.testing.assert_array_equal(rows[:, 0], np.maximum(steps - 3, 0))
    np.testing.assert_array_equal(rows[:, 1], np.minimum(steps + 4, 11))
    np.testing.assert_array_equal(columns, rows)
    for dense in receptive_windows(SMALL, variables, images, "dense1"):
        np.testing.assert_array_equal(dense, [[0, 11]])


@pytest.mark.parametrize("at_once", [1, 5])
def test_windows_are_the_same_however_many_rows_are_followed_at_once(
    at_once, images_of, variables_of, monkeypatch
):
    images = images_of(1, 8, 12, 1)
    variables = variables_of(Branches(), images)
    whole = receptive_windows(Branches(), variables, images, "conv3")
    monkeypatch.setattr(activations, "_PIXELS", at_once * 8 * 12)
    for windows, expected in zip(
        receptive_windows(Branches(), variables, images, "conv3"), whole, strict=True
    ):
        np.testing.assert_array_equal(windows, expected)


def test_statistics_of_the_image_and_pixels_that_nothing_sees(images_of, variables_of):
    images = images_of(1, 6, 9, 1)
    model = Grouped()
    rows, columns = receptive_windows(model, variables_of(model, images), images, "conv2")
    np.testing.assert_array_equal(rows, np.tile([[0, 5]], (6, 1)))
    np.testing.assert_array_equal(columns, np.tile([[0, 8]], (9, 1)))

    class Spread(nn.Module):
        @nn.compact
        def __call__(self, x):
            return ConvTranspose(1, 1, stride=2, padding=0)(x)

    model = Spread()
    rows, _ = receptive_windows(model, variables_of(model, images), images, "conv1")
    np.testing.assert_array_equal(rows[:4], [[0, 0], [0, -1], [1, 1], [0, -1]])


@pytest.mark.slow
def test_layers_that_are_not_there_and_rules_that_do_not_fit(images_of, variables_of):
    images = images_of(1, 8, 8, 1)
    variables = variables_of(SMALL, images)
    with pytest.raises(InputError, match=r"no layer 'conv9'; it has conv1, conv2"):
        check_layer(SMALL, variables, images, "conv9")
    with pytest.raises(InputError, match="no rule 'guide'; did you mean 'guided'"):
        feature_maps(SMALL, variables, images, "conv1", rule="guide")
    smooth = SMALL.clone(activation="gelu")
    with pytest.raises(InputError, match="networks of ReLUs; up to conv2 this one has 'gelu'"):
        feature_maps(smooth, variables, images, "conv2", rule="deconvnet")
    assert feature_maps(smooth, variables, images, "conv2")[0].shape == (1, 4, 4, 4)

    class Flat(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(2)(x.reshape(len(x), -1))

    with pytest.raises(InputError, match="no convolution; its layers are dense1, logits"):
        last_spatial_layer(Flat(), variables_of(Flat(), images), images)


@pytest.mark.parametrize("activation", ["relu", "silu", "tanh"])
def test_activations_that_are_no_layers_are_refused_only_where_they_run(
    activation, images_of, variables_of
):
    images = images_of(1, 8, 8, 1)
    model = Functions(activation)
    variables = variables_of(model, images)
    assert feature_maps(model, variables, images, "conv1", rule="guided")[0].shape == (1, 8, 8, 2)
    with pytest.raises(InputError, match=r"needs every activation to be an `Activation` layer"):
        feature_maps(model, variables, images, "conv3", rule="guided")
    assert feature_maps(model, variables, images, "conv3")[0].shape == (1, 8, 8, 2)


def test_a_restoration_network_has_its_image_as_last_map(images_of, variables_of):
    model = DnCNN(depth=3, features=2, norm="none")
    images = images_of(2, 10, 9, 1)
    variables = variables_of(model, images)
    shapes = layer_shapes(model, variables, images)
    assert shapes["logits"] == (10, 9, 1)
    noise, restored = feature_maps(model, variables, images, "conv3", "logits")
    np.testing.assert_allclose(restored, images - noise, atol=1e-6)
