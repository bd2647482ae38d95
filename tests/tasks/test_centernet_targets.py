"""CenterNet targets, losses and decoding, against their definitions and brute force."""

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
    decode_detections,
    gaussian_radius,
)

RNG = np.random.default_rng(0)
ROWS, COLUMNS, CLASSES, STRIDE = 12, 10, 3, 4
SHAPE = (ROWS, COLUMNS, CLASSES)
ABSENT = [0.0, 0.0, 0.0, 0.0]
# Image 0 has two objects of class 1 with overlapping Gaussians; image 1 has one object in three rows.
BOXES = np.array(
    [
        [[3, 2, 21, 17], [8, 9, 30, 38], [5.5, 14, 19, 25]],
        [ABSENT, [30.25, 1, 47, 12.5], ABSENT],
    ],
    np.float32,
)
BOX_CLASS = np.array([[1, 0, 1], [-1, 2, -1]], np.int32)


make_targets = jax.jit(center_targets, static_argnames=("shape", "stride", "gaussian_iou"))


def targets_of(boxes, box_class, *, shape=SHAPE, gaussian_iou=0.5):
    made = make_targets(boxes, box_class, shape=shape, stride=STRIDE, gaussian_iou=gaussian_iou)
    return jax.device_get(made)


def maps_of(targets, shape=SHAPE):
    """Return maps that match the targets: logit 4 at object centers, lower elsewhere."""
    rows, columns, _ = shape
    batch = len(targets.heat)
    log_size, offset = (
        np.zeros((batch, rows * columns, 2), np.float32),
        np.zeros((batch, rows * columns, 2), np.float32),
    )
    for image, row in np.argwhere(targets.present):
        cell = targets.cell_index[image, row]
        log_size[image, cell] = targets.log_size[image, row]
        offset[image, cell] = targets.offset[image, row]
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


def iou_of(a, b):
    height, width = (min(a[i + 2], b[i + 2]) - max(a[i], b[i]) for i in (0, 1))
    both = max(height, 0) * max(width, 0)
    areas = [(c[2] - c[0]) * (c[3] - c[1]) for c in (a, b)]
    return both / (sum(areas) - both)


# Radii


@pytest.mark.parametrize("gaussian_iou", [0.1, 0.3, 0.5, 0.7, 0.95])
@pytest.mark.parametrize(("height", "width"), [(1.0, 1.0), (40.0, 3.0), (7.0, 11.0), (0.2, 90.0)])
def test_largest_move_by_the_radius_has_exactly_the_iou(height, width, gaussian_iou):
    r = float(gaussian_radius(jnp.asarray(height), jnp.asarray(width), gaussian_iou))
    box = np.array([0, 0, height, width])
    assert 0 < r < min(height, width)
    by_radius = [
        iou_of(box, box + r * np.array(signs)) for signs in itertools.product((-1, 1), repeat=4)
    ]
    assert min(by_radius) == pytest.approx(gaussian_iou, rel=1e-4)
    farther = [
        iou_of(box, box + 1.02 * r * np.array(signs))
        for signs in ([1, 1, 1, 1], [1, 1, -1, -1], [-1, -1, 1, 1])
    ]
    assert min(farther) < gaussian_iou
    # No smaller move of the corners has a lower IoU.
    moves = RNG.uniform(-r, r, (200, 4))
    assert min(iou_of(box, box + move) for move in moves) >= gaussian_iou - 1e-6


def test_radius_is_equivariant_to_scale_and_symmetric():
    height, width = jnp.asarray(RNG.uniform(1, 50, (2, 20)), jnp.float32)
    radius = gaussian_radius(height, width, 0.7)
    np.testing.assert_allclose(gaussian_radius(4 * height, 4 * width, 0.7), 4 * radius, rtol=1e-4)
    np.testing.assert_allclose(gaussian_radius(width, height, 0.7), radius, rtol=1e-6)
    assert np.all(np.asarray(gaussian_radius(height, width, 0.5)) > np.asarray(radius))


# Targets


