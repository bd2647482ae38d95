"""The content of an image file, and the formats that are read and written."""

import dataclasses
from typing import Literal

import numpy as np
from jaxtyping import Float

Color = Literal["rgb", "gray", "y"]
"""What the pixels of image files are turned into, see `read_pixels`."""

FORMATS = {
    ".bmp": "BMP",
    ".jpeg": "JPEG",
    ".jpg": "JPEG",
    ".pgm": "PPM",
    ".png": "PNG",
    ".ppm": "PPM",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".webp": "WEBP",
}
"""The formats that file name endings, in small letters, stand for."""

MAX_PIXELS = 250_000_000
"""Height times width up to which a file is decoded, unless told otherwise."""


@dataclasses.dataclass(frozen=True, eq=False)
class ImageFile:
    """What was in an image file.

    Attributes:
      pixels: upright, (height, width, 1 or 3), in [0, 1].
      alpha: opacity (height, width, 1) in [0, 1], if the file has it; pixels are not multiplied
        by it.
      bit_depth: 8 or 16; 8 too for files of fewer bits.
      mode: the file's kind of pixels in Pillow's word, such as "L", "P", "RGBA" or "CMYK".
      icc_profile: the colour profile of `pixels`, as stored; None for none, and for CMYK.
      exif: EXIF data without an orientation; of a TIFF file what describes the picture.
      format: "BMP", "JPEG", "PNG", "PPM" (PGM too), "TIFF" or "WEBP".
      dpi: resolution for print, horizontal and vertical, pixels per inch, if the file has it.
      notes: what reading the file left out or converted, such as "CMYK converted to RGB".
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
