"""Predictions draw, summarize and convert themselves."""

import numpy as np
import pytest

from deconv_jax.inference.recognition import predictions
from deconv_jax.inference.recognition.predictions import ClassProbabilities, SegmentationMap
from deconv_jax.viz.overlays import class_color, tint_by_class
from deconv_jax.viz.pixels import rgb_pixels

NAMES = ("background", "cat", "dog", "elk", "fox", "gnu", "hen")


def random_pixels(*shape, seed=0):
    return np.random.default_rng((seed, *shape)).integers(0, 256, shape).astype(np.uint8)


def test_most_likely_classes_are_first():
    found = ClassProbabilities(np.array([0.05, 0.3, 0.02, 0.3, 0.11, 0.12, 0.1], np.float32))
    assert [a["category_id"] for a in found.coco_annotations()] == [1, 3, 5, 4, 6]
    scores = [annotation["score"] for annotation in found.coco_annotations()]
    assert scores == pytest.approx([0.3, 0.3, 0.12, 0.11, 0.1], abs=1e-6)
    assert found.summary(NAMES) == "cat: 0.300"
    pixels = random_pixels(16, 128, 1)
    picture = found.draw(pixels, NAMES)
    doubled = rgb_pixels(pixels).repeat(2, axis=0).repeat(2, axis=1)
    np.testing.assert_array_equal(picture[:32, :256], doubled)
    for number in (1, 3, 5, 4, 6):
        assert (picture[:, 256:] == class_color(number)).all(axis=-1).any()
    assert not (picture[:, 256:] == class_color(0)).all(axis=-1).any()


def test_segmentation_picture_is_the_tinted_image_with_a_legend(monkeypatch):
    monkeypatch.setattr(predictions, "_BAND", 100)
    pixels = random_pixels(256, 300, 3)
    classes = np.random.default_rng(0).integers(0, 3, (256, 300)).astype(np.uint8)
    picture = SegmentationMap(classes).draw(pixels, NAMES)
    np.testing.assert_array_equal(picture[:256, :300], tint_by_class(pixels, classes))
    shown = [(picture[:, 300:] == class_color(n)).all(axis=-1).any() for n in range(4)]
    assert shown == [False, True, True, False]
    legend = SegmentationMap(classes).draw(pixels, ("pet", "background", "border"))[:, 300:]
    shown = [(legend == class_color(n)).all(axis=-1).any() for n in range(4)]
    assert shown == [True, False, True, False]
    quarter = np.zeros((256, 4), np.uint8)
    quarter[:128, :2] = 2
    assert SegmentationMap(quarter).summary(NAMES) == "background: 75.0%, dog: 25.0%"
    assert [a["area"] for a in SegmentationMap(quarter).coco_annotations()] == [768, 256]
