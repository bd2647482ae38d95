"""Runs of two processes: same results as one process, and common stops."""

import json
import signal
import socket
import time

import pytest
from PIL import Image

from deconv_jax.cli import EXIT_INTERRUPTED
from deconv_jax.training.run_log import METRICS
from deconv_jax.workdir import RESULT

pytestmark = pytest.mark.slow


@pytest.fixture
def together(command):
    """Start the two processes of a run."""

    def start(*arguments, each=((), ())):
        with socket.socket() as probe:
            probe.bind(("localhost", 0))
            address = f"localhost:{probe.getsockname()[1]}"
        return [
            command(*arguments, *each[i], "--distributed", f"{address},{i},2") for i in range(2)
        ]

    return start


def test_two_processes_equal_one_with_whole_and_split_optimizer_state(
    tmp_path, command, ended, together, config_file, small_config, last_state, assert_trees_equal
):
    config = config_file(small_config(optimizer__name="sgd", optimizer__learning_rate=0.1))
    arguments = ["train", "--config", config, "--workdir"]

    def finish(*processes):
        for process in processes:
            code, _, errors = ended(process)
            assert code == 0, errors

    finish(command(*arguments, tmp_path / "one"), *together(*arguments, tmp_path / "two"))
    split = "--config.training.shard_optimizer=True"
    finish(*together(*arguments, tmp_path / "split", split))
    results = {n: json.loads((tmp_path / n / RESULT).read_text()) for n in ("one", "two", "split")}
    assert [r["device"]["processes"] for r in results.values()] == [1, 2, 2]
    (_, one), psnr = last_state(tmp_path / "one"), results["one"]["metrics"]["test"]["psnr"]
    for name in ("two", "split"):
        assert_trees_equal(last_state(tmp_path / name)[1], one, relative=1e-5)
        assert results[name]["metrics"]["test"]["psnr"] == pytest.approx(psnr, rel=1e-5)


@pytest.mark.parametrize("files", [(6, 5), (6, 0)], ids=["fewer", "none"])
def test_processes_with_different_files_all_stop(
    tmp_path, ended, together, config_file, small_config, files
):
    """Each process has its own folder, as if it had been copied to every machine only in part."""
    for process, count in enumerate(files):
        (tmp_path / str(process) / "images").mkdir(parents=True)
        for i in range(count):
            image = Image.new("L", (32, 32), 40 * i)
            image.save(tmp_path / str(process) / "images" / f"{i}.png")
    splits = {"train_split": "all[2:]", "validation_split": "all[:1]", "test_split": "all[1:2]"}
    data = {"source": {"name": "folder", "path": "images", "color": "gray"}, **splits}
    each = [[f"--config.data.data_dir={tmp_path / str(process)}"] for process in range(2)]
    config = config_file(small_config(data=data))
    processes = together("train", "--config", config, "--workdir", tmp_path / "run", each=each)
    codes, _, errors = zip(*map(ended, processes), strict=True)
    assert codes == (2, 2), errors
    said = ["see different examples"] * 2
    if not files[1]:
        said = ["another process cannot open data set 'folder:images'", "beyond the 0 files"]
    for words, error in zip(said, errors, strict=True):
        assert words in error
    assert not (tmp_path / "run" / RESULT).exists()


def test_signal_to_one_process_stops_both_and_the_run_resumes_bit_exactly(
    tmp_path,
    command,
    ended,
    together,
    config_file,
    short_config,
    last_state,
    logged,
    assert_trees_equal,
):
    """The record after the first step is the last one before the end, so they do not stop at records."""
    rare = {f"training__{name}_every": 200 for name in ("eval", "save", "log")}
    config = config_file(short_config(training__num_steps=200, **rare))
    arguments = ["train", "--config", config, "--workdir"]
    whole, run = tmp_path / "whole", tmp_path / "run"
    processes = together(*arguments, run)
    deadline = time.monotonic() + 120
    while not ((run / METRICS).exists() and '"train"' in (run / METRICS).read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.005)  # A fast machine trains 200 steps in a second.
    processes[1].send_signal(signal.SIGTERM)
    codes, outputs, errors = zip(*map(ended, processes), strict=True)
    assert list(codes) == [EXIT_INTERRUPTED] * 2, errors
    steps = [int(output.split("saved at step ")[1].split(";")[0]) for output in outputs]
    assert steps[0] == steps[1] < 200
    for process in (*together(*arguments, run), command(*arguments, whole, devices=2)):
        code, _, errors = ended(process)
        assert code == 0, errors
    assert json.loads((run / RESULT).read_text())["resumed_at_step"] == steps[0]
    assert_trees_equal(last_state(run), last_state(whole))
    assert logged(run) == logged(whole)
