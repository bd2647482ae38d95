"""Compression: learn an image codec that trades bits for error, lambda * distortion + rate.

The rate is what the model's own probabilities cost, bits a pixel; files cost that and some 15 bytes each
(`inference.codec`). A codec with several levels of quality learns all of them at once: every
training patch is coded at a random one, with that level's lambda. What a reader would get wrong is
the unit: the squared error is of images in [0, 255], so that published lambdas (0.0018 to 0.18 in
CompressAI) mean here what they mean there.
"""

import collections
import dataclasses
import functools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, ClassVar, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from PIL import Image

from deconv_jax.compilation import jit
from deconv_jax.data.augment import example_keys, random_crop, random_dihedral
from deconv_jax.data.batch import Batch, valid_sizes
from deconv_jax.data.crops import center_crops
from deconv_jax.data.forward_model import fold_in
from deconv_jax.data.sources import Source
from deconv_jax.errors import InputError, at_least
from deconv_jax.metrics.image import (
    MS_SSIM_MIN_SIZE,
    max_ms_ssim_scales,
    mean_squared_error,
    ms_ssim,
    psnr,
    psnr_from_mse,
)
from deconv_jax.metrics.masked_mean import masked_sums, mean_over
from deconv_jax.metrics.standard_codecs import encode_decode
from deconv_jax.ops.collectives import mean_over_devices
from deconv_jax.training.optimizer import Optimizer
from deconv_jax.training.parallel import gather_to_host
from deconv_jax.training.state import (
    Precision,
    Scalars,
    TrainState,
    apply_model,
    gradient_step,
    images_in_unit_range,
    init_state,
)
from deconv_jax.training.task import Task
from deconv_jax.viz.grids import picture_grid
from deconv_jax.viz.plots import Plot, Series

Images = Float[Array, "batch height width channels"]

_JPEG_QUALITIES = (10, 30, 50, 75, 90)
_PICTURED, _PICTURED_PIXELS = 4, 192


