"""Read, write and list image files without losing information silently.

`read_image` returns all that a restored copy should share with its original: bit depth, gray or color, alpha,
ICC profile and EXIF data. `read_pixels` is the short form for data sets: 8 bits, one or three channels.
`write_image` writes a copy, and `list_images` finds the image files of a folder. Pixel values are those of the
file: no color profile is applied, and no gamma correction is undone.

    file                           pixels
    black and white, gray          one channel
    palette                        expanded to RGB, with alpha if the palette has transparency
    YCbCr, HSV                     converted to RGB by Pillow
    CMYK                           converted to RGB without color management, with a note
    one transparent color         alpha
    orientation in EXIF or TIFF    applied, and removed from the EXIF data
    several pages or frames        error
    further pictures in a JPEG     left out, with a note
    or HEIC, reduced copies in a TIFF
    samples of unknown meaning     left out, with a note
    10 and 12 bits in HEIC         scaled to 16 bits
    10 and 12 bits in AVIF         rounded to 8 bits by Pillow, with a note
    signed integers, floats,       error
    32-bit integers, Lab

HEIC files require pillow-heif, and a few compressed 16-bit TIFF files imagecodecs (the extra `formats`).

Note:
  Pillow silently reduces 16-bit color to 8 bits. Such PNG files are therefore decoded in two passes, one for
  each byte, and most TIFF files by tifffile.
"""

from deconv_jax.data.images.image_file import FORMATS, LOSSY_FORMATS, MAX_PIXELS, Color, ImageFile
from deconv_jax.data.images.listing import (
    SKIPPED_HIDDEN,
    SKIPPED_LINK,
    SKIPPED_OTHER_FORMAT,
    SKIPPED_UNREADABLE,
    FileListing,
    list_files,
    list_images,
)
from deconv_jax.data.images.read import read_8bit, read_image, read_labels, read_pixels
from deconv_jax.data.images.write import JPEG_QUALITY, write_image

__all__ = [
    "FORMATS",
    "JPEG_QUALITY",
    "LOSSY_FORMATS",
    "MAX_PIXELS",
    "SKIPPED_HIDDEN",
    "SKIPPED_LINK",
    "SKIPPED_OTHER_FORMAT",
    "SKIPPED_UNREADABLE",
    "Color",
    "FileListing",
    "ImageFile",
    "list_files",
    "list_images",
    "read_8bit",
    "read_image",
    "read_labels",
    "read_pixels",
    "write_image",
]
