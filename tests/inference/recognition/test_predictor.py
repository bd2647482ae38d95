"""Networks at work on images of any size: stubs say what they see, and it comes back in its place."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pycocotools.mask
import pytest
from pycocotools.coco import COCO

from deconv_jax.data.annotations import Example, resize_example
from deconv_jax.data.augment import center_resize
from deconv_jax.errors import InputError
from deconv_jax.inference.recognition import predictor as predict
from deconv_jax.inference.recognition.coco import PredictedImage, coco_dict
from deconv_jax.inference.recognition.predictor import (
    ClassProbabilities,
    Detections,
    Predictor,
    SegmentationMap,
    center_resize_pixels,
)
from deconv_jax.io import write_json
from deconv_jax.viz.overlays import class_color, with_segments
from deconv_jax.viz.pixels import rgb_pixels

NAMES = ("background", "cat", "dog", "elk", "fox", "gnu", "hen")


def pixels_of(*shape, seed=0):
    return np.random.default_rng((seed, *shape)).integers(0, 256, shape).astype(np.uint8)


def predictor(function, **fields):
    """Of a network that is a function of images alone."""
    return Predictor(lambda _, images: function(images), {}, "gray", NAMES, **fields)


def says(boxes, scores=None, classes=None):
    """A detector that says the same of every image."""
    count = len(boxes)
    found = {
        "boxes": jnp.asarray(boxes, jnp.float32)[None],
        "scores": jnp.asarray(np.linspace(0.9, 0.5, count) if scores is None else scores)[None],
        "classes": jnp.asarray(np.zeros(count, int) if classes is None else classes)[None],
    }
    return lambda _: found


def bright(images):
    """A segmenter: of class 1 what is brighter than half."""
    images = jnp.mean(images, axis=-1, keepdims=True)
    return {"probabilities": jnp.concatenate([1 - images, images], axis=-1)}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shape", "size"), [((24, 31, 1), (7, 9)), ((13, 9, 3), (28, 28)), ((37, 20, 1), (8, 12))]
)
def test_the_middle_is_fitted_as_in_training(shape, size):
    pixels = pixels_of(*shape)
    expected = center_resize(jnp.asarray(pixels[None] / np.float32(255)), size)[0]
    np.testing.assert_allclose(center_resize_pixels(pixels, size), expected, atol=1e-5)


def test_an_image_of_the_size_wanted_is_seen_as_it_is():
    pixels = pixels_of(9, 7, 3)
    np.testing.assert_array_equal(center_resize_pixels(pixels, (9, 7)), pixels / np.float32(255))


def test_a_classifier_sees_the_middle_at_its_size():
    flat = predictor(lambda x: {"probabilities": x.reshape(len(x), -1)}, size=(3, 4))
    pixels = pixels_of(50, 40, 1)
    seen = flat(pixels)
    assert isinstance(seen, ClassProbabilities)
    np.testing.assert_array_equal(seen.probabilities, center_resize_pixels(pixels, (3, 4)).ravel())


def test_a_classifier_of_a_canvas_sees_its_image_at_the_top_left_of_it():
    flat = predictor(lambda x: {"probabilities": x.reshape(len(x), -1)}, canvas=16)
    pixels = pixels_of(80, 40, 1)
    expected = np.zeros((16, 16, 1), np.float32)
    expected[:, :8] = resize_example(Example(pixels), 16).image / np.float32(255)
    np.testing.assert_array_equal(flat(pixels).probabilities, expected.ravel())


@pytest.mark.parametrize("shape", [(37, 50), (64, 32), (1, 3), (33, 96)])
def test_pixels_have_their_classes_in_an_image_of_any_size(shape):
    pixels = pixels_of(*shape, 1)
    found = predictor(bright, multiple=8)(pixels)
    assert isinstance(found, SegmentationMap)
    np.testing.assert_array_equal(found.classes, pixels[..., 0] > 127)


def test_an_image_is_extended_by_mirroring_to_sides_of_which_there_are_few():
    """A network that turns what it sees upside down shows the rows that were added."""
    shapes = []

    def turned(images):
        shapes.append(images.shape)
        return bright(images[:, ::-1])

    network = predictor(turned, multiple=24)
    pixels = pixels_of(70, 80, 1)
    found = network(pixels).classes
    mirrored = np.pad(pixels[..., 0], ((0, 26), (0, 0)), mode="symmetric")
    np.testing.assert_array_equal(found, (mirrored > 127)[::-1][:70])
    for shape in ((96, 96, 1), (90, 11, 1), (65, 96, 1)):
        network(pixels_of(*shape))
    # One program for all: lcm(24, 32) divides the sides, and each is traced but once.
    assert shapes == [(1, 96, 96, 1)]


def test_classes_of_a_canvas_come_back_at_the_images_own_size():
    pixels = np.zeros((96, 64, 1), np.uint8)
    pixels[:, 32:] = 255
    pixels[48:] = 255 - pixels[48:]
    found = predictor(bright, canvas=24, multiple=8)(pixels).classes
    np.testing.assert_array_equal(found, pixels[..., 0] > 127)


def test_probabilities_are_enlarged_and_not_classes():
    """The border of classes lies where the brightness between two pixels is half."""
    pixels = np.array([[224, 51]], np.uint8).repeat(2, axis=0)[..., None]

    def small(images):
        return {"probabilities": bright(images)["probabilities"][:, :2, :2]}

    network = predictor(small, canvas=2)
    wide = pixels.repeat(16, axis=0).repeat(16, axis=1)
    found = network(wide).classes
    # Pixel x of 32 lies at (x + 0.5) / 16 - 0.5 of the two.
    place = np.clip((np.arange(32) + 0.5) / 16 - 0.5, 0, 1)
    values = (1 - place) * 224 / 255 + place * 51 / 255
    np.testing.assert_array_equal(found, np.broadcast_to(values > 0.5, (32, 32)))
    assert 16 < found[0].sum() < 20


@pytest.mark.parametrize("shape", [(30, 60), (31, 60), (97, 40), (10, 20)])
def test_boxes_come_back_from_the_canvas_to_the_whole_image(shape):
    """There and back again, for boxes at both ends and within."""
    height, width = shape
    corners = np.random.default_rng(0).random((2, 6, 2)) * shape
    boxes = np.concatenate([corners.min(axis=0), corners.max(axis=0)], axis=1)
    boxes = np.concatenate([boxes, [[0, 0, height, width]]])
    pixels = pixels_of(height, width, 1)
    canvas = resize_example(Example(pixels, boxes=boxes.astype(np.float32)), 20)
    found = predictor(says(canvas.boxes), canvas=20)(pixels)
    assert isinstance(found, Detections)
    np.testing.assert_allclose(found.boxes, boxes, atol=1e-4)


def test_boxes_of_a_hand_example():
    """30 x 60 pixels on a canvas of 20 are 10 x 20: a third."""
    found = predictor(says([[1, 2, 5, 6.5]]), canvas=20)(pixels_of(30, 60, 1))
    np.testing.assert_allclose(found.boxes, [[3, 6, 15, 19.5]], atol=1e-5)
    found = predictor(says([[1, 2, 5, 6.5]]), multiple=4)(pixels_of(30, 60, 1))
    np.testing.assert_allclose(found.boxes, [[1, 2, 5, 6.5]], atol=1e-5)


@pytest.mark.parametrize("canvas", [None, 60])
def test_what_is_found_beside_the_image_is_dropped_and_boxes_end_at_its_edge(canvas):
    """Of 30 x 60 pixels: a centre is in the image, or it is not."""
    boxes = [[20, 50, 38, 66], [20, 50, 41, 66], [-4, 5, 6, 9], [-7, 5, 6, 9], [2, 50, 9, 71]]
    found = predictor(says(boxes), canvas=canvas, multiple=32)(pixels_of(30, 60, 1))
    np.testing.assert_allclose(found.boxes, [[20, 50, 30, 60], [0, 5, 6, 9]], atol=1e-5)
    np.testing.assert_allclose(found.scores, [0.9, 0.7], atol=1e-6)


def test_objects_have_a_class_and_the_least_score():
    boxes = np.tile([[1, 1, 3, 3]], (5, 1)) + np.arange(5)[:, None]
    scores, classes = [0.9, 0.8, 0.5, 0.4, 0.0], [2, -1, 6, 2, -1]
    found = predictor(says(boxes, scores, classes), threshold=0.5)(pixels_of(32, 32, 1))
    np.testing.assert_array_equal(found.boxes, boxes[[0, 2]])
    np.testing.assert_array_equal(found.classes, [2, 6])
    assert found.summary(NAMES) == "1 x dog, 1 x hen"
    nothing = predictor(says(boxes, scores, classes), threshold=0.95)(pixels_of(32, 32, 1))
    assert nothing.boxes.shape == (0, 4)
    assert nothing.summary(NAMES) == "nothing"
    assert nothing.annotations() == []
    assert nothing.picture(pixels_of(32, 32, 1), NAMES).shape == (256, 256, 3)


def test_an_output_that_is_not_finite_is_an_error():
    network = predictor(says([[0.0, 0.0, 2.0, 2.0], [np.nan] * 4]))
    with pytest.raises(InputError, match="not finite"):
        network(pixels_of(8, 8, 1))


def test_too_little_memory_is_said_before_the_work(monkeypatch):
    monkeypatch.setattr(predict, "free_memory", lambda: 100)
    with pytest.raises(InputError, match=r"GB of memory for 64 x 32 pixels, .* are free"):
        predictor(bright)(pixels_of(20, 50, 1))


def test_the_most_likely_classes_are_told_first():
    found = ClassProbabilities(np.array([0.05, 0.3, 0.02, 0.3, 0.11, 0.12, 0.1], np.float32))
    assert [a["category_id"] for a in found.annotations()] == [1, 3, 5, 4, 6]
    scores = [annotation["score"] for annotation in found.annotations()]
    assert scores == pytest.approx([0.3, 0.3, 0.12, 0.11, 0.1], abs=1e-6)
    assert found.summary(NAMES) == "cat: 0.300"
    pixels = pixels_of(16, 128, 1)
    picture = found.picture(pixels, NAMES)
    doubled = rgb_pixels(pixels).repeat(2, axis=0).repeat(2, axis=1)
    np.testing.assert_array_equal(picture[:32, :256], doubled)
    for number in (1, 3, 5, 4, 6):
        assert (picture[:, 256:] == class_color(number)).all(axis=-1).any()
    assert not (picture[:, 256:] == class_color(0)).all(axis=-1).any()


def test_a_picture_of_segments_is_the_tinted_image_with_a_legend(monkeypatch):
    monkeypatch.setattr(predict, "_BAND", 100)
    pixels = pixels_of(256, 300, 3)
    classes = np.random.default_rng(0).integers(0, 3, (256, 300)).astype(np.uint8)
    picture = SegmentationMap(classes).picture(pixels, NAMES)
    np.testing.assert_array_equal(picture[:256, :300], with_segments(pixels, classes))
    shown = [(picture[:, 300:] == class_color(n)).all(axis=-1).any() for n in range(4)]
    assert shown == [False, True, True, False]
    legend = SegmentationMap(classes).picture(pixels, ("pet", "background", "border"))[:, 300:]
    shown = [(legend == class_color(n)).all(axis=-1).any() for n in range(4)]
    assert shown == [True, False, True, False]
    quarter = np.zeros((256, 4), np.uint8)
    quarter[:128, :2] = 2
    assert SegmentationMap(quarter).summary(NAMES) == "background: 75.0%, dog: 25.0%"
    assert [a["area"] for a in SegmentationMap(quarter).annotations()] == [768, 256]


@pytest.fixture
def coco(tmp_path):
    """What was found, written and read again by COCO's own reader."""

    def read(*predictions):
        sizes = [(40, 30), (20, 50), (7, 9)]
        found = [
            PredictedImage(f"{i}.png", sizes[i], p.annotations(), p.summary(NAMES))
            for i, p in enumerate(predictions)
        ]
        path = tmp_path / "found.json"
        write_json(path, coco_dict(found, NAMES))
        return COCO(path)

    return read


