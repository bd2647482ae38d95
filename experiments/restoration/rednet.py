"""RED-Net for Gaussian noise of one level (Mao et al., arXiv:1603.09056, Tables 1 to 3).

  deconv-jax train --config experiments/restoration/rednet.py:depth=30,sigma=30 \\
    --workdir runs/rednet30_30

Patches of 50 pixels as in the paper's section 4, Adam with its rate of 1e-4. The paper learns from
300 images of BSD; here it is 400 gray ones of 180 pixels. Needs the folder of data that
$DECONV_JAX_DATA names: train400/, bsd68/ to look at while training, set12/ for the figure at the
end. Meant for an accelerator; not trained at this length yet, so no figure is claimed.
"""

import ml_collections

from deconv_jax.config_arguments import config_arguments


def get_config(arg: str = "") -> ml_collections.ConfigDict:
    """Arguments: depth=30 (or 10, 20), sigma=30.0 in levels of 255, steps=200000, batch=64."""
    args = config_arguments(arg, depth=30, sigma=30.0, steps=200_000, batch=64)
    config = ml_collections.ConfigDict()
    config.task = dict(
        name="restoration",
        model=dict(name="rednet", channels=1, depth=args["depth"]),
        degradation=dict(name="gaussian_noise", sigma=args["sigma"]),
        crop=50,
    )
    config.data = dict(
        name="folder:$DECONV_JAX_DATA/train400",
        train_split="all",
        validation_split="folder:$DECONV_JAX_DATA/bsd68[:8]",
        test_split="folder:$DECONV_JAX_DATA/set12",
        color="gray",
        tile=180,
        cache="device",
    )
    config.optimizer = dict(name="adam", learning_rate=1e-4)
    config.training = dict(
        num_steps=args["steps"],
        batch_size=args["batch"],
        eval_batch_size=1,
        eval_every=args["steps"] // 10,
        save_every=args["steps"] // 10,
        log_every=100,
        steps_per_call=10,
    )
    config.seed = 0
    return config
