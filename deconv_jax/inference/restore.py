"""Restorers of a person's images, and what one of them does to one file.

A `Restorer` is a function of pixels: a trained network (`LearnedRestorer`), or a method without
learning and the blur it undoes (`ClassicalRestorer`). A network sees what it was trained on, so an
image of other channels is brought to it as the field does:

    image    network                  what happens
    gray     of three channels        repeated three times; the mean of the output's channels
    colour   of one channel, scale 1  each channel by itself, as if it were a gray image
    colour   of one channel, larger   Y of BT.601 by the network, Cb and Cr bicubically

What a reader would get wrong: all of this happens within a tile, so that it takes no memory of the
image's size; bicubic enlarging sees a few pixels too, which the tiles' overlap allows for.
"""

import dataclasses
import functools
import inspect
import time
import typing
from collections.abc import Callable, Mapping
from typing import Any, Literal, Protocol, get_args

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from PIL import Image

from deconv_jax import ops, schema
from deconv_jax.classical import METHODS
from deconv_jax.data.degradations import Blur, Chain, GaussianNoise
from deconv_jax.data.images import FORMATS, read_image, write_image
from deconv_jax.errors import InputError, at_least, closest
from deconv_jax.files import write_atomically
from deconv_jax.inference.ensemble import ensemble_field, self_ensemble
from deconv_jax.inference.files import Job
from deconv_jax.inference.tiling import (
    PROBE,
    Apply,
    check_tile,
    default_tile,
    restore_tiled,
    working_bytes,
)
from deconv_jax.metrics.color import rgb_to_ycbcr, ycbcr_to_rgb
from deconv_jax.metrics.protocol import Protocol as MeasuringProtocol
from deconv_jax.metrics.protocol import Row
from deconv_jax.models.receptive_field import ReceptiveField, Trace
from deconv_jax.training.logging import picture_grid
from deconv_jax.training.state import Precision, Tree, apply_model

Pixels = Float[np.ndarray, "height width channels"]
Boundary = Literal["circular", "reflect", "zeros"]
"""Those of `degradations.Boundary` that keep the size of an image."""

PICTURED = 1024
"""Pixels a side of an image that a comparison shows; of a larger one it shows the middle."""


@dataclasses.dataclass(frozen=True)
class Watch:
    """Who is told what happens while an image is restored.

    Attributes:
      share: called with the share that is done, rising to 1.
      say: called with a sentence that a person should read.
    """

    share: Callable[[float], None]
    say: Callable[[str], None]


class Restorer(Protocol):
    """Restores images in [0, 1] of one or three channels."""

    @property
    def scale(self) -> int:
        """Size of a restored image over that of the one given."""
        ...

    def __call__(self, pixels: Pixels, watch: Watch) -> Pixels:
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
        missing = [
            n for n in ("channels", "scale", "receptive_field") if not hasattr(self.model, n)
        ]
        if missing:
            raise InputError(
                f"{type(self.model).__name__} is no restoration network: it has no {missing[0]}"
            )
        if self._channels not in (1, 3):
            raise InputError(
                f"files have images of 1 or 3 channels; this network takes {self._channels}"
            )
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

    def __call__(self, pixels: Pixels, watch: Watch) -> Pixels:
        """The restored image; raises InputError where the output is not finite."""
        channels = pixels.shape[-1]
        field = self._field(channels)
        tile = self.tile
        if tile is None and max(pixels.shape[:2]) > PROBE:
            tile = self._tile(channels, field)
        for precision in dict.fromkeys((self.precision, "f32")):
            try:
                return restore_tiled(self._apply(precision), pixels, field, tile, watch.share)
            except _NotFinite:
                if precision != "f32":
                    watch.say(f"the output is not finite in {precision}; done again in f32")
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
            chroma = Trace().bicubic(self.scale).receptive_field()
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


