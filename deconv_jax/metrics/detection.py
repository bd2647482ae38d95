"""Average precision of detected objects, as COCO (by `pycocotools`) and as Pascal VOC define it.

Lin et al., "Microsoft COCO", arXiv:1405.0312, and Everingham et al., "The Pascal visual object classes
challenge", IJCV 2010, section 4.2. Detections are taken by falling score; one is right if it overlaps an
object of its image and class, which no detection before it has taken, by at least a given intersection
over union: for COCO the one of those left that it overlaps most, for VOC the one of all, so that a
detection is wrong if that is taken already.

What a reader would get wrong: average precision is of the ranking over all images. It has no threshold on
the score, so that cutting off low scores can only lower it, and it is no mean of measures of images. Of
VOC's two variants it is here that of 2007: the mean of the highest precision at recall 0, 0.1, ... 1 or
more; boxes are measured between edges, where VOC's own code counts the pixels of both.
"""

import contextlib
import io
from typing import Any

import numpy as np
from jaxtyping import Float, Integer
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from deconv_jax.errors import InputError
from deconv_jax.metrics.finite import check_finite

VOC_OVERLAP = 0.5
VOC_RECALLS = np.arange(11) / 10
"""Divided, as a recall is: 3 of 10 is 0.3, and np.linspace's 0.30000000000000004 is more."""


def average_precision(
    boxes: Float[np.ndarray, "images found 4"],
    scores: Float[np.ndarray, "images found"],
    classes: Integer[np.ndarray, "images found"],
    *,
    true_boxes: Float[np.ndarray, "images most 4"],
    true_classes: Integer[np.ndarray, "images most"],
) -> dict[str, float]:
    """Measures of detections against what is true; each a mean over the classes that have objects.

    Args:
      boxes: found, top, left, bottom and right edge in pixels.
      scores: of each.
      classes: of each, from 0 on; -1 in rows without a detection.
      true_boxes: of the objects, likewise.
      true_classes: of the objects, -1 in rows without one.

    Returns:
      In [0, 1]. "ap" is COCO's: the mean over intersection over union 0.5, 0.55, ... 0.95 of the
      mean of the highest precision at recall 0, 0.01, ... 1 or more; "ap50" and "ap75" at 0.5 and
      0.75 alone; "ap_small", "ap_medium" and "ap_large" of objects of an area below 32^2, below 96^2
      and above, left out where there are none. "ar" is the mean of the recall over the same overlaps.
      All count at most `found` detections of each class an image. "voc_map" see above, at 0.5.

    Raises:
      InputError: there is no object in any image; or a box or a score of a row with a class is
        not finite.
    """
    check_finite("boxes", boxes[classes >= 0])
    check_finite("scores", scores[classes >= 0])
    check_finite("true boxes", true_boxes[true_classes >= 0])
    # Rows without an object may hold anything.
    boxes = np.where(classes[..., None] >= 0, boxes, 0.0)
    true_boxes = np.where(true_classes[..., None] >= 0, true_boxes, 0.0)
    if not np.any(true_classes >= 0):
        raise InputError("average precision is of objects; there is none in any image")
    with contextlib.redirect_stdout(io.StringIO()):  # It tells of every step.
        evaluation = COCOeval(
            _annotations(true_boxes, true_classes), _annotations(boxes, classes, scores), "bbox"
        )
        evaluation.params.maxDets = [boxes.shape[1]]
        evaluation.evaluate()
        evaluation.accumulate()
        coco = evaluation.eval
    overlaps = list(evaluation.params.iouThrs.round(2))
    areas = evaluation.params.areaRngLbl
    precision = coco["precision"]  # overlap, recall, class, area, most detections
    every = precision[:, :, :, areas.index("all")]
    half = overlaps.index(0.5)
    by_area = {
        f"ap_{name}": _mean(precision[:, :, :, areas.index(name)])
        for name in ("small", "medium", "large")
    }
    return {
        "ap": _mean(every),
        "ap50": _mean(every[half]),
        "ap75": _mean(every[overlaps.index(0.75)]),
        **{name: value for name, value in by_area.items() if not np.isnan(value)},
        "ar": _mean(coco["recall"][:, :, areas.index("all")]),
        "voc_map": _voc_map(boxes, scores, classes, true_boxes, true_classes),
    }


def _voc_map(
    boxes: np.ndarray,
    scores: np.ndarray,
    classes: np.ndarray,
    true_boxes: np.ndarray,
    true_classes: np.ndarray,
) -> float:
    """The mean over the classes with objects of VOC's average precision; see `average_precision`."""
    highest, largest = np.zeros(scores.shape), np.zeros(scores.shape, int)
    for image, same_class in enumerate(classes[:, :, None] == true_classes[:, None]):
        overlaps = np.where(same_class, _overlaps(boxes[image], true_boxes[image]), 0.0)
        highest[image], largest[image] = overlaps.max(axis=1), overlaps.argmax(axis=1)
    objects = largest + np.arange(len(boxes))[:, None] * true_boxes.shape[1]
    of_classes = []
    for number in np.unique(true_classes[true_classes >= 0]):
        found = classes == number
        ranked = np.argsort(-scores[found], kind="stable")
        near = np.flatnonzero(highest[found][ranked] >= VOC_OVERLAP)
        _, first = np.unique(objects[found][ranked][near], return_index=True)
        right = np.cumsum(np.isin(np.arange(len(ranked)), near[first]))
        recall = right / np.sum(true_classes == number)
        precision = right / np.arange(1, len(right) + 1)
        points = [np.max(precision[recall >= least], initial=0.0) for least in VOC_RECALLS]
        of_classes.append(np.mean(points))
    return float(np.mean(of_classes))


def _overlaps(
    boxes: Float[np.ndarray, "found 4"], others: Float[np.ndarray, "most 4"]
) -> Float[np.ndarray, "found most"]:
    """Intersection over union; 0 of boxes without an area."""
    starts = np.maximum(boxes[:, None, :2], others[None, :, :2])
    sides = np.minimum(boxes[:, None, 2:], others[None, :, 2:]) - starts
    both = np.prod(np.maximum(sides, 0.0), axis=-1)
    areas, other_areas = (np.prod(b[:, 2:] - b[:, :2], axis=-1) for b in (boxes, others))
    union = areas[:, None] + other_areas[None] - both
    return np.divide(both, union, out=np.zeros_like(both), where=union > 0)


def _mean(values: np.ndarray) -> float:
    """The mean over the classes with objects, whose values are not -1; NaN if there is none."""
    counted = values[values > -1]
    return float(counted.mean()) if counted.size else float("nan")


def _annotations(boxes: np.ndarray, classes: np.ndarray, scores: np.ndarray | None = None) -> COCO:
    """Rows with a class as `pycocotools` holds them."""
    annotations: list[dict[str, Any]] = []
    for image, row in np.argwhere(classes >= 0).tolist():
        top, left, bottom, right = boxes[image, row].tolist()
        annotation = {
            "id": len(annotations) + 1,  # 0 is how a match with nothing is written.
            "image_id": image,
            "category_id": int(classes[image, row]),
            "bbox": [left, top, right - left, bottom - top],
            "area": (right - left) * (bottom - top),
            "iscrowd": 0,
        }
        score = {} if scores is None else {"score": float(scores[image, row])}
        annotations.append(annotation | score)
    coco = COCO()
    coco.dataset = {
        "images": [{"id": image} for image in range(len(classes))],
        "categories": [{"id": int(number)} for number in np.unique(classes) if number >= 0],
        "annotations": annotations,
    }
    coco.createIndex()
    return coco
