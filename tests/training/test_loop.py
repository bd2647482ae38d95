"""The order of the training loop, stopping and resuming, in one process."""

import os
import shutil
import signal

import jax
import numpy as np
import pytest

from deconv_jax.cli import load_config
from deconv_jax.experiment import Experiment
from deconv_jax.tasks import Autoencoding
from deconv_jax.train import train
from deconv_jax.training.checkpoint import Checkpoints
from deconv_jax.training.parallel import Devices
from deconv_jax.training.run_log import METRICS, RunLog, read_metrics
from deconv_jax.training.stopping import Interrupted, StopRequests
from deconv_jax.workdir import CHECKPOINTS, RESULT


@pytest.fixture
def assert_resumes(tmp_path, train_until, last_state, logged, uninterrupted, assert_trees_equal):
    """Assert that a run that is stopped before step 8 ends as an uninterrupted run.

    Args:
      config: Config of the run that is stopped.
      whole: Config of the uninterrupted run, if it differs without changing results.
      step: Step at which it stops; by default between two saves.
    """

    def check(config, whole=None, step=6):
        experiment = Experiment.from_dict(config)
        never_stopped = uninterrupted(Experiment.from_dict(whole or config))
        train_until(experiment, tmp_path / "stopped", step)
        result = train(experiment, tmp_path / "stopped")
        assert result["resumed_at_step"] == step
        assert_trees_equal(last_state(tmp_path / "stopped"), last_state(never_stopped))
        assert logged(tmp_path / "stopped") == logged(never_stopped)

    return check


@pytest.mark.slow
@pytest.mark.parametrize(
    ("where", "resumed_at"),
    [("first save", 0), ("second save", 0), ("log of the test set", 8)],
)
def test_crashed_run_resumes_with_the_state_and_log_of_an_uninterrupted_one(
    tmp_path,
    monkeypatch,
    short_config,
    last_state,
    uninterrupted,
    logged,
    assert_trees_equal,
    where,
    resumed_at,
):
    experiment = Experiment.from_dict(short_config(data__cache="none"))
    save, evaluation = Checkpoints.save, RunLog.evaluation

    def die_instead_of_saving(self, state, *arguments, **options):
        if state.step >= (0 if where == "first save" else 4):
            raise RuntimeError("died")
        save(self, state, *arguments, **options)

    def die_after_the_test_set(self, step, split, metrics):
        evaluation(self, step, split, metrics)
        if split == "test":
            raise RuntimeError("died")

    with monkeypatch.context() as patch:
        if where == "log of the test set":
            patch.setattr(RunLog, "evaluation", die_after_the_test_set)
        else:
            patch.setattr(Checkpoints, "save", die_instead_of_saving)
        with pytest.raises(RuntimeError, match="died"):
            train(experiment, tmp_path / "died")
    whole = uninterrupted(experiment)
    assert logged(tmp_path / "died")
    assert train(experiment, tmp_path / "died")["resumed_at_step"] == resumed_at
    assert_trees_equal(last_state(tmp_path / "died"), last_state(whole))
    assert logged(tmp_path / "died") == logged(whole)


@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_threads_and_worker_processes_resume_exactly(assert_resumes, short_config, workers):
    """The uninterrupted run uses threads in both cases."""
    whole = short_config(data__cache="none")
    assert_resumes(short_config(data__cache="none", data__workers=workers), whole)


@pytest.mark.slow
def test_evaluation_that_a_stop_skipped_is_made_up_for(tmp_path, assert_resumes, short_config):
    """The metrics of the skipped evaluation may also be the best ones."""
    assert_resumes(short_config(data__cache="none"), step=4)
    workdir = tmp_path / "stopped"
    with Checkpoints(workdir / CHECKPOINTS, monitor="psnr", read_only=True) as checkpoints:
        assert checkpoints.best_step() in checkpoints.steps() == [4, 8]
    records = read_metrics(workdir / METRICS)
    psnr = {r["step"]: r["psnr"] for r in records if r["split"] == "validation"}
    assert checkpoints.best_step() == max((4, 8), key=psnr.__getitem__)
    shutil.rmtree(workdir / CHECKPOINTS / "8")
    with Checkpoints(workdir / CHECKPOINTS, monitor="psnr", read_only=True) as checkpoints:
        assert checkpoints.best_step() == 4


@pytest.mark.slow
def test_augmentation_of_cached_data_resumes_exactly(assert_resumes, short_config):
    """With Muon, whose state has other parts for kernels than for biases."""
    config = load_config("experiments/recognition/digits_classifier.py")
    config["task"]["model"]["features"] = (4, 8)
    config["optimizer"] |= {"name": "muon", "warmup_steps": 2, "weight_decay": 0.0}
    small = short_config(data__cache="device", training__steps_per_call=2)
    config |= {key: small[key] for key in ("data", "training")}
    assert config["task"]["translate"] > 0
    assert_resumes(config)


