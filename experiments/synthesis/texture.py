"""Periodic spatial GAN (arXiv:1705.06566) of one or a few photographs of textures.

  deconv-jax train --config experiments/synthesis/texture.py --workdir runs/texture
  deconv-jax train --config experiments/synthesis/texture.py:images=wall.jpg,color=rgb --workdir runs/wall
  deconv-jax generate --workdir runs/texture --size 2048x1024 --tileable -o bricks.png

Images are "brick", "grass" and "gravel" of scikit-image, or files; several are joined by "+", and the global
latents then choose among them. The discriminator has spectral norm and the hinge loss: with the paper's batch norm
and log loss it recognized all samples after 600 steps, and the generator learned nothing more.

All splits are crops of the same photographs, and `train` warns of it: the metrics compare statistics of crops, and
say nothing about novelty.
"""

import ml_collections

from deconv_jax.config_arguments import config_arguments
from deconv_jax.config_groups import data_settings, training_settings


def get_config(arg: str = "") -> ml_collections.ConfigDict:
    """Arguments: images=brick, color=gray, side=128 (pixels), width=16 (channels), steps=3000, batch=8."""
    args = config_arguments(
        arg, images="brick", color="gray", side=128, width=16, steps=3000, batch=8
    )
    side, width = args["side"], args["width"]
    config = ml_collections.ConfigDict()
    config.task = dict(
        name="gan",
        generator=dict(
            name="texture_generator",
            image_shape=(side, side, 3 if args["color"] == "rgb" else 1),
            width=width,
        ),
        discriminator=dict(name="texture_discriminator", width=width, spectral_norm=True),
        loss="hinge",
        extractor="pixels",
    )
    config.data = data_settings(
        dict(
            name="textures",
            images=tuple(args["images"].split("+")),
            side=side,
            color=args["color"],
        ),
        ("train", "validation", "test"),
        cache="device",
    )
    config.optimizer = dict(
        name="adam", learning_rate=1e-3, momentum=0.5, beta2=0.99, ema_decay=0.995
    )
    config.training = training_settings(
        args["steps"], args["batch"], every=1000, eval_batch_size=64
    )
    config.seed = 0
    return config
