"""Segmentation of digits in scenes drawn from the embedded handwritten digits.

  deconv-jax train --config experiments/recognition/scenes_segmentation.py:model=unet --workdir runs/scenes

Training takes 25 to 40 minutes on one CPU core. Test mIoU: 0.93 +- 0.02 for the U-Net (steps=3500), FCN-8s and
DeconvNet, on 360 scenes of 96 x 96 pixels. The test digits are by other writers.
"""

import ml_collections

from deconv_jax.config_arguments import config_arguments
from deconv_jax.config_groups import cosine_settings, training_settings
from deconv_jax.errors import InputError, did_you_mean

CLASSES = ("background", *"0123456789")
FCN = dict(name="fcn", num_classes=len(CLASSES))
MODELS = {
    "unet": dict(
        name="unet",
        channels=len(CLASSES),
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
    resize; U-Net only), width=128 (channels of the deepest maps; U-Net only), steps=4500 (a multiple of 100, at
    least 200), seed=0.
    """
    args = config_arguments(arg, model="unet", upsampling="", width=128, steps=4500, seed=0)
    if args["model"] not in MODELS:
        raise InputError(f"no model {args['model']!r}; {did_you_mean(args['model'], MODELS)}")
    model = dict(MODELS[args["model"]])
    for name, default in (("upsampling", ""), ("width", 128)):
        if args[name] != default and args["model"] != "unet":
            raise InputError(f"{name} requires model=unet; got model={args['model']}")
    if args["model"] == "unet":
        width = args["width"]
        # With 8 channels after the last ReLU, the network confused classes.
        model["features"] = (16, 16, 32, min(64, width), width, width)
        model["upsampling"] = args["upsampling"] or "transposed"
    steps = args["steps"]
    config = ml_collections.ConfigDict()
    config.task = dict(
        name="segmentation",
        model=model,
        view=dict(name="digit_scenes", size=96),
        class_names=CLASSES,
    )
    config.data = dict(source=dict(name="stacked", base=dict(name="digits")), cache="device")
    config.optimizer = cosine_settings("adamw", 3e-3, 100, weight_decay=0.05)
    config.training = training_settings(
        steps, 8, every=steps // 4, eval_batch_size=60, log_every=steps // 20, steps_per_call=5
    )
    config.seed = args["seed"]
    return config
