"""Recognition networks applied to images of any size, with predictions in the image's coordinates.

The image is adapted to the network's training data:

    network                        input
    classifier of a fixed size     largest centered part with the aspect ratio of that size, resized
    trained on a padded canvas     resized to fit into the canvas, zero-padded
    any other                      original size, symmetrically padded at the bottom and right to a
                                   multiple of `SIDE_MULTIPLE` and of the network's stride

Predictions for padding are dropped. Segmentations are enlarged as probabilities rather than as
classes, so that borders between classes are smooth.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import jax
import numpy as np
from jaxtyping import Array, Float, UInt8
from PIL import Image

from deconv_jax.compilation import jit
from deconv_jax.data.annotations import Example, resize_example
from deconv_jax.data.images import Color
from deconv_jax.errors import InputError
from deconv_jax.inference.memory import free_memory, working_bytes
from deconv_jax.inference.recognition.predictions import (
    ClassProbabilities,
    Detections,
    Pixels,
    Prediction,
    SegmentationMap,
)
from deconv_jax.training.state import Tree

Predict = Callable[[Tree, Array], Mapping[str, Array]]
"""(variables, images in [0, 1]) -> output of a recognition task's `predict`."""

SIDE_MULTIPLE = 32
"""Divisor of input sides, so that images of all sizes need few programs."""


