"""An annotated image, resized together with its annotations and padded to a batch."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

from deconv_jax.data.batch import IGNORED, HostBatch
from deconv_jax.errors import at_least


class Example(NamedTuple):
    """An image with its annotations.

    Attributes:
      image: uint8 (height, width, channels).
      segments: Class of each pixel, uint8 (height, width); None if unknown.
      boxes: Top, left, bottom and right edges in pixels, float32 (count, 4); None if unknown.
      box_class: Class of each box, int32 (count,); None without boxes.
    """

    image: np.ndarray
    segments: np.ndarray | None = None
    boxes: np.ndarray | None = None
    box_class: np.ndarray | None = None


def resize_example(example: Example, side: int) -> Example:
    """Shrink or enlarge an example so that its longer side is `side` pixels, and keep the aspect ratio.

    Images are resampled by antialiased bilinear interpolation, segments by the nearest pixel. Boxes are
    scaled. The shorter side is rounded, to at least one pixel.

    Raises:
      InputError: `side` is less than 1.
    """
    at_least("canvas", side, 1)
    height, width = example.image.shape[:2]
    factor = side / max(height, width)
    to = (max(1, round(height * factor)), max(1, round(width * factor)))
    image, segments, boxes = example.image, example.segments, example.boxes
    if to != (height, width):
        image = _resize(image, to, Image.Resampling.BILINEAR)
        if segments is not None:
            segments = _resize(segments[..., None], to, Image.Resampling.NEAREST)[..., 0]
        if boxes is not None:
            boxes = boxes * np.array([to[0] / height, to[1] / width] * 2, np.float32)
    return Example(image, segments, boxes, example.box_class)


def _resize(pixels: np.ndarray, to: tuple[int, int], method: Image.Resampling) -> np.ndarray:
    """Resize uint8 pixels (height, width, 1 or 3)."""
    image = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
    return np.asarray(image.resize(to[::-1], method)).reshape(*to, pixels.shape[-1])


def pad_to_batch(examples: Sequence[Example], shape: tuple[int, ...], max_boxes: int) -> HostBatch:
    """Pad examples to a batch, each at the top left of a canvas.

    Args:
      examples: One or more examples that all have the same kinds of annotations.
      shape: Height and width of the canvas, at least those of the images.
      max_boxes: Rows for boxes. If there are more boxes, the largest by area are kept, in their order.

    Returns:
      "image", padded with 0, and "size"; "segments", padded with `IGNORED`, if the examples have them; "boxes"
      and "box_class", with 0 and -1 in unused rows, if the examples have them.
    """
    count, channels = len(examples), examples[0].image.shape[-1]
    batch = {
        "image": np.zeros((count, *shape, channels), np.uint8),
        "size": np.array([example.image.shape[:2] for example in examples], np.int32),
    }
    if examples[0].segments is not None:
        batch["segments"] = np.full((count, *shape), IGNORED, np.uint8)
    if examples[0].boxes is not None:
        batch["boxes"] = np.zeros((count, max_boxes, 4), np.float32)
        batch["box_class"] = np.full((count, max_boxes), -1, np.int32)
    for row, example in enumerate(examples):
        height, width = example.image.shape[:2]
        batch["image"][row, :height, :width] = example.image
        if example.segments is not None:
            batch["segments"][row, :height, :width] = example.segments
        if example.boxes is not None and example.box_class is not None:
            tops, lefts, bottoms, rights = example.boxes.T
            areas = (bottoms - tops) * (rights - lefts)
            kept = np.sort(np.argsort(-areas, kind="stable")[:max_boxes])
            batch["boxes"][row, : len(kept)] = example.boxes[kept]
            batch["box_class"][row, : len(kept)] = example.box_class[kept]
    return batch
