"""Feature extractors: bundled files match their records, and unknown names are refused."""

import functools
import hashlib
import json
import os
from importlib import resources
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from deconv_jax.data.augment import center_resize
from deconv_jax.data.source_configs import Digits, Tfds
from deconv_jax.errors import InputError
from deconv_jax.models import extractors
from deconv_jax.models.extractors import (
    BUNDLED_CLASSIFIERS,
    INCEPTION_RESIZERS,
    INCEPTION_WEIGHTS_ENV,
    load_extractor,
)
from deconv_jax.models.inception import resize_for_inception

FOLDER = resources.files("deconv_jax.models") / "pretrained"
on_bundled = pytest.mark.parametrize("name", BUNDLED_CLASSIFIERS)


def record_of(name):
    return json.loads((FOLDER / f"{name}.json").read_text())


def tensors_of(name):
    return safetensors.numpy.load((FOLDER / f"{name}.safetensors").read_bytes())


def extract(name, images):
    """Return the features and probabilities of images in [0, 1]."""
    extractor = load_extractor(name)
    return jax.device_get(jax.jit(extractor.apply)(extractor.variables, jnp.asarray(images)))


def accuracy(name, batch):
    _, probabilities = extract(name, batch["image"] / np.float32(255))
    return np.mean(probabilities[:, 0].argmax(-1) == batch["label"])


def test_pretrained_folder_holds_only_small_files_of_extractors():
    files = {Path(file.name): len(file.read_bytes()) for file in FOLDER.iterdir()}
    assert {path.name for path in files} == {
        f"{name}.{ending}" for name in BUNDLED_CLASSIFIERS for ending in ("json", "safetensors")
    }
    assert max(files.values()) < 1_000_000


@on_bundled
def test_records_describe_training_and_accuracy(name):
    record = record_of(name)
    assert record["config"]["task"]["name"] == "recognition"
    assert record["config"]["task"]["model"]["name"] == "classifier"
    assert record["config"]["data"]["name"] == {"fashion": "fashion_mnist"}.get(name, name)
    assert 0.85 < record["metrics"]["test"]["accuracy"] <= 1.0
    assert record["uncommitted_changes"] is False
    sizes = [t.size for key, t in tensors_of(name).items() if key.startswith("params/")]
    assert sum(sizes) == record["parameters"]
    shown = f"{100 * record['metrics']['test']['accuracy']:.2f} % test accuracy"
    assert shown in load_extractor(name).description


@on_bundled
def test_records_contain_no_absolute_paths(name):
    assert '"/' not in (FOLDER / f"{name}.json").read_text()


@on_bundled
def test_features_and_probabilities_have_the_expected_shapes(name):
    """Every channel is classified on its own, at any image size."""
    side = BUNDLED_CLASSIFIERS[name]
    for channels, size in ((1, (side, side)), (3, (20, 40))):
        images = jax.ShapeDtypeStruct((2, *size, channels), jnp.float32)
        extractor = load_extractor(name)
        features, probabilities = jax.eval_shape(extractor.apply, extractor.variables, images)
        assert features.shape == (2, 64 * channels)
        assert probabilities.shape == (2, channels, 10)


def test_digits_accuracy_equals_the_record(digits_dir):
    test = Digits().open("test", digits_dir)
    batch = test.gather(np.arange(len(test)))
    assert accuracy("digits", batch) == pytest.approx(
        record_of("digits")["metrics"]["test"]["accuracy"], abs=1e-9
    )


def test_features_have_mean_square_1_on_training_images(digits_dir):
    train = Digits().open("train", digits_dir)
    features, _ = extract("digits", train.gather(np.arange(len(train)))["image"] / np.float32(255))
    assert np.mean(np.square(features, dtype=np.float64)) == pytest.approx(1.0, rel=1e-3)


@pytest.mark.slow
@pytest.mark.skipif("DECONV_JAX_DATA" not in os.environ, reason="$DECONV_JAX_DATA is not set")
@pytest.mark.parametrize(("name", "data"), [("mnist", "mnist"), ("fashion", "fashion_mnist")])
def test_accuracy_on_a_subset_is_near_the_record(name, data):
    """On 1,000 of 10,000 test images, within 3.5 standard errors."""
    test = Tfds(data).open("test", str(Path(os.environ["DECONV_JAX_DATA"]) / "tfds"))
    share = record_of(name)["metrics"]["test"]["accuracy"]
    measured = accuracy(name, test.gather(np.arange(1000)))
    assert abs(measured - share) < 3.5 * (share * (1 - share) / 1000) ** 0.5
    assert name != "mnist" or measured > 0.98


