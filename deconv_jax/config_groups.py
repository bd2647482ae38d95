"""Groups of settings that many configs share: data with its splits, optimizer, and training."""

from typing import Any


def data_settings(
    source: dict[str, Any], splits: tuple[str, str, str], **settings: Any
) -> dict[str, Any]:
    """Return the group `data` of a config, with the keys "source", "train_split" and so on.

    Args:
      source: Settings of the source, with its "name".
      splits: Names of the splits for training, for validation and for the test, in this order.
      **settings: Other fields of `data.config.Data`.

    Example:
      >>> data_settings({"name": "digits"}, ("train", "validation", "test"))["test_split"]
      'test'
    """
    names = ("train_split", "validation_split", "test_split")
    return {"source": source} | dict(zip(names, splits, strict=True)) | settings


def cosine_settings(
    name: str, learning_rate: float, warmup_steps: int, **settings: Any
) -> dict[str, Any]:
    """Return the group `optimizer` of a config, with a cosine schedule and clipped gradients.

    Args:
      name: Name of the optimizer.
      learning_rate: Largest learning rate.
      warmup_steps: Number of steps of linear warm-up.
      **settings: Other fields of `training.optimizer.Optimizer`. They replace the
        defaults here, which are schedule="cosine" and clip_norm=1.0.

    Example:
      >>> cosine_settings("adamw", 1e-3, 100, weight_decay=0.01)["clip_norm"]
      1.0
    """
    fixed = {"name": name, "schedule": "cosine", "clip_norm": 1.0}
    return fixed | {"learning_rate": learning_rate, "warmup_steps": warmup_steps} | settings


def training_settings(
    num_steps: int, batch_size: int, *, every: int, **settings: Any
) -> dict[str, Any]:
    """Return the group `training` of a config that evaluates and saves at the same steps.

    Args:
      num_steps: Number of training steps.
      batch_size: Number of examples per step.
      every: Steps between evaluations and between checkpoints: "eval_every" and "save_every".
      **settings: Other fields of `training.loop.TrainingConfig`. They replace the
        defaults here, which are log_every=100 and steps_per_call=10.

    Example:
      >>> training_settings(1000, 64, every=250, log_every=50)["save_every"]
      250
    """
    return {
        "num_steps": num_steps,
        "batch_size": batch_size,
        "eval_every": every,
        "save_every": every,
        "log_every": 100,
        "steps_per_call": 10,
    } | settings
