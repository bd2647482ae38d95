"""A trained recognition network at work on images of any size, and what it says in their own coordinates.

An image is brought to what the network learnt from: for a classifier to the size of its images (the largest
part in the middle that has their shape), for a network that was trained on a canvas into that canvas, its
aspect kept and black beside it; else it stays as large as it is, extended at the bottom and right by
mirroring, as the network and few compiled programs ask for. What is said about those parts is dropped. What
a reader would get wrong: classes of pixels are not enlarged, their probabilities are, so that borders between
classes are smooth in an image larger than the canvas.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import jax
import numpy as np
import pycocotools.mask
from jaxtyping import Array, Float, Int, UInt8
from PIL import Image

from deconv_jax.compilation import jit
from deconv_jax.data.annotations import Example, resize_example
from deconv_jax.data.images import Color
from deconv_jax.errors import InputError
from deconv_jax.inference.memory import free_memory, working_bytes
from deconv_jax.training.state import Tree
from deconv_jax.viz.overlays import (
    background_index,
    class_color,
    class_name,
    with_boxes,
    with_legend,
    with_segments,
)
from deconv_jax.viz.pixels import enlarge, rgb_pixels

Pixels = UInt8[np.ndarray, "height width channels"]
Predict = Callable[[Tree, Array], Mapping[str, Array]]
"""(variables, images (batch, height, width, channels) in [0, 1]) -> as a recognition task's `predict`."""

TOP = 5
"""ClassProbabilities of a classifier that are shown and written."""
ROUNDED_TO = 32
"""Sides that networks see are multiples of it, so that images of all sizes need few programs."""

_LEAST_SIDE = 256
"""Pixels that the longer side of a picture has at least: pixels of smaller images are repeated."""
_BAND = 512
"""Rows that are tinted or counted at a time."""


class Prediction(Protocol):
    """What a network says about an image."""

    def annotations(self) -> list[dict[str, Any]]:
        """In COCO's format, without "id" and "image_id"; "category_id" is the number of a class."""
        ...

    def picture(self, pixels: Pixels, names: Sequence[str]) -> UInt8[np.ndarray, "rows columns 3"]:
        """The image with what was found in it."""
        ...

    def summary(self, names: Sequence[str]) -> str:
        """In a few words."""
        ...


@dataclasses.dataclass(frozen=True, eq=False)
class ClassProbabilities:
    """The probability of each class."""

    probabilities: Float[np.ndarray, " classes"]

    def annotations(self) -> list[dict[str, Any]]:
        """One for each of the `TOP` most likely classes, with its probability as "score"."""
        return [
            {"category_id": number, "score": _score(self.probabilities[number])}
            for number in self._best()
        ]

    def picture(self, pixels: Pixels, names: Sequence[str]) -> UInt8[np.ndarray, "rows columns 3"]:
        """The image beside its most likely classes."""
        return with_legend(
            _enlarged(pixels), [(class_color(n), self._word(n, names)) for n in self._best()]
        )

    def summary(self, names: Sequence[str]) -> str:
        """The most likely class."""
        return self._word(self._best()[0], names)

    def _best(self) -> list[int]:
        return np.argsort(-self.probabilities, kind="stable")[:TOP].tolist()

    def _word(self, number: int, names: Sequence[str]) -> str:
        return f"{class_name(number, names)}: {self.probabilities[number]:.3f}"


