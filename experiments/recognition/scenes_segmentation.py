"""Which pixel is which digit: a segmenter of scenes that are drawn of the embedded digits.

  deconv-jax train --config experiments/recognition/scenes_segmentation.py:model=unet --workdir runs/scenes

One CPU core, 25 to 40 minutes, by network. Test mIoU 0.93 +- 0.02 of the U-Net (with steps=3500), the FCN-8s and
the DeconvNet, of 360 scenes of 96 x 96 whose digits other people wrote.
"""

import ml_collections

from deconv_jax.config_arguments import config_arguments
from deconv_jax.errors import InputError, did_you_mean

CLASSES = ("background", *"0123456789")
FCN = dict(name="fcn", num_classes=len(CLASSES))
MODELS = {
    "unet": dict(
        name="unet",
        channels=len(CLASSES),
        # More than classes at the end: of 8 rectified channels some of 11 classes were not told apart.
        features=(16, 16, 32, 64, 128, 128),
        residual=False,
        norm="batch",
    ),
    "fcn8s": FCN | dict(stride=8),
    "fcn16s": FCN | dict(stride=16),
    "fcn32s": FCN | dict(stride=32),
    "deconvnet": dict(
        name="deconvnet",
        num_classes=len(CLASSES),
        features=(16, 16, 32, 64),
        bottleneck_kernel_size=5,
    ),
}


def get_config(arg: str = "") -> ml_collections.ConfigDict:
    """Arguments: model=unet (fcn8s, fcn16s, fcn32s, deconvnet), upsampling=transposed (subpixel,
    resize; of the U-Net), steps=4500, a multiple of 100 from 200, seed=0.
    """
    args = config_arguments(arg, model="unet", upsampling="", steps=4500, seed=0)
    if args["model"] not in MODELS:
        raise InputError(f"no model {args['model']!r}; {did_you_mean(args['model'], MODELS)}")
    model = dict(MODELS[args["model"]])
    if args["upsampling"] and args["model"] != "unet":
        raise InputError(f"upsampling is the U-Net's; got model={args['model']}")
    if args["model"] == "unet":
        model["upsampling"] = args["upsampling"] or "transposed"
    config = ml_collections.ConfigDict()
    config.task = dict(
        name="segmentation",
        model=model,
        view=dict(name="digit_scenes", size=96),
        class_names=CLASSES,
    )
    config.data = dict(name="stacked_digits", cache="device")
    config.optimizer = dict(
        name="adamw",
        learning_rate=3e-3,
        schedule="cosine",
        warmup_steps=100,
        weight_decay=0.05,
        clip_norm=1.0,
    )
    config.training = dict(
        num_steps=args["steps"],
        batch_size=8,
        eval_batch_size=60,
        eval_every=args["steps"] // 4,
        save_every=args["steps"] // 4,
        log_every=args["steps"] // 20,
        steps_per_call=5,
    )
    config.seed = args["seed"]
    return config
