"""The overlap of splits is counted by files and records."""

import numpy as np
import pytest
from PIL import Image

from deconv_jax.data.overlap import overlaps
from deconv_jax.data.source_configs import parse_source
from deconv_jax.data.sources import in_memory


@pytest.fixture
def folder(tmp_path):
    """Ten image files."""
    for i in range(10):
        Image.fromarray(np.full((4, 4), i, np.uint8)).save(tmp_path / f"{i}.png")
    return f"folder:{tmp_path}"


def _shared(name, data_dir=None, **splits):
    sources = {split: parse_source(name).open(words, data_dir) for split, words in splits.items()}
    return overlaps({split: source.files for split, source in sources.items()})


def test_shared_files_are_counted_once(folder, tmp_path):
    assert _shared(folder, train="all", validation="all[:1]", test="all[-3:]") == {
        "validation in train": 1,
        "test in train": 3,
    }
    assert _shared(folder, train="all[:8]", test="all[:1]+all[:2]+all[7:]") == {"test in train": 3}
    assert _shared(folder, train="all[:80%]", validation="all[80%:90%]", test="all[90%:]") == {}
    other = tmp_path / "other"
    other.mkdir()
    (other / "link.png").symlink_to(tmp_path / "3.png")
    assert _shared(folder, train="all[2:5]", test=f"folder:{other}") == {"test in train": 1}


@pytest.mark.parametrize("name", ["digits", "stacked_digits"])
def test_shared_records_are_counted(digits_dir, name):
    shared = _shared(name, digits_dir, train="train[:100]", test="train[90:110]+test[:7]")
    assert shared == {"test in train": 10}
    assert _shared(name, digits_dir, train="train", test="test") == {}


def test_source_in_memory_keeps_its_files(folder):
    source = parse_source(folder).open("all[3:]")
    assert in_memory(source).files == source.files
    assert len(source.files) == 7
