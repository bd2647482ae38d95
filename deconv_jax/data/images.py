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

import collections
import contextlib
import dataclasses
import io
import math
import os
import re
import struct
import threading
import zlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Literal, NamedTuple

import numpy as np
import tifffile
from jaxtyping import Float, UInt8
from PIL import ExifTags, Image

from deconv_jax.data.tiff import (
    BLACK_IS_ZERO,
    RGB,
    TIFF_STARTS,
    WHITE_IS_ZERO,
    TiffLayout,
    read_layout,
    read_samples,
    with_plain_tags,
)
from deconv_jax.errors import InputError, did_you_mean
from deconv_jax.io import kind_of, open_regular, write_atomically
from deconv_jax.ops.color import rgb_to_gray_uint8, rgb_to_y_uint8

Color = Literal["rgb", "gray", "y"]
"""What the pixels of image files are turned into, see `read_pixels`."""

_NETPBM_STARTS = (b"P2", b"P3", b"P5", b"P6")
"""Of Netpbm files whose samples may have 16 bits."""
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
JPEG_QUALITY = 95

_BAND = 256
"""Rows that are converted at a time when writing."""

_OPENED = tuple(sorted(set(FORMATS.values())))
_PNG_START = b"\x89PNG\r\n\x1a\n"
_PNG_COLOR_TYPES = {1: 0, 2: 4, 3: 2, 4: 6}
"""By number of channels: gray, gray and alpha, RGB, RGBA."""
_REFUSED = {"I": "32-bit integers", "F": "floats", "LAB": "Lab colours"}
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
_FEW_BITS = {"L;2": 3, "L;4": 15}
"""The largest sample of gray PNG files with few bits, by Pillow's names for these."""
_PER_INCH = {2: 1.0, 3: 2.54}
"""Factors to pixels per inch, by the number of the unit in EXIF and TIFF: inch, centimetre."""
_MOST_DPI = 65_535
_STDERR = 2
_limit = threading.Lock()


OTHER_FORMAT = "of a format that is not read here"
LINKED = "links to folders, which are not followed"
HIDDEN = "hidden"
UNREADABLE = "folders that cannot be read"


class Survey(NamedTuple):
    """Files of a folder.

    Attributes:
      files: those that were looked for.
      left_out: the others, and folders that were not entered, by the reason.
    """

    files: list[Path]
    left_out: dict[str, list[Path]]


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


@dataclasses.dataclass(frozen=True, eq=False)
class _Decoded:
    """A file's samples (height, width, channels), uint8 or uint16; an even last one is alpha."""

    samples: np.ndarray
    mode: str
    format: str
    icc_profile: bytes | None = None
    exif: bytes | None = None
    dpi: tuple[float, float] | None = None
    notes: tuple[str, ...] = ()


def list_images(folder: Path) -> list[Path]:
    """The image files in a folder and its subfolders, by their endings, sorted by their paths.

    Hidden files and folders are left out, and so are links to folders.

    Raises:
      InputError: there is no such folder, or a folder in it cannot be read.
    """
    return survey(folder, complete=True).files


def survey(
    folder: Path, endings: Collection[str] = tuple(FORMATS), *, complete: bool = False
) -> Survey:
    """Find the files in a folder and its subfolders that have one of the endings, and what else is there.

    Args:
      folder: where to look.
      endings: of the files' names, in small letters.
      complete: whether a subfolder that cannot be read is an error, and not left out.

    Raises:
      InputError: there is no such folder, or it cannot be read.
    """
    if kind_of(folder) != "folder":
        raise InputError(f"no folder {folder}")
    found: list[Path] = []
    left_out: dict[str, list[Path]] = collections.defaultdict(list)

    def unreadable(error: OSError) -> None:
        path = Path(error.filename)
        if complete or path == folder:
            raise InputError(f"cannot read folder {path}: {error.strerror}") from error
        left_out[UNREADABLE].append(path)

    for parent, folders, names in os.walk(folder, onerror=unreadable):
        left_out[HIDDEN] += [Path(parent, n) for n in (*folders, *names) if n.startswith(".")]
        folders[:] = [name for name in folders if not name.startswith(".")]
        paths = [Path(parent, name) for name in names if not name.startswith(".")]
        found += [path for path in paths if path.suffix.lower() in endings]
        left_out[OTHER_FORMAT] += [path for path in paths if path.suffix.lower() not in endings]
        below = [Path(parent, name) for name in folders]
        left_out[LINKED] += [path for path in below if path.is_symlink()]

    def place(path: Path) -> str:
        return path.relative_to(folder).as_posix()

    found.sort(key=place)
    return Survey(
        found, {why: sorted(paths, key=place) for why, paths in left_out.items() if paths}
    )


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
    return read_plain(path, color, max_pixels)[0]


