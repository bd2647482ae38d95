"""SNGAN of CIFAR-10 (arXiv:1802.05957), class-conditional (arXiv:1802.05637) on residual networks or not.

  deconv-jax prepare cifar10
  deconv-jax train --config experiments/synthesis/cifar10.py --workdir runs/sngan_cifar10
  deconv-jax train --config experiments/synthesis/cifar10.py:networks=conv --workdir runs/sngan_conv

As in the papers: five updates of the discriminator a step, each on 64 images, Adam with beta (0, 0.9)
and a rate of 2e-4 that falls linearly to zero. Not as there: the generator is updated on the last 64 of
the discriminator's samples and not on 128 of its own, samples have the real images' classes, and the
generator is averaged. Meant for an accelerator; not trained here yet, so no figure is claimed. For
measures that look through InceptionV3 set $DECONV_JAX_INCEPTION to the file of its weights and
--config.task.extractor=inception; without, they look at pixels.
"""

import ml_collections

from deconv_jax.config_arguments import config_arguments


def get_config(arg: str = "") -> ml_collections.ConfigDict:
    """Arguments: networks=resnet (conv without classes, of the first paper's table 3), steps=100000."""
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
    config.data = dict(
        name="cifar10",
        train_split="train[:45000]",
        validation_split="train[45000:]",
        test_split="test",
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
    config.training = dict(
        num_steps=args["steps"],
        batch_size=320,
        eval_batch_size=500,
        eval_every=5000,
        save_every=5000,
        log_every=500,
        steps_per_call=10,
    )
    config.seed = 0
    return config
