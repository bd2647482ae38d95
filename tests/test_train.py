"""train() and evaluate(): what a run learns, records and leaves in its workdir."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from deconv_jax.cli import load_config
from deconv_jax.errors import InputError
from deconv_jax.experiment import Experiment
from deconv_jax.train import evaluate, train
from deconv_jax.training.loop import Diverged
from deconv_jax.training.run_log import METRICS, read_metrics
from deconv_jax.workdir import INPUTS, RESULT, open_workdir

FEW = {
    "data__train_split": "train[:100]",
    "data__validation_split": "validation[:24]",
    "data__test_split": "test[:24]",
}
"""Config overrides for small splits."""


@pytest.mark.slow
def test_run_is_self_describing_and_records_provenance(finished, small_config):
    workdir, result = finished
    assert open_workdir(workdir) == Experiment.from_dict(small_config())
    assert result == json.loads((workdir / RESULT).read_text())
    for key in ("protocol", "seed", "device", "commit", "wall_time_s", "versions"):
        assert key in result
    assert result["counts"] == {"train": 1257, "validation": 180, "test": 360}
    assert result["data"] == {name: {"examples": n} for name, n in result["counts"].items()}
    assert result["overlapping_splits"] == {}
    measured = evaluate(workdir, split="validation")
    records = read_metrics(workdir / METRICS)
    (last,) = [r for r in records if r["split"] == "validation" and r["step"] == 8]
    assert {k: last[k] for k in measured["metrics"]} == measured["metrics"]
    assert [r["step"] for r in records if r["split"] == "train"] == [1, 2, 4, 6, 8]


def test_finished_run_only_gains_a_missing_inputs_file(tmp_path, finished, small_config):
    workdir, result = shutil.copytree(finished[0], tmp_path / "run"), finished[1]
    before = {path: path.read_bytes() for path in workdir.rglob("*") if path.is_file()}
    (workdir / INPUTS).unlink()
    assert train(Experiment.from_dict(small_config()), workdir) == result
    assert {path: path.read_bytes() for path in workdir.rglob("*") if path.is_file()} == before


def test_pictures_show_images_and_reconstructions(finished, small_config):
    workdir, _ = finished
    names = sorted(p.name for p in (workdir / "pictures").iterdir())
    assert names == [f"reconstructions_{step:07d}.png" for step in (0, 4, 8)]
    picture = np.asarray(Image.open(workdir / "pictures" / names[-1]))
    first = Experiment.from_dict(small_config()).data.open("validation").gather(np.arange(1))
    # The caption is 22 pixels high, the gap 4 pixels wide; each image pixel is drawn as 2 x 2.
    original = picture[22 : 22 + 64 : 2, 4 : 4 + 64 : 2, 0]
    np.testing.assert_array_equal(original, first["image"][0, ..., 0])


@pytest.mark.slow
def test_random_splits_are_printed_and_recorded(tmp_path, small_config, capsys):
    (tmp_path / "images").mkdir()
    for i in range(10):
        Image.new("L", (32, 32), 25 * i).save(tmp_path / "images" / f"{i}.png")
    data = {
        "source": {"name": "folder", "path": str(tmp_path / "images"), "color": "gray"},
        "cache": "memory",
    }
    result = train(Experiment.from_dict(small_config(data=data)), tmp_path / "run")
    assert result["counts"] == {"train": 8, "validation": 1, "test": 1}
    splits = ["all@0[:-2]", "all@0[-2:-1]", "all@0[-1:]"]
    keys = ["train_split", "validation_split", "test_split"]
    assert [result["config"]["data"][key] for key in keys] == splits
    said = capsys.readouterr().err.splitlines()[0]
    assert all(f"data.{key}={split!r}" in said for key, split in zip(keys, splits, strict=True))
    assert evaluate(tmp_path / "run")["metrics"] == result["metrics"]["test"]
    # The same experiment resumes the run.
    again = train(Experiment.from_dict(small_config(data=data)), tmp_path / "run")
    assert again["config"] == result["config"]


@pytest.mark.slow
def test_nonfinite_loss_stops_the_run_and_keeps_the_last_checkpoint(tmp_path, small_config):
    config = small_config(optimizer__name="sgd", optimizer__learning_rate=1e38, **FEW)
    with pytest.raises(Diverged, match=r"after step \d+ the loss was .*Try a smaller"):
        train(Experiment.from_dict(config), tmp_path / "run")
    assert not (tmp_path / "run" / RESULT).exists()
    assert evaluate(tmp_path / "run")["step"] == 0


@pytest.mark.slow
def test_overlapping_splits_are_reported_and_recorded(tmp_path, small_config, capsys):
    config = small_config(**FEW | {"data__test_split": "train[90:110]"}, data__cache="memory")
    result = train(Experiment.from_dict(config), tmp_path / "run")
    assert result["overlapping_splits"] == {"test in train": 10}
    assert "warning: splits overlap, test in train: 10 files or records" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize(
    "overrides",
    [
        {"precision": "bf16", "task__model__remat": True, "task__model__norm": "group"},
        {
            "task__model__latent": "map",
            "optimizer__accumulate_steps": 2,
            "optimizer__ema_decay": 0.5,
            "optimizer__name": "adamw",
            "optimizer__clip_norm": 1.0,
        },
        {"data__cache": "device", "training__steps_per_call": 2, "training__compiler": "pmap"},
    ],
    ids=lambda overrides: ",".join(overrides),
)
def test_every_option_reduces_the_loss(tmp_path, small_config, overrides):
    config = small_config(**FEW, **overrides)
    train(Experiment.from_dict(config), tmp_path / "run")
    losses = [r["loss"] for r in read_metrics(tmp_path / "run" / METRICS) if "loss" in r]
    assert losses[-1] < losses[0]


@pytest.mark.slow
def test_classifier_learns(tmp_path, digits_dir):
    config = load_config("experiments/recognition/digits_classifier.py")
    config["data"]["data_dir"] = digits_dir
    config["task"]["model"]["features"] = (8, 8)
    config["optimizer"]["warmup_steps"] = 5
    rhythm = dict.fromkeys(("num_steps", "eval_every", "save_every"), 60) | {"log_every": 10}
    config["training"] |= rhythm | {"batch_size": 32}
    result = train(Experiment.from_dict(config), tmp_path / "run")
    # Chance level is 0.1.
    assert result["metrics"]["test"]["accuracy"] > 0.5
    assert evaluate(tmp_path / "run")["metrics"] == result["metrics"]["test"]


@pytest.fixture
def folder_config(tmp_path, small_config):
    """Config of an autoencoder on seven small image files."""
    folder = tmp_path / "images"
    folder.mkdir()
    for i in range(7):
        pixels = np.random.default_rng(i).integers(0, 256, (32, 32), np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")
    splits = {"train_split": "all[:4]", "validation_split": "all[4:5]", "test_split": "all[5:]"}
    data = {"source": {"name": "folder", "path": str(folder), "color": "gray"}, **splits}
    return small_config(data=data, training__batch_size=8)


@pytest.mark.slow
def test_run_resumes_only_with_the_same_image_files(
    tmp_path, train_until, folder_config, last_state, assert_trees_equal
):
    experiment, folder = Experiment.from_dict(folder_config), tmp_path / "images"
    whole = train(experiment, tmp_path / "whole")
    assert whole["data"]["train"]["files"] == whole["counts"]["train"] == 4
    train_until(experiment, tmp_path / "run", 4)

    (folder / "0.png").rename(tmp_path / "0.png")
    with pytest.raises(InputError, match="training data changed since the checkpoint") as raised:
        train(experiment, tmp_path / "run")
    # One of the first four files is missing, so the next file moves into the slice.
    assert "names_and_sizes: " in str(raised.value)
    assert "examples: " not in str(raised.value)
    assert not (tmp_path / "run" / RESULT).exists()

    (tmp_path / "0.png").rename(folder / "0.png")
    assert train(experiment, tmp_path / "run")["resumed_at_step"] == 4
    assert_trees_equal(last_state(tmp_path / "run"), last_state(tmp_path / "whole"))
