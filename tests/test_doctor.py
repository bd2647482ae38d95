"""`deconv-jax doctor`: one line for each problem, and nothing left on disk."""

import shutil
import socket
import types

import jax
import pytest

from deconv_jax import doctor
from deconv_jax.cli import main
from deconv_jax.doctor import examine
from deconv_jax.experiment import Experiment
from deconv_jax.io import write_json
from deconv_jax.workdir import CONFIG


@pytest.fixture(autouse=True)
def private_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch):
    for name in doctor._COUNTED_PROCESSES:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def without_compilation(monkeypatch):
    """Pretend that a training step needs 1 MB, because compiling it takes seconds."""
    monkeypatch.setattr(doctor, "step_memory", lambda *_: 1_000_000)
    compiled = types.SimpleNamespace(compile=lambda: None)
    monkeypatch.setattr(doctor.Devices, "lower", lambda *_: compiled)


def content(folder):
    return sorted(path.relative_to(folder) for path in folder.rglob("*"))


def test_a_machine_without_a_config(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["doctor"]) == 0
    said = capsys.readouterr()
    assert said.err == ""
    assert said.out.endswith("no problems found\n")
    facts = dict(line.split(maxsplit=1) for line in said.out.splitlines()[:-1])
    assert facts["process"].startswith("0 of 1")
    assert facts["devices"] == "8 cpu"
    assert f"jax {jax.__version__}" in facts["versions"]
    assert "compilation cache" in said.out


@pytest.mark.slow
def test_config_and_workdir_leave_nothing_on_disk(tmp_path, small_config, without_compilation):
    del without_compilation
    experiment = Experiment.from_dict(small_config())
    before = content(tmp_path)
    found = examine(experiment, tmp_path / "runs" / "new")
    assert found.problems == []
    facts = dict(found.facts)
    assert facts["data"].startswith("digits: train 1,257, validation")
    assert facts["memory"].startswith("1 MB of ")
    assert " saved in " in facts["checkpoint"]
    assert " restored in " in facts["checkpoint"]
    assert content(tmp_path) == before


@pytest.mark.slow
def test_memory_is_that_of_the_compiled_step(small_config):
    found = examine(Experiment.from_dict(small_config(training__steps_per_call=2)))
    assert found.problems == []
    needed = dict(found.facts)["memory"].split("B of")[0]
    assert 100 < float(needed.removesuffix(" k")) < 1000


def test_compilation_cache_is_exercised(monkeypatch):
    folder = jax.config.jax_compilation_cache_dir
    before = content(doctor.Path(folder))
    found = doctor.Examination()
    doctor._compilation_cache(found)
    assert found.problems == []
    assert found.facts == [("compilation cache", f"{folder}, works")]
    assert content(doctor.Path(folder)) == before
    # No event tells of a hit.
    monkeypatch.setattr(jax.monitoring, "register_event_listener", lambda *_: None)
    monkeypatch.setattr(jax.monitoring, "unregister_event_listener", lambda *_: None)
    doctor._compilation_cache(found)
    assert "does not keep programs" in found.problems[0]


def test_every_problem_of_a_machine_is_found(tmp_path, monkeypatch):
    folder = tmp_path / "gpus"
    (folder / "0000:01:00.0").mkdir(parents=True)
    monkeypatch.setattr(doctor, "_NVIDIA_GPUS", folder)
    for name, text in (("vendor", "0x1ae0"), ("device", "0x0063")):
        (tmp_path / "pci" / "00:04").mkdir(parents=True, exist_ok=True)
        (tmp_path / "pci" / "00:04" / name).write_text(f"{text}\n")
    monkeypatch.setattr(doctor, "_PCI_DEVICES", tmp_path / "pci")
    monkeypatch.delenv("JAX_PLATFORMS")
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "4")
    monkeypatch.setattr(doctor, "all_reduce_is_right", lambda: False)
    monkeypatch.setattr(doctor, "same_on_all_processes", lambda text: "cpu" not in text)
    said = [
        "this machine has an NVIDIA GPU, but JAX uses the CPU; install the extra cuda",
        "this machine has a TPU, but JAX uses the CPU; install the extra tpu",
        "Slurm started 4 processes, and this one is in a group of 1; give --distributed",
        "a sum over all devices is wrong",
        "processes differ in their devices; this one has 8 cpu",
    ]
    problems = examine().problems
    assert len(problems) == len(said)
    assert all(problem.startswith(words) for problem, words in zip(problems, said, strict=True))


