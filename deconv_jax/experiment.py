"""An experiment as a dataclass: a task, its data, the length of training, and the optimizer.

`train.train` runs an experiment. `workdir.open_workdir` returns the experiment of a workdir.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import flax.linen as nn

from deconv_jax import schema
from deconv_jax.data.config import Data
from deconv_jax.data.degradations import DEGRADATIONS, Degradation
from deconv_jax.data.source_configs import SOURCE_CHOICES
from deconv_jax.data.views import VIEWS, View
from deconv_jax.errors import InputError, at_least
from deconv_jax.models import MODELS
from deconv_jax.tasks import TASKS
from deconv_jax.training.loop import TrainingConfig
from deconv_jax.training.optimizer import Optimizer
from deconv_jax.training.state import Precision
from deconv_jax.training.task import Task

_CHOICES: schema.Choices = {
    nn.Module: MODELS,
    Task: TASKS,
    Degradation: DEGRADATIONS,
    View: VIEWS,
    **SOURCE_CHOICES,
}
_SHARED_FIELDS = frozenset({"optimizer", "precision", "seed", "num_steps"})
"""Task fields that take their values from the experiment, so they are not keys of `config.task`."""


@dataclasses.dataclass(frozen=True)
class Experiment:
    """A task, its data and its training.

    Attributes:
      task: Task to train. `from_dict` gives its fields `optimizer`, `precision`, `seed` and `num_steps`, if it
        has them, the values of the experiment.
      data: Data set.
      training: Length of training, and intervals of evaluating, saving and logging.
      optimizer: Optimizer and learning-rate schedule.
      precision: Precision of the computation.
      seed: Seed of the initial weights, the order of examples and the task's random numbers, at least 0.
      init_from: Source of the initial weights: the name of a model, such as "denoise"; the workdir of a run,
        of which the last checkpoint is read; or a weights file (.safetensors, .pth or .pt). None for random
        weights.
      init_exclude: Parameters that are not copied from `init_from`, such as ["upsample"]; a name stands for
        itself and for all parameters below it.

    Raises:
      InputError: The seed is negative, or `init_exclude` is set without `init_from`.
    """

    task: Task
    data: Data
    training: TrainingConfig
    optimizer: Optimizer
    precision: Precision = "f32"
    seed: int = 0
    init_from: str | None = None
    init_exclude: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        at_least("seed", self.seed, 0)
        if self.init_exclude and self.init_from is None:
            raise InputError(
                f"config.init_exclude requires config.init_from; got init_exclude={self.init_exclude}"
            )

    @classmethod
    def from_dict(cls, config: Mapping[str, Any]) -> "Experiment":
        """Return the experiment of a config.

        Args:
          config: Nested dict with the attributes of this class as keys. `optimizer` and keys with a default
            may be missing.

        Returns:
          The experiment. The optimizer of its task has `decay_steps=training.num_steps` if that key is None.

        Raises:
          InputError: A key is unknown or missing, or a value has the wrong type or is out of range.
        """
        try:
            return cls._build(config)
        except schema.UnknownKey as error:
            raise error.with_suggestion(cls._keys(config)) from None

    @classmethod
    def _build(cls, config: Mapping[str, Any]) -> "Experiment":
        values = dict(config)
        known = [field.name for field in dataclasses.fields(cls)]
        for key in values:
            if key not in known:
                raise schema.UnknownKey("config", key, known)
        Data.reject_old_format(values.get("data"))
        task_values = values.pop("task", None)
        task_class, task_fields = schema.choose_class(TASKS, task_values, "config.task")
        outer = schema.build(cls, {"optimizer": {}} | values, _CHOICES, task=None)
        optimizer = outer.optimizer
        if optimizer.decay_steps is None:
            optimizer = dataclasses.replace(optimizer, decay_steps=outer.training.num_steps)
        task = schema.build(
            task_class,
            task_fields,
            _CHOICES,
            "config.task",
            optimizer=optimizer,
            precision=outer.precision,
            seed=outer.seed,
            num_steps=outer.training.num_steps,
        )
        return dataclasses.replace(outer, task=task)

    @classmethod
    def _keys(cls, config: Mapping[str, Any]) -> Iterator[str]:
        """Yield the dotted keys that a config for `from_dict` can have."""
        for key in schema.key_paths(cls, config, _CHOICES):
            if not any(f"{key}.".startswith(f"config.task.{name}.") for name in _SHARED_FIELDS):
                yield key

    def to_dict(self) -> dict[str, Any]:
        """Return the config of this experiment, with all defaults, for `from_dict` and JSON."""
        values = schema.to_dict(self, _CHOICES, exclude=frozenset({"task"}))
        return {"task": schema.to_dict(self.task, _CHOICES, exclude=_SHARED_FIELDS)} | values
