"""COCO's own reader returns the predictions that were written."""

import json

import numpy as np
import pycocotools.mask
import pytest
from pycocotools.coco import COCO

from deconv_jax.inference.recognition.coco import PredictedImage, coco_dict
from deconv_jax.inference.recognition.predictions import (
    ClassProbabilities,
    Detections,
    SegmentationMap,
)
from deconv_jax.io import write_json

NAMES = ("background", "cat", "dog", "elk", "fox", "gnu", "hen")


@pytest.fixture
def coco(tmp_path):
    """Function that writes predictions and reads them with COCO's own reader."""

    def read(*predictions):
        sizes = [(40, 30), (20, 50), (7, 9)]
        images = [
            PredictedImage(f"{i}.png", sizes[i], p.coco_annotations(), p.summary(NAMES))
            for i, p in enumerate(predictions)
        ]
        path = tmp_path / "predictions.json"
        write_json(path, coco_dict(images, NAMES))
        return COCO(path)

    return read


# pycocotools 2 uses a deprecated array protocol.
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_masks_round_trip(coco):
    random = np.random.default_rng(0)
    classes = [random.integers(0, 4, size).astype(np.uint8) for size in ((40, 30), (20, 50))]
    read = coco(*map(SegmentationMap, classes))
    assert [read.imgs[n]["file_name"] for n in (1, 2)] == ["0.png", "1.png"]
    assert [category["name"] for category in read.loadCats(read.getCatIds())] == list(NAMES)
    for number, expected in enumerate(classes, 1):
        decoded = np.full(expected.shape, 255)
        for annotation in read.loadAnns(read.getAnnIds(imgIds=[number])):
            mask = read.annToMask(annotation) == 1
            assert (decoded[mask] == 255).all()
            decoded[mask] = annotation["category_id"]
            assert annotation["area"] == mask.sum()
            rows, columns = np.nonzero(mask)
            left, top, width, height = annotation["bbox"]
            assert (top, left) == (rows.min(), columns.min())
            assert (top + height, left + width) == (rows.max() + 1, columns.max() + 1)
        np.testing.assert_array_equal(decoded, expected)


def test_boxes_round_trip(coco):
    boxes = np.array([[1.5, 2, 11, 8], [0, 0, 20, 50]])
    found = Detections(boxes, np.array([0.75, 0.5]), np.array([3, 1]))
    read = coco(Detections(boxes[:0], np.zeros(0), np.zeros(0, int)), found)
    assert read.getAnnIds(imgIds=[1]) == []
    first, second = read.loadAnns(read.getAnnIds(imgIds=[2]))
    assert (first["id"], second["id"]) == (1, 2)
    assert (first["bbox"], first["area"]) == ([2, 1.5, 6, 9.5], 57)
    assert (first["score"], first["category_id"]) == (0.75, 3)
    assert (second["bbox"], second["area"]) == ([0, 0, 50, 20], 1000)
    overlap = pycocotools.mask.iou([first["bbox"]], [second["bbox"]], [0])
    assert overlap[0, 0] == pytest.approx(57 / 1000)
    # COCO's evaluation accepts the annotations as results.
    assert len(read.loadRes(list(map(read.anns.get, (1, 2)))).anns) == 2


def test_predictions_are_json(coco):
    found = ClassProbabilities(np.full(7, 1 / 7, np.float32))
    read = coco(found, SegmentationMap(np.zeros((20, 50), np.uint8)))
    assert json.loads(json.dumps(read.dataset)) == read.dataset
    assert len(read.getAnnIds(imgIds=[1])) == 5
    assert read.imgs[2] == {"id": 2, "file_name": "1.png", "height": 20, "width": 50}
