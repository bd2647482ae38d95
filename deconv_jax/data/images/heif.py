"""HEIF files (HEIC), decoded and encoded by pillow-heif, and what Pillow does not tell about AVIF files.

Samples with 10 and 12 bits are scaled to 16 bits. AVIF files are decoded by Pillow, to 8 bits.
"""

import io
from typing import Any, BinaryIO

import numpy as np
from PIL import Image, features

from deconv_jax.data.images.exif import kept_exif, resolution
from deconv_jax.data.images.samples import Decoded, check_size, pluralize
from deconv_jax.errors import InputError

QUALITY = 95
"""Quality of the files that are written, out of 100."""

_HEIF_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}
_AVIF_BRANDS = {b"avif", b"avis"}
_HEADER_BYTES = 4096
_DEPTH_WRITTEN = 10
"""Bits of the files that are written from 16-bit samples; the most that phones decode."""


def kind_of_heif(file: BinaryIO) -> str | None:
    """Return "HEIF" or "AVIF" by the brands at the start of a file; None for other files."""
    start = file.read(64)
    file.seek(0)
    if start[4:8] != b"ftyp":
        return None
    size = min(int.from_bytes(start[:4]), len(start))
    brands = {start[8:12], *(start[i : i + 4] for i in range(16, size - 3, 4))}
    if brands & _AVIF_BRANDS:
        return "AVIF"
    return "HEIF" if brands & _HEIF_BRANDS else None


def check_avif() -> None:
    """Raise InputError if Pillow does not decode AVIF files."""
    if not features.check("avif"):
        raise InputError("AVIF files require Pillow 11.3 or later with AVIF support")


def avif_bits(file: BinaryIO) -> int:
    """Return the bits per sample in the header of an AVIF file; 8 if it does not tell."""
    header = file.read(_HEADER_BYTES)
    file.seek(0)
    place = header.find(b"pixi") + 9  # After the name, the version and the number of channels.
    return header[place] if 9 <= place < len(header) else 8


def decode_heif(file: BinaryIO, max_pixels: int) -> Decoded:
    """Decode the primary image of a HEIF file; pixels are upright.

    Raises:
      InputError: pillow-heif is missing, the image is larger than `max_pixels`, or its alpha is
        premultiplied. Other errors on damaged files pass through.
    """
    images = _pillow_heif().open_heif(file, convert_hdr_to_8bit=False)
    width, height = images.size
    check_size(width, height, max_pixels)
    mode, info = images.mode, images.info
    if mode.endswith("a"):
        raise InputError("its alpha is premultiplied, which is not supported")
    samples = np.asarray(images)
    samples = samples.reshape(*samples.shape[:2], -1)
    if samples.dtype == np.uint16:
        bits = info["bit_depth"]
        levels = samples.astype(np.uint32) >> (16 - bits)
        most = 2**bits - 1
        samples = ((levels * 65535 + most // 2) // most).astype(np.uint16)
    exif = Image.Exif()
    exif.load(info.get("exif") or b"")
    others = len(images) - 1
    notes = [f"{pluralize(others, 'further picture')} in the file left out"] if others else []
    return Decoded(
        samples,
        mode.partition(";")[0].replace("I", "L"),
        "HEIF",
        info.get("icc_profile") or None,
        kept_exif(exif, "HEIF"),
        resolution("HEIF", info, exif),
        tuple(notes),
    )


def encode_heif(samples: np.ndarray, profile: bytes | None, exif: bytes | None) -> bytes:
    """Return the bytes of a HEIC file.

    Args:
      samples: uint8 or uint16 (height, width, 1 to 4), with alpha as the last of 2 or 4 channels.
        uint16 is rounded to 10 bits. Gray with alpha becomes RGB with alpha.
      profile, exif: Color profile and EXIF data.

    Raises:
      InputError: pillow-heif is missing. Other errors of the encoder pass through.
    """
    height, width, channels = samples.shape
    mode = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}[channels]
    if samples.dtype == np.uint16:
        mode += ";16"
        most = 2**_DEPTH_WRITTEN - 1
        levels = (samples.astype(np.uint32) * most + 32767) // 65535
        samples = (levels << (16 - _DEPTH_WRITTEN)).astype(np.uint16)
    image = _pillow_heif().from_bytes(mode, (width, height), samples.tobytes())
    image.info["icc_profile"] = profile
    image.info["exif"] = exif
    file = io.BytesIO()
    image.save(file, quality=QUALITY)
    return file.getvalue()


def _pillow_heif() -> Any:
    try:
        import pillow_heif
    except ImportError as error:
        raise InputError(
            "HEIC files require pillow-heif: pip install 'deconv_jax[formats]'"
        ) from error
    return pillow_heif
