"""Evaluation on full-size images: reproducible noise, order of steps, and number of programs."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deconv_jax import ops
from deconv_jax.data.degradations import (
    Chain,
    Downsample,
    GaussianBlur,
    GaussianNoise,
    Jpeg,
    PoissonNoise,
    SaltAndPepperNoise,
)
from deconv_jax.errors import InputError
from deconv_jax.inference.restoration.evaluation import MAX_PROGRAMS, Evaluation, network_restorer
from deconv_jax.metrics.protocol import EvaluationProtocol
from deconv_jax.models import DnCNN

RNG = np.random.default_rng(0)


def image(height=24, width=30):
    return RNG.integers(0, 256, (height, width, 1)).astype(np.float32) / 255


def test_numpy_noise_restarts_for_each_image():
    evaluation = Evaluation(GaussianNoise(25.0), EvaluationProtocol())
    clean = image()
    expected = clean + np.random.RandomState(0).normal(0, 25 / 255, clean.shape)
    for index in (0, 5):
        np.testing.assert_allclose(evaluation.degrade(clean, index), expected, atol=1e-6)
    other = Evaluation(GaussianNoise(25.0), EvaluationProtocol(), noise="jax")
    assert np.abs(other.degrade(clean, 0) - other.degrade(clean, 1)).max() > 0.1


def test_noise_is_added_after_the_blur():
    blur = GaussianBlur(1.0)
    evaluation = Evaluation(Chain((blur, GaussianNoise(5.0))), EvaluationProtocol())
    clean = image()
    blurred = np.asarray(blur.forward(jnp.asarray(clean)[None])[0])
    noise = np.random.RandomState(0).normal(0, 5 / 255, clean.shape)
    np.testing.assert_allclose(evaluation.degrade(clean, 0), blurred + noise, atol=1e-6)


@pytest.mark.slow
def test_psnr_matches_its_formula():
    evaluation = Evaluation(Downsample(3), EvaluationProtocol(border=3), multiple=3)
    images = [("a", image(25, 32)), ("b", image(36, 30))]
    measured = evaluation.measure(lambda y: np.asarray(ops.imresize(jnp.asarray(y), 3)), images)
    for row, (name, whole) in zip(measured["images"], images, strict=True):
        clean = whole[: whole.shape[0] // 3 * 3, : whole.shape[1] // 3 * 3]
        output = np.asarray(ops.imresize(ops.imresize(jnp.asarray(clean), 1 / 3), 3))
        rounded = np.floor(np.clip(output, 0, 1) * 255 + 0.5) / 255
        error = np.mean((rounded - clean)[3:-3, 3:-3] ** 2)
        assert row["name"] == name
        assert row["psnr"] == pytest.approx(-10 * np.log10(error), rel=1e-5)
    assert measured["count"] == 2
    assert measured["mean"]["psnr"] == pytest.approx(
        np.mean([row["psnr"] for row in measured["images"]])
    )
    for words in ("Downsample(scale=3)", "multiples of 3", "border of 3"):
        assert words in measured["protocol"]


@pytest.mark.slow
def test_many_sizes_share_one_program_with_equal_results(random_variables):
    model = DnCNN(depth=3, features=4, norm="none")
    compiled = functools.partial(jax.jit(model.apply), random_variables(model, 1))
    shapes = []

    def apply(images):
        shapes.append(images.shape)
        return compiled(images)

    images = [image(20 + i, 31 - i) for i in range(MAX_PROGRAMS + 1)]
    restore = network_restorer(apply, model.receptive_field(), [x.shape[:2] for x in images])
    outputs = [restore(x) for x in images]
    assert len(set(shapes)) == 1
    for x, output in zip(images, outputs, strict=True):
        np.testing.assert_allclose(output, compiled(x[None])[0], atol=1e-5)

    shapes.clear()
    restore = network_restorer(apply, model.receptive_field(), [x.shape[:2] for x in images[:2]])
    restore(images[0])
    assert shapes == [(1, *images[0].shape)]


def test_missing_images_and_wrong_shapes_are_refused():
    evaluation = Evaluation(GaussianNoise(25.0), EvaluationProtocol())
    with pytest.raises(InputError, match="no images"):
        evaluation.measure(lambda y: y, [])
    with pytest.raises(InputError, match="a: the restored image has shape"):
        evaluation.measure(lambda y: y[1:], [("a", image())])


@pytest.mark.slow
@pytest.mark.parametrize(
    "degradation",
    [
        PoissonNoise(20.0),
        SaltAndPepperNoise(0.3),
        Jpeg(10),
        Chain((GaussianNoise(25.0), GaussianBlur(2.0))),
        Chain((Chain((GaussianNoise(5.0),)), GaussianNoise(5.0))),
        GaussianNoise((0.0, 50.0)),
    ],
    ids=lambda degradation: type(degradation).__name__,
)
def test_numpy_noise_requires_gaussian_noise_at_the_end(degradation):
    with pytest.raises(InputError):
        Evaluation(degradation, EvaluationProtocol())
    other = Evaluation(degradation, EvaluationProtocol(), noise="jax")
    assert np.abs(other.degrade(image(), 0) - image()).max() > 0
