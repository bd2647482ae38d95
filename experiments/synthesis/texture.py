"""Periodic spatial GAN (arXiv:1705.06566) of one or a few photographs of textures.

  deconv-jax train --config experiments/synthesis/texture.py --workdir runs/texture
  deconv-jax train --config experiments/synthesis/texture.py:images=wall.jpg,color=rgb --workdir runs/wall
  deconv-jax generate --workdir runs/texture --size 2048x1024 --tileable -o bricks.png

Images are "brick", "grass" and "gravel" of scikit-image, or files; several are joined by "+", and the global
latents then choose among them. A crop has side times shrink pixels of the photograph, and is shrunk.

Three choices differ from the paper. The discriminator has spectral norm and the hinge loss: with batch norm and the
log loss it recognized all samples. The upsampling layers resize: transposed convolutions learned a fixed pattern
with the period of their stride and ignored the latents. Adam has beta2 = 0.99. Training takes about 15 minutes on one
CPU core.

All splits are crops of the same photographs, and `train` warns of it: the metrics compare statistics of crops, and
say nothing about novelty.
"""

import ml_collections

from deconv_jax.config_arguments import config_arguments
from deconv_jax.config_groups import data_settings, training_settings


def get_config(arg: str = "") -> ml_collections.ConfigDict:
    """Arguments: images=brick, color=gray, side=96 (pixels), shrink=2, width=16 (channels), steps=8000,
    batch=8.
    """
    args = config_arguments(
        arg, images="brick", color="gray", side=96, shrink=2, width=16, steps=8000, batch=8
    )
    side, width = args["side"], args["width"]
    config = ml_collections.ConfigDict()
    config.task = dict(
        name="gan",
        generator=dict(
            name="texture_generator",
            image_shape=(side, side, 3 if args["color"] == "rgb" else 1),
            width=width,
            stages=4,
            upsampling="resize",
        ),
        discriminator=dict(name="texture_discriminator", width=width, spectral_norm=True),
        loss="hinge",
        resize=args["shrink"] != 1,
        extractor="pixels",
    )
    config.data = data_settings(
        dict(
            name="textures",
            images=tuple(args["images"].split("+")),
            side=side * args["shrink"],
            color=args["color"],
        ),
        ("train", "validation", "test"),
        cache="device",
    )
    config.optimizer = dict(
        name="adam", learning_rate=3e-4, momentum=0.5, beta2=0.99, ema_decay=0.999
    )
    config.training = training_settings(
        args["steps"], args["batch"], every=1000, eval_batch_size=64
    )
    config.seed = 0
    return config
