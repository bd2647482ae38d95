"""DCGAN of stacked MNIST: three digits are the channels of an image, which gives 1,000 modes.

  deconv-jax prepare mnist
  deconv-jax train --config experiments/synthesis/stacked_mnist.py:remedy=both --workdir runs/stacked

With a small discriminator and no regularization, the generator misses many modes, as in Metz et al.,
arXiv:1611.02163, section 3.3.1. A remedy is a regularizer that reduces this mode collapse.

Training takes 3 to 5 minutes on two CPU cores. Without a remedy the generator covers 570 +- 70 of the 1,000
modes, with both remedies 800 +- 10 (3 seeds). The table gan_modes has every remedy.
"""

import ml_collections
import mnist

from deconv_jax.config_arguments import config_arguments
from deconv_jax.errors import InputError, did_you_mean

REMEDIES = {
    "none": dict(),
    "minibatch_std": dict(discriminator=dict(minibatch_std_group=4)),
    "r1": dict(r1=4.0),
    "both": dict(discriminator=dict(minibatch_std_group=4), r1=4.0),
    "gradient_penalty": dict(loss="wasserstein", gradient_penalty=10.0),
}


def get_config(arg: str = "") -> ml_collections.ConfigDict:
    """Arguments: remedy=both (none, minibatch_std, r1, gradient_penalty), steps=2000, width=32,
    discriminator_width=8, seed=0.
    """
    args = config_arguments(arg, remedy="both", steps=2000, width=32, discriminator_width=8, seed=0)
    if args["remedy"] not in REMEDIES:
        raise InputError(f"no remedy {args['remedy']!r}; {did_you_mean(args['remedy'], REMEDIES)}")
    steps, width, seed = args["steps"], args["width"], args["seed"]
    config = mnist.get_config(f"loss=non_saturating,steps={steps},width={width},seed={seed}")
    config.task.generator.image_shape = (28, 28, 3)
    config.task.discriminator.width = args["discriminator_width"]
    remedy = dict(REMEDIES[args["remedy"]])
    config.task.discriminator.update(remedy.pop("discriminator", {}))
    config.task.update(remedy)
    config.data.source = dict(name="stacked", base=dict(name="tfds", dataset="mnist"))
    # Both splits are large enough to contain all 1,000 modes.
    config.data.train_split = "train[:50000]"
    config.data.validation_split = "train[50000:]"
    config.data.cache = "none"
    return config
