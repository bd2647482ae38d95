"""Image files, read as they are, written as they were, refused with a reason.

`read_image` keeps what a restored copy has to share with its original: bit depth, gray or colour,
alpha, ICC profile, EXIF data. `read_pixels` is the short form for data sets: 8 bits, one or three
channels. Pixels are numbers as stored: no colour profile is applied, nothing is made linear in
light. What a reader would get wrong: Pillow reads 16-bit colour as 8 bits without a word, so such
files are decoded here in two passes, one for each byte, and most TIFF files by tifffile.

    file                           pixels
    black and white, gray          one channel
    palette                        expanded: RGB, with alpha if the palette has transparency
    YCbCr, HSV                     converted to RGB by Pillow
    CMYK                           likewise, without colour management; a note says so
    one transparent colour         alpha
    orientation in EXIF or TIFF    applied, and no longer in the EXIF data
    several pages or frames        refused
    further pictures in a JPEG,    left out; a note says so
    reduced copies in a TIFF
    samples without a meaning      left out; a note says so
    signed integers, floats,       refused
    32-bit integers, Lab
"""

from deconv_jax.data.images.image_file import FORMATS, MAX_PIXELS, Color, ImageFile
from deconv_jax.data.images.listing import (
    HIDDEN,
    LINKED,
    OTHER_FORMAT,
    UNREADABLE,
    FileListing,
    list_files,
    list_images,
)
from deconv_jax.data.images.read import read_8bit, read_image, read_labels, read_pixels
from deconv_jax.data.images.write import JPEG_QUALITY, write_image

__all__ = [
    "FORMATS",
    "HIDDEN",
    "JPEG_QUALITY",
    "LINKED",
    "MAX_PIXELS",
    "OTHER_FORMAT",
    "UNREADABLE",
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
