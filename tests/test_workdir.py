"""Workdirs: which folders and configs are accepted, and damaged files."""

import os
import shutil

import pytest

from deconv_jax.errors import InputError
from deconv_jax.experiment import Experiment
from deconv_jax.io import write_json
from deconv_jax.lock import LOCK, locked
from deconv_jax.train import evaluate, train
from deconv_jax.training.run_log import METRICS
from deconv_jax.workdir import CHECKPOINTS, CONFIG, RESULT, check_workdir, open_workdir

FEW = {
    "data__train_split": "train[:100]",
    "data__validation_split": "validation[:24]",
    "data__test_split": "test[:24]",
}
"""Config overrides for small splits."""


def test_workdir_without_config_is_rejected(tmp_path, small_config):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / METRICS).touch()
    with pytest.raises(InputError, match=r"holds 'metrics.jsonl'.*has no config.json"):
        train(Experiment.from_dict(small_config()), tmp_path / "run")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("thesis.txt", "mine", "is not empty .it holds 'thesis.txt'"),
        ("inputs.json", "{}", "is not empty .it holds 'inputs.json'"),
        ("config.json", '{"editor": "vim"}', "config.json is not the config of a run: "),
        ("config.json", "null", "config.json: it holds null"),
    ],
)
def test_foreign_folder_is_rejected_and_unchanged(tmp_path, small_config, name, content, said):
    (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match=said):
        train(Experiment.from_dict(small_config()), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == content


def test_hidden_files_of_a_killed_run_are_accepted(tmp_path, small_config):
    for name in (LOCK, ".config.json.123.tmp", ".DS_Store"):
        (tmp_path / name).touch()
    check_workdir(tmp_path, Experiment.from_dict(small_config()))


def test_workdir_in_use_cannot_be_trained_but_evaluated(tmp_path, finished, small_config):
    workdir = shutil.copytree(finished[0], tmp_path / "run")
    (workdir / RESULT).unlink()
    before = sorted(workdir.rglob("*"))
    with locked(workdir):
        with pytest.raises(InputError, match=f"{workdir} is in use by process {os.getpid()} on "):
            train(Experiment.from_dict(small_config()), workdir)
        assert evaluate(workdir)["metrics"] == finished[1]["metrics"]["test"]
    assert sorted(workdir.rglob("*")) == before


def test_damaged_result_names_the_remedy(tmp_path, finished, small_config):
    workdir = shutil.copytree(finished[0], tmp_path / "run")
    for content, said in (("{}", "remove it and run the same command"), ("null", "it holds null")):
        (workdir / RESULT).write_text(content)
        with pytest.raises(InputError, match=said):
            train(Experiment.from_dict(small_config()), workdir)
    (workdir / RESULT).unlink()
    assert train(Experiment.from_dict(small_config()), workdir)["metrics"] == finished[1]["metrics"]


def test_checkpoint_of_another_config_is_rejected(tmp_path, finished, small_config):
    workdir = shutil.copytree(finished[0], tmp_path / "run")
    (workdir / RESULT).unlink()
    other = small_config(optimizer__learning_rate=0.5)
    write_json(workdir / CONFIG, Experiment.from_dict(other).to_dict())
    said = r"checkpoint of step 8 belongs .*\n.*learning_rate: 0.003 -> 0.5"
    with pytest.raises(InputError, match=said):
        train(Experiment.from_dict(other), workdir)


@pytest.mark.slow
def test_config_may_change_before_the_first_checkpoint(tmp_path, monkeypatch, small_config):
    """A config that failed before anything was saved can be corrected."""
    broken, corrected = (
        Experiment.from_dict(small_config(**FEW, task__model__latent_dim=n)) for n in (5, 6)
    )

    def fail(*_, **__):
        raise InputError("does not work")

    with monkeypatch.context() as patch:
        patch.setattr("deconv_jax.train.fit", fail)
        with pytest.raises(InputError, match="does not work"):
            train(broken, tmp_path / "run")
    result = train(corrected, tmp_path / "run")
    assert result["config"] == open_workdir(tmp_path / "run").to_dict() == corrected.to_dict()
    with pytest.raises(InputError, match="belongs to a run with another config"):
        train(broken, tmp_path / "run")
    # The result still belongs to its config when the checkpoints are deleted.
    shutil.rmtree(tmp_path / "run" / CHECKPOINTS)
    with pytest.raises(InputError, match="belongs to a run with another config"):
        train(broken, tmp_path / "run")
