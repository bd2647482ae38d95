"""SNGAN (arXiv:1802.05957) of CIFAR-10: class-conditional ResNets (arXiv:1802.05637) or plain convolutions.

  deconv-jax prepare cifar10
  deconv-jax train --config experiments/synthesis/cifar10.py --workdir runs/sngan_cifar10
  deconv-jax train --config experiments/synthesis/cifar10.py:networks=conv --workdir runs/sngan_conv

As in the papers, a step has five discriminator updates on 64 images each, and Adam has betas (0, 0.9) and a
learning rate that falls linearly from 2e-4 to zero. Three things differ: the generator is updated on the last
64 samples of the discriminator, not on 128 new ones; samples have the classes of the real images; and the
generator's weights are averaged. The config is meant for an accelerator. It has not been trained yet, so no
figure is claimed. The default metrics use pixels as features. For FID and KID of Inception-v3, set $DECONV_JAX_INCEPTION to the
file of its weights and --config.task.extractor=inception.
"""

import ml_collections

from deconv_jax.config_arguments import config_arguments
from deconv_jax.config_groups import data_settings, training_settings


def get_config(arg: str = "") -> ml_collections.ConfigDict:
    """Arguments: networks=resnet (conv: unconditional, arXiv:1802.05957, Table 3), steps=100000."""
    args = config_arguments(arg, networks="resnet", steps=100_000)
    shape = dict(image_shape=(32, 32, 3), latent_dim=128)
    networks = {
        "resnet": dict(
            generator=dict(name="resnet_generator", width=256, num_classes=10, **shape),
            discriminator=dict(name="resnet_discriminator", width=128, num_classes=10),
        ),
        "conv": dict(
            generator=dict(name="dcgan_generator", width=64, final_conv=True, **shape),
            discriminator=dict(name="sngan_discriminator", width=64),
        ),
    }
    config = ml_collections.ConfigDict()
    config.task = dict(
        name="gan",
        **networks[args["networks"]],
        loss="hinge",
        discriminator_steps=5,
        extractor="pixels",
    )
    config.data = data_settings(
        dict(name="tfds", dataset="cifar10"),
        ("train[:45000]", "train[45000:]", "test"),
        cache="device",
    )
    config.optimizer = dict(
        name="adam",
        learning_rate=2e-4,
        momentum=0.0,
        beta2=0.9,
        schedule="linear",
        ema_decay=0.9999,
    )
    config.training = training_settings(
        args["steps"], 320, every=5000, eval_batch_size=500, log_every=500
    )
    config.seed = 0
    return config
