"""Annotations drawn over images: the colour of each class of pixels, boxes with names and scores, legends."""

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int, UInt8
from PIL import Image, ImageColor, ImageDraw, ImageFont

from deconv_jax.viz.plots import COLORS

_OPACITY = 0.5
_TEXT = 12
_LETTERS = 50
"""Lines of letters that would fill a large image's shorter side."""


def class_color(number: int) -> tuple[int, ...]:
    """RGB of a class; those after the tenth begin again."""
    return ImageColor.getrgb(COLORS[number % len(COLORS)])


def class_name(number: int, names: Sequence[str]) -> str:
    """What to call a class: its name, or its number where it has none."""
    return names[number] if number < len(names) else str(number)


def background_of(names: Sequence[str]) -> int | None:
    """The class that is called "background", None if none is."""
    return names.index("background") if "background" in names else None


def rgb_pixels(image: np.ndarray) -> UInt8[np.ndarray, "height width 3"]:
    """An image (height, width, 1 or 3) in [0, 1], or uint8, as 8 bits of RGB."""
    if image.dtype != np.uint8:
        image = (np.clip(image, 0.0, 1.0) * 255).round().astype(np.uint8)
    return np.repeat(image, 3, axis=-1) if image.shape[-1] == 1 else image


def with_segments(
    image: np.ndarray, segments: Int[np.ndarray, "height width"], *, background: int | None = 0
) -> UInt8[np.ndarray, "height width 3"]:
    """An image with each pixel tinted by its class.

    Args:
      image: (height, width, 1 or 3) in [0, 1], or uint8.
      segments: the class of each pixel; those of `background`, and any above 254, stay as they are.
      background: the class that is not tinted, None for none.
    """
    pixels = rgb_pixels(image).astype(np.float32)
    for number in np.unique(segments):
        if number != background and number < 255:
            where = segments == number
            color = np.array(class_color(int(number)), np.float32)
            pixels[where] = (1 - _OPACITY) * pixels[where] + _OPACITY * color
    return pixels.round().astype(np.uint8)


def with_boxes(
    image: np.ndarray,
    boxes: Float[np.ndarray, "count 4"],
    classes: Int[np.ndarray, " count"],
    *,
    scores: Float[np.ndarray, " count"] | None = None,
    names: Sequence[str] = (),
    scale: int = 1,
) -> UInt8[np.ndarray, "big_height big_width 3"]:
    """An image with boxes about objects, each with its class and score.

    Args:
      image: (height, width, 1 or 3) in [0, 1], or uint8.
      boxes: top, left, bottom, right, pixels.
      classes: of each box; those of negative class are left out.
      scores: in [0, 1], written beside the class.
      names: of the classes.
      scale: pixels a side that a pixel is drawn with.
    """
    pixels = rgb_pixels(image).repeat(scale, axis=0).repeat(scale, axis=1)
    picture = Image.fromarray(pixels)
    draw = ImageDraw.Draw(picture)
    text = _text_height(picture.size)
    font = ImageFont.load_default(size=text)
    for place, number in enumerate(classes):
        if number < 0:
            continue
        top, left, bottom, right = (scale * float(edge) for edge in boxes[place])
        color = class_color(int(number))
        corners = (left, top, max(right - 1, left), max(bottom - 1, top))
        draw.rectangle(corners, outline=color, width=max(1, scale // 2, text // 8))
        words = class_name(int(number), names)
        if scores is not None:
            words += f" {scores[place]:.2f}"
        # Above the box, or inside where the picture ends; whole, if the picture is as wide.
        beside = max(0.0, min(left + 1, picture.width - draw.textlength(words, font=font) - 1))
        at = (beside, top - text - 2 if top >= text + 2 else max(top, 0.0) + 1)
        draw.rectangle(draw.textbbox(at, words, font=font), fill=color)
        draw.text(at, words, fill="white", font=font)
    return np.asarray(picture)


def with_legend(
    image: UInt8[np.ndarray, "height width 3"], entries: Sequence[tuple[tuple[int, ...], str]]
) -> UInt8[np.ndarray, "height_or_more more_width 3"]:
    """An image with words on white to its right, each line after a patch of a colour.

    Args:
      image: as it is to be shown.
      entries: the colours and words, from the top; of none the image is left as it is.
    """
    if not entries:
        return image
    height, width = image.shape[:2]
    text = _text_height((height, width))
    font = ImageFont.load_default(size=text)
    line = text + text // 2
    wide = 3 * text + max(math.ceil(font.getlength(words)) for _, words in entries)
    tall = max(height, len(entries) * line + text)
    picture = Image.new("RGB", (width + wide, tall), "white")
    picture.paste(Image.fromarray(image), (0, 0))
    draw = ImageDraw.Draw(picture)
    for row, (color, words) in enumerate(entries):
        left, middle = width + text // 2, text // 2 + row * line + line / 2
        draw.rectangle((left, middle - text // 2, left + text, middle + text // 2), fill=color)
        draw.text((left + text + text // 2, middle), words, fill="black", font=font, anchor="lm")
    return np.asarray(picture)


def _text_height(size: Sequence[int]) -> int:
    """Of letters over an image of a size, pixels."""
    return max(_TEXT, min(size) // _LETTERS)
