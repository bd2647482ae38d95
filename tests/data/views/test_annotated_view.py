"""Annotated images warped in training: pixels, classes and boxes move together."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deconv_jax.data.views import IGNORED, VIEWS, AnnotatedView, evaluation_view, training_view
from deconv_jax.data.warp import sample_bilinear
from deconv_jax.errors import InputError

COUNT, SIDE = 32, 48
TRUE = (48, 40)
BOXES = np.array([[6, 4, 20, 14], [24, 16, 40, 37], [0, 0, 0, 0]], np.float32)


@pytest.fixture(scope="module")
def batch():
    """Return a batch of two rectangles, gray 100 of class 1 and gray 200 of class 2, padded at the right with 255."""
    image = np.full((COUNT, SIDE, SIDE, 1), 20, np.uint8)
    segments = np.zeros((COUNT, SIDE, SIDE), np.uint8)
    for number, (top, left, bottom, right) in enumerate(BOXES[:2].astype(int), start=1):
        image[:, top:bottom, left:right] = 100 * number
        segments[:, top:bottom, left:right] = number
    image[:, :, TRUE[1] :] = 255
    return {
        "image": jnp.asarray(image),
        "segments": jnp.asarray(segments),
        "boxes": jnp.tile(BOXES, (COUNT, 1, 1)),
        "box_class": jnp.tile(jnp.array([5, 7, -1]), (COUNT, 1)),
        "size": jnp.tile(jnp.array(TRUE), (COUNT, 1)),
        "index": jnp.arange(COUNT),
    }


@functools.cache
def compiled(view):
    return jax.jit(lambda batch, step: training_view(view, batch, 0, step))


def trained(view, batch, step=0):
    return jax.device_get(compiled(view)(batch, step))


evaluated = jax.jit(evaluation_view, static_argnums=0)


def drawn(view, count, shape=(SIDE, SIDE), size=TRUE):
    """Return the warps of `count` keys, stacked in one `Warp`."""
    draw = jax.jit(
        jax.vmap(lambda key: view.draw(key, shape, jnp.array(size))._replace(shape=None))
    )
    return jax.device_get(draw(jax.random.split(jax.random.key(0), count)))


def mask_bounds(mask):
    rows, columns = np.nonzero(mask.any(1))[0], np.nonzero(mask.any(0))[0]
    return np.array([rows[0], columns[0], rows[-1] + 1, columns[-1] + 1])


WHOLE = [
    AnnotatedView(flip=True),
    AnnotatedView(dihedral=True),
    AnnotatedView(crop=32),
    AnnotatedView(crop=32, flip=True),
    AnnotatedView(crop=33, dihedral=True),
]
BENT = [
    AnnotatedView(scale=(0.5, 1.5)),
    AnnotatedView(crop=40, scale=(0.7, 1.3), flip=True),
    AnnotatedView(dihedral=True, scale=(0.8, 1.2), crop=32),
]


@pytest.mark.slow
@pytest.mark.parametrize("view", [*WHOLE, *BENT])
def test_pixels_classes_and_boxes_are_warped_together(batch, view):
    """Rectangles stay axis-aligned, so the bounds of a mask equal its box within a pixel."""
    seen = trained(view, batch)
    exact = view in WHOLE
    compared = 0
    for image, segments, boxes, classes in zip(
        seen["image"][..., 0], seen["segments"], seen["boxes"], seen["box_class"], strict=True
    ):
        gray = {0: 20, 1: 100, 2: 200, IGNORED: 0}
        expected = np.vectorize(gray.get)(segments) / 255
        if exact:
            np.testing.assert_allclose(image, expected, atol=1e-6)
        else:
            # Bilinear pixels are blends where classes meet.
            assert np.mean(np.abs(image - expected) < 1e-3) > 0.7
        for number, wanted in ((1, 5), (2, 7)):
            if classes[number - 1] >= 0:
                assert classes[number - 1] == wanted
                bounds = mask_bounds(segments == number)
                limit = 0 if exact else 1.0
                assert np.abs(bounds - boxes[number - 1]).max() <= limit
                compared += 1
            else:
                assert not boxes[number - 1].any()
        assert classes[2] == -1
    assert compared > COUNT


@pytest.mark.slow
def test_flips_and_quarter_turns_are_exact_and_all_occur(batch):
    square = {k: v for k, v in batch.items() if k != "size"}
    image = np.asarray(evaluated(AnnotatedView(), square)["image"][0, ..., 0])
    turns = [np.rot90(turned, n) for turned in (image, image.T) for n in range(4)]
    for view, expected in (
        (AnnotatedView(dihedral=True), turns),
        (AnnotatedView(flip=True), [image, image[:, ::-1]]),
    ):
        seen = trained(view, square)["image"][..., 0]
        found = [[np.array_equal(one, other) for other in expected] for one in seen]
        assert (np.sum(found, axis=1) == 1).all()
        assert np.any(found, axis=0).all()


def test_valid_region_stays_at_the_top_left(batch):
    """Quarter turns may swap height and width, and lose no pixel."""
    for segments in trained(AnnotatedView(dihedral=True), batch)["segments"]:
        inside = segments != IGNORED
        top, left, bottom, right = mask_bounds(inside)
        assert (top, left) == (0, 0)
        assert {(bottom, right)} <= {TRUE, TRUE[::-1]}
        assert inside.sum() == TRUE[0] * TRUE[1]


@pytest.mark.parametrize("train", [True, False])
def test_without_augmentation_images_are_only_cast(batch, train):
    view = AnnotatedView()
    seen = trained(view, batch) if train else evaluated(view, batch)
    np.testing.assert_allclose(seen["image"], np.asarray(batch["image"]) / 255, rtol=1e-6)
    np.testing.assert_array_equal(seen["boxes"], batch["boxes"])
    np.testing.assert_array_equal(seen["box_class"], batch["box_class"])
    expected = np.asarray(batch["segments"], np.int32)
    expected[:, :, TRUE[1] :] = IGNORED
    np.testing.assert_array_equal(seen["segments"], expected)
    assert seen["segments"].dtype == seen["box_class"].dtype == jnp.int32


def test_evaluation_applies_no_augmentation(batch):
    view = AnnotatedView(
        crop=16, dihedral=True, rotate=30.0, scale=(0.5, 2.0), elastic=2.0, contrast=0.5
    )
    plain, seen = evaluated(AnnotatedView(), batch), evaluated(view, batch)
    jax.tree.map(np.testing.assert_array_equal, seen, plain)


def test_annotations_are_optional():
    batch = {"image": jnp.ones((2, 16, 16, 3), jnp.uint8), "index": jnp.arange(2)}
    seen = trained(AnnotatedView(crop=8, rotate=10.0), batch)
    assert {name: array.shape for name, array in seen.items()} == {"image": (2, 8, 8, 3)}


def test_rotated_boxes_are_the_bounds_of_their_corners(batch):
    """Computed for a known angle; the visible mask lies inside its box."""
    view = AnnotatedView(rotate=40.0)
    seen = trained(view, batch)
    kept = 0
    for segments, boxes, classes in zip(
        seen["segments"], seen["boxes"], seen["box_class"], strict=True
    ):
        for number in (1, 2):
            if classes[number - 1] >= 0 and (segments == number).any():
                bounds = mask_bounds(segments == number)
                difference = bounds - boxes[number - 1]
                # The mask reaches the box, but for corners that are thinner than a pixel.
                assert (difference[:2] > -1).all()
                assert (difference[2:] < 1).all()
                assert np.abs(difference).max() < 2.5
                kept += 1
    assert kept > COUNT


def test_warp_equals_numpy():
    """Compared with NumPy: rotation about the center of the valid region, scale, and the corners of a box."""
    view = AnnotatedView(rotate=30.0, scale=(0.8, 1.4))

    @jax.jit
    def drawn_and_applied(key):
        warp = view.draw(key, (SIDE, SIDE), jnp.array(TRUE))
        return warp.matrix, warp.center, warp.boxes(jnp.asarray(BOXES[:1])), warp.points()

    made = drawn_and_applied(jax.random.key(3))
    matrix, center, (boxes, kept), points = jax.device_get(made)
    factor = 1 / np.sqrt(np.linalg.det(matrix))
    assert 0.8 <= factor <= 1.4
    angle = np.arctan2(matrix[1, 0], matrix[0, 0])
    assert 0 < abs(angle) <= np.radians(30)
    np.testing.assert_allclose(center, np.array(TRUE) / 2)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    corners = np.array([[6, 4], [6, 14], [20, 4], [20, 14]]) - np.array(TRUE) / 2
    seen = factor * corners @ turn + np.array(TRUE) / 2  # The inverse of a turn is its transpose.
    expected = np.clip([*seen.min(0), *seen.max(0)], 0, SIDE)
    np.testing.assert_allclose(boxes[0], expected, atol=1e-4)
    assert kept.all()
    inverse = (points - np.array(TRUE) / 2) @ turn * factor
    places = np.stack(np.meshgrid(*2 * [np.arange(SIDE) + 0.5], indexing="ij"), axis=-1)
    np.testing.assert_allclose(inverse + np.array(TRUE) / 2, places, atol=1e-4)


@pytest.mark.slow
def test_elastic_warps_are_smooth_and_have_the_given_strength(batch):
    view = AnnotatedView(elastic=1.5)
    displacement = drawn(view, 400).displacement
    assert 0.75 < displacement.std() < 1.5  # Between the grid's places it is a mean of several.
    assert 1.35 < displacement[:, SIDE // 2, SIDE // 2].std() < 1.65
    for axis in (1, 2):
        assert np.abs(np.diff(displacement, axis=axis)).max() < 1  # So nothing is folded.
    seen = trained(view, batch)
    for segments, boxes in zip(seen["segments"], seen["boxes"], strict=True):
        for number in (1, 2):
            difference = mask_bounds(segments == number) - boxes[number - 1]
            assert np.abs(difference).max() <= 2.0


def test_boxes_mostly_outside_the_view_are_dropped():
    """A crop keeps the boxes with at least 30% of their area inside it."""
    lefts = np.arange(0, 64, 8, dtype=np.float32)
    boxes = np.stack([0 * lefts, lefts, 0 * lefts + 64, lefts + 8], axis=1)
    view = AnnotatedView(crop=16)
    center_of = jax.jit(lambda key: view.draw(key, (64, 64), jnp.array([64, 64])).center)
    seen = jax.jit(lambda key, b: view.draw(key, (64, 64), jnp.array([64, 64])).boxes(b))
    for seed in range(12):
        key = jax.random.key(seed)
        start = np.asarray(center_of(key)) - 8
        tall = boxes * np.array([0, 1, 0, 1], np.float32)
        tall[:, 0], tall[:, 2] = start[0], start[0] + 16
        found, kept = jax.device_get(seen(key, tall))
        overlap = np.minimum(tall[:, 3], start[1] + 16) - np.maximum(tall[:, 1], start[1])
        np.testing.assert_array_equal(kept, overlap / 8 >= 0.3)
        np.testing.assert_allclose((found[:, 3] - found[:, 1])[kept], overlap[kept])


@pytest.mark.slow
def test_crops_cover_the_valid_region_and_nothing_else(batch):
    view = AnnotatedView(crop=36)
    seen = trained(view, batch)
    assert (seen["segments"] != IGNORED).all()
    corners = set(map(tuple, drawn(view, 600).center - 18))
    assert corners == {(float(row), float(column)) for row in range(13) for column in range(5)}


def test_crop_larger_than_the_valid_region_centers_it(batch):
    seen = trained(AnnotatedView(crop=46), batch)["segments"]
    columns = (seen != IGNORED).any((0, 1))
    np.testing.assert_array_equal(np.nonzero(columns)[0], np.arange(3, 43))


def test_brightness_and_contrast_change_only_valid_pixels(batch):
    view = AnnotatedView(brightness=0.2, contrast=0.3)
    seen = trained(view, batch)
    plain = jax.device_get(evaluated(AnnotatedView(), batch))
    for name in ("segments", "boxes", "box_class"):
        np.testing.assert_array_equal(seen[name], plain[name])
    np.testing.assert_array_equal(seen["image"][:, :, TRUE[1] :], plain["image"][:, :, TRUE[1] :])
    true = plain["image"][0, :, : TRUE[1]]
    mean = true.mean()
    fitted = np.array(
        [np.polyfit(true.ravel() - mean, i.ravel(), 1) for i in seen["image"][:, :, : TRUE[1]]]
    )
    factors, offsets = fitted[:, 0], fitted[:, 1] - mean
    assert 0.69 < factors.min() < 0.9 < 1.1 < factors.max() < 1.31
    assert -0.21 < offsets.min() < -0.1 < 0.1 < offsets.max() < 0.21


@pytest.mark.slow
@pytest.mark.parametrize("view", [BENT[1], AnnotatedView(rotate=20.0, elastic=1.0, brightness=0.1)])
def test_result_depends_only_on_the_key(batch, view):
    order = np.random.default_rng(0).permutation(COUNT)
    seen = trained(view, batch)
    again = trained(view, {name: array[order] for name, array in batch.items()})
    for name, array in seen.items():
        np.testing.assert_array_equal(again[name], array[order])
    assert (trained(view, batch, step=1)["image"] != seen["image"]).any()


def test_bilinear_samples_equal_scipy():
    scipy = pytest.importorskip("scipy.ndimage")
    random = np.random.default_rng(0)
    image = random.random((7, 9, 2), np.float32)
    points = random.uniform(-2, 11, (50, 2)).astype(np.float32)
    found = sample_bilinear(jnp.asarray(image), jnp.asarray(points))
    for channel in range(2):
        expected = scipy.map_coordinates(
            image[..., channel], points.T - 0.5, order=1, mode="nearest"
        )
        np.testing.assert_allclose(found[:, channel], expected, atol=1e-5)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"crop": 0}, "crop must be at least 1"),
        ({"rotate": 200.0}, "0 to 180 degrees"),
        ({"scale": (1.2, 0.8)}, "0 < minimum <= maximum"),
        ({"scale": (0.0, 1.0)}, "0 < minimum <= maximum"),
        ({"elastic": -1.0}, "elastic must be at least 0"),
        ({"brightness": 1.0}, "brightness must be at least 0"),
        ({"contrast": -0.1}, "contrast must be at least 0"),
    ],
)
def test_fields_out_of_range_are_errors(fields, words):
    with pytest.raises(InputError, match=words):
        AnnotatedView(**fields)


@pytest.mark.parametrize(
    ("view", "words"),
    [
        (AnnotatedView(crop=41), "crops of 41 x 41 pixels"),
        (AnnotatedView(dihedral=True), "square images or a crop"),
    ],
)
def test_images_that_do_not_fit_the_warp_are_errors(view, words):
    batch = {"image": jnp.zeros((2, 48, 40, 1), jnp.uint8), "index": jnp.arange(2)}
    with pytest.raises(InputError, match=words):
        training_view(view, batch, 0, 0)
    assert evaluation_view(view, batch)["image"].shape == (2, 48, 40, 1)


def test_every_view_has_defaults_for_all_fields():
    for view in VIEWS.values():
        assert view() == dataclasses.replace(view())
