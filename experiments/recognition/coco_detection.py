"""CenterNet for the 80 object classes of COCO 2017.

  deconv-jax prepare coco/2017
  deconv-jax train --config experiments/recognition/coco_detection.py --workdir runs/coco

Training uses about 118,000 photographs, of which the last 1 % is the validation split. The test split is the
public validation set (5,000 photographs). The longer side is resized to 512 pixels. Figures differ from the
challenge's: boxes of crowds are not used, and object areas are those of the resized boxes.
The config is meant for an accelerator. It has not been trained yet, so no figure is claimed.
"""

import ml_collections

from deconv_jax.config_arguments import config_arguments
from deconv_jax.config_groups import cosine_settings, data_settings, training_settings


def get_config(arg: str = "") -> ml_collections.ConfigDict:
    """Arguments: steps=250000 (a multiple of 100), batch=64, precision=bf16 (f32), seed=0."""
    args = config_arguments(arg, steps=250_000, batch=64, precision="bf16", seed=0)
    config = ml_collections.ConfigDict()
    config.task = dict(
        name="detection",
        model=dict(
            name="centernet",
            num_classes=80,
            features=(64, 64, 128, 256, 512),
            blocks=2,
        ),
        view=dict(
            name="annotated",
            crop=512,
            flip=True,
            scale=(0.6, 1.4),
            brightness=0.2,
            contrast=0.4,
        ),
    )
    config.data = data_settings(
        dict(name="tfds", dataset="coco/2017", canvas=512),
        ("train[:99%]", "train[99%:]", "validation"),
        workers=8,
    )
    config.optimizer = cosine_settings(
        "adamw", 1e-3, min(1000, args["steps"] // 2), weight_decay=1e-2, ema_decay=0.9995
    )
    config.training = training_settings(
        args["steps"], args["batch"], every=args["steps"] // 25, eval_batch_size=32
    )
    config.precision = args["precision"]
    config.seed = args["seed"]
    return config
