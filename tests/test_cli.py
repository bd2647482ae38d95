"""The command line: what a person sees, and that a mistake costs one line and changes nothing."""

import ctypes
import importlib.metadata
import json
import platform
import resource
import subprocess
import sys
import types

import pytest
from PIL import Image

from deconv_jax import tables
from deconv_jax import train as train_module
from deconv_jax.cli import load_config, main
from deconv_jax.cli.process import retain_freed_memory
from deconv_jax.errors import InputError
from deconv_jax.training.loop import Interrupted
from deconv_jax.workdir import CHECKPOINTS, CONFIG, RESULT

DIGITS = "experiments/autoencoding/digits.py"
FEW = {
    "data__train_split": "train[:100]",
    "data__validation_split": "validation[:24]",
    "data__test_split": "test[:24]",
}
"""Settings of a run on few examples."""


@pytest.fixture(autouse=True)
def private_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def error_of(capsys):
    """Runs a command that must fail with exit code 2 and one line; returns the line."""

    def run(*arguments, lines=1):
        assert main([str(a) for a in arguments]) == 2
        error = capsys.readouterr().err.strip()
        assert error.startswith("deconv-jax: error: ")
        assert len(error.splitlines()) == lines, error
        return error

    return run


def test_a_file_takes_an_argument_and_any_key_an_override():
    config = load_config(f"{DIGITS}:latent=16", ["--config.optimizer.learning_rate=3e-4"])
    assert config["task"]["model"]["latent_dim"] == 16
    assert config["optimizer"]["learning_rate"] == 3e-4
    # A key that the file leaves at its default can be set too.
    assert load_config(DIGITS, ["--config.data.workers=2"])["data"]["workers"] == 2


SHORT = {
    "task": {"name": "variational", "kl_warmup_steps": 500},
    "optimizer": {"schedule": "cosine", "warmup_steps": 50, "step_boundaries": (600, 800)},
    "training": {"num_steps": 1000, "steps_per_call": 50, "eval_every": 500},
}


def test_a_shorter_run_shortens_what_counts_its_steps(config_file, capsys):
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


@pytest.mark.parametrize(
    "overrides",
    [["optimizer.warmup_steps=7"], ["training.num_steps=2000"], ["training.num_steps=none"]],
)
def test_other_overrides_change_nothing_else(config_file, capsys, overrides):
    before = load_config(str(config_file(SHORT)))
    after = load_config(str(config_file(SHORT)), [f"--config.{word}" for word in overrides])
    changed = [f"{g}.{k}" for g in SHORT for k in SHORT[g] if before[g][k] != after[g][k]]
    assert changed == [word.partition("=")[0] for word in overrides]
    assert capsys.readouterr().err == ""


def test_the_splits_of_another_data_set_are_left_out(config_file, capsys):
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
        "note: another data.source drops data.source.canvas=8, data.test_split='test', "
        "data.train_split='train[:9]'\n"
    )
    words = ["--config.data.source=folder:x", "--config.data.test_split=all[:1]"]
    given = {"source": folder, "train_split": "train[:9]", "test_split": "all[:1]"}
    assert load_config(file, words)["data"] == given


def test_a_short_data_source_keeps_the_settings_that_it_can_have(config_file):
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


def test_a_warm_up_that_is_given_is_kept_in_a_shorter_run(config_file):
    words = ["--config.training.num_steps=100", "--config.optimizer.warmup_steps=50"]
    config = load_config(str(config_file(SHORT)), words)
    assert config["optimizer"]["warmup_steps"] == 50
    assert config["task"]["kl_warmup_steps"] == 50


