"""A small image codec of photographs that come with scikit-image, four qualities in one network.

  deconv-jax train --config experiments/autoencoding/codec_photos.py --workdir runs/codec
  deconv-jax compress --checkpoint runs/codec photo.png -o photo.djx --level 2
  deconv-jax decompress --checkpoint runs/codec photo.djx -o decoded.png

Factorised prior; seven photographs are few to learn from, so this is to see a codec at work and not to
save disk space. One CPU core with others at work, 10 minutes. Test: 0.30 to 0.59 bits a pixel at 28.6 to 30.7
dB, +- 0.3 (3 photographs), about JPEG's at the low end and behind it above.
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
    config.data = dict(name="photographs", tile=192, cache="device")
    return config
