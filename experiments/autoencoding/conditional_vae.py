"""Conditional VAE for small gray images with a square hole: samples of what the hole may have been.

  deconv-jax prepare mnist
  deconv-jax train --config experiments/autoencoding/conditional_vae.py --workdir runs/conditional_vae
  deconv-jax train --config experiments/autoencoding/conditional_vae.py:data=fashion_mnist --workdir runs/conditional_fashion

The holes are those of `inpainting.py`, whose deterministic network the table `generative_prior` compares. The method is
that of Sohn et al., "Learning structured output representation using deep conditional generative models", NeurIPS 2015.
"""

import _data
import ml_collections

from deconv_jax.config_arguments import config_arguments


def get_config(arg: str = "") -> ml_collections.ConfigDict:
    """Arguments: data=mnist (digits, fashion_mnist), width=32, latent=32, steps=3000 (a multiple of 100), seed=0."""
    args = config_arguments(arg, data="mnist", width=32, latent=32, steps=3000, seed=0)
    data, width = args["data"], args["width"]
    side = _data.side(data)
    task = dict(
        name="variational",
        model=dict(
            name="vae",
            image_shape=(side, side, 1),
            features=(width, 2 * width),
            latent_dim=args["latent"],
            residual_blocks=1,
            norm="none",
            activation="elu",
            conditional=True,
        ),
        degradation=dict(name="box_mask", count=1, size=side // 2),
    )
    return _data.experiment(
        task,
        data,
        steps=args["steps"],
        batch_size=128,
        seed=args["seed"],
        learning_rate=1e-3,
        clip_norm=100.0,
        ema_decay=0.998,
    )
