"""DCGAN of a folder of photographs at 128 or 256 pixels, such as FFHQ or CelebA-HQ.

  deconv-jax train --config experiments/synthesis/high_resolution.py:path=ffhq128 --workdir runs/gan_128
  deconv-jax train --config experiments/synthesis/high_resolution.py:size=256,path=ffhq256 --workdir runs/gan_256
  deconv-jax cost --config experiments/synthesis/high_resolution.py:size=256,path=ffhq256

Images are cropped to the largest central square and resized on the device, so larger files work; files of the
target size load fastest. The last 10 percent of the files, in a fixed random order, are for validation and test.

Every stage doubles the channels up to `max_width`. The discriminator has no batch norm but the minibatch
standard deviation, R1 and differentiable augmentation; the generator is averaged. The config is meant for an
accelerator. It has not been trained yet, so no figure is claimed.
"""

import ml_collections

from deconv_jax.config_arguments import config_arguments
from deconv_jax.config_groups import data_settings, training_settings

R1 = {64: 1.0, 128: 4.0, 256: 10.0}
"""Weight of R1 by size; a gradient has more pixels in larger images."""


def get_config(arg: str = "") -> ml_collections.ConfigDict:
    """Arguments: size=128 (64, 128 or 256 pixels), path=ffhq (folder), width=32, max_width=512, steps=200000, batch=64."""
    args = config_arguments(
        arg, size=128, path="ffhq", width=32, max_width=512, steps=200_000, batch=64
    )
    size, widths = args["size"], {"width": args["width"], "max_width": args["max_width"]}
    config = ml_collections.ConfigDict()
    config.task = dict(
        name="gan",
        generator=dict(
            name="dcgan_generator",
            image_shape=(size, size, 3),
            latent_dim=256,
            final_conv=True,
            **widths,
        ),
        discriminator=dict(
            name="dcgan_discriminator", norm="none", minibatch_std_group=4, **widths
        ),
        loss="non_saturating",
        r1=R1.get(size, 4.0),
        augment=("color", "translation", "cutout"),
        resize=True,
        extractor="pixels",
    )
    config.data = data_settings(
        dict(name="folder", path=args["path"]),
        ("all@0[:90%]", "all@0[90%:95%]", "all@0[95%:]"),
        data_dir="$DECONV_JAX_DATA",
        workers=8,
    )
    config.optimizer = dict(
        name="adam", learning_rate=1e-3, momentum=0.0, beta2=0.99, ema_decay=0.999
    )
    config.training = training_settings(
        args["steps"], args["batch"], every=10_000, eval_batch_size=100, log_every=500
    )
    config.seed = 0
    return config
