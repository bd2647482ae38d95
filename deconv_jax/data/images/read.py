"""Read image files."""

import contextlib
import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
from jaxtyping import UInt8
from PIL import ExifTags, Image

from deconv_jax.data.images.heif import avif_bits, check_avif, decode_heif, kind_of_heif
from deconv_jax.data.images.image_file import MAX_PIXELS, Color, ImageFile
from deconv_jax.data.images.pillow import check_header, decode_with_pillow, load, opened
from deconv_jax.data.images.samples import Decoded, to_8bit_opaque, upright
from deconv_jax.data.images.tiff import TIFF_STARTS, WHITE_IS_ZERO, decode_tiff, read_tiff
from deconv_jax.errors import InputError
from deconv_jax.io import open_regular
from deconv_jax.ops.color import rgb_to_gray_uint8, rgb_to_y_uint8

_NETPBM_STARTS = (b"P2", b"P3", b"P5", b"P6")
"""First bytes of Netpbm files that may have 16-bit samples."""

_KNOWN = "an AVIF, BMP, HEIC, JPEG, PGM, PNG, PPM, TIFF or WebP"

_FEW_BITS = {"L;2": 3, "L;4": 15}
"""Largest sample of gray PNG files with 2 or 4 bits, by Pillow's raw mode."""


def read_image(path: Path, max_pixels: int = MAX_PIXELS) -> ImageFile:
    """Read an image file with all that a copy should keep: 16 bits, alpha, ICC profile, EXIF and resolution.

    The image is upright. Palettes, YCbCr and CMYK become RGB; a gray image has one channel. `notes` of the
    result tell what was left out.

    Args:
      path: AVIF, BMP, HEIC, JPEG, PGM, PNG, PPM, TIFF or WebP file, with any suffix.
      max_pixels: Limit of height times width, above which the file is not decoded.

    Raises:
      InputError: The file is missing, damaged, too large or of another format, it has several pages or frames,
        or its samples are floats, signed, 32-bit integers or Lab.
    """
    decoded = _decode(path, max_pixels)
    samples = decoded.samples
    bit_depth = 8 * samples.dtype.itemsize
    values = samples.astype(np.float32) / np.float32(2**bit_depth - 1)
    has_alpha = samples.shape[-1] % 2 == 0
    return ImageFile(
        pixels=values[..., :-1] if has_alpha else values,
        alpha=values[..., -1:] if has_alpha else None,
        bit_depth=bit_depth,
        mode=decoded.mode,
        icc_profile=decoded.icc_profile,
        exif=decoded.exif,
        format=decoded.format,
        dpi=decoded.dpi,
        notes=decoded.notes,
        jpeg_table=decoded.jpeg_table,
    )


def read_pixels(
    path: Path, color: Color = "rgb", max_pixels: int = MAX_PIXELS
) -> UInt8[np.ndarray, "height width channels"]:
    """Read an image file for a data set, upright.

    16-bit samples are rounded to 8 bits, and transparent images are composited on white.

    Args:
      path: Image file, as in `read_image`.
      color: "rgb" returns three channels, equal ones for a gray file. "gray" returns the luma 0.299 R + 0.587 G +
        0.114 B, and "y" the Y of MATLAB's `rgb2ycbcr`, from 16 to 235 (ITU-R BT.601), both rounded. A gray file is
        returned unchanged, as in published results on Set14.
      max_pixels: Limit of height times width, above which the file is not decoded.

    Raises:
      InputError: The file cannot be read; see `read_image`.
    """
    return read_8bit(path, color, max_pixels)[0]


def read_8bit(
    path: Path, color: Color | None = None, max_pixels: int = MAX_PIXELS
) -> tuple[UInt8[np.ndarray, "height width channels"], tuple[str, ...]]:
    """Read an image file as opaque 8-bit pixels, and report what that loses.

    Arguments and errors are those of `read_pixels`; without `color`, pixels are gray (one channel) or RGB as in
    the file.

    Returns:
      The pixels, and the losses: the notes of `read_image`, then those of "composited on white",
      "rounded to 8 bits" and "without its color profile" that apply. The conversion to `color` is
      not one of them.
    """
    decoded = _decode(path, max_pixels)
    lost = {
        "composited on white": decoded.samples.shape[-1] % 2 == 0,
        "rounded to 8 bits": decoded.samples.dtype == np.uint16,
        "without its color profile": bool(decoded.icc_profile),
    }
    words = (*decoded.notes, *(words for words, happened in lost.items() if happened))
    samples = to_8bit_opaque(decoded.samples)
    if color == "rgb":
        samples = np.broadcast_to(samples, (*samples.shape[:2], 3)).copy()
    elif color is not None and samples.shape[-1] == 3:
        samples = np.asarray((rgb_to_y_uint8 if color == "y" else rgb_to_gray_uint8)(samples))
    return samples, words