@dataclasses.dataclass(frozen=True, eq=False)
class Predictor:
    """A recognition network as a function of images of any size.

    Attributes:
      predict: Task method that applies the network.
      variables: Variables of the network.
      color: Color mode in which to read image files.
      class_names: Name of each class.
      size: Height and width of the input of a classifier of a fixed size; None for other networks.
      canvas: Side of the square canvas, in pixels; None for networks without a canvas.
      multiple: Divisor of the network's input sides.
      threshold: Minimum score of a box.
    """

    predict: Predict
    variables: Tree
    color: Color
    class_names: tuple[str, ...]
    size: tuple[int, int] | None = None
    canvas: int | None = None
    multiple: int = 1
    threshold: float = 0.0
    _programs: dict[tuple[int, ...], jax.stages.Compiled] = dataclasses.field(
        default_factory=dict, init=False, repr=False
    )

    def __call__(self, pixels: Pixels) -> Prediction:
        """Return the prediction for an image with the channels of `color`.

        It is `Detections` of a detector, with scores of at least `threshold`, `SegmentationMap` of a
        segmentation network, and otherwise `ClassProbabilities`.

        Raises:
          InputError: The output is not finite, or the network needs more memory than is free.
        """
        image_size = pixels.shape[0], pixels.shape[1]
        if self.size is not None:
            outputs = self._apply(center_resize_pixels(pixels, self.size))
            return ClassProbabilities(outputs["probabilities"][0])
        resized_pixels = pixels
        if self.canvas is not None:
            resized_pixels = resize_example(Example(pixels), self.canvas).image
        rows, columns = resized_pixels.shape[:2]
        outputs = self._apply(self._pad(resized_pixels))
        if "boxes" in outputs:
            return self._detections(outputs, (rows, columns), image_size)
        probabilities = outputs["probabilities"][0]
        if probabilities.ndim == 1:
            return ClassProbabilities(probabilities)
        return SegmentationMap(_most_likely(probabilities[:rows, :columns], image_size))

    def _pad(self, pixels: Pixels) -> Float[np.ndarray, "rows columns channels"]:
        """Return the image in [0, 1], padded to the canvas or to a multiple."""
        step = math.lcm(self.multiple, SIDE_MULTIPLE)
        sides = (self.canvas or -(-n // step) * step for n in pixels.shape[:2])
        missing = [(0, side - n) for side, n in zip(sides, pixels.shape[:2], strict=True)]
        mode: Literal["symmetric", "constant"] = "symmetric" if self.canvas is None else "constant"
        return np.pad(pixels, (*missing, (0, 0)), mode=mode).astype(np.float32) / 255.0

    def _apply(self, image: Float[np.ndarray, "rows columns channels"]) -> dict[str, np.ndarray]:
        """Return the network's output for an input, by a program compiled once per shape."""
        images = image[None]
        if images.shape not in self._programs:
            compiled = jit(self.predict).lower(self.variables, images).compile()
            self._programs[images.shape] = compiled
        program = self._programs[images.shape]
        needed, free = working_bytes(program), free_memory()
        if needed > free:
            raise InputError(
                f"the network needs {needed / 1e9:.1f} GB of memory for {image.shape[1]} x "
                f"{image.shape[0]} pixels, but {free / 1e9:.1f} GB are free; use a smaller image"
            )
        outputs = jax.device_get(program(self.variables, images))
        if not all(np.isfinite(values).all() for values in outputs.values()):
            raise InputError("the network's output is not finite for this image")
        return outputs

    def _detections(
        self,
        outputs: Mapping[str, np.ndarray],
        size: Sequence[int],
        image_size: tuple[int, int],
    ) -> Detections:
        """Return the boxes that are centered in the image, in its coordinates.

        Args:
          outputs: Output of the network.
          size: Height and width of the resized image, without padding.
          image_size: Height and width of the original image.
        """
        boxes, scores, classes = (outputs[name][0] for name in ("boxes", "scores", "classes"))
        centers = (boxes[:, :2] + boxes[:, 2:]) / 2
        kept = (centers >= 0).all(axis=1) & (centers < np.array([size])).all(axis=1)
        kept &= (classes >= 0) & (scores >= self.threshold)
        factors = np.divide(image_size, size)
        limits = np.tile(image_size, 2)[None]
        boxes = np.clip(boxes[kept] * np.tile(factors, 2)[None], 0.0, limits)
        return Detections(boxes, scores[kept], classes[kept])


def center_resize_pixels(
    pixels: Pixels, size: tuple[int, int]
) -> Float[np.ndarray, "rows columns channels"]:
    """Crop the largest centered part with the aspect ratio of `size` and resize it, on the host.

    Equals `augment.center_resize` for one image, in [0, 1], but needs no program for each size.
    """
    height, width = pixels.shape[:2]
    scale = max(size[0] / height, size[1] / width)
    crop_height, crop_width = size[0] / scale, size[1] / scale
    top, left = (height - crop_height) / 2, (width - crop_width) / 2
    bottom, right = min(top + crop_height, height), min(left + crop_width, width)
    box = (max(left, 0.0), max(top, 0.0), right, bottom)
    return _resize(pixels.astype(np.float32) / 255.0, size, box)


def _resize(
    image: Float[np.ndarray, "height width channels"],
    size: Sequence[int],
    box: tuple[float, float, float, float] | None = None,
) -> Float[np.ndarray, "rows columns channels"]:
    """Resize an image of any values by antialiased bilinear interpolation, in single precision.

    Args:
      image: Image to resize.
      size: Height and width of the result.
      box: Left, top, right and bottom edge of the part to resize; None for the whole image.
    """
    rows, columns = size
    channels = [
        Image.fromarray(channel).resize((columns, rows), Image.Resampling.BILINEAR, box=box)
        for channel in np.moveaxis(image, -1, 0)
    ]
    return np.stack([np.asarray(channel) for channel in channels], axis=-1)


def _most_likely(
    probabilities: Float[np.ndarray, "rows columns classes"], size: tuple[int, int]
) -> UInt8[np.ndarray, "height width"]:
    """Return the most likely class of each pixel, with the probabilities resized to `size`."""
    if probabilities.shape[:2] == size:
        return probabilities.argmax(axis=-1).astype(np.uint8)
    # One class at a time, because the probabilities of all at full size may not fit the memory.
    best, classes = np.full(size, -np.inf, np.float32), np.zeros(size, np.uint8)
    for number in range(probabilities.shape[-1]):
        enlarged = _resize(probabilities[..., number : number + 1], size)[..., 0]
        better = enlarged > best
        best[better], classes[better] = enlarged[better], number
    return classes
