"""Named models load, fit their cards, and are found by name and properties."""

import hashlib
import json
import re

import jax
import numpy as np
import pytest

from deconv_jax import zoo
from deconv_jax.errors import InputError
from deconv_jax.zoo import cards, model


@pytest.mark.parametrize("name", zoo.names())
def test_card_describes_its_file(name):
    card = zoo.card(name)
    data = (cards.PACKAGE / card["file"]).read_bytes()
    assert card["name"] == name
    assert card["sha256"] == hashlib.sha256(data).hexdigest()
    assert card["bytes"] == len(data)
    assert "/" not in str(card["config"]["data"]["data_dir"]), "a path of one machine"


@pytest.mark.slow
@pytest.mark.parametrize("name", zoo.names())
def test_model_is_that_of_its_card(name):
    model = zoo.load(name)
    assert {leaf.dtype for leaf in jax.tree.leaves(model.variables)} == {np.dtype(np.float32)}
    parameters = jax.tree.leaves(model.variables["params"])
    assert sum(leaf.size for leaf in parameters) == model.card["parameters"]
    assert model.card["task"] == model.card["config"]["task"]["name"]


def test_all_weights_are_small():
    files = (cards.PACKAGE / cards.CARDS).glob("*.safetensors")
    assert sum(path.stat().st_size for path in files) <= 12e6


def test_loading_twice_gives_equal_variables():
    first, second = (zoo.load("sr-x3").variables for _ in range(2))
    jax.tree.map(np.testing.assert_array_equal, first, second)


@pytest.mark.parametrize(
    ("name", "properties", "expected"),
    [
        ("denoise", {}, "denoise-color"),
        ("denoise", {"channels": 1}, "denoise-gray"),
        ("jpeg", {"channels": 3, "scale": 1}, "jpeg-color"),
        ("sr", {"scale": 4}, "sr-x4"),
        ("sr-x4", {"scale": 4}, "sr-x4"),
        ("photo", {"channels": 3}, "photo"),
        ("digit-scenes", {}, "digit-scenes-unet"),
    ],
)
def test_properties_select_a_variant(name, properties, expected):
    assert zoo.resolve(name, **properties) == expected


@pytest.mark.parametrize(
    ("name", "properties", "message"),
    [
        ("denois", {}, "no model 'denois'; did you mean 'denoise'?"),
        ("sr", {"scale": 8}, "'sr' is not available with scale=8: sr-x2 has scale=2; sr-x3"),
        ("denoise-gray", {"channels": 3}, "with channels=3: denoise-gray has channels=1"),
    ],
)
def test_unavailable_models_are_errors(name, properties, message):
    with pytest.raises(InputError, match=re.escape(message)):
        zoo.load(name, **properties)


@pytest.fixture
def copied(tmp_path, monkeypatch):
    """A package folder with the weights and the card of one model, which a test may damage."""
    folder = tmp_path / cards.CARDS
    folder.mkdir(parents=True)
    for suffix in ("json", "safetensors"):
        source = cards.PACKAGE / cards.CARDS / f"sr-x3.{suffix}"
        (folder / source.name).write_bytes(source.read_bytes())
    for module in (cards, model):
        monkeypatch.setattr(module, "PACKAGE", tmp_path)
    return folder


def test_damaged_weights_are_an_error(copied):
    path = copied / "sr-x3.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"sr-x3\.safetensors is damaged: its SHA-256 is"):
        zoo.load("sr-x3")


def test_missing_weights_are_an_error(copied):
    (copied / "sr-x3.safetensors").unlink()
    with pytest.raises(InputError, match=r"damaged: zoo/weights/sr-x3\.safetensors is missing"):
        zoo.load("sr-x3")


def test_card_without_a_key_is_an_error(copied):
    path = copied / "sr-x3.json"
    card = json.loads(path.read_text())
    del card["sha256"]
    path.write_text(json.dumps(card))
    with pytest.raises(InputError, match="damaged: it lacks sha256"):
        zoo.load("sr-x3")


def test_weights_of_another_network_are_an_error(copied):
    path = copied / "sr-x3.json"
    card = json.loads(path.read_text())
    card["config"]["task"]["model"]["d"] = 8
    path.write_text(json.dumps(card))
    with pytest.raises(InputError, match=r"does not fit this version .* has the wrong shape"):
        zoo.load("sr-x3")
