"""SNGAN of CIFAR-10, class-conditional, on residual networks (arXiv:1802.05957, arXiv:1802.05637).

  deconv-jax prepare cifar10
  deconv-jax train --config experiments/synthesis/cifar10.py --workdir runs/sngan_cifar10 \\
    --config.task.extractor=inception:/path/to/pt_inception-2015-12-05-6726825d.pth

The papers' settings: five updates of the discriminator a step, each on 64 images, Adam with beta (0, 0.9),
a rate of 2e-4 that falls linearly to zero. Meant for an accelerator; not trained here yet, so no
figure is claimed. Without the Inception weights the measures look at pixels.
"""

import ml_collections

from deconv_jax.config_arguments import config_arguments


def get_config(arg: str = "") -> ml_collections.ConfigDict:
    """Arguments: steps=100000, width=256 of the generator, half as many of the discriminator."""
    args = config_arguments(arg, steps=100_000, width=256)
    width = args["width"]
    config = ml_collections.ConfigDict()
    config.task = dict(
        name="synthesis",
        generator=dict(
            name="resnet_generator",
            image_shape=(32, 32, 3),
            latent_dim=128,
            width=width,
            num_classes=10,
        ),
        discriminator=dict(name="resnet_discriminator", width=width // 2, num_classes=10),
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
