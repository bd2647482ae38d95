"""Generated images written to files: a grid, an animation, or one file per image."""

import functools
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from deconv_jax.data.images import FORMATS, write_image
from deconv_jax.errors import InputError
from deconv_jax.io import write_atomically
from deconv_jax.viz.grids import mosaic
from deconv_jax.viz.pixels import enlarge

STILL_FORMATS = {suffix: FORMATS[suffix] for suffix in (".png", ".webp", ".tif", ".tiff")}
"""Lossless formats of a grid, by file suffix."""
VIDEO_SUFFIX = ".mp4"
ANIMATION_FORMATS = {".gif": "GIF", ".webp": "WEBP", VIDEO_SUFFIX: "MP4"}

_FRAME_MS = 60
_VIDEO_CRF = "18"
"""Constant rate factor of x264 of a video."""
_MAX_SIDE = 10_000
"""Maximum side of a grid, in pixels. All frames of an animation have at most _MAX_SIDE**2 pixels together."""


def check_picture(
    path: Path,
    formats: Mapping[str, str],
    count: int,
    columns: int,
    size: tuple[int, int],
    scale: int,
    *,
    animates: bool,
) -> None:
    """Raise InputError if a picture would have an unknown format or be too large.

    A grid may have 10,000 pixels per side, and an animation 10^8 pixels in all frames together.

    Args:
      path: File to write.
      formats: Accepted formats by suffix: `STILL_FORMATS`, `ANIMATION_FORMATS` or both.
      count: Number of images.
      columns: Number of columns of a grid.
      size: Height and width of an image, in pixels.
      scale: Factor by which images are enlarged.
      animates: Whether the images are frames of an animation.
    """
    _format_of(path, formats)
    if animates:
        if path.suffix.lower() == VIDEO_SUFFIX:
            _import_av()
            if any(scale * n % 2 for n in size):
                raise InputError(
                    f"the sides of a video must be even; got {scale * size[1]} x {scale * size[0]} pixels; "
                    "use --scale 2 or another format"
                )
        pixels = count * size[0] * size[1] * scale**2
        if pixels > _MAX_SIDE**2:
            raise InputError(
                f"an animation must have at most {_MAX_SIDE**2:,} pixels; {count} frames would have "
                f"{pixels:,}; use a smaller --scale or fewer --steps"
            )
        return
    height, width = scale * (size[0] + 1) * -(-count // columns), scale * (size[1] + 1) * columns
    if max(height, width) > _MAX_SIDE:
        raise InputError(
            f"a picture must have at most {_MAX_SIDE} pixels per side; {count} samples in {columns} "
            f"columns would have {width} x {height}; use other --columns, a smaller --scale, or "
            "--output-dir for one file per sample"
        )


def write_picture(path: Path, images: np.ndarray, columns: int, scale: int) -> None:
    """Write images as a grid, row by row; replace an existing file.

    Args:
      path: File to write, with a suffix of `STILL_FORMATS`.
      images: Images (count, height, width, 1 or 3), uint8.
      columns: Number of columns.
      scale: Factor by which images are enlarged.

    Raises:
      InputError: The suffix is unknown, or the file cannot be written.
    """
    _format_of(path, STILL_FORMATS)
    write_image(path, enlarge(mosaic(images, columns), scale))


def write_animation(path: Path, images: np.ndarray, scale: int) -> None:
    """Write images as an endless animation, a lossless WebP or a GIF of 256 colors, or as a video (H.264).

    A frame lasts 60 ms. An existing file is replaced.

    Args:
      path: File to write, with a suffix of `ANIMATION_FORMATS`.
      images: Frames (count, height, width, 1 or 3), uint8, at least one.
      scale: Factor by which images are enlarged.

    Raises:
      InputError: The suffix is unknown, or the file cannot be written.
    """
    kind = _format_of(path, ANIMATION_FORMATS)
    if kind == "MP4":
        write_atomically(path, functools.partial(_encode_video, images, scale))
        return
    first, *others = [_to_pillow(enlarge(image, scale)) for image in images]
    options: dict[str, Any] = {
        "save_all": True,
        "append_images": others,
        "duration": _FRAME_MS,
        "loop": 0,
    }
    if kind == "WEBP":
        options["lossless"] = True
    write_atomically(path, functools.partial(first.save, format=kind, **options))


def write_each(folder: Path, first: int, images: np.ndarray, scale: int) -> None:
    """Write images to numbered files such as 000000.png; replace existing ones.

    Args:
      folder: Folder of the files, created if missing.
      first: Number of the first file.
      images: Images (count, height, width, 1 or 3), uint8.
      scale: Factor by which images are enlarged.

    Raises:
      InputError: A file cannot be written.
    """
    for number, image in enumerate(images, first):
        write_image(folder / f"{number:06d}.png", enlarge(image, scale))


def _format_of(path: Path, formats: Mapping[str, str]) -> str:
    suffix = path.suffix.lower()
    if suffix not in formats:
        raise InputError(f"{path} must end in {', '.join(formats)}; got {suffix or 'no suffix'!r}")
    return formats[suffix]


def _encode_video(images: np.ndarray, scale: int, file: BinaryIO) -> None:
    av = _import_av()
    rate = Fraction(1000, _FRAME_MS)
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=rate, options={"crf": _VIDEO_CRF})
        stream.height, stream.width = (scale * n for n in images.shape[1:3])
        stream.pix_fmt = "yuv420p"
        for image in images:
            pixels = np.ascontiguousarray(np.broadcast_to(image, (*image.shape[:2], 3)))
            frame = av.VideoFrame.from_ndarray(enlarge(pixels, scale), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def _import_av() -> Any:
    try:
        import av
    except ImportError as error:
        raise InputError(
            "writing videos requires PyAV: pip install 'deconv_jax[video]'; .gif and .webp do not"
        ) from error
    return av


def _to_pillow(image: np.ndarray) -> Image.Image:
    return Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
