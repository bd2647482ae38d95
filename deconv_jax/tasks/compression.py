"""Compression: learn an image codec that minimizes lambda * distortion + rate.

The rate is the cost in bits per pixel under the model's own probabilities; files add about 15 bytes each
(`inference.compression`). A codec with several quality levels learns all of them jointly: every training
patch is coded at a random level, with that level's lambda.

Note: The squared error is that of images in [0, 255], so lambdas have the scale of published ones (0.0018
to 0.18 in CompressAI).
"""

import collections
import dataclasses
import functools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, ClassVar, Literal, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from PIL import Image

from deconv_jax.compilation import jit
from deconv_jax.data.augment import random_crop, random_dihedral
from deconv_jax.data.batch import Batch, valid_sizes
from deconv_jax.data.forward_model import fold_in
from deconv_jax.data.random_keys import training_keys
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
from deconv_jax.models.codec import CodecOutput
from deconv_jax.models.interfaces import CodecModel
from deconv_jax.ops.collectives import mean_over_devices
from deconv_jax.tasks.pictures import PICTURE_EXAMPLES, center_crop_grid, first_examples
from deconv_jax.tasks.task_model import check_model, run_model
from deconv_jax.training.optimizer import Optimizer
from deconv_jax.training.parallel import gather_to_host
from deconv_jax.training.state import Precision, Scalars, TrainState, Tree
from deconv_jax.training.step import apply_model, gradient_step, images_in_unit_range, init_state
from deconv_jax.training.task import Task
from deconv_jax.viz.plots import Plot, Series

Images = Float[Array, "batch height width channels"]

_JPEG_QUALITIES = (10, 30, 50, 75, 90)


