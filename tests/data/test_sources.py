"""Sources: the embedded digits, TFDS data sets, stacked images, short forms, and error messages."""

import numpy as np
import pytest

from deconv_jax.data.source_configs import (
    Digits,
    Stacked,
    Tfds,
    parse_source,
)
from deconv_jax.data.sources import ArraySource, StackedSource, in_memory
from deconv_jax.errors import InputError


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


def message_of(call, *args):
    with pytest.raises(InputError) as raised:
        call(*args)
    return str(raised.value)


def test_arrays_of_different_lengths_are_errors():
    message = message_of(ArraySource, {"image": np.zeros(3), "label": np.zeros(2)})
    assert "{'image': 3, 'label': 2}" in message


@pytest.fixture(scope="module")
def stacked(digits_dir):
    """The embedded digits in stacks of three, and the digits themselves."""
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
    """180 images in 540 channels, 171 of them expected; 165 of 1,000 classes in 180 stacks."""
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
