"""Where examples come from: the embedded digits, MNIST if it is there, and errors that help."""

import os
import shutil
import subprocess
import sys
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deconv_jax import schema
from deconv_jax.data import tfds_source
from deconv_jax.data.embedded.digits import SPLITS
from deconv_jax.data.source_configs import (
    SOURCE_CHOICES,
    SOURCES,
    Digits,
    Folder,
    ImageLabel,
    PennFudan,
    Photographs,
    Stacked,
    Tfds,
    parse_source,
)
from deconv_jax.data.sources import ArraySource, StackedSource, in_memory
from deconv_jax.data.tfds_source import RecordSource
from deconv_jax.errors import InputError


@pytest.fixture(scope="module")
def archive():
    """The arrays that the digits are made of."""
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
    """TFDS shuffles within a split: the two are compared as sets of (image, label).

    The archive's gray levels are 0 to 16; the enlargement is done here again, image by image.
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


def test_prepared_data_set_is_not_changed(digits_dir):
    folder = Digits().prepare(digits_dir)
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert Digits().prepare(digits_dir) == folder
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before
    assert any("array_record" in path.name for path in before)


def test_examples_are_gathered_in_any_order_and_repeatedly(digits_dir):
    source = Digits().open("validation", digits_dir)
    order = np.array([7, 0, 7, 179])
    batch, everything = source.gather(order), in_memory(source)
    for name, array in everything.arrays.items():
        np.testing.assert_array_equal(batch[name], array[order])
        np.testing.assert_array_equal(everything.gather(order)[name], array[order])
    assert len(everything) == len(source)
    assert in_memory(everything) is everything
    assert everything.fingerprint == source.fingerprint == {"examples": 180}


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


def message_of(call, *args):
    with pytest.raises(InputError) as raised:
        call(*args)
    return str(raised.value)


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
    """The digits as if they had been prepared in TFDS's default format."""
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


def test_arrays_of_different_lengths_are_errors():
    message = message_of(ArraySource, {"image": np.zeros(3), "label": np.zeros(2)})
    assert "{'image': 3, 'label': 2}" in message


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


# Stacked sets


@pytest.fixture(scope="module")
def stacked(digits_dir):
    """The embedded digits in threes, and the digits themselves."""
    base = in_memory(Digits().open("validation", digits_dir)).arrays
    return Stacked(Digits()).open("validation", digits_dir), base


def test_stacked_channels_are_images_of_the_base_with_their_labels(stacked):
    source, base = stacked
    assert len(source) == len(base["image"]) == 180
    assert source.fingerprint == {"examples": 180}
    batch = source.gather(np.arange(len(source)))
    assert (batch["image"].shape, batch["image"].dtype) == ((180, 32, 32, 3), np.uint8)
    assert (batch["label"].shape, batch["label"].dtype) == ((180,), np.int32)
    assert (batch["digits"].shape, batch["digits"].dtype) == ((180, 3), np.int32)
    digit_of = {
        image.tobytes(): label for image, label in zip(base["image"], base["label"], strict=True)
    }
    rows = zip(batch["image"], batch["label"], batch["digits"], strict=True)
    for image, label, digits in rows:
        expected = [digit_of[image[..., channel].tobytes()] for channel in range(3)]
        assert digits.tolist() == expected
        assert f"{label:03d}" == "".join(map(str, digits))


def test_stacked_images_are_sampled_uniformly_and_independently(stacked):
    """180 images in 540 channels, 171 of them expected; 165 of 1,000 classes in 180 triples."""
    source, base = stacked
    batch = source.gather(np.arange(len(source)))
    digits = np.stack([batch["label"] // 100, batch["label"] // 10 % 10, batch["label"] % 10])
    shares = np.bincount(base["label"]) / 180
    for channel in digits:
        counts = np.bincount(channel, minlength=10)
        assert (np.abs(counts - 180 * shares) < 5 * (180 * shares * (1 - shares)) ** 0.5).all()
    assert 145 < len(np.unique(batch["label"])) <= 180
    images = batch["image"].transpose(0, 3, 1, 2).reshape(540, -1)
    assert 160 < len(np.unique(images, axis=0)) <= 180


def test_stacked_examples_are_deterministic(stacked, digits_dir):
    source, _ = stacked
    again = Stacked(Digits()).open("validation", digits_dir)
    order = np.array([179, 0, 179, 77])
    batch, everything = source.gather(order), again.gather(np.arange(len(again)))
    for name, array in everything.items():
        np.testing.assert_array_equal(batch[name], array[order])


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"image": np.zeros((4, 5, 6, 3), np.uint8), "label": np.arange(4)}, ["(5, 6, 3)"]),
        ({"image": np.zeros((4, 5, 6, 1), np.uint8)}, ["(5, 6, 1)", "without labels"]),
        (
            {"image": np.zeros((4, 5, 6, 1), np.uint8), "label": np.arange(7, 11)},
            ["(5, 6, 1)", "labels up to 10"],
        ),
    ],
)
def test_stacked_sources_require_gray_images_of_ten_classes(arrays, words):
    message = message_of(StackedSource.of, ArraySource(arrays))
    assert message.startswith(
        "a stacked source requires unpadded gray images in ten classes; got images"
    )
    assert [word for word in words if word not in message] == []


def test_errors_of_a_stacked_source_name_its_base(tmp_path):
    message = message_of(Stacked(Tfds("mnist")).open, "train", str(tmp_path))
    assert message.endswith(f"; run: deconv-jax prepare mnist --data-dir {tmp_path}")
    message = message_of(parse_source("stacked_mnits").open, "train", str(tmp_path))
    assert message == "no data set 'mnits'; did you mean 'mnist'?"


# MNIST


def mnist_dir():
    """The TFDS directory in the folder that $DECONV_JAX_DATA names."""
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
    # LeCun's digits were centred in a 28x28 field with a margin of 4 pixels around 20x20, by mass.
    assert (batch["image"][:, 0] == 0).mean() > 0.99


# Short forms


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("digits", Digits()),
        ("photographs", Photographs()),
        ("mnist", Tfds("mnist")),
        ("cifar10:3.0.2", Tfds("cifar10:3.0.2")),
        ("stacked_digits", Stacked(Digits())),
        ("stacked_mnist", Stacked(Tfds("mnist"))),
        ("folder:a:b", Folder("a:b")),
        ("penn_fudan:people", PennFudan("people")),
        ("image_label:cells", ImageLabel("cells")),
    ],
)
def test_short_forms_are_parsed(text, expected):
    source = parse_source(text)
    assert source == expected
    assert str(source) == text


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"name": "tfds"}, "source.dataset is missing"),
        ({"name": "digits", "tile": 8}, "unknown key source.tile"),
        ({"name": "photographs", "canvas": 8}, "unknown key source.canvas"),
        ({"name": "penn_fudan", "path": "x", "tile": 8}, "unknown key source.tile"),
        ({"name": "folder", "path": ""}, "data.source.path must not be empty"),
        ({"name": "folder", "path": "x", "tile": 0}, "data.source.tile must be at least 1; got 0"),
        ({"name": "tfds", "dataset": "x", "canvas": 0}, "data.source.canvas must be at least 1"),
        (
            {"name": "stacked", "base": {"name": "photographs"}},
            "source.base.name: no 'photographs'",
        ),
        ({"name": "mnist"}, "source.name: no 'mnist'"),
    ],
)
def test_invalid_settings_of_a_source_are_errors(settings, words):
    def build():
        cls, fields = schema.choose(SOURCES, settings, "source")
        return schema.build(cls, fields, SOURCE_CHOICES, "source")

    assert words in message_of(build)
