"""Three data sets of small gray images and one training schedule, shared by the configs here."""

from typing import Any

import ml_collections

from deconv_jax.config_groups import training_settings
from deconv_jax.errors import InputError

DATA = ("digits", "mnist", "fashion_mnist")

_TFDS_SPLITS = dict(
    train_split="train[:59000]", validation_split="train[59000:]", test_split="test"
)


def side(data: str) -> int:
    """Return the height and width, in pixels, of a data set's images.

    Raises:
      InputError: The data set is not one of `DATA`.
    """
    if data not in DATA:
        raise InputError(f"config argument data must be one of {', '.join(DATA)}; got {data!r}")
    return 32 if data == "digits" else 28


def experiment(
    task: dict[str, Any], data: str, *, steps: int, batch_size: int, seed: int, **optimizer: Any
) -> ml_collections.ConfigDict:
    """Return the config of a task on one of `DATA`, with a cosine schedule and ten evaluations.

    Args:
      task: Settings of the task.
      data: Name of the data set.
      steps: Number of training steps, a multiple of 100.
      batch_size: Number of images in a batch.
      seed: Seed of the experiment.
      optimizer: Settings of the optimizer that differ from the defaults here.
    """
    config = ml_collections.ConfigDict()
    config.task = task
    embedded = data == "digits"
    source = dict(name="digits") if embedded else dict(name="tfds", dataset=data)
    config.data = dict(source=source, cache="device") | ({} if embedded else _TFDS_SPLITS)
    config.optimizer = dict(name="adam", schedule="cosine", warmup_steps=steps // 40) | optimizer
    config.training = training_settings(steps, batch_size, every=steps // 10, eval_batch_size=500)
    config.seed = seed
    return config
