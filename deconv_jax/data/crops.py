"""Center crops of padded images, on the host."""

import numpy as np


def center_crops(images: np.ndarray, sizes: np.ndarray, side: int) -> np.ndarray:
    """Crop the center of the valid region of each image.

    A crop of a smaller valid region starts at its top or left, and includes padding.

    Args:
      images: Images (count, height, width, channels), padded at the bottom and right; at least one.
      sizes: Height and width of the valid regions (count, 2).
      side: Side of the crop.

    Returns:
      Crops (count, min(height, side), min(width, side), channels).
    """

    def crop(image: np.ndarray, size: np.ndarray) -> np.ndarray:
        starts = [max(int(n) - side, 0) // 2 for n in size]
        top, left = (min(s, max(n - side, 0)) for s, n in zip(starts, image.shape, strict=False))
        return image[top : top + side, left : left + side]

    return np.stack([crop(*pair) for pair in zip(images, sizes, strict=True)])
