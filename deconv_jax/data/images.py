"""Image files, read as they are, written as they were, refused with a reason.

`read_image` keeps what a restored copy has to share with its original: bit depth, gray or colour,
alpha, ICC profile, EXIF data. `read_pixels` is the short form for data sets: 8 bits, one or three
channels. Pixels are numbers as stored: no colour profile is applied, nothing is made linear in
light. What a reader would get wrong: Pillow reads 16-bit colour as 8 bits without a word, so such
PNG files are decoded here in two passes, one for each byte, and such TIFF files by tifffile.

    file                           pixels
    black and white, gray          one channel
    palette                        expanded: RGB, with alpha if the palette has transparency
    CMYK, YCbCr, HSV               converted to RGB by Pillow, without colour management
    one transparent colour         alpha, but for 16 bits, where it is ignored
    orientation in EXIF or TIFF    applied, and no longer in the EXIF data
    several pages or frames        the first
    floats, 32-bit integers, Lab   refused
"""

import contextlib
import dataclasses
import io
import os
import re
import struct
import threading
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
import tifffile
from jaxtyping import Float, UInt8
from PIL import ExifTags, Image

from deconv_jax.errors import InputError, closest
from deconv_jax.files import write_atomically
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
_TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
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
_limit = threading.Lock()


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
      exif: EXIF data without an orientation; of a TIFF file what describes the picture, and None of
        one with 16-bit colour.
      format: "BMP", "JPEG", "PNG", "PPM" (PGM too), "TIFF" or "WEBP".
    """

    pixels: Float[np.ndarray, "height width channels"]
    alpha: Float[np.ndarray, "height width 1"] | None
    bit_depth: int
    mode: str
    icc_profile: bytes | None
    exif: bytes | None
    format: str


@dataclasses.dataclass(frozen=True, eq=False)
class _Decoded:
    """A file's samples (height, width, channels), uint8 or uint16; an even last one is alpha."""

    samples: np.ndarray
    mode: str
    format: str
    icc_profile: bytes | None = None
    exif: bytes | None = None


def list_images(folder: Path) -> list[Path]:
    """The image files in a folder and its subfolders, by their endings, sorted by their paths.

    Hidden files and folders are left out.

    Raises:
      InputError: there is no such folder.
    """
    if not folder.is_dir():
        raise InputError(f"no folder {folder}")
    found = []
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        places = [Path(parent, name) for name in names if not name.startswith(".")]
        found += [path for path in places if path.suffix.lower() in FORMATS]
    return sorted(found, key=lambda path: path.relative_to(folder).as_posix())


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
    samples = _plain(_decode(path, max_pixels).samples)
    if color == "rgb":
        return np.broadcast_to(samples, (*samples.shape[:2], 3)).copy()
    if samples.shape[-1] == 1:
        return samples
    return np.asarray((rgb_to_y_uint8 if color == "y" else rgb_to_gray_uint8)(samples))


def read_plain(
    path: Path, max_pixels: int = MAX_PIXELS
) -> tuple[UInt8[np.ndarray, "height width channels"], tuple[str, ...]]:
    """The pixels of an image file, gray or RGB as it is, with 8 bits and opaque; and what that loses.

    Args and errors as for `read_image`. Losses are words such as "laid on white".
    """
    decoded = _decode(path, max_pixels)
    lost = {
        "laid on white": decoded.samples.shape[-1] % 2 == 0,
        "rounded to 8 bits": decoded.samples.dtype == np.uint16,
        "without its colour profile": bool(decoded.icc_profile),
    }
    return _plain(decoded.samples), tuple(words for words, happened in lost.items() if happened)


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
    """Reads an image file whose pixels are numbers of classes or objects: as stored, 8 bits.

    Of a file with a palette they are the places in it, not the colours; of a black and white one 0
    and 255.

    Args:
      path: as for `read_image`.
      max_pixels: as for `read_image`.

    Raises:
      InputError: as `read_image`, or the file has colours, alpha or more than 8 bits.
    """
    with _telling_why_not(path), path.open("rb") as file, _opened(file) as image:
        _check_size(image.width, image.height, max_pixels)
        if image.mode not in ("1", "L", "P"):
            raise ValueError(
                f"its pixels are {image.mode}, not the 8 bits of gray or of a palette that labels are"
            )
        return np.array(image.convert("L") if image.mode == "1" else image)


