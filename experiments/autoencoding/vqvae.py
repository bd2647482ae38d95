"""Vector-quantized autoencoder of small images, compared with k-means of patches at the same bit rate.

  deconv-jax prepare fashion_mnist
  deconv-jax train --config experiments/autoencoding/vqvae.py --workdir runs/vqvae
  deconv-jax train --config experiments/autoencoding/vqvae.py:data=digits,codes=256,steps=2000 --workdir runs/vqvae_digits

Training takes 4 minutes for Fashion-MNIST on one CPU core. Test PSNR: 23.7 dB +- 0.2; perplexity 310 of 512
codes, all of them used (10,000 images; k-means 22.5 dB). Digits with 256 codes, 5 minutes: 37.2 dB +- 0.5;
perplexity 200, all codes used (360 images; k-means 29.3 dB).
"""

import _data
import ml_collections

from deconv_jax.config_arguments import config_arguments

_VARIANCE = dict(digits=0.121, mnist=0.095, fashion_mnist=0.125)
"""Variance of the pixels of the training images, in [0, 1]."""


def get_config(arg: str = "") -> ml_collections.ConfigDict:
    """Arguments: data=fashion_mnist (digits, mnist), codes=512, dim=32 (size of a code vector),
    width=32, steps=2000 (a multiple of 100), seed=0.
    """
    args = config_arguments(
        arg, data="fashion_mnist", codes=512, dim=32, width=32, steps=2000, seed=0
    )
    data, width = args["data"], args["width"]
    side = _data.side(data)
    task = dict(
        name="vector_quantization",
        model=dict(
            name="vqvae",
            image_shape=(side, side, 1),
            features=(width, 2 * width),
            latent_dim=args["dim"],
            codebook_size=args["codes"],
        ),
        image_variance=_VARIANCE[data],
    )
    return _data.experiment(
        task, data, steps=args["steps"], batch_size=128, seed=args["seed"], learning_rate=3e-3
    )
