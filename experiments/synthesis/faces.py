"""DCGAN of the ORL faces: 400 gray photographs of 40 people (Olivetti Research Laboratory).

  deconv-jax train --config experiments/synthesis/faces.py --workdir runs/gan_faces \\
    --config.data.data_dir=/path/to/data

The data folder must have att_faces/ with one subfolder of PGM files per person. The set is small, so R1 and
differentiable augmentation keep the discriminator from memorizing it. All splits are the same 400 images, and
`train` warns of it: the metrics say nothing about novelty, and no table has them.

Training takes 15 to 25 minutes on two CPU cores. Fréchet distance of 8 x 8 pixel features: 0.17; coverage 0.15
(400 images). Most samples are recognizable faces; many are blurred around the eyes.
"""

import ml_collections

from deconv_jax.config_arguments import config_arguments
from deconv_jax.config_groups import data_settings, training_settings


def get_config(arg: str = "") -> ml_collections.ConfigDict:
    """Arguments: height=48 (96 on an accelerator), width=32 (channels), steps=6000."""
    args = config_arguments(arg, height=48, width=32, steps=6000)
    steps, width, height = args["steps"], args["width"], args["height"]
    config = ml_collections.ConfigDict()
    config.task = dict(
        name="gan",
        generator=dict(
            name="dcgan_generator",
            image_shape=(height, height * 5 // 6, 1),
            latent_dim=64,
            width=width,
        ),
        discriminator=dict(
            name="dcgan_discriminator", width=width, norm="none", minibatch_std_group=4
        ),
        loss="non_saturating",
        r1=4.0,
        augment=("color", "translation", "cutout"),
        resize=True,
        extractor="pixels",
    )
    config.data = data_settings(
        dict(name="folder", path="att_faces", color="gray"),
        ("all", "all", "all"),
        data_dir="$DECONV_JAX_DATA",
        cache="device",
    )
    config.optimizer = dict(
        name="adam", learning_rate=1e-3, momentum=0.5, beta2=0.99, ema_decay=0.998
    )
    config.training = training_settings(steps, 32, every=1000, eval_batch_size=100)
    config.seed = 0
    return config
