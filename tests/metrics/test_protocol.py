"""Evaluation protocols against reference evaluation code in NumPy and published results."""

import math
import os
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import config as jaxtyping_config
from PIL import Image
from skimage.color import rgb2ycbcr
from skimage.metrics import structural_similarity

from deconv_jax.errors import InputError
from deconv_jax.metrics.masked_mean import masked_sums, mean_over
from deconv_jax.metrics.protocol import EvaluationProtocol, mean_of_rows
from deconv_jax.ops.color import rgb_to_y_uint8
from deconv_jax.ops.resize import imresize

RANDOM = np.random.default_rng(0)
STORED = RANDOM.integers(0, 256, (3, 24, 28, 3), np.uint8)
TARGET = jnp.asarray(STORED / 255, jnp.float32)
OUTPUT = TARGET + jnp.asarray(0.2 * RANDOM.standard_normal(TARGET.shape), jnp.float32)
PIXELS = np.clip(np.floor(255 * np.asarray(OUTPUT, np.float64) + 0.5), 0, 255)
"""The output as an 8-bit file stores it."""


def psnr_ssim_255(a, b):
    """Compute PSNR and SSIM of arrays in [0, 255] as common evaluation code does."""
    a, b = (np.float64(x).reshape(*x.shape[:2], -1) for x in (a, b))
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    _, window_values = structural_similarity(
        a, b, data_range=255, channel_axis=-1, full=True, **options
    )
    psnr = 10 * math.log10(255**2 / np.mean((a - b) ** 2))
    return psnr, window_values[5:-5, 5:-5].mean()


def assert_measured(protocol, output, target, expected):
    measured = jax.jit(protocol.measure)(output, target)
    assert sorted(measured) == ["psnr", "ssim"]
    psnr, ssim = np.transpose(list(expected))
    np.testing.assert_allclose(measured["psnr"], psnr, rtol=0, atol=1e-4)
    np.testing.assert_allclose(measured["ssim"], ssim, rtol=0, atol=1e-5)


def test_rgb_is_measured_after_rounding_to_8_bits():
    expected = map(psnr_ssim_255, PIXELS, STORED)
    assert_measured(EvaluationProtocol(), OUTPUT, TARGET, expected)


def test_y_is_converted_from_8_bit_rgb_and_not_rounded():
    """BasicSR and KAIR round, crop and convert in this order."""
    crop = slice(4, -4)
    pairs = zip(PIXELS[:, crop, crop], STORED[:, crop, crop], strict=True)
    expected = [psnr_ssim_255(*(rgb2ycbcr(x / 255)[..., 0] for x in pair)) for pair in pairs]
    assert_measured(EvaluationProtocol(color="y", border=4), OUTPUT, TARGET, expected)


@pytest.mark.parametrize(
    ("output_is_y", "target_is_y"), [(True, True), (True, False), (False, False)]
)
def test_round_y_equals_matlab_on_8_bit_images(output_is_y, target_is_y):
    """SRCNN's code compares both Y in 8 bits with cropped borders."""
    stored_y, crop = rgb_to_y_uint8(STORED), slice(3, -3)
    if output_is_y:
        output = OUTPUT[..., 1:2]
        output_y = PIXELS[..., 1:2]
    else:
        output, output_y = OUTPUT, rgb_to_y_uint8(PIXELS.astype(np.uint8))
    target = jnp.asarray(stored_y / 255, jnp.float32) if target_is_y else TARGET
    expected = map(psnr_ssim_255, output_y[:, crop, crop], stored_y[:, crop, crop])
    assert_measured(EvaluationProtocol(color="y", border=3, round_y=True), output, target, expected)


def test_round_y_gives_integer_levels_and_the_default_does_not():
    prepared = 255 * EvaluationProtocol(color="y", round_y=True).prepare(OUTPUT)
    np.testing.assert_allclose(prepared, np.round(prepared), rtol=0, atol=1e-4)
    fractions = 255 * EvaluationProtocol(color="y").prepare(OUTPUT)
    assert np.abs(fractions - np.round(fractions)).max() > 0.4


def test_output_is_unchanged_without_clipping_and_rounding():
    protocol = EvaluationProtocol(clip=False, round_to_8_bits=False)
    np.testing.assert_array_equal(protocol.prepare(OUTPUT), OUTPUT)
    np.testing.assert_array_equal(protocol.prepare_target(TARGET), TARGET)
    clipped = EvaluationProtocol(round_to_8_bits=False).prepare(OUTPUT)
    np.testing.assert_array_equal(clipped, jnp.clip(OUTPUT, 0, 1))


