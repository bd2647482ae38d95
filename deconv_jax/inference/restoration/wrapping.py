"""Images that are periodic along an axis, such as panoramas and the textures of games.

A periodic image is extended by copies of itself, restored, and cropped. If the extension covers the pixels
that a result depends on, the result is that of the infinite, repeated image, and is periodic too.
"""

from typing import Literal

import numpy as np

Wrap = Literal["none", "x", "y", "xy"]
"""Axes along which an image is periodic: none, horizontally, vertically or both."""


def extend(pixels: np.ndarray, wrap: Wrap, margin: tuple[int, int]) -> np.ndarray:
    """Return an image extended by copies of itself along its periodic axes.

    Args:
      pixels: Image (height, width, channels).
      wrap: Periodic axes; "none" returns the image itself.
      margin: Pixels to add at each side vertically and horizontally; possibly more than the image has.
    """
    if wrap == "none":
        return pixels
    rows, columns = (
        np.arange(-m, n + m) % n if axis in wrap else np.arange(n)
        for axis, n, m in zip("yx", pixels.shape[:2], margin, strict=True)
    )
    return pixels[np.ix_(rows, columns)]


def crop(pixels: np.ndarray, wrap: Wrap, margin: tuple[int, int], scale: int = 1) -> np.ndarray:
    """Undo `extend` for an image enlarged by a factor."""
    if wrap == "none":
        return pixels
    starts = [scale * m if axis in wrap else 0 for axis, m in zip("yx", margin, strict=True)]
    height, width = pixels.shape[:2]
    return pixels[starts[0] : height - starts[0], starts[1] : width - starts[1]]
