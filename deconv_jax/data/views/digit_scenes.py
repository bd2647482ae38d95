"""Scenes of handwritten digits with exact masks and boxes, drawn on the device.

An example is a stack of gray digits from a `StackedSource`. Each digit is enlarged, narrowed, rotated and
placed on a canvas where it overlaps no earlier digit, brighter than the background by a given contrast. A
digit is left out if none of a few random places is free.

Note:
  The mask of a digit is where its opacity is at least 0.5 before noise is added, not where pixels look
  bright. The box is the bounds of the mask.
"""

import dataclasses
import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from deconv_jax.data.views.view import AnnotatedBatch
from deconv_jax.data.warp import sample_bilinear
from deconv_jax.errors import InputError, at_least

_TRIES = 32
"""Random places that are tried for each digit."""
_GAP = 2
"""Minimum distance between boxes in pixels, so that the soft edges of two digits do not mix."""
_NARROWEST = 0.8
"""Minimum ratio of a digit's width to its height."""
_STEEPNESS = 4.0
"""Slope of the function from ink to opacity, which sharpens the edges of enlarged digits.

The edge of an embedded digit, enlarged 8 times, becomes 1 to 2 pixels wide.
"""
_BRIGHTEST_BACKGROUND = 0.5
_TILT = 0.2
"""Maximum change of the background's level from one side of the canvas to the other."""


