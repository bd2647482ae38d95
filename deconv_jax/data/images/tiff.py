"""Decoding of TIFF files whose tags state the meaning of the samples.

tifffile reads the tags, and 8- and 16-bit samples that are uncompressed or deflated. Pillow decodes most others
by libtiff: LZW, JPEG, CCITT, palettes, CMYK and fewer bits. Compressed layouts that Pillow lacks, such as 16-bit
planes, are decoded by imagecodecs.

    samples            unsigned integers of 1, 2, 4, 8 or 16 bits; others are errors
    gray               one channel with 0 for black; WhiteIsZero files are inverted
    an extra sample    alpha if its tag says so, or if it is the only one and has no tag. Colors that are
                       premultiplied by it are divided. Other extra samples are left out.
    pages              one; reduced copies and masks are not counted
"""

import contextlib
import dataclasses
import importlib.util
import io
import logging
import struct
from typing import Any, BinaryIO

import numpy as np
import tifffile
from jaxtyping import UInt
from PIL import Image

from deconv_jax.data.images.exif import kept_exif, resolution
from deconv_jax.data.images.pillow import decode_with_pillow, load, opened, read_16bit_in_two_passes
from deconv_jax.data.images.samples import Decoded, check_size, pluralize, upright
from deconv_jax.errors import InputError

TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")

WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE, CMYK, YCBCR = 0, 1, 2, 3, 5, 6

_COLOR_SAMPLES = {WHITE_IS_ZERO: 1, BLACK_IS_ZERO: 1, RGB: 3, PALETTE: 1, CMYK: 4, YCBCR: 3}

_BITS = (1, 2, 4, 8, 16)

_UNSIGNED = (1, 4)
"""Sample formats: unsigned integers and "undefined", which readers treat alike."""

_SAMPLE_FORMATS = {2: "signed integers", 3: "floats", 5: "complex integers", 6: "complex floats"}

_CMYK_INKS = 1

_UNSPECIFIED, _MULTIPLIED, _ALPHA, _CORELS_ALPHA = 0, 1, 2, 999
"""Kinds of extra samples. 999 is CorelDRAW's."""

_DECODED_BY_TIFFFILE = (1, 8, 32946)
"""Compressions: none, and the two numbers of deflate."""

_DECODED_BY_PILLOW = (2, 3, 4, 5, 6, 7, 32773, 34676, 34677, 34925, 50000, 50001)
"""Compressions of libtiff: CCITT, LZW, JPEG, PackBits, SGILog, LZMA, Zstandard, WebP."""

# tifffile logs warnings about tags, which Python prints if no handler is installed.
logging.getLogger("tifffile").addHandler(logging.NullHandler())


