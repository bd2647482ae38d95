"""Trained networks as restorers of images.

A network expects the number of channels that it was trained on. Images with other channels are
adapted by the usual conventions:

    image    network                   method
    gray     3 channels                repeat the channel three times; average the output's channels;
                                       a noise level is multiplied by sqrt(3)
    gray     1 channel, scale > 1      convert to Y of BT.601, 16 to 235 of 255, enlarge, convert back
    color    1 channel, scale 1        restore each channel separately
    color    1 channel, scale > 1      luma (Y of BT.601) by the network, chroma by bicubic enlargement

The noise of three equal channels is sqrt(3) times as strong in their mean as independent noise, which
a color network is trained on. Without the factor, it would leave most of the noise.

Networks that enlarge one channel are trained on Y, as in the papers.

This happens within each tile, so that memory does not grow with the image. Tiles therefore overlap
by the support of the bicubic kernel where that exceeds the receptive field.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Protocol, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from deconv_jax import ops
from deconv_jax.compilation import jit
from deconv_jax.errors import InputError, at_least
from deconv_jax.inference.memory import working_bytes
from deconv_jax.inference.progress import ProgressCallback
from deconv_jax.inference.restoration.noise_level import estimate_noise_sigma
from deconv_jax.inference.restoration.wrapping import Wrap, crop, extend
from deconv_jax.inference.self_ensemble import ensemble_field, self_ensemble
from deconv_jax.inference.tiling import (
    PROBE_TILE,
    Apply,
    check_tile,
    default_tile,
    restore_tiled,
)
from deconv_jax.models.interfaces import RestorationModel
from deconv_jax.models.receptive_field import ReceptiveField, ReceptiveFieldTracker
from deconv_jax.ops.color import gray_to_y, rgb_to_ycbcr, y_to_gray, ycbcr_to_rgb
from deconv_jax.training.state import Precision, Tree
from deconv_jax.training.step import apply_model

Pixels = Float[np.ndarray, "height width channels"]

GRAY_NOISE_FACTOR = math.sqrt(3.0)
"""Factor of the noise level for a gray image that a color network restores as three equal channels."""


class ImageRestorer(Protocol):
    """A function that restores images in [0, 1] with one or three channels."""

    @property
    def scale(self) -> int:
        """Height of the restored image over height of the input."""
        ...

    def __call__(
        self,
        pixels: Pixels,
        progress: ProgressCallback,
        jpeg_table: Float[np.ndarray, "8 8"] | None = None,
    ) -> Pixels:
        """Return the restored image, with the input's channels, not clipped.

        Args:
          pixels: Image in [0, 1] with 1 or 3 channels.
          progress: Callbacks for the progress and for messages to the user.
          jpeg_table: Quantization steps of the luma if the image is from a JPEG file.

        Raises:
          InputError: The image cannot be restored.
        """
        ...


class _NotFinite(Exception):
    """A tile of the output contains infinity or NaN."""


@dataclasses.dataclass(frozen=True, eq=False)
class LearnedRestorer:
    """A restoration network applied to images of any size.

    Attributes:
      model: Network with the attributes of `RestorationModel`.
      variables: Collection "params", and "batch_stats" if the network has it.
      name: Name for the note about each image; "" for no note.
      noise_conditional: Whether the network takes a noise-level map as an additional channel.
      noise_sigma: Standard deviation of the noise for that map, in units of 1/255; only for
        noise-conditional networks. None estimates it for each image (`estimate_noise_sigma`).
      trained_sigmas: Lowest and highest noise level of the training, in units of 1/255; None if unknown. An
        image with another level gets a note.
      strength: Factor of the noise level for noise-conditional networks. For other networks, which must
        keep the size, the weight of the restored image in a blend with the input, at most 1.
      precision: "bf16" computes in bfloat16; an image for which that overflows is restored again in
        float32.
      tile: Side of a tile, in pixels. None restores images up to 256 pixels per side whole, and larger
        ones in tiles that suit the free memory (`default_tile`).
      ensemble: Whether to average over the eight symmetries of the square, which takes eight times as
        long.
      wrap: Axes along which images are periodic. The result is then periodic too, if the sides are
        multiples of the network's `ReceptiveField.multiple`.

    Raises:
      InputError: The model is not a restoration network for 1 or 3 channels, `noise_sigma` or
        `strength` is out of range or not applicable, or the tile is smaller than the receptive field
        allows.
    """

    model: nn.Module
    variables: Tree
    name: str = ""
    noise_conditional: bool = False
    noise_sigma: float | None = None
    trained_sigmas: tuple[float, float] | None = None
    strength: float = 1.0
    precision: Precision = "f32"
    tile: int | None = None
    ensemble: bool = False
    wrap: Wrap = "none"
    _tiles: dict[int, int] = dataclasses.field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        check_restoration_model(self.model)
        if self.noise_sigma is not None:
            if not self.noise_conditional:
                raise InputError(
                    "noise_sigma requires a noise-conditional network, such as the named model denoise; "
                    f"got noise_sigma={self.noise_sigma}"
                )
            at_least("noise_sigma", self.noise_sigma, 0.0)
        at_least("strength", self.strength, 0.0)
        if not self.noise_conditional and self.strength != 1.0:
            if self.scale > 1:
                raise InputError(
                    "strength requires a network that keeps the size of the image; got scale "
                    f"{self.scale}"
                )
            if self.strength > 1.0:
                raise InputError(
                    "strength must be in [0, 1] for a network without a noise level; got "
                    f"{self.strength:g}"
                )
        if self.tile is not None:
            check_tile(self.tile, self._field(3))

    @property
    def scale(self) -> int:
        """Height of the restored image over height of the input."""
        return self._interface.scale

    @property
    def estimates_noise(self) -> bool:
        """Whether the noise level is estimated for each image."""
        return self.noise_conditional and self.noise_sigma is None

    def __call__(
        self,
        pixels: Pixels,
        progress: ProgressCallback,
        jpeg_table: Float[np.ndarray, "8 8"] | None = None,
    ) -> Pixels:
        """Return the restored image, `scale` times as large, with the input's channels, not clipped.

        Args:
          pixels: Image in [0, 1] with 1 or 3 channels.
          progress: Callbacks for each tile, for the message that float32 is used instead of bf16, and
            for notes of the network and the estimated noise level.
          jpeg_table: Quantization steps of the luma if the image is from a JPEG file, for the estimate.

        Raises:
          InputError: The output is not finite, or the image is empty.
        """
        if self.name:
            progress.on_note(self.name)
        if not self.noise_conditional:
            restored = self._restore(pixels, None, progress)
            if self.strength == 1.0:
                return restored
            return pixels + np.float32(self.strength) * (restored - pixels)
        sigma = self.noise_sigma
        if sigma is None:
            sigma = estimate_noise_sigma(pixels, jpeg_table)
            progress.on_note(f"sigma {sigma:.1f} estimated")
        return self.restore_at(pixels, sigma, progress)

    def restore_at(self, pixels: Pixels, sigma: float, progress: ProgressCallback) -> Pixels:
        """Return the image restored by a noise-conditional network at a noise level.

        Args:
          pixels: Image in [0, 1] with 1 or 3 channels.
          sigma: Standard deviation of the noise, in units of 1/255, to be multiplied by `strength`.
          progress: Callbacks, as in `__call__`.

        Raises:
          InputError: The output is not finite, or the image is empty.
        """
        sigma *= self.strength
        repeated = pixels.shape[-1] < self._interface.channels
        if repeated:
            sigma *= GRAY_NOISE_FACTOR
        low, high = self.trained_sigmas or (0.0, math.inf)
        if not low <= sigma <= high:
            factor = ", sqrt(3) times that of the gray image," if repeated else ""
            progress.on_note(
                f"noise level {sigma:.1f}{factor} is outside the training range, {low:g} to {high:g}"
            )
        return self._restore(pixels, jnp.float32(sigma / 255.0), progress)

    def _restore(self, pixels: Pixels, level: Array | None, progress: ProgressCallback) -> Pixels:
        channels = pixels.shape[-1]
        field = self._field(channels)
        # A multiple of the network's stride, so that it sees the image in the same phase.
        margin = -(-max(field.before, field.after) // field.multiple) * field.multiple
        margins = (margin, margin)
        pixels = extend(pixels, self.wrap, margins)
        tile = self.tile
        if tile is None and max(pixels.shape[:2]) > PROBE_TILE:
            tile = self._default_tile(channels, field)
        for precision in dict.fromkeys((self.precision, "f32")):
            apply = self._apply(level, precision)
            try:
                restored = restore_tiled(apply, pixels, field, tile, progress.on_progress)
                return crop(restored, self.wrap, margins, self.scale)
            except _NotFinite:
                if precision != "f32":
                    progress.on_message(f"the output is not finite in {precision}; retrying in f32")
        raise InputError("the network's output is not finite for this image")

    @property
    def _interface(self) -> RestorationModel:
        """The network's attributes, for the type checker."""
        return cast(RestorationModel, self.model)

    @functools.cached_property
    def _device_variables(self) -> Tree:
        """The variables on the device, where they are moved once."""
        return jax.device_put({"batch_stats": {}} | dict(self.variables), jax.local_devices()[0])

    def _field(self, channels: int) -> ReceptiveField:
        """Return the receptive field for images with this number of channels."""
        field = self._interface.receptive_field()
        if self.scale > 1 and channels > self._interface.channels:
            chroma = ReceptiveFieldTracker().bicubic(self.scale).receptive_field()
            field = dataclasses.replace(
                field,
                before=max(field.before, chroma.before),
                after=max(field.after, chroma.after),
            )
        return ensemble_field(field) if self.ensemble else field

    def _default_tile(self, channels: int, field: ReceptiveField) -> int:
        if channels not in self._tiles:

            def program_bytes(side: int) -> int:
                images = jax.ShapeDtypeStruct((1, side, side, channels), jnp.float32)
                level = jnp.float32(0.0) if self.noise_conditional else None
                arguments = self.model, self._device_variables, level, images
                lowered = _restore_tile.lower(*arguments, precision=self.precision)
                return working_bytes(lowered.compile())

            self._tiles[channels] = default_tile(program_bytes, field)
        return self._tiles[channels]

    def _apply(self, level: Array | None, precision: Precision) -> Apply:
        """Return the network as a function of a tile that raises _NotFinite."""

        def apply(images: Array) -> Array:
            return _restore_tile(
                self.model, self._device_variables, level, images, precision=precision
            )

        network = self_ensemble(apply) if self.ensemble else apply

        def apply_checked(images: Array) -> Array:
            restored = network(images)
            if not np.isfinite(np.asarray(restored)).all():
                raise _NotFinite
            return restored

        return apply_checked


