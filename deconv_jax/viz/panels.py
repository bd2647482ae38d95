"""Sheets of small pictures with labels, as looking inside a network makes them.

What a reader would get wrong: a signed map is scaled by its largest magnitude, both ways from mid-gray or
white, so that zero looks the same everywhere and a weak negative part is not stretched to black.
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, UInt8
from PIL import Image, ImageDraw, ImageFont

from deconv_jax.viz.overlays import rgb_pixels

Tile = UInt8[np.ndarray, "height width 3"]

_TEXT, _CAPTION = 13, 16
"""Heights of letters, pixels."""
_MARGIN, _GAP, _TILE_GAP = 16, 8, 2
_WIDTH = 2300
"""Pixels of a sheet's width, if a block is not wider."""
_PAPER = (208, 221, 238)
"""What patches lie on, a colour that neither gray images nor their maps have."""
_FAINT = 0.3
"""Contrast of an image under a map of its pixels."""


@dataclasses.dataclass(frozen=True, eq=False)
class Section:
    """A part of a sheet.

    Attributes:
      caption: above it.
      labels: one above each block.
      blocks: pictures of one size.
    """

    caption: str
    labels: Sequence[str]
    blocks: Sequence[Tile]


def sheet(sections: Sequence[Section]) -> Image.Image:
    """Sections below one another, the blocks of each in rows."""
    parts = [_drawn(section) for section in sections]
    width = max(part.width for part in parts) + 2 * _MARGIN
    height = sum(part.height + _MARGIN for part in parts) + _MARGIN
    picture = Image.new("RGB", (width, height), "white")
    top = _MARGIN
    for part in parts:
        picture.paste(part, (_MARGIN, top))
        top += part.height + _MARGIN
    return picture


def beside(tiles: Sequence[Tile], gap: int = _GAP) -> Tile:
    """Tiles of one height next to one another, with white between them."""
    height = tiles[0].shape[0]
    space = np.full((height, gap, 3), 255, np.uint8)
    return np.concatenate([part for tile in tiles for part in (space, tile)][1:], axis=1)


def square(tiles: UInt8[np.ndarray, "count height width 3"]) -> Tile:
    """Tiles in as many rows as columns, on paper."""
    count, height, width, _ = tiles.shape
    side = math.ceil(math.sqrt(count))
    down, across = height + _TILE_GAP, width + _TILE_GAP
    whole = np.full((side * down + _TILE_GAP, side * across + _TILE_GAP, 3), _PAPER, np.uint8)
    for place, tile in enumerate(tiles):
        top, left = _TILE_GAP + place // side * down, _TILE_GAP + place % side * across
        whole[top : top + height, left : left + width] = tile
    return whole


def at_side(pixels: Tile, side: int) -> Tile:
    """Whole times larger or smaller, so that the longer side has about so many pixels."""
    longest = max(pixels.shape[:2])
    if longest > side:
        return np.asarray(Image.fromarray(pixels).reduce(round(longest / side)))
    times = side // longest
    return pixels.repeat(times, axis=0).repeat(times, axis=1)


def image_pixels(images: Float[np.ndarray, "*batch channels"]) -> UInt8[np.ndarray, "*batch 3"]:
    """Images in [0, 1] in 8 bits: the first three channels, or the first of fewer."""
    return rgb_pixels(_shown(images))


def about_gray(
    values: Float[np.ndarray, "*batch channels"], largest: float
) -> UInt8[np.ndarray, "*batch 3"]:
    """Signed values about mid-gray, the largest magnitude white or black; channels as `image_pixels`."""
    return rgb_pixels(0.5 + 0.5 * _shown(values) / (largest or 1.0))


def for_and_against(
    values: Float[np.ndarray, "height width"], image: UInt8[np.ndarray, "height width 3"]
) -> Tile:
    """Red where values are positive and blue where they are negative, the largest in full colour.

    Beneath is a faint negative of the image, as if drawn on white paper, so that colours stand out in the
    dark of an image too.
    """
    strength = values / (np.abs(values).max() or 1.0)
    gray = image.astype(np.float32).mean(axis=-1, keepdims=True) / 255.0
    paper = 1.0 - _FAINT * gray
    color = np.where(strength[..., None] > 0, [[[0.84, 0.1, 0.11]]], [[[0.13, 0.35, 0.75]]])
    weight = np.abs(strength)[..., None]
    return rgb_pixels(((1.0 - weight) * paper + weight * color).astype(np.float32))


def paper_where(tile: Tile, blank: Bool[np.ndarray, "height width"]) -> Tile:
    """A tile without some of its pixels."""
    return np.where(blank[..., None], np.array([[_PAPER]], np.uint8), tile)


def _shown(images: np.ndarray) -> np.ndarray:
    return images[..., : 3 if images.shape[-1] >= 3 else 1]


def _drawn(section: Section) -> Image.Image:
    font, large = (ImageFont.load_default(size=size) for size in (_TEXT, _CAPTION))
    height, width = section.blocks[0].shape[:2]
    # Room for a label of some letters above the smallest block.
    across, down = max(width, 8 * _TEXT) + 2 * _GAP, height + _TEXT + 2 * _GAP
    columns = _columns(len(section.blocks), max(1, _WIDTH // across))
    rows = math.ceil(len(section.blocks) / columns)
    top = 2 * _CAPTION
    wide = max(columns * across, math.ceil(large.getlength(section.caption)))
    picture = Image.new("RGB", (wide, top + rows * down), "white")
    draw = ImageDraw.Draw(picture)
    draw.text((0, 0), section.caption, fill="black", font=large)
    for place, (label, block) in enumerate(zip(section.labels, section.blocks, strict=True)):
        left, upper = place % columns * across, top + place // columns * down
        draw.text((left, upper), _cut(label, font, across - _GAP), fill="#444444", font=font)
        picture.paste(Image.fromarray(block), (left, upper + _TEXT + _GAP // 2))
    return picture


def _columns(count: int, most: int) -> int:
    """As few as give the fewest rows."""
    rows = math.ceil(count / most)
    return math.ceil(count / rows)


def _cut(words: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: float) -> str:
    """Words that fit a width, the middle of long ones left out."""
    if font.getlength(words) <= width:
        return words
    for kept in range(len(words) - 1, 1, -1):
        shorter = f"{words[: kept - kept // 2]}…{words[len(words) - kept // 2 :]}"
        if font.getlength(shorter) <= width:
            return shorter
    return "…"
