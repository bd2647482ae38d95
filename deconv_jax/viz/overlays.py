"""Annotations drawn over images: class tints, labeled boxes and legends."""

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int, UInt8
from PIL import Image, ImageColor, ImageDraw

from deconv_jax.viz.pixels import enlarge, rgb_pixels
from deconv_jax.viz.plots import COLORS
from deconv_jax.viz.text import load_font

_OPACITY = 0.5
_MIN_TEXT = 12
_TEXT_LINES = 50
"""Number of text lines that fill the shorter side of a large image."""


def class_color(number: int) -> tuple[int, ...]:
    """Return the RGB color of a class; colors repeat after the tenth."""
    return ImageColor.getrgb(COLORS[number % len(COLORS)])


def class_name(number: int, names: Sequence[str]) -> str:
    """Return the name of a class, or its number as text if `names` is too short; number is at least 0."""
    return names[number] if number < len(names) else str(number)


def background_index(names: Sequence[str]) -> int | None:
    """Return the index of the class named "background", or None if there is none."""
    return names.index("background") if "background" in names else None


def tint_by_class(
    image: np.ndarray, segments: Int[np.ndarray, "height width"], *, background: int | None = 0
) -> UInt8[np.ndarray, "height width 3"]:
    """Tint each pixel of an image by its class, with an opacity of 0.5; returns a copy.

    Args:
      image: Image (height, width, 1 or 3), float in [0, 1] or uint8.
      segments: Class of each pixel. Pixels of other values than 0 to 254 are never tinted.
      background: Class that is not tinted, None to tint all.
    """
    pixels = rgb_pixels(image).astype(np.float32)
    for number in np.unique(segments):
        if number != background and 0 <= number < 255:
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
) -> UInt8[np.ndarray, "scaled_height scaled_width 3"]:
    """Draw bounding boxes over an image, each labeled with its class and score.

    Args:
      image: Image (height, width, 1 or 3), float in [0, 1] or uint8.
      boxes: Top, left, bottom and right edge in pixels.
      classes: Class of each box. Boxes of a negative class are not drawn.
      scores: Scores in [0, 1], written after the class with two decimals. None writes the class alone.
      names: Names of the classes; classes without a name show their number.
      scale: Factor by which the image is enlarged before drawing.
    """
    picture = Image.fromarray(enlarge(rgb_pixels(image), scale))
    draw = ImageDraw.Draw(picture)
    text = _text_height(picture.size)
    font = load_font(text)
    for index, number in enumerate(classes):
        if number < 0:
            continue
        top, left, bottom, right = (scale * float(edge) for edge in boxes[index])
        color = class_color(int(number))
        corners = (left, top, max(right - 1, left), max(bottom - 1, top))
        draw.rectangle(corners, outline=color, width=max(1, scale // 2, text // 8))
        label = class_name(int(number), names)
        if scores is not None:
            label += f" {scores[index]:.2f}"
        # The label is above the box, or inside it at the top of the picture, and shifted left where it
        # would cross the right edge.
        x = max(0.0, min(left + 1, picture.width - draw.textlength(label, font=font) - 1))
        position = (x, top - text - 2 if top >= text + 2 else max(top, 0.0) + 1)
        draw.rectangle(draw.textbbox(position, label, font=font), fill=color)
        draw.text(position, label, fill="white", font=font)
    return np.asarray(picture)


def with_legend(
    image: UInt8[np.ndarray, "height width 3"], entries: Sequence[tuple[tuple[int, ...], str]]
) -> UInt8[np.ndarray, "extended_height extended_width 3"]:
    """Append a legend on white to the right of an image.

    Args:
      image: Image to annotate.
      entries: Color and text of each line from the top. Without entries the image is returned as is.
    """
    if not entries:
        return image
    height, width = image.shape[:2]
    text = _text_height((height, width))
    font = load_font(text)
    line = text + text // 2
    legend_width = 3 * text + max(math.ceil(font.getlength(label)) for _, label in entries)
    total_height = max(height, len(entries) * line + text)
    picture = Image.new("RGB", (width + legend_width, total_height), "white")
    picture.paste(Image.fromarray(image), (0, 0))
    draw = ImageDraw.Draw(picture)
    for row, (color, label) in enumerate(entries):
        left, middle = width + text // 2, text // 2 + row * line + line / 2
        draw.rectangle((left, middle - text // 2, left + text, middle + text // 2), fill=color)
        draw.text((left + text + text // 2, middle), label, fill="black", font=font, anchor="lm")
    return np.asarray(picture)


def _text_height(size: Sequence[int]) -> int:
    """Return the text height in pixels for a picture of this size."""
    return max(_MIN_TEXT, min(size) // _TEXT_LINES)
