"""Image codec for a folder of photographs: a mean-scale hyperprior with five qualities in one network.

  export DECONV_JAX_IMAGES=/path/of/photographs   # the last 1 % of the files is held out
  deconv-jax train --config experiments/autoencoding/codec.py --workdir runs/codec
  deconv-jax train --config experiments/autoencoding/codec.py:levels=1,lowest=0.013 --workdir runs/codec_013

The defaults have the size that arXiv:1802.01436 uses for low rates (128 features, 192 latent channels). They
are meant for an accelerator and several hundred thousand photographs. This length has not been trained yet,
so no figure is claimed. `codec_small.py` is the same codec at a size that CPU cores can train.
"""

import ml_collections

from deconv_jax.config_arguments import config_arguments
from deconv_jax.config_groups import cosine_settings, data_settings, training_settings

_PER_MSE = {"mse": 1.0, "ms_ssim": 1300.0}
"""Ratio of the lambda for each distortion to the lambda for MSE at about the same rate."""


def get_config(arg: str = "") -> ml_collections.ConfigDict:
    """Arguments: model=hyperprior (factorized), distortion=mse (ms_ssim), steps=1000000 (a
    multiple of 100), features=128, latent_features=192, levels=5, lowest=0.0018, highest=0.06
    (lambdas), batch_size=16, seed=0.
    """
    args = config_arguments(
        arg,
        model="hyperprior",
        distortion="mse",
        steps=1_000_000,
        features=128,
        latent_features=192,
        levels=5,
        lowest=0.0018,
        highest=0.06,
        batch_size=16,
        seed=0,
    )
    config = experiment(**args, learning_rate=1e-4)
    config.data = data_settings(
        dict(name="folder", path="$DECONV_JAX_IMAGES", tile=512),
        ("all[:99%]", "all[99%:]", "all[99%:]"),
        workers=8,
    )
    config.task.crop = 256
    return config


def experiment(
    *,
    model: str,
    distortion: str,
    steps: int,
    features: int,
    latent_features: int,
    levels: int,
    batch_size: int,
    learning_rate: float,
    seed: int,
    lowest: float = 0.0018,
    highest: float = 0.06,
) -> ml_collections.ConfigDict:
    """Return a config without data. The lambdas form a geometric series; a gain is the square root of its lambda."""
    ratio = (highest / lowest) ** (1 / max(levels - 1, 1))
    lambdas = [lowest * ratio**level for level in range(levels)]
    middle = lambdas[levels // 2]
    config = ml_collections.ConfigDict()
    config.task = dict(
        name="compression",
        model=dict(
            name=f"{model}_codec",
            channels=3,
            features=features,
            latent_features=latent_features,
            # The error of a quantization step grows with its square, so the best step is 1 / sqrt(lambda).
            initial_gains=tuple((value / middle) ** 0.5 for value in lambdas),
        ),
        lambdas=tuple(value * _PER_MSE[distortion] for value in lambdas),
        distortion=distortion,
        crop=128,
    )
    config.optimizer = cosine_settings(
        "adam", learning_rate, steps // 50, end_factor=0.02, ema_decay=0.999
    )
    every = max(steps // 10, 1)
    config.training = training_settings(
        steps, batch_size, every=every, eval_batch_size=1, log_every=50
    )
    config.seed = seed
    return config
