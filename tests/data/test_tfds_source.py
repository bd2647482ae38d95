"""TFDS data sets: the embedded digits, MNIST if it is prepared, annotations, and error messages."""

import importlib.util
import os
import shutil
import subprocess
import sys
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deconv_jax.data import tfds_source
from deconv_jax.data.embedded.digits import SPLITS
from deconv_jax.data.source_configs import (
    Digits,
    Tfds,
)
from deconv_jax.data.sources import in_memory
from deconv_jax.data.tfds_source import RecordSource
from deconv_jax.data.views import IGNORED
from deconv_jax.errors import InputError


def message_of(call, *args):
    with pytest.raises(InputError) as raised:
        call(*args)
    return str(raised.value)


@pytest.fixture(scope="module")
def archive():
    """The arrays of the embedded digits."""
    path = resources.files("deconv_jax.data.embedded") / "digits.npz"
    with path.open("rb") as file, np.load(file) as arrays:
        return dict(arrays)


@pytest.mark.parametrize(
    ("split", "count"), [("train", 1257), ("validation", 180), ("test", 360), ("train[:5]", 5)]
)
def test_digits_have_their_counts_shapes_and_dtypes(digits_dir, split, count):
    source = Digits().open(split, digits_dir)
    batch = source.gather(np.array([0, count - 1]))
    assert len(source) == count
    assert set(batch) == {"image", "label"}
    assert (batch["image"].shape, batch["image"].dtype) == ((2, 32, 32, 1), np.uint8)
    assert (batch["label"].shape, batch["label"].dtype) == ((2,), np.int32)


@pytest.mark.parametrize("split", SPLITS)
def test_digits_are_the_archive_enlarged_four_times(digits_dir, archive, split):
    """TFDS shuffles within a split, so both are compared as sets of (image, label).

    The archive has gray levels 0 to 16. The enlargement is repeated here image by image.
    """
    start, stop = SPLITS[split]
    made = in_memory(Digits().open(split, digits_dir)).arrays
    expected = [
        Image.fromarray(np.round(image * 255.0 / 16).astype(np.uint8)).resize((32, 32), 3)
        for image in archive["images"][start:stop]
    ]
    labels = archive["labels"][start:stop]
    ours = sorted((int(k), i.tobytes()) for k, i in zip(made["label"], made["image"], strict=True))
    assert ours == sorted((int(k), i.tobytes()) for k, i in zip(labels, expected, strict=True))
    assert made["image"].min() == 0
    assert made["image"].max() == 255
    np.testing.assert_array_equal(np.bincount(made["label"]), np.bincount(labels))


def test_splits_of_digits_are_a_partition(archive):
    places = np.concatenate([np.arange(*bounds) for bounds in SPLITS.values()])
    np.testing.assert_array_equal(np.sort(places), np.arange(len(archive["images"])))