@dataclasses.dataclass(frozen=True)
class DigitScenes:
    """A `View` that draws each channel of a stacked image as a digit, without overlap.

    Returns "image" (batch, size, size, 1) in [0, 1], "segments" with 0 for background and 1 + digit, and "boxes"
    with "box_class" 0 to 9, in the order of the channels; -1 for a digit that found no place. Training and
    evaluation use the same distribution. A field out of range raises InputError, and so does a canvas that a
    rotated digit of `max_height` does not fit into.

    Attributes:
      size: Side of the canvas in pixels.
      min_height, max_height: Range of the height of a digit's image in pixels, uniform. Its width is 0.8 to 1
        times the height.
      turn: Maximum angle of rotation to either side, in degrees, at most 45.
      contrast: Minimum difference between a digit's brightness and the maximum of the background. Both are at
        most 0.5.
      noise: Standard deviation of Gaussian noise, in units of [0, 1], at least 0. The image is then clipped.
    """

    size: int = 96
    min_height: float = 36.0
    max_height: float = 56.0
    turn: float = 10.0
    contrast: float = 0.35
    noise: float = 0.05

    def __post_init__(self) -> None:
        at_least("size of digit_scenes", self.size, 1)
        at_least("noise of digit_scenes", self.noise, 0)
        if not 0 < self.min_height <= self.max_height:
            raise InputError(
                "digit_scenes requires 0 < min_height <= max_height; got "
                f"min_height={self.min_height} and max_height={self.max_height}"
            )
        if not 0 <= self.turn <= 45:
            raise InputError(f"turn of digit_scenes must be 0 to 45 degrees; got {self.turn}")
        if not 0 < self.contrast <= 1 - _BRIGHTEST_BACKGROUND:
            raise InputError(
                f"contrast of digit_scenes must be above 0 and at most {1 - _BRIGHTEST_BACKGROUND}; got "
                f"{self.contrast}"
            )
        if self._reach > self.size:
            raise InputError(
                f"a digit of {self.max_height} pixels rotated by {self.turn} degrees is up to "
                f"{self._reach:.0f} pixels high, more than the canvas of {self.size}; reduce max_height"
            )

    @property
    def _reach(self) -> float:
        """Maximum height and width of a rotated digit."""
        angle = math.radians(self.turn)
        return self.max_height * (math.cos(angle) + math.sin(angle))

    def __call__(
        self, keys: Key[Array, " batch"], batch: Mapping[str, Array], *, train: bool
    ) -> AnnotatedBatch:
        """Draw one scene per example, from "image" (batch, height, width, channels) and "digits" (batch, channels).

        `train` has no effect.

        Raises:
          InputError: The batch lacks "digits", or does not have one for each channel.
        """
        del train
        if "digits" not in batch:
            raise InputError(
                "digit_scenes requires the class of each channel, as stacked data has it; set "
                "config.data.source=dict(name='stacked', base=dict(name='digits'))"
            )
        if batch["digits"].shape[-1] != batch["image"].shape[-1]:
            raise InputError(
                "digit_scenes requires one class per channel; got "
                f"{batch['digits'].shape[-1]} for {batch['image'].shape[-1]} channels"
            )
        ink = batch["image"].astype(jnp.float32) / 255.0
        classes = batch["digits"].astype(jnp.int32)
        return jax.vmap(self._scene)(keys, ink, classes)

    def _scene(
        self,
        key: Key[Array, ""],
        ink: Float[Array, "height width digits"],
        classes: Int[Array, " digits"],
    ) -> dict[str, Array]:
        behind, noise, *each = jax.random.split(key, 2 + len(classes))
        image = self._background(behind)
        brightest = jnp.max(image)
        segments = jnp.zeros((self.size, self.size), jnp.int32)
        boxes = jnp.zeros((0, 4), jnp.int32)
        shown = jnp.zeros((0,), bool)
        for number, key_of_one in enumerate(each):
            looks, place, level = jax.random.split(key_of_one, 3)
            patch = self._drawn(looks, ink[..., number])
            corner, box, fits = self._placed(place, patch >= 0.5, boxes, shown)
            brightness = jax.random.uniform(level, minval=brightest + self.contrast, maxval=1.0)
            opacity = jnp.where(fits, self._on_canvas(patch, corner), 0.0)
            image = image + opacity * (brightness - image)
            segments = jnp.where(opacity >= 0.5, 1 + classes[number], segments)
            boxes = jnp.concatenate([boxes, jnp.where(fits, box, 0)[None]])
            shown = jnp.append(shown, fits)
        image = image + self.noise * jax.random.normal(noise, image.shape)
        return {
            "image": jnp.clip(image, 0.0, 1.0)[..., None],
            "segments": segments,
            "boxes": boxes.astype(jnp.float32),
            "box_class": jnp.where(shown, classes, -1),
        }

    def _background(self, key: Key[Array, ""]) -> Float[Array, "size size"]:
        """Draw a linear gradient in a random direction, with levels from 0 to 0.5."""
        level, tilt, angle = jax.random.uniform(key, (3,))
        angle = 2 * jnp.pi * angle
        along = (jnp.arange(self.size) + 0.5) / self.size - 0.5
        down, across = jnp.sin(angle) * along[:, None], jnp.cos(angle) * along[None]
        plane = (down + across) / (jnp.abs(jnp.sin(angle)) + jnp.abs(jnp.cos(angle)))
        level = level * (_BRIGHTEST_BACKGROUND - _TILT / 2)
        return jnp.maximum(level + _TILT * tilt * plane, 0.0)

    def _drawn(
        self, key: Key[Array, ""], ink: Float[Array, "height width"]
    ) -> Float[Array, "patch patch"]:
        """Draw the opacity of a digit in the center of a patch, which it fits into at any rotation."""
        size, narrow, turn = jax.random.uniform(key, (3,))
        height = self.min_height + size * (self.max_height - self.min_height)
        width = height * (_NARROWEST + narrow * (1 - _NARROWEST))
        angle = math.radians(self.turn) * (2 * turn - 1)
        patch = math.ceil(self._reach) + 2
        from_middle = jnp.arange(patch) + 0.5 - patch / 2
        down, across = from_middle[:, None], from_middle[None]
        rows = (jnp.cos(angle) * down - jnp.sin(angle) * across) * ink.shape[0] / height
        columns = (jnp.sin(angle) * down + jnp.cos(angle) * across) * ink.shape[1] / width
        blank = jnp.pad(ink, 1)  # There is no ink outside the digit's image.
        points = jnp.stack([rows + blank.shape[0] / 2, columns + blank.shape[1] / 2], axis=-1)
        sampled = sample_bilinear(blank[..., None], points)[..., 0]
        return jnp.clip((sampled - 0.5) * _STEEPNESS + 0.5, 0.0, 1.0)

    def _placed(
        self,
        key: Key[Array, ""],
        mask: Array,
        boxes: Int[Array, "earlier 4"],
        shown: Array,
    ) -> tuple[Int[Array, " 2"], Int[Array, " 4"], Array]:
        """Return the corner of a patch on the canvas, the box of its mask there, and whether that place is free."""
        starts, stops = zip(*(_bounds(jnp.any(mask, axis)) for axis in (1, 0)), strict=True)
        start, extent = jnp.stack(starts), jnp.stack(stops) - jnp.stack(starts)
        room = (self.size - extent + 1)[None].astype(jnp.float32)
        corners = (jax.random.uniform(key, (_TRIES, 2)) * room).astype(jnp.int32)
        ends = corners + extent[None]
        apart = (corners[:, None] >= boxes[None, :, 2:] + _GAP) | (
            ends[:, None] + _GAP <= boxes[None, :, :2]
        )
        free = jnp.all(jnp.any(apart, axis=-1) | ~shown[None], axis=1)
        chosen = jnp.argmax(free)
        box = jnp.concatenate([corners[chosen], ends[chosen]])
        return corners[chosen] - start, box, free[chosen] & jnp.any(mask)

    def _on_canvas(
        self, patch: Float[Array, "patch patch"], corner: Int[Array, " 2"]
    ) -> Float[Array, "size size"]:
        """Place a patch on an empty canvas. Parts of it may lie outside."""
        padded = jnp.pad(patch, self.size)
        return jax.lax.dynamic_slice(padded, self.size - corner, (self.size, self.size))


def _bounds(found: Array) -> tuple[Array, Array]:
    """Return the first index that is True, and the index after the last one."""
    return jnp.argmax(found), len(found) - jnp.argmax(found[::-1])
