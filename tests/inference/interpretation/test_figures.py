"""Figures and the images that they are computed from."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deconv_jax.data.images import read_pixels
from deconv_jax.data.pipeline import evaluation_batches
from deconv_jax.data.sources import ArraySource
from deconv_jax.errors import InputError
from deconv_jax.inference.interpretation import activations, figures
from deconv_jax.inference.interpretation.figures import (
    draw_attributions,
    draw_maximized_inputs,
    draw_top_patches,
)
from deconv_jax.inference.interpretation.load import load_interpretable_model
from deconv_jax.inference.recognition.predictor import center_resize_pixels
from deconv_jax.inference.trained_model import open_test_split
from deconv_jax.workdir import open_workdir


@pytest.mark.slow
def test_images_are_viewed_as_in_training(classifier, folder, monkeypatch):
    model = load_interpretable_model(classifier)
    assert model.image_shape == (16, 20, 1)
    task = open_workdir(classifier).task
    source = open_test_split(classifier)
    images = np.concatenate(list(model.iterate_images(source)))
    assert images.shape == (len(source), 16, 20, 1)
    batch = jax.tree.map(jnp.asarray, next(evaluation_batches(source, batch_size=5)))
    expected, _ = jax.jit(task.preprocessing)(batch["image"] / 255.0)
    preprocess = jax.jit(model.preprocess)
    np.testing.assert_allclose(preprocess(images[:5]), expected, atol=1e-5)

    files = sorted(folder.iterdir())
    read = model.read_images(files)
    np.testing.assert_array_equal(
        read[1], center_resize_pixels(read_pixels(files[1], "gray"), (16, 20))
    )
    monkeypatch.setattr(activations, "MAX_BATCH", 1)
    np.testing.assert_array_equal(np.concatenate(list(model.iterate_images(files))), read)
    # The network's output is the prediction of the task.
    logits = jax.jit(model.model.apply)(model.variables, preprocess(read))
    expected = task.predict(model.variables, jnp.asarray(read))["probabilities"]
    np.testing.assert_allclose(jax.nn.softmax(logits), expected, atol=1e-6)


def test_batches_have_a_limited_number_of_pixels(classifier, monkeypatch):
    model = load_interpretable_model(classifier)
    monkeypatch.setattr(activations, "_MAX_PIXELS", 2 * 32 * 40)
    shapes = []

    def images_from_batch(batch):
        shapes.append(batch["image"].shape)
        return np.zeros((len(batch["image"]), *model.image_shape), np.float32)

    large = ArraySource({"image": np.zeros((3, 32, 40, 1), np.uint8)})
    assert (
        sum(
            map(
                len,
                dataclasses.replace(model, images_from_batch=images_from_batch).iterate_images(
                    large
                ),
            )
        )
        == 3
    )
    assert shapes == [(2, 32, 40, 1)] * 2

    features = []

    def maximize(_, __, target, image_shape, **___):
        features.extend(target.feature.tolist())
        assert len(target.feature) * np.prod(image_shape) <= 2 * 16 * 20
        return np.zeros((len(target.feature), *image_shape), np.float32)

    monkeypatch.setattr(figures, "maximize_activation", maximize)
    monkeypatch.setattr(activations, "_MAX_PIXELS", 2 * 16 * 20)
    draw_maximized_inputs(model, ["conv1"])
    assert features == [0, 1, 2]


@pytest.mark.slow
def test_inactive_layers_and_unknown_classes_are_refused(classifier, draw):
    model = load_interpretable_model(classifier)
    images = draw(2, 16, 20, 1)
    with pytest.raises(InputError, match="class must be from 0 to 9; got -1"):
        draw_attributions(model, images, ["a", "b"], "gradient", class_number=-1)
    nothing = jax.tree.map(jnp.zeros_like, model.variables)
    with pytest.raises(InputError, match="no image activates a feature map of conv2"):
        draw_top_patches(dataclasses.replace(model, variables=nothing), images, ["conv2"])
