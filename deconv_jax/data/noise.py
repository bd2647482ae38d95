"""Noise and compression: degradations that are not linear maps.

Note:
  `GaussianNoise.sigma` is in 8-bit levels, as in papers ("sigma = 25"): the standard deviation on images in
  [0, 1] is sigma / 255. Noisy images are neither clipped nor rounded, because clipped noise has a mean other
  than zero.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from deconv_jax.data.forward_model import (
    Degradation,
    Images,
    Keys,
    Noise,
    check_numbers,
)
from deconv_jax.ops.jpeg import Subsampling, check_subsampling, jpeg


@dataclasses.dataclass(frozen=True, eq=False)
class GaussianNoise(Noise):
    """White Gaussian noise, independent of the image.

    Attributes:
      sigma: Standard deviation in 8-bit levels, at least 0, or a range.
    """

    leaves = ("sigma",)

    sigma: float | tuple[float, float]

    def __post_init__(self) -> None:
        check_numbers("sigma", self.sigma, 0)

    @property
    def sigma_unit_range(self) -> float | Float[Array, " batch"]:
        """Standard deviation in units of [0, 1], `sigma / 255`; raises InputError for a range."""
        return self._settled("sigma") / 255

    @staticmethod
    def _degrade(key: Array, image: Array, strength: Array) -> Array:
        return image + strength / 255 * jax.random.normal(key, image.shape, image.dtype)


@dataclasses.dataclass(frozen=True, eq=False)
class PoissonNoise(Noise):
    """Photon noise: Poisson(peak * x) / peak, with variance x / peak. Negative values count as 0.

    Attributes:
      peak: Mean photon count of a pixel of value 1, above 0, or a range.
    """

    leaves = ("peak",)

    peak: float | tuple[float, float]

    def __post_init__(self) -> None:
        check_numbers("peak", self.peak, 0, exclude_least=True)

    @staticmethod
    def _degrade(key: Array, image: Array, strength: Array) -> Array:
        mean = jnp.maximum(strength * image, 0)
        return jax.random.poisson(key, mean).astype(image.dtype) / strength


@dataclasses.dataclass(frozen=True, eq=False)
class SpeckleNoise(Noise):
    """Multiplicative noise, x * (1 + sigma * standard normal), as in radar images.

    Attributes:
      sigma: Standard deviation relative to the pixel's value, at least 0, or a range.
    """

    leaves = ("sigma",)

    sigma: float | tuple[float, float]

    def __post_init__(self) -> None:
        check_numbers("sigma", self.sigma, 0)

    @staticmethod
    def _degrade(key: Array, image: Array, strength: Array) -> Array:
        return image * (1 + strength * jax.random.normal(key, image.shape, image.dtype))


@dataclasses.dataclass(frozen=True, eq=False)
class SaltAndPepperNoise(Noise):
    """Values replaced by 0 or 1 with equal probability, independently in each channel.

    Attributes:
      fraction: Probability that a value is replaced, from 0 to 1, or a range.
    """

    leaves = ("fraction",)

    fraction: float | tuple[float, float]

    def __post_init__(self) -> None:
        check_numbers("fraction", self.fraction, 0, 1)

    @staticmethod
    def _degrade(key: Array, image: Array, strength: Array) -> Array:
        place = jax.random.uniform(key, image.shape, image.dtype)
        salt = (place < strength / 2).astype(image.dtype)
        return jnp.where(place < strength, salt, image)


@dataclasses.dataclass(frozen=True, eq=False)
class Jpeg(Degradation):
    """JPEG compression and decompression by `ops.jpeg`, which clips and rounds to 8 bits.

    Attributes:
      quality: Quality from 1 to 100 as in libjpeg and Pillow, or a range that includes both ends.
      subsampling: Subsampling of the chroma channels; no effect on gray images.
    """

    leaves = ("quality",)

    quality: int | tuple[int, int]
    subsampling: Subsampling = "4:2:0"

    def __post_init__(self) -> None:
        check_numbers("quality", self.quality, 1, 100, integer=True)
        check_subsampling(self.subsampling)

    def apply(self, x: Images, keys: Keys | None = None) -> Images:
        """Return the decompressed images in [0, 1]; keys are not used.

        Raises:
          InputError: The quality is a range that was not sampled, or the images are neither gray nor RGB.
        """
        del keys
        return jpeg(x, self._settled("quality"), subsampling=self.subsampling)

    @staticmethod
    def _draw_number(key: Array, low_high: tuple[Any, Any]) -> Array:
        return jax.random.randint(key, (), low_high[0], low_high[1] + 1)
