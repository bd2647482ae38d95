"""What the configs here share: three data sets of small gray images, and a rhythm of training."""

from typing import Any

import ml_collections

from deconv_jax.errors import InputError

DATA = ("digits", "mnist", "fashion_mnist")

_TFDS_SPLITS = dict(
    train_split="train[:59000]", validation_split="train[59000:]", test_split="test"
)


def side(data: str) -> int:
    """Pixels a side of a data set's images; raises InputError for none of `DATA`."""
    if data not in DATA:
        raise InputError(f"config argument data must be one of {', '.join(DATA)}; got {data!r}")
    return 32 if data == "digits" else 28


def experiment(
    task: dict[str, Any], data: str, *, steps: int, batch_size: int, seed: int, **optimizer: Any
) -> ml_collections.ConfigDict:
    """A config of a task on one of `DATA`, evaluated ten times, with a cosine schedule.

    Args:
      task: its settings.
      data: which data set.
      steps: of training, a multiple of 100.
      batch_size, seed: as in a config.
      optimizer: settings that differ.
    """
    config = ml_collections.ConfigDict()
    config.task = task
    config.data = dict(name=data, cache="device") | (_TFDS_SPLITS if data != "digits" else {})
    config.optimizer = dict(name="adam", schedule="cosine", warmup_steps=steps // 40) | optimizer
    config.training = dict(
        num_steps=steps,
        batch_size=batch_size,
        eval_batch_size=500,
        eval_every=steps // 10,
        save_every=steps // 10,
        log_every=100,
        steps_per_call=10,
    )
    config.seed = seed
    return config
