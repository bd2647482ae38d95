"""Layers are found in the order in which they run, and their feature maps are differentiable."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deconv_jax.errors import InputError
from deconv_jax.inference.interpretation.activations import (
    feature_maps,
    last_spatial_layer,
    layer_shape,
    layer_shapes,
)
from deconv_jax.models import Classifier, DnCNN
from deconv_jax.models.layers import Activation, Conv

SMALL = Classifier(features=(3, 4), convs_per_block=1, up_features=(5,), embedding_dim=6)


class Functions(nn.Module):
    """A network that calls an activation as a function after its first layer."""

    activation: str = "relu"

    @nn.compact
    def __call__(self, x):
        x = Activation("relu")(Conv(2)(x))
        return Conv(2)(getattr(jax.nn, self.activation)(Conv(2)(x)))


def test_layers_are_numbered_in_the_order_they_run(images_of, variables_of):
    images = images_of(2, 12, 16, 1)
    shapes = layer_shapes(SMALL, variables_of(SMALL, images), images)
    assert shapes == {
        "conv1": (12, 16, 3),
        "conv2": (6, 8, 4),
        "conv3": (6, 8, 5),  # The transposed convolution doubles the size after pooling.
        "dense1": (6,),
        "dense2": (10,),
        "logits": (10,),
    }
    assert list(shapes)[:3] == ["conv1", "conv2", "conv3"]
    assert last_spatial_layer(SMALL, variables_of(SMALL, images), images) == "conv3"


def test_feature_maps_are_taken_after_the_activation(images_of, variables_of):
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
def test_shift_of_a_feature_map_propagates_through_the_network(images_of, variables_of):
    images, shift = images_of(2, 12, 12, 1), images_of(2, 6, 6, 4, seed=1)
    variables = variables_of(SMALL, images)
    maps, logits = feature_maps(SMALL, variables, images, "conv2", "logits", shift={"conv2": shift})
    plain, before = feature_maps(SMALL, variables, images, "conv2", "logits")
    np.testing.assert_allclose(maps, plain + shift, rtol=1e-6)
    assert np.abs(logits - before).max() > 1e-3
    # A shift of zero changes nothing.
    back = feature_maps(SMALL, variables, images, "logits", shift={"conv2": shift - shift})
    np.testing.assert_array_equal(back[0], before)


@pytest.mark.slow
def test_feature_maps_are_the_same_under_vmap_and_remat(images_of, variables_of):
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
    rematerialized = jax.jit(jax.vmap(gradient(network.clone(remat=True))))(images)[1]
    size = np.abs(plain).max()
    assert size > 0
    for found in (compiled, rematerialized):
        np.testing.assert_allclose(found, plain, rtol=1e-4, atol=1e-6 * size)


@pytest.mark.slow
def test_unknown_layers_and_unsuitable_rules_are_refused(images_of, variables_of):
    images = images_of(1, 8, 8, 1)
    variables = variables_of(SMALL, images)
    with pytest.raises(InputError, match=r"no layer 'conv9'; it has conv1, conv2"):
        layer_shape(SMALL, variables, images, "conv9")
    with pytest.raises(InputError, match="no rule 'guide'; did you mean 'guided'"):
        feature_maps(SMALL, variables, images, "conv1", rule="guide")
    smooth = SMALL.clone(activation="gelu")
    with pytest.raises(InputError, match="requires ReLUs, but this network has 'gelu' up to conv2"):
        feature_maps(smooth, variables, images, "conv2", rule="deconvnet")
    assert feature_maps(smooth, variables, images, "conv2")[0].shape == (1, 4, 4, 4)

    class Flat(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(2)(x.reshape(len(x), -1))

    with pytest.raises(InputError, match="no spatial layer; its layers are dense1, logits"):
        last_spatial_layer(Flat(), variables_of(Flat(), images), images)


@pytest.mark.parametrize("activation", ["relu", "silu", "tanh"])
def test_activation_functions_are_refused_only_up_to_the_layer(activation, images_of, variables_of):
    images = images_of(1, 8, 8, 1)
    model = Functions(activation)
    variables = variables_of(model, images)
    assert feature_maps(model, variables, images, "conv1", rule="guided")[0].shape == (1, 8, 8, 2)
    with pytest.raises(InputError, match=r"requires every activation to be an `Activation` layer"):
        feature_maps(model, variables, images, "conv3", rule="guided")
    assert feature_maps(model, variables, images, "conv3")[0].shape == (1, 8, 8, 2)


def test_logits_of_a_restoration_network_are_its_image(images_of, variables_of):
    model = DnCNN(depth=3, features=2, norm="none")
    images = images_of(2, 10, 9, 1)
    variables = variables_of(model, images)
    shapes = layer_shapes(model, variables, images)
    assert shapes["logits"] == (10, 9, 1)
    noise, restored = feature_maps(model, variables, images, "conv3", "logits")
    np.testing.assert_allclose(restored, images - noise, atol=1e-6)