@pytest.mark.parametrize(
    ("override", "said"),
    [
        (
            "--config.task.model.latent_dmi=16",
            "config.task.model.latent_dmi; did you mean 'latent_dim'",
        ),
        (
            "--config.task.model.latent_dim=big",
            "config.task.model.latent_dim must be int; got 'big'",
        ),
        ("--config.task.model.name=autoencode", "did you mean 'autoencoder'"),
        (
            "--config.data.batch_size=4",
            "unknown key config.data.batch_size; did you mean config.training.batch_size?",
        ),
        ("--config.batch_size=4", "did you mean config.training.batch_size?"),
        ("--config.task.num_steps=4", "did you mean config.training.num_steps?"),
        ("--config.data.lerning_rate=1", "did you mean config.optimizer.learning_rate?"),
        ("--config.zzz=1", "known are: data, optimizer, precision, seed, task, training"),
        ("--config.data.source=qqqq", "no data set 'qqqq'; valid are digits, photographs, folder:"),
        ("--config.optimizer.schedule=cosin", "config.optimizer.schedule must be one of"),
        (
            "--config.training.batch_size=12",
            "batch_size must be divisible by the number of devices, 8; got 12",
        ),
        ("--config.training.eval_every=7", "must be a positive multiple of"),
        ("--config.task.model.image_shape=(30,32,1)", "divisible by its total stride 8"),
        ("--config.task.model.image_shape=(64,64,1)", "got (32, 32, 1)"),
        ("--config.data.source=minst", "no data set 'minst'; did you mean 'mnist'"),
        ("--config.data.name=mnist", "config.data.name='mnist' is the format of an older version"),
        ("--config.data.source=folder:", "data.source.path must not be empty"),
        ("--config.data.source.name=mnist", "config.data.source.name: no 'mnist'; "),
        ("--config.data.test_split=tset", "no split 'tset', or it is empty; it has"),
        ("--config.training.steps_per_call=0", "training.steps_per_call must be at least 1; got 0"),
        ("--config.training.eval_batch_size=-5", "eval_batch_size must be at least 1; got -5"),
        (
            "--config.training.save_every=380",
            "save_every must be a multiple of training.eval_every",
        ),
        ("--config.seed=-1", "seed must be at least 0; got -1"),
        ("--config.data.prefetch=-1", "data.prefetch must be at least 0"),
        ("--config.data.train_split=train[:0]", "empty"),
        ("--config.task.model.features=()", "features must be one or more positive numbers"),
        ("--config.task.model.stride=0", "stride must be at least 1; got 0"),
        ("--config.task.name=[1]", "config.task.name: no [1]"),
        ("--config.optimizer.learning_rate=1e999", "learning_rate must be finite; got inf"),
        ("--config.optimizer.learning_rate=-1", "optimizer.learning_rate must be at least 0"),
        ("--config.optimizer.ema_decay=2.0", "optimizer.ema_decay must be in [0, 1); got 2.0"),
        ("--config.seed", "an override must be --config.KEY=VALUE"),
    ],
)
def test_a_wrong_setting_costs_one_line_and_leaves_nothing(
    error_of, tmp_path, digits_dir, override, said
):
    where = ["--workdir", tmp_path / "run", f"--config.data.data_dir={digits_dir}"]
    assert said in error_of("train", "--config", DIGITS, *where, override)
    assert not (tmp_path / "run").exists()


def test_a_data_set_that_is_not_prepared_says_what_to_run(error_of, tmp_path):
    said = error_of(
        "train",
        "--config",
        "experiments/autoencoding/mnist.py",
        "--workdir",
        tmp_path / "run",
        f"--config.data.data_dir={tmp_path}",
    )
    assert f"run: deconv-jax prepare mnist --data-dir {tmp_path}" in said


def test_missing_files_and_foreign_folders_are_named(error_of, tmp_path):
    assert "no config file 'none.py'" in error_of(
        "train", "--config", "none.py", "--workdir", tmp_path / "run"
    )
    assert "is not the workdir of a run" in error_of("evaluate", "--workdir", tmp_path)
    (tmp_path / CONFIG).write_text("{")
    assert "cannot read" in error_of("evaluate", "--workdir", tmp_path)
    (tmp_path / "file").touch()
    assert "is not a folder" in error_of(
        "train", "--config", DIGITS, "--workdir", tmp_path / "file"
    )


def test_a_place_for_plots_that_is_no_folder_is_refused(error_of, tmp_path, small_config):
    (tmp_path / "file").touch()
    where = ["evaluate", "--workdir", tmp_path, "--plots"]
    assert "--plots: " in error_of(*where, tmp_path / "file")
    (tmp_path / CONFIG).write_text(json.dumps(small_config()))
    assert f"cannot write {tmp_path / 'file' / 'in'}" in error_of(*where, tmp_path / "file" / "in")


