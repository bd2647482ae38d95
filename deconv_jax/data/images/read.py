"""Image files, read as they are."""

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
from jaxtyping import UInt8
from PIL import ExifTags, Image

from deconv_jax.data.images.image_file import MAX_PIXELS, Color, ImageFile
from deconv_jax.data.images.pillow import check_header, decode_with_pillow, load, opened
from deconv_jax.data.images.samples import Decoded, to_8bit_opaque, upright
from deconv_jax.data.images.tiff import TIFF_STARTS, WHITE_IS_ZERO, decode_tiff, read_tiff
from deconv_jax.errors import InputError
from deconv_jax.io import open_regular
from deconv_jax.ops.color import rgb_to_gray_uint8, rgb_to_y_uint8

_NETPBM_STARTS = (b"P2", b"P3", b"P5", b"P6")
"""Of Netpbm files whose samples may have 16 bits."""

_FEW_BITS = {"L;2": 3, "L;4": 15}
"""The largest sample of gray PNG files with few bits, by Pillow's names for these."""


def read_image(path: Path, max_pixels: int = MAX_PIXELS) -> ImageFile:
    """Reads an image file, see the table above.

    Args:
      path: of a BMP, JPEG, PGM, PNG, PPM, TIFF or WebP file, whatever its name.
      max_pixels: height times width from which on nothing is decoded.

    Raises:
      InputError: the file is missing, damaged, too large or of another kind.
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
    )


def read_pixels(
    path: Path, color: Color = "rgb", max_pixels: int = MAX_PIXELS
) -> UInt8[np.ndarray, "height width channels"]:
    """Reads an image file as a data set needs it.

    16 bits are rounded to 8; what is transparent is laid on white.

    Args:
      path: as for `read_image`.
      color: "rgb" gives three channels, equal ones for a gray file. "gray" gives luma, 0.299 R +
        0.587 G + 0.114 B, and "y" the Y of MATLAB's `rgb2ycbcr`, from 16 to 235 (ITU-R BT.601);
        both are rounded, and a gray file is taken as it is, as published figures on Set14 do.
      max_pixels: as for `read_image`.

    Raises:
      InputError: as `read_image`.
    """
    return read_8bit(path, color, max_pixels)[0]


def read_8bit(
    path: Path, color: Color | None = None, max_pixels: int = MAX_PIXELS
) -> tuple[UInt8[np.ndarray, "height width channels"], tuple[str, ...]]:
    """Reads an image file with 8 bits and opaque, and says what that loses.

    Args and errors as for `read_pixels`; without `color` the pixels are gray or RGB as in the file.
    Losses are words such as "laid on white".
    """
    decoded = _decode(path, max_pixels)
    lost = {
        "laid on white": decoded.samples.shape[-1] % 2 == 0,
        "rounded to 8 bits": decoded.samples.dtype == np.uint16,
        "without its colour profile": bool(decoded.icc_profile),
    }
    words = (*decoded.notes, *(words for words, happened in lost.items() if happened))
    samples = to_8bit_opaque(decoded.samples)
    if color == "rgb":
        samples = np.broadcast_to(samples, (*samples.shape[:2], 3)).copy()
    elif color is not None and samples.shape[-1] == 3:
        samples = np.asarray((rgb_to_y_uint8 if color == "y" else rgb_to_gray_uint8)(samples))
    return samples, words


def read_labels(path: Path, max_pixels: int = MAX_PIXELS) -> UInt8[np.ndarray, "height width"]:
    """Reads an image file whose pixels are numbers of classes or objects: as stored, up to 8 bits.

    Of a file with a palette they are the places in it, not the colours; of a black and white one 0
    and 255.

    Args:
      path: as for `read_image`.
      max_pixels: as for `read_image`.

    Raises:
      InputError: as `read_image`, or the file has colours, alpha or more than 8 bits.
    """
    with _telling_why_not(path), open_regular(path) as file:
        layout = samples = None
        most = _netpbm_most(file)
        if _is_tiff(file):
            layout, samples, _ = read_tiff(file, max_pixels)
            if layout.color_samples > 1 or layout.extras or layout.bits > 8:
                raise InputError(
                    f"it has {layout.described()}, not one of up to 8 bits as labels have"
                )
            if samples is not None:
                return upright(samples[..., 0], layout.orientation)
            most = 2**layout.bits - 1
        with opened(file) as image:
            check_header(image, max_pixels)
            if image.mode not in ("1", "L", "P"):
                raise InputError(
                    f"its pixels are {image.mode}, not the 8 bits of gray or of a palette that labels are"
                )
            stored = _FEW_BITS.get(str(image.tile[0].args)) if image.format == "PNG" else None
            load(image)
            labels = np.array(image.convert("L") if image.mode == "1" else image)
            if image.mode == "1":
                most = 255
            elif image.mode == "L":  # Pillow spreads samples of few bits over 0 to 255.
                most = stored or most
                labels = np.rint(labels * (most / 255)).astype(np.uint8)
            if layout is not None and layout.photometric == WHITE_IS_ZERO:
                labels = most - labels
            return upright(labels, image.getexif().get(ExifTags.Base.Orientation, 1))


def _decode(path: Path, max_pixels: int) -> Decoded:
    with _telling_why_not(path), open_regular(path) as file:
        if _is_tiff(file):
            return decode_tiff(file, max_pixels)
        most = _netpbm_most(file)
        if most > 255:  # Pillow would cut them to 8 bits.
            raise InputError(f"its samples go up to {most}; of PGM and PPM files 255 is read")
        return decode_with_pillow(file, max_pixels)


@contextlib.contextmanager
def _telling_why_not(path: Path) -> Iterator[None]:
    """Turns whatever reading an image file raises into an InputError with the file and the reason."""
    try:
        yield
    except Exception as error:  # Decoders raise all sorts of things on a damaged file.
        said = (str(error).strip().splitlines() or [type(error).__name__])[0]
        if isinstance(error, InputError):
            reason = said
        elif isinstance(error, MemoryError):
            reason = "not enough memory"
        elif isinstance(error, Image.UnidentifiedImageError):
            reason = "it is damaged, or no BMP, JPEG, PGM, PNG, PPM, TIFF or WebP file"
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
    """The largest sample that the header of a PGM or PPM file allows; 255 of other files."""
    header = re.sub(rb"#[^\n]*\n", b" ", file.read(4096)).split(maxsplit=4)
    file.seek(0)
    known = len(header) > 3 and header[0] in _NETPBM_STARTS and header[3].isdigit()
    return int(header[3]) if known else 255
