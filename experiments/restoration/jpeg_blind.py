"""FFDNet without a noise-level map for JPEG artifacts of every quality from 5 to 95, gray or color.

  deconv-jax train --config experiments/restoration/jpeg_blind.py:color=rgb --workdir runs/jpeg_color

The data and the schedule are those of `ffdnet.py`. So is the network, but with 64 features for color, too. It
gets no quality and has to infer it from the image, as DnCNN-3 does (arXiv:1608.03981, section III-E). The loss is the
mean squared error, as there: with the loss of `ffdnet.py`, images of high quality counted most, and those of low
quality kept their blocks.
$DECONV_JAX_DATA must name a folder with bsd432/ for training, and bsd68/ and classic5/ (gray) or cbsd68/
(color) for validation and the test. Training takes about 40 minutes on one CPU core.
"""

import ffdnet
import ml_collections

from deconv_jax.config_arguments import config_arguments


def get_config(arg: str = "") -> ml_collections.ConfigDict:
    """Arguments: color=gray (rgb), features=64, steps=12000, batch=4."""
    args = config_arguments(arg, color="gray", features=64, steps=12_000, batch=4)
    config = ffdnet.get_config(",".join(f"{name}={value}" for name, value in args.items()))
    config.task.degradation = dict(name="jpeg", quality=(5, 95))
    config.task.noise_conditional = False
    config.task.reduction = "mean"
    if config.task.model.channels == 1:
        config.data.test_split = "folder:classic5"
    return config
