"""Compressed image files of a trained codec.

File format, version 1. Integers are unsigned. A varint has seven bits per byte, least significant
first; the eighth bit is set if more bytes follow.

    3 bytes   "DJX"
    1 byte    version, 1
    2 bytes   first bytes of the codec's digest, see `Codec.digest`
    1 byte    quality level, plus 128 for a gray image
    varint    height in pixels
    varint    width in pixels
    ...       integers coded by `entropy_coding.Encoder`, as little-endian 32-bit words; up to eight
              trailing zero bytes are dropped. Hyperprior codec: hyperlatents by channel, then
              latents grouped by table, each group in row-major order. Factorized codec: latents by
              channel. Each of these sequences is followed by its escapes, see `entropy_coding`.
    4 bytes   CRC-32 of the codec's digest and all preceding bytes, little-endian

Note: Decoded pixels may differ between machines by floating-point rounding, but the coded integers,
on which everything after them depends, never do (see `entropy_coding`). On one machine an image always
gives the same bytes, for any number of devices and with or without `jax.disable_jit`: programs are
compiled ahead of time for one device in full precision. Another machine, or another number of cores,
may round a latent differently when it *writes* a file; every machine reads that file alike.
"""

import hashlib
import struct
import zlib
from collections.abc import Callable
from typing import Any, cast

import jax
import numpy as np
from jaxtyping import Array, UInt8

from deconv_jax.compilation import jit
from deconv_jax.errors import InputError
from deconv_jax.inference.compression.coding_tables import (
    CodingTables,
    Latents,
    weights_digest,
)
from deconv_jax.inference.compression.entropy_coding import (
    MAX_VALUE,
    Decoder,
    Encoder,
    FrequencyTables,
)
from deconv_jax.inference.compression.fixed_point import FixedPointLayer
from deconv_jax.inference.tiling import restore_tiled
from deconv_jax.models.codec import (
    HYPER_STRIDE,
    LATENT_STRIDE,
    CodecOutput,
    FactorizedCodec,
    decoder_receptive_field,
    encoder_receptive_field,
)
from deconv_jax.training.state import Tree

Pixels = UInt8[np.ndarray, "height width channels"]

SUFFIX = ".djx"
MAX_PIXELS = 2**26
"""Default maximum of height times width of an image."""

_MAGIC, _VERSION, _GRAY = b"DJX", 1, 128
_CHECKSUM = struct.Struct("<I")
_TILE = 64
"""Side of the tiles that the networks process, in latents of 16 pixels each."""
_DAMAGED = "is damaged or truncated"


