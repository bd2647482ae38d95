"""DCGAN (arXiv:1511.06434) of CelebA at 64 x 64 pixels, cropped to the largest central square.

  deconv-jax prepare celeb_a
  deconv-jax train --config experiments/synthesis/celeba.py --workdir runs/gan_celeba

As in the paper, both networks have batch norm, and Adam has a learning rate of 2e-4 and beta1 = 0.5. The
config is meant for an accelerator. It has not been trained yet, so no figure is claimed. The default metrics use pixels as features. For FID and KID of Inception-v3, set $DECONV_JAX_INCEPTION to the
file of its weights and --config.task.extractor=inception.
"""

import ml_collections

from deconv_jax.config_arguments import config_arguments
from deconv_jax.config_groups import data_settings, training_settings


def get_config(arg: str = "") -> ml_collections.ConfigDict:
    """Arguments: steps=100000, width=64, batch=128, size=64 (pixels)."""
    args = config_arguments(arg, steps=100_000, width=64, batch=128, size=64)
    width, size = args["width"], args["size"]
    config = ml_collections.ConfigDict()
    config.task = dict(
        name="gan",
        generator=dict(
            name="dcgan_generator", image_shape=(size, size, 3), latent_dim=128, width=width
        ),
        discriminator=dict(name="dcgan_discriminator", width=width),
        loss="non_saturating",
        resize=True,
        extractor="pixels",
    )
    config.data = data_settings(
        dict(name="tfds", dataset="celeb_a"), ("train", "validation[:10000]", "test"), workers=8
    )
    config.optimizer = dict(
        name="adam", learning_rate=2e-4, momentum=0.5, beta2=0.999, ema_decay=0.999
    )
    config.training = training_settings(
        args["steps"], args["batch"], every=5000, eval_batch_size=500, log_every=500
    )
    config.seed = 0
    return config