@dataclasses.dataclass(frozen=True)
class TiffLayout:
    """The layout of the samples of a page.

    Attributes:
      size: Height and width in pixels, as stored.
      bits: Bits per sample.
      photometric: Photometric interpretation: `RGB`, `PALETTE`, ...
      color_samples: Number of color samples per pixel, which come first.
      extras: Kinds of the other samples.
      is_planar: Whether each channel is stored separately (planar configuration).
      compression: Number of the compression.
      orientation: Orientation as in EXIF, 1 to 8.
      icc_profile: Color profile.
      copies: Number of reduced copies and masks in the file.
    """

    size: tuple[int, int]
    bits: int
    photometric: int
    color_samples: int
    extras: tuple[int, ...]
    is_planar: bool
    compression: int
    orientation: int
    icc_profile: bytes | None
    copies: int = 0

    @property
    def alpha(self) -> int | None:
        """Index of the alpha channel among the samples, or None."""
        kinds = (_MULTIPLIED, _ALPHA, _CORELS_ALPHA)
        places = [place for place, kind in enumerate(self.extras) if kind in kinds]
        return self.color_samples + places[0] if places else None

    @property
    def unused(self) -> int:
        """Number of samples per pixel that are left out."""
        return len(self.extras) - (self.alpha is not None)

    def described(self) -> str:
        """Return a description of the samples for an error message."""
        return (
            f"{self.color_samples + len(self.extras)} samples a pixel of {self.bits} bits"
            f"{', in planes,' if self.is_planar else ''} with photometric interpretation "
            f"{self.photometric} and compression {self.compression}"
        )

    def pixels(self, samples: UInt[np.ndarray, "height width samples"]) -> np.ndarray:
        """Convert stored gray or RGB samples to gray or RGB, followed by alpha if there is one.

        0 becomes black, premultiplied alpha is divided out, and other extra samples are dropped. The orientation
        is not applied.
        """
        color = samples[..., : self.color_samples]
        most = np.iinfo(samples.dtype).max
        if self.photometric == WHITE_IS_ZERO:
            color = most - color
        if self.alpha is None:
            return color
        alpha = samples[..., self.alpha : self.alpha + 1]
        if self.extras[self.alpha - self.color_samples] == _MULTIPLIED:
            wide = alpha.astype(np.uint64)
            divided = (color.astype(np.uint64) * most + wide // 2) // np.maximum(wide, 1)
            color = np.minimum(divided, most).astype(samples.dtype)
        return np.concatenate([color, alpha], axis=-1)


def read_layout(tiff: tifffile.TiffFile) -> TiffLayout:
    """Read the layout of the only page of a file.

    Raises:
      InputError: The file has no page or several, lacks a tag that is needed, or its samples are not unsigned
        integers of 1, 2, 4, 8 or 16 bits of gray, RGB, palette, CMYK or YCbCr.
    """
    count = len(tiff.pages)
    if not count:
        raise InputError("it is damaged or cut off: no page is where its header says")
    pages: list[Any] = [tiff.pages[number] for number in range(count)]
    whole = [page for page in pages if not (page.is_reduced or page.is_mask)]
    page = pages[0]
    # ImageJ writes stacks of more than 4 GB as one page.
    stacked = int((tiff.imagej_metadata or {}).get("images", 1))
    if len(whole) > 1 or page.imagedepth > 1 or stacked > 1:
        most = max(len(whole), page.imagedepth, stacked)
        raise InputError(f"it has {most} pages; only files with one page are read")
    if not whole or page is not whole[0]:
        raise InputError("its first page is a reduced copy or a mask of a picture")
    for name in ("ImageWidth", "ImageLength"):
        if name not in page.tags:
            raise InputError(f"it is damaged: it has no tag {name}")
    if page.imagewidth < 1 or page.imagelength < 1:
        raise InputError(f"it has {page.imagewidth} x {page.imagelength} pixels")
    bits, photometric = page.bitspersample, page.photometric
    if page.sampleformat not in _UNSIGNED:
        kind = _SAMPLE_FORMATS.get(page.sampleformat, "of several kinds")
        raise InputError(f"its samples are {kind}, not unsigned integers")
    if bits not in _BITS:
        raise InputError(f"its samples have {bits} bits, not 1, 2, 4, 8 or 16")
    if "PhotometricInterpretation" not in page.tags and bits > 1:
        raise InputError("it has no tag PhotometricInterpretation: its samples may mean anything")
    if photometric not in _COLOR_SAMPLES:
        name = getattr(photometric, "name", photometric)
        raise InputError(f"its pixels are {name}, not gray, RGB, palette, CMYK or YCbCr")
    if photometric == CMYK and page.tags.valueof("InkSet", _CMYK_INKS) != _CMYK_INKS:
        raise InputError("its samples are inks other than cyan, magenta, yellow and black")
    color_samples, samples = _COLOR_SAMPLES[photometric], page.samplesperpixel
    if samples < color_samples:
        raise InputError(
            f"it has {samples} samples a pixel; {photometric.name} has {color_samples}"
        )
    orientation = page.tags.get("Orientation")
    return TiffLayout(
        size=(page.imagelength, page.imagewidth),
        bits=bits,
        photometric=int(photometric),
        color_samples=color_samples,
        extras=_extras(page, samples - color_samples),
        is_planar=page.planarconfig == 2,
        compression=int(page.compression),
        orientation=1 if orientation is None else int(orientation.value),
        icc_profile=page.iccprofile or None,
        copies=count - 1,
    )


def _extras(page: Any, count: int) -> tuple[int, ...]:
    """Return the kinds of the samples that are not colors."""
    kinds = [int(kind) for kind in page.extrasamples]
    if not kinds and count == 1:
        return (_ALPHA,)
    return tuple([*kinds, *[_UNSPECIFIED] * count][:count])


def read_samples(
    tiff: tifffile.TiffFile, layout: TiffLayout
) -> UInt[np.ndarray, "height width samples"] | None:
    """Read the stored samples of a page, uint8 or uint16, or None if Pillow has to decode them.

    That is the case for fewer than 8 bits, compressions other than none and deflate that Pillow decodes, and
    pixels other than gray and RGB.

    Raises:
      InputError: The page lists too few strips or tiles, or empty ones; or imagecodecs is required and missing.
        Errors of tifffile, as for truncated or damaged pixel data, are passed on.
    """
    page: Any = tiff.pages[0]
    if layout.bits < 8 or layout.photometric not in (WHITE_IS_ZERO, BLACK_IS_ZERO, RGB):
        return None
    if layout.compression not in _DECODED_BY_TIFFFILE:
        if _pillow_decodes(layout):
            return None
        if importlib.util.find_spec("imagecodecs") is None:
            raise InputError(
                f"{layout.described()} require imagecodecs: pip install 'deconv_jax[formats]'"
            )
    # tifffile would fill in missing strips.
    if min(page.databytecounts) <= 0 or len(page.dataoffsets) != np.prod(page.chunked):
        raise InputError("it is damaged or cut off: strips or tiles of its pixels are missing")
    samples = page.asarray()
    if samples.ndim == 2:
        return samples[..., None]
    return np.moveaxis(samples, 0, -1) if layout.is_planar else samples


def _pillow_decodes(layout: TiffLayout) -> bool:
    """Return whether Pillow decodes compressed gray or RGB samples of 8 or 16 bits, in all their bits."""
    if layout.compression not in _DECODED_BY_PILLOW:
        return False
    kinds = (layout.color_samples, len(layout.extras))
    whole = kinds in ((1, 0), (3, 0), (3, 1)) and not (sum(kinds) > 1 and layout.is_planar)
    return layout.bits == 8 or whole


def with_raw_tags(file: BinaryIO) -> io.BytesIO:
    """Copy a file of 16-bit samples, with tags for which Pillow returns the samples unchanged.

    Pillow does not support white as 0, and would drop extra samples or divide by them.
    """
    file.seek(0)
    copy = io.BytesIO(file.read())
    with tifffile.TiffFile(copy, mode="r+") as tiff:
        page: Any = tiff.pages[0]
        tags = page.tags
        if tags["PhotometricInterpretation"].value == WHITE_IS_ZERO:
            tags["PhotometricInterpretation"].overwrite(BLACK_IS_ZERO)
        if "ExtraSamples" in tags:
            tags["ExtraSamples"].overwrite(_ALPHA)
    return copy


def read_tiff(file: BinaryIO, max_pixels: int) -> tuple[TiffLayout, np.ndarray | None, Any]:
    """Return the layout of a TIFF file, its samples (None if Pillow has to decode them) and its EXIF data.

    Samples are as stored: not upright, and with all extra samples. The EXIF data is Pillow's; it is empty if
    Pillow cannot read it.

    Raises:
      InputError: The image is larger than `max_pixels`, or as in `read_layout` and `read_samples`. Other errors
        of tifffile on damaged files pass through.
    """
    with tifffile.TiffFile(file) as tiff:
        layout = read_layout(tiff)
        check_size(layout.size[1], layout.size[0], max_pixels)
        samples = read_samples(tiff, layout)
        exif = Image.Exif()
        exif.endian, exif.bigtiff = tiff.byteorder, tiff.is_bigtiff
        # Pillow cannot read the directories of a big-endian BigTIFF file.
        with contextlib.suppress(struct.error):
            exif.load_from_fp(file, tiff.pages[0].offset)
    return layout, samples, exif


def decode_tiff(file: BinaryIO, max_pixels: int) -> Decoded:
    """Decode a TIFF file; its tags decide whether tifffile or Pillow does so.

    tifffile decodes 8- and 16-bit gray and RGB samples that are uncompressed or deflated, or that Pillow does not
    decode, and Pillow the others. Pillow supports 16 bits only for gray, RGB and RGB with one extra sample.

    Raises:
      InputError: As in `read_tiff`, or neither decodes the samples. Other errors of both on damaged files pass
        through.
    """
    layout, samples, exif = read_tiff(file, max_pixels)
    if samples is None and layout.bits < 16:
        try:
            decoded = decode_with_pillow(file, max_pixels)
        except Image.UnidentifiedImageError as error:
            raise InputError(
                f"it is damaged, or its layout is not supported: {layout.described()}"
            ) from error
    else:
        pixels = layout.pixels(_decode_wide_tiff(file, layout) if samples is None else samples)
        pixels = np.ascontiguousarray(upright(pixels, layout.orientation))
        mode = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}[pixels.shape[-1]]
        kept, dpi = kept_exif(exif, "TIFF"), resolution("TIFF", {}, exif)
        decoded = Decoded(pixels, mode, "TIFF", layout.icc_profile, kept, dpi)
    notes = list(decoded.notes)
    if layout.unused:
        unused = pluralize(layout.unused, "extra sample")
        notes.append(f"left out {unused} per pixel of unspecified kind")
    if layout.copies:
        notes.append(f"{pluralize(layout.copies, 'further page')} (reduced copies, masks) left out")
    return dataclasses.replace(decoded, notes=tuple(notes))


def _decode_wide_tiff(file: BinaryIO, layout: TiffLayout) -> np.ndarray:
    """Return the 16-bit samples of a TIFF file that tifffile cannot decode."""
    channels = layout.color_samples + len(layout.extras)
    if layout.photometric not in (WHITE_IS_ZERO, BLACK_IS_ZERO, RGB):
        raise InputError("its 16-bit samples are neither gray nor RGB")
    raw = with_raw_tags(file)
    if channels > 1:
        name = {3: "RGB", 4: "RGBA"}[channels]
        return read_16bit_in_two_passes(raw, f"{name};16L", f"{name};16B")
    with opened(raw) as image:
        load(image)
        return np.asarray(image).astype(np.uint16)[..., None]
