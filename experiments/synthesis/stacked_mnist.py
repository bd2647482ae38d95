"""Stacked MNIST: three digits as the channels of an image, 1,000 modes for a generator to miss.

  deconv-jax prepare mnist
  deconv-jax train --config experiments/synthesis/stacked_mnist.py:remedy=both --workdir runs/stacked

A small discriminator without regularisation makes the plain run miss many modes, as in the experiment of
Metz et al., arXiv:1611.02163, section 3.3.1; a remedy is what keeps it from that.

Two CPU cores, 3 to 5 minutes. The plain run reaches 570 +- 70 of the 1,000 modes and that with both remedies
800 +- 10 (3 seeds); the table of modes in experiments/tables has the figures of every remedy.
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
    config.data.name = "stacked_mnist"
    # Enough of either that none of 1,000 modes is rare by chance.
    config.data.train_split = "train[:50000]"
    config.data.validation_split = "train[50000:]"
    config.data.cache = "none"
    return config