def _decode(path: Path, max_pixels: int) -> _Decoded:
    with _telling_why_not(path), path.open("rb") as file:
        start = file.read(4)
        file.seek(0)
        if start in _TIFF_STARTS:
            with tifffile.TiffFile(file) as tiff:
                page: Any = tiff.pages[0]
                _check_size(page.imagewidth, page.imagelength, max_pixels)
                if page.bitspersample not in (1, 4, 8, 16):
                    raise ValueError(f"its samples have {page.bitspersample} bits, not 8 or 16")
                if page.bitspersample == 16 and page.samplesperpixel > 1:
                    return _decode_wide_tiff(page)
        if start[:2] in _NETPBM_STARTS:
            _check_netpbm(file)
        return _decode_with_pillow(file, max_pixels)


@contextlib.contextmanager
def _telling_why_not(path: Path) -> Iterator[None]:
    """Turns whatever reading an image file raises into an InputError with the file and the reason."""
    try:
        yield
    except Exception as error:  # Decoders raise all sorts of things on a damaged file.
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        if isinstance(error, Image.UnidentifiedImageError):
            reason = "it is damaged, or no BMP, JPEG, PGM, PNG, PPM, TIFF or WebP file"
        elif isinstance(error, OSError) and error.strerror:
            reason = error.strerror
        raise InputError(f"cannot read image {path}: {reason}") from error


def _check_netpbm(file: BinaryIO) -> None:
    """Raises for a PGM or PPM file of more than 8 bits, which Pillow would cut to them."""
    header = re.sub(rb"#[^\n]*\n", b" ", file.read(4096)).split(maxsplit=4)
    file.seek(0)
    if len(header) > 3 and header[3].isdigit() and int(header[3]) > 255:
        raise ValueError(f"its samples go up to {int(header[3])}; of PGM and PPM files 255 is read")


