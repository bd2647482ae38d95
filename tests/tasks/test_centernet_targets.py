"""Boxes to maps and back: radii, bumps, the focal loss and peaks, by definition and by brute force."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deconv_jax.models.centernet import CenterMaps
from deconv_jax.tasks.centernet_targets import (
    center_losses,
    center_targets,
    detections,
    gaussian_radius,
)

RNG = np.random.default_rng(0)
ROWS, COLUMNS, CLASSES, STRIDE = 12, 10, 3, 4
SHAPE = (ROWS, COLUMNS, CLASSES)
ABSENT = [0.0, 0.0, 0.0, 0.0]
# Two of class 1 so near that their bumps overlap, and image 1 with one row of three.
BOXES = np.array(
    [
        [[3, 2, 21, 17], [8, 9, 30, 38], [5.5, 14, 19, 25]],
        [ABSENT, [30.25, 1, 47, 12.5], ABSENT],
    ],
    np.float32,
)
BOX_CLASS = np.array([[1, 0, 1], [-1, 2, -1]], np.int32)


make_targets = jax.jit(center_targets, static_argnames=("shape", "stride", "overlap"))


def targets_of(boxes, box_class, *, shape=SHAPE, overlap=0.5):
    made = make_targets(boxes, box_class, shape=shape, stride=STRIDE, overlap=overlap)
    return jax.device_get(made)


def maps_of(targets, shape=SHAPE):
    """Maps that say what the targets do: a logit of 4 where an object's centre is, lower elsewhere."""
    rows, columns, _ = shape
    batch = len(targets.heat)
    log_size, offset = (
        np.zeros((batch, rows * columns, 2), np.float32),
        np.zeros((batch, rows * columns, 2), np.float32),
    )
    for image, row in np.argwhere(targets.present):
        place = targets.places[image, row]
        log_size[image, place] = targets.log_size[image, row]
        offset[image, place] = targets.offset[image, row]
    return CenterMaps(
        jnp.asarray(8 * targets.heat - 4),
        *(jnp.asarray(a.reshape(batch, rows, columns, 2)) for a in (log_size, offset)),
    )


def random_maps(seed, batch=2, shape=SHAPE):
    random = np.random.default_rng(seed)
    grid = (batch, *shape[:2])
    heat = random.normal(0, 2, (*grid, shape[2]))
    both = (random.normal(0, 0.7, (*grid, 2)) for _ in range(2))
    return CenterMaps(*(jnp.asarray(a, jnp.float32) for a in (heat, *both)))


def overlap_of(a, b):
    height, width = (min(a[i + 2], b[i + 2]) - max(a[i], b[i]) for i in (0, 1))
    both = max(height, 0) * max(width, 0)
    areas = [(c[2] - c[0]) * (c[3] - c[1]) for c in (a, b)]
    return both / (sum(areas) - both)


# Radii


@pytest.mark.parametrize("overlap", [0.1, 0.3, 0.5, 0.7, 0.95])
@pytest.mark.parametrize(("height", "width"), [(1.0, 1.0), (40.0, 3.0), (7.0, 11.0), (0.2, 90.0)])
def test_the_worst_move_by_the_radius_overlaps_by_exactly_as_much(height, width, overlap):
    r = float(gaussian_radius(jnp.asarray(height), jnp.asarray(width), overlap))
    box = np.array([0, 0, height, width])
    assert 0 < r < min(height, width)
    both_ways = [
        overlap_of(box, box + r * np.array(signs)) for signs in itertools.product((-1, 1), repeat=4)
    ]
    assert min(both_ways) == pytest.approx(overlap, rel=1e-4)
    farther = [
        overlap_of(box, box + 1.02 * r * np.array(signs))
        for signs in ([1, 1, 1, 1], [1, 1, -1, -1], [-1, -1, 1, 1])
    ]
    assert min(farther) < overlap
    # And no smaller move of the corners overlaps less.
    moves = RNG.uniform(-r, r, (200, 4))
    assert min(overlap_of(box, box + move) for move in moves) >= overlap - 1e-6


