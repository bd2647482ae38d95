"""Crops of textures: the same in every run, inside the photographs, equally many of each."""

import numpy as np
import pytest
from PIL import Image

from deconv_jax.data.source_configs import Textures, parse_source
from deconv_jax.errors import InputError


@pytest.fixture
def folder(tmp_path):
    random = np.random.default_rng(0)
    for name, size in (("a", (40, 24)), ("b", (20, 20))):
        Image.fromarray(random.integers(0, 256, (*size, 3), np.uint8)).save(
            tmp_path / f"{name}.png"
        )
    return tmp_path


def test_crops_are_parts_of_the_photographs_in_turn(folder):
    source = Textures(("a.png", "b.png"), side=16, count=9).open("train", str(folder))
    batch = source.gather(np.arange(9))
    assert (batch["image"].shape, batch["image"].dtype) == ((9, 16, 16, 3), np.uint8)
    np.testing.assert_array_equal(batch["label"], np.arange(9) % 2)
    for crop, label in zip(batch["image"], batch["label"], strict=True):
        whole = np.asarray(Image.open(folder / f"{'ab'[label]}.png"))
        windows = np.lib.stride_tricks.sliding_window_view(whole, (16, 16, 3))[:, :, 0]
        assert (windows == crop).all(axis=(2, 3, 4)).any()
    np.testing.assert_array_equal(source.gather(np.array([7, 2]))["image"], batch["image"][[7, 2]])


def test_crops_depend_on_the_split_only(folder):
    config = Textures(("a.png",), side=16, count=8, color="gray")
    first, again, other = (config.open(split, str(folder)) for split in ("train", "train", "test"))
    rows = np.arange(8)
    np.testing.assert_array_equal(first.gather(rows)["image"], again.gather(rows)["image"])
    assert not np.array_equal(first.gather(rows)["image"], other.gather(rows)["image"])
    assert first.fingerprint == again.fingerprint != other.fingerprint
    assert first.files == other.files


def test_embedded_textures_open_by_name():
    source = Textures(("brick", "grass", "gravel"), side=64, count=3, color="gray").open("test")
    assert source.gather(np.arange(3))["image"].shape == (3, 64, 64, 1)


@pytest.mark.parametrize(
    ("config", "split", "message"),
    [
        (Textures(("b.png",), side=32), "train", "20 x 20 pixels, fewer than crops of 32 x 32"),
        (Textures(("c.png",)), "train", "c.png"),
        (Textures(("a.png",), side=16), "all", "textures have no split 'all'"),
    ],
)
def test_errors_name_the_photograph_or_the_split(folder, config, split, message):
    with pytest.raises(InputError) as raised:
        config.open(split, str(folder))
    assert message in str(raised.value)


def test_no_photograph_is_an_error():
    with pytest.raises(InputError, match=r"number of data.source.images must be at least 1"):
        parse_source("textures:")
