"""Fixtures of the tests of the training package."""

import json

import pytest

from deconv_jax.train import train


@pytest.fixture
def short_config(small_config):
    """Return a `small_config` with small splits, so that eight steps reach the second epoch."""

    def config(**overrides):
        splits = {"train": "train[:100]", "validation": "validation[:24]", "test": "test[:24]"}
        fewer = {f"data__{name}_split": split for name, split in splits.items()}
        return small_config(**fewer | overrides)

    return config


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """Return the workdir of an experiment that was trained without a stop, once per module.

    Tests must not change it.
    """
    workdirs = {}

    def workdir(experiment):
        key = json.dumps(experiment.to_dict(), sort_keys=True)
        if key not in workdirs:
            folder = tmp_path_factory.mktemp("uninterrupted")
            train(experiment, folder)
            workdirs[key] = folder
        return workdirs[key]

    return workdir
