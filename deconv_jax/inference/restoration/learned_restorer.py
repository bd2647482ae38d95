"""Restorers of a person's images: what one is, and a trained network as one.

An `ImageRestorer` is a function of pixels: a trained network (`LearnedRestorer`), or a method without
learning (`methods.ClassicalRestorer`). A network sees what it was trained on, so an image of other
channels is brought to it as the field does:

    image    network                  what happens
    gray     of three channels        repeated three times; the mean of the output's channels
    colour   of one channel, scale 1  each channel by itself, as if it were a gray image
    colour   of one channel, larger   Y of BT.601 by the network, Cb and Cr bicubically

What a reader would get wrong: all of this happens within a tile, so that it takes no memory of the
image's size; bicubic enlarging sees a few pixels too, which the tiles' overlap allows for.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Protocol

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from deconv_jax import ops
from deconv_jax.compilation import jit
from deconv_jax.errors import InputError, at_least
from deconv_jax.inference.memory import working_bytes
from deconv_jax.inference.self_ensemble import ensemble_field, self_ensemble
from deconv_jax.inference.tiling import (
    PROBE_TILE,
    Apply,
    check_tile,
    default_tile,
    restore_tiled,
)
from deconv_jax.models.receptive_field import ReceptiveField, ReceptiveFieldTracker
from deconv_jax.ops.color import rgb_to_ycbcr, ycbcr_to_rgb
from deconv_jax.training.state import Precision, Tree, apply_model

Pixels = Float[np.ndarray, "height width channels"]


@dataclasses.dataclass(frozen=True)
class ProgressCallback:
    """Who is told what happens while an image is restored.

    Attributes:
      on_progress: called with the share that is done, rising to 1.
      on_message: called with a sentence that a person should read.
    """

    on_progress: Callable[[float], None]
    on_message: Callable[[str], None]


class ImageRestorer(Protocol):
    """Restores images in [0, 1] of one or three channels."""

    @property
    def scale(self) -> int:
        """Size of a restored image over that of the one given."""
        ...

    def __call__(self, pixels: Pixels, progress: ProgressCallback) -> Pixels:
        """The restored image, of as many channels, not clipped; raises InputError if it cannot be."""
        ...


class _NotFinite(Exception):
    """A tile of the output holds infinity or NaN."""


@dataclasses.dataclass(frozen=True, eq=False)
class LearnedRestorer:
    """A network at work.

    Attributes:
      model: a restoration network: it has `channels`, `scale` and `receptive_field()`.
      variables: its "params" and, if it has them, "batch_stats".
      noise_conditional: the network takes the noise's level as one channel more.
      noise_sigma: that level, standard deviation in 8-bit levels.
      precision: "bf16" computes in bfloat16; an image for which that overflows is done in float32.
      tile: pixels a side; None for as many as the memory allows, see `default_tile`.
      ensemble: mean over the eight symmetries of the square, see `self_ensemble`.
    """

    model: nn.Module
    variables: Tree
    noise_conditional: bool = False
    noise_sigma: float | None = None
    precision: Precision = "f32"
    tile: int | None = None
    ensemble: bool = False
    _tiles: dict[int, int] = dataclasses.field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        check_restoration_model(self.model)
        if self.noise_conditional and self.noise_sigma is None:
            raise InputError("this network has to be told the noise's level; give noise_sigma")
        if self.noise_sigma is not None:
            if not self.noise_conditional:
                raise InputError(
                    f"this network takes no level of noise; got noise_sigma={self.noise_sigma}"
                )
            at_least("noise_sigma", self.noise_sigma, 0.0)
        if self.tile is not None:
            check_tile(self.tile, self._field(3))

    @property
    def scale(self) -> int:
        """Size of a restored image over that of the one given."""
        return self.model.scale  # type: ignore[attr-defined]

    def __call__(self, pixels: Pixels, progress: ProgressCallback) -> Pixels:
        """The restored image; raises InputError where the output is not finite."""
        channels = pixels.shape[-1]
        field = self._field(channels)
        tile = self.tile
        if tile is None and max(pixels.shape[:2]) > PROBE_TILE:
            tile = self._tile(channels, field)
        for precision in dict.fromkeys((self.precision, "f32")):
            try:
                return restore_tiled(
                    self._apply(precision), pixels, field, tile, progress.on_progress
                )
            except _NotFinite:
                if precision != "f32":
                    progress.on_message(
                        f"the output is not finite in {precision}; done again in f32"
                    )
        raise InputError("the network's output is not finite for this image")

    @property
    def _channels(self) -> int:
        return self.model.channels  # type: ignore[attr-defined]

    @functools.cached_property
    def _arguments(self) -> tuple[nn.Module, Tree, Array | None]:
        """Of `_restored`, but for the images; weights are put on the device once."""
        variables = jax.device_put(
            {"batch_stats": {}} | dict(self.variables), jax.local_devices()[0]
        )
        level = None if self.noise_sigma is None else jnp.float32(self.noise_sigma / 255.0)
        return self.model, variables, level

    def _field(self, channels: int) -> ReceptiveField:
        """What an output pixel depends on, in an image of so many channels."""
        field = self.model.receptive_field()  # type: ignore[attr-defined]
        if self.scale > 1 and channels > self._channels:
            chroma = ReceptiveFieldTracker().bicubic(self.scale).receptive_field()
            field = dataclasses.replace(
                field,
                before=max(field.before, chroma.before),
                after=max(field.after, chroma.after),
            )
        return ensemble_field(field) if self.ensemble else field

    def _tile(self, channels: int, field: ReceptiveField) -> int:
        """As large as the memory allows."""
        if channels not in self._tiles:

            def program_bytes(side: int) -> int:
                images = jax.ShapeDtypeStruct((1, side, side, channels), jnp.float32)
                lowered = _restored.lower(*self._arguments, images, precision=self.precision)
                return working_bytes(lowered.compile())

            self._tiles[channels] = default_tile(program_bytes, field)
        return self._tiles[channels]

    def _apply(self, precision: Precision) -> Apply:
        """The network on a tile; raises _NotFinite."""

        def apply(images: Array) -> Array:
            return _restored(*self._arguments, images, precision=precision)

        whole = self_ensemble(apply) if self.ensemble else apply

        def checked(images: Array) -> Array:
            restored = whole(images)
            if not np.isfinite(np.asarray(restored)).all():
                raise _NotFinite
            return restored

        return checked


@functools.partial(jit, static_argnames=("model", "precision"))
def _restored(
    model: nn.Module,
    variables: Tree,
    level: Array | None,
    images: Float[Array, "1 height width channels"],
    *,
    precision: Precision,
) -> Float[Array, "1 out_height out_width channels"]:
    """A tile by a network, whatever their channels, as the table at the top says."""
    network = functools.partial(apply_at_noise_level, model, variables, level, precision=precision)
    wanted = model.channels  # type: ignore[attr-defined]
    scale = model.scale  # type: ignore[attr-defined]
    if scale == 1 or images.shape[-1] <= wanted:
        return adapt_channels(network, wanted, images)
    ycbcr = rgb_to_ycbcr(images)
    chroma = ops.imresize(ycbcr[..., 1:], scale)
    return ycbcr_to_rgb(jnp.concatenate([network(ycbcr[..., :1]), chroma], axis=-1))


def check_restoration_model(model: nn.Module) -> None:
    """Raises InputError unless a module restores images of one or three channels."""
    missing = [n for n in ("channels", "scale", "receptive_field") if not hasattr(model, n)]
    if missing:
        raise InputError(
            f"{type(model).__name__} is no restoration network: it has no {missing[0]}"
        )
    channels = model.channels  # type: ignore[attr-defined]
    if channels not in (1, 3):
        raise InputError(f"files have images of 1 or 3 channels; this network takes {channels}")


def apply_at_noise_level(
    model: nn.Module,
    variables: Tree,
    level: Array | None,
    images: Float[Array, "batch height width channels"],
    *,
    precision: Precision = "f32",
) -> Array:
    """A network on images of its own channels.

    Args:
      model, variables, precision: see `apply_model`.
      level: of the noise, standard deviation in [0, 1] units, which the network is given as one
        channel more; None for a network that takes none.
      images: the degraded ones.

    Returns:
      The restored ones, float32.
    """
    if level is not None:
        map_of_it = jnp.broadcast_to(level.reshape(1, 1, 1, 1), (*images.shape[:3], 1))
        images = jnp.concatenate([images, map_of_it.astype(images.dtype)], axis=-1)
    return apply_model(model, variables, images, train=False, precision=precision)[0]


def adapt_channels(
    apply: Callable[[Array], Array],
    wanted: int,
    images: Float[Array, "batch height width channels"],
) -> Array:
    """What a function of images with `wanted` channels, 1 or 3, makes of images with 1 or 3.

    Gray images are repeated and the output's mean taken; the channels of colour images become
    images of their own in the batch.
    """
    batch, height, width, given = images.shape
    if given == wanted:
        return apply(images)
    if wanted == 3:
        return jnp.mean(apply(jnp.repeat(images, 3, axis=-1)), axis=-1, keepdims=True)
    apart = jnp.moveaxis(images, -1, 1).reshape(batch * given, height, width, 1)
    restored = apply(apart)
    return jnp.moveaxis(restored.reshape(batch, given, *restored.shape[1:3]), 1, -1)
