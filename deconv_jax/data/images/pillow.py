"""Decode image files by Pillow."""

import contextlib
import os
import threading
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO

import numpy as np
from PIL import ExifTags, Image, features

from deconv_jax.data.images.exif import kept_exif, resolution
from deconv_jax.data.images.image_file import FORMATS
from deconv_jax.data.images.samples import Decoded, check_size, pluralize, upright
from deconv_jax.errors import InputError

_OPENED = tuple(
    kind
    for kind in sorted(set(FORMATS.values()))
    if kind != "HEIF" and (kind != "AVIF" or features.check("avif"))
)
"""Formats that the installed Pillow opens."""

_REFUSED = {"I": "32-bit integers", "F": "floats", "LAB": "Lab colors"}

_STDERR = 2

_limit = threading.Lock()


@contextlib.contextmanager
def without_pixel_limit() -> Iterator[None]:
    """Disable Pillow's global pixel limit, which `max_pixels` replaces. Only one thread at a time is inside."""
    with _limit:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = limit


@contextlib.contextmanager
def opened(file: BinaryIO) -> Iterator[Any]:
    """Open an image file from its start, and read its header. Only `FORMATS` are tried, for any suffix.

    Raises:
      UnidentifiedImageError: The file has another format or is damaged.
    """
    file.seek(0)
    with without_pixel_limit():
        image = Image.open(file, formats=_OPENED)
    with image:
        yield image


def check_header(image: Any, max_pixels: int) -> None:
    """Raise InputError for an image of more than `max_pixels` pixels, or for a file with several frames.

    Frames of TIFF files and further pictures of a JPEG file (MPO) are not counted.
    """
    check_size(image.width, image.height, max_pixels)
    # The pages of a TIFF file are already checked; further pictures of a JPEG file are previews.
    frames = getattr(image, "n_frames", 1)
    if frames > 1 and image.format not in ("TIFF", "MPO"):
        raise InputError(f"it has {frames} frames; only files with one image are read")


def load(image: Any) -> None:
    """Decode an opened image, without libtiff's messages on stderr for a TIFF file."""
    if image.format != "TIFF":
        image.load()
        return
    # Pillow checks the size of TIFF files again before it decodes them.
    with without_pixel_limit(), _libtiff_silenced():
        image.load()


@contextlib.contextmanager
def _libtiff_silenced() -> Iterator[None]:
    """Discard the messages that libtiff writes to the standard error of the process."""
    try:
        kept = os.dup(_STDERR)
    except OSError:  # There is no standard error.
        yield
        return
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), _STDERR)
    try:
        yield
    finally:
        os.dup2(kept, _STDERR)
        os.close(kept)


def decode_with_pillow(file: BinaryIO, max_pixels: int) -> Decoded:
    """Decode an AVIF, BMP, JPEG, PGM, PNG, PPM, TIFF or WebP file, by its content.

    Pixels are upright. Palettes, YCbCr and CMYK become RGB, and transparency becomes alpha. 16-bit PNG files
    keep their bits; TIFF files with 16 bits are for `decode_tiff`.

    Raises:
      InputError: The image is larger than `max_pixels`, the file has several frames, or its pixels are
        32-bit integers, floats or Lab colors.
      UnidentifiedImageError: The file has another format. Other errors of Pillow on damaged files pass through.
    """
    with opened(file) as image:
        check_header(image, max_pixels)
        others = image.n_frames - 1 if image.format == "MPO" else 0
        mode, kind = image.mode, image.format.replace("MPO", "JPEG")
        samples_kind = image.tile[0].args if kind == "PNG" else None
        tables = image.quantization if kind == "JPEG" and mode in ("L", "RGB") else {}
        load(image)
        samples = _samples(image)
        transparent = image.info.get("transparency")
        # Read after decoding: some PNG files have EXIF last, and Pillow has transposed TIFF files.
        exif = image.getexif()
        turned = exif.get(ExifTags.Base.Orientation, 1)
        kept, dpi = kept_exif(exif, kind), resolution(kind, image.info, exif)
        profile = image.info.get("icc_profile") or None
    if samples_kind in ("RGB;16B", "RGBA;16B", "LA;16B"):
        mode, samples = samples_kind[:-4], _decode_wide_png(file, samples_kind)
    if samples.dtype == np.uint16 and samples.shape[-1] % 2 and transparent is not None:
        seen = (samples != np.array(transparent)).any(axis=-1, keepdims=True)
        samples = np.concatenate([samples, np.where(seen, 65535, 0).astype(np.uint16)], axis=-1)
    notes = []
    if mode == "CMYK":
        notes.append(f"CMYK converted to RGB{', without its color profile' if profile else ''}")
        profile = None
    if exif and kept is None and set(exif) - {ExifTags.Base.Orientation} and kind != "TIFF":
        notes.append("EXIF data that cannot be copied left out")
    if others:
        notes.append(f"{pluralize(others, 'further picture')} in the file left out")
    samples = np.ascontiguousarray(upright(samples, turned))
    table = _upright_table(tables[0], samples.shape, turned) if 0 in tables else None
    return Decoded(samples, mode, kind, profile, kept, dpi, tuple(notes), table)


def _upright_table(
    steps: Sequence[int], shape: tuple[int, ...], orientation: int
) -> np.ndarray | None:
    """Return the quantization table of an upright image, or None if its first pixel starts no block."""
    if orientation in range(2, 9) and (shape[0] % 8 or shape[1] % 8):
        return None
    table = np.array(steps, np.float32).reshape(8, 8)
    return table.T if orientation in (5, 6, 7, 8) else table


def _samples(image: Any) -> np.ndarray:
    """Return the samples (height, width, channels) of a decoded image, in Pillow's bit depth."""
    if image.mode.startswith("I;16"):
        return np.asarray(image).astype(np.uint16)[..., None]
    if image.mode in _REFUSED:
        raise InputError(f"its pixels are {_REFUSED[image.mode]}, not 8 or 16 bits of gray or RGB")
    wanted = "L" if image.mode in ("1", "L", "LA", "La") else "RGB"
    if image.has_transparency_data:
        wanted += "A"
    return np.asarray(image.convert(wanted)).reshape(image.height, image.width, len(wanted))


def _decode_wide_png(file: BinaryIO, samples_kind: str) -> np.ndarray:
    """Return the 16-bit samples of a color PNG."""
    if samples_kind == "LA;16B":  # Its four bytes per pixel are read as 8-bit RGBA.
        with opened(file) as image:
            image.tile = [image.tile[0]._replace(args="RGBA")]
            pairs = np.asarray(image).astype(np.uint16)
        return pairs[..., 0::2] << 8 | pairs[..., 1::2]
    return read_16bit_in_two_passes(file, samples_kind, samples_kind.replace("16B", "16L"))


def read_16bit_in_two_passes(file: BinaryIO, upper: str, lower: str) -> np.ndarray:
    """Read 16-bit samples in two passes, with the raw modes by which Pillow returns the upper and the lower byte.

    Returns:
      Samples uint16 (height, width, channels), as stored.
    """

    def read(byte: str) -> np.ndarray:
        with opened(file) as image:
            tile = image.tile[0]
            args = byte if isinstance(tile.args, str) else (byte, *tile.args[1:])
            image.tile = [tile._replace(args=args)]
            load(image)
            return np.asarray(image).astype(np.uint16)

    return read(upper) << 8 | read(lower)
