"""The features of a batch, and the valid region of padded images."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

Batch = Mapping[str, jax.Array]
"""Features of the examples of a batch, by name. The batch axis comes first in every array.

    "image"       uint8 (batch, height, width, channels)
    "index"       int32 (batch,): position of the example in its split; random keys are folded from it
    "mask"        float32 (batch,), in evaluation: 1 for an example, 0 for padding of the last batch

A data set adds the features that it has:

    "label"       int32 (batch,): class of the image
    "digits"      int32 (batch, channels): class of each channel, in stacked data sets
    "input"       uint8 (batch, height / scale, width / scale, channels): given input of restoration, whose
                  target is "image"
    "size"        int32 (batch, 2): height and width of the valid region, at the top left of an image
                  that was padded; without "size" the whole image is valid
    "segments"    uint8 (batch, height, width): class of each pixel, or `IGNORED`
    "boxes"       float32 (batch, max_boxes, 4): top, left, bottom and right edges in pixels
    "box_class"   int32 (batch, max_boxes): class of each box; -1 in rows without an object
"""
HostBatch = dict[str, np.ndarray]
"""A `Batch` before it is placed on devices, as NumPy arrays."""

IGNORED = 255
"""Class of the pixels that neither the loss nor the metrics take into account."""


def valid_sizes(batch: Mapping[str, Any]) -> Any:
    """Return the height and width of the valid region of each image, int32 (batch, 2).

    These are the "size" of the batch, or without it the height and width of "image".
    """
    images = batch["image"]
    if "size" in batch:
        return batch["size"]
    return jnp.tile(jnp.array([images.shape[1:3]]), (len(images), 1))


def valid_mask(shape: tuple[int, int], size: Int[Array, " 2"]) -> Bool[Array, "height width"]:
    """Return True for the pixels of the valid region.

    Args:
      shape: Height and width of the padded image.
      size: Height and width of the valid region, at its top left.
    """
    rows, columns = (jnp.arange(n) for n in shape)
    return (rows < size[0])[:, None] & (columns < size[1])[None]
