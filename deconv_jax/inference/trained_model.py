"""A trained model: a run, given by its workdir, or a named model. The applications open both alike."""

import dataclasses
from pathlib import Path
from typing import Any

import jax

from deconv_jax import zoo
from deconv_jax.data.sources import Source
from deconv_jax.errors import InputError
from deconv_jax.experiment import Experiment
from deconv_jax.tasks import TASKS
from deconv_jax.workdir import open_workdir
from deconv_jax.workdir import read_input_shapes as read_input_shapes_of_run
from deconv_jax.zoo import ZooModel

TrainedModel = Path | ZooModel
"""The workdir of a run, or a named model from `zoo.load`."""


def open_experiment(model: TrainedModel) -> Experiment:
    """Return the experiment that trained a model.

    Raises:
      InputError: The folder is not the workdir of a run.
    """
    return model.experiment if isinstance(model, ZooModel) else open_workdir(model)


def open_task(model: TrainedModel, *kinds: type) -> Any:
    """Return the task of a model.

    Args:
      model: Workdir of a run, or a named model.
      kinds: Accepted task classes, at least one.

    Raises:
      InputError: The folder is not the workdir of a run, or the task is of another class.
    """
    task = open_experiment(model).task
    if not isinstance(task, kinds):
        expected = " or ".join(kind.__name__ for kind in kinds)
        if not isinstance(model, ZooModel):
            raise InputError(
                f"{model} is a run of {type(task).__name__}; expected a run of {expected}"
            )
        fitting = ", ".join(n for n in zoo.names() if zoo.card(n)["task"] in _names(kinds))
        raise InputError(
            f"model {model.name!r} is a model of {type(task).__name__}; expected one of {expected}: "
            f"{fitting}"
        )
    return task


def read_input_shapes(model: TrainedModel) -> dict[str, jax.ShapeDtypeStruct]:
    """Return the shapes and dtypes of a batch of one training example, see `workdir.read_input_shapes`."""
    return model.input_shapes if isinstance(model, ZooModel) else read_input_shapes_of_run(model)


def open_test_split(model: TrainedModel, data_dir: str | None = None) -> Source:
    """Return the test split of a model's data.

    Args:
      model: Workdir of a run, or a named model.
      data_dir: Folder of the data, if it has moved since training.

    Raises:
      InputError: The folder is not the workdir of a run, or the data cannot be opened.
    """
    data = open_experiment(model).data
    if data_dir is not None:
        data = dataclasses.replace(data, data_dir=data_dir)
    return data.open("test")


def _names(kinds: tuple[type, ...]) -> list[str]:
    return [name for name, kind in TASKS.items() if issubclass(kind, kinds)]
