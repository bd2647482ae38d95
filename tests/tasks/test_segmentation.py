"""Segmentation: losses against PyTorch and by hand, independence of devices, exact metrics."""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from deconv_jax.data.sources import ArraySource
from deconv_jax.data.views import IGNORED, AnnotatedView
from deconv_jax.errors import InputError
from deconv_jax.metrics.segmentation import segmentation_scores
from deconv_jax.models import UNet
from deconv_jax.models.layers import Conv
from deconv_jax.models.normalization import Norm
from deconv_jax.tasks import Segmentation
from deconv_jax.tasks.segmentation import cross_entropy, soft_dice
from deconv_jax.training.optimizer import Optimizer

RNG = np.random.default_rng(0)
CLASSES, COUNT, SIDE = 3, 32, 6


class Pixelwise(nn.Module):
    """A convolution with batch norm, and a 1x1 convolution to logits."""

    stride: int = 1
    classes: int = CLASSES

    @nn.compact
    def __call__(self, images, train=False):
        x = nn.relu(Norm(train=train)(Conv(4, use_bias=False)(images)))
        return Conv(self.classes, kernel_size=1, stride=self.stride)(x)


# The class of a pixel follows from its brightness; each image ignores a different fraction of pixels.
IMAGES = RNG.integers(0, 256, (COUNT, SIDE, SIDE, 1)).astype(np.uint8)
SEGMENTS = (IMAGES[..., 0] // 86).astype(np.uint8)
SEGMENTS[RNG.random(SEGMENTS.shape) < RNG.random((COUNT, 1, 1)) * 0.8] = IGNORED
DATA = {"image": IMAGES, "segments": SEGMENTS}

# Plain SGD; tests/training/test_parallel.py explains why.
TASK = Segmentation(
    Pixelwise(),
    Optimizer(name="sgd", learning_rate=0.5),
    view=AnnotatedView(crop=4, dihedral=True, brightness=0.1),
    class_names=("dark", "gray", "bright"),
    class_weights=(1.0, 2.0, 0.5),
    dice=0.7,
)


@functools.cache
def initial(task=TASK):
    first = {name: array[:1] for name, array in DATA.items()}
    return jax.device_get(jax.jit(task.init)(jax.random.key(0, impl="rbg"), first))


@pytest.fixture(scope="module")
def trained(run_steps):
    """Return a function that returns state and scalars after some steps."""

    def train(steps=3, task=TASK, count=8, compiler="jit", data=DATA):
        rows = np.random.default_rng(1).integers(0, COUNT, (steps, 16)).astype(np.int32)
        batches = [{"index": i} | {name: a[i] for name, a in data.items()} for i in rows]
        return run_steps(task, initial(task), batches, count=count, compiler=compiler)

    return train


@pytest.fixture(scope="module")
def on_one_device(trained):
    return trained(count=1)


@pytest.fixture(scope="module")
def state(on_one_device):
    return on_one_device[0]


def batches(size, count=10, data=DATA):
    """Yield the first images in batches; the last batch is padded with the next image."""
    for start in range(0, count, size):
        rows = np.minimum(np.arange(start, start + size), count)
        batch = {name: jnp.asarray(array[rows]) for name, array in data.items()}
        mask = jnp.asarray(rows < count, jnp.float32)
        yield batch | {"index": jnp.asarray(rows, jnp.int32), "mask": mask}


def logits_and_segments():
    logits = RNG.normal(size=(3, 4, 5, CLASSES)).astype(np.float32)
    segments = RNG.integers(0, CLASSES, (3, 4, 5)).astype(np.int32)
    segments[RNG.random(segments.shape) < 0.3] = IGNORED
    return logits, segments


@pytest.mark.parametrize("weights", [(), (0.5, 2.0, 0.0)])
def test_cross_entropy_and_gradient_equal_pytorch(weights):
    logits, segments = logits_and_segments()
    theirs = torch.tensor(logits).movedim(-1, 1).requires_grad_()
    expected = torch.nn.functional.cross_entropy(
        theirs,
        torch.tensor(segments, dtype=torch.long),
        weight=torch.tensor(weights) if weights else None,
        ignore_index=IGNORED,
    )
    expected.backward()
    differentiate = jax.jit(jax.value_and_grad(cross_entropy), static_argnums=2)
    value, gradient = differentiate(logits, segments, weights)
    assert value == pytest.approx(expected.item(), rel=1e-5)
    np.testing.assert_allclose(gradient, theirs.grad.movedim(1, -1), atol=1e-6)


def test_soft_dice_by_hand():
    """Two pixels have class 0, one has class 1, one is ignored, and class 2 is absent."""
    probabilities = jnp.array([[[[0.5, 0.5, 0], [1, 0, 0]], [[0.2, 0.6, 0.2], [0, 0, 1]]]])
    segments = jnp.array([[[0, 0], [1, IGNORED]]])
    first = 2 * (0.5 + 1) / (0.5**2 + 1 + 0.2**2 + 2)
    second = 2 * 0.6 / (0.5**2 + 0.6**2 + 1)
    assert soft_dice(probabilities, segments) == pytest.approx((first + second) / 2, rel=1e-6)


def test_soft_dice_is_one_for_perfect_predictions():
    _, segments = logits_and_segments()
    certain = jax.nn.one_hot(jnp.where(segments == IGNORED, 0, segments), CLASSES)
    assert soft_dice(certain, jnp.asarray(segments)) == pytest.approx(1)
    wrong = jnp.roll(certain, 1, axis=-1)
    assert soft_dice(wrong, jnp.asarray(segments)) == 0


@pytest.mark.slow
def test_losses_of_ignored_pixels_are_zero_with_zero_gradients():
    logits, segments = logits_and_segments()
    nothing = jnp.full_like(segments, IGNORED)

    def loss(logits):
        return cross_entropy(logits, nothing) + soft_dice(jax.nn.softmax(logits), nothing)

    value, gradient = jax.value_and_grad(loss)(jnp.asarray(logits))
    assert value == 0
    np.testing.assert_array_equal(gradient, 0)


def test_losses_do_not_depend_on_predictions_at_ignored_pixels():
    logits, segments = logits_and_segments()
    others = np.where(segments[..., None] == IGNORED, 100 * RNG.normal(size=logits.shape), logits)
    for loss in (cross_entropy, lambda x, s: soft_dice(jax.nn.softmax(x), s)):
        both = [loss(jnp.asarray(x, jnp.float32), jnp.asarray(segments)) for x in (logits, others)]
        assert both[0] == both[1]


@pytest.mark.slow
def test_pixels_of_unknown_classes_are_ignored_in_training(trained, on_one_device):
    beyond = np.where(SEGMENTS == IGNORED, 7, SEGMENTS).astype(np.uint8)
    _, expected = on_one_device
    _, scalars = trained(count=1, data=DATA | {"segments": beyond})
    for name in ("loss", "pixel_accuracy"):
        np.testing.assert_allclose(scalars[name], expected[name], rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("compiler", ["jit", "pmap"])
def test_steps_do_not_depend_on_devices_or_compiler(
    assert_trees_equal, trained, on_one_device, compiler
):
    """Devices have different numbers of valid pixels, so the mean of their means would differ."""
    one, one_scalars = on_one_device
    eight, eight_scalars = trained(compiler=compiler)
    assert_trees_equal(eight, one, relative=1e-4)
    assert_trees_equal(eight_scalars, one_scalars, relative=1e-4)


@pytest.mark.slow
def test_evaluation_is_exact_for_any_batch_size(state):
    measured = TASK.evaluate(state, batches(10))
    for size in (3, 16):
        assert TASK.evaluate(state, batches(size)) == pytest.approx(measured, rel=1e-5)
    images = jnp.asarray(IMAGES[:10] / 255, jnp.float32)
    logits = np.asarray(jax.jit(TASK.model.apply)(state.inference_variables(), images))
    truth, prediction = SEGMENTS[:10], logits.argmax(-1)
    known = truth != IGNORED
    confusion = np.zeros((CLASSES, CLASSES))
    np.add.at(confusion, (truth[known], prediction[known]), 1)
    expected = segmentation_scores(confusion)
    nats = torch.nn.functional.cross_entropy(
        torch.tensor(logits).movedim(-1, 1),
        torch.tensor(truth, dtype=torch.long),
        ignore_index=IGNORED,
    )
    assert measured["pixel_accuracy"] == pytest.approx(np.mean((truth == prediction)[known]))
    assert measured["miou"] == pytest.approx(expected.miou)
    assert measured["dice"] == pytest.approx(expected.mean_dice)
    assert measured["cross_entropy"] == pytest.approx(nats.item(), rel=1e-5)
    names = dict(zip(("iou_dark", "iou_gray", "iou_bright"), expected.iou, strict=True))
    assert {k: v for k, v in measured.items() if k.startswith("iou_")} == pytest.approx(names)


@pytest.mark.slow
def test_training_learns_classes_from_brightness(trained, state):
    task = dataclasses.replace(TASK, view=AnnotatedView(), optimizer=Optimizer(learning_rate=0.03))
    trained_state, scalars = trained(40, task, count=1)
    assert scalars["loss"][-1] < 0.5 * scalars["loss"][0]
    before, after = (task.evaluate(s, batches(10)) for s in (state, trained_state))
    assert after["pixel_accuracy"] > max(0.8, before["pixel_accuracy"])


def test_baseline_predicts_the_most_frequent_class():
    train = ArraySource({"image": IMAGES[:4], "segments": np.full((4, SIDE, SIDE), 2, np.uint8)})
    test = ArraySource({"image": IMAGES[:10], "segments": SEGMENTS[:10]})
    measured = TASK.baseline(train, test)
    counts = np.bincount(SEGMENTS[:10][SEGMENTS[:10] != IGNORED], minlength=CLASSES)
    share = counts[2] / counts.sum()
    assert measured["majority_pixel_accuracy"] == pytest.approx(share)
    assert measured["majority_miou"] == pytest.approx(share / CLASSES)


def test_predictions_are_probabilities_of_each_pixel(state):
    images = jnp.asarray(IMAGES[:2] / 255, jnp.float32)
    probabilities = TASK.predict(state.inference_variables(), images)["probabilities"]
    assert probabilities.shape == (2, SIDE, SIDE, CLASSES)
    np.testing.assert_allclose(probabilities.sum(-1), 1, rtol=1e-5)


def test_pictures_have_three_rows(state):
    picture = TASK.pictures(state, next(batches(2)))["segments"]
    assert picture.height > 3 * SIDE


def test_only_the_background_class_is_not_tinted(state):
    def picture(names):
        task = dataclasses.replace(TASK, class_names=names)
        return np.asarray(task.pictures(state, next(batches(2)))["segments"])

    first = picture(("background", "gray", "bright"))
    last, none = picture(("dark", "gray", "background")), picture(("dark", "gray", "bright"))
    assert (first != none).any()
    assert (last != none).any()
    assert (first != last).any()


@pytest.mark.slow
def test_invalid_settings_and_data_are_rejected(state):
    def assert_rejected(words, data=DATA, **fields):
        first = {name: array[:1] for name, array in data.items()}
        with pytest.raises(InputError, match=words):
            dataclasses.replace(TASK, view=AnnotatedView(), **fields).init(jax.random.key(0), first)

    assert_rejected(r"requires images with segments; .* data with \['image'", {"image": IMAGES})
    unet = UNet(channels=CLASSES, features=(2, 2, 2), residual=False)
    assert_rejected("6x6 pixels do not fit this UNet: .* multiples of 4", model=unet)
    assert_rejected(
        "task.class_names must have one entry per class, 3, or none; got 2", class_names=("a", "b")
    )
    assert_rejected(
        "task.class_weights must have one entry per class, 3, or none; got 1", class_weights=(1.0,)
    )
    assert_rejected(
        r"\(1, 6, 6\) for these images; Pixelwise returns \(1, 3, 3\)", model=Pixelwise(2)
    )
    wide = {"class_names": (), "class_weights": ()}
    assert_rejected(
        "task.model.num_classes must be at most 255; got 256",
        model=Pixelwise(classes=256),
        **wide,
    )
    with pytest.raises(InputError, match=r"task.dice"):
        dataclasses.replace(TASK, dice=-1.0)
    with pytest.raises(InputError, match="class_weights"):
        dataclasses.replace(TASK, class_weights=(1.0, -2.0, 1.0))
    beyond = DATA | {"segments": np.full_like(SEGMENTS, 7)}
    with pytest.raises(InputError, match="classes above 2, the model's last"):
        TASK.evaluate(state, batches(5, data=beyond))
    nothing = DATA | {"segments": np.full_like(SEGMENTS, IGNORED)}
    with pytest.raises(InputError, match="all were ignored"):
        TASK.evaluate(state, batches(5, data=nothing))