def test_unknown_arguments_are_refused(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["evaluate", "--workdir", "x", "--config.seed=1"])
    assert stop.value.code == 2
    assert "unknown arguments: --config.seed=1" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["trian"], "no command 'trian'; did you mean 'train'?"),
        (["xyz"], "no command 'xyz'; known are: compress, decompress, evaluate, generate, "),
        (
            ["evaluate", "--workdir", "x", "--chekpoint", "3"],
            "--chekpoint 3; did you mean '--checkpoint'?",
        ),
        (
            ["train", "--workdir", "x", "--config", "y", "--confg.seed=1"],
            "did you mean '--config'? (write an override as one word: --config.KEY=VALUE)",
        ),
    ],
)
def test_a_misspelt_command_or_flag_suggests_the_nearest(capsys, words, said):
    with pytest.raises(SystemExit) as stop:
        main(words)
    assert stop.value.code == 2
    assert said in capsys.readouterr().err


def test_the_version_is_that_of_the_package(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--version"])
    assert stop.value.code == 0
    version = importlib.metadata.version("deconv_jax")
    assert capsys.readouterr().out == f"deconv-jax {version}\n"


@pytest.mark.parametrize("command", [[], ["train"], ["evaluate"], ["prepare"], ["tables"]])
def test_help_is_complete_and_short(capsys, command):
    with pytest.raises(SystemExit) as stop:
        main([*command, "--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert len(text.splitlines()) < 30
    if not command:
        assert all(word in text for word in ("train", "evaluate", "prepare", "tables"))


def test_train_finish_evaluate_and_refuse(capsys, tmp_path, config_file, small_config, error_of):
    workdir = tmp_path / "run"
    config = config_file(small_config(**FEW))
    arguments = ["train", "--config", str(config), "--workdir", str(workdir)]
    assert main(arguments) == 0
    seen = capsys.readouterr()
    result = json.loads((workdir / RESULT).read_text())
    measured = result["metrics"]["test"]["psnr"]
    assert f"psnr {measured:.4f}" in seen.out
    assert f"pca_psnr {result['baseline']['test']['pca_psnr']:.4f}" in seen.out
    # Not on a terminal: plain lines with all that the bar would show.
    line = next(line for line in seen.err.splitlines() if line.startswith("step 4/8"))
    assert all(word in line for word in ("loss", "images/s", "ETA"))
    for name in ("checkpoints", "config.json", "metrics.jsonl", "tensorboard", "pictures"):
        assert name in seen.out
        assert (workdir / name).exists()

    assert main(["evaluate", "--workdir", str(workdir)]) == 0
    again = json.loads(capsys.readouterr().out)
    assert again["metrics"] == result["metrics"]["test"]
    assert main(["evaluate", "--workdir", str(workdir), "--checkpoint", "best"]) == 0
    assert json.loads(capsys.readouterr().out)["step"] in (4, 8)
    assert "no checkpoint of step 3" in error_of(
        "evaluate", "--workdir", workdir, "--checkpoint", "3"
    )
    said = error_of("evaluate", "--workdir", workdir, "--checkpoint", "first")
    assert "--checkpoint must be last, best or a step; got 'first'" in said

    plots = tmp_path / "plots"
    assert main(["evaluate", "--workdir", str(workdir), "--plots", str(plots)]) == 0
    assert json.loads(capsys.readouterr().out) == again
    assert sorted(path.name for path in plots.iterdir()) == ["codes.png", "reconstructions.png"]
    for path in plots.iterdir():
        with Image.open(path) as picture:
            assert picture.format == "PNG"
    drawn = ["evaluate", "--workdir", workdir, "--plots", plots]
    assert f"{plots} is not empty; give --overwrite" in error_of(*drawn)
    (plots / "codes.png").write_text("")
    assert main([str(word) for word in (*drawn, "--overwrite")]) == 0
    assert (plots / "codes.png").stat().st_size > 0
    capsys.readouterr()

    def content():
        return {p: p.stat().st_mtime_ns for p in workdir.rglob("*") if p.is_file()}

    before = content()
    assert main(arguments) == 0
    assert "already finished" in capsys.readouterr().out
    other = "--config.optimizer.learning_rate=0.5"
    assert "config.optimizer.learning_rate: 0.003 -> 0.5" in error_of(*arguments, other, lines=2)
    assert content() == before


@pytest.mark.parametrize("command", ["train", "tables"])
def test_a_training_that_is_told_to_stop_has_its_exit_code(
    monkeypatch, capsys, tmp_path, config_file, small_config, command
):
    def interrupted(*_):
        raise Interrupted(6)

    monkeypatch.setenv("DECONV_JAX_DATA", str(tmp_path))
    if command == "train":
        monkeypatch.setattr(train_module, "train", interrupted)
        arguments = ["--config", str(config_file(small_config())), "--workdir", str(tmp_path)]
    else:
        monkeypatch.setattr(tables, "run_missing", interrupted)
        arguments = ["denoising"]
    assert main([command, *arguments]) == 75
    said = "stopped and saved at step 6; run the same command to continue\n"
    assert capsys.readouterr().out == said


@pytest.mark.slow
def test_a_full_disk_is_one_line_and_leaves_no_half_checkpoint(
    tmp_path, command, ended, config_file, small_config
):
    config = config_file(small_config(task__model__features=(16, 64), data__cache="none", **FEW))
    arguments = ["train", "--config", str(config), "--workdir", str(tmp_path / "run")]
    process = command(*arguments)
    # A file that may grow no further fails to be written just as on a full disk.
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (30_000, 30_000))
    code, _, errors = ended(process)
    assert code == 2, errors
    said = [line for line in errors.splitlines() if line.startswith("deconv-jax: error:")]
    assert len(said) == 1
    assert "cannot write" in said[0]
    assert not (tmp_path / "run" / RESULT).exists()
    assert [p.name for p in (tmp_path / "run" / CHECKPOINTS).iterdir() if p.name.isdecimal()] == []
    # With room again, the same command does the run.
    assert main(arguments) == 0


@pytest.mark.slow
def test_the_main_job_beats_pca_in_a_fifth_of_its_steps(tmp_path, command, ended):
    rhythm = {"num_steps": 200, "eval_every": 100, "save_every": 100}
    process = command(
        "train",
        "--config",
        DIGITS,
        "--workdir",
        tmp_path / "run",
        f"--config.data.data_dir={tmp_path}",
        *(f"--config.training.{name}={steps}" for name, steps in rhythm.items()),
    )
    code, output, errors = ended(process)
    assert code == 0, errors
    result = json.loads((tmp_path / "run" / RESULT).read_text())
    psnr, pca = result["metrics"]["test"]["psnr"], result["baseline"]["test"]["pca_psnr"]
    assert psnr > pca
    assert f"psnr {psnr:.4f}" in output


KEEPS_MEMORY = """
import ctypes
from deconv_jax.cli.process import retain_freed_memory

SIZE = 64 * 2**20
library = ctypes.CDLL(None)
library.malloc.restype, library.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
library.free.argtypes = [ctypes.c_void_p]
library.sbrk.restype, library.sbrk.argtypes = ctypes.c_void_p, [ctypes.c_ssize_t]
retain_freed_memory()
start = library.sbrk(0)
library.free(library.malloc(SIZE))
kept = library.sbrk(0) - start
assert kept > SIZE / 2, kept  # Some was free before.
for _ in range(3):
    library.free(library.malloc(SIZE))
assert library.sbrk(0) - start == kept
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is another")
def test_memory_that_is_freed_is_kept():
    """On the heap, even a block of 64 MB, and used again."""
    ran = subprocess.run([sys.executable, "-c", KEEPS_MEMORY], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr


def test_the_options_of_the_c_library_are_set(monkeypatch):
    options = {}
    library = types.SimpleNamespace(mallopt=options.__setitem__)
    monkeypatch.setattr(ctypes, "CDLL", lambda _: library)
    retain_freed_memory()
    # Of malloc.h: M_ARENA_MAX, M_MMAP_MAX and M_TRIM_THRESHOLD.
    assert options == {-8: 1, -4: 0, -1: 2**31 - 1}


@pytest.mark.parametrize("error", [AttributeError, OSError, TypeError])
def test_another_c_library_is_left_alone(monkeypatch, error):
    def refuse(_):
        raise error("no mallopt")

    monkeypatch.setattr(ctypes, "CDLL", refuse)
    retain_freed_memory()
    monkeypatch.setattr(ctypes, "CDLL", lambda _: object())
    retain_freed_memory()


def test_an_argument_of_a_config_is_checked():
    with pytest.raises(
        InputError, match=r"unknown config argument 'latnet'; did you mean 'latent'"
    ):
        load_config(f"{DIGITS}:latnet=16")
