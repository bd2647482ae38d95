"""Compressed files: round trips, device-independent bytes, and one clear error for any damage."""

import functools
import os
import subprocess
import sys
import zlib
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deconv_jax.errors import InputError
from deconv_jax.inference.compression import codec as codec_module
from deconv_jax.inference.compression.codec import Codec
from deconv_jax.inference.compression.coding_tables import CodingTables, load_tables, save_tables
from deconv_jax.models import FactorizedCodec, HyperpriorCodec

MODELS = {"factorized": FactorizedCodec, "hyperprior": HyperpriorCodec}


def make_codec(kind, channels=3, latent_features=6, features=4, **options):
    """Return a codec of random weights whose prior is as wide as its latents."""
    model = MODELS[kind](channels, features, latent_features, initial_gains=(0.125, 0.2))
    image = jnp.zeros((1, 64, 64, channels))
    shapes = jax.eval_shape(model.init, jax.random.key(0), image, jnp.zeros(1, int))
    random = np.random.default_rng(0)

    def fill(path, leaf):
        name = jax.tree_util.keystr(path)
        if "kernel" in name:
            small = 0.1 if "hyper_up_2" in name else 1.0
            fan_in = np.prod(leaf.shape[:-1])
            return random.normal(0, small * fan_in**-0.5, leaf.shape).astype(np.float32)
        if "gain" in name:
            logs = np.log(model.initial_gains)[:, None] * (-1 if "inverse" in name else 1)
            return np.broadcast_to(logs, leaf.shape).astype(np.float32)
        if "gamma" in name:
            return (0.1 * np.eye(leaf.shape[0]) ** 0.5).astype(np.float32)
        if "beta" in name or "hyper_up_2" in name:
            return np.ones(leaf.shape, np.float32)
        if "matrix" in name:  # Makes the prior tens of integers wide.
            return random.uniform(-1.6, -1.2, leaf.shape).astype(np.float32)
        return random.uniform(-0.5, 0.5, leaf.shape).astype(np.float32)

    return Codec(model, jax.tree_util.tree_map_with_path(fill, shapes), **options)


@pytest.fixture(scope="module", params=MODELS)
def codec(request):
    return make_codec(request.param)


