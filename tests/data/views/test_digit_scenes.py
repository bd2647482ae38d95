"""Scenes of digits: images match their masks and boxes, and depend only on keys."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deconv_jax.data.source_configs import Digits, Stacked
from deconv_jax.data.views import DigitScenes, evaluation_view, training_view
from deconv_jax.errors import InputError

COUNT = 24
VIEW = DigitScenes(size=64, min_height=24, max_height=36)


@pytest.fixture(scope="module")
def batch(digits_dir):
    """A batch of stacked digits."""
    places = np.arange(COUNT, dtype=np.int32)
    return Stacked(Digits()).open("train", digits_dir).gather(places) | {"index": places}


@pytest.fixture(scope="module")
def draw():
    return jax.jit(lambda batch, step: training_view(VIEW, batch, 0, step))


@pytest.fixture(scope="module")
def scenes(batch, draw):
    return jax.device_get(draw(batch, 0))


def shown(scenes):
    """Yield each visible digit: scene, channel, class and integer box."""
    for scene, channel in zip(*np.nonzero(scenes["box_class"] >= 0), strict=True):
        box = scenes["boxes"][scene, channel]
        np.testing.assert_array_equal(box, box.astype(int))
        yield scene, channel, scenes["box_class"][scene, channel], box.astype(int)


@pytest.mark.slow
def test_shapes_and_dtypes(scenes):
    described = {name: (array.shape, array.dtype.name) for name, array in scenes.items()}
    assert described == {
        "image": ((COUNT, 64, 64, 1), "float32"),
        "segments": ((COUNT, 64, 64), "int32"),
        "boxes": ((COUNT, 3, 4), "float32"),
        "box_class": ((COUNT, 3), "int32"),
    }
    assert scenes["image"].min() >= 0
    assert scenes["image"].max() <= 1


def test_classes_are_the_digits_of_the_label(batch, scenes):
    spelt = np.array([[int(digit) for digit in f"{label:03d}"] for label in batch["label"]])
    found = scenes["box_class"]
    np.testing.assert_array_equal(found[found >= 0], spelt[found >= 0])
    assert (found[:, 0] >= 0).all()  # The first always has a place.
    assert (found < 0).any()  # With three of this size, some have no place,
    assert (found[:, 2] >= 0).any()  # but not always.
    assert not scenes["boxes"][found < 0].any()


def test_boxes_are_the_bounds_of_the_masks(scenes):
    left = np.copy(scenes["segments"])
    for scene, _, number, (top, lo, bottom, hi) in shown(scenes):
        inside = left[scene, top:bottom, lo:hi]
        assert set(np.unique(inside)) == {0, 1 + number}
        mask = inside > 0
        for edge in (mask[0], mask[-1], mask[:, 0], mask[:, -1]):
            assert edge.any()
        inside[:] = 0
    assert not left.any()


def test_boxes_are_apart_and_inside_the_canvas(scenes):
    count = np.zeros((COUNT, 68, 68), int)
    for scene, _, _, (top, lo, bottom, hi) in shown(scenes):
        assert min(top, lo) >= 0
        assert max(bottom, hi) <= 64
        # A pixel more on each side: there are two free ones between boxes.
        count[scene, 1 + top : 3 + bottom, 1 + lo : 3 + hi] += 1
    assert count.max() == 1


@pytest.mark.slow
def test_digits_are_brighter_than_the_background_with_narrow_edges(batch):
    """Without noise, opaque pixels exceed the background's maximum by `contrast`, and few pixels lie between."""
    view = DigitScenes(size=96, noise=0.0)
    scenes = jax.device_get(jax.jit(lambda b: evaluation_view(view, b))(batch))
    for image, segments in zip(scenes["image"][..., 0], scenes["segments"], strict=True):
        grown = jax.lax.reduce_window(
            1.0 * (segments > 0), 0.0, jax.lax.max, (7, 7), (1, 1), "SAME"
        )
        behind = image[np.asarray(grown) == 0].max()
        assert behind <= 0.5
        digits = image[segments > 0]
        # Half opaque is the least of a mask.
        assert digits.min() > behind * 0.5
        assert np.mean(digits >= behind + view.contrast) > 0.7


