"""Class-conditional DCGAN of the embedded handwritten digits: non-saturating loss, R1, averaged generator.

  deconv-jax train --config experiments/synthesis/digits.py --workdir runs/gan

Training takes 2 to 3 minutes on two CPU cores. Test Fréchet distance with the extractor "digits": 0.7 (real
training images of the same classes: 0.5), 360 images.
"""

import ml_collections

from deconv_jax.config_arguments import config_arguments
from deconv_jax.config_groups import training_settings


def get_config(arg: str = "") -> ml_collections.ConfigDict:
    """Arguments: width=16, the number of channels of the largest hidden maps."""
    values = config_arguments(arg, width=16)
    config = ml_collections.ConfigDict()
    config.task = dict(
        name="gan",
        generator=dict(
            name="dcgan_generator",
            image_shape=(32, 32, 1),
            latent_dim=32,
            width=values["width"],
            num_classes=10,
        ),
        discriminator=dict(
            name="dcgan_discriminator", width=values["width"], norm="none", num_classes=10
        ),
        loss="non_saturating",
        r1=1.0,
        augment=("translation",),
        extractor="digits",
    )
    config.data = dict(source=dict(name="digits"), cache="device")
    config.optimizer = dict(
        name="adam", learning_rate=2e-3, momentum=0.5, beta2=0.99, ema_decay=0.99
    )
    config.training = training_settings(2000, 64, every=500)
    config.seed = 0
    return config
