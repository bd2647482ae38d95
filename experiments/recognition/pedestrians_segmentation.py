"""U-Net that segments pedestrians in 40 photographs of the Penn-Fudan database.

  deconv-jax train --config experiments/recognition/pedestrians_segmentation.py --workdir runs/masks

$DECONV_JAX_DATA must name a folder with pennfudan_subset/PNGImages/, PedMasks/ and Annotation/. Each of the
two cities has 15 photographs in the training split and 5 in the test split. The longer side is resized to
256 pixels. Training takes about 10 minutes on one CPU core.
"""

import ml_collections

from deconv_jax.config_arguments import config_arguments
from deconv_jax.config_groups import cosine_settings, data_settings, training_settings


def get_config(arg: str = "") -> ml_collections.ConfigDict:
    """Arguments: steps=600 (a multiple of 100), seed=0."""
    args = config_arguments(arg, steps=600, seed=0)
    steps = args["steps"]
    config = ml_collections.ConfigDict()
    config.task = dict(
        name="segmentation",
        model=dict(
            name="unet", channels=2, features=(8, 16, 32, 64, 128), residual=False, norm="batch"
        ),
        view=dict(
            name="annotated",
            crop=192,
            flip=True,
            scale=(0.7, 1.4),
            brightness=0.2,
            contrast=0.4,
        ),
        class_names=("background", "pedestrian"),
        dice=0.5,
    )
    # Sorted by name: 20 files FudanPed, then 20 PennPed. Validation repeats training photographs.
    config.data = data_settings(
        dict(name="penn_fudan", path="pennfudan_subset", canvas=256),
        ("all[5:20]+all[25:40]", "all[5:10]+all[25:30]", "all[:5]+all[20:25]"),
        data_dir="$DECONV_JAX_DATA",
        cache="device",
    )
    config.optimizer = cosine_settings("adamw", 3e-3, 50, weight_decay=1e-2, ema_decay=0.99)
    config.training = training_settings(
        steps, 4, every=steps // 4, eval_batch_size=5, log_every=steps // 20, steps_per_call=1
    )
    config.seed = args["seed"]
    return config
