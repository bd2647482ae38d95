"""The content of an image file, and the supported formats."""

import dataclasses
from typing import Literal

import numpy as np
from jaxtyping import Float

Color = Literal["rgb", "gray", "y"]
"""Channels that an image file is converted to: RGB, luma, or the Y of MATLAB's `rgb2ycbcr`, from 16 to 235.

A gray file is not changed by "gray" and "y"; see `read_pixels`.
"""

FORMATS = {
    ".avif": "AVIF",
    ".bmp": "BMP",
    ".heic": "HEIF",
    ".heif": "HEIF",
    ".jpeg": "JPEG",
    ".jpg": "JPEG",
    ".pgm": "PPM",
    ".png": "PNG",
    ".ppm": "PPM",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".webp": "WEBP",
}
"""Formats by file suffix in lower case."""

LOSSY_FORMATS = ("AVIF", "HEIF", "JPEG")
"""Formats that `write_image` encodes with losses beyond rounding."""

MAX_PIXELS = 250_000_000
"""Default limit of height times width, above which a file is not decoded."""


@dataclasses.dataclass(frozen=True, eq=False)
class ImageFile:
    """The content of an image file.

    Attributes:
      pixels: Upright image (height, width, 1 or 3) in [0, 1].
      alpha: Opacity (height, width, 1) in [0, 1], if the file has it. Pixels are not premultiplied.
      bit_depth: 8 or 16; 8 also for files with fewer bits.
      mode: Pillow's mode of the file, such as "L", "P", "RGBA" or "CMYK".
      icc_profile: Color profile of `pixels`, as stored; None for none and for CMYK.
      exif: EXIF data without the orientation; for a TIFF file, only tags that describe the picture.
      format: "AVIF", "BMP", "HEIF", "JPEG", "PNG", "PPM" (also for PGM), "TIFF" or "WEBP".
      dpi: Horizontal and vertical resolution in pixels per inch, if the file has it.
      notes: Messages about content that was left out or converted, such as "CMYK converted to RGB".
      jpeg_table: Quantization steps of the luma of a JPEG file, by vertical and horizontal frequency, if the blocks of
        8 x 8 pixels start at the first pixel; None for other files.
    """

    pixels: Float[np.ndarray, "height width channels"]
    alpha: Float[np.ndarray, "height width 1"] | None
    bit_depth: int
    mode: str
    icc_profile: bytes | None
    exif: bytes | None
    format: str
    dpi: tuple[float, float] | None = None
    notes: tuple[str, ...] = ()
    jpeg_table: Float[np.ndarray, "8 8"] | None = None