@pytest.mark.slow
def test_gan_resumes_exactly(assert_resumes, short_config):
    """The state includes singular vectors, two optimizer states and averaged weights."""
    config = short_config(data__cache="memory", training__steps_per_call=2)
    networks = {"width": 2, "num_classes": 10}
    config["task"] = {
        "name": "gan",
        "generator": {"name": "dcgan_generator", "image_shape": (32, 32, 1), "latent_dim": 3}
        | networks,
        "discriminator": {"name": "dcgan_discriminator", "spectral_norm": True} | networks,
        "loss": "hinge",
    }
    config["optimizer"] = {"learning_rate": 1e-3, "momentum": 0.5, "ema_decay": 0.9}
    assert_resumes(config)


@pytest.mark.slow
def test_warnings_get_mean_scalars_since_the_last_evaluation(
    tmp_path, monkeypatch, capfd, short_config
):
    told = []

    def warnings(_, metrics, scalars):
        told.append((metrics, scalars))
        return [f"number {len(told)}"]

    monkeypatch.setattr(Autoencoding, "warnings", warnings)
    config = short_config(training__log_every=1)
    train(Experiment.from_dict(config), tmp_path / "run")
    records = read_metrics(tmp_path / "run" / METRICS)
    losses = {r["step"]: r["loss"] for r in records if r["split"] == "train"}
    measures = {r["step"]: r for r in records if r["split"] == "validation"}
    # Not at step 0, which no step precedes.
    assert len(told) == 2
    for end, (metrics, scalars) in zip((4, 8), told, strict=True):
        steps = [losses[step] for step in range(end - 3, end + 1)]
        assert scalars["loss"] == pytest.approx(np.mean(steps), rel=1e-6)
        assert metrics == {name: measures[end][name] for name in metrics}
    errors = capfd.readouterr().err
    assert [errors.count(f"warning: number {n}") for n in (1, 2, 3)] == [1, 1, 0]


def test_log_records_are_in_order(short_config, uninterrupted):
    workdir = uninterrupted(Experiment.from_dict(short_config(data__cache="none")))
    seen = [(r["step"], r["split"]) for r in read_metrics(workdir / METRICS)]
    training = [(step, "train") for step in (1, 2, 4, 6, 8)]
    validation = [(step, "validation") for step in (0, 4, 8)]
    order = {"train": 0, "validation": 1, "test": 2}
    expected = sorted([*training, *validation, (8, "test")], key=lambda r: (r[0], order[r[1]]))
    assert seen == expected


@pytest.mark.slow
@pytest.mark.parametrize(
    ("calls", "step"), [([0, 1], 4), ([0, 0, 0, 1], 8)], ids=["validation", "test"]
)
def test_signal_breaks_off_an_evaluation(
    tmp_path,
    monkeypatch,
    short_config,
    uninterrupted,
    last_state,
    logged,
    assert_trees_equal,
    calls,
    step,
):
    """The evaluations are those of steps 0, 4 and 8 on the validation split, and of the test split."""
    experiment, called = Experiment.from_dict(short_config(data__cache="none")), iter(calls)
    whole = uninterrupted(experiment)
    evaluate = Autoencoding.evaluate

    def signaled(self, state, batches):
        if next(called):
            os.kill(os.getpid(), signal.SIGTERM)
        return evaluate(self, state, batches)

    with monkeypatch.context() as patch:
        patch.setattr(Autoencoding, "evaluate", signaled)
        with pytest.raises(Interrupted, match=f"^{step}$"):
            train(experiment, tmp_path / "run")
    assert not (tmp_path / "run" / RESULT).exists()
    assert train(experiment, tmp_path / "run")["resumed_at_step"] == step
    assert_trees_equal(last_state(tmp_path / "run"), last_state(whole))
    assert logged(tmp_path / "run") == logged(whole)


@pytest.mark.slow
def test_implicit_transfer_in_a_step_is_an_error(tmp_path, monkeypatch, short_config):
    monkeypatch.setattr(Devices, "put_batches", lambda _, batches: _stacked(batches))
    with pytest.raises(jax.errors.JaxRuntimeError, match="Disallowed host-to-device transfer"):
        train(Experiment.from_dict(short_config(data__cache="none")), tmp_path / "run")


def _stacked(batches):
    """Return batches as `Devices.put_batches`, on the host."""
    return {name: np.stack([batch[name] for batch in batches]) for name in batches[0]}


def test_second_interrupt_is_obeyed_at_once():
    before = signal.getsignal(signal.SIGINT)
    with StopRequests() as stops:
        assert not stops.agreed()
        os.kill(os.getpid(), signal.SIGTERM)
        assert stops.agreed()
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before
