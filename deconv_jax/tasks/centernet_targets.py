"""CenterNet: training targets from boxes, losses, and decoding of detections.

Zhou et al., "Objects as Points", arXiv:1904.07850, section 3. All functions run on the device with fixed
shapes: boxes are padded with empty rows, and every image has the same number of detections.

Note: The Gaussian radius follows the rule of Law and Deng ("CornerNet", arXiv:1808.01244, section 3.1):
both corners of a box may move by the radius while the IoU stays above a threshold. Each case is a
quadratic equation a r^2 + b r + c = 0, whose smaller root is the radius. The authors' code divides by 2
instead of 2 a, and takes the larger root in two of the three cases; at an IoU of 0.7 its radii are 3.3
to 4 times as large.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Int32

from deconv_jax.models.centernet import CenterMaps
from deconv_jax.ops.collectives import mean_over_devices, number_of_devices
from deconv_jax.ops.pool import max_pool_with_switches

ALPHA, BETA = 2, 4
"""Exponents of the focal loss (equation 1)."""


class CenterTargets(NamedTuple):
    """Training targets of the maps.

    Attributes:
      heat: Heat map of each class: 1 at object centers, with a Gaussian falloff (section 3, before
        equation 1); the maximum where Gaussians overlap.
      cell_index: Flat row-major index of the cell of each object's center.
      log_size, offset: Size and offset of each object, see `CenterMaps`.
      present: Whether the row holds an object; `cell_index`, `log_size` and `offset` of empty rows are
        undefined.
    """

    heat: Float[Array, "batch rows columns classes"]
    cell_index: Int32[Array, "batch max_boxes"]
    log_size: Float[Array, "batch max_boxes 2"]
    offset: Float[Array, "batch max_boxes 2"]
    present: Bool[Array, "batch max_boxes"]


class Detections(NamedTuple):
    """Detected objects of each image, by descending score.

    Attributes:
      boxes: Top, left, bottom and right edges in pixels, clipped to the image.
      scores: Scores in [0, 1]; 0 in empty rows.
      classes: Class indices; -1 in empty rows.
    """

    boxes: Float[Array, "batch max_detections 4"]
    scores: Float[Array, "batch max_detections"]
    classes: Int32[Array, "batch max_detections"]


def gaussian_radius(
    height: Float[Array, "*shape"], width: Float[Array, "*shape"], gaussian_iou: float
) -> Float[Array, "*shape"]:
    """Return the largest shift of both corners of a box for which its IoU with the original is large enough.

    The radius is the minimum over three cases: both corners move in the same direction, inward, or
    outward.

    Args:
      height: Height of the box, positive, in any unit.
      width: Width of the box, in the same unit.
      gaussian_iou: Minimum IoU of the moved and the original box, in (0, 1).
    """
    area, perimeter = height * width, height + width
    shifted = _smaller_root(1.0, -perimeter, area * (1 - gaussian_iou) / (1 + gaussian_iou))
    inward = _smaller_root(4.0, -2 * perimeter, area * (1 - gaussian_iou))
    outward = _smaller_root(
        -4 * gaussian_iou, -2 * gaussian_iou * perimeter, area * (1 - gaussian_iou)
    )
    return jnp.minimum(shifted, jnp.minimum(inward, outward))


def _smaller_root(a: float, b: Array, c: Array) -> Array:
    """Return the root of a r^2 + b r + c nearer to 0, for b < 0, in a form without cancellation."""
    return 2 * c / (-b + jnp.sqrt(b**2 - 4 * a * c))


def center_targets(
    boxes: Float[Array, "batch max_boxes 4"],
    box_class: Int[Array, "batch max_boxes"],
    *,
    shape: tuple[int, int, int],
    stride: int,
    gaussian_iou: float,
) -> CenterTargets:
    """Return the training targets for boxes.

    Args:
      boxes: Top, left, bottom and right edges of each object in pixels. Boxes without a positive
        height and width are ignored. A center outside the heat map goes to the nearest border cell.
      box_class: Class of each box; negative in empty rows. Boxes of classes that the heat maps lack are
        ignored.
      shape: Rows, columns and classes of the heat maps.
      stride: Pixels per heat-map cell along each axis.
      gaussian_iou: See `gaussian_radius`; a Gaussian's standard deviation is (2 radius + 1) / 6.
    """
    rows, columns, classes = shape
    corners = boxes / stride
    size = corners[..., 2:] - corners[..., :2]
    present = (box_class >= 0) & (box_class < classes) & jnp.all(size > 0, axis=-1)
    size = jnp.where(present[..., None], size, 1.0)
    center = (corners[..., :2] + corners[..., 2:]) / 2
    cell = jnp.clip(jnp.floor(center), 0, jnp.array([[[rows - 1, columns - 1]]]))

    deviation = (2 * gaussian_radius(size[..., 0], size[..., 1], gaussian_iou) + 1) / 6
    row_profile, column_profile = (
        jnp.exp(
            -jnp.square(jnp.arange(n)[None, None] - cell[..., axis, None])
            / (2 * jnp.square(deviation[..., None]))
        )
        for axis, n in enumerate((rows, columns))
    )
    one_hot = (box_class[..., None] == jnp.arange(classes)[None, None]) & present[..., None]

    def add_gaussian(heat: Array, box: tuple[Array, Array, Array]) -> tuple[Array, None]:
        row_profile, column_profile, one_hot = box
        gaussian = row_profile[:, :, None, None] * column_profile[:, None, :, None]
        return jnp.maximum(heat, jnp.where(one_hot[:, None, None, :], gaussian, 0.0)), None

    # A scan over the boxes, because all Gaussians at once take the memory of max_boxes heat maps.
    per_box = jax.tree.map(lambda a: jnp.moveaxis(a, 1, 0), (row_profile, column_profile, one_hot))
    heat, _ = jax.lax.scan(add_gaussian, jnp.zeros((len(boxes), *shape)), per_box)
    return CenterTargets(
        heat=heat,
        cell_index=(cell[..., 0] * columns + cell[..., 1]).astype(jnp.int32),
        log_size=jnp.log(size),
        offset=center - cell,
        present=present,
    )


def center_losses(maps: CenterMaps, targets: CenterTargets) -> dict[str, Float[Array, ""]]:
    """Return the three terms of equation 4, unweighted.

    Each term is a sum divided by the number of objects in the whole batch, or by 1 if there are none.

    Args:
      maps: Output of a network; `heat` holds logits.
      targets: Targets of the same shapes, from `center_targets`.

    Returns:
      "heat_loss", the focal loss of equation 1 summed over all cells; "size_loss" and
      "offset_loss", L1 losses at the object centers, of the log sizes and of the offsets in cells.
      Under `pmap` the mean over devices is the loss of the batch.
    """
    total = mean_over_devices(jnp.sum(targets.present.astype(jnp.float32)))
    count = jnp.where(total > 0, total, 1 / number_of_devices())
    log_p, log_not_p = jax.nn.log_sigmoid(maps.heat), jax.nn.log_sigmoid(-maps.heat)
    focal = jnp.where(
        targets.heat == 1,
        jnp.exp(ALPHA * log_not_p) * log_p,
        (1 - targets.heat) ** BETA * jnp.exp(ALPHA * log_p) * log_not_p,
    )

    def l1_at_centers(values: Array, target: Array) -> Array:
        flat = values.reshape(len(values), -1, values.shape[-1])
        at_centers = jnp.take_along_axis(flat, targets.cell_index[..., None], axis=1)
        return jnp.sum(jnp.where(targets.present[..., None], jnp.abs(at_centers - target), 0.0))

    return {
        "heat_loss": -jnp.sum(focal) / count,
        "size_loss": l1_at_centers(maps.log_size, targets.log_size) / count,
        "offset_loss": l1_at_centers(maps.offset, targets.offset) / count,
    }


def decode_detections(maps: CenterMaps, *, stride: int, max_detections: int) -> Detections:
    """Decode the highest peaks of the heat maps to boxes (section 4, "From points to bounding boxes").

    A peak is a cell that is at least as high as its eight neighbors in the same heat map; among equal
    neighbors the first one counts. There is no other non-maximum suppression and no score threshold.

    Args:
      maps: Output of a network.
      stride: Pixels per heat-map cell along each axis.
      max_detections: Number of rows per image; fewer if the heat maps have fewer entries. Rows beyond
        the number of peaks are empty.
    """
    batch, rows, columns, classes = maps.heat.shape
    _, argmax = max_pool_with_switches(maps.heat, 3, stride=1, padding="SAME")
    cells = jnp.arange(rows * columns).reshape(1, rows, columns, 1)
    peaks = jnp.where(argmax == cells, maps.heat, -jnp.inf).reshape(batch, -1)
    logits, entry = jax.lax.top_k(peaks, min(max_detections, peaks.shape[1]))
    cell = entry // classes
    row, column = cell // columns, cell % columns

    def at_peaks(values: Array) -> Array:
        return jnp.take_along_axis(values.reshape(batch, -1, 2), cell[..., None], axis=1)

    center = jnp.stack([row, column], axis=-1) + at_peaks(maps.offset)
    half = jnp.exp(at_peaks(maps.log_size)) / 2
    sides = stride * jnp.array([[[rows, columns] * 2]], jnp.float32)
    boxes = stride * jnp.concatenate([center - half, center + half], axis=-1)
    return Detections(
        boxes=jnp.clip(boxes, 0.0, sides),
        scores=jax.nn.sigmoid(logits),
        classes=jnp.where(logits > -jnp.inf, entry % classes, -1).astype(jnp.int32),
    )
