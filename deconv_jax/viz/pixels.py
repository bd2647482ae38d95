"""8-bit RGB pixels from images of any channel count, and nearest-neighbor enlargement."""

import numpy as np
from jaxtyping import UInt8


def rgb_pixels(images: np.ndarray) -> UInt8[np.ndarray, "*batch 3"]:
    """Convert images to 8-bit RGB.

    Args:
      images: Images (..., channels), float in [0, 1] (clipped and rounded) or uint8. The first three
        channels become red, green and blue; with fewer than three, the first becomes gray.
        Further channels are dropped.
    """
    images = images[..., :3] if images.shape[-1] >= 3 else images[..., :1]
    if images.dtype != np.uint8:
        images = (np.clip(images, 0.0, 1.0) * 255).round().astype(np.uint8)
    return np.repeat(images, 3, axis=-1) if images.shape[-1] == 1 else images


def enlarge(images: np.ndarray, factor: int) -> np.ndarray:
    """Repeat each pixel of images (..., height, width, channels) `factor` times along both axes."""
    return images.repeat(factor, axis=-3).repeat(factor, axis=-2)