@pytest.mark.parametrize(
    "protocol", [EvaluationProtocol(), EvaluationProtocol(color="y"), EvaluationProtocol(border=2)]
)
def test_equal_8_bit_images_have_infinite_psnr(protocol):
    every_level = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1).repeat(3, axis=-1)
    stored = (every_level / np.float32(255)).astype(np.float32)
    (row,) = protocol.measure_all([("same", stored[0], stored[0])])
    assert row["psnr"] == np.inf
    jittered = jnp.asarray(stored[0]) + 1e-4
    (row,) = protocol.measure_all([("rounded", jittered, stored[0])])
    assert row["psnr"] == np.inf


def divided(levels):
    return levels.astype(np.float32) / np.float32(255)


def multiplied(levels):
    return levels.astype(np.float32) * np.float32(1 / 255)


@pytest.mark.parametrize(
    ("protocol", "channels"),
    [(EvaluationProtocol(), 3), (EvaluationProtocol(), 1), (EvaluationProtocol(color="y"), 3)],
)
def test_psnr_of_equal_levels_is_infinite_for_any_conversion_to_float(protocol, channels):
    levels = STORED[..., :channels].copy()
    target = divided(levels)
    levels[1, 5, 6, -1] ^= 1
    psnr = jax.jit(protocol.measure)(multiplied(levels), target)["psnr"]
    np.testing.assert_array_equal(np.isinf(psnr), [True, False, True])
    assert 60 < psnr[1] < 100


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_output_with_infinity_or_nan_has_nan_metrics(value):
    measured = jax.jit(EvaluationProtocol().measure)(OUTPUT.at[1, 5, 6, 0].set(value), TARGET)
    for values in measured.values():
        np.testing.assert_array_equal(np.isnan(values), [False, True, False])


def test_16_bit_targets_are_not_rounded():
    target = jnp.arange(30_000, 30_256).reshape(1, 16, 16, 1) / jnp.float32(65535)
    np.testing.assert_allclose(EvaluationProtocol().prepare_target(target), target, rtol=1e-7)


def test_halves_are_rounded_up_and_targets_are_not_rounded():
    levels = jnp.array([-3.0, 0.5, 1.5, 2.5, 254.5, 300.0]).reshape(1, 6, 1, 1) / 255
    prepared = 255 * EvaluationProtocol().prepare(levels)
    np.testing.assert_allclose(prepared.ravel(), [0, 1, 2, 3, 255, 255], atol=1e-4)
    np.testing.assert_array_equal(EvaluationProtocol().prepare_target(levels), levels)
    quarter = jnp.full(TARGET.shape, 100.25 / 255)
    psnr = jax.jit(EvaluationProtocol().measure)(quarter, quarter)["psnr"]
    np.testing.assert_allclose(psnr, 20 * np.log10(255 / 0.25), rtol=0, atol=1e-3)


def test_bfloat16_is_measured_in_float32():
    prepared = EvaluationProtocol().prepare(OUTPUT.astype(jnp.bfloat16))
    assert prepared.dtype == jnp.float32
    np.testing.assert_allclose(255 * prepared, np.round(255 * prepared), rtol=0, atol=1e-4)


@pytest.mark.parametrize("color", ["rgb", "y"])
def test_padded_image_has_the_metrics_of_the_image(color):
    """The border is cropped from the image, not from the padded array."""
    protocol = EvaluationProtocol(color=color, border=2)
    measure = jax.jit(protocol.measure)
    alone = measure(OUTPUT, TARGET)
    edges = ((0, 0), (0, 9), (0, 5), (0, 0))
    padded = (jnp.pad(OUTPUT, edges), jnp.pad(TARGET, edges, constant_values=1))
    size = jnp.tile(jnp.array([[24, 28]]), (3, 1))
    together = measure(*padded, size)
    for name, values in alone.items():
        np.testing.assert_allclose(together[name], values, rtol=1e-5)


def test_rows_sharded_batches_and_vmap_have_the_same_mean():
    """Compare single images of any size, masked batches over a mesh of devices, and a vmap."""
    protocol = EvaluationProtocol(color="y", border=1)
    names = ["first", "second", "third"]
    rows = protocol.measure_all(zip(names, np.asarray(OUTPUT), np.asarray(TARGET), strict=True))
    assert [row["name"] for row in rows] == names
    expected = mean_of_rows(rows)
    assert expected["psnr"] == pytest.approx(np.mean([row["psnr"] for row in rows]))

    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    split = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    padded = {
        "output": np.pad(OUTPUT, ((0, 5), *[(0, 0)] * 3)),
        "target": np.pad(TARGET, ((0, 5), *[(0, 0)] * 3)),
        "mask": np.array([1.0] * 3 + [0.0] * 5, np.float32),
    }

    @jax.jit
    def sums(batch):
        return masked_sums(protocol.measure(batch["output"], batch["target"]), batch["mask"])

    assert mean_over([jax.device_put(padded, split)], sums) == pytest.approx(expected, rel=1e-5)
    mapped = jax.jit(jax.vmap(protocol.measure))(OUTPUT[:, None], TARGET[:, None])
    assert {k: float(v.mean()) for k, v in mapped.items()} == pytest.approx(expected, rel=1e-5)


