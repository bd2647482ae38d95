"""Small image codec trained on the photographs of scikit-image, with four qualities in one network.

  deconv-jax train --config experiments/autoencoding/codec_photos.py --workdir runs/codec
  deconv-jax compress --workdir runs/codec photo.png -o photo.djx --level 2
  deconv-jax decompress --workdir runs/codec photo.djx -o decoded.png

The codec has a factorized prior. It is a demonstration: seven photographs are too few to beat a standard
format. Training takes 10 minutes on one shared CPU core. Test: 0.30 to 0.59 bits per pixel at 28.6 to
30.7 dB, +- 0.3 (3 photographs). JPEG is equal at the low end and better at the high end.
"""

import codec
import ml_collections

from deconv_jax.config_arguments import config_arguments


def get_config(arg: str = "") -> ml_collections.ConfigDict:
    """Arguments: model=factorized (hyperprior), distortion=mse (ms_ssim), steps=1500 (a multiple of
    100), features=32, seed=0.
    """
    args = config_arguments(
        arg, model="factorized", distortion="mse", steps=1500, features=32, seed=0
    )
    config = codec.experiment(
        **args, latent_features=48, levels=4, batch_size=8, learning_rate=2e-3
    )
    config.data = dict(source=dict(name="photographs", tile=192), cache="device")
    return config