def test_heat_maps_are_the_maximum_of_gaussians():
    targets = targets_of(BOXES, BOX_CLASS)
    expected = np.zeros((2, *SHAPE))
    for image, row in np.argwhere(BOX_CLASS >= 0):
        top, left, bottom, right = BOXES[image, row] / STRIDE
        y, x = math.floor((top + bottom) / 2), math.floor((left + right) / 2)
        radius = float(gaussian_radius(jnp.asarray(bottom - top), jnp.asarray(right - left), 0.5))
        deviation = (2 * radius + 1) / 6
        for i, j in itertools.product(range(ROWS), range(COLUMNS)):
            gaussian = math.exp(-((i - y) ** 2 + (j - x) ** 2) / (2 * deviation**2))
            at = (image, i, j, BOX_CLASS[image, row])
            expected[at] = max(expected[at], gaussian)
        assert targets.cell_index[image, row] == y * COLUMNS + x
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
    np.testing.assert_array_equal(permuted.cell_index, plain.cell_index[:, order])
    more = targets_of(
        np.concatenate([BOXES, np.full((2, 4, 4), 7, np.float32)], axis=1),
        np.concatenate(
            [BOX_CLASS, [[0, 2, -1, 3]] * 2], axis=1
        ),  # Zero area, no class, or a class out of range.
    )
    np.testing.assert_array_equal(more.heat, plain.heat)
    assert not more.present[:, 3:].any()


def test_targets_need_little_memory():
    """All Gaussians of 100 rows at once would take the memory of 100 heat maps."""
    boxes = jax.ShapeDtypeStruct((2, 100, 4), jnp.float32)
    box_class = jax.ShapeDtypeStruct((2, 100), jnp.int32)
    make = lambda b, c: center_targets(b, c, shape=(64, 64, 20), stride=4, gaussian_iou=0.7)  # noqa: E731
    compiled = jax.jit(make).lower(boxes, box_class).compile()
    heat_map = 4 * 2 * 64 * 64 * 20
    assert compiled.memory_analysis().temp_size_in_bytes < 4 * heat_map


def test_targets_are_equivariant_to_mirroring():
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
def test_center_on_the_far_edge_belongs_to_the_last_cell():
    corner = np.array(
        [[[44.0, 36.0, 52.0, 44.0]]], np.float32
    )  # Centered at the far corner (48, 40).
    targets = targets_of(corner, np.zeros((1, 1), np.int32))
    assert targets.cell_index.item() == ROWS * COLUMNS - 1
    np.testing.assert_allclose(targets.offset, [[[1, 1]]])
    found = decode_detections(maps_of(targets), stride=STRIDE, max_detections=1)
    np.testing.assert_allclose(
        found.boxes, [[[44, 36, 48, 40]]], atol=1e-4
    )  # Clipped to the image.


# Losses


def focal_loss(heat, wanted, count):
    """Compute equation 1 of arXiv:1904.07850 cell by cell."""
    total = 0.0
    for logit, y in zip(np.ravel(heat).astype(float), np.ravel(wanted).astype(float), strict=True):
        p = 1 / (1 + math.exp(-logit))
        if y == 1:
            total += (1 - p) ** 2 * math.log(p)
        else:
            total += (1 - y) ** 4 * p**2 * math.log(1 - p)
    return -total / count


def test_losses_equal_the_equations_of_the_paper():
    targets, maps = targets_of(BOXES, BOX_CLASS), random_maps(3)
    losses = jax.device_get(center_losses(maps, targets))
    assert losses["heat_loss"] == pytest.approx(focal_loss(maps.heat, targets.heat, 4), rel=1e-4)
    for name, field in (("size_loss", "log_size"), ("offset_loss", "offset")):
        found, wanted = np.asarray(getattr(maps, field)), getattr(targets, field)
        total = 0.0
        for image, row in np.argwhere(targets.present):
            y, x = divmod(int(targets.cell_index[image, row]), COLUMNS)
            total += np.abs(found[image, y, x] - wanted[image, row]).sum()
        assert losses[name] == pytest.approx(total / 4, rel=1e-5)