@pytest.mark.slow
def test_digits_are_prepared_silently_and_without_tensorflow(tmp_path):
    program = (
        "import sys\n"
        "import numpy as np\n"
        "from deconv_jax.data.source_configs import Digits\n"
        f"batch = Digits().open('test', {str(tmp_path)!r}).gather(np.arange(3))\n"
        "print(batch['image'].shape, 'tensorflow' in sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout == "(3, 32, 32, 1) False\n"


@pytest.mark.skipif(
    importlib.util.find_spec("tensorflow") is not None, reason="TensorFlow is installed"
)
def test_a_data_set_whose_definition_imports_tensorflow_names_the_extra(tmp_path):
    with pytest.raises(InputError, match=r"'coco/2017' is not prepared in .*deconv_jax\[prepare\]"):
        tfds_source.open_tfds("coco/2017", "train", str(tmp_path))


def test_prepared_data_set_is_not_changed(digits_dir):
    folder = Digits().prepare(digits_dir)
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert Digits().prepare(digits_dir) == folder
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before
    assert any("array_record" in path.name for path in before)


@pytest.mark.parametrize(
    ("held_in", "data_dir", "expected"),
    [
        (["all/tfds"], None, "all/tfds"),
        (["own", "all/tfds"], None, "own"),
        (["home/tensorflow_datasets"], None, "home/tensorflow_datasets"),
        ([], None, "own"),
        (["all/tfds"], "$DECONV_JAX_DATA", "all/tfds"),
        (["all/tfds"], "$DECONV_JAX_DATA/tfds", "all/tfds"),
        (["all/tfds"], "elsewhere", "elsewhere"),
    ],
)
def test_tfds_folder_is_found(tmp_path, monkeypatch, held_in, data_dir, expected):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TFDS_DATA_DIR", "own")
    monkeypatch.setenv("DECONV_JAX_DATA", "all")
    monkeypatch.setenv("HOME", "home")
    for folder in held_in:
        (tmp_path / folder / "mnist").mkdir(parents=True)
    assert tfds_source._tfds_folder("mnist:3.0.1", data_dir) == Path(expected)


def test_tfds_folder_defaults_to_that_of_all_data(monkeypatch):
    monkeypatch.delenv("TFDS_DATA_DIR", raising=False)
    monkeypatch.setenv("DECONV_JAX_DATA", "/nowhere")
    monkeypatch.setenv("HOME", "/home/nobody")
    assert tfds_source._tfds_folder("mnist", None) == Path("/nowhere/tfds")
    assert tfds_source._tfds_folder("digits", None) == Path("/home/nobody/tensorflow_datasets")


@pytest.mark.parametrize(
    ("name", "meant"), [("digit", "digits"), ("mnits", "mnist"), ("cifar_10:3.0.2", "cifar10")]
)
def test_unknown_data_set_suggests_the_closest_name(tmp_path, name, meant):
    message = message_of(Tfds(name).open, "train", str(tmp_path))
    assert message == f"no data set {name!r}; did you mean {meant!r}?"


def test_name_longer_than_file_names_is_unknown(tmp_path):
    name = "a" * 300
    assert message_of(Tfds(name).open, "train", str(tmp_path)).startswith(f"no data set {name!r}; ")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("mnist:9.9.9", "version 9.9.9, only: 3.0.1"),
        ("mnist/x", "x not found"),
        ("a b", "failed"),
        ("~nobody-of-this-name/x", "failed"),
        ("mnist/" + "a" * 300, "not found"),
    ],
)
def test_invalid_name_is_an_error_with_the_reason(tmp_path, name, reason):
    message = message_of(Tfds(name).open, "train", str(tmp_path))
    assert message.startswith(f"no data set {name!r}: ")
    assert reason in message
    assert len(message.splitlines()) == 1


def test_unprepared_data_set_names_the_command(tmp_path):
    message = message_of(Tfds("mnist").open, "train", str(tmp_path))
    assert message.startswith(f"data set 'mnist' is not prepared in {tmp_path}")
    assert message.endswith(f"; run: deconv-jax prepare mnist --data-dir {tmp_path}")


@pytest.mark.parametrize("opens", [True, False])
def test_data_set_in_another_format_names_the_command(digits_dir, tmp_path, opens):
    """The digits, as if prepared in TFDS's default format."""
    old = tmp_path / "digits" / "1.0.0"
    shutil.copytree(Digits().prepare(digits_dir), old)
    for path in old.glob("*.json"):
        path.write_text(path.read_text().replace("array_record", "tfrecord"))
    folder = str(tmp_path)
    if opens:
        message = message_of(Digits().open, "train", folder)
    else:
        message = message_of(Digits().prepare, folder)
    assert "is stored as tfrecord" in message
    assert message.endswith("with: deconv-jax prepare digits --data-dir DIR")


@pytest.mark.parametrize("split", ["training", "train[:5", "train+nothing"])
def test_unknown_split_lists_the_valid_ones(digits_dir, split):
    message = message_of(Digits().open, split, digits_dir)
    assert f"{split!r}" in message
    assert all(name in message for name in SPLITS)


