"""Text as pixels: fonts, labels shortened to fit, and masks of written pages."""

import functools

import numpy as np
from jaxtyping import Float
from PIL import Image, ImageDraw, ImageFont

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def load_font(size: float) -> Font:
    """Return Pillow's default font at `size` pixels."""
    return ImageFont.load_default(size=size)


def shorten_to_width(text: str, font: Font, width: float) -> str:
    """Replace the middle of `text` by an ellipsis if it is wider than `width` pixels.

    The result is "…" alone if fewer than two characters fit beside it, even if that is too wide.
    """
    if font.getlength(text) <= width:
        return text
    for kept in range(len(text) - 1, 1, -1):
        shorter = f"{text[: kept - kept // 2]}…{text[len(text) - kept // 2 :]}"
        if font.getlength(shorter) <= width:
            return shorter
    return "…"


def shorten_to_length(text: str, length: int) -> str:
    """Cut `text` to at most `length` >= 1 characters, the last one an ellipsis if something was cut."""
    return text if len(text) <= length else f"{text[: length - 1]}…"


@functools.lru_cache(maxsize=64)
def text_mask(
    text: str, font_size: int, height: int, width: int
) -> Float[np.ndarray, "height width"]:
    """Return a page filled with lines of `text`, repeated: 1 inside letters, else 0.

    Letters are not antialiased. Each line starts at another letter, so that letters do not align in
    columns. `text` must not be empty. The array is cached and must not be changed.
    """
    page = Image.new("1", (width, height))
    draw = ImageDraw.Draw(page)
    font = load_font(font_size)
    line = text + " "
    # A line twice as wide as the page still covers it after its start is cut off.
    line *= 2 + int(2 * width / max(draw.textlength(line, font=font), 1))
    for row, top in enumerate(range(0, height, round(1.25 * font_size) or 1)):
        start = row * 7 % len(text)
        draw.text((0, top), line[start:], fill=1, font=font)
    return np.asarray(page, np.float32)