def test_radii_are_in_the_unit_of_the_sides_and_the_same_for_turned_boxes():
    height, width = jnp.asarray(RNG.uniform(1, 50, (2, 20)), jnp.float32)
    radius = gaussian_radius(height, width, 0.7)
    np.testing.assert_allclose(gaussian_radius(4 * height, 4 * width, 0.7), 4 * radius, rtol=1e-4)
    np.testing.assert_allclose(gaussian_radius(width, height, 0.7), radius, rtol=1e-6)
    assert np.all(np.asarray(gaussian_radius(height, width, 0.5)) > np.asarray(radius))


# Targets


def test_heat_maps_are_the_highest_of_gaussian_bumps_at_rounded_centres():
    targets = targets_of(BOXES, BOX_CLASS)
    expected = np.zeros((2, *SHAPE))
    for image, row in np.argwhere(BOX_CLASS >= 0):
        top, left, bottom, right = BOXES[image, row] / STRIDE
        y, x = math.floor((top + bottom) / 2), math.floor((left + right) / 2)
        radius = float(gaussian_radius(jnp.asarray(bottom - top), jnp.asarray(right - left), 0.5))
        deviation = (2 * radius + 1) / 6
        for i, j in itertools.product(range(ROWS), range(COLUMNS)):
            bump = math.exp(-((i - y) ** 2 + (j - x) ** 2) / (2 * deviation**2))
            at = (image, i, j, BOX_CLASS[image, row])
            expected[at] = max(expected[at], bump)
        assert targets.places[image, row] == y * COLUMNS + x
        assert targets.heat[image, y, x, BOX_CLASS[image, row]] == 1
        np.testing.assert_allclose(
            np.exp(targets.log_size[image, row]), [bottom - top, right - left], rtol=1e-5
        )
        center = np.array([top + bottom, left + right]) / 2
        np.testing.assert_allclose(targets.offset[image, row], center - [y, x], atol=1e-5)
    np.testing.assert_allclose(targets.heat, expected, atol=1e-6)
    assert (targets.heat == 1).sum() == 4
    np.testing.assert_array_equal(targets.present, BOX_CLASS >= 0)


def test_order_and_empty_rows_do_not_matter():
    plain = targets_of(BOXES, BOX_CLASS)
    order = [2, 0, 1]
    permuted = targets_of(BOXES[:, order], BOX_CLASS[:, order])
    np.testing.assert_array_equal(permuted.heat, plain.heat)
    np.testing.assert_array_equal(permuted.places, plain.places[:, order])
    more = targets_of(
        np.concatenate([BOXES, np.full((2, 4, 4), 7, np.float32)], axis=1),
        np.concatenate([BOX_CLASS, [[0, 2, -1, 3]] * 2], axis=1),  # No area, no class, or no such.
    )
    np.testing.assert_array_equal(more.heat, plain.heat)
    assert not more.present[:, 3:].any()


def test_rows_of_boxes_take_little_memory():
    """Of 100 rows all bumps at once would be 100 times the heat map."""
    boxes = jax.ShapeDtypeStruct((2, 100, 4), jnp.float32)
    box_class = jax.ShapeDtypeStruct((2, 100), jnp.int32)
    make = lambda b, c: center_targets(b, c, shape=(64, 64, 20), stride=4, overlap=0.7)  # noqa: E731
    compiled = jax.jit(make).lower(boxes, box_class).compile()
    heat_map = 4 * 2 * 64 * 64 * 20
    assert compiled.memory_analysis().temp_size_in_bytes < 4 * heat_map


def test_mirrored_boxes_make_mirrored_maps():
    plain = targets_of(BOXES, BOX_CLASS)
    mirrored = BOXES.copy()
    mirrored[..., [1, 3]] = STRIDE * COLUMNS - BOXES[..., [3, 1]]
    mirrored[BOX_CLASS < 0] = 0
    targets = targets_of(mirrored, BOX_CLASS)
    np.testing.assert_allclose(targets.heat, plain.heat[:, :, ::-1], atol=1e-6)
    np.testing.assert_allclose(targets.log_size, plain.log_size, atol=1e-6)
    across = (targets.offset + plain.offset)[..., 1][plain.present]
    np.testing.assert_allclose(across, 1.0, atol=1e-5)