@dataclasses.dataclass(frozen=True)
class Compression(Task):
    """A learned codec of images in [0, 1].

    Attributes:
      model: `FactorizedCodec` or `HyperpriorCodec`.
      lambdas: Weight of the distortion at each of the model's levels, positive and ascending.
      optimizer: Optimizer of the model.
      precision: "f32"; bfloat16 has too few digits for rounding to integers.
      distortion: "mse", 255^2 times the squared error of images in [0, 1], or "ms_ssim", 1 - MS-SSIM
        (with as many scales as a patch allows), whose lambdas are about 1000 times as large.
      crop: Side of the training patches in pixels, a multiple of the model's `multiple`.
      augment: Whether to flip and rotate training patches at random (8 symmetries).
      seed: Seed of patches, levels and quantization noise.
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
        check_model(self.model, "levels", "a codec", "hyperprior_codec")
        if self.precision != "f32":
            raise InputError(f"compression requires precision='f32'; got {self.precision!r}")
        levels = self._codec.levels
        ascending = all(a < b for a, b in zip(self.lambdas, self.lambdas[1:], strict=False))
        if len(self.lambdas) != levels or not ascending or min(self.lambdas) <= 0:
            raise InputError(
                f"task.lambdas must be {levels} positive numbers in ascending order, one for each of "
                f"task.model.initial_gains; got {self.lambdas}"
            )
        at_least("task.crop", self.crop, 1)
        if self.crop % self._multiple:
            raise InputError(
                f"task.crop must be a multiple of {self._multiple} for this model; got {self.crop}"
            )

    @property
    def protocol(self) -> str:
        """Definition of the metrics of `evaluate`, a sentence that is stored with results."""
        return (
            f"images padded by reflection to one canvas with sides that are multiples of {self._multiple} "
            "pixels; for each level, bpp: bits per canvas pixel under the model's probabilities of "
            "rounded latents; psnr in dB and ms_ssim: unpadded pixels in [0, 1], decoded images clipped "
            "and rounded to 8 bits, means over images of each image's value; loss: mean over levels of "
            f"lambda * {self.distortion} + bpp; JPEG: Pillow, optimized tables, file size per unpadded "
            "pixel"
        )

    @property
    def _codec(self) -> CodecModel:
        return cast(CodecModel, self.model)

    @property
    def _multiple(self) -> int:
        return self._codec.multiple

    def init(self, key: jax.Array, batch: Batch) -> TrainState:
        """Return the initial state for images with the batch's number of channels.

        Raises:
          InputError: The model has another number of channels.
        """
        channels = self._codec.channels
        if batch["image"].shape[-1] != channels:
            raise InputError(
                f"task.model.channels is {channels}, but the data's images have "
                f"{batch['image'].shape[-1]} channels; set data.source.color or task.model.channels"
            )
        image = jnp.zeros((1, self._multiple, self._multiple, channels))
        return init_state(self.model, self.optimizer, key, image, jnp.zeros(1, jnp.int32))

    def train_step(self, state: TrainState, batch: Batch) -> tuple[TrainState, Scalars]:
        """Take a gradient step on the mean loss.

        Scalars: "bpp"; "side_bpp", the part of it that the hyperprior takes; "psnr" of the batch's mean
        squared error, in dB; and "loss", "grad_norm" (before clipping) and "learning_rate".
        """

        def loss(variables: Tree, batch: Batch) -> tuple[jax.Array, tuple[Scalars, Tree]]:
            keys = training_keys(self.seed, state.step, batch["index"])
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
        """Compute the metrics of each quality level, means over images.

        Returns:
          "loss", lambda * distortion + bits per pixel, mean over levels; for each level from 0,
          "bpp_LEVEL"; "psnr_LEVEL" in dB; and
          "ms_ssim_LEVEL" for images without padding of at least 176 x 176 pixels. Decoded images are
          clipped and rounded to 8 bits for the last two.

        Raises:
          InputError: There are no examples.
        """
        return mean_over(batches, functools.partial(self._metric_sums, state))

    @functools.partial(jit, static_argnums=0)
    def _metric_sums(self, state: TrainState, batch: Batch) -> dict[str, Array]:
        images, sizes = images_in_unit_range(batch["image"]), valid_sizes(batch)
        canvas = self._canvas(images)
        metrics: dict[str, Array] = {"loss": jnp.zeros(len(images))}
        for level, weight in enumerate(self.lambdas):
            coded = self._code(state, canvas, level)
            decoded = coded.images[:, : images.shape[1], : images.shape[2]]
            bpp = (coded.bits + coded.side_bits) / (canvas.shape[1] * canvas.shape[2])
            cost = weight * self._distortion(coded.images, canvas) + bpp
            metrics["loss"] += cost / len(self.lambdas)
            rounded = jnp.round(255.0 * jnp.clip(decoded, 0.0, 1.0)) / 255.0
            metrics[f"bpp_{level}"] = bpp
            metrics[f"psnr_{level}"] = psnr(rounded, images, sizes)
            if "size" not in batch and min(images.shape[1:3]) >= MS_SSIM_MIN_SIZE:
                metrics[f"ms_ssim_{level}"] = ms_ssim(rounded, images)
        return masked_sums(metrics, batch["mask"])

    def _code(self, state: TrainState, canvas: Images, level: int) -> CodecOutput:
        """Code and decode images at one level."""
        levels = jnp.full(len(canvas), level)
        return run_model(self, state.inference_variables(), canvas, levels)

    def _canvas(self, images: Images) -> Images:
        """Pad images to sides that are multiples of the model's `multiple`."""
        missing = [-n % self._multiple for n in images.shape[1:3]]
        return jnp.pad(images, ((0, 0), *((0, n) for n in missing), (0, 0)), mode="symmetric")

    def pictures(self, state: TrainState, batch: Batch) -> dict[str, Image.Image]:
        """Return "decoded": center crops of four originals, and of the lowest and the highest level."""
        few = first_examples(batch, PICTURE_EXAMPLES)
        rows = {"original": images_in_unit_range(few["image"])}
        for level in sorted({0, len(self.lambdas) - 1}):
            caption = f"level {level}, lambda {self.lambdas[level]:g}"
            rows[caption] = self._decoded(state, few["image"], level)
        return {"decoded": center_crop_grid(rows, valid_sizes(few))}

    @functools.partial(jit, static_argnums=(0, 3))
    def _decoded(self, state: TrainState, pixels: Array, level: int) -> Images:
        images = images_in_unit_range(pixels)
        decoded = self._code(state, self._canvas(images), level).images
        return jnp.clip(decoded[:, : images.shape[1], : images.shape[2]], 0.0, 1.0)

    def baseline(self, train: Source, test: Source) -> dict[str, float]:
        """Return "jpegQ_bpp" and "jpegQ_psnr" (dB) of Pillow's JPEG at Q = 10, 30, 50, 75 and 90.

        They are means over the unpadded images of `test`; `train` is not used.
        """
        del train
        rows = (test.gather(np.array([index])) for index in range(len(test)))
        return _jpeg_metrics(image for batch in rows for image in _unpadded_images(batch))

    def plots(
        self, state: TrainState, batches: Iterable[Batch], metrics: Mapping[str, float]
    ) -> dict[str, Plot]:
        """Return "rate_distortion": bits per pixel and PSNR of all levels, and of JPEG.

        The points of the levels come from `metrics`, and `state` is not used.
        """
        del state
        jpeg = _jpeg_metrics(image for batch in batches for image in _unpadded_images(batch))
        levels = [f"{{}}_{level}" for level in range(len(self.lambdas))]
        qualities = [f"jpeg{quality}_{{}}" for quality in _JPEG_QUALITIES]
        series = []
        for name, points, values in (
            ("codec (estimated rate)", levels, metrics),
            ("JPEG (file size)", qualities, jpeg),
        ):
            bits, decibels = (
                np.array([values[point.format(metric)] for point in points])
                for metric in ("bpp", "psnr")
            )
            series.append(Series(bits, decibels, name, joined=True))
        title = "means over the split, one point per level or quality"
        return {"rate_distortion": Plot(title, "bits per pixel", "PSNR, dB", series)}


def _jpeg_metrics(images: Iterable[np.ndarray]) -> dict[str, float]:
    """Return JPEG's bits per pixel and PSNR at `_JPEG_QUALITIES`, means over uint8 images."""
    values = collections.defaultdict(list)
    for image in images:
        for quality in _JPEG_QUALITIES:
            count, decoded = encode_decode(image, "JPEG", quality)
            error = np.mean(np.square((decoded.astype(np.float64) - image) / 255))
            values[f"jpeg{quality}_bpp"].append(8 * count / (image.shape[0] * image.shape[1]))
            values[f"jpeg{quality}_psnr"].append(psnr_from_mse(error))
    return {name: float(np.mean(v)) for name, v in values.items()}


def _unpadded_images(batch: Mapping[str, Any]) -> Iterator[np.ndarray]:
    """Yield the valid region of each image of a batch, without examples of mask 0."""
    host = {name: gather_to_host(jnp.asarray(array)) for name, array in batch.items()}
    for number, (height, width) in enumerate(np.asarray(valid_sizes(host))):
        if "mask" not in host or host["mask"][number]:
            yield host["image"][number, :height, :width]