@pytest.mark.slow
def test_mask_is_the_enlarged_ink_thresholded_at_half():
    """A digit without rotation on a canvas of its size, compared with interpolation in NumPy."""
    random = np.random.default_rng(0)
    ink = np.zeros((8, 8))
    ink[1:-1, 1:-1] = random.random((6, 6)).round(2)
    ink = np.round(ink * 255)
    batch = {
        "image": jnp.array(ink, jnp.uint8)[None, ..., None],
        "digits": jnp.array([[7]]),
        "index": jnp.array([0]),
    }
    side = 24.0
    view = DigitScenes(size=40, min_height=side, max_height=side, turn=0.0, noise=0.0)
    scene = jax.device_get(jax.jit(lambda batch: evaluation_view(view, batch))(batch))
    mask = scene["segments"][0] == 8
    top, left, bottom, right = scene["boxes"][0, 0].astype(int)

    def enlarged(width):
        rows, columns = ((np.arange(30) + 0.5 - 15) * 8 / extent + 3.5 for extent in (side, width))
        down = np.maximum(0, 1 - np.abs(rows[:, None] - np.arange(8)))
        across = np.maximum(0, 1 - np.abs(columns[:, None] - np.arange(8)))
        return down @ (ink / 255) @ across.T

    def cut(width):
        full = enlarged(width) >= 0.5
        rows, columns = np.nonzero(full.any(1))[0], np.nonzero(full.any(0))[0]
        return full[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]

    found = mask[top:bottom, left:right]
    # The width is drawn between 0.8 and 1 of the height: some width must give exactly this mask.
    made = [cut(width) for width in np.linspace(0.8 * side, side, 2001)]
    assert any(m.shape == found.shape and (m == found).all() for m in made)


def test_scene_depends_only_on_its_key(batch, draw, scenes):
    """Neither the position in the batch nor the other examples matter."""
    order = np.random.default_rng(1).permutation(COUNT)
    again = jax.device_get(draw({name: array[order] for name, array in batch.items()}, 0))
    for name, array in scenes.items():
        np.testing.assert_array_equal(again[name], array[order])
    other = jax.device_get(draw(batch, 1))
    assert (other["boxes"] != scenes["boxes"]).any()


@pytest.mark.slow
def test_evaluation_scenes_are_equal_with_and_without_jit(batch):
    """With one digit per scene, because the others repeat the computation."""
    one = {
        "image": jnp.asarray(batch["image"][:2, ..., :1]),
        "digits": jnp.asarray(batch["digits"][:2, :1]),
        "index": jnp.arange(2),
    }
    seen = jax.device_get(jax.jit(lambda one: evaluation_view(VIEW, one))(one))
    for name, array in jax.device_get(evaluation_view(VIEW, one)).items():
        np.testing.assert_allclose(seen[name], array, atol=1e-5)


@pytest.mark.slow
def test_blank_image_has_no_digit():
    batch = {
        "image": jnp.zeros((1, 8, 8, 1), jnp.uint8),
        "digits": jnp.array([[3]]),
        "index": jnp.array([0]),
    }
    view = DigitScenes(size=24, min_height=8, max_height=12)
    scene = jax.jit(lambda batch: evaluation_view(view, batch))(batch)
    assert (scene["box_class"] == -1).all()
    assert not scene["segments"].any()
    assert not scene["boxes"].any()


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"size": 0}, "size of digit_scenes"),
        ({"min_height": 50, "max_height": 40}, "0 < min_height <= max_height"),
        ({"turn": 60}, "0 to 45 degrees"),
        ({"contrast": 0.6}, "contrast of digit_scenes"),
        ({"noise": -0.1}, "noise of digit_scenes"),
        ({"size": 64}, "up to 65 pixels high, more than the canvas of 64"),
    ],
)
def test_invalid_fields_are_errors(fields, words):
    with pytest.raises(InputError, match=words):
        DigitScenes(**fields)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"digits": None}, "name='stacked'"),
        ({"image": jnp.zeros((1, 8, 8, 10))}, "one class per channel; got 3 for 10"),
    ],
)
def test_batches_without_the_class_of_each_channel_are_errors(change, words):
    batch = {
        "image": jnp.zeros((1, 8, 8, 3)),
        "digits": jnp.zeros((1, 3), int),
        "index": jnp.zeros(1, int),
    }
    batch = {name: array for name, array in (batch | change).items() if array is not None}
    with pytest.raises(InputError, match=words):
        evaluation_view(DigitScenes(), batch)
