"""Grids of images."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw

from deconv_jax.viz.pixels import enlarge, rgb_pixels
from deconv_jax.viz.text import load_font

_TEXT, _CAPTION_HEIGHT, _GAP = 14, 22, 4


def mosaic(
    images: np.ndarray,
    columns: int,
    gap: int = 1,
    *,
    rows: int | None = None,
    background: Sequence[int] | None = None,
) -> np.ndarray:
    """Arrange images in a grid, row by row.

    Args:
      images: Images (count, height, width, channels), float in [0, 1] or uint8.
      columns: Number of columns, at least 1.
      gap: Pixels between two images; the grid has no frame.
      rows: Number of rows, by default as many as the images need. Too few rows are a ValueError.
      background: Value of each channel in gaps and in cells without an image, by default white.

    Returns:
      Grid (height, width, channels) of the dtype of the images.
    """
    count, height, width, channels = images.shape
    if rows is None:
        rows = -(-count // columns)
    if background is None:
        background = [255 if images.dtype == np.uint8 else 1] * channels
    shape = (rows * columns, height + gap, width + gap, channels)
    cells = np.full(shape, background, images.dtype)
    cells[:count, :height, :width] = images
    grid = cells.reshape(rows, columns, *shape[1:]).swapaxes(1, 2)
    grid = grid.reshape(rows * shape[1], columns * shape[2], channels)
    return grid[: len(grid) - gap, : grid.shape[1] - gap]


def picture_grid(
    rows: Mapping[str, np.ndarray], *, names: Sequence[str] = (), scale: int = 2
) -> Image.Image:
    """Draw rows of images, each below its caption, as an RGB picture.

    Args:
      rows: Images (count, height, width, 1 or 3) of each row by caption, float in [0, 1] or uint8. At least
        one row is required; rows may differ in the size and number of images.
      names: Column headers above the first row, by default none. All columns are as wide as the widest image
        or header.
      scale: Integer factor by which images are enlarged.
    """
    font = load_font(_TEXT)
    strips = [(caption, enlarge(rgb_pixels(images), scale)) for caption, images in rows.items()]
    header_width = max((math.ceil(font.getlength(name)) for name in names), default=0)
    pitch = _GAP + max(header_width, *(pixels.shape[2] for _, pixels in strips))
    width = max(
        max(len(pixels) for _, pixels in strips) * pitch + _GAP,
        max(int(font.getlength(caption)) + 2 * _GAP for caption, _ in strips),
    )
    height = sum(_CAPTION_HEIGHT + pixels.shape[1] + _GAP for _, pixels in strips)
    height += _CAPTION_HEIGHT if names else 0
    picture = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(picture)
    top = _CAPTION_HEIGHT if names else 0
    for i, name in enumerate(names):
        draw.text((_GAP + i * pitch, 2), name, fill="black", font=font)
    for caption, pixels in strips:
        draw.text((_GAP, top + 2), caption, fill="black", font=font)
        top += _CAPTION_HEIGHT
        for i, image in enumerate(pixels):
            picture.paste(Image.fromarray(image), (_GAP + i * pitch, top))
        top += pixels.shape[1] + _GAP
    return picture
