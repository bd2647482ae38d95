"""DCGAN of MNIST, with the networks and schedule that the tables gan_losses and gan_upsampling use.

  deconv-jax prepare mnist
  deconv-jax train --config experiments/synthesis/mnist.py --workdir runs/gan_mnist
  deconv-jax train --config experiments/synthesis/mnist.py:loss=wasserstein --workdir runs/wgan

The discriminator has no batch norm, so the same network serves all losses. The hinge loss comes with spectral
normalization, and the Wasserstein loss with its gradient penalty. A step has one update of each network (the
WGAN-GP paper has five discriminator updates).

Training takes 3 to 4 minutes on two CPU cores. Test Fréchet distance with the extractor "mnist": 5.4 +- 0.1
(3 seeds; real training images: 0.06), 10,000 images. The table gan_losses compares all losses.
"""

import ml_collections

from deconv_jax.config_arguments import config_arguments
from deconv_jax.config_groups import data_settings, training_settings


def get_config(arg: str = "") -> ml_collections.ConfigDict:
    """Arguments: loss=hinge (minimax, non_saturating, least_squares, wasserstein), steps=3000,
    width=32, classes=0 (10: class-conditional), upsampling=transposed (subpixel, resize),
    kernel=4, seed=0.
    """
    args = config_arguments(
        arg,
        loss="hinge",
        steps=3000,
        width=32,
        classes=0,
        upsampling="transposed",
        kernel=4,
        seed=0,
    )
    loss, steps, width, classes = args["loss"], args["steps"], args["width"], args["classes"]
    config = ml_collections.ConfigDict()
    config.task = dict(
        name="gan",
        generator=dict(
            name="dcgan_generator",
            image_shape=(28, 28, 1),
            latent_dim=64,
            width=width,
            num_classes=classes,
            upsampling=args["upsampling"],
            # Other upsampling methods have a fixed kernel size.
            kernel_size=args["kernel"] if args["upsampling"] == "transposed" else None,
        ),
        discriminator=dict(
            name="dcgan_discriminator",
            width=width,
            num_classes=classes,
            norm="none",
            spectral_norm=loss == "hinge",
        ),
        loss=loss,
        gradient_penalty=10.0 if loss == "wasserstein" else 0.0,
        extractor="mnist",
    )
    config.data = data_settings(
        dict(name="tfds", dataset="mnist"),
        ("train[:58000]", "train[58000:]", "test"),
        cache="device",
    )
    config.optimizer = dict(
        name="adam", learning_rate=1e-3, momentum=0.5, beta2=0.99, ema_decay=0.995
    )
    config.training = training_settings(steps, 64, every=1000, eval_batch_size=500)
    config.seed = args["seed"]
    return config
