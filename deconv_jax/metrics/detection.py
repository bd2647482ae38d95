"""Average precision of detected objects, as COCO and as Pascal VOC define it, by `pycocotools`.

Lin et al., "Microsoft COCO", arXiv:1405.0312, and Everingham et al., "The Pascal visual object classes
challenge", IJCV 2010, section 4.2. Detections are taken by falling score; one is right if it overlaps an
object of its image and class, which no detection before it has taken, by at least a given intersection
over union.

What a reader would get wrong: average precision is of the ranking over all images. It has no threshold on
the score, so that cutting off low scores can only lower it, and it is no mean of measures of images. Of
VOC's two variants it is here that of 2007: the mean of the highest precision at recall 0, 0.1, ... 1 or
more; boxes are measured between edges, where VOC's own code counts the pixels of both.
"""

import contextlib
import copy
import io
from typing import Any

import numpy as np
from jaxtyping import Float, Integer
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from deconv_jax.errors import InputError

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
      InputError: there is no object in any image.
    """
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
        voc_parameters = copy.deepcopy(evaluation.params)
        voc_parameters.recThrs = VOC_RECALLS
        evaluation.accumulate(voc_parameters)
        voc = evaluation.eval
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
        "voc_map": _mean(voc["precision"][half, :, :, areas.index("all")]),
    }


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