@dataclasses.dataclass(frozen=True, eq=False)
class SegmentationMap:
    """The class of each pixel, of at most 255 classes."""

    classes: UInt8[np.ndarray, "height width"]

    def annotations(self) -> list[dict[str, Any]]:
        """One for each class that a pixel has, its mask coded by runs."""
        return [self._annotation(number) for number in self._present()]

    def picture(self, pixels: Pixels, names: Sequence[str]) -> UInt8[np.ndarray, "rows columns 3"]:
        """The image, all classes but one called "background" tinted, beside their names."""
        background = background_index(names)
        tinted = np.concatenate(
            [
                with_segments(pixels[b], self.classes[b], background=background)
                for b in self._bands()
            ]
        )
        entries = [
            (class_color(n), class_name(n, names)) for n in self._present() if n != background
        ]
        return with_legend(_enlarged(tinted), entries)

    def summary(self, names: Sequence[str]) -> str:
        """The share of each class."""
        shares = self._counts() / self.classes.size
        return ", ".join(f"{class_name(n, names)}: {shares[n]:.1%}" for n in self._present())

    def _present(self) -> list[int]:
        return np.flatnonzero(self._counts()).tolist()

    def _counts(self) -> Int[np.ndarray, " classes"]:
        """Pixels of each number that a class can have."""
        counts = [np.bincount(self.classes[b].reshape(-1), minlength=256) for b in self._bands()]
        return np.sum(counts, axis=0)

    def _bands(self) -> list[slice]:
        """Of the rows: arrays of several bytes a pixel are made of one at a time."""
        return [slice(top, top + _BAND) for top in range(0, len(self.classes), _BAND)]

    def _annotation(self, number: int) -> dict[str, Any]:
        coded = pycocotools.mask.encode(np.asfortranarray(self.classes == number).view(np.uint8))
        return {
            "category_id": number,
            "segmentation": {"size": coded["size"], "counts": coded["counts"].decode("ascii")},
            "area": int(pycocotools.mask.area(coded)),
            "bbox": pycocotools.mask.toBbox(coded).tolist(),
            "iscrowd": 0,
        }


@dataclasses.dataclass(frozen=True, eq=False)
class Detections:
    """Boxes about objects, by falling score.

    Attributes:
      boxes: top, left, bottom, right, pixels.
      scores: in [0, 1].
      classes: of each.
    """

    boxes: Float[np.ndarray, "count 4"]
    scores: Float[np.ndarray, " count"]
    classes: Int[np.ndarray, " count"]

    def annotations(self) -> list[dict[str, Any]]:
        """One for each object; "bbox" is left, top, width, height."""
        return [
            {
                "category_id": int(number),
                "bbox": [round(float(n), 3) for n in (left, top, right - left, bottom - top)],
                "area": round(float((right - left) * (bottom - top)), 3),
                "iscrowd": 0,
                "score": _score(score),
            }
            for (top, left, bottom, right), score, number in zip(
                self.boxes, self.scores, self.classes, strict=True
            )
        ]

    def picture(self, pixels: Pixels, names: Sequence[str]) -> UInt8[np.ndarray, "rows columns 3"]:
        """The image with the boxes, their classes and scores."""
        return with_boxes(
            pixels, self.boxes, self.classes, scores=self.scores, names=names, scale=_scale(pixels)
        )

    def summary(self, names: Sequence[str]) -> str:
        """How many of each class."""
        counts = np.bincount(self.classes) if len(self.classes) else np.zeros(0, int)
        found = [f"{counts[n]} x {class_name(n, names)}" for n in np.flatnonzero(counts).tolist()]
        return ", ".join(found) or "nothing"


