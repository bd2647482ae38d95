"""Folders of pairs: inputs and targets at the same place, their sizes, and splits."""

import numpy as np
import pytest
from PIL import Image

from deconv_jax.data.config import Data
from deconv_jax.data.source_configs import Pairs
from deconv_jax.errors import InputError
from deconv_jax.experiment import Experiment
from deconv_jax.train import evaluate, train

SIZES = {"a": (20, 14), "b": (9, 16), "sub/c": (12, 12), "d": (7, 5)}


def save(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def write_pairs(root, scale=2, names=SIZES):
    """Write pairs whose target is the input enlarged by repetition."""
    random = np.random.default_rng(0)
    for name in names:
        small = random.integers(0, 256, (*SIZES[name], 3), np.uint8)
        save(root / "input" / f"{name}.bmp", small)
        save(root / "target" / f"{name}.png", small.repeat(scale, axis=0).repeat(scale, axis=1))
    return root


@pytest.mark.parametrize(("scale", "tile"), [(1, None), (1, 7), (3, None), (3, 18)])
def test_inputs_and_targets_are_cut_at_the_same_place(tmp_path, scale, tile):
    source = Pairs(str(write_pairs(tmp_path, scale)), tile=tile).open("all")
    assert source.scale == scale
    assert source.names == ("target/a.png", "target/b.png", "target/d.png", "target/sub/c.png")
    batch = source.gather(np.arange(len(source)))
    for target, given, size in zip(batch["image"], batch["input"], batch["size"], strict=True):
        height, width = size
        enlarged = given.repeat(scale, axis=0).repeat(scale, axis=1)
        assert enlarged.shape == target.shape
        np.testing.assert_array_equal(enlarged[:height, :width], target[:height, :width])
    if tile is None:
        assert batch["input"].shape[1:3] == (32, 16)
        assert [tuple(n // scale for n in size) for size in batch["size"].tolist()] == [
            SIZES[name] for name in ("a", "b", "d", "sub/c")
        ]
    else:
        assert batch["image"].shape[1:3] == (tile, tile)
        assert len(source) > len(SIZES)


def test_every_mismatch_is_listed(tmp_path):
    root = write_pairs(tmp_path)
    (root / "input" / "a.bmp").rename(root / "input" / "e.bmp")
    save(root / "input" / "d.png", np.zeros((7, 5, 3), np.uint8))
    save(root / "target" / "b.png", np.zeros((18, 33, 3), np.uint8))
    with pytest.raises(InputError) as raised:
        Pairs(str(root)).open("all")
    assert str(raised.value).splitlines() == [
        f"4 mismatches between input and target in {root}:",
        "  target/a.png has no input",
        "  input/d.bmp and input/d.png have the same name",
        "  input/e.bmp has no target",
        "  target/b.png has 33 x 18 pixels, not 2 times the 16 x 9 pixels of its input",
    ]


def test_random_splits_are_splits_of_pairs(tmp_path):
    data = Data(Pairs(str(write_pairs(tmp_path)))).with_splits()
    splits = [data.open(split) for split in ("train", "validation", "test")]
    assert [len(split) for split in splits] == [2, 1, 1]
    assert sorted(name for split in splits for name in split.names) == [
        "target/a.png",
        "target/b.png",
        "target/d.png",
        "target/sub/c.png",
    ]


def test_subfolders_are_splits(tmp_path):
    for split, names in (("train", ("a", "sub/c")), ("validation", "b"), ("test", "d")):
        write_pairs(tmp_path / split, names=names)
    data = Data(Pairs(str(tmp_path)))
    assert data.with_splits() == data
    assert data.open("train").names == ("train/target/a.png", "train/target/sub/c.png")
    assert data.open("test").names == ("test/target/d.png",)
    assert len(Pairs(str(tmp_path)).open("all")) == 4


def test_pairs_with_damaged_files_are_left_out_with_a_warning(tmp_path, capsys):
    root = write_pairs(tmp_path)
    (root / "input" / "b.bmp").write_bytes(b"")
    assert len(Data(Pairs(str(root)), train_split="all").open("train")) == 3
    said = capsys.readouterr().err
    assert "left out of the train split: 1\n" in said
    assert "input/b.bmp" in said


def test_invalid_folders_and_tiles_are_errors(tmp_path):
    root = write_pairs(tmp_path / "pairs", scale=3)
    with pytest.raises(InputError, match="tile must be a multiple of the pairs' scale 3; got 8"):
        Pairs(str(root), tile=8).open("all")
    for folder, said in (("input", "no folder .*input"), ("target", "no image files in a folder")):
        (root / folder).rename(root / f"{folder}s")
        with pytest.raises(InputError, match=said):
            Pairs(str(root)).open("all")


@pytest.mark.slow
def test_tiles_of_pairs_on_the_device_are_trained_and_evaluated(tmp_path):
    model = {"name": "fsrcnn", "scale": 2, "d": 4, "s": 2, "m": 0}
    config = {
        "task": {"name": "restoration", "model": model, "degradation": None, "crop": 8},
        "data": {
            "source": {
                "name": "pairs",
                "path": str(write_pairs(tmp_path / "pairs")),
                "tile": 12,
                "color": "gray",
            },
            "cache": "device",
        },
        "training": {"num_steps": 2, "batch_size": 8, "eval_every": 2, "save_every": 2},
    }
    result = train(Experiment.from_dict(config), tmp_path / "run")
    assert result["counts"]["test"] == 1
    assert result["data"]["train"]["files"] == 4  # Two inputs and two targets.
    assert "given inputs" in result["protocol"]
    assert result["baseline"]["test"]["input_psnr"] > 0
    assert evaluate(tmp_path / "run")["metrics"] == result["metrics"]["test"]
    assert len(list((tmp_path / "run" / "pictures").iterdir())) == 2
