"""Objects of eighty classes: a CenterNet on COCO 2017.

  deconv-jax prepare coco/2017
  deconv-jax train --config experiments/recognition/coco_detection.py --workdir runs/coco

About 118,000 photographs to learn from, of which the last 1 % are looked at while training, and 5,000, the
public validation set, to measure, resized to 512 pixels at the longer side. Crowds are neither learnt nor
set aside in measuring, and areas are those of resized boxes, so figures are not those of the challenge.
Meant for an accelerator; not trained yet, so no figure is claimed.
"""

import ml_collections

from deconv_jax.config_arguments import config_arguments


def get_config(arg: str = "") -> ml_collections.ConfigDict:
    """Arguments: steps=250000, a multiple of 100, batch=64, precision=bf16 (or f32), seed=0."""
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
    config.data = dict(
        name="coco/2017",
        train_split="train[:99%]",
        validation_split="train[99%:]",
        test_split="validation",
        canvas=512,
        workers=8,
    )
    config.optimizer = dict(
        name="adamw",
        learning_rate=1e-3,
        schedule="cosine",
        warmup_steps=min(1000, args["steps"] // 2),
        weight_decay=1e-2,
        clip_norm=1.0,
        ema_decay=0.9995,
    )
    config.training = dict(
        num_steps=args["steps"],
        batch_size=args["batch"],
        eval_batch_size=32,
        eval_every=args["steps"] // 25,
        save_every=args["steps"] // 25,
        log_every=100,
        steps_per_call=10,
    )
    config.precision = args["precision"]
    config.seed = args["seed"]
    return config
