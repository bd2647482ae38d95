"""Average precision against examples by hand, pycocotools on its own files, and its invariances."""

import contextlib
import io
import json

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from deconv_jax.errors import InputError
from deconv_jax.metrics.detection import average_precision

NOTHING = [0.0, 0.0, 0.0, 0.0]


def measured(found, true):
    """Return the metrics for lists of detections (box, score, class) and objects (box, class) per image."""

    def arrays(rows, absent):
        most = max(1, *map(len, rows))
        padded = [[*row, *[absent] * (most - len(row))] for row in rows]
        return [np.array([[one[i] for one in row] for row in padded]) for i in range(len(absent))]

    true_boxes, true_classes = arrays(true, (NOTHING, -1))
    return average_precision(
        *arrays(found, (NOTHING, 0.0, -1)), true_boxes=true_boxes, true_classes=true_classes
    )


def boxes_at(*lefts, side=10.0):
    """Return squares with these left edges."""
    return [[0.0, left, side, left + side] for left in lefts]


A, B, C, D = boxes_at(0, 20, 40, 60)
FAR = [200.0, 200.0, 210.0, 210.0]


def test_perfect_detections_score_one():
    true = [[(A, 0), (B, 1)], [(C, 0)]]
    found = [[(box, 0.5, c) for box, c in row] for row in true]
    result = measured(found, true)
    assert result == pytest.approx(dict.fromkeys(result, 1.0))


def test_detections_of_wrong_class_or_image_do_not_match():
    true = [[(A, 0)], [(B, 1)]]
    assert measured([[(A, 0.9, 1)], [(B, 0.9, 0)]], true)["ap50"] == 0
    assert measured([[(B, 0.9, 1)], [(A, 0.9, 0)]], true)["ap50"] == 0
    assert measured([[], []], true) == dict.fromkeys(measured([[], []], true), 0.0)


def test_precision_equals_a_ranking_by_hand():
    """TP, FP, TP, TP for four objects: recall 1/4 at precision 1, then up to 3/4 at precision 3/4."""
    true = [[(box, 0) for box in (A, B, C, D)]]
    found = [[(A, 0.9, 0), (FAR, 0.8, 0), (B, 0.7, 0), (C, 0.6, 0)]]
    result = measured(found, true)
    # Of 101 recall levels, the 26 up to 0.25 have precision 1, the next 50 up to 0.75 have 3/4.
    assert result["ap50"] == pytest.approx((26 * 1 + 50 * 0.75) / 101)
    assert result["ap"] == pytest.approx(result["ap50"])
    assert result["ar"] == pytest.approx(0.75)
    # Of 11 recall levels, three (0, 0.1, 0.2) have precision 1, five (0.3 to 0.7) have 3/4.
    assert result["voc_map"] == pytest.approx((3 * 1 + 5 * 0.75) / 11)


def test_recall_of_three_in_ten_reaches_the_fourth_voc_level():
    true = [[(box, 0) for box in boxes_at(*range(0, 200, 20))]]
    found = [[(box, 1.0 - i / 100, 0) for i, (box, _) in enumerate(true[0][:3])]]
    assert measured(found, true)["voc_map"] == pytest.approx(4 / 11)


def test_iou_decides_the_thresholds_at_which_a_box_matches():
    """A 10 x 8 box inside a 10 x 10 box has IoU 0.8 and matches at 7 of the 10 thresholds."""
    result = measured([[([0.0, 0.0, 10.0, 8.0], 0.5, 0)]], [[(A, 0)]])
    assert (result["ap50"], result["ap75"]) == pytest.approx((1, 1))
    assert (result["ap"], result["ar"]) == pytest.approx((7 / 10, 7 / 10))
    shifted = measured([[([0.0, 5.0, 10.0, 15.0], 0.5, 0)]], [[(A, 0)]])  # IoU 50 / 150.
    assert shifted["ap50"] == shifted["ap"] == 0


