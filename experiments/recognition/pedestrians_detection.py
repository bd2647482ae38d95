"""CenterNet that detects pedestrians in 40 photographs of the Penn-Fudan database.

  deconv-jax train --config experiments/recognition/pedestrians_detection.py --workdir runs/boxes

$DECONV_JAX_DATA must name a folder with pennfudan_subset/PNGImages/, PedMasks/ and Annotation/. Each of the
two cities has 15 photographs in the training split and 5 in the test split. The longer side is resized to
256 pixels. Training takes about 12 minutes on one CPU core.
"""

import ml_collections
import pedestrians_segmentation

from deconv_jax.config_arguments import config_arguments


def get_config(arg: str = "") -> ml_collections.ConfigDict:
    """Arguments: steps=1500 (a multiple of 100), seed=0."""
    args = config_arguments(arg, steps=1500, seed=0)
    # Data, splits and augmentation are those of the segmentation config.
    config = pedestrians_segmentation.get_config(f"steps={args['steps']},seed={args['seed']}")
    config.task = dict(
        name="detection",
        model=dict(
            name="centernet",
            num_classes=1,
            features=(16, 32, 64, 96, 128),
            output_stride=4,
            head_features=32,
        ),
        view=config.task.view.to_dict(),
        class_names=("pedestrian",),
    )
    config.optimizer.learning_rate = 2e-3
    config.training.batch_size = 6
    config.training.steps_per_call = 5
    return config
