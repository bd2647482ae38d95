"""Missing pixels: a mask of ones and zeros that multiplies the image, and ways to draw one.

What a reader would get wrong: a mask says what is *kept*, 1 for a known pixel and 0 for a lost one,
and a lost pixel is black in the degraded image. The ways to draw one are no linear maps yet: `draw`
makes a `Mask` of them, of which an inpainting network or a solver reads which pixels are known.
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
    Linear,
    bounds,
    check_keys,
    check_numbers,
    check_whole,
    frozen_array,
    is_range,
)
from deconv_jax.data.geometry import distance_to_segment
from deconv_jax.errors import InputError
from deconv_jax.viz.text import text_mask


@dataclasses.dataclass(frozen=True, eq=False)
class Mask(Linear):
    """Multiplication by a mask.

    Attributes:
      mask: 1 where a pixel is known and 0 where it is lost, (height, width), or with one axis more
        for channels, or another before them for the examples of a batch; axes may be of length 1.
    """

    leaves = ("mask",)

    mask: np.ndarray | Array

    def __post_init__(self) -> None:
        mask = frozen_array("mask", self.mask)
        if mask.ndim not in (2, 3, 4):
            raise InputError(
                f"mask is (height, width), (height, width, channels) or (batch, height, width, "
                f"channels); got shape {mask.shape}"
            )
        object.__setattr__(self, "mask", mask)

    def forward(self, x: Images) -> Images:
        """The images with their lost pixels at 0; raises InputError for another size."""
        mask = jnp.asarray(self.mask, x.dtype)
        shape = (*mask.shape, 1) if mask.ndim == 2 else mask.shape
        shape = (1,) * (4 - len(shape)) + shape
        if any(m not in (1, n) for m, n in zip(shape, x.shape, strict=True)):
            raise InputError(f"a mask of shape {mask.shape} does not fit images {x.shape}")
        return x * mask.reshape(shape)


class RandomMask(Degradation):
    """A way to draw a `Mask`; a subclass says which pixels of an image are lost."""

    def draw(self, keys: Keys | None, shape: Sequence[int]) -> Mask:
        """The `Mask` of (batch, height, width, 1), one an example from its key."""
        keys = check_keys(self, keys, shape)
        lost = jax.vmap(functools.partial(self._lost, height=shape[1], width=shape[2]))(keys)
        return Mask(1.0 - lost.astype(jnp.float32)[..., None])

    def apply(self, x: Images, keys: Keys | None = None) -> Images:
        """Raises InputError: there is no mask yet."""
        del x, keys
        raise InputError(f"{type(self).__name__} is not drawn; draw(keys, shape) makes it a Mask")

    def _lost(self, key: Array, height: int, width: int) -> Bool[Array, "height width"]:
        """Which pixels one key loses."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True, eq=False)
class RandomPixelMask(RandomMask):
    """Single pixels lost, each with the same probability, independently.

    Attributes:
      keep: probability that a pixel is kept, or a range of which each example has its own.
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
    """Rectangles lost, anywhere inside the image.

    Attributes:
      count: rectangles an image; they may overlap.
      size: height and width in pixels, or a range of which each side of each has its own.
    """

    leaves = ("size",)

    count: int
    size: int | tuple[int, int]

    def __post_init__(self) -> None:
        check_whole("count", self.count, 1)
        check_numbers("size", self.size, 1, whole=True)

    def _lost(self, key: Array, height: int, width: int) -> Array:
        """Along each axis, one table of which pixels each box covers."""

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
    """Straight strokes of a pen with a round tip lost, in any direction, their middle in the image.

    Attributes:
      count: strokes an image; they may cross.
      length: of the line that the tip's middle follows, in pixels, or a range.
      width: of the tip in pixels, or a range.
    """

    leaves = ("length", "width")

    count: int
    length: float | tuple[float, float]
    width: float | tuple[float, float]

    def __post_init__(self) -> None:
        check_whole("count", self.count, 1)
        check_numbers("length", self.length, 0)
        check_numbers("width", self.width, 0)

    def _lost(self, key: Array, height: int, width: int) -> Array:
        def stroke(key: Array) -> Array:
            of_row, of_column, of_angle, of_length, of_width = jax.random.split(key, 5)
            centre = (
                jax.random.uniform(of_row, maxval=height) - 0.5,
                jax.random.uniform(of_column, maxval=width) - 0.5,
            )
            angle = jax.random.uniform(of_angle, maxval=180.0)
            length, tip = _number(of_length, self.length), _number(of_width, self.width)
            return distance_to_segment(height, width, centre, length, angle) <= tip / 2

        return jnp.any(jax.vmap(stroke)(jax.random.split(key, self.count)), axis=0)


@dataclasses.dataclass(frozen=True, eq=False)
class TextMask(RandomMask):
    """Letters lost: a text written over the whole image, line after line, as on scanned pages.

    The letters are those of Pillow's default font, without smoothing. Nothing about it is random:
    `draw` takes no keys and depends on the size of the images alone.

    Attributes:
      text: one line, repeated until the image is full.
      font_size: in pixels.
    """

    text: str
    font_size: int = 20

    def __post_init__(self) -> None:
        check_whole("font_size", self.font_size, 1)
        if not self.text.strip() or "\n" in self.text:
            raise InputError(f"text is one line with a letter in it; got {self.text!r}")

    def draw(self, keys: Keys | None, shape: Sequence[int]) -> Mask:
        """The `Mask` of (1, height, width, 1), one for all examples."""
        del keys
        _, height, width, _ = shape
        known = 1.0 - text_mask(self.text, self.font_size, height, width)
        return Mask(known.reshape(1, height, width, 1))


def _number(key: Array, value: Any) -> Float[Array, ""]:
    """The number, or one drawn uniformly of the range."""
    if is_range(value):
        return jax.random.uniform(key, minval=value[0], maxval=value[1])
    return jnp.asarray(value, jnp.float32)
