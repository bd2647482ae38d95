"""Compression: losses of all levels, independence of devices, exact metrics, and JPEG."""

import dataclasses
import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from deconv_jax.data.augment import example_keys, random_crop
from deconv_jax.data.forward_model import fold_in
from deconv_jax.data.sources import ArraySource
from deconv_jax.errors import InputError
from deconv_jax.models import Autoencoder, FactorizedCodec, HyperpriorCodec
from deconv_jax.tasks import Compression
from deconv_jax.training.optimizer import Optimizer

RNG = np.random.default_rng(0)
# Smooth images, which a codec compresses better than noise.
COARSE = RNG.integers(0, 256, (16, 6, 6, 1))
IMAGES = np.kron(COARSE, np.ones((1, 8, 8, 1))).astype(np.uint8)
SIZES = np.array([[48, 48], [40, 48], [33, 20], [48, 17]], np.int32)
LAMBDAS = (0.002, 0.02)

# Plain SGD; tests/training/test_parallel.py explains why.
TASK = Compression(
    FactorizedCodec(1, features=4, latent_features=6, initial_gains=(0.5, 2.0)),
    LAMBDAS,
    Optimizer(name="sgd", learning_rate=1e-5),
    crop=32,
    augment=False,
)


def batch_of(rows=slice(None, 4), **more):
    index = np.arange(len(IMAGES), dtype=np.int32)[rows]
    arrays = {"image": IMAGES[rows], "index": index, "mask": np.ones(len(index), np.float32)}
    return {name: jnp.asarray(array) for name, array in (arrays | more).items()}


LEARNING = dataclasses.replace(TASK, optimizer=Optimizer(learning_rate=1e-3))


@pytest.fixture(scope="module")
def state():
    return jax.jit(TASK.init)(jax.random.key(0, impl="rbg"), batch_of())


@pytest.fixture(scope="module")
def learning_state(state):
    """Return the same weights with the optimizer state of `LEARNING`."""
    moments = jax.jit(LEARNING.optimizer.transform().init)(state.params)
    return state.replace(opt_state=moments)


@pytest.fixture(scope="module")
def learn():
    return jax.jit(LEARNING.train_step)


@pytest.fixture(scope="module")
def coded():
    """Return a function that codes images at a level with rounded latents."""
    call = jax.jit(
        lambda params, images, level: TASK.model.apply({"params": params}, images, level)
    )

    def code(state, images, level):
        return call(state.params, jnp.asarray(images), jnp.full(len(images), level))

    return code


def decibels(output, clean):
    return -10 * np.log10(np.mean((output - clean) ** 2))


# Training


@pytest.mark.slow
def test_steps_do_not_depend_on_devices_or_compiler(assert_trees_equal, run_steps, state):
    """The tolerance allows for latents near one half, where rounding amplifies errors."""
    task = dataclasses.replace(TASK, augment=True)
    rows = np.random.default_rng(1).integers(0, len(IMAGES), (2, 8)).astype(np.int32)
    batches = [{"index": i, "image": IMAGES[i]} for i in rows]
    one, one_scalars = run_steps(task, state, batches, count=1)
    for compiler in ("jit", "pmap"):
        other, scalars = run_steps(task, state, batches, compiler=compiler)
        assert_trees_equal(other, one, relative=1e-3)
        assert_trees_equal(scalars, one_scalars, relative=1e-3)


@pytest.mark.slow
def test_loss_weights_each_patch_by_the_lambda_of_its_level(learning_state, learn):
    batch = batch_of(slice(None, 8))
    scalars = jax.device_get(learn(learning_state, batch)[1])

    @jax.jit
    def seen_and_coded(params, images, index):
        step_key = jax.random.fold_in(jax.random.key(TASK.seed), 0)
        keys = example_keys(step_key, index)
        crop, _, draw, noise = (fold_in(keys, purpose) for purpose in range(4))
        patches = random_crop(crop, images / 255.0, 32)
        level = jax.vmap(lambda key: jax.random.randint(key, (), 0, 2))(draw)
        return patches, level, TASK.model.apply({"params": params}, patches, level, noise)

    seen = seen_and_coded(learning_state.params, batch["image"], batch["index"])
    patches, level, result = jax.device_get(seen)
    assert set(level) == {0, 1}
    error = np.mean((np.asarray(result.images) - patches) ** 2, axis=(1, 2, 3))
    bpp = np.asarray(result.bits) / 32**2
    expected = np.mean(np.array(LAMBDAS)[level] * 255**2 * error + bpp)
    np.testing.assert_allclose(scalars["loss"], expected, rtol=1e-4)
    np.testing.assert_allclose(scalars["bpp"], bpp.mean(), rtol=1e-4)
    np.testing.assert_allclose(scalars["psnr"], -10 * np.log10(error.mean()), rtol=1e-4)
    assert scalars["side_bpp"] == 0