@dataclasses.dataclass(frozen=True, eq=False)
class Predictor:
    """A network at work.

    Attributes:
      predict: the task's.
      variables: that it takes.
      color: what image files are read as, to have the channels that it wants.
      class_names: one for each class.
      size: height and width that the middle of an image is resized to, for a classifier; or None.
      canvas: pixels a side of the square that images are resized to fit; None to leave their size.
      multiple: what the network's sides are multiples of.
      threshold: least score of a box.
    """

    predict: Predict
    variables: Tree
    color: Color
    class_names: tuple[str, ...]
    size: tuple[int, int] | None = None
    canvas: int | None = None
    multiple: int = 1
    threshold: float = 0.0
    _compiled: dict[tuple[int, ...], Any] = dataclasses.field(
        default_factory=dict, init=False, repr=False
    )

    def __call__(self, pixels: Pixels) -> Prediction:
        """What the network says about an image, of 1 or 3 channels as `color` says.

        Raises:
          InputError: the network would need more memory for it than there is.
        """
        whole = pixels.shape[0], pixels.shape[1]
        if self.size is not None:
            return ClassProbabilities(
                self._outputs(center_resize_pixels(pixels, self.size))["probabilities"][0]
            )
        small = (
            pixels if self.canvas is None else resize_example(Example(pixels), self.canvas).image
        )
        rows, columns = small.shape[:2]
        outputs = self._outputs(self._extended(small))
        if "boxes" in outputs:
            return self._objects(outputs, (rows, columns), whole)
        probabilities = outputs["probabilities"][0]
        if probabilities.ndim == 1:
            return ClassProbabilities(probabilities)
        return SegmentationMap(_most_likely(probabilities[:rows, :columns], whole))

    def _extended(self, pixels: Pixels) -> Float[np.ndarray, "rows columns channels"]:
        """In [0, 1], on the canvas or with sides of which there are not many."""
        step = math.lcm(self.multiple, ROUNDED_TO)
        sides = (self.canvas or -(-n // step) * step for n in pixels.shape[:2])
        more = [(0, side - n) for side, n in zip(sides, pixels.shape[:2], strict=True)]
        mode = "symmetric" if self.canvas is None else "constant"
        extended = np.pad(pixels, (*more, (0, 0)), mode=mode)  # type: ignore[call-overload]
        return extended.astype(np.float32) / 255.0

    def _outputs(self, image: Float[np.ndarray, "rows columns channels"]) -> dict[str, np.ndarray]:
        """What the network makes of an image, by a program of its shape that is made once."""
        images = image[None]
        if images.shape not in self._compiled:
            compiled = jit(self.predict).lower(self.variables, images).compile()
            self._compiled[images.shape] = compiled
        program = self._compiled[images.shape]
        needed, free = working_bytes(program), free_memory()
        if needed > free:
            raise InputError(
                f"the network needs {needed / 1e9:.1f} GB of memory for {image.shape[1]} x "
                f"{image.shape[0]} pixels, and {free / 1e9:.1f} GB are free; make the image smaller"
            )
        outputs = jax.device_get(program(self.variables, images))
        if not all(np.isfinite(values).all() for values in outputs.values()):
            raise InputError("the network's output is not finite for this image")
        return outputs

    def _objects(
        self, outputs: Mapping[str, np.ndarray], true: Sequence[int], whole: tuple[int, int]
    ) -> Detections:
        """Boxes in an image of a whole size of those in one of its true size."""
        boxes, scores, classes = (outputs[name][0] for name in ("boxes", "scores", "classes"))
        centers = (boxes[:, :2] + boxes[:, 2:]) / 2
        kept = (centers >= 0).all(axis=1) & (centers < np.array([true])).all(axis=1)
        kept &= (classes >= 0) & (scores >= self.threshold)
        factors = np.divide(whole, true)
        boxes = np.clip(boxes[kept] * np.tile(factors, 2)[None], 0.0, np.tile(whole, 2)[None])
        return Detections(boxes, scores[kept], classes[kept])


def center_resize_pixels(
    pixels: Pixels, size: tuple[int, int]
) -> Float[np.ndarray, "rows columns channels"]:
    """`augment.center_resize` of an image of any size, in [0, 1], without a program for each size."""
    height, width = pixels.shape[:2]
    scale = max(size[0] / height, size[1] / width)
    tall, wide = size[0] / scale, size[1] / scale
    top, left = (height - tall) / 2, (width - wide) / 2
    box = (max(left, 0.0), max(top, 0.0), min(left + wide, width), min(top + tall, height))
    return _resized(pixels.astype(np.float32) / 255.0, size, box)


def _resized(
    image: Float[np.ndarray, "height width channels"],
    size: Sequence[int],
    box: tuple[float, float, float, float] | None = None,
) -> Float[np.ndarray, "rows columns channels"]:
    """Antialiased bilinear, each channel by itself, in single precision.

    Args:
      image: of any values.
      size: height and width of the result.
      box: left, top, right and bottom of the part that is taken; None for all.
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
    """The class of each pixel of an image whose probabilities are known at another size."""
    if probabilities.shape[:2] == size:
        return probabilities.argmax(axis=-1).astype(np.uint8)
    # Class after class, for all at the size of a large image would take memory.
    most, classes = np.full(size, -np.inf, np.float32), np.zeros(size, np.uint8)
    for number in range(probabilities.shape[-1]):
        enlarged = _resized(probabilities[..., number : number + 1], size)[..., 0]
        better = enlarged > most
        most[better], classes[better] = enlarged[better], number
    return classes


def _score(value: float) -> float:
    return round(float(value), 6)


def _scale(pixels: Pixels) -> int:
    """Pixels a side that a picture shows a pixel with."""
    return -(-_LEAST_SIDE // max(pixels.shape[:2]))


def _enlarged(pixels: Pixels) -> UInt8[np.ndarray, "rows columns 3"]:
    """An image as its picture shows it."""
    scale = _scale(pixels)
    return enlarge(rgb_pixels(pixels), scale)
