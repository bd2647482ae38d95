"""EXIF data and resolution that a copy of an image keeps."""

import math
import struct
from collections.abc import Mapping
from typing import Any

from PIL import ExifTags, Image

_DESCRIPTIVE = frozenset(
    {
        ExifTags.Base.ImageDescription,
        ExifTags.Base.Make,
        ExifTags.Base.Model,
        ExifTags.Base.XResolution,
        ExifTags.Base.YResolution,
        ExifTags.Base.ResolutionUnit,
        ExifTags.Base.Software,
        ExifTags.Base.DateTime,
        ExifTags.Base.Artist,
        ExifTags.Base.Copyright,
        ExifTags.Base.ExifOffset,
        ExifTags.Base.GPSInfo,
    }
)
"""TIFF tags that describe the picture. The others describe the file."""

_GROUPS = (ExifTags.Base.ExifOffset, ExifTags.Base.GPSInfo)

_PER_INCH = {2: 1.0, 3: 2.54}
"""Factor to pixels per inch for each resolution unit of EXIF and TIFF: inch, centimeter."""

_MOST_DPI = 65_535


def kept_exif(exif: Any, kind: str) -> bytes | None:
    """Return the EXIF data for a copy of a file, without the orientation; None if nothing is left.

    None also for data that Pillow cannot write again, such as tags of a non-standard type.

    Args:
      exif: Pillow's EXIF data of the file.
      kind: Pillow's format of the file. For "TIFF", only tags that describe the picture are kept.
    """
    # Copy to a new object, because Pillow writes that of a TIFF file as a whole TIFF file.
    kept = Image.Exif()
    for tag in exif:
        if tag != ExifTags.Base.Orientation and (kind != "TIFF" or tag in _DESCRIPTIVE):
            kept[tag] = exif.get_ifd(tag) or exif[tag] if tag in _GROUPS else exif[tag]
    try:
        return kept.tobytes() if kept else None
    except (TypeError, ValueError, OverflowError, AttributeError, struct.error):
        return None


def resolution(kind: str, info: Mapping[str, Any], exif: Any) -> tuple[float, float] | None:
    """Return the horizontal and vertical pixels per inch, or None if unknown or not in (0, 65535].

    BMP, PNG and JPEG files with a JFIF unit have their own field, and EXIF is then not consulted. For others,
    EXIF gives the value. Pillow's defaults are ignored.

    Args:
      kind: Pillow's format of the file.
      info: Pillow's `info` of the image.
      exif: Pillow's EXIF data of the file.
    """
    if kind in ("BMP", "PNG") or info.get("jfif_unit") in (1, 2):
        values = info.get("dpi", ())
    else:
        factor = _PER_INCH.get(exif.get(ExifTags.Base.ResolutionUnit, 2), math.nan)
        tags = (ExifTags.Base.XResolution, ExifTags.Base.YResolution)
        try:
            values = [factor * float(exif.get(tag, math.nan)) for tag in tags]
        except (TypeError, ValueError):  # Text instead of a number.
            values = []
    known = len(values) == 2 and all(0 < value <= _MOST_DPI for value in values)
    return (float(values[0]), float(values[1])) if known else None