def test_mean_of_no_rows_is_an_error():
    with pytest.raises(InputError, match="no images"):
        mean_of_rows([])


def test_protocol_is_hashable_and_described_in_words():
    assert {EvaluationProtocol(color="y", border=3): 1}[
        EvaluationProtocol(color="y", border=3)
    ] == 1
    words = EvaluationProtocol(color="y", border=3, round_y=True).describe()
    for part in ("PSNR and SSIM", "Y of BT.601", "border of 3 pixels", "clipped", "mean of its"):
        assert part in words
    settings = [
        EvaluationProtocol(),
        EvaluationProtocol(border=1),
        EvaluationProtocol(round_to_8_bits=False),
        EvaluationProtocol(clip=False, round_to_8_bits=False),
        EvaluationProtocol(color="y"),
        EvaluationProtocol(color="y", round_y=True),
    ]
    assert len({protocol.describe() for protocol in settings}) == len(settings)


# Errors


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"color": "Y"}, "no color 'Y'; known are: rgb, y"),
        ({"border": -1}, "border must be at least 0; got -1"),
        ({"clip": False}, "round_to_8_bits requires clip"),
        ({"round_y": True}, "got color='rgb' and round_to_8_bits=True"),
        ({"color": "y", "round_y": True, "round_to_8_bits": False}, "round_to_8_bits=False"),
    ],
)
def test_invalid_settings_are_errors(settings, words, monkeypatch):
    monkeypatch.setattr(jaxtyping_config, "jaxtyping_disable", True)
    with pytest.raises(InputError, match=re.escape(words)):
        EvaluationProtocol(**settings)


def test_images_that_cannot_be_compared_are_errors(monkeypatch):
    monkeypatch.setattr(jaxtyping_config, "jaxtyping_disable", True)
    gray = TARGET[..., :1]
    for protocol, output, target, words in (
        (EvaluationProtocol(), OUTPUT, gray, "of 3 channels cannot be compared with targets of 1"),
        (EvaluationProtocol(color="y"), OUTPUT, gray, "give gray images three equal channels"),
        (EvaluationProtocol(), gray, TARGET, "color='rgb'"),
        (EvaluationProtocol(), OUTPUT[..., :2], OUTPUT[..., :2], "1 or 3 channels"),
        (EvaluationProtocol(), STORED, TARGET, "channels); got uint8 (3, 24, 28, 3)"),
        (EvaluationProtocol(), OUTPUT, STORED, "channels); got uint8 (3, 24, 28, 3)"),
        (EvaluationProtocol(), OUTPUT[0], TARGET[0], "channels); got float32 (24, 28, 3)"),
        (
            EvaluationProtocol(border=12),
            OUTPUT,
            TARGET,
            "12 pixels leaves nothing of an image of 24 x 28",
        ),
        (EvaluationProtocol(border=7), OUTPUT, TARGET, "at least 11 x 11 pixels; got 10 x 14"),
        (EvaluationProtocol(), OUTPUT, TARGET[:, 1:], "(3, 23, 28, 3)"),
    ):
        with pytest.raises(InputError, match=re.escape(words)):
            protocol.measure(output, target)


# Published results


def bicubic(path, factor):
    """Return the name, the bicubic upscaling of the bicubically downscaled Y, and the target."""
    pixels = np.asarray(Image.open(path))
    pixels = pixels[: len(pixels) // factor * factor, : pixels.shape[1] // factor * factor]
    target = jnp.asarray(pixels / 255, jnp.float32)
    y = jnp.asarray(rgb_to_y_uint8(pixels) / 255, jnp.float32)
    return path.stem, imresize(imresize(y, 1 / factor), float(factor)), target


@pytest.mark.slow
@pytest.mark.skipif("DECONV_JAX_DATA" not in os.environ, reason="$DECONV_JAX_DATA is not set")
def test_bicubic_upscaling_of_set5_has_the_published_psnr_and_ssim():
    """The paper of VDSR (arXiv:1511.04587) reports 30.39 dB and 0.8682 at factor 3."""
    paths = sorted(Path(os.environ["DECONV_JAX_DATA"], "set5").glob("*.bmp"))
    assert len(paths) == 5
    protocol = EvaluationProtocol(color="y", border=3, round_y=True)
    means = mean_of_rows(protocol.measure_all(bicubic(path, 3) for path in paths))
    assert means["psnr"] == pytest.approx(30.39, abs=0.01)
    assert means["ssim"] == pytest.approx(0.8682, abs=0.001)