def test_object_is_matched_once():
    twice = [[(A, 0.9, 0), (A, 0.8, 0), (B, 0.7, 0)]]
    result = measured(twice, [[(A, 0), (B, 0)]])
    assert result["ap50"] == pytest.approx((51 + 50 * 2 / 3) / 101)


def test_mean_is_over_classes_with_objects():
    true = [[(A, 0), (B, 5)]]
    found = [[(A, 0.9, 0), (C, 0.8, 3), (D, 0.99, 7)]]
    assert measured(found, true)["ap50"] == pytest.approx(0.5)


def test_area_ranges_are_bounded_by_32_and_96_pixels_squared():
    small, medium, large = (
        boxes_at(0, side=31.0) + boxes_at(200, side=90.0) + boxes_at(500, side=100.0)
    )
    true = [[(small, 0), (medium, 0), (large, 0)]]
    result = measured([[(small, 0.9, 0), (large, 0.8, 0)]], true)
    by_area = [result[f"ap_{name}"] for name in ("small", "medium", "large")]
    assert by_area == pytest.approx([1, 0, 1])
    assert "ap_large" not in measured([[(small, 0.9, 0)]], [[(small, 0)]])


# Against pycocotools on its own files, and invariances


def random_scenes(seed, images=12, classes=3):
    """Return objects, and detections that are shifted or misclassified objects and noise."""
    random = np.random.default_rng(seed)

    def box():
        corner, sides = random.uniform(0, 300, 2), random.uniform(12, 150, 2)
        return np.concatenate([corner, corner + sides])

    found, true = [], []
    for _ in range(images):
        objects = [(box(), int(random.integers(classes))) for _ in range(random.integers(0, 6))]
        true.append([(b.tolist(), c) for b, c in objects])
        near = [
            ((b + random.uniform(-5, 5, 4)).tolist(), float(random.random()), (c + late) % classes)
            for b, c in objects
            for late in (0, 0, int(random.integers(classes)))
        ]
        noise = [(box().tolist(), float(random.random()), int(random.integers(classes)))]
        found.append(near + 2 * noise[: random.integers(2)])
    return found, true


