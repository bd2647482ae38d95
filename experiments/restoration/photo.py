"""FFDNet for color photographs: Gaussian noise up to sigma 30, then JPEG.

  deconv-jax train --config experiments/restoration/photo.py --workdir runs/photo

A photograph from a phone or from the web was compressed after the sensor added its noise, so the noise that is
left is no longer white. The noise-level map holds the level before the compression, which `restore` estimates. A blind
network of this size smoothed images with little noise. Data and schedule
are those of `ffdnet.py:color=rgb`; the network has 64 features, so that it is twice as fast. Training takes
about 40 minutes on one CPU core.
"""

import ffdnet
import ml_collections

from deconv_jax.config_arguments import config_arguments


def get_config(arg: str = "") -> ml_collections.ConfigDict:
    """Arguments: features=64, steps=12000, batch=4."""
    args = config_arguments(arg, features=64, steps=12_000, batch=4)
    words = (f"{name}={value}" for name, value in args.items())
    config = ffdnet.get_config(",".join(("color=rgb", *words)))
    config.task.degradation = dict(
        name="chain",
        steps=(
            dict(name="gaussian_noise", sigma=(0.0, 30.0)),
            dict(name="jpeg", quality=(20, 100)),
        ),
    )
    return config
