"""Integer samples of an image, as decoders return them."""

import dataclasses

import numpy as np

from deconv_jax.errors import InputError


@dataclasses.dataclass(frozen=True, eq=False)
class Decoded:
    """A decoded image file.

    Attributes:
      samples: Upright samples (height, width, channels), uint8 or uint16. With 2 or 4 channels, the
        last one is alpha.
      mode, format, icc_profile, exif, dpi, notes, jpeg_table: As in `ImageFile`.
    """

    samples: np.ndarray
    mode: str
    format: str
    icc_profile: bytes | None = None
    exif: bytes | None = None
    dpi: tuple[float, float] | None = None
    notes: tuple[str, ...] = ()
    jpeg_table: np.ndarray | None = None


def check_size(width: int, height: int, max_pixels: int) -> None:
    """Raise InputError for an image of more than `max_pixels` pixels."""
    if width * height > max_pixels:
        raise InputError(f"it has {width} x {height} pixels; the limit is {max_pixels} in all")


def upright(samples: np.ndarray, orientation: int) -> np.ndarray:
    """Return samples (height, width, ...) with an EXIF orientation of 1 to 8 undone; other values are ignored.

    The result may be a view of `samples`.
    """
    if orientation in (5, 6, 7, 8):
        samples = samples.swapaxes(0, 1)
    flip_rows = orientation in (3, 4, 7, 8)
    flip_columns = orientation in (2, 3, 6, 7)
    return samples[:: -1 if flip_rows else 1, :: -1 if flip_columns else 1]


def to_8bit_opaque(samples: np.ndarray) -> np.ndarray:
    """Round uint16 samples to uint8, and composite samples with alpha (2 or 4 channels) on white.

    Opaque uint8 samples are returned unchanged. The result has 1 or 3 channels.
    """
    if samples.dtype == np.uint16:
        samples = ((samples.astype(np.uint32) + 128) // 257).astype(np.uint8)
    return composite_on_white(samples) if samples.shape[-1] % 2 == 0 else samples


def composite_on_white(samples: np.ndarray) -> np.ndarray:
    """Composite samples on white and drop alpha, which must be their last channel. The dtype is kept."""
    most = np.iinfo(samples.dtype).max
    pixels, alpha = samples[..., :-1].astype(np.uint64), samples[..., -1:].astype(np.uint64)
    mixed = pixels * alpha + most * (most - alpha)
    return ((mixed + most // 2) // most).astype(samples.dtype)


def pluralize(count: int, noun: str) -> str:
    """Return a count with its noun, such as "2 samples"."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
