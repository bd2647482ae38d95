"""Super-resolution x4 of color photographs by a small network: first for PSNR, then with an adversary.

  deconv-jax train --config experiments/restoration/sr_gan.py --workdir runs/sr_psnr
  deconv-jax train --config experiments/restoration/sr_gan.py:weight=0.03 --workdir runs/sr_gan

The network is that of SRVGG with 8 hidden layers of 32 channels. The second command starts from the first run
(`init`) and adds the relativistic adversarial loss of ESRGAN (arXiv:1809.00219), with spectral normalization. The
pixel loss has the weight 1, where ESRGAN gives it 0.01: its adversarial weight of 0.005 corresponds to 0.5 here.
`features=vgg19` adds ESRGAN's feature loss and needs $DECONV_JAX_VGG. $DECONV_JAX_DATA must name a folder with
bsd432/ for training and cbsd68/ for validation and the test. The table perception_distortion in
experiments/tables has the figures.
"""

import ml_collections

from deconv_jax.config_arguments import config_arguments
from deconv_jax.config_groups import cosine_settings, data_settings, training_settings

PSNR_STEPS, GAN_STEPS = 20_000, 4000


def get_config(arg: str = "") -> ml_collections.ConfigDict:
    """Arguments: weight=0.0 (of the adversarial loss; 0: PSNR alone), init=runs/sr_psnr (run to start from, with
    an adversary), relativistic=True, features="" (extractor of the feature loss, such as vgg19),
    feature_weight=0.01, steps=0 (0: 20000, or 4000 with an adversary), batch=16.
    """
    args = config_arguments(
        arg,
        weight=0.0,
        init="runs/sr_psnr",
        relativistic=True,
        features="",
        feature_weight=0.01,
        steps=0,
        batch=16,
    )
    adversarial = args["weight"] > 0
    steps = args["steps"] or (GAN_STEPS if adversarial else PSNR_STEPS)
    config = ml_collections.ConfigDict()
    config.task = dict(
        name="restoration",
        model=dict(name="srvggnet", scale=4, channels=3, depth=8, features=32),
        degradation=dict(name="downsample", scale=4),
        crop=96,
        loss="l1",
        border=4,
    )
    if adversarial:
        config.task.adversary = dict(
            discriminator=dict(name="sngan_discriminator", width=16),
            weight=args["weight"],
            relativistic=args["relativistic"],
            discriminator_optimizer=dict(
                name="adam", learning_rate=2e-4, momentum=0.5, schedule="constant"
            ),
        )
        config.init_from = args["init"]
    if args["features"]:
        config.task.feature_loss = dict(extractor=args["features"], weight=args["feature_weight"])
    config.data = data_settings(
        dict(name="folder", path="bsd432", tile=160, color="rgb"),
        ("all", "folder:cbsd68[:8]", "folder:cbsd68[8:]"),
        data_dir="$DECONV_JAX_DATA",
        cache="device",
    )
    rate = 2e-4 if adversarial else 1e-3
    config.optimizer = cosine_settings(
        "adam", rate, min(200, steps // 2), end_factor=0.0, ema_decay=0.999
    )
    config.training = training_settings(
        steps, args["batch"], every=max(steps // 8 // 10 * 10, 10), eval_batch_size=1
    )
    config.seed = 0
    return config
