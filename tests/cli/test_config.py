"""Config files, their arguments and overrides."""

import pytest

from deconv_jax.cli import load_config
from deconv_jax.errors import InputError
from deconv_jax.experiment import Experiment

DIGITS = "experiments/autoencoding/digits.py"


def test_argument_and_overrides_are_applied():
    config = load_config(f"{DIGITS}:latent=16", ["--config.optimizer.learning_rate=3e-4"])
    assert config["task"]["model"]["latent_dim"] == 16
    assert config["optimizer"]["learning_rate"] == 3e-4
    # Keys that the file leaves at their default can be overridden too.
    assert load_config(DIGITS, ["--config.data.workers=2"])["data"]["workers"] == 2


def test_unknown_config_argument_is_rejected():
    with pytest.raises(
        InputError, match=r"unknown config argument 'latnet'; did you mean 'latent'"
    ):
        load_config(f"{DIGITS}:latnet=16")


SHORT = {
    "task": {"name": "variational", "kl_warmup_steps": 500},
    "optimizer": {"schedule": "cosine", "warmup_steps": 50, "step_boundaries": (600, 800)},
    "training": {"num_steps": 1000, "steps_per_call": 50, "eval_every": 500},
}


def test_shorter_run_scales_keys_that_count_its_steps(config_file, capsys):
    config = load_config(str(config_file(SHORT)), ["--config.training.num_steps=20"])
    assert config["task"]["kl_warmup_steps"] == 10
    assert config["optimizer"] == SHORT["optimizer"] | {
        "warmup_steps": 1,
        "step_boundaries": (12, 16),
    }
    assert config["training"] == {"num_steps": 20, "steps_per_call": 10, "eval_every": 500}
    said = capsys.readouterr().err
    assert said.startswith("note: training.num_steps 1000 -> 20 also changes ")
    assert "step_boundaries (600, 800) -> (12, 16), optimizer.warmup_steps 50 -> 1, task.kl" in said
    assert len(said.splitlines()) == 1


def test_overridden_warmup_is_not_scaled(config_file):
    words = ["--config.training.num_steps=100", "--config.optimizer.warmup_steps=50"]
    config = load_config(str(config_file(SHORT)), words)
    assert config["optimizer"]["warmup_steps"] == 50
    assert config["task"]["kl_warmup_steps"] == 50


@pytest.mark.parametrize(
    "overrides",
    [["optimizer.warmup_steps=7"], ["training.num_steps=2000"], ["training.num_steps=none"]],
)
def test_other_overrides_scale_nothing(config_file, capsys, overrides):
    before = load_config(str(config_file(SHORT)))
    after = load_config(str(config_file(SHORT)), [f"--config.{word}" for word in overrides])
    changed = [f"{g}.{k}" for g in SHORT for k in SHORT[g] if before[g][k] != after[g][k]]
    assert changed == [word.partition("=")[0] for word in overrides]
    assert capsys.readouterr().err == ""


def test_overriding_the_data_set_drops_the_splits_of_the_file(config_file, capsys):
    mnist = {"name": "tfds", "dataset": "mnist", "canvas": 8}
    data = {"source": mnist, "train_split": "train[:9]", "test_split": "test"}
    file = str(config_file({"data": data}))
    other = load_config(file, ["--config.data.source=fashion_mnist"])["data"]
    assert other == data | {"source": mnist | {"dataset": "fashion_mnist"}}
    assert load_config(file, ["--config.data.source.canvas=9"])["data"]["test_split"] == "test"
    assert capsys.readouterr().err == ""
    folder = {"name": "folder", "path": "x", "tile": None, "color": "rgb"}
    moved = load_config(file, ["--config.data.source=folder:x"])
    assert moved["data"] == {"source": folder}
    assert capsys.readouterr().err == (
        "note: data.source changed, so these settings of the config are dropped: "
        "data.source.canvas=8, data.test_split='test', data.train_split='train[:9]'\n"
    )
    words = ["--config.data.source=folder:x", "--config.data.test_split=all[:1]"]
    given = {"source": folder, "train_split": "train[:9]", "test_split": "all[:1]"}
    assert load_config(file, words)["data"] == given


def test_short_data_source_keeps_applicable_settings(config_file):
    photographs = {"name": "photographs", "tile": 96, "color": "gray"}
    file = str(config_file({"data": {"source": photographs}}))
    words = ["--config.data.source=folder:x"]
    folder = {"name": "folder", "path": "x", "tile": 96, "color": "gray"}
    assert load_config(file, words)["data"]["source"] == folder
    words.append("--config.data.source.tile=32")
    assert load_config(file, words)["data"]["source"] == folder | {"tile": 32}
    stacked = {"name": "stacked", "base": {"name": "digits"}}
    words = ["--config.data.source=stacked_digits"]
    assert load_config(file, words)["data"]["source"] == stacked


@pytest.mark.parametrize("value", ["mnist", "5", "{}"])
def test_malformed_data_group_is_refused(value):
    config = load_config(DIGITS, [f"--config.data={value}"])
    with pytest.raises(InputError, match=r"config\.data"):
        Experiment.from_dict(config)


def test_keys_of_an_overridden_group_are_not_scaled(config_file):
    optimizer = {"schedule": "cosine", "warmup_steps": 40}
    overrides = ["--config.training.num_steps=100", f"--config.optimizer={optimizer}"]
    config = load_config(str(config_file(SHORT)), overrides)
    assert config["optimizer"]["warmup_steps"] == 40
