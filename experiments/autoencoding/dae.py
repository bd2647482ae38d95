"""Denoising autoencoder for small gray images: noisy images in, clean images out.

  deconv-jax prepare mnist
  deconv-jax train --config experiments/autoencoding/dae.py --workdir runs/dae
  deconv-jax train --config experiments/autoencoding/dae.py:data=digits,steps=1000 --workdir runs/dae_digits
  deconv-jax train --config experiments/autoencoding/dae.py:data=fashion_mnist --workdir runs/dae_fashion

The code is overcomplete: it has more values than the image. The network therefore learns to remove noise, not
to compress (Vincent et al., ICML 2008). The table `denoising_autoencoder` compares it with filters.

Training takes 5 to 8 minutes on one CPU core. Test PSNR on MNIST: 29.1, 25.9 and 22.2 dB +- 0.2 at sigma 25,
50 and 100 (10,000 images; noisy images: 22.8, 16.9 and 11.2 dB). Digits at sigma 50, 3 minutes: 29.7 dB +- 0.5
(360 images; noisy images: 16.0 dB).
"""

import _data
import ml_collections

from deconv_jax.config_arguments import config_arguments


def get_config(arg: str = "") -> ml_collections.ConfigDict:
    """Arguments: data=mnist (digits, fashion_mnist), sigma=50.0 (noise, in units of 1/255), width=32,
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
