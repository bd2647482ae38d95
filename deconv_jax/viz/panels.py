"""Sheets of labeled panels, as network interpretation makes them.

Signed maps are scaled by their largest magnitude, symmetrically around mid-gray or white, so that zero
has one color everywhere.
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, UInt8
from PIL import Image, ImageDraw

from deconv_jax.viz.grids import mosaic
from deconv_jax.viz.pixels import enlarge, rgb_pixels
from deconv_jax.viz.text import load_font, shorten_to_width

Tile = UInt8[np.ndarray, "height width 3"]

_TEXT, _CAPTION = 13, 16
"""Text heights of labels and captions, in pixels."""
_MARGIN, _GAP, _TILE_GAP = 16, 8, 2
_WIDTH = 2300
"""Width of a sheet in pixels, unless a single block is wider."""
_PAPER = (208, 221, 238)
"""Background of patches: a color that occurs neither in gray images nor in maps."""
_FAINT = 0.3
"""Contrast of the image below an attribution map."""


@dataclasses.dataclass(frozen=True, eq=False)
class Section:
    """A captioned part of a sheet.

    Attributes:
      caption: Text above the section.
      labels: Label above each block, "" for none.
      blocks: Pictures, all of one size; at least one.
    """

    caption: str
    labels: Sequence[str]
    blocks: Sequence[Tile]


def sheet(sections: Sequence[Section]) -> Image.Image:
    """Draw sections below one another as an RGB picture, the blocks of each in rows with labels above.

    A label that is wider than its block is shortened in the middle. At least one section is required, and
    each must have as many labels as blocks, at least one.
    """
    parts = [_draw_section(section) for section in sections]
    width = max(part.width for part in parts) + 2 * _MARGIN
    height = sum(part.height + _MARGIN for part in parts) + _MARGIN
    picture = Image.new("RGB", (width, height), "white")
    top = _MARGIN
    for part in parts:
        picture.paste(part, (_MARGIN, top))
        top += part.height + _MARGIN
    return picture


def hstack(tiles: Sequence[Tile], gap: int = _GAP) -> Tile:
    """Concatenate one or more tiles of equal height from left to right, `gap` white pixels apart."""
    height = tiles[0].shape[0]
    space = np.full((height, gap, 3), 255, np.uint8)
    return np.concatenate([part for tile in tiles for part in (space, tile)][1:], axis=1)


def square_grid(tiles: UInt8[np.ndarray, "count height width 3"]) -> Tile:
    """Arrange tiles in as many rows as columns on a light blue background, which also frames them.

    Cells without a tile show the background.
    """
    side = math.ceil(math.sqrt(len(tiles)))
    grid = mosaic(tiles, side, _TILE_GAP, rows=side, background=_PAPER)
    height, width = (n + 2 * _TILE_GAP for n in grid.shape[:2])
    framed = np.full((height, width, 3), _PAPER, np.uint8)
    framed[_TILE_GAP:-_TILE_GAP, _TILE_GAP:-_TILE_GAP] = grid
    return framed


def scale_to_side(pixels: Tile, side: int) -> Tile:
    """Scale a tile by an integer factor to a longer side of about `side` pixels.

    Enlarging repeats pixels and does not exceed `side`; reducing averages blocks and may exceed it.
    """
    longest = max(pixels.shape[:2])
    if longest > side:
        return np.asarray(Image.fromarray(pixels).reduce(round(longest / side)))
    return enlarge(pixels, side // longest)


def diverging_gray(
    values: Float[np.ndarray, "*batch channels"], largest: float
) -> UInt8[np.ndarray, "*batch 3"]:
    """Map signed values to gray levels: zero to mid-gray, +`largest` to white, -`largest` to black.

    Larger magnitudes are clipped. The first three channels become red, green and blue; with fewer than three,
    the first becomes gray. largest=0 counts as 1.
    """
    return rgb_pixels(0.5 + 0.5 * values / (largest or 1.0))


def red_blue_overlay(
    values: Float[np.ndarray, "height width"], image: UInt8[np.ndarray, "height width 3"]
) -> Tile:
    """Draw a signed map over a faint negative of its image.

    Positive values are red and negative ones blue, at full saturation for the largest magnitude. The
    negative keeps colors visible in dark regions of the image.
    """
    strength = values / (np.abs(values).max() or 1.0)
    gray = image.astype(np.float32).mean(axis=-1, keepdims=True) / 255.0
    paper = 1.0 - _FAINT * gray
    color = np.where(strength[..., None] > 0, [[[0.84, 0.1, 0.11]]], [[[0.13, 0.35, 0.75]]])
    weight = np.abs(strength)[..., None]
    return rgb_pixels(((1.0 - weight) * paper + weight * color).astype(np.float32))


def blank_out(tile: Tile, blank: Bool[np.ndarray, "height width"]) -> Tile:
    """Return a copy of a tile with a light blue background where `blank` is True, as in `square_grid`."""
    return np.where(blank[..., None], np.array([[_PAPER]], np.uint8), tile)


def _draw_section(section: Section) -> Image.Image:
    font, large = load_font(_TEXT), load_font(_CAPTION)
    height, width = section.blocks[0].shape[:2]
    # A small block is given the width of a short label.
    pitch_x, pitch_y = max(width, 8 * _TEXT) + 2 * _GAP, height + _TEXT + 2 * _GAP
    columns = _balanced_columns(len(section.blocks), max(1, _WIDTH // pitch_x))
    rows = math.ceil(len(section.blocks) / columns)
    top = 2 * _CAPTION
    total_width = max(columns * pitch_x, math.ceil(large.getlength(section.caption)))
    picture = Image.new("RGB", (total_width, top + rows * pitch_y), "white")
    draw = ImageDraw.Draw(picture)
    draw.text((0, 0), section.caption, fill="black", font=large)
    for index, (label, block) in enumerate(zip(section.labels, section.blocks, strict=True)):
        x, y = index % columns * pitch_x, top + index // columns * pitch_y
        text = shorten_to_width(label, font, pitch_x - _GAP)
        draw.text((x, y), text, fill="#444444", font=font)
        picture.paste(Image.fromarray(block), (x, y + _TEXT + _GAP // 2))
    return picture


def _balanced_columns(count: int, most: int) -> int:
    """Return the smallest number of columns, up to `most`, that needs the fewest rows."""
    rows = math.ceil(count / most)
    return math.ceil(count / rows)
