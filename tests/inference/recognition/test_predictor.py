"""Networks applied to images of any size: stubs return what they see, mapped back to the image."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deconv_jax.data.annotations import Example, resize_example
from deconv_jax.data.augment import center_resize
from deconv_jax.errors import InputError
from deconv_jax.inference.recognition import predictor
from deconv_jax.inference.recognition.predictions import (
    ClassProbabilities,
    Detections,
    SegmentationMap,
)
from deconv_jax.inference.recognition.predictor import Predictor, center_resize_pixels

NAMES = ("background", "cat", "dog", "elk", "fox", "gnu", "hen")


def random_pixels(*shape, seed=0):
    return np.random.default_rng((seed, *shape)).integers(0, 256, shape).astype(np.uint8)


def make_predictor(function, **fields):
    """Return a predictor whose network is a function of images."""
    return Predictor(lambda _, images: function(images), {}, "gray", NAMES, **fields)


def detect(boxes, scores=None, classes=None):
    """Return a detector with the same output for every image."""
    count = len(boxes)
    found = {
        "boxes": jnp.asarray(boxes, jnp.float32)[None],
        "scores": jnp.asarray(np.linspace(0.9, 0.5, count) if scores is None else scores)[None],
        "classes": jnp.asarray(np.zeros(count, int) if classes is None else classes)[None],
    }
    return lambda _: found


def segment_bright(images):
    """Segment pixels brighter than half as class 1."""
    images = jnp.mean(images, axis=-1, keepdims=True)
    return {"probabilities": jnp.concatenate([1 - images, images], axis=-1)}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shape", "size"), [((24, 31, 1), (7, 9)), ((13, 9, 3), (28, 28)), ((37, 20, 1), (8, 12))]
)
def test_center_resize_equals_the_augmentation(shape, size):
    pixels = random_pixels(*shape)
    expected = center_resize(jnp.asarray(pixels[None] / np.float32(255)), size)[0]
    np.testing.assert_allclose(center_resize_pixels(pixels, size), expected, atol=1e-5)


def test_center_resize_to_the_same_size_is_the_identity():
    pixels = random_pixels(9, 7, 3)
    np.testing.assert_array_equal(center_resize_pixels(pixels, (9, 7)), pixels / np.float32(255))


def test_classifier_input_is_the_resized_center():
    flat = make_predictor(lambda x: {"probabilities": x.reshape(len(x), -1)}, size=(3, 4))
    pixels = random_pixels(50, 40, 1)
    found = flat(pixels)
    assert isinstance(found, ClassProbabilities)
    np.testing.assert_array_equal(found.probabilities, center_resize_pixels(pixels, (3, 4)).ravel())


def test_canvas_classifier_input_is_zero_padded():
    flat = make_predictor(lambda x: {"probabilities": x.reshape(len(x), -1)}, canvas=16)
    pixels = random_pixels(80, 40, 1)
    expected = np.zeros((16, 16, 1), np.float32)
    expected[:, :8] = resize_example(Example(pixels), 16).image / np.float32(255)
    np.testing.assert_array_equal(flat(pixels).probabilities, expected.ravel())


@pytest.mark.parametrize("shape", [(37, 50), (64, 32), (1, 3), (33, 96)])
def test_segmentation_has_the_size_of_the_image(shape):
    pixels = random_pixels(*shape, 1)
    found = make_predictor(segment_bright, multiple=8)(pixels)
    assert isinstance(found, SegmentationMap)
    np.testing.assert_array_equal(found.classes, pixels[..., 0] > 127)


def test_images_are_padded_symmetrically_to_few_sizes():
    """A network that flips its input vertically reveals the padding."""
    shapes = []

    def flipped(images):
        shapes.append(images.shape)
        return segment_bright(images[:, ::-1])

    network = make_predictor(flipped, multiple=24)
    pixels = random_pixels(70, 80, 1)
    found = network(pixels).classes
    mirrored = np.pad(pixels[..., 0], ((0, 26), (0, 0)), mode="symmetric")
    np.testing.assert_array_equal(found, (mirrored > 127)[::-1][:70])
    for shape in ((96, 96, 1), (90, 11, 1), (65, 96, 1)):
        network(random_pixels(*shape))
    # All images use one program, with sides of lcm(24, 32), which is traced once.
    assert shapes == [(1, 96, 96, 1)]


def test_canvas_segmentation_is_resized_to_the_image():
    pixels = np.zeros((96, 64, 1), np.uint8)
    pixels[:, 32:] = 255
    pixels[48:] = 255 - pixels[48:]
    found = make_predictor(segment_bright, canvas=24, multiple=8)(pixels).classes
    np.testing.assert_array_equal(found, pixels[..., 0] > 127)


def test_probabilities_are_interpolated_rather_than_classes():
    """The border lies where the interpolated brightness is half."""
    pixels = np.array([[224, 51]], np.uint8).repeat(2, axis=0)[..., None]

    def small(images):
        return {"probabilities": segment_bright(images)["probabilities"][:, :2, :2]}

    network = make_predictor(small, canvas=2)
    wide = pixels.repeat(16, axis=0).repeat(16, axis=1)
    found = network(wide).classes
    # Pixel x of 32 is at position (x + 0.5) / 16 - 0.5 of the two.
    place = np.clip((np.arange(32) + 0.5) / 16 - 0.5, 0, 1)
    values = (1 - place) * 224 / 255 + place * 51 / 255
    np.testing.assert_array_equal(found, np.broadcast_to(values > 0.5, (32, 32)))
    assert 16 < found[0].sum() < 20


@pytest.mark.parametrize("shape", [(30, 60), (31, 60), (97, 40), (10, 20)])
def test_boxes_are_mapped_from_the_canvas_to_the_image(shape):
    """Random boxes and that of the whole image round trip."""
    height, width = shape
    corners = np.random.default_rng(0).random((2, 6, 2)) * shape
    boxes = np.concatenate([corners.min(axis=0), corners.max(axis=0)], axis=1)
    boxes = np.concatenate([boxes, [[0, 0, height, width]]])
    pixels = random_pixels(height, width, 1)
    canvas = resize_example(Example(pixels, boxes=boxes.astype(np.float32)), 20)
    found = make_predictor(detect(canvas.boxes), canvas=20)(pixels)
    assert isinstance(found, Detections)
    np.testing.assert_allclose(found.boxes, boxes, atol=1e-4)


def test_boxes_of_a_worked_example():
    """30 x 60 pixels become 10 x 20 on a canvas of 20, so boxes are scaled by 3."""
    found = make_predictor(detect([[1, 2, 5, 6.5]]), canvas=20)(random_pixels(30, 60, 1))
    np.testing.assert_allclose(found.boxes, [[3, 6, 15, 19.5]], atol=1e-5)
    found = make_predictor(detect([[1, 2, 5, 6.5]]), multiple=4)(random_pixels(30, 60, 1))
    np.testing.assert_allclose(found.boxes, [[1, 2, 5, 6.5]], atol=1e-5)


@pytest.mark.parametrize("canvas", [None, 60])
def test_boxes_centered_outside_are_dropped_and_others_clipped(canvas):
    """The image has 30 x 60 pixels; two of the five boxes are centered in it."""
    boxes = [[20, 50, 38, 66], [20, 50, 41, 66], [-4, 5, 6, 9], [-7, 5, 6, 9], [2, 50, 9, 71]]
    found = make_predictor(detect(boxes), canvas=canvas, multiple=32)(random_pixels(30, 60, 1))
    np.testing.assert_allclose(found.boxes, [[20, 50, 30, 60], [0, 5, 6, 9]], atol=1e-5)
    np.testing.assert_allclose(found.scores, [0.9, 0.7], atol=1e-6)


def test_boxes_without_a_class_or_below_the_threshold_are_dropped():
    boxes = np.tile([[1, 1, 3, 3]], (5, 1)) + np.arange(5)[:, None]
    scores, classes = [0.9, 0.8, 0.5, 0.4, 0.0], [2, -1, 6, 2, -1]
    found = make_predictor(detect(boxes, scores, classes), threshold=0.5)(random_pixels(32, 32, 1))
    np.testing.assert_array_equal(found.boxes, boxes[[0, 2]])
    np.testing.assert_array_equal(found.classes, [2, 6])
    assert found.summary(NAMES) == "1 x dog, 1 x hen"
    nothing = make_predictor(detect(boxes, scores, classes), threshold=0.95)(
        random_pixels(32, 32, 1)
    )
    assert nothing.boxes.shape == (0, 4)
    assert nothing.summary(NAMES) == "nothing"
    assert nothing.coco_annotations() == []
    assert nothing.draw(random_pixels(32, 32, 1), NAMES).shape == (256, 256, 3)


def test_non_finite_output_is_an_error():
    network = make_predictor(detect([[0.0, 0.0, 2.0, 2.0], [np.nan] * 4]))
    with pytest.raises(InputError, match="not finite"):
        network(random_pixels(8, 8, 1))


def test_too_little_memory_is_an_error(monkeypatch):
    monkeypatch.setattr(predictor, "free_memory", lambda: 100)
    with pytest.raises(InputError, match=r"GB of memory for 64 x 32 pixels, but .* are free"):
        make_predictor(segment_bright)(random_pixels(20, 50, 1))


def test_variables_are_arguments_of_the_program():
    """The same program gives another output for other variables."""
    network = Predictor(
        lambda variables, x: {"probabilities": variables["w"] * jnp.mean(x, (1, 2))},
        {"w": np.array([[1.0, 2.0]], np.float32)},
        "gray",
        NAMES[:2],
        size=(2, 2),
    )
    pixels = np.full((4, 4, 1), 51, np.uint8)
    np.testing.assert_allclose(network(pixels).probabilities, [0.2, 0.4], rtol=1e-6)
    other = dataclasses.replace(network, variables=jax.tree.map(lambda w: 2 * w, network.variables))
    np.testing.assert_allclose(other(pixels).probabilities, [0.4, 0.8], rtol=1e-6)