@pytest.mark.slow
def test_loss_is_zero_at_the_targets_and_gradients_point_to_them():
    targets = targets_of(BOXES, BOX_CLASS)
    exact = maps_of(targets)
    confident = exact._replace(heat=jnp.where(targets.heat == 1, 30.0, -30.0))
    for name, loss in center_losses(confident, targets).items():
        assert loss == pytest.approx(0.0, abs=1e-5), name
    gradient = jax.grad(lambda maps: center_losses(maps, targets)["heat_loss"])(random_maps(4)).heat
    peaks = targets.heat == 1
    assert np.all(np.asarray(gradient)[peaks] < 0)
    assert np.all(np.asarray(gradient)[~peaks] >= 0)


def test_gradients_are_finite_at_extreme_logits():
    targets = targets_of(BOXES, BOX_CLASS)
    total = lambda maps: sum(center_losses(maps, targets).values())  # noqa: E731
    for scale in (100.0, -100.0):
        maps = random_maps(5)
        extreme = maps._replace(heat=jnp.full_like(maps.heat, scale))
        loss, gradients = jax.value_and_grad(total)(extreme)
        assert np.isfinite(loss)
        assert all(np.isfinite(a).all() for a in jax.tree.leaves(gradients))


def test_without_objects_only_the_heat_loss_remains():
    targets = targets_of(np.zeros((2, 3, 4), np.float32), np.full((2, 3), -1))
    assert not targets.heat.any()
    maps = random_maps(6)
    losses = center_losses(maps, targets)
    assert losses["heat_loss"] == pytest.approx(focal_loss(maps.heat, targets.heat, 1), rel=1e-4)
    assert losses["size_loss"] == losses["offset_loss"] == 0


def test_losses_divide_by_the_objects_of_all_devices():
    """The devices have three objects and one object, so the mean of their means would differ."""
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


def test_decoding_inverts_encoding():
    targets = targets_of(BOXES, BOX_CLASS)
    found = jax.device_get(decode_detections(maps_of(targets), stride=STRIDE, max_detections=6))
    for image in range(2):
        real = BOX_CLASS[image] >= 0
        confident = found.scores[image] > 0.9
        assert confident.sum() == real.sum()
        wanted, got = (
            np.array(sorted([c, *b] for c, b in zip(classes, boxes, strict=True)))
            for classes, boxes in (
                (BOX_CLASS[image][real], BOXES[image][real]),
                (found.classes[image][confident], found.boxes[image][confident]),
            )
        )
        np.testing.assert_allclose(got, wanted, atol=1e-3)


def peaks_by_brute_force(maps, max_detections):
    """Yield the cells that are at least as high as their neighbors, in descending order."""
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
        yield sorted(peaks, key=lambda peak: -peak[0])[:max_detections]


@pytest.mark.slow
@pytest.mark.parametrize("max_detections", [1, 20, 400])
def test_detections_are_the_highest_peaks(max_detections):
    maps = random_maps(8)
    found = jax.device_get(decode_detections(maps, stride=STRIDE, max_detections=max_detections))
    assert found.scores.shape == (2, min(max_detections, ROWS * COLUMNS * CLASSES))
    for image, peaks in enumerate(peaks_by_brute_force(maps, max_detections)):
        count = len(peaks)
        scores, classes, boxes = zip(*peaks, strict=True)
        np.testing.assert_allclose(found.scores[image, :count], scores, rtol=1e-5)
        np.testing.assert_array_equal(found.classes[image, :count], classes)
        np.testing.assert_allclose(found.boxes[image, :count], boxes, rtol=1e-4, atol=1e-4)
        assert not found.scores[image, count:].any()
        assert np.all(found.classes[image, count:] == -1)


def test_first_of_equal_neighbors_is_the_peak():
    """Equal logits are common in bfloat16. Equal cells that are not neighbors are both peaks."""
    heat = np.full((1, ROWS, COLUMNS, CLASSES), -9, np.float32)
    for row, column, label in ((3, 3, 0), (3, 4, 0), (4, 5, 0), (3, 3, 1), (8, 8, 0)):
        heat[0, row, column, label] = 2
    maps = random_maps(9, batch=1)._replace(heat=jnp.asarray(heat))
    found = decode_detections(maps, stride=STRIDE, max_detections=10)
    assert (np.asarray(found.scores) > 0.5).sum() == 3
    np.testing.assert_array_equal(found.classes[0, :3], [0, 1, 0])