def read_labels(path: Path, max_pixels: int = MAX_PIXELS) -> UInt8[np.ndarray, "height width"]:
    """Read an image file whose pixels are numbers of classes or objects, unchanged, with up to 8 bits.

    A file with a palette gives indices, a black and white (1-bit) file 0 and 255, and a gray file of 2 or 4
    bits its samples, up to 3 or 15. An EXIF orientation is applied.

    Args:
      path: Image file, as in `read_image`.
      max_pixels: Limit of height times width, above which the file is not decoded.

    Raises:
      InputError: The file cannot be read, as in `read_image`, or it has colors, alpha or more than 8 bits.
    """
    with _input_errors(path), open_regular(path) as file:
        layout = samples = None
        most = _netpbm_most(file)
        if _is_tiff(file):
            layout, samples, _ = read_tiff(file, max_pixels)
            if layout.color_samples > 1 or layout.extras or layout.bits > 8:
                raise InputError(
                    f"it has {layout.described()}; labels must have one sample of at most 8 bits"
                )
            if samples is not None:
                return upright(samples[..., 0], layout.orientation)
            most = 2**layout.bits - 1
        with opened(file) as image:
            check_header(image, max_pixels)
            if image.mode not in ("1", "L", "P"):
                raise InputError(
                    f"its pixels are {image.mode}; labels must be 8-bit gray or palette indices"
                )
            stored = _FEW_BITS.get(str(image.tile[0].args)) if image.format == "PNG" else None
            load(image)
            labels = np.array(image.convert("L") if image.mode == "1" else image)
            if image.mode == "1":
                most = 255
            elif image.mode == "L":  # Pillow scales samples with fewer bits to 0 to 255.
                most = stored or most
                labels = np.rint(labels * (most / 255)).astype(np.uint8)
            if layout is not None and layout.photometric == WHITE_IS_ZERO:
                labels = most - labels
            return upright(labels, image.getexif().get(ExifTags.Base.Orientation, 1))


def _decode(path: Path, max_pixels: int) -> Decoded:
    with _input_errors(path), open_regular(path) as file:
        if _is_tiff(file):
            return decode_tiff(file, max_pixels)
        kind = kind_of_heif(file)
        if kind == "HEIF":
            return decode_heif(file, max_pixels)
        if kind == "AVIF":
            check_avif()
            bits = avif_bits(file)
            decoded = decode_with_pillow(file, max_pixels)
            notes = () if bits == 8 else (f"{bits} bits rounded to 8",)
            return dataclasses.replace(decoded, notes=(*decoded.notes, *notes))
        most = _netpbm_most(file)
        if most > 255:  # Pillow would truncate them to 8 bits.
            raise InputError(
                f"its samples go up to {most}; PGM and PPM files must have samples up to 255"
            )
        return decode_with_pillow(file, max_pixels)


@contextlib.contextmanager
def _input_errors(path: Path) -> Iterator[None]:
    """Convert any error while reading an image file to an InputError with the file and the reason."""
    try:
        yield
    except Exception as error:  # Decoders raise many kinds of errors on a damaged file.
        said = (str(error).strip().splitlines() or [type(error).__name__])[0]
        if isinstance(error, InputError):
            reason = said
        elif isinstance(error, MemoryError):
            reason = "not enough memory"
        elif isinstance(error, Image.UnidentifiedImageError):
            reason = f"it is damaged, or not {_KNOWN} file"
        elif isinstance(error, OSError) and error.strerror:
            reason = error.strerror
        elif said.startswith("decoder error"):
            reason = "it is damaged: its pixels cannot be decoded"
        else:
            reason = f"it is damaged ({said})"
        raise InputError(f"cannot read image {path}: {reason}") from error


def _is_tiff(file: BinaryIO) -> bool:
    start = file.read(4)
    file.seek(0)
    return start in TIFF_STARTS


def _netpbm_most(file: BinaryIO) -> int:
    """Return the maximum sample in the header of a PGM or PPM file; 255 for other files."""
    header = re.sub(rb"#[^\n]*\n", b" ", file.read(4096)).split(maxsplit=4)
    file.seek(0)
    known = len(header) > 3 and header[0] in _NETPBM_STARTS and header[3].isdigit()
    return int(header[3]) if known else 255