@pytest.mark.slow
def test_training_reduces_squared_error(state, learning_state, learn):
    # Shift the images off the block grid, which suits the initial weights.
    moved = np.roll(IMAGES[:8], 4, axis=(1, 2))
    first, batch = batch_of(image=moved[:4]), batch_of(slice(None, 8), image=moved)
    before = TASK.evaluate(state, [first])
    for _ in range(80):
        learning_state, scalars = learn(learning_state, batch)
        assert np.isfinite(scalars["loss"])
    learned = state.replace(params=learning_state.params)
    assert TASK.evaluate(learned, [first])["loss"] < 0.9 * before["loss"]


@pytest.mark.slow
def test_training_increases_ms_ssim(learning_state):
    task = dataclasses.replace(LEARNING, distortion="ms_ssim", lambdas=(2.0, 20.0))
    batch = batch_of(slice(None, 8), image=IMAGES[:8, 4:36, 4:36])
    state, step = learning_state, jax.jit(task.train_step)
    before = task.evaluate(state, [batch])
    for _ in range(30):
        state, scalars = step(state, batch)
        assert np.isfinite(scalars["loss"])
    assert task.evaluate(state, [batch])["loss"] < 0.9 * before["loss"]


# Evaluation


@pytest.mark.slow
def test_metrics_use_rounded_images_and_canvas_bits(state, coded):
    images = IMAGES[:4, :40, :33] / np.float32(255)
    measured = TASK.evaluate(state, [batch_of(image=IMAGES[:4, :40, :33])])
    canvas = np.pad(images, ((0, 0), (0, 8), (0, 15), (0, 0)), mode="symmetric")
    loss = 0
    for level, weight in enumerate(LAMBDAS):
        result = coded(state, canvas, level)
        bpp = np.asarray(result.bits) / 48**2
        assert measured[f"bpp_{level}"] == pytest.approx(bpp.mean(), rel=1e-5)
        decoded = np.asarray(result.images)
        written = np.round(255 * decoded[:, :40, :33].clip(0, 1)) / 255
        psnr = np.mean([decibels(*pair) for pair in zip(written, images, strict=True)])
        assert measured[f"psnr_{level}"] == pytest.approx(psnr, rel=1e-5)
        loss += np.mean(weight * 255**2 * np.mean((decoded - canvas) ** 2, (1, 2, 3)) + bpp) / 2
    assert measured["loss"] == pytest.approx(loss, rel=1e-5)
    assert set(measured) == {"loss", "bpp_0", "bpp_1", "psnr_0", "psnr_1"}


def test_padding_of_images_is_excluded(state, coded):
    measured = TASK.evaluate(state, [batch_of(size=SIZES)])
    for level in range(2):
        decoded = np.asarray(coded(state, IMAGES[:4] / np.float32(255), level).images)
        written = np.round(255 * decoded.clip(0, 1)) / 255
        expected = [
            decibels(written[i, :h, :w], IMAGES[i, :h, :w] / 255) for i, (h, w) in enumerate(SIZES)
        ]
        assert measured[f"psnr_{level}"] == pytest.approx(np.mean(expected), rel=1e-5)


def test_evaluation_does_not_depend_on_batching(state):
    together = TASK.evaluate(state, [batch_of(mask=np.array([1, 1, 1, 0], np.float32))])
    apart = TASK.evaluate(state, [batch_of(slice(i, i + 1)) for i in (2, 0, 1)])
    assert together == pytest.approx(apart, rel=1e-4)


