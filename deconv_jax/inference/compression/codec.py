"""Images to files and back, by a trained codec.

A file, version 1; integers are unsigned, varints have seven bits a byte, lowest first, the eighth saying
that more follow:

    3 bytes   "DJX"
    1 byte    version, 1
    2 bytes   the first of the model's digest, see `Codec.digest`
    1 byte    level of quality, and 128 for a gray image
    varint    height, pixels
    varint    width, pixels
    ...       numbers as `entropy_coding.Encoder` writes them, little-endian words of 32 bits whose last
              zero bytes, up to eight, are left out: side information channel by channel, then latents
              table by table, each in reading order and followed by the escapes of all; of a codec
              without side information latents channel by channel
    4 bytes   CRC-32 of the model's digest and all before, little-endian

What a reader would get wrong: the pixels that a file decodes to may differ by rounding between machines, as
floats do, but never the numbers in it, on which everything after them depends (`entropy_coding`). On one
machine the same image gives the same bytes, however many devices JAX has there, with or without
`jax.disable_jit`: programs are compiled ahead, for one device and in full precision, and always run as
compiled. Another machine, or another number of cores, may round a latent otherwise when it *writes* a file;
what it has written, all read alike.
"""

import hashlib
import struct
import zlib
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jaxtyping import UInt8

from deconv_jax.compilation import jit
from deconv_jax.errors import InputError
from deconv_jax.inference.compression.coding_tables import (
    CodingTables,
    Latents,
    Tree,
    weights_digest,
)
from deconv_jax.inference.compression.entropy_coding import (
    MOST,
    Decoder,
    Encoder,
    FixedPointLayer,
    FrequencyTables,
)
from deconv_jax.inference.tiling import restore_tiled
from deconv_jax.models.codec import (
    HYPER_STRIDE,
    LATENT_STRIDE,
    FactorizedCodec,
    decoder_receptive_field,
    encoder_receptive_field,
)

Pixels = UInt8[np.ndarray, "height width channels"]

SUFFIX = ".djx"
MAX_PIXELS = 2**26
"""Height times width up to which a file is written or read, unless told otherwise."""

_MAGIC, _VERSION, _GRAY = b"DJX", 1, 128
_CHECKSUM = struct.Struct("<I")
_TILE = 64
"""Latents a side, of 16 pixels each, of what goes through a network at once."""
_DAMAGED = "is damaged or cut off"