@dataclasses.dataclass(frozen=True)
class Compression(Task):
    """Learned image codec of images in [0, 1].

    Attributes:
      model: a `FactorizedCodec` or `HyperpriorCodec`.
      lambdas: weight of the distortion at each of the model's levels, rising.
      optimizer: see `Optimizer`.
      precision: "f32": rounding to whole numbers needs more digits than bfloat16 has.
      distortion: "mse", 255^2 times the squared error of images in [0, 1]; or "ms_ssim", 1 - MS-SSIM
        (with as many scales as a patch has room for), whose lambdas are some thousand times as large.
      crop: pixels a side of training patches, a multiple of the model's.
      augment: turn and mirror them at random, eight ways.
      seed: of patches, levels and noise.
    """

    model: nn.Module
    lambdas: tuple[float, ...]
    optimizer: Optimizer
    precision: Precision = "f32"
    distortion: Literal["mse", "ms_ssim"] = "mse"
    crop: int = 128
    augment: bool = True
    seed: int = 0

    monitor: ClassVar[str] = "-loss"
    metric_names: ClassVar[tuple[str, ...]] = ("loss", "bpp_*", "psnr_*", "ms_ssim_*")

    def __post_init__(self) -> None:
        if not hasattr(self.model, "levels"):
            raise InputError(
                f"task.model {type(self.model).__name__} is no codec; wanted is e.g. 'hyperprior_codec'"
            )
        if self.precision != "f32":
            raise InputError(f"compression computes in f32; got precision={self.precision!r}")
        rising = all(a < b for a, b in zip(self.lambdas, self.lambdas[1:], strict=False))
        if len(self.lambdas) != self.model.levels or not rising or min(self.lambdas) <= 0:
            raise InputError(
                f"task.lambdas must be {self.model.levels} positive numbers that rise, one for each of "
                f"task.model.initial_gains; got {self.lambdas}"
            )
        at_least("task.crop", self.crop, 1)
        if self.crop % self._multiple:
            raise InputError(
                f"task.crop must be a multiple of {self._multiple} for this model; got {self.crop}"
            )

    @property
    def protocol(self) -> str:
        """How the measures of `evaluate` are defined."""
        return (
            f"images extended by mirroring to one canvas of multiples of {self._multiple} pixels; bpp: "
            "bits a pixel of the canvas by the model's probabilities of rounded latents; psnr in dB "
            "and ms_ssim of true pixels in [0, 1], decoded images clipped and rounded to 8 bits, means over "
            "images of each image's; level by level; loss: mean over levels of "
            f"lambda * {self.distortion} + bpp. JPEG by Pillow, optimised tables, file bits over true pixels"
        )

    @property
    def _multiple(self) -> int:
        return self.model.multiple  # type: ignore[attr-defined]

    @property
    def _channels(self) -> int:
        return self.model.channels  # type: ignore[attr-defined]

    def init(self, key: jax.Array, batch: Batch) -> TrainState:
        """A state for images of the batch's channels."""
        self._check(batch["image"])
        image = jnp.zeros((1, self._multiple, self._multiple, self._channels))
        return init_state(self.model, self.optimizer, key, image, jnp.zeros(1, jnp.int32))

    def train_step(self, state: TrainState, batch: Batch) -> tuple[TrainState, Scalars]:
        """One descent of the batch's mean loss.

        Scalars: "bpp" and, of it, "side_bpp"; "psnr" of the mean squared error.
        """
        step_key = jax.random.fold_in(jax.random.key(self.seed), state.step)

        def loss(variables: Any, batch: Batch) -> Any:
            keys = example_keys(step_key, batch["index"])
            crop, turn, draw, noise = (fold_in(keys, purpose) for purpose in range(4))
            images = random_crop(crop, images_in_unit_range(batch["image"]), self.crop)
            if self.augment:
                images = random_dihedral(turn, images)
            levels = len(self.lambdas)
            level = jax.vmap(lambda key: jax.random.randint(key, (), 0, levels))(draw)
            coded, stats = apply_model(
                self.model, variables, images, level, noise, train=False, precision=self.precision
            )
            rate = (coded.bits + coded.side_bits) / self.crop**2
            weights = jnp.asarray(self.lambdas)[level]
            cost = jnp.mean(weights * self._distortion(coded.images, images) + rate)
            error = mean_squared_error(coded.images, images)
            scalars = {
                "bpp": jnp.mean(rate),
                "side_bpp": jnp.mean(coded.side_bits) / self.crop**2,
                "psnr": -10.0 * jnp.log10(mean_over_devices(jnp.mean(error))),
            }
            return cost, (scalars, stats)

        return gradient_step(state, batch, loss, self.optimizer)

    def _distortion(self, decoded: Images, images: Images) -> Float[Array, " batch"]:
        if self.distortion == "mse":
            return 255.0**2 * mean_squared_error(decoded, images)
        return 1.0 - ms_ssim(decoded, images, max_ms_ssim_scales(*images.shape[1:3]))

    def evaluate(self, state: TrainState, batches: Iterable[Batch]) -> dict[str, float]:
        """Gives "bpp_LEVEL", "psnr_LEVEL" (dB), "ms_ssim_LEVEL" where images have room, and "loss"."""
        return mean_over(batches, functools.partial(self._sums, state))

    @functools.partial(jit, static_argnums=0)
    def _sums(self, state: TrainState, batch: Batch) -> dict[str, Array]:
        images, sizes = images_in_unit_range(batch["image"]), valid_sizes(batch)
        canvas = self._canvas(images)
        measures: dict[str, Array] = {"loss": jnp.zeros(len(images))}
        for level, weight in enumerate(self.lambdas):
            coded = self._coded(state, canvas, level)
            decoded = coded.images[:, : images.shape[1], : images.shape[2]]
            bpp = (coded.bits + coded.side_bits) / (canvas.shape[1] * canvas.shape[2])
            cost = weight * self._distortion(coded.images, canvas) + bpp
            measures["loss"] += cost / len(self.lambdas)
            rounded = jnp.round(255.0 * jnp.clip(decoded, 0.0, 1.0)) / 255.0
            measures[f"bpp_{level}"] = bpp
            measures[f"psnr_{level}"] = psnr(rounded, images, sizes)
            if "size" not in batch and min(images.shape[1:3]) >= MS_SSIM_MIN_SIZE:
                measures[f"ms_ssim_{level}"] = ms_ssim(rounded, images)
        return masked_sums(measures, batch["mask"])

    def _coded(self, state: TrainState, canvas: Images, level: int) -> Any:
        levels = jnp.full(len(canvas), level)
        variables = state.inference_variables()
        return apply_model(
            self.model, variables, canvas, levels, train=False, precision=self.precision
        )[0]

    def _canvas(self, images: Images) -> Images:
        """Images extended to sizes that the model takes."""
        missing = [-n % self._multiple for n in images.shape[1:3]]
        return jnp.pad(images, ((0, 0), *((0, n) for n in missing), (0, 0)), mode="symmetric")

    def pictures(self, state: TrainState, batch: Batch) -> dict[str, Image.Image]:
        """Under "decoded": the middle of images as they were and at the lowest and the highest level."""
        few = {name: array[:_PICTURED] for name, array in batch.items()}
        views = {"original": images_in_unit_range(few["image"])}
        for level in sorted({0, len(self.lambdas) - 1}):
            views[f"level {level}, lambda {self.lambdas[level]:g}"] = self._decoded(
                state, few["image"], level
            )
        sizes = np.asarray(valid_sizes(few))
        rows = {
            name: center_crops(np.asarray(images), sizes, _PICTURED_PIXELS)
            for name, images in views.items()
        }
        return {"decoded": picture_grid(rows, scale=1)}

    @functools.partial(jit, static_argnums=(0, 3))
    def _decoded(self, state: TrainState, pixels: Array, level: int) -> Images:
        images = images_in_unit_range(pixels)
        decoded = self._coded(state, self._canvas(images), level).images
        return jnp.clip(decoded[:, : images.shape[1], : images.shape[2]], 0.0, 1.0)

    def baseline(self, train: Source, test: Source) -> dict[str, float]:
        """Gives "jpegQ_bpp" and "jpegQ_psnr" (dB) of Pillow's JPEG at five qualities Q."""
        del train  # JPEG needs no fitting.
        rows = (test.gather(np.array([place])) for place in range(len(test)))
        return _jpeg(image for batch in rows for image in _true_images(batch))

    def plots(
        self, state: TrainState, batches: Iterable[Batch], metrics: Mapping[str, float]
    ) -> dict[str, Plot]:
        """Under "rate_distortion": the levels' bits a pixel and PSNR, beside those of JPEG."""
        del state
        jpeg = _jpeg(image for batch in batches for image in _true_images(batch))
        series = []
        for name, points, measures in (
            (
                "codec, by its model",
                [f"{{}}_{level}" for level in range(len(self.lambdas))],
                metrics,
            ),
            ("JPEG, files", [f"jpeg{quality}_{{}}" for quality in _JPEG_QUALITIES], jpeg),
        ):
            bits, decibels = (
                np.array([measures[point.format(measure)] for point in points])
                for measure in ("bpp", "psnr")
            )
            series.append(Series(bits, decibels, name, joined=True))
        title = "means over the split, a point a level or a quality"
        return {"rate_distortion": Plot(title, "bits a pixel", "PSNR, dB", series)}

    def _check(self, images: Array) -> None:
        if images.shape[-1] != self._channels:
            raise InputError(
                f"task.model.channels is {self._channels}, and the data's images have "
                f"{images.shape[-1]}; set data.source.color or task.model.channels"
            )


def _jpeg(images: Iterable[np.ndarray]) -> dict[str, float]:
    """Means over uint8 images of JPEG's bits a pixel and PSNR, at `_JPEG_QUALITIES`."""
    found = collections.defaultdict(list)
    for image in images:
        for quality in _JPEG_QUALITIES:
            count, decoded = encode_decode(image, "JPEG", quality)
            error = np.mean(np.square((decoded.astype(np.float64) - image) / 255))
            found[f"jpeg{quality}_bpp"].append(8 * count / (image.shape[0] * image.shape[1]))
            found[f"jpeg{quality}_psnr"].append(psnr_from_mse(error))
    return {name: float(np.mean(values)) for name, values in found.items()}


def _true_images(batch: Any) -> Iterator[np.ndarray]:
    """The images of a batch without fillings, each without what extends it."""
    host = {name: gather_to_host(jnp.asarray(array)) for name, array in batch.items()}
    for place, (height, width) in enumerate(np.asarray(valid_sizes(host))):
        if "mask" not in host or host["mask"][place]:
            yield host["image"][place, :height, :width]
