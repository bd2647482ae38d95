"""Detection: independence of devices, exact evaluation over a split, and learning."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deconv_jax.data.pipeline import evaluation_batches
from deconv_jax.data.sources import ArraySource
from deconv_jax.data.views import AnnotatedView
from deconv_jax.errors import InputError
from deconv_jax.metrics.detection import average_precision
from deconv_jax.models import CenterNet, UNet
from deconv_jax.tasks import Detection
from deconv_jax.tasks.centernet_targets import center_losses, center_targets
from deconv_jax.training.optimizer import Optimizer

COUNT, SIDE, MOST = 16, 32, 3
TASK = Detection(
    CenterNet(num_classes=2, features=(8, 16), blocks=0, output_stride=2, head_features=8),
    Optimizer(name="sgd", learning_rate=0.01),
    class_names=("dark", "bright"),
    max_detections=8,
)


def scenes(seed=0):
    """Return images of one to three rectangles on gray: dark ones of class 0, bright ones of class 1."""
    random = np.random.default_rng(seed)
    image = np.full((COUNT, SIDE, SIDE, 1), 120, np.uint8)
    boxes = np.zeros((COUNT, MOST, 4), np.float32)
    box_class = np.full((COUNT, MOST), -1, np.int32)
    for number in range(COUNT):
        for row, quarter in enumerate(random.permutation(4)[: 1 + number % MOST]):
            sides = random.integers(6, 14, 2)
            corner = 16 * np.array(divmod(quarter, 2)) + random.integers(1, 16 - sides)
            (top, left), (bottom, right) = corner, corner + sides
            kind = random.integers(2)
            image[number, top:bottom, left:right] = (20, 240)[kind]
            boxes[number, row] = top, left, bottom, right
            box_class[number, row] = kind
    return {"image": image, "boxes": boxes, "box_class": box_class}


ARRAYS = scenes()


def batch_of(rows=slice(None), **others):
    index = np.arange(COUNT, dtype=np.int32)
    arrays = {k: v[rows] for k, v in (ARRAYS | {"index": index}).items()} | others
    return {k: jnp.asarray(v) for k, v in arrays.items()} | {
        "mask": jnp.ones(len(arrays["image"]), jnp.float32)
    }


@pytest.fixture(scope="module")
def untrained():
    return jax.jit(TASK.init)(jax.random.key(0, impl="rbg"), batch_of(slice(1)))


@pytest.fixture(scope="module")
def state(untrained):
    """Return a state trained for a few steps, so that there are detections."""
    task = dataclasses.replace(TASK, optimizer=Optimizer(learning_rate=2e-2))
    batch = batch_of()
    moments = jax.jit(task.optimizer.transform().init)(untrained.params)
    state, step = untrained.replace(opt_state=moments), jax.jit(task.train_step)
    for _ in range(60):
        state, scalars = step(state, batch)
    assert np.isfinite(scalars["loss"])
    # Restore the optimizer state that fits TASK.
    return state.replace(opt_state=untrained.opt_state)


# Training


@pytest.mark.slow
def test_steps_do_not_depend_on_devices_or_compiler(assert_trees_equal, run_steps, untrained):
    """Each device has one image, so the devices have different numbers of objects."""
    view = AnnotatedView(flip=True, scale=(0.8, 1.2), brightness=0.1)
    task = dataclasses.replace(TASK, view=view)
    rows = np.random.default_rng(1).integers(0, COUNT, (2, 8)).astype(np.int32)
    batches = [{"index": i} | {k: v[i] for k, v in ARRAYS.items()} for i in rows]
    one, one_scalars = run_steps(task, untrained, batches, count=1)
    for compiler in ("jit", "pmap"):
        other, scalars = run_steps(task, untrained, batches, compiler=compiler)
        assert_trees_equal(other, one, relative=1e-4)
        assert_trees_equal(scalars, one_scalars, relative=1e-4)


@pytest.mark.slow
def test_loss_is_the_weighted_sum_of_its_terms(state):
    task = dataclasses.replace(TASK, size_weight=0.3, offset_weight=2.0, gaussian_iou=0.5)
    batch = batch_of()
    scalars = jax.device_get(jax.jit(task.train_step)(state, batch)[1])
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    run = jax.jit(lambda v, x: task.model.apply(v, x, train=True, mutable=["batch_stats"])[0])
    maps = run(variables, batch["image"] / 255.0)

    @jax.jit
    def losses_of(maps, boxes, box_class):
        targets = center_targets(boxes, box_class, shape=(16, 16, 2), stride=2, gaussian_iou=0.5)
        return center_losses(maps, targets)

    losses = losses_of(maps, batch["boxes"], batch["box_class"])
    for name, loss in losses.items():
        np.testing.assert_allclose(scalars[name], loss, rtol=1e-4)
    total = losses["heat_loss"] + 0.3 * losses["size_loss"] + 2.0 * losses["offset_loss"]
    np.testing.assert_allclose(scalars["loss"], total, rtol=1e-4)


def test_training_learns_boxes_and_classes(state, untrained):
    measured = TASK.evaluate(state, [batch_of()])
    assert measured["ap50"] > 0.9
    assert measured["ap"] > 0.5
    assert TASK.evaluate(untrained, [batch_of()])["ap50"] < 0.2


# Evaluation


@pytest.mark.slow
def test_evaluation_does_not_depend_on_batching(state):
    """Detections are ranked over all images, so a mean over batches would differ."""
    source = ArraySource(ARRAYS)
    whole = TASK.evaluate(state, [batch_of()])
    for batch_size in (5, 8):
        batches = [
            {k: jnp.asarray(v) for k, v in batch.items()}
            for batch in evaluation_batches(source, batch_size=batch_size)
        ]
        assert TASK.evaluate(state, batches) == pytest.approx(whole, abs=1e-6)
    halves = [TASK.evaluate(state, [batch_of(slice(*p))]) for p in ((0, 8), (8, 16))]
    assert np.mean([h["ap"] for h in halves]) != pytest.approx(whole["ap"], abs=1e-6)


def test_evaluation_uses_the_detections_of_predict(state):
    batch = batch_of()
    found = jax.device_get(TASK.predict(state.inference_variables(), batch["image"] / 255.0))
    direct = average_precision(
        **found, true_boxes=ARRAYS["boxes"], true_classes=ARRAYS["box_class"]
    )
    assert TASK.evaluate(state, [batch]) == pytest.approx(direct, abs=1e-6)


def test_detections_in_padding_are_dropped(state):
    """Boxes are clipped to the valid region; boxes centered outside it are dropped."""
    size = np.tile(np.array([[SIDE, 12]], np.int32), (COUNT, 1))
    batch = batch_of(size=size)
    _, clipped = jax.device_get(TASK._view_and_detections(state, batch))
    plain = jax.device_get(TASK.predict(state.inference_variables(), batch["image"] / 255.0))
    edges = np.array([SIDE, 12] * 2)
    expected = np.minimum(plain["boxes"], edges)
    np.testing.assert_allclose(clipped.boxes, expected, atol=1e-5)
    outside = (plain["boxes"][..., 1] + plain["boxes"][..., 3]) / 2 >= 12
    assert outside.any()
    assert not outside.all()
    # Some of them reach into the valid region.
    assert (outside & (expected[..., 1] < expected[..., 3])).any()
    assert np.all(clipped.classes[outside] == -1)
    assert not clipped.scores[outside].any()
    there = ~outside & (plain["classes"] >= 0)
    np.testing.assert_allclose(clipped.scores[there], plain["scores"][there], atol=1e-6)


def test_predictions_are_sorted_by_score_and_inside_the_image(state):
    images = batch_of(slice(4))["image"] / 255.0
    found = jax.device_get(TASK.predict(state.inference_variables(), images))
    boxes, scores, classes = (found[name] for name in ("boxes", "scores", "classes"))
    assert boxes.shape == (4, 8, 4)
    assert scores.shape == classes.shape == (4, 8)
    assert classes.dtype == np.int32
    assert np.all(np.diff(scores, axis=1) <= 0)
    assert np.all((scores >= 0) & (scores <= 1))
    assert set(np.unique(classes)) <= {-1, 0, 1}
    assert np.all((classes >= 0) | (scores == 0))
    assert np.all((boxes >= 0) & (boxes <= SIDE))
    assert np.all(boxes[..., 2:] >= boxes[..., :2])


def test_pictures_show_true_and_detected_boxes(state):
    batch = batch_of(slice(2))
    picture = np.asarray(TASK.pictures(state, batch)["detections"])
    none = batch | {"box_class": jnp.full((2, MOST), -1)}
    other = np.asarray(TASK.pictures(state, none)["detections"])
    assert picture.shape == other.shape
    different = (picture != other).any(axis=(1, 2))
    assert different[: len(different) // 2].any()
    assert not different[len(different) // 2 :].any()


# Rejected settings and data


def test_split_without_objects_or_examples_is_rejected(state):
    with pytest.raises(InputError, match="requires at least one object; got 0"):
        TASK.evaluate(state, [batch_of(box_class=np.full((COUNT, MOST), -1, np.int32))])
    with pytest.raises(InputError, match="boxes of classes above 1, the model's last"):
        TASK.evaluate(state, [batch_of(box_class=np.full((COUNT, MOST), 2, np.int32))])
    with pytest.raises(InputError, match="has no examples"):
        TASK.evaluate(state, [])


def test_data_without_boxes_is_rejected():
    batch = {"image": jnp.zeros((1, 8, 8, 1), jnp.uint8), "index": jnp.zeros(1, jnp.int32)}
    with pytest.raises(InputError, match=r"requires images with boxes; .* \['image', 'index'\]"):
        TASK.init(jax.random.key(0), batch)


def test_images_that_do_not_fit_the_model_are_rejected_at_initialization():
    """This includes crops, used in training only, and whole images, used in evaluation only."""
    crops = dataclasses.replace(TASK, view=AnnotatedView(crop=18))
    with pytest.raises(InputError, match="18x18 pixels do not fit this CenterNet"):
        crops.init(jax.random.key(0), batch_of(slice(1)))
    odd = batch_of(slice(1), image=np.zeros((1, 30, 30, 1), np.uint8))
    with pytest.raises(InputError, match="30x30 pixels do not fit this CenterNet"):
        dataclasses.replace(TASK, view=AnnotatedView(crop=16)).init(jax.random.key(0), odd)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"model": UNet(channels=2)}, "must be a detector such as 'centernet'; got UNet"),
        ({"class_names": ("one",)}, "must name all 2 classes of task.model, or none; got 1"),
        ({"max_detections": 0}, "task.max_detections"),
        ({"size_weight": -1.0}, "task.size_weight"),
        ({"offset_weight": -0.1}, "task.offset_weight"),
        ({"gaussian_iou": 1.0}, r"task.gaussian_iou must be in \(0, 1\); got 1.0"),
    ],
)
def test_invalid_settings_are_rejected(fields, message):
    with pytest.raises(InputError, match=message):
        dataclasses.replace(TASK, **fields)
