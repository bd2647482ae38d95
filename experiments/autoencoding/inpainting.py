"""Context encoder for small gray images: images with a square hole in, whole images out.

  deconv-jax prepare mnist
  deconv-jax train --config experiments/autoencoding/inpainting.py --workdir runs/inpainting
  deconv-jax train --config experiments/autoencoding/inpainting.py:data=fashion_mnist --workdir runs/inpainting_fashion

An autoencoder learns to fill a hole, half as high and wide as the image, at a random position (Pathak et al.,
arXiv:1604.07379, without the adversarial loss). The table `generative_prior` compares it with generators as priors and
with total variation.
"""

import _data
import ml_collections

from deconv_jax.config_arguments import config_arguments


def get_config(arg: str = "") -> ml_collections.ConfigDict:
    """Arguments: data=mnist (digits, fashion_mnist), width=32, latent=128, steps=3000 (a multiple of 100), seed=0."""
    args = config_arguments(arg, data="mnist", width=32, latent=128, steps=3000, seed=0)
    data, width = args["data"], args["width"]
    side = _data.side(data)
    task = dict(
        name="autoencoding",
        model=dict(
            name="autoencoder",
            image_shape=(side, side, 1),
            features=(width, 2 * width),
            latent="vector",
            latent_dim=args["latent"],
            residual_blocks=1,
        ),
        degradation=dict(name="box_mask", count=1, size=side // 2),
    )
    return _data.experiment(
        task,
        data,
        steps=args["steps"],
        batch_size=128,
        seed=args["seed"],
        learning_rate=2e-3,
        clip_norm=1.0,
        ema_decay=0.998,
    )
