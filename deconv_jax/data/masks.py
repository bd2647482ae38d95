"""Missing pixels: multiplication by a mask, and random masks.

Note:
  A mask is 1 for a known pixel and 0 for a missing one, which is black in the degraded image. A random mask
  is not yet linear. `draw` turns it into a `Mask`, which tells an inpainting network or a solver which pixels
  are known.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from deconv_jax.data.forward_model import (
    Degradation,
    Images,
    Keys,
    LinearDegradation,
    bounds,
    check_integer,
    check_keys,
    check_numbers,
    frozen_array,
    is_range,
)
from deconv_jax.data.geometry import distance_to_segment
from deconv_jax.errors import InputError
from deconv_jax.viz.text import text_mask


@dataclasses.dataclass(frozen=True, eq=False)
class Mask(LinearDegradation):
    """Multiplication by a mask.

    Attributes:
      mask: 1 for known and 0 for missing pixels. Shape (height, width), (height, width, channels) or (batch, height,
        width, channels); axes of length 1 are broadcast.
    """

    leaves = ("mask",)

    mask: np.ndarray | Array

    def __post_init__(self) -> None:
        mask = frozen_array("mask", self.mask)
        if mask.ndim not in (2, 3, 4):
            raise InputError(
                f"mask must be (height, width), (height, width, channels) or (batch, height, width, "
                f"channels); got shape {mask.shape}"
            )
        object.__setattr__(self, "mask", mask)

    def forward(self, x: Images) -> Images:
        """Return the images times the mask; raises InputError if the mask does not broadcast to the images."""
        mask = jnp.asarray(self.mask, x.dtype)
        shape = (*mask.shape, 1) if mask.ndim == 2 else mask.shape
        shape = (1,) * (4 - len(shape)) + shape
        if any(m not in (1, n) for m, n in zip(shape, x.shape, strict=True)):
            raise InputError(f"a mask of shape {mask.shape} does not broadcast to images {x.shape}")
        return x * mask.reshape(shape)


class RandomMask(Degradation):
    """The base class of random masks. A call samples and applies one; `apply` requires the `Mask` of `draw`."""

    def draw(self, keys: Keys | None, shape: Sequence[int]) -> Mask:
        """Return a `Mask` (batch, height, width, 1), sampled for each example.

        Raises:
          InputError: There is not one key per example.
        """
        keys = check_keys(self, keys, shape)
        lost = jax.vmap(functools.partial(self._lost, height=shape[1], width=shape[2]))(keys)
        return Mask(1.0 - lost.astype(jnp.float32)[..., None])

    def apply(self, x: Images, keys: Keys | None = None) -> Images:
        """Raise InputError, because the mask was not sampled. Call the mask, or apply the `Mask` of `draw`."""
        del x, keys
        raise InputError(f"{type(self).__name__} was not sampled; draw(keys, shape) returns a Mask")

    def _lost(self, key: Array, height: int, width: int) -> Bool[Array, "height width"]:
        """Return which pixels are missing for one key."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True, eq=False)
class RandomPixelMask(RandomMask):
    """A mask of pixels that are missing independently, with equal probability.

    Attributes:
      keep: Probability that a pixel is known, or a range sampled per example.
    """

    leaves = ("keep",)

    keep: float | tuple[float, float]

    def __post_init__(self) -> None:
        check_numbers("keep", self.keep, 0, 1)

    def _lost(self, key: Array, height: int, width: int) -> Array:
        of_keep, of_pixels = jax.random.split(key)
        return jax.random.uniform(of_pixels, (height, width)) >= _number(of_keep, self.keep)


@dataclasses.dataclass(frozen=True, eq=False)
class BoxMask(RandomMask):
    """Missing rectangles inside the image.

    Attributes:
      count: Number of rectangles per image, at least 1. They may overlap.
      size: Height and width in pixels, at least 1, or a range (with both ends) sampled for each side of each
        rectangle. A side longer than the image is cut to it.
    """

    leaves = ("size",)

    count: int
    size: int | tuple[int, int]

    def __post_init__(self) -> None:
        check_integer("count", self.count, 1)
        check_numbers("size", self.size, 1, integer=True)

    def _lost(self, key: Array, height: int, width: int) -> Array:
        """Return the missing pixels, from the rows and columns that each box covers."""

        def covered(key: Array, length: int) -> Array:
            of_size, of_start = jax.random.split(key)
            low, high = bounds(self.size)
            size = jnp.minimum(jax.random.randint(of_size, (self.count, 1), low, high + 1), length)
            start = jax.random.randint(of_start, (self.count, 1), 0, length - size + 1)
            place = jnp.arange(length).reshape(1, -1)
            return (start <= place) & (place < start + size)

        rows, columns = map(covered, jax.random.split(key), (height, width))
        return jnp.any(rows[:, :, None] & columns[:, None, :], axis=0)


@dataclasses.dataclass(frozen=True, eq=False)
class StrokeMask(RandomMask):
    """Missing straight strokes with round ends, in random directions, with their midpoints in the image.

    Attributes:
      count: Number of strokes per image, at least 1. They may cross.
      length: Length of the center line in pixels, or a range sampled for each stroke.
      width: Width in pixels, or a range sampled for each stroke.
    """

    leaves = ("length", "width")

    count: int
    length: float | tuple[float, float]
    width: float | tuple[float, float]

    def __post_init__(self) -> None:
        check_integer("count", self.count, 1)
        check_numbers("length", self.length, 0)
        check_numbers("width", self.width, 0)

    def _lost(self, key: Array, height: int, width: int) -> Array:
        def stroke(key: Array) -> Array:
            of_row, of_column, of_angle, of_length, of_width = jax.random.split(key, 5)
            center = (
                jax.random.uniform(of_row, maxval=height) - 0.5,
                jax.random.uniform(of_column, maxval=width) - 0.5,
            )
            angle = jax.random.uniform(of_angle, maxval=180.0)
            length, tip = _number(of_length, self.length), _number(of_width, self.width)
            return distance_to_segment(height, width, center, length, angle) <= tip / 2

        return jnp.any(jax.vmap(stroke)(jax.random.split(key, self.count)), axis=0)


@dataclasses.dataclass(frozen=True, eq=False)
class TextMask(RandomMask):
    """Missing pixels in the shape of a text, written over the whole image line by line.

    The letters are Pillow's default font without antialiasing. The mask is not random: `draw` ignores the keys and
    depends only on the size of the images.

    Attributes:
      text: A single line, repeated to fill the image.
      font_size: Font size in pixels.
    """

    text: str
    font_size: int = 20

    def __post_init__(self) -> None:
        check_integer("font_size", self.font_size, 1)
        if not self.text.strip() or "\n" in self.text:
            raise InputError(
                f"text must be a single line with at least one letter; got {self.text!r}"
            )

    def draw(self, keys: Keys | None, shape: Sequence[int]) -> Mask:
        """Return a `Mask` (1, height, width, 1), the same for all examples; keys are not used."""
        del keys
        _, height, width, _ = shape
        known = 1.0 - text_mask(self.text, self.font_size, height, width)
        return Mask(known.reshape(1, height, width, 1))


def _number(key: Array, value: Any) -> Float[Array, ""]:
    """Return the number, or sample one from the range."""
    if is_range(value):
        return jax.random.uniform(key, minval=value[0], maxval=value[1])
    return jnp.asarray(value, jnp.float32)
