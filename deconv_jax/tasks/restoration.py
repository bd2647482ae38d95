"""Restoration: learn to undo a degradation y = A(x) + noise, from pairs made of clean images.

The pairs are made on the device, inside the step: a random crop of a clean image is moved about,
then degraded, all from a key folded from the seed, the step and the example's place in the data set.
In evaluation that key depends on the example alone, so every model and every step is measured on
the same degraded images. These images share one canvas (images of other sizes are extended by
mirroring) and only true pixels are measured; the figures of the field's tables, one program an
image and rounded outputs, are another matter: `deconv_jax.inference`.
"""

import dataclasses
import functools
from collections.abc import Iterable
from typing import Any, ClassVar, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key
from PIL import Image

from deconv_jax import ops
from deconv_jax.compilation import jit
from deconv_jax.data.augment import example_keys, random_crop, random_dihedral, random_rescale
from deconv_jax.data.batch import Batch, valid_sizes
from deconv_jax.data.crops import center_crops
from deconv_jax.data.degradations import Degradation, noise_sigma
from deconv_jax.data.forward_model import fold_in
from deconv_jax.data.pipeline import evaluation_batches
from deconv_jax.data.sources import Source
from deconv_jax.errors import InputError, at_least
from deconv_jax.metrics.image import mean_squared_error, psnr
from deconv_jax.metrics.masked_mean import masked_sums, mean_over
from deconv_jax.training.optimizer import Optimizer
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

Images = Float[Array, "batch height width channels"]
Loss = Literal["l1", "l2", "charbonnier"]

_EVALUATION_SEED = 0
_CHARBONNIER_EPSILON = 1e-3
_PICTURED, _PICTURED_PIXELS = 4, 192