@functools.partial(jax.jit, static_argnames=("model", "precision"))
def _restored(
    model: nn.Module,
    variables: Tree,
    level: Array | None,
    images: Float[Array, "1 height width channels"],
    *,
    precision: Precision,
) -> Float[Array, "1 out_height out_width channels"]:
    """A tile by a network, whatever their channels, as the table at the top says."""

    def network(images: Array) -> Array:
        if level is not None:
            map_of_it = jnp.broadcast_to(level.reshape(1, 1, 1, 1), (*images.shape[:3], 1))
            images = jnp.concatenate([images, map_of_it], axis=-1)
        return apply_model(model, variables, images, train=False, precision=precision)[0]

    given, wanted = images.shape[-1], model.channels  # type: ignore[attr-defined]
    scale = model.scale  # type: ignore[attr-defined]
    if given == wanted:
        return network(images)
    if wanted == 3:
        return jnp.mean(network(jnp.repeat(images, 3, axis=-1)), axis=-1, keepdims=True)
    if scale == 1:
        # The channels become a batch, and come back.
        return jnp.transpose(network(jnp.transpose(images, (3, 1, 2, 0))), (3, 1, 2, 0))
    ycbcr = rgb_to_ycbcr(images)
    chroma = ops.imresize(ycbcr[..., 1:], scale)
    return ycbcr_to_rgb(jnp.concatenate([network(ycbcr[..., :1]), chroma], axis=-1))


@dataclasses.dataclass(frozen=True, eq=False)
class ClassicalRestorer:
    """A method of `deconv_jax.classical` on the whole image, in float32.

    Attributes:
      method: a key of `METHODS`.
      kernel: of the blur, (height, width), sum 1, centre at index `size // 2`.
      noise_sigma: standard deviation of the image's noise in 8-bit levels, for methods that ask.
      boundary: what the blur took from beyond the picture's border, see `Boundary`. The default is
        for photographs; "circular" is that of many test images.
      options: of the method, its keyword arguments.
    """

    method: str
    kernel: Float[np.ndarray, "height width"]
    noise_sigma: float | None = None
    boundary: Boundary = "reflect"
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise InputError(f"no method {self.method!r}; {closest(self.method, METHODS)}")
        if self.boundary not in get_args(Boundary):
            raise InputError(
                f"no boundary {self.boundary!r}; {closest(self.boundary, get_args(Boundary))}"
            )
        object.__setattr__(self, "options", _checked_options(self.method, self.options))
        # What the method will not take is refused here, without computing anything.
        side = 2 * max(self.kernel.shape) + 1
        jax.eval_shape(self._method, jax.ShapeDtypeStruct((1, side, side, 1), jnp.float32))

    @property
    def scale(self) -> int:
        """1."""
        return 1

    def __call__(self, pixels: Pixels, watch: Watch) -> Pixels:
        """The restored image; raises InputError where it is not finite or the kernel is larger."""
        restored = np.asarray(self._method(jnp.asarray(pixels)[None])[0])
        if not np.isfinite(restored).all():
            raise InputError(f"the output of {self.method} is not finite for this image")
        watch.share(1.0)
        return restored

    def _method(self, images: Array) -> Array:
        blur = Blur(self.kernel, boundary=self.boundary)
        sigma = self.noise_sigma
        model = blur if sigma is None else Chain((blur, GaussianNoise(sigma)))
        method: Any = METHODS[self.method]
        return method(images, model, **self.options)