class Records(list):
    """Decoded examples with the batched access of a TFDS data source."""

    def __getitems__(self, indices):
        return [self[i] for i in indices]


def test_images_of_different_shapes_are_errors():
    source = RecordSource(Records({"image": np.zeros((n, 2, 1), np.uint8)} for n in (3, 4)))
    assert "(3, 2, 1), (4, 2, 1)" in message_of(source.gather, np.arange(2))


def test_data_set_without_labels_returns_only_images():
    source = RecordSource(Records([{"image": np.zeros((3, 2, 1), np.uint8)}] * 2))
    assert set(source.gather(np.arange(2))) == {"image"}


def mnist_dir():
    """Return the TFDS folder in the folder of $DECONV_JAX_DATA."""
    return Path(os.environ.get("DECONV_JAX_DATA", "")) / "tfds"


@pytest.mark.skipif("DECONV_JAX_DATA" not in os.environ, reason="$DECONV_JAX_DATA is not set")
@pytest.mark.parametrize(("split", "count"), [("train", 60_000), ("test", 10_000)])
def test_mnist_has_its_counts_and_margins(split, count):
    source = Tfds("mnist").open(split, str(mnist_dir()))
    assert len(source) == count
    batch = source.gather(np.arange(0, count, count // 500))
    assert (batch["image"].shape[1:], batch["image"].dtype) == ((28, 28, 1), np.uint8)
    # About a tenth of each digit: 50 of 500, five standard deviations (6.7) either way.
    assert (np.abs(np.bincount(batch["label"], minlength=10) - 50) < 34).all()
    # LeCun's digits were centered in a 28x28 field with a margin of 4 pixels around 20x20, by mass.
    assert (batch["image"][:, 0] == 0).mean() > 0.99


def test_tfds_segmentation_masks_count_from_0():
    mask = np.array([[1, 2], [3, 0]], np.uint8)[..., None]
    record = {"image": np.zeros((2, 2, 3), np.uint8), "segmentation_mask": mask, "label": 36}
    batch = RecordSource(Records([record]), canvas=4).gather(np.arange(1))
    np.testing.assert_array_equal(
        batch["segments"][0], (mask[..., 0] - 1).repeat(2, 0).repeat(2, 1)
    )
    assert batch["segments"][0, 3, 3] == IGNORED
    np.testing.assert_array_equal(batch["label"], [36])
    assert "boxes" not in batch
    plain = RecordSource(Records([record])).gather(np.arange(1))
    assert set(plain) == {"image", "label"}


def test_tfds_objects_become_boxes_in_pixels():
    """TFDS returns lists. Crowds of COCO are left out."""

    def record(size, *objects):
        columns = zip(*objects, strict=True) if objects else ([], [], [])
        bbox, label, crowd = map(list, columns)
        bbox = [np.array(edges, np.float32) for edges in bbox]
        image = np.zeros((*size, 3), np.uint8)
        return {"image": image, "objects": {"bbox": bbox, "label": label, "is_crowd": crowd}}

    records = Records(
        [
            record((10, 20), ((0.1, 0.5, 0.6, 1.0), 7, False), ((0.0, 0.0, 1.0, 1.0), 3, True)),
            record((40, 30)),
        ]
    )
    batch = RecordSource(records, canvas=20, max_boxes=2).gather(np.arange(2))
    np.testing.assert_allclose(batch["boxes"][0], [[1, 10, 6, 20], [0, 0, 0, 0]], atol=1e-5)
    np.testing.assert_array_equal(batch["box_class"], [[7, -1], [-1, -1]])
    np.testing.assert_array_equal(batch["size"], [[10, 20], [20, 15]])
    del records[0]["objects"]["is_crowd"]  # VOC does not know it.
    batch = RecordSource(records, canvas=20).gather(np.arange(1))
    np.testing.assert_array_equal(batch["box_class"][0, :3], [7, 3, -1])
    assert batch["boxes"].shape == (1, 100, 4)
