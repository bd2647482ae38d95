"""`deconv-jax train` and `evaluate`: their output, and one line for every mistake."""

import json
import resource
from pathlib import Path

import pytest
from PIL import Image

from deconv_jax import tables
from deconv_jax import train as train_module
from deconv_jax.cli import main
from deconv_jax.training.loop import Interrupted
from deconv_jax.workdir import CHECKPOINTS, CONFIG, RESULT

DIGITS = "experiments/autoencoding/digits.py"
FEW = {
    "data__train_split": "train[:100]",
    "data__validation_split": "validation[:24]",
    "data__test_split": "test[:24]",
}
"""Config overrides for small splits."""


@pytest.mark.slow
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
        (
            "--config.zzz=1",
            "known are: data, init_exclude, init_from, optimizer, precision, seed, task",
        ),
        ("--config.data.source=qqqq", "no data set 'qqqq'; valid are digits, photographs, folder:"),
        ("--config.optimizer.schedule=cosin", "config.optimizer.schedule must be one of"),
        (
            "--config.training.batch_size=12",
            "batch_size must be divisible by the number of devices, 8; got 12",
        ),
        ("--config.training.eval_every=7", "must be a positive multiple of"),
        ("--config.task.model.image_shape=(30,32,1)", "multiples of its total stride 8"),
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
        ("--config.data.data_dir=gs://bucket/tfds", "gs://bucket/tfds is not a path of the file"),
        ("--config.data.source=folder:s3://bucket/images", "s3://bucket/images is not a path"),
        ("--config.init_from=gs://bucket/run", "gs://bucket/run is not a path of the file system"),
    ],
)
def test_invalid_config_is_one_line_and_writes_nothing(
    error_of, tmp_path, digits_dir, override, said
):
    where = ["--workdir", tmp_path / "run", f"--config.data.data_dir={digits_dir}"]
    assert said in error_of("train", "--config", DIGITS, *where, override)
    assert not (tmp_path / "run").exists()


def test_workdir_and_data_in_a_bucket_are_refused(error_of, tmp_path, monkeypatch):
    config = Path(DIGITS).absolute()
    monkeypatch.chdir(tmp_path)
    train = ["train", "--config", config, "--workdir"]
    said = "deconv-jax: error: gs://bucket/run is not a path of the file system; mount the bucket"
    assert error_of(*train, "gs://bucket/run").startswith(said)
    assert error_of("evaluate", "--workdir", "gs://bucket/run").startswith(said)
    for name in ("TFDS_DATA_DIR", "DECONV_JAX_DATA"):
        with monkeypatch.context() as patch:
            patch.setenv(name, "s3://bucket")
            said = error_of(*train, "run", "--config.data.source=mnist")
            assert "s3://bucket" in said
            assert "mountpoint-s3 for s3://" in said
    assert not list(tmp_path.iterdir())


def test_steps_to_profile_must_be_in_the_run(error_of, tmp_path):
    where = ["train", "--config", DIGITS, "--workdir", tmp_path / "run", "--profile"]
    assert "--profile must be START:STOP, such as 100:110; got 'ten'" in error_of(*where, "ten")
    assert "<= training.num_steps (1000) and be multiples of" in error_of(*where, "10:2000")
    assert not (tmp_path / "run").exists()


def test_unprepared_data_set_names_the_command_to_run(error_of, tmp_path):
    said = error_of(
        "train",
        "--config",
        "experiments/autoencoding/mnist.py",
        "--workdir",
        tmp_path / "run",
        f"--config.data.data_dir={tmp_path}",
    )
    assert f"run: deconv-jax prepare mnist --data-dir {tmp_path}" in said


def test_missing_files_and_folders_without_a_run_are_named(error_of, tmp_path):
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


def test_plots_must_be_a_writable_folder(error_of, tmp_path, small_config):
    (tmp_path / "file").touch()
    where = ["evaluate", "--workdir", tmp_path, "--plots"]
    assert "--plots: " in error_of(*where, tmp_path / "file")
    (tmp_path / CONFIG).write_text(json.dumps(small_config()))
    assert f"cannot write {tmp_path / 'file' / 'in'}" in error_of(*where, tmp_path / "file" / "in")


@pytest.mark.slow
def test_train_evaluate_and_train_again(capsys, tmp_path, config_file, small_config, error_of):
    workdir = tmp_path / "run"
    config = config_file(small_config(**FEW))
    arguments = ["train", "--config", str(config), "--workdir", str(workdir)]
    assert main(arguments) == 0
    seen = capsys.readouterr()
    result = json.loads((workdir / RESULT).read_text())
    measured = result["metrics"]["test"]["psnr"]
    assert f"psnr {measured:.4f}" in seen.out
    assert f"pca_psnr {result['baseline']['test']['pca_psnr']:.4f}" in seen.out
    # Without a terminal: plain lines with the content of the progress bar.
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
def test_interrupted_training_has_its_own_exit_code(
    monkeypatch, capsys, tmp_path, config_file, small_config, command
):
    def interrupted(*_, **__):
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
def test_full_disk_is_one_line_and_leaves_no_partial_checkpoint(
    tmp_path, command, ended, config_file, small_config
):
    config = config_file(small_config(task__model__features=(16, 64), data__cache="none", **FEW))
    arguments = ["train", "--config", str(config), "--workdir", str(tmp_path / "run")]
    process = command(*arguments)
    # A limited file size makes writing fail as on a full disk.
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (30_000, 30_000))
    code, _, errors = ended(process)
    assert code == 2, errors
    said = [line for line in errors.splitlines() if line.startswith("deconv-jax: error:")]
    assert len(said) == 1
    assert "cannot write" in said[0]
    assert not (tmp_path / "run" / RESULT).exists()
    assert [p.name for p in (tmp_path / "run" / CHECKPOINTS).iterdir() if p.name.isdecimal()] == []
    # With free space, the same command completes the run.
    assert main(arguments) == 0


@pytest.mark.slow
def test_digits_autoencoder_beats_pca_in_a_fifth_of_its_steps(tmp_path, command, ended):
    rhythm = {"num_steps": 200, "eval_every": 100, "save_every": 100}
    process = command(
        "train",
        "--config",
        DIGITS,
        "--workdir",
        tmp_path / "run",
        f"--config.data.data_dir={tmp_path}",
        *(f"--config.training.{name}={steps}" for name, steps in rhythm.items()),
        optimized=True,
    )
    code, output, errors = ended(process)
    assert code == 0, errors
    result = json.loads((tmp_path / "run" / RESULT).read_text())
    psnr, pca = result["metrics"]["test"]["psnr"], result["baseline"]["test"]["pca_psnr"]
    assert psnr > pca
    assert f"psnr {psnr:.4f}" in output
