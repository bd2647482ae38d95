"""Image codec trained on T91 and Train400, and tested on Set14.

  deconv-jax train --config experiments/autoencoding/codec_t91.py --workdir runs/codec_t91

The network is a narrow version of the hyperprior in `codec.py`. The table codec_rd in experiments/tables
uses it. $DECONV_JAX_DATA must name a folder with t91/ and train400/ for training, set5/ for validation and
set14/ for the test.

Training takes an hour on one shared CPU core. Set14, whole files: 0.36 to 1.55 bits per pixel at 26.9 to
31.5 dB, +- 0.2 (JPEG at the same rates: 25.9 and 32.5 dB).
"""

import codec
import ml_collections

from deconv_jax.config_arguments import config_arguments
from deconv_jax.config_groups import data_settings


def get_config(arg: str = "") -> ml_collections.ConfigDict:
    """Arguments: model=hyperprior (factorized), distortion=mse (ms_ssim), steps=8000 (a multiple
    of 100), features=64, latent_features=128, seed=0.
    """
    args = config_arguments(
        arg,
        model="hyperprior",
        distortion="mse",
        steps=8_000,
        features=64,
        latent_features=128,
        seed=0,
    )
    config = codec.experiment(**args, levels=5, batch_size=8, learning_rate=1e-3)
    config.data = data_settings(
        dict(name="folder", path=".", tile=180),
        ("t91+train400", "set5", "set14"),
        data_dir="$DECONV_JAX_DATA",
        cache="device",
    )
    return config
