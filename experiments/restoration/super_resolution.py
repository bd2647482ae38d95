"""Super-resolution of luma by FSRCNN, ESPCN or SRCNN, trained from scratch on T91.

  deconv-jax train --config experiments/restoration/super_resolution.py:model=fsrcnn,scale=3 \\
    --workdir runs/fsrcnn_x3

$DECONV_JAX_DATA must name a folder with t91/ for training, bsd68/ for validation and set5/ for the test.
FSRCNN x3 takes 60 to 90 minutes on two CPU cores. Set5: 33.1 dB +- 0.1 (paper: 33.06 dB). The named models
sr-x2, sr-x3 and sr-x4 are trained by this config; their cards have the figures under the papers' protocol.
"""

import ml_collections

from deconv_jax.config_arguments import config_arguments
from deconv_jax.config_groups import cosine_settings, data_settings, training_settings

MODELS = {
    "fsrcnn": dict(name="fsrcnn"),
    "fsrcnn_s": dict(name="fsrcnn", d=32, s=5, m=1),
    "espcn": dict(name="espcn"),
    "srcnn": dict(name="srcnn"),
}


def get_config(arg: str = "") -> ml_collections.ConfigDict:
    """Arguments: model=fsrcnn (fsrcnn_s, espcn, srcnn), scale=3, upsampling (default: the model's own), steps=150000."""
    args = config_arguments(arg, model="fsrcnn", scale=3, upsampling="", steps=150_000)
    scale = args["scale"]
    model = MODELS[args["model"]] | dict(channels=1, scale=scale)
    if args["upsampling"]:
        model["upsampling"] = args["upsampling"]
    config = ml_collections.ConfigDict()
    config.task = dict(
        name="restoration",
        model=model,
        degradation=dict(name="downsample", scale=scale),
        crop=20 * scale,
        rescale=(1.0, 0.9, 0.8, 0.7, 0.6),
        border=scale,
    )
    config.data = data_settings(
        dict(name="folder", path="t91", tile=40 * scale, color="y"),
        ("all", "folder:bsd68[:8]", "folder:set5"),
        data_dir="$DECONV_JAX_DATA",
        cache="device",
    )
    config.optimizer = cosine_settings(
        "adam", 2e-3, min(500, args["steps"] // 2), end_factor=0.0, ema_decay=0.999
    )
    config.training = training_settings(
        args["steps"], 16, every=10_000, eval_batch_size=1, log_every=1000, steps_per_call=50
    )
    config.seed = 0
    return config
