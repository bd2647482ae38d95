"""Predictions for one image: class probabilities, a segmentation, or detections."""

import dataclasses
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import pycocotools.mask
from jaxtyping import Float, Int, UInt8

from deconv_jax.viz.overlays import (
    background_index,
    class_color,
    class_name,
    tint_by_class,
    with_boxes,
    with_legend,
)
from deconv_jax.viz.pixels import enlarge, rgb_pixels

Pixels = UInt8[np.ndarray, "height width channels"]
Picture = UInt8[np.ndarray, "picture_height picture_width 3"]

TOP_CLASSES = 5
"""Number of classes of a classifier that are drawn and written."""

_MIN_SIDE = 256
"""Minimum length of a picture's longer side, in pixels; smaller images are enlarged."""
_BAND = 512
"""Number of rows that are tinted or counted at a time, to limit memory."""


class Prediction(Protocol):
    """The prediction of a network for an image.

    A class without an entry in `names` is called by its number.
    """

    def coco_annotations(self) -> list[dict[str, Any]]:
        """Return COCO annotations, JSON-serializable, without "id" and "image_id"."""
        ...

    def draw(self, pixels: Pixels, names: Sequence[str]) -> Picture:
        """Return the image with the prediction drawn on it.

        An image whose longer side is below 256 pixels is enlarged by an integer factor.
        """
        ...

    def summary(self, names: Sequence[str]) -> str:
        """Return a short description."""
        ...


@dataclasses.dataclass(frozen=True, eq=False)
class ClassProbabilities:
    """The probability of each class."""

    probabilities: Float[np.ndarray, " classes"]

    def coco_annotations(self) -> list[dict[str, Any]]:
        """Return "category_id" and "score" of the five (`TOP_CLASSES`) most likely classes, best first."""
        return [
            {"category_id": number, "score": _round_score(self.probabilities[number])}
            for number in self._top_classes()
        ]

    def draw(self, pixels: Pixels, names: Sequence[str]) -> Picture:
        """Return the image, enlarged if it is small, beside a legend of its five most likely classes."""
        legend = [(class_color(n), self._label(n, names)) for n in self._top_classes()]
        return with_legend(_enlarge(pixels), legend)

    def summary(self, names: Sequence[str]) -> str:
        """Return the most likely class and its probability, as "cat: 0.912"."""
        return self._label(self._top_classes()[0], names)

    def _top_classes(self) -> list[int]:
        return np.argsort(-self.probabilities, kind="stable")[:TOP_CLASSES].tolist()

    def _label(self, number: int, names: Sequence[str]) -> str:
        return f"{class_name(number, names)}: {self.probabilities[number]:.3f}"


@dataclasses.dataclass(frozen=True, eq=False)
class SegmentationMap:
    """The class of each pixel, for at most 255 classes."""

    classes: UInt8[np.ndarray, "height width"]

    def coco_annotations(self) -> list[dict[str, Any]]:
        """Return an annotation for each class in the image, by increasing number.

        Its keys are "category_id", "segmentation" (run-length encoded), "area", "bbox" and "iscrowd".
        """
        return [self._annotation(number) for number in self._present()]

    def draw(self, pixels: Pixels, names: Sequence[str]) -> Picture:
        """Return the image tinted by class, enlarged if it is small, beside a legend.

        A class named "background" is neither tinted nor in the legend.
        """
        background = background_index(names)
        tinted = np.concatenate(
            [
                tint_by_class(pixels[b], self.classes[b], background=background)
                for b in self._bands()
            ]
        )
        legend = [
            (class_color(n), class_name(n, names)) for n in self._present() if n != background
        ]
        return with_legend(_enlarge(tinted), legend)

    def summary(self, names: Sequence[str]) -> str:
        """Return the fraction of pixels of each class in the image, as "sky: 31.0%, sea: 69.0%"."""
        shares = self._counts() / self.classes.size
        return ", ".join(f"{class_name(n, names)}: {shares[n]:.1%}" for n in self._present())

    def _present(self) -> list[int]:
        return np.flatnonzero(self._counts()).tolist()

    def _counts(self) -> Int[np.ndarray, " classes"]:
        """Return the number of pixels of each class from 0 to 255."""
        counts = [np.bincount(self.classes[b].reshape(-1), minlength=256) for b in self._bands()]
        return np.sum(counts, axis=0)

    def _bands(self) -> list[slice]:
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
    """Bounding boxes of objects, by descending score.

    Attributes:
      boxes: Top, left, bottom and right edge of each box, in pixels.
      scores: Score of each box, in [0, 1].
      classes: Class of each box.
    """

    boxes: Float[np.ndarray, "count 4"]
    scores: Float[np.ndarray, " count"]
    classes: Int[np.ndarray, " count"]

    def coco_annotations(self) -> list[dict[str, Any]]:
        """Return an annotation for each object, in order.

        Its keys are "category_id", "bbox" (left, top, width, height), "area", "iscrowd" and "score".
        """
        return [
            {
                "category_id": int(number),
                "bbox": [round(float(n), 3) for n in (left, top, right - left, bottom - top)],
                "area": round(float((right - left) * (bottom - top)), 3),
                "iscrowd": 0,
                "score": _round_score(score),
            }
            for (top, left, bottom, right), score, number in zip(
                self.boxes, self.scores, self.classes, strict=True
            )
        ]

    def draw(self, pixels: Pixels, names: Sequence[str]) -> Picture:
        """Return the image, enlarged if it is small, with boxes labeled by class and score."""
        return with_boxes(
            pixels,
            self.boxes,
            self.classes,
            scores=self.scores,
            names=names,
            scale=_scale_factor(pixels),
        )

    def summary(self, names: Sequence[str]) -> str:
        """Return the number of objects of each class, as "2 x cat, 1 x dog", or "nothing"."""
        counts = np.bincount(self.classes) if len(self.classes) else np.zeros(0, int)
        found = [f"{counts[n]} x {class_name(n, names)}" for n in np.flatnonzero(counts).tolist()]
        return ", ".join(found) or "nothing"


def _round_score(value: float) -> float:
    return round(float(value), 6)


def _scale_factor(pixels: Pixels) -> int:
    """Return the integer factor by which an image is enlarged for its picture."""
    return -(-_MIN_SIDE // max(pixels.shape[:2]))


def _enlarge(pixels: Pixels) -> Picture:
    return enlarge(rgb_pixels(pixels), _scale_factor(pixels))
