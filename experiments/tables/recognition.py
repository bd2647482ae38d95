"""Classification of MNIST, segmentation and detection of digit scenes, and two small annotated sets.

  deconv-jax tables recognition

Digit scenes are drawn from the embedded handwritten digits; test digits are never used for training. The
annotated sets are `em_membrane/`, the training volume of the ISBI 2012 challenge (24 training and 6 test
slices), and `pennfudan_subset/`, 40 images of the Penn-Fudan database (30 training, 10 test). They are too small
to compare networks; they show that the code works on real files. The runs take about four hours on one CPU core.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from _common import run_part, training_summary

from deconv_jax.tables import linked, markdown

Record = Mapping[str, Any]

VERSION = 1
CLASSIFIERS = {
    "mnist_plain": ("mnist_classifier.py", "conv, dense"),
    "mnist_decoder": ("mnist_classifier.py:decoder=True", "conv, transposed conv, dense"),
}
SEGMENTED = {
    "scenes_unet": ("model=unet,steps=3500", "U-Net, transposed"),
    "scenes_unet_subpixel": ("model=unet,upsampling=subpixel,steps=3500", "U-Net, sub-pixel"),
    "scenes_unet_resize": ("model=unet,upsampling=resize,steps=3500", "U-Net, resize"),
    "scenes_fcn8s": ("model=fcn8s", "FCN-8s"),
    "scenes_deconvnet": ("model=deconvnet", "DeconvNet"),
}
DETECTED = {"scenes_centernet": ("", "CenterNet")}
FOLDERS = {
    "membranes": ("membranes.py", "membranes, U-Net"),
    "pedestrians_segmentation": ("pedestrians_segmentation.py", "pedestrians, U-Net"),
    "pedestrians_detection": ("pedestrians_detection.py", "pedestrians, CenterNet"),
}


PARTS: dict[str, Callable[[Path], dict[str, Any]]] = (
    {name: run_part(f"recognition/{config}", "tfds") for name, (config, _) in CLASSIFIERS.items()}
    | {
        name: run_part(f"recognition/scenes_segmentation.py:{a}", None)
        for name, (a, _) in SEGMENTED.items()
    }
    | {
        name: run_part(f"recognition/scenes_detection.py:{a}", None)
        for name, (a, _) in DETECTED.items()
    }
    | {name: run_part(f"recognition/{config}", "") for name, (config, _) in FOLDERS.items()}
)

_TITLES = {
    "accuracy": "accuracy",
    "calibration_error": "calibration error",
    "miou": "mIoU",
    "iou_membrane": "membrane IoU",
    "iou_pedestrian": "pedestrian IoU",
    "pixel_accuracy": "pixel accuracy",
    "boundary_f1": "boundary F1",
    "ap": "AP",
    "ap50": "AP50",
    "ap75": "AP75",
    "voc_map": "VOC mAP",
}


def render(records: Mapping[str, Record]) -> str:
    """Return a table for each task."""
    segmentation = ("miou", "pixel_accuracy", "boundary_f1")
    detection = ("ap", "ap50", "ap75", "voc_map")
    on_folders = ("pixel_accuracy", "boundary_f1", "iou_membrane", "iou_pedestrian", "ap50")
    sections = [
        ("Classes of MNIST", CLASSIFIERS, ("accuracy", "calibration_error")),
        ("Digit scenes: segmentation", SEGMENTED, segmentation),
        ("Digit scenes: detection", DETECTED, detection),
        ("Annotated images", FOLDERS, on_folders),
    ]
    return "\n\n".join(filter(None, (_section(records, *section) for section in sections)))


def _section(
    records: Mapping[str, Record],
    title: str,
    names: Mapping[str, tuple[str, str]],
    measures: tuple[str, ...],
) -> str:
    found = {label: records[part] for part, (_, label) in names.items() if part in records}
    if not found:
        return ""
    rows = [
        [
            linked(label, record),
            *(_cell(record["metrics"].get(measure)) for measure in measures),
            f"{record['training']['parameters']:,}",
            f"{record['counts']['train']:,} / {record['counts']['test']:,}",
            training_summary(record["training"]),
        ]
        for label, record in found.items()
    ]
    header = [
        "network",
        *(_TITLES[m] for m in measures),
        "parameters",
        "train / test images",
        "training",
    ]
    protocols = dict.fromkeys(record["protocol"] for record in found.values())
    return "\n\n".join(
        [
            f"#### {title}",
            markdown(" | ".join(header), rows),
            *(f"Protocol: {p}." for p in protocols),
        ]
    )


def _cell(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"
