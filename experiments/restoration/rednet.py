"""RED-Net for Gaussian noise of one level (Mao et al., arXiv:1603.09056, Tables 1 to 3).

  deconv-jax train --config experiments/restoration/rednet.py:depth=30,sigma=30 \\
    --workdir runs/rednet30_30

Patches of 50 x 50 pixels and Adam with a learning rate of 1e-4, as in section 4 of the paper. The paper
trains on 300 images of BSD; the data here is that of `dncnn.py`. The config is meant for an accelerator. It
has not been trained at this length yet, so no figure is claimed.
"""

import dncnn
import ml_collections

from deconv_jax.config_arguments import config_arguments


def get_config(arg: str = "") -> ml_collections.ConfigDict:
    """Arguments: depth=30 (10, 20), skip_every=2 (layers between skips), sigma=30.0 (in units of 1/255),
    steps=200000, batch=64, learning_rate=1e-4, seed=0.
    """
    args = config_arguments(
        arg,
        depth=30,
        skip_every=2,
        sigma=30.0,
        steps=200_000,
        batch=64,
        learning_rate=1e-4,
        seed=0,
    )
    same = ",".join(f"{name}={args[name]}" for name in ("sigma", "steps", "batch", "seed"))
    config = dncnn.get_config(same)
    network = {name: args[name] for name in ("depth", "skip_every")}
    config.task.model = dict(name="rednet", channels=1, **network)
    config.task.crop = 50
    config.task.rescale = (1.0,)
    config.task.reduction = "mean"
    config.optimizer = dict(name="adam", learning_rate=args["learning_rate"])
    return config
