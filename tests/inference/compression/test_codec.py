"""Files of a codec: images come back, bytes do not depend on devices, damage is told and nothing else."""

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
from deconv_jax.inference.compression import codec as module
from deconv_jax.inference.compression.codec import Codec
from deconv_jax.inference.compression.coding_tables import CodingTables, load_tables, save_tables
from deconv_jax.models import FactorizedCodec, HyperpriorCodec

MODELS = {"factorized": FactorizedCodec, "hyperprior": HyperpriorCodec}


def made(kind, channels=3, latent_features=6, features=4, **options):
    """A codec of random weights whose latents are as wide as it takes them to be."""
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
        if "matrix" in name:  # a prior some tens wide
            return random.uniform(-1.6, -1.2, leaf.shape).astype(np.float32)
        return random.uniform(-0.5, 0.5, leaf.shape).astype(np.float32)

    return Codec(model, jax.tree_util.tree_map_with_path(fill, shapes), **options)


@pytest.fixture(scope="module", params=MODELS)
def codec(request):
    return made(request.param)


def picture(height, width, channels=3, seed=0):
    """Something with edges, slopes and noise."""
    random = np.random.default_rng(seed)
    rows, columns = np.mgrid[:height, :width]
    waves = [np.sin(rows / 9 + c) + np.cos(columns / (7 + c)) for c in range(channels)]
    image = 128 + 40 * np.stack(waves, -1) + random.normal(0, 8, (height, width, channels))
    image[height // 3 : height // 2] *= 0.5
    return np.clip(image, 0, 255).astype(np.uint8)


@functools.partial(jax.jit, static_argnames=("model", "method"))
def applied(model, variables, *arguments, method):
    return model.apply(variables, *arguments, method=method)


def decoded_by_the_model(codec, image, level):
    """The networks on the whole image, with the means that the tables give."""
    extended = jnp.asarray(codec._extended(image)[None] / np.float32(255))
    levels = jnp.full(1, level)
    apply = functools.partial(applied, codec.model, codec._variables)
    y = apply(extended, levels, method="analyze")
    mean = 0.0
    if codec.tables.normal is not None:
        z = np.rint(apply(y, method="hyper_analyze")[0])
        mean = codec.tables.means_and_tables(z)[0].astype(np.float32)[None]
    latents = np.round(np.asarray(y) - mean) + mean
    pixels = apply(latents, levels, method="synthesize")
    return np.asarray(pixels)[0, : image.shape[0], : image.shape[1]]


@pytest.mark.slow
@pytest.mark.parametrize("size", [(64, 64), (37, 90), (1, 1), (130, 17)])
def test_images_of_any_size_come_back_as_the_model_decodes_them(codec, size):
    image = picture(*size)
    for level in (0, 1):
        decoded = codec.decompress(codec.compress(image, level))
        assert (decoded.shape, decoded.dtype) == (image.shape, np.uint8)
        expected = 255 * np.clip(decoded_by_the_model(codec, image, level), 0, 1)
        assert np.abs(decoded - expected).max() <= 0.5 + 0.01


@pytest.mark.slow
def test_gray_images_stay_gray(codec):
    image = picture(48, 64, 1)
    decoded = codec.decompress(codec.compress(image, 1))
    assert decoded.shape == image.shape
    of_gray = made("factorized", channels=1)
    assert of_gray.decompress(of_gray.compress(image, 0)).shape == image.shape
    with pytest.raises(InputError, match="gray"):
        of_gray.compress(picture(16, 16), 0)


@pytest.mark.slow
def test_tiles_give_what_the_whole_image_gives(codec, monkeypatch):
    image = picture(192, 320)
    whole = codec.compress(image, 1)
    decoded = codec.decompress(whole)
    monkeypatch.setattr(module, "_TILE", 8)
    assert codec.compress(image, 1) == whole
    assert np.abs(codec.decompress(whole).astype(int) - decoded).max() <= 1


@pytest.mark.slow
@pytest.mark.parametrize("kind", MODELS)
def test_files_are_as_long_as_the_model_says(kind):
    image, codec = picture(192, 256), made(kind, latent_features=32)
    for level in (0, 1):
        bits = 8 * len(codec.compress(image, level))
        assert -0.01 < bits / codec.model_bits(image, level) - 1 < 0.01


_SCRIPT = """
import sys, hashlib, contextlib
import jax
sys.path.insert(0, sys.argv[1])
from test_codec import made, picture
assert jax.device_count() == int(sys.argv[2])
with jax.disable_jit() if sys.argv[3] == "eager" else contextlib.nullcontext():
    for kind in ("factorized", "hyperprior"):
        codec = made(kind, features=64)
        data = [codec.compress(picture(100, 150, seed=s), level) for s in range(4) for level in (0, 1)]
        print(hashlib.sha256(b"".join(data)).hexdigest(), len(b"".join(data)))
"""


@pytest.mark.slow
def test_one_device_or_eight_compiled_or_not_the_bytes_are_the_same():
    outputs = []
    for devices, how in ((1, "jit"), (8, "jit"), (1, "eager")):
        flags = f"--xla_force_host_platform_device_count={devices}"
        command = [sys.executable, "-c", _SCRIPT, str(Path(__file__).parent), str(devices), how]
        done = subprocess.run(
            command,
            env=os.environ | {"XLA_FLAGS": flags},
            capture_output=True,
            text=True,
            check=True,
        )
        outputs.append(done.stdout)
    assert outputs[0] == outputs[1] == outputs[2]
    assert len(outputs[0].splitlines()) == 2


def test_what_is_no_file_of_this_codec_is_told_so(codec):
    data = codec.compress(picture(40, 40), 0)
    other = made("factorized" if isinstance(codec.model, HyperpriorCodec) else "hyperprior")
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
    with pytest.raises(InputError, match="another codec"):
        other.decompress(data)


def with_checksum(codec, body):
    """What somebody would make who wants to do harm."""
    return body + zlib.crc32(body, zlib.crc32(codec.digest)).to_bytes(4, "little")


def header(codec, level=0, size=b"\x28\x28"):
    return b"DJX\x01" + codec.digest[:2] + bytes([level]) + size


def test_impossible_headers_are_refused_before_anything_is_allocated(codec):
    huge = b"\xff\xff\xff\x7f"
    for body, message in {
        header(codec, 2) + bytes(9): "level 2",
        header(codec, size=b"\x00\x28") + bytes(9): "0 x 40",
        header(codec, size=huge * 2): "pixels here",
        header(codec, size=b"\x01\x80\x80\x80\x20"): "pixels here",
        header(codec, size=b"\x80\x80\x80\x20\x01"): "pixels here",
        header(codec, size=b"\xff\xff\xff\xff\xff"): "does not end",
        header(codec, size=b"\xff"): "not a .djx|does not end",
        header(codec, size=b"\xc0\x3e\xc0\x3e") + bytes(40): "cannot hold",
    }.items():
        with pytest.raises(InputError, match=message):
            codec.decompress(with_checksum(codec, body))


def outcome(codec, data):
    """The image of a file, or what is said of it."""
    try:
        return codec.decompress(data), ""
    except InputError as error:
        return None, str(error)


FUZZED = 6_000


@pytest.mark.slow
def test_fuzzed_files_end_in_one_clear_error_or_an_image(codec):
    """Flipped, cut, lengthened, shuffled and random files, half of them with a checksum that fits."""
    random = np.random.default_rng(7)
    small = Codec(codec.model, codec._variables, codec.tables, max_pixels=128 * 64)
    files = [
        small.compress(picture(*size, seed=s), s % 2) for s, size in enumerate([(40, 40), (64, 20)])
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


def test_images_and_levels_that_do_not_fit_are_refused(codec):
    with pytest.raises(InputError, match="level must be from 0 to 1"):
        codec.compress(picture(16, 16), 2)
    for image in (picture(8, 8)[..., 0], picture(8, 8) / 255, np.zeros((8, 8, 2), np.uint8)):
        with pytest.raises(InputError, match="uint8"):
            codec.compress(image, 0)
    small = Codec(codec.model, codec._variables, codec.tables, max_pixels=100)
    with pytest.raises(InputError, match="1 to 100 pixels"):
        small.compress(picture(11, 10), 0)


@pytest.mark.slow
def test_tables_are_kept_and_belong_to_their_weights(codec, tmp_path):
    path = tmp_path / "tables.safetensors"
    assert load_tables(path, codec.model, codec._variables) is None
    save_tables(path, codec.tables, codec._variables)
    again = Codec(codec.model, codec._variables, load_tables(path, codec.model, codec._variables))
    assert again.digest == codec.digest
    data = codec.compress(picture(30, 30), 0)
    np.testing.assert_array_equal(again.decompress(data), codec.decompress(data))
    others = jax.tree.map(lambda a: a + 1, codec._variables)
    assert load_tables(path, codec.model, others) is None
    other = made("factorized", channels=1, latent_features=7)
    with pytest.raises(InputError, match="do not fit"):
        CodingTables.of_arrays(codec.tables.arrays(), other.model)
    for name, array in codec.tables.arrays().items():
        with pytest.raises(InputError, match="lack"):
            CodingTables.of_arrays(codec.tables.arrays() | {name: array[None]}, codec.model)
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(InputError, match="delete it"):
        load_tables(path, codec.model, codec._variables)
