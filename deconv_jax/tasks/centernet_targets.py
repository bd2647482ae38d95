"""Boxes about objects to what CenterNet's maps should be, how far they are from it, and back to boxes.

Zhou et al., "Objects as Points", arXiv:1904.07850, section 3. Everything is on the device and of fixed
shape: boxes come in rows of which some hold no object, and as many detections go out as are asked for.

What a reader would get wrong: the width of the bump about each centre. Its rule (Law and Deng, "CornerNet",
arXiv:1808.01244, section 3.1) is the radius in which both corners of a box may move while it still overlaps
the object enough. The authors' code divides by 2 instead of 2a, and takes the larger roots of the other
two equations, so that at an overlap of 0.7 its radii are 3.3 to 4 times as large; here the rule is kept.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Int32

from deconv_jax.models.centernet import CenterMaps
from deconv_jax.ops.collectives import mean_over_devices, number_of_devices
from deconv_jax.ops.pool import max_pool_with_switches

ALPHA, BETA = 2, 4
"""Exponents of the focal loss, equation 1."""


class CenterTargets(NamedTuple):
    """What the maps should be.

    Attributes:
      heat: 1 at the centres of a class's objects, falling off about them (section 3, before
        equation 1); the largest where bumps overlap.
      places: of each object's cell, counted in row-major order.
      log_size, offset: of each object, as in `CenterMaps`.
      present: whether the row holds an object; of others the values above mean nothing.
    """

    heat: Float[Array, "batch rows columns classes"]
    places: Int32[Array, "batch most"]
    log_size: Float[Array, "batch most 2"]
    offset: Float[Array, "batch most 2"]
    present: Bool[Array, "batch most"]


class Detections(NamedTuple):
    """Objects found in each image, by falling score.

    Attributes:
      boxes: top, left, bottom and right edge in pixels, in the image.
      scores: in [0, 1]; 0 in rows without an object, where an image has fewer peaks.
      classes: from 0 on, -1 in rows without an object.
    """

    boxes: Float[Array, "batch most 4"]
    scores: Float[Array, "batch most"]
    classes: Int32[Array, "batch most"]


def gaussian_radius(
    height: Float[Array, "*shape"], width: Float[Array, "*shape"], overlap: float
) -> Float[Array, "*shape"]:
    """How far both corners of a box may move along both axes while it overlaps by so much.

    The least of what three ways allow: both corners the same way, both inwards, both outwards.

    Args:
      height, width: of the box, positive, in any unit.
      overlap: intersection over union of the moved and the unmoved box, above 0 and below 1.

    Returns:
      The radius, in that unit.
    """
    area, sides = height * width, height + width
    moved = _smaller_root(1.0, -sides, area * (1 - overlap) / (1 + overlap))
    inwards = _smaller_root(4.0, -2 * sides, area * (1 - overlap))
    outwards = _smaller_root(-4 * overlap, -2 * overlap * sides, area * (1 - overlap))
    return jnp.minimum(moved, jnp.minimum(inwards, outwards))


def _smaller_root(a: float, b: Array, c: Array) -> Array:
    """Of a r^2 + b r + c = 0 the root nearer to 0, for b below 0; without cancellation."""
    return 2 * c / (-b + jnp.sqrt(b**2 - 4 * a * c))


def center_targets(
    boxes: Float[Array, "batch most 4"],
    box_class: Int[Array, "batch most"],
    *,
    shape: tuple[int, int, int],
    stride: int,
    overlap: float,
) -> CenterTargets:
    """What the maps of images with these objects should be.

    Args:
      boxes: top, left, bottom and right edge of each object in pixels.
      box_class: of each, from 0 on, negative in rows without an object. A box without an area is
        none.
      shape: rows, columns and classes of the heat map.
      stride: pixels a side of one of its cells.
      overlap: see `gaussian_radius`; a bump's standard deviation is a third of its radius and half
        a cell.
    """
    rows, columns, classes = shape
    corners = boxes / stride
    size = corners[..., 2:] - corners[..., :2]
    present = (box_class >= 0) & (box_class < classes) & jnp.all(size > 0, axis=-1)
    size = jnp.where(present[..., None], size, 1.0)
    center = (corners[..., :2] + corners[..., 2:]) / 2
    cell = jnp.clip(jnp.floor(center), 0, jnp.array([[[rows - 1, columns - 1]]]))

    deviation = (2 * gaussian_radius(size[..., 0], size[..., 1], overlap) + 1) / 6
    down, across = (
        jnp.exp(
            -jnp.square(jnp.arange(n)[None, None] - cell[..., axis, None])
            / (2 * jnp.square(deviation[..., None]))
        )
        for axis, n in enumerate((rows, columns))
    )
    one_hot = (box_class[..., None] == jnp.arange(classes)[None, None]) & present[..., None]

    def with_bump(heat: Array, row: tuple[Array, Array, Array]) -> tuple[Array, None]:
        down, across, one_hot = row
        bump = down[:, :, None, None] * across[:, None, :, None]
        return jnp.maximum(heat, jnp.where(one_hot[:, None, None, :], bump, 0.0)), None

    # One object after the other: all bumps at once would be as many heat maps.
    by_row = jax.tree.map(lambda a: jnp.moveaxis(a, 1, 0), (down, across, one_hot))
    heat, _ = jax.lax.scan(with_bump, jnp.zeros((len(boxes), *shape)), by_row)
    return CenterTargets(
        heat=heat,
        places=(cell[..., 0] * columns + cell[..., 1]).astype(jnp.int32),
        log_size=jnp.log(size),
        offset=center - cell,
        present=present,
    )


def center_losses(maps: CenterMaps, targets: CenterTargets) -> dict[str, Float[Array, ""]]:
    """The three terms of equation 4, each a sum over the objects by their number in the whole batch.

    Returns:
      "heat_loss", the focal loss of equation 1 (which sums over all places); "size_loss" and
      "offset_loss", the absolute differences at the objects' centres, of logarithms and in units of
      the stride. Unweighted; on each device of `pmap` such that their mean is the batch's. Without
      an object they are the sums.
    """
    total = mean_over_devices(jnp.sum(targets.present.astype(jnp.float32)))
    count = jnp.where(total > 0, total, 1 / number_of_devices())
    here, not_here = jax.nn.log_sigmoid(maps.heat), jax.nn.log_sigmoid(-maps.heat)
    focal = jnp.where(
        targets.heat == 1,
        jnp.exp(ALPHA * not_here) * here,
        (1 - targets.heat) ** BETA * jnp.exp(ALPHA * here) * not_here,
    )

    def distance(found: Array, wanted: Array) -> Array:
        flat = found.reshape(len(found), -1, found.shape[-1])
        at_centers = jnp.take_along_axis(flat, targets.places[..., None], axis=1)
        return jnp.sum(jnp.where(targets.present[..., None], jnp.abs(at_centers - wanted), 0.0))

    return {
        "heat_loss": -jnp.sum(focal) / count,
        "size_loss": distance(maps.log_size, targets.log_size) / count,
        "offset_loss": distance(maps.offset, targets.offset) / count,
    }


def detections(maps: CenterMaps, *, stride: int, most: int) -> Detections:
    """The highest peaks of the heat maps as boxes ("From points to bounding boxes", section 4).

    A peak is a place as high as its eight neighbours in the same map, the first of those that are equal;
    there is no other suppression.

    Args:
      maps: of a network.
      stride: pixels a side of a cell.
      most: detections an image; fewer where the maps have fewer numbers.
    """
    batch, rows, columns, classes = maps.heat.shape
    _, highest = max_pool_with_switches(maps.heat, 3, stride=1, padding="SAME")
    places = jnp.arange(rows * columns).reshape(1, rows, columns, 1)
    peaks = jnp.where(highest == places, maps.heat, -jnp.inf).reshape(batch, -1)
    logits, found = jax.lax.top_k(peaks, min(most, peaks.shape[1]))
    place = found // classes
    row, column = place // columns, place % columns

    def at_peaks(values: Array) -> Array:
        return jnp.take_along_axis(values.reshape(batch, -1, 2), place[..., None], axis=1)

    center = jnp.stack([row, column], axis=-1) + at_peaks(maps.offset)
    half = jnp.exp(at_peaks(maps.log_size)) / 2
    sides = stride * jnp.array([[[rows, columns] * 2]], jnp.float32)
    boxes = stride * jnp.concatenate([center - half, center + half], axis=-1)
    return Detections(
        boxes=jnp.clip(boxes, 0.0, sides),
        scores=jax.nn.sigmoid(logits),
        classes=jnp.where(logits > -jnp.inf, found % classes, -1).astype(jnp.int32),
    )