@pytest.mark.slow
def test_a_centre_on_the_far_edge_is_of_the_last_cell():
    corner = np.array([[[44.0, 36.0, 52.0, 44.0]]], np.float32)  # About (48, 40), the far corner.
    targets = targets_of(corner, np.zeros((1, 1), np.int32))
    assert targets.places.item() == ROWS * COLUMNS - 1
    np.testing.assert_allclose(targets.offset, [[[1, 1]]])
    found = detections(maps_of(targets), stride=STRIDE, most=1)
    np.testing.assert_allclose(found.boxes, [[[44, 36, 48, 40]]], atol=1e-4)  # Cut at the image.


# Losses


def focal_loss(heat, wanted, count):
    """Equation 1 of arXiv:1904.07850, place by place."""
    total = 0.0
    for logit, y in zip(np.ravel(heat).astype(float), np.ravel(wanted).astype(float), strict=True):
        p = 1 / (1 + math.exp(-logit))
        if y == 1:
            total += (1 - p) ** 2 * math.log(p)
        else:
            total += (1 - y) ** 4 * p**2 * math.log(1 - p)
    return -total / count


def test_losses_are_those_of_the_paper_s_equations():
    targets, maps = targets_of(BOXES, BOX_CLASS), random_maps(3)
    losses = jax.device_get(center_losses(maps, targets))
    assert losses["heat_loss"] == pytest.approx(focal_loss(maps.heat, targets.heat, 4), rel=1e-4)
    for name, field in (("size_loss", "log_size"), ("offset_loss", "offset")):
        found, wanted = np.asarray(getattr(maps, field)), getattr(targets, field)
        total = 0.0
        for image, row in np.argwhere(targets.present):
            y, x = divmod(int(targets.places[image, row]), COLUMNS)
            total += np.abs(found[image, y, x] - wanted[image, row]).sum()
        assert losses[name] == pytest.approx(total / 4, rel=1e-5)


@pytest.mark.slow
def test_right_maps_lose_nothing_and_wrong_ones_are_pulled_right():
    targets = targets_of(BOXES, BOX_CLASS)
    right = maps_of(targets)
    sure = right._replace(heat=jnp.where(targets.heat == 1, 30.0, -30.0))
    for name, loss in center_losses(sure, targets).items():
        assert loss == pytest.approx(0.0, abs=1e-5), name
    slope = jax.grad(lambda maps: center_losses(maps, targets)["heat_loss"])(random_maps(4)).heat
    peaks = targets.heat == 1
    assert np.all(np.asarray(slope)[peaks] < 0)
    assert np.all(np.asarray(slope)[~peaks] >= 0)


def test_gradients_stay_finite_where_logits_are_extreme():
    targets = targets_of(BOXES, BOX_CLASS)
    total = lambda maps: sum(center_losses(maps, targets).values())  # noqa: E731
    for scale in (100.0, -100.0):
        maps = random_maps(5)
        extreme = maps._replace(heat=jnp.full_like(maps.heat, scale))
        loss, slopes = jax.value_and_grad(total)(extreme)
        assert np.isfinite(loss)
        assert all(np.isfinite(a).all() for a in jax.tree.leaves(slopes))


def test_without_any_object_the_heat_alone_is_learnt():
    targets = targets_of(np.zeros((2, 3, 4), np.float32), np.full((2, 3), -1))
    assert not targets.heat.any()
    maps = random_maps(6)
    losses = center_losses(maps, targets)
    assert losses["heat_loss"] == pytest.approx(focal_loss(maps.heat, targets.heat, 1), rel=1e-4)
    assert losses["size_loss"] == losses["offset_loss"] == 0


