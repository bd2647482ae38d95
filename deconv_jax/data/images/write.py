"""Write image files."""

import io
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from jaxtyping import Float, UInt8
from PIL import Image

from deconv_jax.data.images.heif import QUALITY as AVIF_QUALITY
from deconv_jax.data.images.heif import check_avif, encode_heif
from deconv_jax.data.images.image_file import FORMATS, ImageFile
from deconv_jax.data.images.samples import composite_on_white
from deconv_jax.errors import InputError, did_you_mean
from deconv_jax.io import write_atomically

JPEG_QUALITY = 95

_BAND = 256
"""Number of rows that are converted at a time."""

_PNG_START = b"\x89PNG\r\n\x1a\n"

_PNG_COLOR_TYPES = {1: 0, 2: 4, 3: 2, 4: 6}
"""PNG color type by the number of channels: gray, gray and alpha, RGB, RGBA."""


def write_image(
    path: Path,
    pixels: Float[np.ndarray, "height width channels"] | UInt8[np.ndarray, "height width channels"],
    like: ImageFile | None = None,
) -> None:
    """Write an image file atomically, in the format of its suffix.

    BMP, PNG, TIFF (uncompressed) and WebP are lossless; JPEG and AVIF have quality 95 and no chroma subsampling, HEIC
    quality 95 and chroma of half the resolution. PNG and TIFF keep 16 bits, HEIC 10 of them; other formats round to 8
    bits. AVIF, HEIC, PNG, TIFF and WebP keep alpha; other formats composite on white. AVIF and WebP store gray images
    as three equal channels.

    Args:
      path: The file to create or replace.
      pixels: One or three channels of floats in [0, 1], which are clipped and rounded. Without `like`, also
        uint8, written unchanged.
      like: Source of bit depth, alpha (resized bicubically to the size of `pixels`), ICC profile (if both images are
        gray or both are color), EXIF data (except for 16-bit color TIFF) and resolution, as far as the format
        stores them. Without it, the file has 8 bits and none of these. Palettes are not restored.

    Raises:
      InputError: The suffix is unknown, pixels are NaN or have another shape, the image is too large for the
        format, a library for the format is missing, or the file cannot be written.
    """
    suffix = path.suffix.lower()
    if suffix not in FORMATS:
        raise InputError(f"no image format for {path}; {did_you_mean(suffix, FORMATS)}")
    if pixels.ndim != 3 or pixels.shape[-1] not in (1, 3) or pixels.size == 0:
        raise InputError(f"pixels must be (height, width, 1 or 3); got {pixels.shape} for {path}")
    if np.isnan(np.min(pixels)):
        raise InputError(f"pixels for {path} are NaN")
    kind = FORMATS[suffix]
    values = [pixels]
    if like is not None and like.alpha is not None:
        values.append(_resized(like.alpha, (pixels.shape[0], pixels.shape[1])))
    wide = like is not None and like.bit_depth == 16 and kind in ("HEIF", "PNG", "TIFF")
    whole = like is None and pixels.dtype == np.uint8
    samples = pixels if whole else _samples_of(values, np.uint16 if wide else np.uint8)
    if kind in ("BMP", "JPEG", "PPM") and samples.shape[-1] % 2 == 0:
        samples = composite_on_white(samples)
    same_colors = like is not None and like.pixels.shape[-1] == pixels.shape[-1]
    profile = like.icc_profile if like is not None and same_colors else None
    exif = like.exif if like is not None else None
    try:
        encoded = _encode(kind, samples, profile, exif, like.dpi if like is not None else None)
    except (OSError, ValueError, RuntimeError, struct.error) as error:
        raise InputError(f"cannot write {path} as {kind}: {error}") from error
    write_atomically(path, lambda file: file.write(encoded))


def _samples_of(values: Sequence[np.ndarray], dtype: type) -> np.ndarray:
    """Concatenate arrays of channels in [0, 1], clipped and rounded to integers.

    Rows are converted in bands, because double-precision copies of a large image would take most of the memory.
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
    """Return the bytes of a file."""
    channels = samples.shape[-1]
    if kind == "HEIF":
        return encode_heif(samples, profile, exif)
    if kind == "AVIF":
        check_avif()
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
        "AVIF": {"quality": AVIF_QUALITY, "subsampling": "4:4:4"},
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
    """Return a PNG file of 16-bit samples (W3C PNG specification), with filter type "Up" in each row."""
    height, width, channels = samples.shape
    rows = samples.astype(">u2").reshape(height, -1).view(np.uint8)
    filtered = np.full((height, 1 + rows.shape[1]), 2, np.uint8)
    filtered[:, 1:] = np.diff(rows, axis=0, prepend=np.zeros_like(rows[:1]))
    header = struct.pack(">IIBBBBB", width, height, 16, _PNG_COLOR_TYPES[channels], 0, 0, 0)
    chunks = [(b"IHDR", header)]
    if profile is not None:
        chunks.append((b"iCCP", b"ICC profile\0\0" + zlib.compress(profile)))
    if dpi is not None:  # Pixels per meter.
        chunks.append((b"pHYs", struct.pack(">IIB", *(round(n / 0.0254) for n in dpi), 1)))
    if exif is not None:
        chunks.append((b"eXIf", exif.removeprefix(b"Exif\0\0")))
    chunks += [(b"IDAT", zlib.compress(filtered.tobytes())), (b"IEND", b"")]
    return _PNG_START + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )
