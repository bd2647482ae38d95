"""The script that adds models to the package."""

import dataclasses
import json
from pathlib import Path

import jax
import numpy as np
import pytest

from deconv_jax import zoo
from deconv_jax.config_arguments import load_module
from deconv_jax.errors import InputError
from deconv_jax.workdir import provenance
from deconv_jax.zoo import cards, model

SCRIPT = Path(__file__).parents[2] / "experiments" / "zoo" / "publish.py"


@pytest.fixture(scope="module")
def publish():
    return load_module(SCRIPT)


def test_every_entry_has_a_model_and_every_family_its_variants(publish):
    assert sorted(publish.MODELS) == zoo.names()
    families = {}
    for name, entry in publish.MODELS.items():
        if entry.family:
            families.setdefault(entry.family, set()).add(name)
    assert families == {name: set(variants) for name, variants in zoo.FAMILIES.items()}


def test_published_model_loads_with_its_weights_rounded_to_float16(publish, tmp_path, monkeypatch):
    original = zoo.load("sr-x3")
    precise = jax.tree.map(lambda v: v + np.float32(1e-6), original.variables)
    measured = []

    def measure(trained, _):
        measured.append(trained.variables)
        return [
            {"metric": "PSNR", "unit": "dB", "data": "Set5", "setting": ""}
            | {"value": 30.0, "count": 5, "compared": {}}
        ], "as measured"

    for module in (publish, cards, model):
        monkeypatch.setattr(module, "PACKAGE", tmp_path)
    monkeypatch.setenv("DECONV_JAX_DATA", str(tmp_path))
    entry = dataclasses.replace(publish.MODELS["sr-x3"], measure=measure)
    monkeypatch.setitem(publish.MODELS, "sr-x3", entry)
    run = {"step": 10, "counts": {"train": 91}, "wall_time_s": 90.0, "earlier": []}
    run |= provenance()
    publish.publish("sr-x3", original.experiment, precise, original.card["inputs"], run)

    assert zoo.names() == ["sr-x3"]
    loaded = zoo.load("sr-x3")
    expected = jax.tree.map(lambda v: v.astype(np.float16).astype(np.float32), precise)
    jax.tree.map(np.testing.assert_array_equal, loaded.variables, expected)
    jax.tree.map(np.testing.assert_array_equal, loaded.variables, measured[0])
    assert loaded.card["training"]["steps"] == 10
    assert loaded.card["figures"][0]["compared"] == {"paper": 33.06}
    assert loaded.card["training"]["data"][0]["name"].startswith("T91")
    assert str(tmp_path) not in json.dumps(loaded.card)


def test_time_of_a_resumed_run_is_that_of_all_its_steps(publish, tmp_path):
    rows = [
        {"step": 10, "split": "train", "first_call_seconds": 7.0},
        {"step": 10, "split": "validation", "psnr": 30.0},
        {"step": 30, "split": "train", "images_per_second": 40.0},
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = {"wall_time_s": 3.0, "step": 30, "config": {"training": {"batch_size": 16}}}
    assert publish.training_time(tmp_path, result | {"resumed_at_step": 20}) == 7.0 + 20 * 16 / 40
    assert publish.training_time(tmp_path, result | {"resumed_at_step": 0}) == 3.0


def test_trainings_behind_initial_weights_are_listed_in_their_order(publish, tmp_path):
    def run(name, batch_size, init_from):
        folder = tmp_path / name
        folder.mkdir()
        config = {"training": {"batch_size": batch_size}, "init_from": init_from}
        rows = [{"step": n, "split": "train", "images_per_second": 8.0} for n in (10, 20)]
        (folder / "config.json").write_text(json.dumps(config))
        (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        return str(folder)

    def copied(source, step):
        return {"kind": "run", "source": source, "step": step}

    first = run("first", 16, None)
    second = run("second", 4, first)
    result = {"initial_weights": copied(first, 10)}
    (tmp_path / "second" / "result.json").write_text(json.dumps(result))
    assert publish.earlier_trainings(None) == []
    assert publish.earlier_trainings(copied(second, 20)) == [
        {"steps": 10, "batch_size": 16, "wall_time_s": 20.0},
        {"steps": 20, "batch_size": 4, "wall_time_s": 10.0},
    ]
    card = zoo.card("sr-x3")
    model = {"kind": "model", "source": "sr-x3", "sha256": card["sha256"]}
    (training,) = publish.earlier_trainings(model)
    assert training["steps"] == card["training"]["steps"]
    with pytest.raises(InputError, match="sr-x3 have changed"):
        publish.earlier_trainings(model | {"sha256": ""})
    with pytest.raises(InputError, match=r"a\.pth is unknown"):
        publish.earlier_trainings({"kind": "file", "source": "a.pth"})