@functools.partial(jit, static_argnames=("model", "precision"))
def _restore_tile(
    model: nn.Module,
    variables: Tree,
    level: Array | None,
    images: Float[Array, "1 height width channels"],
    *,
    precision: Precision,
) -> Float[Array, "1 out_height out_width channels"]:
    """Apply a network to a tile with any channels, as in the table of the module's docstring."""
    network = functools.partial(apply_at_noise_level, model, variables, level, precision=precision)
    interface = cast(RestorationModel, model)
    if interface.scale == 1 or interface.channels == 3:
        return adapt_channels(network, interface.channels, images)
    if images.shape[-1] == 1:
        return y_to_gray(network(gray_to_y(images)))
    ycbcr = rgb_to_ycbcr(images)
    chroma = ops.imresize(ycbcr[..., 1:], interface.scale)
    return ycbcr_to_rgb(jnp.concatenate([network(ycbcr[..., :1]), chroma], axis=-1))


def check_restoration_model(model: nn.Module) -> None:
    """Raise InputError unless a module is a restoration network for images of 1 or 3 channels."""
    missing = [n for n in ("channels", "scale", "receptive_field") if not hasattr(model, n)]
    if missing:
        raise InputError(
            f"{type(model).__name__} is not a restoration network: it has no {missing[0]}"
        )
    channels = cast(RestorationModel, model).channels
    if channels not in (1, 3):
        raise InputError(f"image files have 1 or 3 channels; the network expects {channels}")