def _checked_options(method: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """A method's keyword arguments, if they are such that a person can give."""
    function: Any = METHODS[method]
    hints = typing.get_type_hints(function)
    parameters = list(inspect.signature(function).parameters.values())[2:]
    needed = [p.name for p in parameters if p.default is inspect.Parameter.empty]
    if needed:
        raise InputError(f"{method} needs {', '.join(needed)}, which only a program can give")
    free = [p for p in parameters if p.name != "size" and not p.name.startswith("return_")]
    fields = [(p.name, hints[p.name], dataclasses.field(default=p.default)) for p in free]
    schema.build(dataclasses.make_dataclass(method, fields), options, {}, f"options of {method}")
    return dict(options)


@dataclasses.dataclass(frozen=True)
class Result:
    """What became of one file.

    Attributes:
      size: height and width of the result, pixels.
      seconds: that it took, reading and writing included.
      measured: "psnr" in dB and "ssim" of the result, if there is a reference.
      before: those of the file itself, if the reference has its size.
    """

    size: tuple[int, int]
    seconds: float
    measured: Row | None = None
    before: Row | None = None


def restore_file(
    restorer: Restorer,
    job: Job,
    watch: Watch,
    *,
    protocol: MeasuringProtocol | None = None,
    overwrite: bool = False,
) -> Result:
    """Restores one file; its result appears whole or not at all.

    Bit depth, alpha (bicubically enlarged), ICC profile and EXIF data stay as far as the format of
    the result's name has room for them, see `write_image`.

    Args:
      restorer: what does it.
      job: what to read and write.
      watch: who is told.
      protocol: of the measuring, for a job with a reference. A reference larger by less than the
        restorer's scale is cut at its bottom and right, as for "modcrop".
      overwrite: whether a result that is there already is replaced.

    Raises:
      InputError: whatever is wrong with this file; others may still be done. A result that could
        not be measured is written before.
    """
    started = time.perf_counter()
    if job.output.suffix.lower() not in FORMATS:
        raise InputError(f"no image format for {job.output}; {closest(job.output.suffix, FORMATS)}")
    for path in filter(None, (job.output, job.comparison)):
        if path.exists() and not overwrite:
            raise InputError(f"{path} is there already; give --overwrite to replace it")
    image = read_image(job.source)
    try:
        restored = restorer(image.pixels, watch)
    except (MemoryError, jax.errors.JaxRuntimeError) as error:
        if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error):
            raise InputError(
                f"{job.source}: not enough memory for an image of {image.pixels.shape}; a smaller "
                "tile takes less"
            ) from error
        raise
    except InputError as error:
        raise InputError(f"{job.source}: {error}") from error
    write_image(job.output, restored, image)
    views = {"before": image.pixels, "after": restored}
    rows: dict[str, Row] = {}
    if job.reference is not None:
        truth = _cut(read_image(job.reference).pixels, restored, restorer.scale)
        if truth.shape[:2] != restored.shape[:2]:
            raise InputError(
                f"{job.output} of {restored.shape[:2]} pixels cannot be measured: its reference "
                f"{job.reference} has {truth.shape[:2]}"
            )
        same = [(name, view, truth) for name, view in views.items() if view.shape == restored.shape]
        rows = {row.pop("name"): row for row in (protocol or MeasuringProtocol()).measure_all(same)}
        views["reference"] = truth
    if job.comparison is not None:
        picture = _comparison(views, rows, restorer.scale)
        write_atomically(job.comparison, functools.partial(picture.save, format="PNG"))
    height, width = restored.shape[:2]
    seconds = time.perf_counter() - started
    return Result((height, width), seconds, rows.get("after"), rows.get("before"))


def _cut(truth: Pixels, restored: Pixels, scale: int) -> Pixels:
    height, width = restored.shape[:2]
    extra = truth.shape[0] - height, truth.shape[1] - width
    return truth[:height, :width] if all(0 <= n < scale for n in extra) else truth


def _comparison(views: Mapping[str, Pixels], rows: Mapping[str, Row], scale: int) -> Image.Image:
    """Input, result and, if there is one, reference side by side, with what was measured."""
    shown = PICTURED // scale
    starts = [max(n - shown, 0) // 2 for n in views["before"].shape[:2]]
    columns = []
    for name, view in views.items():
        # The input of an enlargement is shown in its own pixels, repeated.
        own, repeated = (1, scale) if name == "before" else (scale, 1)
        middle = view[tuple(slice(own * start, own * (start + shown)) for start in starts)]
        middle = middle.repeat(repeated, axis=0).repeat(repeated, axis=1)
        columns.append(np.broadcast_to(middle, (*middle.shape[:2], 3)))
    figures = [f"{name} {row['psnr']:.2f} dB" for name, row in rows.items()]
    caption = ", ".join(figures) or "restored"
    return picture_grid({caption: np.stack(columns)}, names=list(views), scale=1)