def draw_image(height, width, channels=3, seed=0):
    """Return an image with edges, gradients and noise."""
    random = np.random.default_rng(seed)
    rows, columns = np.mgrid[:height, :width]
    waves = [np.sin(rows / 9 + c) + np.cos(columns / (7 + c)) for c in range(channels)]
    image = 128 + 40 * np.stack(waves, -1) + random.normal(0, 8, (height, width, channels))
    image[height // 3 : height // 2] *= 0.5
    return np.clip(image, 0, 255).astype(np.uint8)


@functools.partial(jax.jit, static_argnames=("model", "method"))
def applied(model, variables, *arguments, method):
    return model.apply(variables, *arguments, method=method)


def reconstruct(codec, image, level):
    """Apply the networks to the whole image, with the means of the codec's tables."""
    extended = jnp.asarray(codec._pad(image)[None] / np.float32(255))
    levels = jnp.full(1, level)
    apply = functools.partial(applied, codec.model, codec._variables)
    y = apply(extended, levels, method="analyze")
    mean = 0.0
    if codec.tables.normal is not None:
        z = np.rint(apply(y, method="hyper_analyze")[0])
        mean = codec.tables.means_and_table_indices(z)[0].astype(np.float32)[None]
    latents = np.round(np.asarray(y) - mean) + mean
    pixels = apply(latents, levels, method="synthesize")
    return np.asarray(pixels)[0, : image.shape[0], : image.shape[1]]


@pytest.mark.slow
@pytest.mark.parametrize("size", [(64, 64), (37, 90), (1, 1), (130, 17)])
def test_decompressed_images_equal_the_model_output(codec, size):
    image = draw_image(*size)
    for level in (0, 1):
        decoded = codec.decompress(codec.compress(image, level))
        assert (decoded.shape, decoded.dtype) == (image.shape, np.uint8)
        expected = 255 * np.clip(reconstruct(codec, image, level), 0, 1)
        assert np.abs(decoded - expected).max() <= 0.5 + 0.01


@pytest.mark.slow
def test_gray_images_stay_gray(codec):
    image = draw_image(48, 64, 1)
    decoded = codec.decompress(codec.compress(image, 1))
    assert decoded.shape == image.shape
    gray_codec = make_codec("factorized", channels=1)
    assert gray_codec.decompress(gray_codec.compress(image, 0)).shape == image.shape
    with pytest.raises(InputError, match="gray"):
        gray_codec.compress(draw_image(16, 16), 0)


@pytest.mark.slow
def test_tiles_equal_the_whole_image(codec, monkeypatch):
    image = draw_image(192, 320)
    whole = codec.compress(image, 1)
    decoded = codec.decompress(whole)
    monkeypatch.setattr(codec_module, "_TILE", 8)
    assert codec.compress(image, 1) == whole
    assert np.abs(codec.decompress(whole).astype(int) - decoded).max() <= 1


@pytest.mark.slow
@pytest.mark.parametrize("kind", MODELS)
def test_file_size_matches_the_model_probabilities(kind):
    image, codec = draw_image(192, 256), make_codec(kind, latent_features=32)
    for level in (0, 1):
        bits = 8 * len(codec.compress(image, level))
        assert -0.01 < bits / codec.model_bits(image, level) - 1 < 0.01


_SCRIPT = """
import sys, hashlib, contextlib
import jax
sys.path.insert(0, sys.argv[1])
from test_codec import draw_image, make_codec
assert jax.device_count() == int(sys.argv[2])
with jax.disable_jit() if sys.argv[3] == "eager" else contextlib.nullcontext():
    for kind in ("factorized", "hyperprior"):
        codec = make_codec(kind, features=64)
        data = [codec.compress(draw_image(100, 150, seed=s), level) for s in range(4) for level in (0, 1)]
        print(hashlib.sha256(b"".join(data)).hexdigest(), len(b"".join(data)))
"""


@pytest.mark.slow
def test_bytes_do_not_depend_on_devices_or_jit():
    outputs = []
    for devices, mode in ((1, "jit"), (8, "jit"), (1, "eager")):
        flags = f"--xla_force_host_platform_device_count={devices}"
        command = [sys.executable, "-c", _SCRIPT, str(Path(__file__).parent), str(devices), mode]
        completed = subprocess.run(
            command,
            env=os.environ | {"XLA_FLAGS": flags},
            capture_output=True,
            text=True,
            check=True,
        )
        outputs.append(completed.stdout)
    assert outputs[0] == outputs[1] == outputs[2]
    assert len(outputs[0].splitlines()) == 2


def test_files_that_this_codec_did_not_write_are_refused(codec):
    data = codec.compress(draw_image(40, 40), 0)
    other = make_codec("factorized" if isinstance(codec.model, HyperpriorCodec) else "hyperprior")
    cases = {
        b"": "not a .djx",
        b"\x89PNG\r\n\x1a\n" + bytes(100): "not a .djx",
        data[:12]: "not a .djx",
        data[:-1]: "checksum",
        data + b"\0": "checksum",
        data[:3] + b"\x02" + data[4:]: "version 2",
        data[:40] + bytes([data[40] ^ 1]) + data[41:]: "checksum",
    }
    for damaged, message in cases.items():
        with pytest.raises(InputError, match=message):
            codec.decompress(damaged)
    with pytest.raises(InputError, match="another codec: its digest"):
        other.decompress(data)


def with_checksum(codec, body):
    """Return a file with a valid checksum, as an attacker would."""
    return body + zlib.crc32(body, zlib.crc32(codec.digest)).to_bytes(4, "little")


def header(codec, level=0, size=b"\x28\x28"):
    return b"DJX\x01" + codec.digest[:2] + bytes([level]) + size


def test_impossible_headers_are_refused_before_allocation(codec):
    huge = b"\xff\xff\xff\x7f"
    for body, message in {
        header(codec, 2) + bytes(9): "level 2",
        header(codec, size=b"\x00\x28") + bytes(9): "0 x 40",
        header(codec, size=huge * 2): "must have 1 to",
        header(codec, size=b"\x01\x80\x80\x80\x20"): "must have 1 to",
        header(codec, size=b"\x80\x80\x80\x20\x01"): "must have 1 to",
        header(codec, size=b"\xff\xff\xff\xff\xff"): "does not end",
        header(codec, size=b"\xff"): "not a .djx|does not end",
        header(codec, size=b"\xc0\x3e\xc0\x3e") + bytes(40): "cannot hold",
    }.items():
        with pytest.raises(InputError, match=message):
            codec.decompress(with_checksum(codec, body))


def outcome(codec, data):
    """Return the image of a file and "", or None and the error message."""
    try:
        return codec.decompress(data), ""
    except InputError as error:
        return None, str(error)


FUZZED = 6_000


@pytest.mark.slow
def test_fuzzed_files_give_an_error_or_an_image(codec):
    """Flip, cut, insert, overwrite and randomize bytes; half of the files get a valid checksum."""
    random = np.random.default_rng(7)
    small = Codec(codec.model, codec._variables, codec.tables, max_pixels=128 * 64)
    files = [
        small.compress(draw_image(*size, seed=s), s % 2)
        for s, size in enumerate([(40, 40), (64, 20)])
    ]
    refused = decoded = 0
    for number in range(FUZZED // len(MODELS)):
        body = bytearray(files[number % 2][:-4])
        for _ in range(random.integers(1, 4)):
            kind = random.integers(5)
            place = int(random.integers(len(body) or 1))
            if kind == 0 and body:
                body[place % len(body)] ^= 1 << random.integers(8)
            elif kind == 1:
                del body[place:]
            elif kind == 2:
                body[place:place] = random.bytes(random.integers(1, 20))
            elif kind == 3:
                body[place : place + 8] = random.bytes(8)
            else:
                body = bytearray(random.bytes(len(body)))
        fixed = number % 2 == 0
        if fixed and random.integers(2):
            body[:6] = header(small)[:6]
        data = with_checksum(small, bytes(body)) if fixed else bytes(body) + files[0][-4:]
        image, message = outcome(small, data)
        if image is None:
            refused += 1
            assert 0 < len(message) < 300
            assert "\n" not in message
        else:
            decoded += 1
            assert image.dtype == np.uint8
            assert image.shape[0] * image.shape[1] <= 128 * 64
    assert refused > 0.4 * FUZZED / len(MODELS)
    assert decoded > 0.01 * FUZZED / len(MODELS)


def test_invalid_images_and_levels_are_refused(codec):
    with pytest.raises(InputError, match="level must be from 0 to 1"):
        codec.compress(draw_image(16, 16), 2)
    for image in (draw_image(8, 8)[..., 0], draw_image(8, 8) / 255, np.zeros((8, 8, 2), np.uint8)):
        with pytest.raises(InputError, match="uint8"):
            codec.compress(image, 0)
    small = Codec(codec.model, codec._variables, codec.tables, max_pixels=100)
    with pytest.raises(InputError, match="1 to 100 pixels"):
        small.compress(draw_image(11, 10), 0)


@pytest.mark.slow
def test_stored_tables_belong_to_their_weights(codec, tmp_path):
    path = tmp_path / "tables.safetensors"
    assert load_tables(path, codec.model, codec._variables) is None
    save_tables(path, codec.tables, codec._variables)
    again = Codec(codec.model, codec._variables, load_tables(path, codec.model, codec._variables))
    assert again.digest == codec.digest
    data = codec.compress(draw_image(30, 30), 0)
    np.testing.assert_array_equal(again.decompress(data), codec.decompress(data))
    others = jax.tree.map(lambda a: a + 1, codec._variables)
    assert load_tables(path, codec.model, others) is None
    other = make_codec("factorized", channels=1, latent_features=7)
    with pytest.raises(InputError, match="do not fit"):
        CodingTables.from_arrays(codec.tables.to_arrays(), other.model)
    for name, array in codec.tables.to_arrays().items():
        with pytest.raises(InputError, match="lack"):
            CodingTables.from_arrays(codec.tables.to_arrays() | {name: array[None]}, codec.model)
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(InputError, match="delete it"):
        load_tables(path, codec.model, codec._variables)
