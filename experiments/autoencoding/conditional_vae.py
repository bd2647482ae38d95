"""Conditional VAE for small gray images with a square hole: samples of what the hole may have been.

  deconv-jax prepare mnist
  deconv-jax train --config experiments/autoencoding/conditional_vae.py --workdir runs/conditional_vae
  deconv-jax train --config experiments/autoencoding/conditional_vae.py:data=fashion_mnist --workdir runs/conditional_fashion

The holes are those of `inpainting.py`, whose deterministic network the table `generative_prior` compares. The method is
that of Sohn et al., "Learning structured output representation using deep conditional generative models", NeurIPS 2015.
"""

import ml_collections
import vae

from deconv_jax.config_arguments import config_arguments


def get_config(arg: str = "") -> ml_collections.ConfigDict:
    """Arguments: data=mnist (digits, fashion_mnist), width=32, latent=32, steps=3000 (a multiple of 100), seed=0."""
    args = config_arguments(arg, data="mnist", width=32, latent=32, steps=3000, seed=0)
    words = ",".join(f"{name}={value}" for name, value in args.items())
    config = vae.get_config(f"{words},iwae=10")
    model = config.task.model
    # Gray values, so that the mean of p(x|z, y) is a gray image.
    model.likelihood, config.task.binarize = "bernoulli", "none"
    model.conditional = True
    side = model.image_shape[0]
    config.task.degradation = dict(name="box_mask", count=1, size=side // 2)
    return config
