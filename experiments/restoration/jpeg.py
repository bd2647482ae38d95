"""DnCNN for JPEG artifacts of one quality, compared with AR-CNN (arXiv:1504.06993) and DnCNN-3.

  deconv-jax train --config experiments/restoration/jpeg.py:quality=10 --workdir runs/jpeg_10

Gray images are compressed on the device during training. The test split is classic5/, as in Table IV of
arXiv:1608.03981. The paper trains one network for all qualities; this config trains one per quality. Data
and schedule are those of `dncnn.py`. The config is meant for an accelerator. It has not been trained at this
length yet, so no figure is claimed.
"""

import dncnn
import ml_collections

from deconv_jax.config_arguments import config_arguments


def get_config(arg: str = "") -> ml_collections.ConfigDict:
    """Arguments: quality=10 (1 to 100), depth=20, features=64, steps=80000, batch=128."""
    args = config_arguments(arg, quality=10, depth=20, features=64, steps=80_000, batch=128)
    quality = args.pop("quality")
    config = dncnn.get_config(",".join(f"{name}={value}" for name, value in args.items()))
    config.task.degradation = dict(name="jpeg", quality=quality)
    config.task.crop = 48
    config.task.rescale = (1.0,)
    config.data.test_split = "folder:classic5"
    return config