def test_every_problem_of_a_config_is_found(
    tmp_path, monkeypatch, small_config, without_compilation
):
    del without_compilation
    experiment = Experiment.from_dict(small_config())
    other = Experiment.from_dict(small_config(seed=1))
    workdir = tmp_path / "run"
    write_json(workdir / CONFIG, other.to_dict())
    (workdir / "checkpoints" / "4").mkdir(parents=True)
    monkeypatch.setattr(doctor, "free_memory", lambda: 800_000)
    usage = types.SimpleNamespace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda *_: usage)
    memory, unusable, disk = examine(experiment, workdir).problems
    assert memory.startswith("a training step needs 1 MB per device, and 100 kB are free")
    assert "belongs to a run with another config" in unusable
    assert "config.seed: 1 -> 0" in unusable
    assert disk.startswith("a run keeps up to 4 checkpoints of ")
    assert "1 kB are free" in disk


def test_unusable_settings_are_problems(tmp_path, small_config):
    config = small_config(training__batch_size=12, init_from="nothing")
    found = examine(Experiment.from_dict(config))
    assert len(found.problems) == 1
    assert "training.batch_size must be divisible by the number of devices, 8" in found.problems[0]
    (tmp_path / "file").touch()
    (problem,) = examine(None, tmp_path / "file" / "run").problems
    assert problem == f"cannot write to {tmp_path / 'file'}: Not a directory"
    (problem,) = examine(None, doctor.Path("gs://bucket/run")).problems
    assert "gs://bucket/run is not a path of the file system" in problem


def test_unprepared_data_is_one_line_and_exit_code_2(capsys, tmp_path, config_file, small_config):
    source = {"name": "tfds", "dataset": "mnist"}
    config = config_file(small_config(data={"source": source, "data_dir": str(tmp_path)}))
    assert main(["doctor", "--config", str(config)]) == 2
    said = capsys.readouterr()
    assert "no problems" not in said.out
    (line,) = said.err.splitlines()
    assert line.startswith("problem: the config cannot be trained here: config.data.source='mnist'")
    assert "run: deconv-jax prepare mnist" in line


def test_overrides_require_a_config(capsys):
    assert main(["doctor", "--config.seed=1"]) == 2
    assert "--config.seed=1 requires --config" in capsys.readouterr().err


@pytest.fixture
def two_processes(command):
    """Start the command in two processes, with further arguments for each."""

    def start(*arguments, each=((), ())):
        with socket.socket() as probe:
            probe.bind(("localhost", 0))
            address = f"localhost:{probe.getsockname()[1]}"
        return [
            command("doctor", *arguments, *each[i], "--distributed", f"{address},{i},2")
            for i in range(2)
        ]

    return start


@pytest.mark.slow
def test_two_processes_agree(tmp_path, two_processes, ended, config_file, small_config):
    # The step of this network compiles fast.
    model = {"name": "dncnn", "depth": 2, "features": 2, "norm": "none"}
    degradation = {"name": "gaussian_noise", "sigma": 25.0}
    task = {"name": "restoration", "model": model, "degradation": degradation, "augment": False}
    config = config_file(small_config(task=task))
    processes = two_processes("--config", config, "--workdir", tmp_path / "run")
    for i, (code, output, errors) in enumerate(map(ended, processes)):
        assert code == 0, errors
        assert f"process {i}: process            {i} of 2" in output
        assert f"process {i}: devices            1 cpu, 2 in all processes" in output
        assert f"process {i}: workdir            written by all processes" in output
        assert " restored in " in output
        assert f"process {i}: no problems found" in output
    assert not (tmp_path / "run").exists()
    assert [path for path in tmp_path.iterdir() if "doctor" in path.name] == []


@pytest.mark.slow
def test_a_folder_of_each_process_is_not_shared(tmp_path, two_processes, ended):
    folders = [tmp_path / str(i) for i in range(2)]
    for folder in folders:
        folder.mkdir()
    processes = two_processes(each=[["--workdir", folder / "run"] for folder in folders])
    for i, (code, output, errors) in enumerate(map(ended, processes)):
        assert code == 2
        assert "no problems" not in output
        lines = [line for line in errors.splitlines() if "problem: " in line]
        assert len(lines) == 1
        assert f"is not shared: process {i} does not see the files of process {1 - i}" in lines[0]
    assert content(tmp_path) == [doctor.Path("0"), doctor.Path("1")]
