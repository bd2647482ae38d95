"""DnCNN for the artefacts of JPEG, beside AR-CNN (arXiv:1504.06993) and DnCNN-3 (arXiv:1608.03981).

  deconv-jax train --config experiments/restoration/jpeg.py:quality=10 --workdir runs/jpeg_10

Gray images, compressed on the device as they are needed; classic5/ for the figure at the end, as in
Table IV of DnCNN's paper, which learns one network for all qualities where this one learns one.
Needs the folder of data that $DECONV_JAX_DATA names: train400/, bsd68/ to look at while training.
Meant for an accelerator; not trained at this length yet, so no figure is claimed.
"""

import ml_collections

from deconv_jax.config_arguments import config_arguments


def get_config(arg: str = "") -> ml_collections.ConfigDict:
    """Arguments: quality=10 of 100, depth=20, features=64, steps=80000, batch=128."""
    args = config_arguments(arg, quality=10, depth=20, features=64, steps=80_000, batch=128)
    steps = args["steps"]
    config = ml_collections.ConfigDict()
    config.task = dict(
        name="restoration",
        model=dict(name="dncnn", channels=1, depth=args["depth"], features=args["features"]),
        degradation=dict(name="jpeg", quality=args["quality"]),
        crop=48,
    )
    config.data = dict(
        name="folder:$DECONV_JAX_DATA/train400",
        train_split="all",
        validation_split="folder:$DECONV_JAX_DATA/bsd68[:8]",
        test_split="folder:$DECONV_JAX_DATA/classic5",
        color="gray",
        tile=180,
        cache="device",
    )
    config.optimizer = dict(
        name="adam",
        learning_rate=1e-3,
        schedule="step",
        step_boundaries=(steps * 6 // 10,),
        step_factor=0.1,
    )
    every = max(steps // 16 // 10 * 10, 10)
    config.training = dict(
        num_steps=steps,
        batch_size=args["batch"],
        eval_batch_size=1,
        eval_every=every,
        save_every=every,
        log_every=10,
        steps_per_call=10,
    )
    config.seed = 0
    return config