# pycocotools 2 makes arrays as NumPy 1 did.
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_cocos_reader_gives_the_same_masks(coco):
    random = np.random.default_rng(0)
    classes = [random.integers(0, 4, size).astype(np.uint8) for size in ((40, 30), (20, 50))]
    read = coco(*map(SegmentationMap, classes))
    assert [read.imgs[n]["file_name"] for n in (1, 2)] == ["0.png", "1.png"]
    assert [category["name"] for category in read.loadCats(read.getCatIds())] == list(NAMES)
    for number, expected in enumerate(classes, 1):
        again = np.full(expected.shape, 255)
        for annotation in read.loadAnns(read.getAnnIds(imgIds=[number])):
            mask = read.annToMask(annotation) == 1
            assert (again[mask] == 255).all()
            again[mask] = annotation["category_id"]
            assert annotation["area"] == mask.sum()
            rows, columns = np.nonzero(mask)
            left, top, width, height = annotation["bbox"]
            assert (top, left) == (rows.min(), columns.min())
            assert (top + height, left + width) == (rows.max() + 1, columns.max() + 1)
        np.testing.assert_array_equal(again, expected)


def test_cocos_reader_gives_the_same_boxes(coco):
    boxes = np.array([[1.5, 2, 11, 8], [0, 0, 20, 50]])
    found = Detections(boxes, np.array([0.75, 0.5]), np.array([3, 1]))
    read = coco(Detections(boxes[:0], np.zeros(0), np.zeros(0, int)), found)
    assert read.getAnnIds(imgIds=[1]) == []
    first, second = read.loadAnns(read.getAnnIds(imgIds=[2]))
    assert (first["id"], second["id"]) == (1, 2)
    assert (first["bbox"], first["area"]) == ([2, 1.5, 6, 9.5], 57)
    assert (first["score"], first["category_id"]) == (0.75, 3)
    assert (second["bbox"], second["area"]) == ([0, 0, 50, 20], 1000)
    overlap = pycocotools.mask.iou([first["bbox"]], [second["bbox"]], [0])
    assert overlap[0, 0] == pytest.approx(57 / 1000)
    # Found again by its evaluation as detections of its own truth.
    assert len(read.loadRes(list(map(read.anns.get, (1, 2)))).anns) == 2


def test_all_of_coco_is_json(coco):
    found = ClassProbabilities(np.full(7, 1 / 7, np.float32))
    read = coco(found, SegmentationMap(np.zeros((20, 50), np.uint8)))
    assert json.loads(json.dumps(read.dataset)) == read.dataset
    assert len(read.getAnnIds(imgIds=[1])) == 5
    assert read.imgs[2] == {"id": 2, "file_name": "1.png", "height": 20, "width": 50}


def test_a_network_is_compiled_with_its_variables_as_arguments():
    """The same program with other variables says something else."""
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
