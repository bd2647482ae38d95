"""Where pedestrians are: a CenterNet on 40 photographs of the Penn-Fudan database.

  deconv-jax train --config experiments/recognition/pedestrians_detection.py --workdir runs/boxes

Needs the folder of data that $DECONV_JAX_DATA names, in it pennfudan_subset/ with PNGImages/, PedMasks/
and Annotation/. One CPU core, about 12 minutes. Of each of the two cities 15 photographs are learnt from
and 5 measured, resized to 256 pixels at the longer side.
"""

import ml_collections
import pedestrians_segmentation

from deconv_jax.config_arguments import config_arguments


def get_config(arg: str = "") -> ml_collections.ConfigDict:
    """Arguments: steps=1500, a multiple of 100, seed=0."""
    args = config_arguments(arg, steps=1500, seed=0)
    # The same photographs, learnt from and measured, and seen the same way.
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
