"""Denoising autoencoder of small gray images: Gaussian noise in, clean images out.

  deconv-jax prepare mnist
  deconv-jax train --config experiments/autoencoding/dae.py --workdir runs/dae
  deconv-jax train --config experiments/autoencoding/dae.py:data=digits,steps=1000 --workdir runs/dae_digits
  deconv-jax train --config experiments/autoencoding/dae.py:data=fashion_mnist --workdir runs/dae_fashion

The code is a map with more numbers than the image, so that what the network leaves out is left out to
be rid of the noise (Vincent et al. 2008). The table `denoising_autoencoder` holds it against filters.

One CPU core, 5 to 8 minutes on MNIST. Test PSNR 29.1, 25.9 and 22.2 dB +- 0.2 at sigma 25, 50 and 100 (10,000
images; noisy ones 22.8, 16.9 and 11.2 dB). The digits at sigma 50, 3 minutes: 29.7 dB +- 0.5 (360 images; noisy
ones 16.0 dB).
"""

import _data
import ml_collections

from deconv_jax.config_arguments import config_arguments


def get_config(arg: str = "") -> ml_collections.ConfigDict:
    """Arguments: data=mnist (digits, fashion_mnist), sigma=50.0 (of the noise, 8-bit levels), width=32,
    steps=1500 (a multiple of 100), seed=0.
    """
    args = config_arguments(arg, data="mnist", sigma=50.0, width=32, steps=1500, seed=0)
    data, width = args["data"], args["width"]
    side = _data.side(data)
    task = dict(
        name="autoencoding",
        model=dict(
            name="autoencoder",
            image_shape=(side, side, 1),
            features=(width, 2 * width),
            latent="map",
            latent_dim=2 * width,
            residual_blocks=1,
        ),
        degradation=dict(name="gaussian_noise", sigma=args["sigma"]),
    )
    return _data.experiment(
        task,
        data,
        steps=args["steps"],
        batch_size=128,
        seed=args["seed"],
        learning_rate=2e-3,
        clip_norm=1.0,
    )
