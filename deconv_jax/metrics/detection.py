"""Average precision of object detection as defined by COCO (through `pycocotools`) and Pascal VOC.

Lin et al., "Microsoft COCO", arXiv:1405.0312, and Everingham et al., "The Pascal visual object classes
challenge", IJCV 2010, section 4.2. Detections are matched to objects of the same image and class in order
of falling score. A detection is a true positive if its intersection over union (IoU) with its object
reaches a threshold. COCO takes the unmatched object with the largest IoU. VOC takes the object with the
largest IoU, and the detection is a false positive if that object is matched already.

Note: Average precision ranks the detections of all images together; it is not a mean over images. It has
no score threshold, so dropping low scores can only lower it. "voc_map" is the 11-point interpolation of
VOC 2007. Box sides are right - left and bottom - top, without the 1 that VOC's own code adds.
"""

import contextlib
import io
from typing import Any

import numpy as np
from jaxtyping import Float, Integer
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from deconv_jax.errors import InputError
from deconv_jax.metrics.checks import check_finite

VOC_IOU_THRESHOLD = 0.5
VOC_RECALL_LEVELS = np.arange(11) / 10
"""Computed as k / 10, so that a recall of 3 / 10 reaches level 0.3; np.linspace gives 0.30000000000000004."""


def average_precision(
    boxes: Float[np.ndarray, "images detections 4"],
    scores: Float[np.ndarray, "images detections"],
    classes: Integer[np.ndarray, "images detections"],
    *,
    true_boxes: Float[np.ndarray, "images objects 4"],
    true_classes: Integer[np.ndarray, "images objects"],
) -> dict[str, float]:
    """Compare detections with ground truth; each metric is a mean over the classes that have objects.

    Args:
      boxes: Top, left, bottom and right edges of detections, in pixels.
      scores: Score of each detection.
      classes: Class of each detection from 0, -1 in rows without a detection.
      true_boxes: Edges of the objects.
      true_classes: Class of each object, -1 in rows without an object.

    Returns:
      Metrics in [0, 1] by name: "ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large", "ar" and
      "voc_map". All are 0 without detections. "ap" is COCO's average precision: the interpolated
      precision (the highest at a recall of at least r), averaged over r = 0, 0.01, ... 1 and over
      IoU thresholds 0.5, 0.55, ... 0.95; "ap50" and "ap75" are those at IoU 0.5 and 0.75.
      "ap_small", "ap_medium" and "ap_large" are restricted to objects of an area up to 32^2, from
      there to 96^2, and from there on, bounds included; the key is missing where there are none. "ar" is the mean recall over the
      same thresholds. "voc_map" is VOC 2007's mean average precision at IoU 0.5. The number of
      detections per class and image is not limited.

    Raises:
      InputError: No image has an object, or a box or score of a row with a class is not finite.
    """
    check_finite("boxes", boxes[classes >= 0])
    check_finite("scores", scores[classes >= 0])
    check_finite("true boxes", true_boxes[true_classes >= 0])
    # Rows without an object may hold any value.
    boxes = np.where(classes[..., None] >= 0, boxes, 0.0)
    true_boxes = np.where(true_classes[..., None] >= 0, true_boxes, 0.0)
    if not np.any(true_classes >= 0):
        raise InputError("average precision requires at least one object; got 0 in all images")
    with contextlib.redirect_stdout(io.StringIO()):  # COCOeval prints its progress.
        evaluation = COCOeval(
            _annotations(true_boxes, true_classes), _annotations(boxes, classes, scores), "bbox"
        )
        evaluation.params.maxDets = [boxes.shape[1]]
        evaluation.evaluate()
        evaluation.accumulate()
        coco = evaluation.eval
    thresholds = list(evaluation.params.iouThrs.round(2))
    areas = evaluation.params.areaRngLbl
    precision = coco["precision"]  # IoU threshold, recall, class, area, limit of detections
    all_areas = precision[:, :, :, areas.index("all")]
    by_area = {
        f"ap_{name}": _mean(precision[:, :, :, areas.index(name)])
        for name in ("small", "medium", "large")
    }
    return {
        "ap": _mean(all_areas),
        "ap50": _mean(all_areas[thresholds.index(0.5)]),
        "ap75": _mean(all_areas[thresholds.index(0.75)]),
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
    """Return VOC 2007's average precision, mean over the classes that have objects."""
    best_iou, best_object = np.zeros(scores.shape), np.zeros(scores.shape, int)
    for image, same_class in enumerate(classes[:, :, None] == true_classes[:, None]):
        iou = np.where(same_class, _iou(boxes[image], true_boxes[image]), 0.0)
        best_iou[image], best_object[image] = iou.max(axis=1), iou.argmax(axis=1)
    objects = best_object + np.arange(len(boxes))[:, None] * true_boxes.shape[1]
    class_averages = []
    for number in np.unique(true_classes[true_classes >= 0]):
        detected = classes == number
        ranking = np.argsort(-scores[detected], kind="stable")
        matching = np.flatnonzero(best_iou[detected][ranking] >= VOC_IOU_THRESHOLD)
        # Only the first match of an object is a true positive.
        _, first = np.unique(objects[detected][ranking][matching], return_index=True)
        true_positives = np.cumsum(np.isin(np.arange(len(ranking)), matching[first]))
        recall = true_positives / np.sum(true_classes == number)
        precision = true_positives / np.arange(1, len(true_positives) + 1)
        points = [np.max(precision[recall >= level], initial=0.0) for level in VOC_RECALL_LEVELS]
        class_averages.append(np.mean(points))
    return float(np.mean(class_averages))


def _iou(
    boxes: Float[np.ndarray, "detections 4"], others: Float[np.ndarray, "objects 4"]
) -> Float[np.ndarray, "detections objects"]:
    """Return intersection over union, 0 where the union has no area."""
    starts = np.maximum(boxes[:, None, :2], others[None, :, :2])
    sides = np.minimum(boxes[:, None, 2:], others[None, :, 2:]) - starts
    intersection = np.prod(np.maximum(sides, 0.0), axis=-1)
    areas, other_areas = (np.prod(b[:, 2:] - b[:, :2], axis=-1) for b in (boxes, others))
    union = areas[:, None] + other_areas[None] - intersection
    return np.divide(intersection, union, out=np.zeros_like(intersection), where=union > 0)


def _mean(values: np.ndarray) -> float:
    """Return the mean without COCO's -1 for classes without objects; NaN if nothing is left."""
    counted = values[values > -1]
    return float(counted.mean()) if counted.size else float("nan")


def _annotations(boxes: np.ndarray, classes: np.ndarray, scores: np.ndarray | None = None) -> COCO:
    """Return the rows with a class as a `pycocotools` data set."""
    annotations: list[dict[str, Any]] = []
    for image, row in np.argwhere(classes >= 0).tolist():
        top, left, bottom, right = boxes[image, row].tolist()
        annotation = {
            "id": len(annotations) + 1,  # COCOeval uses 0 for "no match".
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