def test_channels_are_classified_independently(digits_dir):
    images = Digits().open("test", digits_dir).gather(np.arange(12))["image"] / np.float32(255)
    features, probabilities = extract("digits", images)
    stacked = images.reshape(4, 3, *images.shape[1:3]).transpose(0, 2, 3, 1)
    of_planes, by_plane = extract("digits", stacked)
    np.testing.assert_allclose(of_planes, features.reshape(4, -1), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(by_plane, probabilities.reshape(4, 3, 10), atol=1e-5)
    np.testing.assert_allclose(by_plane.sum(-1), 1.0, atol=1e-5)


@pytest.mark.slow
def test_images_of_another_size_are_resized():
    images = jnp.asarray(np.random.default_rng(0).random((2, 48, 40, 1), np.float32))
    for a, b in zip(
        extract("digits", images), extract("digits", center_resize(images, (32, 32))), strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_pixels_are_the_image_at_8x8():
    images = np.random.default_rng(0).random((2, 8, 8, 3), np.float32)
    features, probabilities = extract("pixels", images)
    np.testing.assert_allclose(features, images.reshape(2, -1), atol=1e-6)
    assert probabilities.shape == (2, 0, 0)
    features, _ = extract("pixels", np.full((2, 28, 32, 1), 0.25, np.float32))
    np.testing.assert_allclose(features, np.full((2, 64), 0.25), atol=1e-6)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("digit", ["'digit'", "did you mean 'digits'?"]),
        ("Mnist", ["'Mnist'", "did you mean 'mnist'?"]),
        ("pixel", ["'pixel'", "did you mean 'pixels'?"]),
        ("resnet50", ["'resnet50'", "known are: ", "inception", "inception-clean", "pixels"]),
        ("inception:weights.pth", ["'inception:weights.pth'", "'inception"]),
    ],
)
def test_unknown_name_suggests_the_closest(name, words):
    with pytest.raises(InputError) as raised:
        load_extractor(name)
    assert [word for word in words if word not in str(raised.value)] == []


on_inception = pytest.mark.parametrize("name", INCEPTION_RESIZERS)


@on_inception
def test_missing_weights_are_named(tmp_path, monkeypatch, name):
    monkeypatch.setenv(INCEPTION_WEIGHTS_ENV, str(tmp_path / "none.pth"))
    with pytest.raises(InputError, match=r"none\.pth: give the path"):
        load_extractor(name)


@on_inception
def test_unset_environment_variable_is_named(tmp_path, monkeypatch, name):
    monkeypatch.delenv(INCEPTION_WEIGHTS_ENV, raising=False)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"\$DECONV_JAX_INCEPTION"):
        load_extractor(name)


class MeanColors(nn.Module):
    """A stand-in for InceptionV3: channel means as features, and logits with a bias."""

    @nn.compact
    def __call__(self, images):
        assert images.shape[1:] == (299, 299, 3)
        features = images.mean((1, 2))
        return features, nn.Dense(5, name="fc")(features)


@on_inception
def test_inception_probabilities_exclude_the_bias(tmp_path, monkeypatch, name):
    random = np.random.default_rng(0)
    kernel = random.normal(size=(3, 5)).astype(np.float32)
    dense = {"kernel": kernel, "bias": np.float32([0, 50, 0, -50, 0])}
    path = tmp_path / "weights.pth"
    path.write_bytes(b"weights")
    paths = []

    def load_inception(path):
        paths.append(path)
        return MeanColors(), {"params": {"fc": dense}}

    monkeypatch.setenv(INCEPTION_WEIGHTS_ENV, str(path))
    monkeypatch.setattr(extractors, "load_inception", load_inception)
    # Not by `load_extractor`, whose cache would keep the stand-in for other tests.
    extractor = extractors._inception(name)
    assert paths == [path]
    colors = random.random((4, 3)).astype(np.float32)
    images = jnp.broadcast_to(colors[:, None, None], (4, 5, 5, 3))
    features, probabilities = extractor.apply(extractor.variables, images)
    np.testing.assert_allclose(features, colors, rtol=1e-4)
    assert probabilities.shape == (4, 1, 5)
    np.testing.assert_allclose(probabilities[:, 0], jax.nn.softmax(colors @ kernel), rtol=1e-3)
    assert extractor.name == name
    assert f"{INCEPTION_RESIZERS[name]} resize" in extractor.description
    assert hashlib.sha256(b"weights").hexdigest()[:16] in extractor.description


def test_extractors_are_cached():
    assert load_extractor("digits") is load_extractor("digits")


@pytest.mark.parametrize("name", ["pixels", "digits", *INCEPTION_RESIZERS])
def test_resized_images_are_not_resized_again(name):
    if name in INCEPTION_RESIZERS:
        resize = functools.partial(resize_for_inception, how=INCEPTION_RESIZERS[name])
    else:
        resize = load_extractor(name).resize
    resized = resize(jnp.asarray(np.random.default_rng(0).random((1, 40, 36, 1), np.float32)))
    np.testing.assert_allclose(resize(resized), resized, atol=1e-6)
