"""Image codec of six qualities at a size that CPU cores can train, on BSD432 and T91.

  deconv-jax train --config experiments/autoencoding/codec_small.py --workdir runs/codec_small

The network is the hyperprior codec of `codec.py` with fewer channels. $DECONV_JAX_DATA must name a folder with
bsd432/ and t91/ for training, set5/ for validation and set14/ for the test. Training takes about four hours on
one CPU core. The table codec_rd in experiments/tables has the rates and the PSNR of whole files.
"""

import codec
import ml_collections

from deconv_jax.config_arguments import config_arguments
from deconv_jax.config_groups import data_settings


def get_config(arg: str = "") -> ml_collections.ConfigDict:
    """Arguments: steps=24000 (a multiple of 100), batch_size=8, seed=0."""
    args = config_arguments(arg, steps=24_000, batch_size=8, seed=0)
    config = codec.experiment(
        **args,
        model="hyperprior",
        distortion="mse",
        features=48,
        latent_features=160,
        levels=6,
        lowest=0.0006,
        highest=0.045,
        learning_rate=1e-3,
    )
    config.task.model.stage_features = (48, 64, 96)
    config.task.model.hyper_features = 48
    config.data = data_settings(
        dict(name="folder", path=".", tile=160),
        ("bsd432+t91", "set5", "set14"),
        data_dir="$DECONV_JAX_DATA",
        cache="device",
    )
    return config
