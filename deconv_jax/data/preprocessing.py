"""Preprocessing of a classifier's input on the device: resizing and standardization, and its inverse.

Standardization is TensorFlow's `per_image_standardization`, over all pixels and channels of an image.

Note:
  The lower bound of the standard deviation, 1 / sqrt(n) for n values, applies to images in [0, 1].
"""

import dataclasses
import math
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from deconv_jax.data.augment import center_resize
from deconv_jax.errors import at_least


class Statistics(NamedTuple):
    """Mean and standard deviation that each image was standardized with; 0 and 1 if it was not.

    The deviation is at least 1 / sqrt(number of values).
    """

    mean: Float[Array, "batch 1 1 1"]
    deviation: Float[Array, "batch 1 1 1"]


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """Preprocessing steps. The default is none.

    Attributes:
      resize: Height and width of the network's input in pixels, at least 1; None keeps the size. The largest center
        crop of this aspect ratio is resized by antialiased bilinear interpolation; see `center_resize`.
      standardize: Whether each image is standardized to mean 0 and deviation 1.
    """

    resize: tuple[int, int] | None = None
    standardize: bool = False

    def __post_init__(self) -> None:
        for side in self.resize or ():
            at_least("preprocessing.resize", side, 1)

    def resized(
        self,
        images: Float[Array, "batch height width channels"],
        valid_size: Int[Array, "batch 2"] | None = None,
    ) -> Float[Array, "batch out_height out_width channels"]:
        """Resize images to the network's input size, `resize`; return them unchanged if that is None.

        They are also unchanged if they have this size and `valid_size` is None.

        Args:
          images: Images in [0, 1].
          valid_size: Height and width of the valid region of each image, used for resizing; None for the whole
            image.
        """
        if self.resize is None or (valid_size is None and images.shape[1:3] == self.resize):
            return images
        return center_resize(images, self.resize, valid_size)

    def standardized(
        self, images: Float[Array, "batch height width channels"]
    ) -> tuple[Float[Array, "batch height width channels"], Statistics]:
        """Return (x - mean) / max(deviation, 1 / sqrt(n)) for images of n values, and the statistics.

        The statistics are the mean and the denominator. Without `standardize`, the images are returned unchanged,
        with mean 0 and deviation 1.
        """
        if not self.standardize:
            shape = (images.shape[0], 1, 1, 1)
            return images, Statistics(jnp.zeros(shape), jnp.ones(shape))
        numbers = math.prod(images.shape[1:])
        mean = jnp.mean(images, (1, 2, 3), keepdims=True)
        # Clamp the variance before the square root, whose derivative at 0 is infinite.
        variance = jnp.maximum(jnp.var(images, (1, 2, 3), keepdims=True), 1 / numbers)
        deviation = jnp.sqrt(variance)
        return (images - mean) / deviation, Statistics(mean, deviation)

    def __call__(
        self,
        images: Float[Array, "batch height width channels"],
        valid_size: Int[Array, "batch 2"] | None = None,
    ) -> tuple[Float[Array, "batch out_height out_width channels"], Statistics]:
        """Resize and standardize images, each if enabled, and return the statistics for `unstandardize`."""
        return self.standardized(self.resized(images, valid_size))


def unstandardize(
    images: Float[Array, "batch height width channels"], statistics: Statistics
) -> Float[Array, "batch height width channels"]:
    """Undo `Preprocessing.standardized`, so that a network's input can be displayed. Resizing is not undone."""
    return images * statistics.deviation + statistics.mean
