"""EXIF data and resolution, as far as a copy of an image keeps them."""

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
"""What of a TIFF file's tags is about the picture; the others are about the file."""

_GROUPS = (ExifTags.Base.ExifOffset, ExifTags.Base.GPSInfo)

_PER_INCH = {2: 1.0, 3: 2.54}
"""Factors to pixels per inch, by the number of the unit in EXIF and TIFF: inch, centimetre."""

_MOST_DPI = 65_535


def kept_exif(exif: Any, kind: str) -> bytes | None:
    """EXIF data for a copy of a file of some format, without the orientation.

    None also for data that Pillow cannot write again: tags of other types than the standard's.
    """
    kept = Image.Exif()  # A new one, since that of a TIFF file would be written as a TIFF file.
    for tag in exif:
        if tag != ExifTags.Base.Orientation and (kind != "TIFF" or tag in _DESCRIPTIVE):
            kept[tag] = exif.get_ifd(tag) or exif[tag] if tag in _GROUPS else exif[tag]
    try:
        return kept.tobytes() if kept else None
    except (TypeError, ValueError, OverflowError, AttributeError, struct.error):
        return None


def resolution(kind: str, info: Mapping[str, Any], exif: Any) -> tuple[float, float] | None:
    """Pixels per inch, of the format's own place or else of EXIF data; Pillow makes some up."""
    if kind in ("BMP", "PNG") or info.get("jfif_unit") in (1, 2):
        values = info.get("dpi", ())
    else:
        factor = _PER_INCH.get(exif.get(ExifTags.Base.ResolutionUnit, 2), math.nan)
        tags = (ExifTags.Base.XResolution, ExifTags.Base.YResolution)
        try:
            values = [factor * float(exif.get(tag, math.nan)) for tag in tags]
        except (TypeError, ValueError):  # Text, where the standard has a number.
            values = []
    known = len(values) == 2 and all(0 < value <= _MOST_DPI for value in values)
    return (float(values[0]), float(values[1])) if known else None
