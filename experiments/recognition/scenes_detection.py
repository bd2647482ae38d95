"""CenterNet that detects digits in scenes drawn from the embedded handwritten digits.

  deconv-jax train --config experiments/recognition/scenes_detection.py --workdir runs/detector

Training takes about 30 minutes on one CPU core. Test AP: 0.91 +- 0.02 on 360 scenes of 96 x 96 pixels. The
test digits are by other writers.
"""

import ml_collections

from deconv_jax.config_arguments import config_arguments
from deconv_jax.config_groups import cosine_settings, training_settings


def get_config(arg: str = "") -> ml_collections.ConfigDict:
    """Arguments: output_stride=4 (2, 8, 16, 32), width=128 (channels of the deepest maps), steps=4500 (a
    multiple of 100, at least 200), seed=0.
    """
    args = config_arguments(arg, output_stride=4, width=128, steps=4500, seed=0)
    steps, width = args["steps"], args["width"]
    config = ml_collections.ConfigDict()
    config.task = dict(
        name="detection",
        model=dict(
            name="centernet",
            num_classes=10,
            features=(16, 32, min(64, width), width, width),
            output_stride=args["output_stride"],
            head_features=48,
        ),
        view=dict(name="digit_scenes", size=96),
        class_names=tuple("0123456789"),
    )
    config.data = dict(source=dict(name="stacked", base=dict(name="digits")), cache="device")
    config.optimizer = cosine_settings("adamw", 4e-3, 100, weight_decay=1e-4)
    config.training = training_settings(
        steps, 16, every=steps // 4, eval_batch_size=60, log_every=steps // 20, steps_per_call=5
    )
    config.seed = args["seed"]
    return config