class Codec:
    """A trained codec.

    Args:
      model: its networks.
      variables: their weights.
      tables: made of them earlier; made now unless given.
      max_pixels: height times width up to which images are coded and files decoded.

    Raises:
      InputError: for weights that no tables can be made of, or more levels than a file can name.

    Attributes:
      digest: SHA-256 of the weights and the tables. A file is read by the codec that wrote it.
      tables: its tables.
    """

    def __init__(
        self,
        model: FactorizedCodec,
        variables: Tree,
        tables: CodingTables | None = None,
        max_pixels: int = MAX_PIXELS,
    ):
        if model.levels > _GRAY:
            raise InputError(f"a file names up to {_GRAY} levels; the model has {model.levels}")
        self.model, self.max_pixels = model, max_pixels
        self._variables = jax.device_put(variables, jax.local_devices()[0])
        self.tables = tables or CodingTables.of(model, variables)
        digest = hashlib.sha256(weights_digest(variables))
        for name, array in sorted(self.tables.arrays().items()):
            digest.update(name.encode() + np.ascontiguousarray(array).tobytes())
        self.digest = digest.digest()

        def cost(variables: Tree, images: jax.Array, level: jax.Array) -> jax.Array:
            coded: Any = model.apply(variables, images, level)
            return coded.bits + coded.side_bits

        self._cost = jit(cost)
        self._programs: dict[tuple[str, tuple[int, ...]], Callable[..., Any]] = {}

    def compress(self, image: Pixels, level: int) -> bytes:
        """The file of an image.

        Args:
          image: uint8, gray (height, width, 1) or RGB (height, width, 3).
          level: of quality, from 0 to the model's number of levels less one.

        Raises:
          InputError: no such level, no such image, one that is too large, or of colours where the
            model is gray.
        """
        levels = self.model.levels
        if level not in range(levels):
            raise InputError(f"level must be from 0 to {levels - 1} for this codec; got {level}")
        if image.ndim != 3 or image.shape[-1] not in (1, 3) or image.dtype != np.uint8:
            raise InputError(
                f"an image is uint8 (height, width, 1 or 3); got {image.dtype} {image.shape}"
            )
        height, width, channels = image.shape
        if channels > self.model.channels:
            raise InputError("this codec is of gray images; got one of colours")
        if channels < self.model.channels:
            image = np.repeat(image, self.model.channels, axis=-1)
        self._canvas(height, width)
        coder = Encoder()
        self._encode(coder, self._analyzed(image, level))
        gray = _GRAY if channels == 1 else 0
        data = (
            _MAGIC
            + bytes([_VERSION])
            + self.digest[:2]
            + bytes([level | gray])
            + _varint(height)
            + _varint(width)
            + coder.bytes()
        )
        return data + _CHECKSUM.pack(self._checksum(data))

    def decompress(self, data: bytes) -> Pixels:
        """The image of a file.

        Raises:
          InputError: it is no such file, of another codec, damaged, or of an image that is too large.
        """
        height, width, level, gray, payload = self._parsed(data)
        rows, columns = self._canvas(height, width)
        shape = (rows // LATENT_STRIDE, columns // LATENT_STRIDE)
        if 8 * len(payload) < self._least_bits(*shape) - Encoder.SLACK:
            raise InputError(
                f"the file {_DAMAGED}: {len(payload)} bytes cannot hold {height} x {width} pixels"
            )
        latents = self._decode(Decoder(payload), shape)
        pixels = self._synthesized(latents, level)[:height, :width]
        if gray and self.model.channels > 1:
            pixels = pixels.mean(axis=-1, keepdims=True)
        return np.rint(255.0 * np.clip(pixels, 0.0, 1.0)).astype(np.uint8)

    def model_bits(self, image: Pixels, level: int) -> float:
        """What an image costs by the model's own probabilities, without tables and container.

        Images that fit one tile alone: the whole goes through the networks at once.
        """
        repeated = np.repeat(image, self.model.channels // image.shape[-1], axis=-1)
        images = self._extended(repeated)[None] / np.float32(255)
        return float(self._cost(self._variables, images, np.full(1, level))[0])

    def _encode(self, coder: Encoder, y: Latents) -> None:
        if self.tables.normal is None:
            coder.put(_by_channel(_whole(y)), self.tables.prior)
            return
        z = _whole(self._run("hyper_analyze", y), FixedPointLayer.MOST_VALUE)
        coder.put(_by_channel(z), self.tables.prior)
        mean, places = self.tables.means_and_tables(z)
        order, counts = _by_table(places, len(self.tables.normal))
        coder.put(np.split(_whole(y - mean).ravel()[order], counts), self.tables.normal)

    def _decode(self, coder: Decoder, shape: tuple[int, int]) -> Latents:
        """Rounded latents of this height and width, float32."""
        if self.tables.normal is None:
            return _from_channels(coder, shape, self.tables.prior).astype(np.float32)
        side_shape = (shape[0] // HYPER_STRIDE, shape[1] // HYPER_STRIDE)
        z = _from_channels(coder, side_shape, self.tables.prior)
        if np.abs(z).max() > FixedPointLayer.MOST_VALUE:
            raise InputError("the coded numbers are damaged: side information out of range")
        mean, places = self.tables.means_and_tables(z)
        order, starts = _by_table(places, len(self.tables.normal))
        counts = np.diff(starts, prepend=0, append=places.size)
        numbers = np.empty(places.size, np.int32)
        numbers[order] = np.concatenate(coder.take(counts.tolist(), self.tables.normal))
        return (numbers.reshape(mean.shape) + mean).astype(np.float32)

    def _least_bits(self, height: int, width: int) -> float:
        """What latents of this size cost at least."""
        prior = self.tables.prior.least_bits().sum()
        if self.tables.normal is None:
            return height * width * prior
        side = height * width // HYPER_STRIDE**2
        latents = height * width * self.model.latent_features
        return side * prior + latents * self.tables.normal.least_bits().min()

    def _analyzed(self, image: Pixels, level: int) -> Latents:
        """Latents, tile by tile."""

        def analyze(tile: Any) -> Any:
            return self._run("analyze", _pixels(tile[0]) / np.float32(255), level)[None]

        # A pixel of what is cut into tiles is all the pixels that a latent stands for.
        blocks: Any = _blocks(self._extended(image))
        return np.asarray(restore_tiled(analyze, blocks, encoder_receptive_field(), _TILE))

    def _synthesized(self, latents: Latents, level: int) -> Latents:
        """Decoded pixels, not clipped, tile by tile."""

        def synthesize(tile: Any) -> Any:
            return self._run("synthesize", tile[0], level)[None]

        return np.asarray(restore_tiled(synthesize, latents, decoder_receptive_field(), _TILE))

    def _extended(self, image: Pixels) -> Pixels:
        """The image at a size that the model takes, extended by mirroring."""
        missing = [(0, -n % self.model.multiple) for n in image.shape[:2]]
        return np.pad(image, [*missing, (0, 0)], mode="symmetric")

    def _run(self, method: str, x: np.ndarray, *level: int) -> np.ndarray:
        """A method of the model on one array, by a program compiled ahead."""
        device, key = jax.local_devices()[0], (method, x.shape)
        given = [np.asarray(x, np.float32), *(np.full(1, n, np.int32) for n in level)]
        with jax.disable_jit(False), jax.default_matmul_precision("highest"):
            on_device = jax.device_put(given, device)
            if key not in self._programs:

                def apply(variables: Tree, x: jax.Array, *level: jax.Array) -> jax.Array:
                    return self.model.apply(variables, x[None], *level, method=method)[0]  # type: ignore

                lowered = jit(apply).lower(self._variables, *on_device)
                self._programs[key] = lowered.compile()
            return np.asarray(self._programs[key](self._variables, *on_device))

    def _parsed(self, data: bytes) -> tuple[int, int, int, bool, bytes]:
        """Height, width, level, whether gray, and coded numbers of a file, once it is known whole."""
        if len(data) < 13 or not data.startswith(_MAGIC):
            raise InputError(
                f"not a {SUFFIX} file, or cut off: it must begin with {_MAGIC.decode()}"
            )
        if data[3] != _VERSION:
            raise InputError(f"the file is of version {data[3]}; this reads version {_VERSION}")
        if data[4:6] != self.digest[:2]:
            raise InputError(
                f"the file was written by another codec, {data[4:6].hex()}, or another checkpoint of this "
                f"one, {self.digest[:2].hex()}"
            )
        body, (checksum,) = data[: -_CHECKSUM.size], _CHECKSUM.unpack(data[-_CHECKSUM.size :])
        if checksum != self._checksum(body):
            raise InputError(f"the file {_DAMAGED}: its checksum is wrong")
        level, gray = body[6] & ~_GRAY, bool(body[6] & _GRAY)
        height, start = _read_varint(body, 7)
        width, start = _read_varint(body, start)
        if level >= self.model.levels or not height or not width:
            raise InputError(f"the file {_DAMAGED}: level {level}, {height} x {width} pixels")
        if not gray and self.model.channels == 1:
            raise InputError(f"the file {_DAMAGED}: it is of colours, and the codec is gray")
        return height, width, level, gray, body[start:]

    def _checksum(self, body: bytes) -> int:
        return zlib.crc32(body, zlib.crc32(self.digest))

    def _canvas(self, height: int, width: int) -> tuple[int, int]:
        """The size at which the model takes an image; InputError for one that is too large."""
        multiple = self.model.multiple
        rows, columns = (-(-n // multiple) * multiple for n in (height, width))
        if not 0 < rows * columns <= self.max_pixels:
            raise InputError(
                f"an image has 1 to {self.max_pixels:,} pixels here, with its sides rounded up to "
                f"multiples of {multiple}; got {height} x {width}"
            )
        return rows, columns


def _blocks(image: np.ndarray) -> np.ndarray:
    """An image with every block of 16 x 16 pixels as one pixel of many channels."""
    height, width, channels = image.shape
    size = LATENT_STRIDE
    cut = image.reshape(height // size, size, width // size, size, channels)
    return cut.swapaxes(1, 2).reshape(height // size, width // size, -1)


def _pixels(blocks: np.ndarray) -> np.ndarray:
    """Undoes `_blocks`."""
    rows, columns, _ = blocks.shape
    size = LATENT_STRIDE
    cut = blocks.reshape(rows, columns, size, size, -1).swapaxes(1, 2)
    return cut.reshape(rows * size, columns * size, -1)


def _whole(values: np.ndarray, most: int = MOST) -> np.ndarray:
    """Values rounded to whole numbers and cut at +-`most`, int32."""
    return np.clip(np.rint(values), -most, most).astype(np.int32)


def _by_channel(numbers: np.ndarray) -> list[np.ndarray]:
    return list(numbers.reshape(-1, numbers.shape[-1]).T)


def _from_channels(coder: Decoder, shape: tuple[int, int], tables: FrequencyTables) -> np.ndarray:
    channels = coder.take([shape[0] * shape[1]] * len(tables), tables)
    return np.stack(channels, axis=-1).reshape(*shape, len(tables))


def _by_table(places: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The order that brings latents of a table together, and where in it each table but the first starts."""
    flat = places.ravel()
    order = np.argsort(flat, kind="stable")
    return order, np.searchsorted(flat[order], np.arange(1, count))


def _varint(value: int) -> bytes:
    out = bytearray()
    while value >= 128:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def _read_varint(data: bytes, start: int) -> tuple[int, int]:
    """A number of at most 28 bits, and where it ends."""
    value = 0
    for place in range(4):
        if start + place >= len(data):
            break
        byte = data[start + place]
        value |= (byte & 127) << (7 * place)
        if byte < 128:
            return value, start + place + 1
    raise InputError(f"the file {_DAMAGED}: a size does not end")