def by_files(folder, found, true):
    """Run `COCOeval` on a file of annotations and a file of results."""

    def as_coco(box):
        top, left, bottom, right = box
        return [left, top, right - left, bottom - top]

    objects = [
        {"image_id": i, "category_id": c, "bbox": as_coco(b), "iscrowd": 0}
        | {"area": as_coco(b)[2] * as_coco(b)[3]}
        for i, row in enumerate(true, start=1)
        for b, c in row
    ]
    annotations = {
        "images": [{"id": i + 1} for i in range(len(true))],
        "categories": [{"id": c} for c in range(3)],
        "annotations": [{"id": n + 1} | o for n, o in enumerate(objects)],
    }
    results = [
        {"image_id": i, "category_id": c, "bbox": as_coco(b), "score": s}
        for i, row in enumerate(found, start=1)
        for b, s, c in row
    ]
    for name, content in (("true", annotations), ("found", results)):
        (folder / f"{name}.json").write_text(json.dumps(content))
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(str(folder / "true.json"))
        evaluation = COCOeval(coco, coco.loadRes(str(folder / "found.json")), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats


@pytest.mark.parametrize("seed", range(3))
def test_metrics_equal_those_of_pycocotools(tmp_path, seed):
    found, true = random_scenes(seed)
    result = measured(found, true)
    stats = by_files(tmp_path, found, true)
    for name, place in {
        "ap": 0,
        "ap50": 1,
        "ap75": 2,
        "ap_small": 3,
        "ap_medium": 4,
        "ap_large": 5,
        "ar": 8,
    }.items():
        assert result.get(name, -1) == pytest.approx(stats[place], abs=1e-9), name
    assert 0.1 < result["ap"] < result["ap50"] < 1, (
        "the scenes should be neither trivial nor hopeless"
    )


def voc_2007(found, true, category):
    """Compute the average precision of a class from the definition in the paper."""
    ranked = sorted(
        ((s, i, b) for i, row in enumerate(found) for b, s, c in row if c == category),
        key=lambda detection: -detection[0],
    )
    objects = {i: [b for b, c in row if c == category] for i, row in enumerate(true)}
    count = sum(map(len, objects.values()))
    right, curve, taken = 0, [], set()
    for rank, (_, image, box) in enumerate(ranked, start=1):
        overlaps = [overlap_of(box, other) for other in objects[image]]
        if overlaps and max(overlaps) >= 0.5:
            largest = (image, int(np.argmax(overlaps)))
            right += largest not in taken
            taken.add(largest)
        curve.append((right / count, right / rank))
    return np.mean([max((p for r, p in curve if r >= k / 10), default=0) for k in range(11)])


def overlap_of(a, b):
    sides = [min(a[i + 2], b[i + 2]) - max(a[i], b[i]) for i in (0, 1)]
    both = max(sides[0], 0) * max(sides[1], 0)
    return both / (sum((c[2] - c[0]) * (c[3] - c[1]) for c in (a, b)) - both)


@pytest.mark.parametrize("seed", range(3))
def test_voc_map_equals_its_definition(seed):
    found, true = random_scenes(seed + 10)
    by_class = [voc_2007(found, true, c) for c in {c for row in true for _, c in row}]
    assert measured(found, true)["voc_map"] == pytest.approx(np.mean(by_class))


def test_voc_rejects_a_detection_of_a_matched_object_and_coco_matches_another():
    """The second detection has IoU 0.90 with the first object and 0.6 with the second."""
    true = [[([0.0, 0.0, 100.0, 100.0], 0), ([0.0, 30.0, 100.0, 130.0], 0)]]
    found = [[([0.0, 0.0, 100.0, 100.0], 0.9, 0), ([0.0, 5.0, 100.0, 105.0], 0.8, 0)]]
    result = measured(found, true)
    assert result["voc_map"] == pytest.approx(6 / 11)
    assert result["ap50"] == pytest.approx(1)


def test_order_and_monotonic_rescaling_of_scores_have_no_effect():
    found, true = random_scenes(5)
    plain = measured(found, true)
    order = np.random.default_rng(0).permutation(len(true))
    assert measured([found[i] for i in order], [true[i] for i in order]) == pytest.approx(plain)
    assert measured([row[::-1] for row in found], [row[::-1] for row in true]) == pytest.approx(
        plain
    )
    squared = [[(b, s**2, c) for b, s, c in row] for row in found]
    assert measured(squared, true) == pytest.approx(plain)


def test_scaling_all_boxes_changes_only_metrics_by_area():
    found, true = random_scenes(6)
    twice = [
        [[(tuple(2 * e for e in b), *rest) for b, *rest in row] for row in rows]
        for rows in (found, true)
    ]
    plain, scaled = measured(found, true), measured(*twice)
    for name in ("ap", "ap50", "ap75", "ar", "voc_map"):
        assert scaled[name] == pytest.approx(plain[name])


def test_no_objects_is_an_error():
    with pytest.raises(InputError, match="at least one object; got 0 in all images"):
        measured([[(A, 0.9, 0)]], [[]])


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_non_finite_detections_and_objects_are_errors(value):
    wrong = [0.0, 0.0, value, 10.0]
    for found, true, named in (
        ((wrong, 0.9, 0), (A, 0), "boxes"),
        ((A, value, 0), (A, 0), "scores"),
        ((A, 0.9, 0), (wrong, 0), "true boxes"),
    ):
        with pytest.raises(InputError, match=f"^{named} must be finite; got infinity or NaN in 1"):
            measured([[found]], [[true]])


def test_rows_without_an_object_are_ignored():
    nothing = ([np.nan] * 4, np.nan, -1)
    result = measured([[(A, 0.9, 0), nothing]], [[(A, 0), ([np.inf] * 4, -1)]])
    assert result["ap"] == pytest.approx(1.0)
