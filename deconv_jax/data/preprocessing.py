"""What images go through before a classifier, on the device: resized, standardised; and the way back.

Standardisation is that of TensorFlow's `per_image_standardization`: of each image by itself, over all its
pixels and channels, with a floor for the deviation of flat images. What a reader would get wrong: that floor,
1 / sqrt(numbers in the image), is in units of the image, which here is in [0, 1].
"""

import dataclasses
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from deconv_jax.data.augment import center_resize
from deconv_jax.errors import at_least


class Statistics(NamedTuple):
    """What was subtracted from each image, and what it was then divided by."""

    mean: Float[Array, "batch 1 1 1"]
    deviation: Float[Array, "batch 1 1 1"]


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """Steps before a network; as it is made without arguments, none.

    Attributes:
      resize: height and width of what the network sees, pixels: of each image the largest part in the
        middle that has this shape, by antialiased bilinear interpolation, see `center_resize`.
      standardize: whether each image is given mean 0 and deviation 1.
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
        """Images in [0, 1] at the network's size.

        Args:
          images: in [0, 1].
          valid_size: height and width of what is true of each image, at its top left, which only
            resizing looks at; None for all of it.
        """
        if self.resize is None or (valid_size is None and images.shape[1:3] == self.resize):
            return images
        return center_resize(images, self.resize, valid_size)

    def standardized(
        self, images: Float[Array, "batch height width channels"]
    ) -> tuple[Float[Array, "batch height width channels"], Statistics]:
        """(x - mean) / max(deviation, 1 / sqrt(n)) of each image of n numbers, and what `unstandardize` needs."""
        if not self.standardize:
            shape = (len(images), 1, 1, 1)
            return images, Statistics(jnp.zeros(shape), jnp.ones(shape))
        numbers = images[0].size
        mean = jnp.mean(images, (1, 2, 3), keepdims=True)
        # The floor is under the root, whose derivative at 0 is infinite.
        variance = jnp.maximum(jnp.var(images, (1, 2, 3), keepdims=True), 1 / numbers)
        deviation = jnp.sqrt(variance)
        return (images - mean) / deviation, Statistics(mean, deviation)

    def __call__(
        self,
        images: Float[Array, "batch height width channels"],
        valid_size: Int[Array, "batch 2"] | None = None,
    ) -> tuple[Float[Array, "batch out_height out_width channels"], Statistics]:
        """Images as a network sees them, and what `unstandardize` needs; arguments as for `resized`."""
        return self.standardized(self.resized(images, valid_size))


def unstandardize(
    images: Float[Array, "batch height width channels"], statistics: Statistics
) -> Float[Array, "batch height width channels"]:
    """Undoes `Preprocessing.standardized`, so that people can look at what a network sees."""
    return images * statistics.deviation + statistics.mean
