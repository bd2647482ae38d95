"""U-Net that segments membranes of neural tissue in the 30 labeled slices of ISBI 2012.

  deconv-jax train --config experiments/recognition/membranes.py --workdir runs/membranes

This is the original task of the U-Net, with its augmentation: rotations, flips and elastic deformations
(arXiv:1505.04597, section 4). $DECONV_JAX_DATA must name a folder with em_membrane/image/NAME.png and
em_membrane/label/NAME.png. The challenge's test volume has no public labels, so slices 4 to 9 of the training
volume are the test split and the other 24 slices are the training split. Training takes about 10 minutes on
one CPU core.
"""

import ml_collections

from deconv_jax.config_arguments import config_arguments
from deconv_jax.config_groups import cosine_settings, data_settings, training_settings


def get_config(arg: str = "") -> ml_collections.ConfigDict:
    """Arguments: steps=900 (a multiple of 100), seed=0."""
    args = config_arguments(arg, steps=900, seed=0)
    steps = args["steps"]
    config = ml_collections.ConfigDict()
    config.task = dict(
        name="segmentation",
        model=dict(
            name="unet", channels=2, features=(16, 32, 64, 128), residual=False, norm="batch"
        ),
        view=dict(
            name="annotated",
            crop=128,
            dihedral=True,
            rotate=20.0,
            scale=(0.9, 1.1),
            elastic=4.0,
            brightness=0.1,
            contrast=0.2,
        ),
        class_names=("cell", "membrane"),
        dice=0.5,
    )
    # Sorted by name: 0, 1, 10 to 19, 2, 20 to 29, 3, then 4 to 9. Validation repeats training slices.
    config.data = data_settings(
        dict(name="image_label", path="em_membrane", color="gray", dark_foreground=True),
        ("all[:24]", "all[:2]", "all[24:]"),
        data_dir="$DECONV_JAX_DATA",
        cache="device",
    )
    config.optimizer = cosine_settings("adamw", 3e-3, 50, weight_decay=1e-3, ema_decay=0.99)
    config.training = training_settings(
        steps, 4, every=steps // 4, eval_batch_size=2, log_every=steps // 20, steps_per_call=1
    )
    config.seed = args["seed"]
    return config
