"""DnCNN for Gaussian noise of one level, trained from scratch on 400 gray images of 180 x 180 pixels.

  deconv-jax train --config experiments/restoration/dncnn.py:sigma=25 --workdir runs/dncnn_25

Data and schedule are those of the paper (arXiv:1608.03981, section IV-A): patches of 40 x 40 pixels, batches
of 128, 50 epochs of 128 x 1600 patches (80,000 steps), with Adam in place of SGD. $DECONV_JAX_DATA must name
a folder with train400/ for training, bsd68/ for validation and set12/ for the test.
The config is meant for an accelerator. It has not been trained at this length yet, so no figure is claimed.
"""

import ml_collections

from deconv_jax.config_arguments import config_arguments
from deconv_jax.config_groups import data_settings, training_settings


def get_config(arg: str = "") -> ml_collections.ConfigDict:
    """Arguments: sigma=25.0 (in units of 1/255), depth=17, features=64, norm=batch (none), residual=True,
    steps=80000, batch=128, precision=f32 (bf16), seed=0.
    """
    args = config_arguments(
        arg,
        sigma=25.0,
        depth=17,
        features=64,
        norm="batch",
        residual=True,
        steps=80_000,
        batch=128,
        precision="f32",
        seed=0,
    )
    steps = args["steps"]
    network = {name: args[name] for name in ("depth", "features", "norm", "residual")}
    config = ml_collections.ConfigDict()
    config.task = dict(
        name="restoration",
        model=dict(name="dncnn", channels=1, **network),
        degradation=dict(name="gaussian_noise", sigma=args["sigma"]),
        crop=40,
        rescale=(1.0, 0.9, 0.8, 0.7),
        reduction="half_sum",
    )
    config.data = data_settings(
        dict(name="folder", path="train400", tile=180, color="gray"),
        ("all", "folder:bsd68[:8]", "folder:set12"),
        data_dir="$DECONV_JAX_DATA",
        cache="device",
    )
    config.optimizer = dict(
        name="adam",
        learning_rate=1e-3,
        schedule="step",
        step_boundaries=(steps * 6 // 10,),
        step_factor=0.1,
    )
    every = max(steps // 16 // 10 * 10, 500)
    config.training = training_settings(
        steps, args["batch"], every=every, eval_batch_size=1, log_every=10
    )
    config.precision = args["precision"]
    config.seed = args["seed"]
    return config