def test_losses_are_over_the_objects_of_all_devices():
    """An image of three objects and one of one: the mean of the devices' own means would differ."""
    targets, maps = targets_of(BOXES, BOX_CLASS), random_maps(7)
    whole = center_losses(maps, targets)
    apart = jax.tree.map(lambda a: jnp.asarray(a)[:, None], (maps, targets))
    each = jax.pmap(lambda m, t: center_losses(m, t), axis_name="data")(*apart)
    for name, loss in whole.items():
        np.testing.assert_allclose(each[name].mean(), loss, rtol=1e-5)
    none = targets_of(np.zeros_like(BOXES), np.full_like(BOX_CLASS, -1))
    apart = jax.tree.map(lambda a: jnp.asarray(a)[:, None], (maps, none))
    each = jax.pmap(lambda m, t: center_losses(m, t), axis_name="data")(*apart)
    np.testing.assert_allclose(
        each["heat_loss"].mean(), center_losses(maps, none)["heat_loss"], rtol=1e-5
    )


# Peaks


def test_what_maps_were_made_of_is_what_is_found():
    targets = targets_of(BOXES, BOX_CLASS)
    found = jax.device_get(detections(maps_of(targets), stride=STRIDE, most=6))
    for image in range(2):
        real = BOX_CLASS[image] >= 0
        sure = found.scores[image] > 0.9
        assert sure.sum() == real.sum()
        wanted, got = (
            np.array(sorted([c, *b] for c, b in zip(classes, boxes, strict=True)))
            for classes, boxes in (
                (BOX_CLASS[image][real], BOXES[image][real]),
                (found.classes[image][sure], found.boxes[image][sure]),
            )
        )
        np.testing.assert_allclose(got, wanted, atol=1e-3)


def by_brute_force(maps, most):
    """Every place that is as high as its neighbours, in falling order."""
    heat, log_size, offset = (np.asarray(a, np.float64) for a in maps)
    for image in range(len(heat)):
        peaks = []
        for i, j, c in np.ndindex(*SHAPE):
            around = heat[image, max(i - 1, 0) : i + 2, max(j - 1, 0) : j + 2, c]
            if heat[image, i, j, c] < around.max():
                continue
            y, x = np.array([i, j]) + offset[image, i, j]
            height, width = np.exp(log_size[image, i, j])
            box = STRIDE * np.array([y - height / 2, x - width / 2, y + height / 2, x + width / 2])
            limits = STRIDE * np.array([ROWS, COLUMNS] * 2)
            peaks.append((1 / (1 + np.exp(-heat[image, i, j, c])), c, box.clip(0, limits)))
        yield sorted(peaks, key=lambda peak: -peak[0])[:most]


@pytest.mark.slow
@pytest.mark.parametrize("most", [1, 20, 400])
def test_detections_are_the_highest_peaks(most):
    maps = random_maps(8)
    found = jax.device_get(detections(maps, stride=STRIDE, most=most))
    assert found.scores.shape == (2, min(most, ROWS * COLUMNS * CLASSES))
    for image, peaks in enumerate(by_brute_force(maps, most)):
        count = len(peaks)
        scores, classes, boxes = zip(*peaks, strict=True)
        np.testing.assert_allclose(found.scores[image, :count], scores, rtol=1e-5)
        np.testing.assert_array_equal(found.classes[image, :count], classes)
        np.testing.assert_allclose(found.boxes[image, :count], boxes, rtol=1e-4, atol=1e-4)
        assert not found.scores[image, count:].any()
        assert np.all(found.classes[image, count:] == -1)


def test_of_equal_neighbours_the_first_is_the_peak():
    """As logits in bfloat16 often are; two that are apart are both peaks."""
    heat = np.full((1, ROWS, COLUMNS, CLASSES), -9, np.float32)
    for row, column, label in ((3, 3, 0), (3, 4, 0), (4, 5, 0), (3, 3, 1), (8, 8, 0)):
        heat[0, row, column, label] = 2
    maps = random_maps(9, batch=1)._replace(heat=jnp.asarray(heat))
    found = detections(maps, stride=STRIDE, most=10)
    assert (np.asarray(found.scores) > 0.5).sum() == 3
    np.testing.assert_array_equal(found.classes[0, :3], [0, 1, 0])
