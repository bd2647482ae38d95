"""RED-Net for Gaussian noise of one level (Mao et al., arXiv:1603.09056, Tables 1 to 3).

  deconv-jax train --config experiments/restoration/rednet.py:depth=30,sigma=30 \\
    --workdir runs/rednet30_30

Patches of 50 pixels as in the paper's section 4, Adam with its rate of 1e-4. The paper learns from
300 images of BSD; here the data is that of `dncnn.py`. Meant for an accelerator; not trained at this
length yet, so no figure is claimed.
"""

import dncnn
import ml_collections

from deconv_jax.config_arguments import config_arguments


def get_config(arg: str = "") -> ml_collections.ConfigDict:
    """Arguments: depth=30 (or 10, 20), sigma=30.0 in levels of 255, steps=200000, batch=64,
    learning_rate=1e-4.
    """
    args = config_arguments(arg, depth=30, sigma=30.0, steps=200_000, batch=64, learning_rate=1e-4)
    steps, batch, sigma = args["steps"], args["batch"], args["sigma"]
    config = dncnn.get_config(f"sigma={sigma},steps={steps},batch={batch}")
    config.task.model = dict(name="rednet", channels=1, depth=args["depth"])
    config.task.crop = 50
    config.task.rescale = (1.0,)
    config.task.reduction = "mean"
    config.optimizer = dict(name="adam", learning_rate=args["learning_rate"])
    return config
