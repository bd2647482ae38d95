"""U-Net that segments pet, background and border in Oxford-IIIT Pet.

  deconv-jax prepare oxford_iiit_pet
  deconv-jax train --config experiments/recognition/pets_segmentation.py --workdir runs/pets

The training split has 3,680 photographs and the test split 3,669. The longer side is resized to 256 pixels.
The config is meant for an accelerator. It has not been trained yet, so no figure is claimed.
"""

import ml_collections

from deconv_jax.config_arguments import config_arguments
from deconv_jax.config_groups import cosine_settings, data_settings, training_settings


def get_config(arg: str = "") -> ml_collections.ConfigDict:
    """Arguments: steps=20000 (a multiple of 100), batch=32, precision=bf16 (f32), seed=0."""
    args = config_arguments(arg, steps=20_000, batch=32, precision="bf16", seed=0)
    config = ml_collections.ConfigDict()
    config.task = dict(
        name="segmentation",
        model=dict(
            name="unet",
            channels=3,
            features=(32, 64, 128, 256, 512),
            residual=False,
            norm="batch",
        ),
        view=dict(
            name="annotated",
            crop=224,
            flip=True,
            rotate=10.0,
            scale=(0.8, 1.25),
            brightness=0.2,
            contrast=0.3,
        ),
        class_names=("pet", "background", "border"),
        dice=0.5,
    )
    config.data = data_settings(
        dict(name="tfds", dataset="oxford_iiit_pet", canvas=256),
        ("train[:95%]", "train[95%:]", "test"),
        cache="memory",
    )
    config.optimizer = cosine_settings(
        "adamw", 1e-3, min(500, args["steps"] // 2), weight_decay=1e-2, ema_decay=0.999
    )
    config.training = training_settings(
        args["steps"], args["batch"], every=args["steps"] // 10, eval_batch_size=32
    )
    config.precision = args["precision"]
    config.seed = args["seed"]
    return config
