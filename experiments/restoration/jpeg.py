"""DnCNN for the artefacts of JPEG, beside AR-CNN (arXiv:1504.06993) and DnCNN-3 (arXiv:1608.03981).

  deconv-jax train --config experiments/restoration/jpeg.py:quality=10 --workdir runs/jpeg_10

Gray images, compressed on the device as they are needed; classic5/ for the figure at the end, as in
Table IV of DnCNN's paper, which learns one network for all qualities where this one learns one.
Data and schedule are those of `dncnn.py`. Meant for an accelerator; not trained at this length yet,
so no figure is claimed.
"""

import dncnn
import ml_collections

from deconv_jax.config_arguments import config_arguments


def get_config(arg: str = "") -> ml_collections.ConfigDict:
    """Arguments: quality=10 of 100, depth=20, features=64, steps=80000, batch=128."""
    args = config_arguments(arg, quality=10, depth=20, features=64, steps=80_000, batch=128)
    quality = args.pop("quality")
    config = dncnn.get_config(",".join(f"{name}={value}" for name, value in args.items()))
    config.task.degradation = dict(name="jpeg", quality=quality)
    config.task.crop = 48
    config.task.rescale = (1.0,)
    config.data.test_split = "folder:classic5"
    return config