def read_plain(
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
    samples = _plain(decoded.samples)
    if color == "rgb":
        samples = np.broadcast_to(samples, (*samples.shape[:2], 3)).copy()
    elif color is not None and samples.shape[-1] == 3:
        samples = np.asarray((rgb_to_y_uint8 if color == "y" else rgb_to_gray_uint8)(samples))
    return samples, words


def _plain(samples: np.ndarray) -> np.ndarray:
    """Samples of 8 bits without alpha."""
    if samples.dtype == np.uint16:
        samples = ((samples.astype(np.uint32) + 128) // 257).astype(np.uint8)
    return _on_white(samples) if samples.shape[-1] % 2 == 0 else samples


def _on_white(samples: np.ndarray) -> np.ndarray:
    """Samples with alpha laid on white, of their own type."""
    most = np.iinfo(samples.dtype).max
    pixels, alpha = samples[..., :-1].astype(np.uint64), samples[..., -1:].astype(np.uint64)
    mixed = pixels * alpha + most * (most - alpha)
    return ((mixed + most // 2) // most).astype(samples.dtype)


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
            layout, samples, _ = _read_tiff(file, max_pixels)
            if layout.color_samples > 1 or layout.extras or layout.bits > 8:
                raise InputError(
                    f"it has {layout.described()}, not one of up to 8 bits as labels have"
                )
            if samples is not None:
                return _upright(samples[..., 0], layout.orientation)
            most = 2**layout.bits - 1
        with _opened(file) as image:
            _check_header(image, max_pixels)
            if image.mode not in ("1", "L", "P"):
                raise InputError(
                    f"its pixels are {image.mode}, not the 8 bits of gray or of a palette that labels are"
                )
            stored = _FEW_BITS.get(str(image.tile[0].args)) if image.format == "PNG" else None
            _load(image)
            labels = np.array(image.convert("L") if image.mode == "1" else image)
            if image.mode == "1":
                most = 255
            elif image.mode == "L":  # Pillow spreads samples of few bits over 0 to 255.
                most = stored or most
                labels = np.rint(labels * (most / 255)).astype(np.uint8)
            if layout is not None and layout.photometric == WHITE_IS_ZERO:
                labels = most - labels
            return _upright(labels, image.getexif().get(ExifTags.Base.Orientation, 1))


def _decode(path: Path, max_pixels: int) -> _Decoded:
    with _telling_why_not(path), open_regular(path) as file:
        if _is_tiff(file):
            return _decode_tiff(file, max_pixels)
        most = _netpbm_most(file)
        if most > 255:  # Pillow would cut them to 8 bits.
            raise InputError(f"its samples go up to {most}; of PGM and PPM files 255 is read")
        return _decode_with_pillow(file, max_pixels)


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


def _check_size(width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise InputError(f"it has {width} x {height} pixels; the limit is {max_pixels} in all")


@contextlib.contextmanager
def _without_limit() -> Iterator[None]:
    """Pillow's own limit of pixels, a variable of the whole program, gives way to ours."""
    with _limit:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = limit


@contextlib.contextmanager
def _opened(file: BinaryIO) -> Iterator[Any]:
    """An image of which Pillow has read the header."""
    file.seek(0)
    with _without_limit():
        image = Image.open(file, formats=_OPENED)
    with image:
        yield image


def _check_header(image: Any, max_pixels: int) -> None:
    """Raises for an image that is too large or not the only one in its file."""
    _check_size(image.width, image.height, max_pixels)
    # A TIFF file's pages were counted by their kinds; a JPEG file's others are previews and the like.
    frames = getattr(image, "n_frames", 1)
    if frames > 1 and image.format not in ("TIFF", "MPO"):
        raise InputError(f"it has {frames} frames; only files with one image are read")


def _load(image: Any) -> None:
    """Decodes an image of which the header was read."""
    if image.format != "TIFF":
        image.load()
        return
    # Of TIFF files Pillow looks at the size again before it decodes them.
    with _without_limit(), _without_libtiffs_words():
        image.load()


@contextlib.contextmanager
def _without_libtiffs_words() -> Iterator[None]:
    """libtiff writes what is wrong with a file to the standard error of the process, from C."""
    try:
        kept = os.dup(_STDERR)
    except OSError:  # There is none.
        yield
        return
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), _STDERR)
    try:
        yield
    finally:
        os.dup2(kept, _STDERR)
        os.close(kept)


def _decode_with_pillow(file: BinaryIO, max_pixels: int) -> _Decoded:
    with _opened(file) as image:
        _check_header(image, max_pixels)
        others = image.n_frames - 1 if image.format == "MPO" else 0
        mode, kind = image.mode, image.format.replace("MPO", "JPEG")
        samples_kind = image.tile[0].args if kind == "PNG" else None
        _load(image)
        samples = _samples(image)
        transparent = image.info.get("transparency")
        # After the pixels: some PNG files have it there, and TIFF files are upright by now.
        exif = image.getexif()
        turned = exif.get(ExifTags.Base.Orientation, 1)
        kept, dpi = _kept_exif(exif, kind), _resolution(kind, image.info, exif)
        profile = image.info.get("icc_profile") or None
    if samples_kind in ("RGB;16B", "RGBA;16B", "LA;16B"):
        mode, samples = samples_kind[:-4], _decode_wide_png(file, samples_kind)
    if samples.dtype == np.uint16 and samples.shape[-1] % 2 and transparent is not None:
        seen = (samples != np.array(transparent)).any(axis=-1, keepdims=True)
        samples = np.concatenate([samples, np.where(seen, 65535, 0).astype(np.uint16)], axis=-1)
    notes = []
    if mode == "CMYK":
        notes.append(f"CMYK converted to RGB{', without its colour profile' if profile else ''}")
        profile = None
    if exif and kept is None and set(exif) - {ExifTags.Base.Orientation} and kind != "TIFF":
        notes.append("EXIF data that cannot be copied left out")
    if others:
        notes.append(f"{_counted(others, 'further picture')} in the file left out")
    samples = np.ascontiguousarray(_upright(samples, turned))
    return _Decoded(samples, mode, kind, profile, kept, dpi, tuple(notes))


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _kept_exif(exif: Any, kind: str) -> bytes | None:
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


def _resolution(kind: str, info: Mapping[str, Any], exif: Any) -> tuple[float, float] | None:
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


def _samples(image: Any) -> np.ndarray:
    """The samples (height, width, channels) of a decoded file, in Pillow's own depth."""
    if image.mode.startswith("I;16"):
        return np.asarray(image).astype(np.uint16)[..., None]
    if image.mode in _REFUSED:
        raise InputError(f"its pixels are {_REFUSED[image.mode]}, not 8 or 16 bits of gray or RGB")
    wanted = "L" if image.mode in ("1", "L", "LA", "La") else "RGB"
    if image.has_transparency_data:
        wanted += "A"
    return np.asarray(image.convert(wanted)).reshape(image.height, image.width, len(wanted))


def _decode_wide_png(file: BinaryIO, samples_kind: str) -> np.ndarray:
    """The 16-bit samples of a colour PNG."""
    if samples_kind == "LA;16B":  # Its four bytes a pixel pass for RGBA of 8 bits.
        with _opened(file) as image:
            image.tile = [image.tile[0]._replace(args="RGBA")]
            pairs = np.asarray(image).astype(np.uint16)
        return pairs[..., 0::2] << 8 | pairs[..., 1::2]
    return _read_twice(file, samples_kind, samples_kind.replace("16B", "16L"))


def _read_twice(file: BinaryIO, upper: str, lower: str) -> np.ndarray:
    """16-bit samples of which Pillow gives one byte or the other, by the names that these have there."""

    def read(byte: str) -> np.ndarray:
        with _opened(file) as image:
            tile = image.tile[0]
            args = byte if isinstance(tile.args, str) else (byte, *tile.args[1:])
            image.tile = [tile._replace(args=args)]
            _load(image)
            return np.asarray(image).astype(np.uint16)

    return read(upper) << 8 | read(lower)


def _read_tiff(file: BinaryIO, max_pixels: int) -> tuple[TiffLayout, np.ndarray | None, Any]:
    """Return the layout of a TIFF file, its samples (None if Pillow has to decode them) and its EXIF data."""
    with tifffile.TiffFile(file) as tiff:
        layout = read_layout(tiff)
        _check_size(layout.size[1], layout.size[0], max_pixels)
        samples = read_samples(tiff, layout)
        exif = Image.Exif()
        exif.endian, exif.bigtiff = tiff.byteorder, tiff.is_bigtiff
        # Pillow cannot read the directories of a big-endian BigTIFF file.
        with contextlib.suppress(struct.error):
            exif.load_from_fp(file, tiff.pages[0].offset)
    return layout, samples, exif


def _decode_tiff(file: BinaryIO, max_pixels: int) -> _Decoded:
    layout, samples, exif = _read_tiff(file, max_pixels)
    if samples is None and layout.bits < 16:
        try:
            decoded = _decode_with_pillow(file, max_pixels)
        except Image.UnidentifiedImageError as error:
            raise InputError(f"it is damaged, or {layout.described()} are not read") from error
    else:
        pixels = layout.pixels(_decode_wide_tiff(file, layout) if samples is None else samples)
        pixels = np.ascontiguousarray(_upright(pixels, layout.orientation))
        mode = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}[pixels.shape[-1]]
        kept, dpi = _kept_exif(exif, "TIFF"), _resolution("TIFF", {}, exif)
        decoded = _Decoded(pixels, mode, "TIFF", layout.icc_profile, kept, dpi)
    notes = list(decoded.notes)
    if layout.unused:
        notes.append(f"{_counted(layout.unused, 'sample')} a pixel of no stated meaning left out")
    if layout.copies:
        notes.append(f"{_counted(layout.copies, 'further page')} (reduced copies, masks) left out")
    return dataclasses.replace(decoded, notes=tuple(notes))


def _decode_wide_tiff(file: BinaryIO, layout: TiffLayout) -> np.ndarray:
    """The 16-bit samples of a TIFF file that tifffile cannot decode."""
    channels = layout.color_samples + len(layout.extras)
    if layout.photometric not in (WHITE_IS_ZERO, BLACK_IS_ZERO, RGB):
        raise InputError("its 16-bit samples are neither gray nor RGB")
    kinds = (layout.color_samples, len(layout.extras))
    if kinds not in ((1, 0), (3, 0), (3, 1)) or (channels > 1 and layout.planes):
        raise InputError(f"{layout.described()} are not read; with compression 1 (none) they are")
    plain = with_plain_tags(file)
    if channels > 1:
        name = {3: "RGB", 4: "RGBA"}[channels]
        return _read_twice(plain, f"{name};16L", f"{name};16B")
    with _opened(plain) as image:
        _load(image)
        return np.asarray(image).astype(np.uint16)[..., None]


def _upright(samples: np.ndarray, orientation: int) -> np.ndarray:
    """Undoes an EXIF orientation, 1 to 8; other numbers mean nothing."""
    if orientation in (5, 6, 7, 8):
        samples = samples.swapaxes(0, 1)
    flip_rows = orientation in (3, 4, 7, 8)
    flip_columns = orientation in (2, 3, 6, 7)
    return samples[:: -1 if flip_rows else 1, :: -1 if flip_columns else 1]


def write_image(
    path: Path,
    pixels: Float[np.ndarray, "height width channels"] | UInt8[np.ndarray, "height width channels"],
    like: ImageFile | None = None,
) -> None:
    """Writes an image file, whole or not at all, in the format of its name's ending.

    BMP, PNG, TIFF (not compressed) and WebP are lossless, JPEG has quality 95 and full colour
    resolution. 16 bits go into PNG and TIFF, alpha into PNG, TIFF and WebP; elsewhere samples are
    rounded to 8 bits and what is transparent is laid on white. WebP has no gray: its three
    channels are equal.

    Args:
      path: the file to make or replace.
      pixels: one or three channels in [0, 1], what is beyond is clipped; or uint8, written as they
        are, for which there is no `like`.
      like: gives bit depth, alpha (resized bicubically to the size of `pixels`), ICC profile
        (if gray stayed gray and colour colour), EXIF data (not for colour TIFF of 16 bits) and
        resolution; without it the file has 8 bits and none of these. A palette is not made again.

    Raises:
      InputError: an unknown ending, pixels that are NaN or of another shape, more pixels than the
        format has room for, or the file cannot be written.
    """
    suffix = path.suffix.lower()
    if suffix not in FORMATS:
        raise InputError(f"no image format for {path}; {did_you_mean(suffix, FORMATS)}")
    if pixels.ndim != 3 or pixels.shape[-1] not in (1, 3) or pixels.size == 0:
        raise InputError(f"an image is (height, width, 1 or 3); got {pixels.shape} for {path}")
    if np.isnan(np.min(pixels)):
        raise InputError(f"pixels for {path} are NaN")
    kind = FORMATS[suffix]
    values = [pixels]
    if like is not None and like.alpha is not None:
        values.append(_resized(like.alpha, (pixels.shape[0], pixels.shape[1])))
    wide = like is not None and like.bit_depth == 16 and kind in ("PNG", "TIFF")
    whole = like is None and pixels.dtype == np.uint8
    samples = pixels if whole else _samples_of(values, np.uint16 if wide else np.uint8)
    if kind in ("BMP", "JPEG", "PPM") and samples.shape[-1] % 2 == 0:
        samples = _on_white(samples)
    same_colors = like is not None and like.pixels.shape[-1] == pixels.shape[-1]
    profile = like.icc_profile if like is not None and same_colors else None
    exif = like.exif if like is not None else None
    try:
        encoded = _encode(kind, samples, profile, exif, like.dpi if like is not None else None)
    except (OSError, ValueError, RuntimeError, struct.error) as error:
        raise InputError(f"cannot write {path} as {kind}: {error}") from error
    write_atomically(path, lambda file: file.write(encoded))


def _samples_of(values: Sequence[np.ndarray], dtype: type) -> np.ndarray:
    """Arrays of channels in [0, 1], clipped and rounded to whole numbers, side by side.

    In bands of rows: of a large image, copies in double precision would be what takes the memory.
    """
    height, width = values[0].shape[:2]
    channels = sum(v.shape[-1] for v in values)
    samples = np.empty((height, width, channels), dtype)
    for top in range(0, height, _BAND):
        band = np.concatenate([v[top : top + _BAND] for v in values], axis=-1)
        scaled = np.clip(band, 0.0, 1.0).astype(np.float64) * np.iinfo(dtype).max
        samples[top : top + _BAND] = np.rint(scaled)
    return samples


def _resized(alpha: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    if alpha.shape[:2] == size:
        return alpha
    resized = Image.fromarray(alpha[..., 0]).resize(size[::-1], Image.Resampling.BICUBIC)
    return np.clip(np.asarray(resized)[..., None], 0.0, 1.0)


def _encode(
    kind: str,
    samples: np.ndarray,
    profile: bytes | None,
    exif: bytes | None,
    dpi: tuple[float, float] | None,
) -> bytes:
    """The bytes of a file."""
    channels = samples.shape[-1]
    if samples.dtype == np.uint16 and kind == "PNG":
        return _encode_wide_png(samples, profile, exif, dpi)
    file = io.BytesIO()
    if samples.dtype == np.uint16 and channels > 1:
        tifffile.imwrite(
            file,
            samples,
            photometric="rgb" if channels > 2 else "minisblack",
            extrasamples=["unassalpha"] if channels % 2 == 0 else None,
            planarconfig="contig",
            iccprofile=profile,
            resolution=dpi,
            resolutionunit="inch" if dpi is not None else None,
            metadata=None,
        )
        return file.getvalue()
    defaults: dict[str, dict[str, Any]] = {
        "JPEG": {"quality": JPEG_QUALITY, "subsampling": "4:4:4"},
        "WEBP": {"lossless": True, "exact": True},
    }
    options = dict(defaults.get(kind, {}))
    if profile is not None:
        options["icc_profile"] = profile
    if exif is not None:
        options["exif"] = exif
    if dpi is not None:
        options["dpi"] = dpi
    Image.fromarray(samples[..., 0] if channels == 1 else samples).save(file, kind, **options)
    return file.getvalue()


def _encode_wide_png(
    samples: np.ndarray,
    profile: bytes | None,
    exif: bytes | None,
    dpi: tuple[float, float] | None,
) -> bytes:
    """A PNG file of 16-bit samples (W3C, PNG specification), each row less the one above it."""
    height, width, channels = samples.shape
    rows = samples.astype(">u2").reshape(height, -1).view(np.uint8)
    filtered = np.full((height, 1 + rows.shape[1]), 2, np.uint8)
    filtered[:, 1:] = np.diff(rows, axis=0, prepend=np.zeros_like(rows[:1]))
    header = struct.pack(">IIBBBBB", width, height, 16, _PNG_COLOR_TYPES[channels], 0, 0, 0)
    chunks = [(b"IHDR", header)]
    if profile is not None:
        chunks.append((b"iCCP", b"ICC profile\0\0" + zlib.compress(profile)))
    if dpi is not None:  # In pixels per metre.
        chunks.append((b"pHYs", struct.pack(">IIB", *(round(n / 0.0254) for n in dpi), 1)))
    if exif is not None:
        chunks.append((b"eXIf", exif.removeprefix(b"Exif\0\0")))
    chunks += [(b"IDAT", zlib.compress(filtered.tobytes())), (b"IEND", b"")]
    return _PNG_START + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )
