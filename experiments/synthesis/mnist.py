"""DCGAN of MNIST with any of five losses: the networks and budget of the table of losses.

  deconv-jax prepare mnist
  deconv-jax train --config experiments/synthesis/mnist.py:loss=hinge --workdir runs/gan_mnist

FIGURES
"""

import ml_collections

from deconv_jax.config_arguments import config_arguments

LOSSES = {
    "minimax": dict(),
    "non_saturating": dict(),
    "least_squares": dict(),
    "hinge": dict(),
    "wasserstein": dict(gradient_penalty=10.0),
}


def get_config(arg: str = "") -> ml_collections.ConfigDict:
    """Arguments: loss=hinge, steps=4000, width=32, seed=0; hinge has spectral normalisation."""
    values = config_arguments(arg, loss="hinge", steps=4000, width=32, seed=0)
    loss, steps = values["loss"], values["steps"]
    config = ml_collections.ConfigDict()
    config.task = dict(
        name="synthesis",
        generator=dict(
            name="dcgan_generator",
            image_shape=(28, 28, 1),
            latent_dim=64,
            width=values["width"],
        ),
        discriminator=dict(
            name="dcgan_discriminator",
            width=values["width"],
            norm="none",
            spectral_norm=loss == "hinge",
        ),
        loss=loss,
        extractor="mnist",
        **LOSSES[loss],
    )
    config.data = dict(
        name="mnist",
        train_split="train[:55000]",
        validation_split="train[55000:]",
        test_split="test",
        cache="device",
    )
    config.optimizer = dict(
        name="adam", learning_rate=5e-4, momentum=0.5, beta2=0.99, ema_decay=0.995
    )
    config.training = dict(
        num_steps=steps,
        batch_size=64,
        eval_batch_size=500,
        eval_every=steps,
        save_every=steps,
        log_every=100,
        steps_per_call=10,
    )
    config.seed = values["seed"]
    return config