class Codec:
    """A trained codec.

    Args:
      model: Codec networks.
      variables: Collection "params" of the networks.
      tables: Tables of the entropy coder; None to derive them from the weights.
      max_pixels: Maximum of height times width of images to compress or decompress.

    Raises:
      InputError: No tables can be derived from the weights, or the model has more than 128 levels.

    Attributes:
      digest: SHA-256 of the weights and the tables. Only the codec that wrote a file can read it.
      tables: Tables of the entropy coder.
    """

    def __init__(
        self,
        model: FactorizedCodec,
        variables: Tree,
        tables: CodingTables | None = None,
        max_pixels: int = MAX_PIXELS,
    ):
        if model.levels > _GRAY:
            raise InputError(f"a codec must have at most {_GRAY} levels; got {model.levels}")
        self.model, self.max_pixels = model, max_pixels
        self._variables = jax.device_put(variables, jax.local_devices()[0])
        self.tables = tables or CodingTables.from_model(model, variables)
        digest = hashlib.sha256(weights_digest(variables))
        for name, array in sorted(self.tables.to_arrays().items()):
            digest.update(name.encode() + np.ascontiguousarray(array).tobytes())
        self.digest = digest.digest()

        def count_bits(variables: Tree, images: Array, level: Array) -> Array:
            output = cast(CodecOutput, model.apply(variables, images, level))
            return output.bits + output.side_bits

        self._count_bits = jit(count_bits)
        self._programs: dict[tuple[str, tuple[int, ...]], Callable[..., Array]] = {}

    def compress(self, image: Pixels, level: int) -> bytes:
        """Return the compressed file of an image.

        Args:
          image: Gray (height, width, 1) or RGB (height, width, 3) image, uint8.
          level: Quality level, in [0, levels).

        Raises:
          InputError: The level is out of range, or the image has a wrong type or shape, is empty or,
            padded, larger than `max_pixels`, or has color while the codec is for gray images.
        """
        levels = self.model.levels
        if level not in range(levels):
            raise InputError(f"level must be from 0 to {levels - 1} for this codec; got {level}")
        if image.ndim != 3 or image.shape[-1] not in (1, 3) or image.dtype != np.uint8:
            raise InputError(
                "image must be uint8 with shape (height, width, 1 or 3); got "
                f"{image.dtype} {image.shape}"
            )
        height, width, channels = image.shape
        if channels > self.model.channels:
            raise InputError("this codec is for gray images; got a color image")
        if channels < self.model.channels:
            image = np.repeat(image, self.model.channels, axis=-1)
        self._padded_size(height, width)
        encoder = Encoder()
        self._encode(encoder, self._analyze(image, level))
        gray = _GRAY if channels == 1 else 0
        data = (
            _MAGIC
            + bytes([_VERSION])
            + self.digest[:2]
            + bytes([level | gray])
            + _write_varint(height)
            + _write_varint(width)
            + encoder.to_bytes()
        )
        return data + _CHECKSUM.pack(self._checksum(data))

    def decompress(self, data: bytes) -> Pixels:
        """Return the image of a compressed file, with one channel if a gray image was compressed.

        Raises:
          InputError: The data is not a compressed file, is damaged, belongs to another codec, or the
            image is too large.
        """
        height, width, level, gray, payload = self._parse(data)
        rows, columns = self._padded_size(height, width)
        shape = (rows // LATENT_STRIDE, columns // LATENT_STRIDE)
        if 8 * len(payload) < self._min_bits(*shape) - Encoder.SLACK_BITS:
            raise InputError(
                f"the file {_DAMAGED}: {len(payload)} bytes cannot hold {height} x {width} pixels"
            )
        latents = self._decode(Decoder(payload), shape)
        pixels = self._synthesize(latents, level)[:height, :width]
        if gray and self.model.channels > 1:
            pixels = pixels.mean(axis=-1, keepdims=True)
        return np.rint(255.0 * np.clip(pixels, 0.0, 1.0)).astype(np.uint8)

    def model_bits(self, image: Pixels, level: int) -> float:
        """Return the bits of an image estimated by the model, without tables and header.

        The networks process the image whole, so it must be small.

        Args:
          image: Image as for `compress`.
          level: Quality level, which is not checked.
        """
        repeated = np.repeat(image, self.model.channels // image.shape[-1], axis=-1)
        images = self._pad(repeated)[None] / np.float32(255)
        return float(self._count_bits(self._variables, images, np.full(1, level))[0])

    def _encode(self, encoder: Encoder, y: Latents) -> None:
        if self.tables.normal is None:
            encoder.encode(_split_channels(_to_integers(y)), self.tables.prior)
            return
        z = _to_integers(self._run("hyper_analyze", y), FixedPointLayer.MAX_VALUE)
        encoder.encode(_split_channels(z), self.tables.prior)
        mean, indices = self.tables.means_and_table_indices(z)
        order, starts = _group_by_table(indices, len(self.tables.normal))
        groups = np.split(_to_integers(y - mean).ravel()[order], starts)
        encoder.encode(groups, self.tables.normal)

    def _decode(self, decoder: Decoder, shape: tuple[int, int]) -> Latents:
        """Return the rounded latents of this height and width, float32."""
        if self.tables.normal is None:
            return _decode_channels(decoder, shape, self.tables.prior).astype(np.float32)
        hyper_shape = (shape[0] // HYPER_STRIDE, shape[1] // HYPER_STRIDE)
        z = _decode_channels(decoder, hyper_shape, self.tables.prior)
        if np.abs(z).max() > FixedPointLayer.MAX_VALUE:
            raise InputError("the coded integers are damaged: a hyperlatent is out of range")
        mean, indices = self.tables.means_and_table_indices(z)
        order, starts = _group_by_table(indices, len(self.tables.normal))
        counts = np.diff(starts, prepend=0, append=indices.size)
        residuals = np.empty(indices.size, np.int32)
        residuals[order] = np.concatenate(decoder.decode(counts.tolist(), self.tables.normal))
        return (residuals.reshape(mean.shape) + mean).astype(np.float32)

    def _min_bits(self, height: int, width: int) -> float:
        """Return a lower bound on the bits of latents of this size."""
        prior = self.tables.prior.min_bits().sum()
        if self.tables.normal is None:
            return height * width * prior
        hyper_bits = height * width // HYPER_STRIDE**2 * prior
        latents = height * width * self.model.latent_features
        return hyper_bits + latents * self.tables.normal.min_bits().min()

    def _analyze(self, image: Pixels, level: int) -> Latents:
        """Return the latents of an image, computed tile by tile."""

        def analyze(tile: Any) -> Any:
            return self._run("analyze", _depth_to_space(tile[0]) / np.float32(255), level)[None]

        # Each latent covers a block of pixels, so tiles are cut from the image with blocks as channels.
        blocks = _space_to_depth(self._pad(image))
        return np.asarray(restore_tiled(analyze, blocks, encoder_receptive_field(), _TILE))

    def _synthesize(self, latents: Latents, level: int) -> Latents:
        """Return the decoded pixels, not clipped, computed tile by tile."""

        def synthesize(tile: Any) -> Any:
            return self._run("synthesize", tile[0], level)[None]

        return np.asarray(restore_tiled(synthesize, latents, decoder_receptive_field(), _TILE))

    def _pad(self, image: Pixels) -> Pixels:
        """Pad an image symmetrically to a size that the model accepts."""
        missing = [(0, -n % self.model.multiple) for n in image.shape[:2]]
        return np.pad(image, [*missing, (0, 0)], mode="symmetric")

    def _run(self, method: str, x: np.ndarray, *level: int) -> np.ndarray:
        """Apply a method of the model to one array, by a program compiled ahead of time."""
        device, key = jax.local_devices()[0], (method, x.shape)
        arguments = [np.asarray(x, np.float32), *(np.full(1, n, np.int32) for n in level)]
        with jax.disable_jit(False), jax.default_matmul_precision("highest"):
            on_device = jax.device_put(arguments, device)
            if key not in self._programs:

                def apply(variables: Tree, x: Array, *level: Array) -> Array:
                    return self.model.apply(variables, x[None], *level, method=method)[0]

                lowered = jit(apply).lower(self._variables, *on_device)
                self._programs[key] = lowered.compile()
            return np.asarray(self._programs[key](self._variables, *on_device))

    def _parse(self, data: bytes) -> tuple[int, int, int, bool, bytes]:
        """Return (height, width, level, whether gray, payload) of a file with a valid checksum."""
        if len(data) < 13 or not data.startswith(_MAGIC):
            raise InputError(
                f"not a {SUFFIX} file, or truncated: it must start with {_MAGIC.decode()}"
            )
        if data[3] != _VERSION:
            raise InputError(
                f"the file has version {data[3]}; only version {_VERSION} is supported"
            )
        if data[4:6] != self.digest[:2]:
            raise InputError(
                f"the file was written by another codec: its digest starts with {data[4:6].hex()}, "
                f"this codec's with {self.digest[:2].hex()}; name the model or run that wrote it"
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
            raise InputError(f"the file {_DAMAGED}: it has color, but the codec is for gray images")
        return height, width, level, gray, body[start:]

    def _checksum(self, body: bytes) -> int:
        return zlib.crc32(body, zlib.crc32(self.digest))

    def _padded_size(self, height: int, width: int) -> tuple[int, int]:
        """Return the height and width after padding.

        Raises:
          InputError: The image is empty or too large.
        """
        multiple = self.model.multiple
        rows, columns = (-(-n // multiple) * multiple for n in (height, width))
        if not 0 < rows * columns <= self.max_pixels:
            raise InputError(
                f"an image, padded to multiples of {multiple}, must have 1 to {self.max_pixels:,} "
                f"pixels; got {height} x {width}"
            )
        return rows, columns


def _space_to_depth(image: np.ndarray) -> np.ndarray:
    """Rearrange each block of 16 x 16 pixels into the channels of one pixel."""
    height, width, channels = image.shape
    size = LATENT_STRIDE
    blocks = image.reshape(height // size, size, width // size, size, channels)
    return blocks.swapaxes(1, 2).reshape(height // size, width // size, -1)


def _depth_to_space(blocks: np.ndarray) -> np.ndarray:
    """Invert `_space_to_depth`."""
    rows, columns, _ = blocks.shape
    size = LATENT_STRIDE
    pixels = blocks.reshape(rows, columns, size, size, -1).swapaxes(1, 2)
    return pixels.reshape(rows * size, columns * size, -1)


def _to_integers(values: np.ndarray, bound: int = MAX_VALUE) -> np.ndarray:
    """Round to integers and clip to [-bound, bound], int32."""
    return np.clip(np.rint(values), -bound, bound).astype(np.int32)


def _split_channels(integers: np.ndarray) -> list[np.ndarray]:
    return list(integers.reshape(-1, integers.shape[-1]).T)


def _decode_channels(
    decoder: Decoder, shape: tuple[int, int], tables: FrequencyTables
) -> np.ndarray:
    channels = decoder.decode([shape[0] * shape[1]] * len(tables), tables)
    return np.stack(channels, axis=-1).reshape(*shape, len(tables))


def _group_by_table(indices: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the order that groups latents by table, and the start of each group but the first."""
    flat = indices.ravel()
    order = np.argsort(flat, kind="stable")
    return order, np.searchsorted(flat[order], np.arange(1, count))


def _write_varint(value: int) -> bytes:
    out = bytearray()
    while value >= 128:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def _read_varint(data: bytes, start: int) -> tuple[int, int]:
    """Return an integer of at most 28 bits, and the position after it."""
    value = 0
    for index in range(4):
        if start + index >= len(data):
            break
        byte = data[start + index]
        value |= (byte & 127) << (7 * index)
        if byte < 128:
            return value, start + index + 1
    raise InputError(f"the file {_DAMAGED}: a size does not end")