def apply_at_noise_level(
    model: nn.Module,
    variables: Tree,
    level: Array | None,
    images: Float[Array, "batch height width channels"],
    *,
    precision: Precision = "f32",
) -> Array:
    """Apply a network, which may be noise-conditional, to images with its number of channels.

    Args:
      model: Restoration network.
      variables: Collections "params" and "batch_stats".
      level: Standard deviation of the noise in [0, 1] units, appended to the images as a constant
        channel; None for a network without noise conditioning.
      images: Degraded images.
      precision: Precision of the computation.

    Returns:
      Restored images, float32.
    """
    if level is not None:
        noise_map = jnp.broadcast_to(level.reshape(1, 1, 1, 1), (*images.shape[:3], 1))
        images = jnp.concatenate([images, noise_map.astype(images.dtype)], axis=-1)
    return apply_model(model, variables, images, train=False, precision=precision)[0]


def adapt_channels(
    apply: Callable[[Array], Array],
    channels: int,
    images: Float[Array, "batch height width image_channels"],
) -> Array:
    """Apply a function of images with `channels` channels, 1 or 3, to images with 1 or 3.

    Gray images are repeated to three channels and the output is averaged over them; each channel of
    a color image becomes a separate image of the batch. The result has the channels of `images`.
    """
    batch, height, width, image_channels = images.shape
    if image_channels == channels:
        return apply(images)
    if channels == 3:
        return jnp.mean(apply(jnp.repeat(images, 3, axis=-1)), axis=-1, keepdims=True)
    separate = jnp.moveaxis(images, -1, 1).reshape(batch * image_channels, height, width, 1)
    restored = apply(separate)
    return jnp.moveaxis(restored.reshape(batch, image_channels, *restored.shape[1:3]), 1, -1)