@pytest.mark.slow
def test_ms_ssim_is_reported_for_large_images(state):
    large = np.kron(COARSE[:1], np.ones((1, 32, 32, 1))).astype(np.uint8)
    measured = TASK.evaluate(state, [batch_of(slice(1), image=np.roll(large, 5, (1, 2)))])
    assert 0 < measured["ms_ssim_0"] < measured["ms_ssim_1"] < 1


@pytest.mark.slow
def test_pictures_show_the_lowest_and_the_highest_level(state):
    picture = TASK.pictures(state, batch_of())["decoded"]
    assert picture.width >= 4 * 48
    assert picture.height >= 3 * 48


@pytest.mark.slow
def test_side_information_counts():
    task = dataclasses.replace(
        TASK, model=HyperpriorCodec(1, 4, 6, initial_gains=(0.5, 2.0)), crop=64
    )
    batch = batch_of(slice(1), image=np.tile(IMAGES[:1, :32, :32], (1, 2, 2, 1)))
    state = jax.jit(task.init)(jax.random.key(0, impl="rbg"), batch)
    measured = task.evaluate(state, [batch])
    result = jax.jit(task.model.apply)(
        {"params": state.params}, batch["image"] / 255.0, jnp.zeros(1, int)
    )
    assert result.side_bits[0] > 0
    bits = float(result.bits[0] + result.side_bits[0])
    assert measured["bpp_0"] == pytest.approx(bits / 64**2, rel=1e-4)


# JPEG


@pytest.mark.parametrize("channels", [1, 3])
def test_baseline_is_pillow_jpeg_of_unpadded_images(channels):
    images = RNG.integers(0, 256, (4, 48, 48, channels)).astype(np.uint8)
    source = ArraySource({"image": images, "size": SIZES})
    expected = {"bpp": [], "psnr": []}
    for image, (height, width) in zip(images, SIZES, strict=True):
        true, file = image[:height, :width].squeeze(), io.BytesIO()
        Image.fromarray(true).save(file, "JPEG", quality=50, optimize=True)
        expected["bpp"].append(8 * len(file.getvalue()) / (height * width))
        decoded = np.asarray(Image.open(file)) / 255
        expected["psnr"].append(decibels(decoded, true / 255))
    measured = TASK.baseline(source, source)
    for name, values in expected.items():
        assert measured[f"jpeg50_{name}"] == pytest.approx(np.mean(values), rel=1e-6)
    assert measured["jpeg10_bpp"] < measured["jpeg50_bpp"] < measured["jpeg90_bpp"]
    assert measured["jpeg10_psnr"] < measured["jpeg50_psnr"] < measured["jpeg90_psnr"]


def test_lossless_jpeg_has_infinite_psnr():
    source = ArraySource({"image": np.full((1, 16, 16, 1), 128, np.uint8)})
    assert TASK.baseline(source, source)["jpeg90_psnr"] == np.inf


# Rejected settings and data


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"model": Autoencoder()}, "must be a codec such as 'hyperprior_codec'; got Autoencoder"),
        ({"precision": "bf16"}, "compression requires precision='f32'; got 'bf16'"),
        ({"lambdas": (0.01,)}, r"task.lambdas must be 2 positive numbers .* got \(0.01,\)"),
        ({"lambdas": ()}, r"task.lambdas must be 2 positive numbers .* got \(\)"),
        ({"lambdas": (0.02, 0.01)}, "task.lambdas must be 2 positive numbers in ascending order"),
        ({"lambdas": (0.0, 0.01)}, "task.lambdas must be 2 positive numbers in ascending order"),
        ({"crop": 0}, "task.crop must be at least 1; got 0"),
        ({"crop": 24}, "task.crop must be a multiple of 16 for this model; got 24"),
    ],
)
def test_invalid_settings_are_rejected(fields, message):
    with pytest.raises(InputError, match=message):
        dataclasses.replace(TASK, **fields)


def test_images_with_other_channels_are_rejected():
    color = {"image": jnp.zeros((1, 48, 48, 3), jnp.uint8)}
    with pytest.raises(InputError, match=r"task.model.channels is 1, .* images have 3 channels"):
        TASK.init(jax.random.key(0), color)
