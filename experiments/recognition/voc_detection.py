"""CenterNet for the 20 object classes of Pascal VOC 2007.

  deconv-jax prepare voc/2007
  deconv-jax train --config experiments/recognition/voc_detection.py --workdir runs/voc

The splits have 2,501 training, 2,510 validation and 4,952 test photographs. The longer side is resized to 384
pixels. Objects that VOC marks as difficult are treated like all others, so figures differ from the
challenge's. The config is meant for an accelerator. It has not been trained yet, so no figure is claimed.
"""

import ml_collections

from deconv_jax.config_arguments import config_arguments
from deconv_jax.config_groups import cosine_settings, data_settings, training_settings

CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa"),
    *("train", "tvmonitor"),
)


def get_config(arg: str = "") -> ml_collections.ConfigDict:
    """Arguments: steps=30000 (a multiple of 100), batch=32, precision=bf16 (f32), seed=0."""
    args = config_arguments(arg, steps=30_000, batch=32, precision="bf16", seed=0)
    config = ml_collections.ConfigDict()
    config.task = dict(
        name="detection",
        model=dict(
            name="centernet",
            num_classes=len(CLASSES),
            features=(64, 64, 128, 256, 512),
            blocks=2,
        ),
        view=dict(
            name="annotated",
            crop=384,
            flip=True,
            scale=(0.6, 1.4),
            brightness=0.2,
            contrast=0.4,
        ),
        class_names=CLASSES,
    )
    config.data = data_settings(
        dict(name="tfds", dataset="voc/2007", canvas=384),
        ("train", "validation", "test"),
        cache="memory",
    )
    config.optimizer = cosine_settings(
        "adamw", 1e-3, min(500, args["steps"] // 2), weight_decay=1e-2, ema_decay=0.999
    )
    config.training = training_settings(
        args["steps"], args["batch"], every=args["steps"] // 10, eval_batch_size=32
    )
    config.precision = args["precision"]
    config.seed = args["seed"]
    return config
