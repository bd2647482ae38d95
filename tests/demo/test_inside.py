"""The exported function of a classifier and its projections."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deconv_jax import models
from deconv_jax.demo.inside import MAX_LAYERS, _apply, projected_layers
from deconv_jax.export.functions import ModelFunction, Port
from deconv_jax.export.onnx import run_onnx, to_onnx
from deconv_jax.inference.interpretation.activations import feature_maps
from deconv_jax.inference.interpretation.attribution import Target, deconvnet
from deconv_jax.inference.interpretation.interpretable_model import InterpretableModel

SHAPE = (12, 12, 1)


@pytest.fixture(scope="module")
def subject():
    model = models.Classifier(3, features=(4, 5), convs_per_block=2, embedding_dim=6, norm="none")
    image = jnp.zeros((1, *SHAPE))
    variables = jax.jit(model.init)(jax.random.key(0), image)
    return InterpretableModel(model, variables, SHAPE, None, None, "gray", lambda x: x, 3)


@pytest.fixture(scope="module")
def images():
    return jnp.asarray(np.random.default_rng(0).random((2, *SHAPE), np.float32))


def test_first_middle_and_last_layers_are_projected(subject):
    assert projected_layers(subject) == ("conv1", "conv3", "conv4")
    assert len(projected_layers(subject)) == MAX_LAYERS


@pytest.mark.slow
def test_projections_are_those_of_the_package(subject, images):
    model, variables = subject.model, subject.variables
    classes = np.array([2, 0], np.int32)
    found = _apply(subject, ("conv3",), images, classes)
    np.testing.assert_allclose(found["probabilities"].sum(-1), 1, rtol=1e-6)
    expected = deconvnet(model, variables, images, Target(classes))
    np.testing.assert_allclose(found["projection"], expected, atol=1e-6)
    (maps,) = feature_maps(model, variables, images, "conv3")
    places = [np.unravel_index(np.argmax(each), each.shape) for each in np.asarray(maps)]
    target = Target(
        np.array([place[2] for place in places]), np.array([place[:2] for place in places]), "conv3"
    )
    expected = deconvnet(model, variables, images, target)
    np.testing.assert_allclose(found["conv3"], expected, atol=1e-6)


@pytest.mark.slow
def test_onnx_file_projects_through_max_pooling(subject, images):
    layers = projected_layers(subject)
    ports = (
        Port("image", ("batch", *SHAPE), "", is_map=True),
        Port("class", ("batch",), "", dtype="int32"),
    )
    meanings = dict.fromkeys(("probabilities", "projection", *layers), "")
    apply = functools.partial(_apply, subject, layers)
    function = ModelFunction("inside", "classification", ports, apply, meanings)
    classes = np.array([1, 2], np.int32)
    found = run_onnx(to_onnx(function, "nhwc"))(np.asarray(images), classes)
    expected = apply(images, classes)
    assert set(found) == set(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, atol=1e-5, err_msg=name)