@dataclasses.dataclass(frozen=True)
class Restoration(Task):
    """ConvDeconv of degraded images.

    Attributes:
      model: maps degraded images to restored ones; both in [0, 1], the latter `model.scale` times
        as large.
      degradation: what is undone.
      optimizer, precision: see `Optimizer` and `apply_model`.
      crop: pixels a side of the clean patches of training; a multiple of the model's scale. None
        for whole examples.
      rescale: factors by which training images are made smaller, one of them an example at random.
      augment: turn and mirror training patches at random, eight ways.
      loss: of the restored image x and the clean one t: "l2" is (x - t)^2, "l1" is |x - t|,
        "charbonnier" is sqrt((x - t)^2 + 0.001^2) (Lai et al., arXiv:1704.03915).
      reduction: "mean" over all pixels, or "half_sum": half the sum over the pixels of an example,
        mean over examples, as in DnCNN's equation 1 (arXiv:1608.03981); with Adam the two differ
        by no more than its epsilon.
      noise_conditional: the model gets one channel more, the noise's standard deviation in [0, 1].
      border: pixels left out on each side when measuring.
      seed: of crops and degradations.
    """

    model: nn.Module
    degradation: Degradation
    optimizer: Optimizer
    precision: Precision = "f32"
    crop: int | None = None
    rescale: tuple[float, ...] = (1.0,)
    augment: bool = True
    loss: Loss = "l2"
    reduction: Literal["mean", "half_sum"] = "mean"
    noise_conditional: bool = False
    border: int = 0
    seed: int = 0

    monitor: ClassVar[str] = "psnr"
    metric_names: ClassVar[tuple[str, ...]] = ("mse", "psnr")

    def __post_init__(self) -> None:
        at_least("task.border", self.border, 0)
        if not hasattr(self.model, "scale"):
            raise InputError(
                f"task.model {type(self.model).__name__} is no restoration network: it has no scale"
            )
        if self.crop is not None and (self.crop < 1 or self.crop % self.scale):
            raise InputError(
                f"task.crop must be a positive multiple of the model's scale {self.scale}; got "
                f"{self.crop}"
            )
        if self.crop is None and self.rescale != (1.0,):
            raise InputError("task.rescale needs task.crop: patches of one size")

    @property
    def scale(self) -> int:
        """Size of a restored image over that of a degraded one."""
        return self.model.scale  # type: ignore[attr-defined]

    @property
    def protocol(self) -> str:
        """How the measures of `evaluate` are defined."""
        return (
            "PSNR in dB of images in [0, 1], output clipped and not rounded, mean over images of "
            "each image's PSNR; mse likewise; images extended by mirroring to one canvas and cut "
            f"to multiples of {self.scale}, true pixels but a border of {self.border} measured; "
            f"{self.degradation.describe()}, its random numbers from JAX, seed {_EVALUATION_SEED} folded with "
            "the image's place in the split"
        )

    def init(self, key: jax.Array, batch: Batch) -> TrainState:
        """A state for images of the batch's channels."""

        def degraded_patch() -> Images:
            keys = example_keys(key, jnp.zeros(1, int))
            return self._degrade(keys, self._patches(keys, self._clean(batch)[:1]))

        degraded = jax.eval_shape(degraded_patch)
        return init_state(self.model, self.optimizer, key, jnp.zeros(degraded.shape))

    def train_step(self, state: TrainState, batch: Batch) -> tuple[TrainState, Scalars]:
        """One descent of the batch's mean loss."""
        step_key = jax.random.fold_in(jax.random.key(self.seed), state.step)

        def loss(variables: Any, batch: Batch) -> Any:
            keys = example_keys(step_key, batch["index"])
            clean = self._patches(keys, self._clean(batch))
            degraded = self._degrade(keys, clean)
            output, stats = apply_model(
                self.model, variables, degraded, train=True, precision=self.precision
            )
            _check_fit(output, clean)
            per_example = jnp.mean(_penalty(self.loss, output - clean), axis=(1, 2, 3))
            if self.reduction == "half_sum":
                per_example = per_example * (0.5 * clean[0].size)
            return jnp.mean(per_example), ({}, stats)

        return gradient_step(state, batch, loss, self.optimizer)

    def evaluate(self, state: TrainState, batches: Iterable[Batch]) -> dict[str, float]:
        """Gives "psnr" (dB) and "mse", means over images."""
        return mean_over(batches, functools.partial(self._sums, state))

    def pictures(self, state: TrainState, batch: Batch) -> dict[str, Image.Image]:
        """Under "restorations": the middle of images before, after and as they were."""
        few = {name: array[:_PICTURED] for name, array in batch.items()}
        degraded, output, clean = (np.asarray(a) for a in self._restored(state, few))
        views = {
            "degraded": _enlarged(degraded[..., : clean.shape[-1]], clean.shape[1]),
            "restored": output,
            "truth": clean,
        }
        sizes = np.asarray(valid_sizes({"image": clean} | few))
        rows = {
            name: center_crops(images, sizes, _PICTURED_PIXELS) for name, images in views.items()
        }
        return {"restorations": picture_grid(rows, scale=1)}

    def baseline(self, train: Source, test: Source) -> dict[str, float]:
        """Gives "input_psnr" and "input_mse" of the degraded image itself.

        An image made smaller is first enlarged bicubically. {} where the degradation cuts the
        image's border, so that there is nothing to compare pixel by pixel.
        """
        del train  # The input needs no fitting.
        first = {name: jnp.asarray(a) for name, a in test.gather(np.zeros(1, np.int32)).items()}
        probe = jax.eval_shape(self._input, first | {"index": jnp.zeros(1, jnp.int32)})
        if probe is None:
            return {}
        batches = (jax.tree.map(jnp.asarray, b) for b in evaluation_batches(test, batch_size=1))
        measured = mean_over(batches, self._input_sums)
        return {f"input_{name}": value for name, value in measured.items()}

    def _clean(self, batch: Batch) -> Images:
        images = images_in_unit_range(batch["image"])
        height, width = (n - n % self.scale for n in images.shape[1:3])
        return images[:, :height, :width]

    def _patches(self, keys: Key[Array, " batch"], images: Images) -> Images:
        """What is learned from: random crops, made smaller, turned and mirrored."""
        if self.crop is not None and self.rescale != (1.0,):
            images = random_rescale(fold_in(keys, 0), images, self.crop, self.rescale)
        elif self.crop is not None:
            images = random_crop(fold_in(keys, 0), images, self.crop)
        return random_dihedral(fold_in(keys, 1), images) if self.augment else images

    def _degrade(self, keys: Key[Array, " batch"], clean: Images) -> Images:
        """The model's input."""
        degradation = self.degradation.draw(fold_in(keys, 2), clean.shape)
        degraded = degradation.apply(clean, fold_in(keys, 3))
        if not self.noise_conditional:
            return degraded
        sigma = noise_sigma(degradation)
        if sigma is None:
            raise InputError(f"task.noise_conditional needs Gaussian noise in {self.degradation}")
        levels = jnp.asarray(sigma, degraded.dtype).reshape(-1, 1, 1, 1)
        maps = jnp.broadcast_to(levels, (*degraded.shape[:3], 1))
        return jnp.concatenate([degraded, maps], axis=-1)

    def evaluation_pair(self, batch: Batch) -> tuple[Images, Images]:
        """What the model is given of a batch in evaluation, the same at every step, and the truth."""
        clean = self._clean(batch)
        keys = example_keys(jax.random.key(_EVALUATION_SEED), batch["index"])
        return self._degrade(keys, clean), clean

    @functools.partial(jit, static_argnums=0)
    def _restored(self, state: TrainState, batch: Batch) -> tuple[Images, Images, Images]:
        degraded, clean = self.evaluation_pair(batch)
        variables = state.inference_variables()
        output, _ = apply_model(
            self.model, variables, degraded, train=False, precision=self.precision
        )
        _check_fit(output, clean)
        return degraded, jnp.clip(output, 0.0, 1.0), clean

    def _input(self, batch: Batch) -> tuple[Images, Images] | None:
        """What there is without a network, and the truth."""
        degraded, clean = self.evaluation_pair(batch)
        image = degraded[..., : clean.shape[-1]]
        if self.scale > 1:
            image = ops.imresize(image, self.scale)
        return (jnp.clip(image, 0.0, 1.0), clean) if image.shape == clean.shape else None

    @functools.partial(jit, static_argnums=0)
    def _sums(self, state: TrainState, batch: Batch) -> dict[str, jax.Array]:
        _, output, clean = self._restored(state, batch)
        return self._measured(output, clean, batch)

    @functools.partial(jit, static_argnums=0)
    def _input_sums(self, batch: Batch) -> dict[str, jax.Array]:
        pair = self._input(batch)
        assert pair is not None  # `baseline` has looked.
        return self._measured(*pair, batch)

    def _measured(self, output: Images, clean: Images, batch: Batch) -> dict[str, jax.Array]:
        sizes = valid_sizes({"image": clean} | {k: v for k, v in batch.items() if k == "size"})
        sizes = sizes - sizes % self.scale - 2 * self.border
        inner = slice(self.border, None)
        pair = output[:, inner, inner], clean[:, inner, inner]
        measures = {"psnr": psnr(*pair, sizes), "mse": mean_squared_error(*pair, sizes)}
        return masked_sums(measures, batch["mask"])


def _penalty(loss: Loss, difference: Images) -> Images:
    if loss == "l1":
        return jnp.abs(difference)
    if loss == "l2":
        return jnp.square(difference)
    return jnp.sqrt(jnp.square(difference) + _CHARBONNIER_EPSILON**2)


def _check_fit(output: Images, clean: Images) -> None:
    if output.shape != clean.shape:
        raise InputError(
            f"the model makes images of {output.shape[1:]} of those that should become "
            f"{clean.shape[1:]}; set task.model.scale and task.model.channels to the task's"
        )


def _enlarged(images: np.ndarray, height: int) -> np.ndarray:
    """Images with every pixel repeated until they are about `height` pixels high."""
    factor = max(height // images.shape[1], 1)
    return images.repeat(factor, axis=1).repeat(factor, axis=2)
