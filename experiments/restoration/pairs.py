"""Restoration learned from given pairs: a folder with input/ and target/, for any degradation.

  deconv-jax train --config experiments/restoration/pairs.py --workdir runs/pairs \\
    --config.data.source=pairs:/path/to/pairs --config.init_from=jpeg

The scale must be that of the pairs. The network is that of the named models `jpeg` (an FFDNet without a noise
level) for scale 1, and `sr` (FSRCNN) for others, so that it can start from their weights. Without `init_from` it
starts from random weights.
"""

import ml_collections

from deconv_jax import zoo
from deconv_jax.config_arguments import config_arguments
from deconv_jax.config_groups import cosine_settings, training_settings


def get_config(arg: str = "") -> ml_collections.ConfigDict:
    """Arguments: scale=1, color=rgb (gray, y), steps=5000."""
    args = config_arguments(arg, scale=1, color="rgb", steps=5000)
    scale, color, steps = args["scale"], args["color"], args["steps"]
    channels = 3 if color == "rgb" else 1
    name = zoo.resolve("jpeg", channels=channels) if scale == 1 else "sr"
    model = zoo.card(name)["config"]["task"]["model"] | dict(channels=channels)
    config = ml_collections.ConfigDict()
    config.task = dict(
        name="restoration",
        model=model if scale == 1 else model | dict(scale=scale),
        degradation=None,
        crop=64 if scale == 1 else 24 * scale,
        loss="l1",
    )
    config.data = dict(
        source=dict(name="pairs", path="pairs", color=color, tile=160 if scale == 1 else 48 * scale)
    )
    config.optimizer = cosine_settings(
        "adam", 5e-4, min(200, steps // 2), end_factor=0.0, ema_decay=0.999
    )
    config.training = training_settings(
        steps, 16, every=max(steps // 10 // 10 * 10, 10), eval_batch_size=1
    )
    config.seed = 0
    return config
