"""Images side by side in one picture."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont


def mosaic(images: np.ndarray, columns: int, gap: int = 1) -> np.ndarray:
    """Images beside and below one another as one, with white between them and in place of missing ones.

    Args:
      images: (count, height, width, channels) in [0, 1], or uint8.
      columns: images beside one another.
      gap: pixels of white between two.
    """
    count, height, width, channels = images.shape
    rows = -(-count // columns)
    white = 255 if images.dtype == np.uint8 else 1
    shape = (rows * columns, height + gap, width + gap, channels)
    tiles = np.full(shape, white, images.dtype)
    tiles[:count, :height, :width] = images
    placed = tiles.reshape(rows, columns, *shape[1:]).swapaxes(1, 2)
    whole = placed.reshape(rows * shape[1], columns * shape[2], channels)
    return whole[: len(whole) - gap, : whole.shape[1] - gap]


def center_crops(images: np.ndarray, sizes: np.ndarray, pixels: int) -> np.ndarray:
    """The middle of the true part of each image.

    Args:
      images: (count, height, width, channels).
      sizes: height and width of what is true of each, at its top left, (count, 2).
      pixels: a side; less along an axis that is shorter.
    """

    def middle(image: np.ndarray, size: np.ndarray) -> np.ndarray:
        starts = [max(int(n) - pixels, 0) // 2 for n in size]
        top, left = (min(s, max(n - pixels, 0)) for s, n in zip(starts, image.shape, strict=False))
        return image[top : top + pixels, left : left + pixels]

    return np.stack([middle(*pair) for pair in zip(images, sizes, strict=True)])


def picture_grid(
    rows: Mapping[str, np.ndarray], *, names: Sequence[str] = (), scale: int = 2
) -> Image.Image:
    """Rows of images above one another, each under its caption.

    Args:
      rows: caption -> images (count, height, width, 1 or 3) in [0, 1], or uint8.
      names: above the columns, which are as wide as the widest image or name.
      scale: pixels a side that an image's pixel is drawn with.

    Returns:
      An RGB picture.
    """
    font = ImageFont.load_default(size=14)
    gap, caption_height = 4, 22
    strips = []
    for caption, images in rows.items():
        pixels = images
        if pixels.dtype != np.uint8:
            pixels = (np.clip(pixels, 0.0, 1.0) * 255).round().astype(np.uint8)
        if pixels.shape[-1] == 1:
            pixels = np.repeat(pixels, 3, axis=-1)
        pixels = pixels.repeat(scale, axis=1).repeat(scale, axis=2)
        strips.append((caption, pixels))
    named = max((math.ceil(font.getlength(name)) for name in names), default=0)
    pitch = gap + max(named, *(p.shape[2] for _, p in strips))
    width = max(
        max(len(p) for _, p in strips) * pitch + gap,
        max(int(font.getlength(c)) + 2 * gap for c, _ in strips),
    )
    height = sum(caption_height + p.shape[1] + gap for _, p in strips)
    height += caption_height if names else 0
    picture = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(picture)
    top = caption_height if names else 0
    for i, name in enumerate(names):
        draw.text((gap + i * pitch, 2), name, fill="black", font=font)
    for caption, pixels in strips:
        draw.text((gap, top + 2), caption, fill="black", font=font)
        top += caption_height
        for i, image in enumerate(pixels):
            picture.paste(Image.fromarray(image), (gap + i * pitch, top))
        top += pixels.shape[1] + gap
    return picture
