"""Scenes of handwritten digits, drawn on the device: exact masks and boxes, without an end.

An example is a stack of gray digits, as `data.sources.StackedSource` makes them; each is enlarged,
narrowed, turned, and laid on a canvas where it overlaps none of those before, brighter than the
background by at least a known contrast. What a reader would get wrong: the mask is not the pixels
that look bright but where the enlarged ink is at least half, before noise, and the box is the bounds
of that mask; a digit for which no free place was found among a few that were tried is left out.
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

_MOST_DIGITS = 9
"""Whose classes an int32 label can spell."""
_TRIES = 32
_GAP = 2
"""Free pixels between boxes, so that the soft edges of two digits do not mix."""
_NARROWEST = 0.8
"""Of a digit's width, as a part of its height."""
_STEEPNESS = 4.0
"""Opacity gained per ink: the edge of an embedded digit, 8 pixels enlarged, is then 1 to 2 pixels wide."""
_BRIGHTEST_BACKGROUND = 0.5
_TILT = 0.2
"""Most that a background's level changes from one side of the canvas to the other."""


@dataclasses.dataclass(frozen=True)
class DigitScenes:
    """A `View` of stacked digits: up to one a channel on a square canvas, none over another.

    Gives "image" (batch, size, size, 1), "segments" of 0 for background and 1 + digit, and "boxes"
    with "box_class" 0 to 9, in the order of the channels. The same for training and evaluation.

    Attributes:
      size: of the canvas, pixels a side.
      least, most: height of a digit's whole image on the canvas, pixels; uniform between them. The
        width is 0.8 to 1 times that.
      turn: most that a digit is turned either way, degrees.
      contrast: least difference of a digit's brightness and the brightest of the background's, which
        is at most 0.5.
      noise: standard deviation of Gaussian noise, in units of [0, 1].
    """

    size: int = 96
    least: float = 36.0
    most: float = 56.0
    turn: float = 10.0
    contrast: float = 0.35
    noise: float = 0.05

    def __post_init__(self) -> None:
        at_least("size of digit_scenes", self.size, 1)
        at_least("noise of digit_scenes", self.noise, 0)
        if not 0 < self.least <= self.most:
            raise InputError(
                "least and most of digit_scenes are sizes in pixels, least first; got "
                f"{self.least} and {self.most}"
            )
        if not 0 <= self.turn <= 45:
            raise InputError(f"turn of digit_scenes is 0 to 45 degrees; got {self.turn}")
        if not 0 < self.contrast <= 1 - _BRIGHTEST_BACKGROUND:
            raise InputError(
                f"contrast of digit_scenes is above 0 and up to {1 - _BRIGHTEST_BACKGROUND}; got "
                f"{self.contrast}"
            )
        if self._reach > self.size:
            raise InputError(
                f"a digit of {self.most} pixels turned by {self.turn} degrees takes up to "
                f"{self._reach:.0f}, more than the canvas of {self.size}: make most smaller"
            )

    @property
    def _reach(self) -> float:
        """Height and width that the largest digit may take when it is turned."""
        angle = math.radians(self.turn)
        return self.most * (math.cos(angle) + math.sin(angle))

    def __call__(
        self, keys: Key[Array, " batch"], batch: Mapping[str, Array], *, train: bool
    ) -> AnnotatedBatch:
        """See `View`: of uint8 "image" (batch, height, width, digits) and "label", the number they spell."""
        del train
        if "label" not in batch:
            raise InputError(
                'digit_scenes needs images with labels, such as those of data.name="stacked_digits"'
            )
        digits = batch["image"].shape[-1]
        if digits > _MOST_DIGITS:
            raise InputError(f"digit_scenes takes up to {_MOST_DIGITS} digits; got {digits}")
        ink = batch["image"].astype(jnp.float32) / 255.0
        powers = jnp.array([[10**n for n in reversed(range(digits))]])
        classes = batch["label"][:, None].astype(jnp.int32) // powers % 10
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
        """A level that changes steadily in some direction, from 0 to 0.5."""
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
        """The opacity of a digit in the middle of a patch that it fits in, however it is turned."""
        size, narrow, turn = jax.random.uniform(key, (3,))
        height = self.least + size * (self.most - self.least)
        width = height * (_NARROWEST + narrow * (1 - _NARROWEST))
        angle = math.radians(self.turn) * (2 * turn - 1)
        patch = math.ceil(self._reach) + 2
        from_middle = jnp.arange(patch) + 0.5 - patch / 2
        down, across = from_middle[:, None], from_middle[None]
        rows = (jnp.cos(angle) * down - jnp.sin(angle) * across) * ink.shape[0] / height
        columns = (jnp.sin(angle) * down + jnp.cos(angle) * across) * ink.shape[1] / width
        blank = jnp.pad(ink, 1)  # What is beyond the digit's image has no ink.
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
        """Where a patch's corner goes, the box of its mask there, and whether that is a free place."""
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
        """A canvas that is 0 but for a patch, of which parts may be outside."""
        padded = jnp.pad(patch, self.size)
        return jax.lax.dynamic_slice(padded, self.size - corner, (self.size, self.size))


def _bounds(found: Array) -> tuple[Array, Array]:
    """The first place of True, and the one after the last."""
    return jnp.argmax(found), len(found) - jnp.argmax(found[::-1])
