"""Experiments as dataclasses, and their configs."""

import json

import pytest

from deconv_jax.errors import InputError
from deconv_jax.experiment import Experiment


def test_to_dict_is_the_inverse_of_from_dict(small_config):
    experiment = Experiment.from_dict(small_config(optimizer__schedule="cosine"))
    config = json.loads(json.dumps(experiment.to_dict()))
    assert Experiment.from_dict(config) == experiment


def test_task_gets_the_settings_of_the_experiment(small_config):
    """`decay_steps` defaults to the length of the run."""
    experiment = Experiment.from_dict(small_config(precision="bf16"))
    assert experiment.task.precision == "bf16"
    assert experiment.task.optimizer.learning_rate == 3e-3
    assert experiment.task.optimizer.decay_steps == 8


def test_config_of_an_older_version_names_the_new_format(small_config):
    for name in ("mnist", "folder:images"):
        with pytest.raises(InputError) as raised:
            Experiment.from_dict(small_config(data={"name": name, "tile": 8}))
        message = str(raised.value)
        assert message.startswith(f"config.data.name={name!r} is the format of an older version")
        assert "write a config.data.source" in message
        assert len(message.splitlines()) == 1
