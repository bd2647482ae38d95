"""FFDNet for Gaussian noise of every level from 0 to 75, for gray or color images.

  deconv-jax train --config experiments/restoration/ffdnet.py:color=rgb --workdir runs/ffdnet_color

The network and the noise levels are those of the paper (arXiv:1710.04026). The loss is PSNR: with the mean error,
heavy noise counted most, and images with little noise lost detail. The data is the 432 images of BSDS500 that are
not in the test set. $DECONV_JAX_DATA must name a folder with bsd432/ for training, and bsd68/ and set12/ (gray) or
cbsd68/ (color) for validation and the test. Training takes about 40 minutes on one CPU core. The table zoo in
experiments/tables has its figures.

Muon replaces the paper's Adam, and there are 4 patches in a batch instead of 128: few patches then suffice.
"""

import ml_collections

from deconv_jax.config_arguments import config_arguments
from deconv_jax.config_groups import cosine_settings, data_settings, training_settings

MODELS = {
    "gray": dict(name="ffdnet", channels=1, depth=15, features=64),
    "rgb": dict(name="ffdnet", channels=3, depth=12, features=96),
}
SPLITS = {
    "gray": ("all", "folder:bsd68[:8]", "folder:set12"),
    "rgb": ("all", "folder:cbsd68[:8]", "folder:cbsd68[8:]"),
}


def get_config(arg: str = "") -> ml_collections.ConfigDict:
    """Arguments: color=gray (rgb), features=0 (channels of the hidden layers; 0: the paper's 64 or 96),
    steps=12000, batch=4.
    """
    args = config_arguments(arg, color="gray", features=0, steps=12_000, batch=4)
    color, steps = args["color"], args["steps"]
    model = MODELS[color]
    config = ml_collections.ConfigDict()
    config.task = dict(
        name="restoration",
        model=model | dict(features=args["features"] or model["features"]),
        degradation=dict(name="gaussian_noise", sigma=(0.0, 75.0)),
        noise_conditional=True,
        crop=64,
        rescale=(1.0, 0.9, 0.8, 0.7),
        loss="l2",
        reduction="log",
    )
    config.data = data_settings(
        dict(name="folder", path="bsd432", tile=160, color=color),
        SPLITS[color],
        data_dir="$DECONV_JAX_DATA",
        cache="device",
    )
    config.optimizer = cosine_settings(
        "muon",
        5e-4,
        min(200, steps // 2),
        end_factor=0.0,
        momentum=0.95,
        clip_norm=None,
        ema_decay=0.999,
    )
    config.training = training_settings(
        steps, args["batch"], every=max(steps // 16 // 10 * 10, 10), eval_batch_size=1
    )
    config.seed = 0
    return config
