"""The loop's order and its stops, in one process."""

import os
import signal

import numpy as np
import pytest

from deconv_jax.cli import load_config
from deconv_jax.experiment import RESULT, Experiment, train
from deconv_jax.tasks import Autoencoding
from deconv_jax.training import loop
from deconv_jax.training.checkpoint import Checkpoints
from deconv_jax.training.logging import METRICS, read_metrics


@pytest.fixture
def assert_resumes(tmp_path, monkeypatch, last_state, logged, assert_trees_equal):
    """Asserts that a run stopped at step 6 of 8, off the saving grid, ends as one never stopped."""

    def check(config):
        experiment = Experiment.from_dict(config)
        train(experiment, tmp_path / "whole")
        with monkeypatch.context() as patch:
            patch.setattr(loop, "_stop_agreed", lambda *arguments: arguments[1] == 6)
            with pytest.raises(loop.Interrupted, match="6"):
                train(experiment, tmp_path / "stopped")
        result = train(experiment, tmp_path / "stopped")
        assert result["resumed_at_step"] == 6
        assert_trees_equal(last_state(tmp_path / "stopped"), last_state(tmp_path / "whole"))
        assert logged(tmp_path / "stopped") == logged(tmp_path / "whole")

    return check


def test_a_run_that_died_before_its_second_checkpoint_goes_on_from_the_first(
    tmp_path, monkeypatch, small_config, last_state, assert_trees_equal
):
    experiment = Experiment.from_dict(small_config())
    train(experiment, tmp_path / "whole")
    save = Checkpoints.save

    def die_later(self, state, *arguments):
        if state.step > 0:
            raise RuntimeError("died")
        save(self, state, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "save", die_later)
        with pytest.raises(RuntimeError, match="died"):
            train(experiment, tmp_path / "died")
    assert train(experiment, tmp_path / "died")["resumed_at_step"] == 0
    assert_trees_equal(last_state(tmp_path / "died"), last_state(tmp_path / "whole"))


@pytest.mark.parametrize(
    "overrides",
    [
        {"data__cache": "none"},
        {"data__cache": "device", "training__steps_per_call": 2},
        pytest.param({"data__cache": "none", "data__workers": 1}, marks=pytest.mark.slow),
    ],
    ids=["threads", "device", "worker processes"],
)
def test_every_input_path_resumes_exactly(assert_resumes, small_config, overrides):
    assert_resumes(small_config(**overrides))


def test_random_augmentation_resumes_exactly(assert_resumes, digits_dir):
    config = load_config("experiments/recognition/digits_classifier.py")
    config["task"]["model"]["features"] = (4, 8)
    config["data"]["data_dir"] = digits_dir
    config["optimizer"]["warmup_steps"] = 2
    rhythm = {"num_steps": 8, "eval_every": 4, "save_every": 4, "log_every": 2, "batch_size": 16}
    config["training"] = rhythm | {"steps_per_call": 2}
    assert config["task"]["translate"] > 0
    assert_resumes(config)


@pytest.mark.parametrize(
    "overrides",
    [
        pytest.param({}, marks=pytest.mark.slow),
        {"data__cache": "device", "training__steps_per_call": 2},
    ],
    ids=["a step a call", "two steps a call"],
)
def test_both_networks_of_synthesis_resume_exactly(assert_resumes, small_config, overrides):
    """The vectors of spectral norm, two optimisers and an average are in the state."""
    config = small_config(**overrides)
    networks = {"width": 2, "num_classes": 10}
    config["task"] = {
        "name": "synthesis",
        "generator": {"name": "dcgan_generator", "image_shape": (32, 32, 1), "latent_dim": 3}
        | networks,
        "discriminator": {"name": "dcgan_discriminator", "spectral_norm": True} | networks,
        "loss": "hinge",
        "discriminator_steps": 2,
        "augment": ("translation",),
    }
    config["optimizer"] = {"learning_rate": 1e-3, "momentum": 0.5, "ema_decay": 0.9}
    assert_resumes(config)


def test_warnings_are_told_the_means_of_the_steps_since_the_validation_before(
    tmp_path, monkeypatch, capfd, small_config
):
    told = []

    def warnings(_, metrics, scalars):
        told.append((metrics, scalars))
        return [f"number {len(told)}"]

    monkeypatch.setattr(Autoencoding, "warnings", warnings)
    config = small_config(training__log_every=1)
    train(Experiment.from_dict(config), tmp_path / "run")
    records = read_metrics(tmp_path / "run" / METRICS)
    losses = {r["step"]: r["loss"] for r in records if r["split"] == "train"}
    measures = {r["step"]: r for r in records if r["split"] == "validation"}
    # None of step 0, before which there is no step.
    assert len(told) == 2
    for end, (metrics, scalars) in zip((4, 8), told, strict=True):
        steps = [losses[step] for step in range(end - 3, end + 1)]
        assert scalars["loss"] == pytest.approx(np.mean(steps), rel=1e-6)
        assert metrics == {name: measures[end][name] for name in metrics}
    errors = capfd.readouterr().err
    assert [errors.count(f"warning: number {n}") for n in (1, 2, 3)] == [1, 1, 0]


def test_the_state_is_evaluated_before_it_is_saved_and_logged_in_order(tmp_path, small_config):
    train(Experiment.from_dict(small_config()), tmp_path / "run")
    seen = [(r["step"], r["split"]) for r in read_metrics(tmp_path / "run" / METRICS)]
    training = [(step, "train") for step in (1, 2, 4, 6, 8)]
    validation = [(step, "validation") for step in (0, 4, 8)]
    order = {"train": 0, "validation": 1, "test": 2}
    expected = sorted([*training, *validation, (8, "test")], key=lambda r: (r[0], order[r[1]]))
    assert seen == expected


def test_a_signal_during_the_last_save_is_obeyed_before_the_test_set_is_measured(
    tmp_path, monkeypatch, small_config
):
    experiment = Experiment.from_dict(small_config())
    save = Checkpoints.save

    def stopped(self, state, *arguments):
        save(self, state, *arguments)
        if state.step == 8:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "save", stopped)
        with pytest.raises(loop.Interrupted, match="8"):
            train(experiment, tmp_path / "run")
    assert not (tmp_path / "run" / RESULT).exists()
    assert train(experiment, tmp_path / "run")["resumed_at_step"] == 8


def test_signals_are_noted_and_a_second_interrupt_is_obeyed():
    before = signal.getsignal(signal.SIGINT)
    with loop._stop_signals() as requested:
        assert not requested()
        os.kill(os.getpid(), signal.SIGTERM)
        assert requested()
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before