def _check_size(width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise ValueError(f"it has {width} x {height} pixels; the limit is {max_pixels} in all")


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


def _decode_with_pillow(file: BinaryIO, max_pixels: int) -> _Decoded:
    with _opened(file) as image:
        _check_size(image.width, image.height, max_pixels)
        mode, kind = image.mode, image.format.replace("MPO", "JPEG")
        samples_kind = image.tile[0].args if kind == "PNG" else None
        # Of TIFF files Pillow looks at the size again before it decodes them.
        with _without_limit() if kind == "TIFF" else contextlib.nullcontext():
            image.load()
        samples = _samples(image)
        # After the pixels: some PNG files have it there, and TIFF files are upright by now.
        exif = image.getexif()
        turned = exif.get(ExifTags.Base.Orientation, 1)
        kept = Image.Exif()  # A new one, since that of a TIFF file would be written as a TIFF file.
        for tag in exif:
            if tag != ExifTags.Base.Orientation and (kind != "TIFF" or tag in _DESCRIPTIVE):
                kept[tag] = exif.get_ifd(tag) or exif[tag] if tag in _GROUPS else exif[tag]
        profile = image.info.get("icc_profile") if mode != "CMYK" else None
    if samples_kind in ("RGB;16B", "RGBA;16B", "LA;16B"):
        mode, samples = samples_kind[:-4], _decode_wide_png(file, samples_kind)
    samples = np.ascontiguousarray(_upright(samples, turned))
    return _Decoded(samples, mode, kind, profile or None, kept.tobytes() if kept else None)


def _samples(image: Any) -> np.ndarray:
    """The samples (height, width, channels) of a decoded file, in Pillow's own depth."""
    if image.mode.startswith("I;16"):
        return np.asarray(image).astype(np.uint16)[..., None]
    if image.mode in _REFUSED:
        raise ValueError(f"its pixels are {_REFUSED[image.mode]}, not 8 or 16 bits of gray or RGB")
    wanted = "L" if image.mode in ("1", "L", "LA", "La") else "RGB"
    if image.has_transparency_data:
        wanted += "A"
    return np.asarray(image.convert(wanted)).reshape(image.height, image.width, len(wanted))


def _decode_wide_png(file: BinaryIO, samples_kind: str) -> np.ndarray:
    """The 16-bit samples of a colour PNG, of which Pillow gives one byte or the other."""

    def read(stored: str) -> np.ndarray:
        with _opened(file) as image:
            image.tile = [image.tile[0]._replace(args=stored)]
            return np.asarray(image).astype(np.uint16)

    if samples_kind == "LA;16B":  # Its four bytes a pixel pass for RGBA of 8 bits.
        pairs = read("RGBA")
        return pairs[..., 0::2] << 8 | pairs[..., 1::2]
    return read(samples_kind) << 8 | read(samples_kind.replace("16B", "16L"))


def _decode_wide_tiff(page: Any) -> _Decoded:
    """The 16-bit samples of a page of a TIFF file with several channels."""
    channels = page.samplesperpixel
    kinds = {1: (0, 1), 3: (2,)}[channels - (channels % 2 == 0)] if channels <= 4 else ()
    if page.dtype != np.uint16 or page.photometric not in kinds:
        raise ValueError("its 16-bit samples are neither gray nor RGB")
    samples = page.asarray()
    if page.planarconfig == 2:
        samples = np.moveaxis(samples, 0, -1)
    if page.photometric == 0:
        samples[..., 0] = 65535 - samples[..., 0]
    if 1 in page.extrasamples:
        color, alpha = samples[..., :-1].astype(np.uint64), samples[..., -1:].astype(np.uint64)
        divided = (color * 65535 + alpha // 2) // np.maximum(alpha, 1)
        samples = np.concatenate([np.minimum(divided, 65535), alpha], axis=-1).astype(np.uint16)
    orientation = page.tags.get("Orientation")
    samples = _upright(samples, 1 if orientation is None else int(orientation.value))
    mode = {2: "LA", 3: "RGB", 4: "RGBA"}[channels]
    return _Decoded(np.ascontiguousarray(samples), mode, "TIFF", page.iccprofile)


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
        (if gray stayed gray and colour colour) and EXIF data (not for colour TIFF of 16 bits);
        without it the file has 8 bits and none of these. A palette is not made again.

    Raises:
      InputError: an unknown ending, pixels that are NaN or of another shape, more pixels than the
        format has room for, or the file cannot be written.
    """
    suffix = path.suffix.lower()
    if suffix not in FORMATS:
        raise InputError(f"no image format for {path}; {closest(suffix, FORMATS)}")
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
        encoded = _encode(kind, samples, profile, exif)
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


def _encode(kind: str, samples: np.ndarray, profile: bytes | None, exif: bytes | None) -> bytes:
    """The bytes of a file."""
    channels = samples.shape[-1]
    if samples.dtype == np.uint16 and kind == "PNG":
        return _encode_wide_png(samples, profile, exif)
    file = io.BytesIO()
    if samples.dtype == np.uint16 and channels > 1:
        tifffile.imwrite(
            file,
            samples,
            photometric="rgb" if channels > 2 else "minisblack",
            extrasamples=["unassalpha"] if channels % 2 == 0 else None,
            planarconfig="contig",
            iccprofile=profile,
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
    Image.fromarray(samples[..., 0] if channels == 1 else samples).save(file, kind, **options)
    return file.getvalue()


def _encode_wide_png(samples: np.ndarray, profile: bytes | None, exif: bytes | None) -> bytes:
    """A PNG file of 16-bit samples (W3C, PNG specification), each row less the one above it."""
    height, width, channels = samples.shape
    rows = samples.astype(">u2").reshape(height, -1).view(np.uint8)
    filtered = np.full((height, 1 + rows.shape[1]), 2, np.uint8)
    filtered[:, 1:] = np.diff(rows, axis=0, prepend=np.zeros_like(rows[:1]))
    header = struct.pack(">IIBBBBB", width, height, 16, _PNG_COLOR_TYPES[channels], 0, 0, 0)
    chunks = [(b"IHDR", header)]
    if profile is not None:
        chunks.append((b"iCCP", b"ICC profile\0\0" + zlib.compress(profile)))
    if exif is not None:
        chunks.append((b"eXIf", exif.removeprefix(b"Exif\0\0")))
    chunks += [(b"IDAT", zlib.compress(filtered.tobytes())), (b"IEND", b"")]
    return _PNG_START + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )
