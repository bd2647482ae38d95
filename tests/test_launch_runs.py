"""Runs that the recipes start: stopped, started again and finished, they equal a run of one process."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from one_node_slurm import available, one_node_slurm

from deconv_jax.cli import EXIT_INTERRUPTED
from deconv_jax.training.run_log import METRICS
from deconv_jax.workdir import RESULT

pytestmark = pytest.mark.slow

STEPS = 120


@pytest.fixture
def arguments(config_file, small_config):
    training = {"num_steps": STEPS, "eval_every": STEPS, "save_every": STEPS, "log_every": STEPS}
    splits = {"train": "train[:160]", "validation": "validation[:32]", "test": "test[:32]"}
    values = {f"training__{key}": value for key, value in training.items()}
    values |= {f"data__{name}_split": split for name, split in splits.items()}
    return ["--config", str(config_file(small_config(**values)))]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return tmp_path_factory.mktemp("whole")


@pytest.fixture
def check_equal(whole, command, ended, arguments, last_state, assert_trees_equal):
    """Assert that a run equals, bit for bit, one of a single process on as many devices."""

    def check(workdir):
        if not (whole / RESULT).exists():
            process = command("train", *arguments, "--workdir", whole, devices=2)
            assert ended(process)[0] == 0
        (step, state), (whole_step, whole_state) = last_state(workdir), last_state(whole)
        assert step == whole_step == STEPS
        assert_trees_equal(state, whole_state)
        results = [json.loads((run / RESULT).read_text()) for run in (whole, workdir)]
        assert results[0]["metrics"] == results[1]["metrics"]
        assert [r["device"]["processes"] for r in results] == [1, 2]
        assert results[1]["resumed_at_step"] > 0

    return check


def wait_until(condition, log):
    deadline = time.monotonic() + 300
    while not condition():
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.1)


def trains(workdir):
    """Return whether a run has written the record of its first step."""
    return (workdir / METRICS).exists() and '"train"' in (workdir / METRICS).read_text()


def test_local_run_stops_resumes_and_equals_one_process(tmp_path, command, arguments, check_equal):
    log = tmp_path / "log"
    words = ["launch", "local", *arguments, "--workdir", tmp_path / "run"]
    with log.open("w") as output:
        process = command(*words, stdout=output, stderr=subprocess.STDOUT)
        wait_until(lambda: trains(tmp_path / "run"), log)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=300) == EXIT_INTERRUPTED, log.read_text()
    assert log.read_text().count("stopped and saved at step") == 2
    with log.open("w") as output:
        process = command(*words, stdout=output, stderr=subprocess.STDOUT)
        assert process.wait(timeout=600) == 0, log.read_text()
    assert "resuming from the checkpoint of step" in log.read_text()
    check_equal(tmp_path / "run")


@pytest.mark.skipif(not available(), reason="needs root and the packages slurm-wlm and munge")
def test_slurm_job_is_requeued_finishes_and_equals_one_process(tmp_path, arguments, check_equal):
    (tmp_path / "slurm").mkdir()
    with one_node_slurm(tmp_path / "slurm") as environment:

        def call(*words):
            options = {"env": environment, "cwd": tmp_path, "capture_output": True, "text": True}
            return subprocess.run(words, check=True, **options).stdout

        words = ["launch", "slurm", *arguments, "--workdir", str(tmp_path / "run"), "--name=test"]
        words += ["--gpus=0", "--tasks=2", "--cpus=1"]
        words = [sys.executable, "-m", "deconv_jax.cli", *words]
        environment["PYTHONPATH"] = os.pathsep.join(sys.path)
        environment["XLA_FLAGS"] = "--xla_backend_optimization_level=0"
        (tmp_path / "job").write_text(call(*words, "--dry-run"))
        call("sbatch", "--test-only", "job")
        job = call(*words).split()[-1]
        log = tmp_path / f"test-{job}.log"
        wait_until(lambda: trains(tmp_path / "run"), log)
        call("scancel", "--signal=TERM", job)
        controller = tmp_path / "slurm" / "slurmctld.log"
        wait_until(lambda: f"Requeuing JobId={job}" in controller.read_text(), log)
        # Slurm waits two minutes before it starts a requeued job; less than a second would be an error.
        call("scontrol", "update", f"JobId={job}", "StartTime=now+5")
        wait_until(lambda: not call("squeue", "-h"), log)
    assert log.read_text().count("stopped and saved at step") == 2
    assert "resuming from the checkpoint of step" in log.read_text()
    check_equal(tmp_path / "run")
