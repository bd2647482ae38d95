"""Restoration: learn to invert a degradation y = A(x) + noise, from pairs made of clean images.

Training pairs are made on the device, inside the step: a random crop of a clean image is flipped and
rotated, then degraded, with a key folded from the seed, the step and the example's index. In evaluation
the key depends on the index only, so all models and steps are evaluated on the same degraded images.

Pairs may also be given, as by the source "pairs". The same crop, flip and rotation then apply to both images.

An adversary and a feature loss are optional, see `restoration_losses`. With an adversary, the state is that of
a GAN whose generator is the restoration network.

Note: Evaluation pads all images to one canvas and does not round outputs. For the protocols of published
tables (one image at a time, rounded outputs) see `deconv_jax.inference.restoration`.
"""

import dataclasses
import functools
from collections.abc import Iterable
from typing import ClassVar, Literal, cast

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
from deconv_jax.data.degradations import Degradation, noise_sigma
from deconv_jax.data.forward_model import fold_in
from deconv_jax.data.pipeline import evaluation_batches
from deconv_jax.data.random_keys import (
    RESTORATION_EVALUATION_SEED,
    evaluation_keys,
    training_keys,
)
from deconv_jax.data.sources import Source
from deconv_jax.errors import InputError, at_least
from deconv_jax.metrics.image import mean_squared_error, psnr
from deconv_jax.metrics.masked_mean import masked_sums, mean_over
from deconv_jax.models.interfaces import HasScale
from deconv_jax.tasks.adversarial_step import (
    AdversarialStep,
    GeneratorInputs,
    Labels,
    Purpose,
    UpdateBatch,
    generator_variables,
)
from deconv_jax.tasks.pictures import PICTURE_EXAMPLES, center_crop_grid, first_examples
from deconv_jax.tasks.restoration_losses import Adversary, FeatureLoss
from deconv_jax.tasks.task_model import check_model, run_model
from deconv_jax.training.optimizer import Optimizer
from deconv_jax.training.state import Precision, Scalars, TrainState, Tree
from deconv_jax.training.step import apply_model, gradient_step, images_in_unit_range, init_state
from deconv_jax.training.task import Task

Images = Float[Array, "batch height width channels"]
Loss = Literal["l1", "l2", "charbonnier"]

_CHARBONNIER_EPSILON = 1e-3
_LOG_EPSILON = 1e-6


@dataclasses.dataclass(frozen=True)
class Restoration(Task):
    """A restoration network for one degradation.

    Attributes:
      model: Module that maps degraded images to restored ones, `model.scale` times as large; both in
        [0, 1].
      degradation: Degradation to invert; None for given pairs, whose input has the key "input" in batches.
      optimizer: Optimizer of the model.
      precision: "f32", or "bf16" for bfloat16 weights and activations.
      crop: Side of the clean training patches in pixels, a multiple of the model's scale; None for
        whole images.
      rescale: Factors from which each training image's random downscaling is chosen; others than (1.0,)
        require `crop` and a degradation.
      augment: Whether to flip and rotate training patches at random (8 symmetries).
      loss: Loss of a pixel with restored value x and clean value t: "l2" is (x - t)^2, "l1" is
        |x - t|, "charbonnier" is sqrt((x - t)^2 + 0.001^2) (Lai et al., arXiv:1704.03915).
      reduction: "mean" over all pixels, or "half_sum": half the sum over the pixels of an example,
        mean over examples, as in equation 1 of DnCNN (arXiv:1608.03981). With Adam the two differ
        only through its epsilon. "log" is the mean over examples of log(1e-6 + an example's mean).
        With "l2" that is the negative PSNR up to a factor (NAFNet, arXiv:2204.04676), so light
        degradations count as much as heavy ones.
      noise_conditional: Whether the model's input has an additional last channel with the standard
        deviation of the noise, in [0, 1]; it requires a degradation with Gaussian noise.
      border: Number of pixels on each side that the metrics leave out.
      seed: Seed of crops and degradations.
      adversary: Discriminator of restored patches and weight of its loss; requires `crop`. None for none.
      feature_loss: Distance of features that is added to the loss; None for none.
    """

    model: nn.Module
    degradation: Degradation | None
    optimizer: Optimizer
    precision: Precision = "f32"
    crop: int | None = None
    rescale: tuple[float, ...] = (1.0,)
    augment: bool = True
    loss: Loss = "l2"
    reduction: Literal["mean", "half_sum", "log"] = "mean"
    noise_conditional: bool = False
    border: int = 0
    seed: int = 0
    adversary: Adversary | None = None
    feature_loss: FeatureLoss | None = None

    monitor: ClassVar[str] = "psnr"
    metric_names: ClassVar[tuple[str, ...]] = ("mse", "psnr")

    def __post_init__(self) -> None:
        at_least("task.border", self.border, 0)
        check_model(self.model, "scale", "a restoration network", "dncnn")
        if self.crop is not None and (self.crop < 1 or self.crop % self.scale):
            raise InputError(
                f"task.crop must be a positive multiple of the model's scale {self.scale}; got "
                f"{self.crop}"
            )
        if self.crop is None and self.rescale != (1.0,):
            raise InputError(f"task.rescale requires task.crop; got rescale={self.rescale}")
        if self.degradation is None and self.rescale != (1.0,):
            raise InputError(
                "task.rescale requires task.degradation, because rescaling changes the degradation of a "
                f"given input; got rescale={self.rescale}"
            )
        if self.degradation is None and self.noise_conditional:
            raise InputError(
                "task.noise_conditional requires task.degradation with Gaussian noise; got None"
            )
        if self.adversary is not None:
            if self.crop is None:
                raise InputError(
                    "task.adversary requires task.crop, the size of its images; got None"
                )
            self.adversary.check_optimizers(self.optimizer)

    @property
    def scale(self) -> int:
        """Ratio of the sizes of restored and degraded images."""
        return cast(HasScale, self.model).scale

    @property
    def protocol(self) -> str:
        """Definition of the metrics of `evaluate`, a sentence that is stored with results."""
        return (
            "PSNR in dB of images in [0, 1], output clipped and not rounded, mean over images of each "
            "image's PSNR; mse likewise; images padded by reflection to one canvas and cropped to "
            f"multiples of {self.scale}, metrics of the unpadded pixels without a border of "
            f"{self.border}; "
            + (
                "given inputs"
                if self.degradation is None
                else f"{self.degradation.describe()}, random numbers from JAX, seed "
                f"{RESTORATION_EVALUATION_SEED} folded with the image's index in the split"
            )
        )

    def init(self, key: jax.Array, batch: Batch) -> TrainState:
        """Return the initial state for images with the batch's number of channels.

        With an adversary, `params`, `batch_stats` and `opt_state` have the keys "generator", for the
        restoration network, and "discriminator"; see `AdversarialStep.init`.

        Raises:
          InputError: The images do not fit the model or the degradation; pairs are given and there is a
            degradation, or neither; or `noise_conditional` has no Gaussian noise.
        """

        def pair() -> tuple[Images, Images]:
            keys = example_keys(key, jnp.zeros(1, int))
            return self._training_pair(keys, {name: array[:1] for name, array in batch.items()})

        degraded, clean = (jnp.zeros(like.shape) for like in jax.eval_shape(pair))
        if self.adversary is not None:
            return self._adversarial_step(self.adversary).init(key, clean, (degraded,))
        return init_state(self.model, self.optimizer, key, degraded)

    def train_step(self, state: TrainState, batch: Batch) -> tuple[TrainState, Scalars]:
        """Take a gradient step on the mean loss; with an adversary, after those of the discriminator.

        Scalars: "loss", "grad_norm" (before clipping) and "learning_rate"; with a feature loss or an
        adversary also "pixel_loss" and "feature_loss", unweighted. With an adversary further
        "adversarial_loss", unweighted, and those of `AdversarialTraining.train_step`, where
        "generator_loss" is the loss of the restoration network.

        Raises:
          InputError: The model's output does not have the shape of the clean images, or see `init`.
        """
        if self.adversary is not None:
            return self._take_adversarial_step(self.adversary, state, batch)

        def loss(variables: Tree, batch: Batch) -> tuple[jax.Array, tuple[Scalars, Tree]]:
            keys = training_keys(self.seed, state.step, batch["index"])
            degraded, clean = self._training_pair(keys, batch)
            output, stats = apply_model(
                self.model, variables, degraded, train=True, precision=self.precision
            )
            _check_shapes(output, clean)
            value, scalars = self._loss(output, clean)
            return value, (scalars if self.feature_loss is not None else {}, stats)

        return gradient_step(state, batch, loss, self.optimizer)

    def _loss(self, output: Images, clean: Images) -> tuple[jax.Array, Scalars]:
        """Return the loss without an adversary, and its terms."""
        per_example = jnp.mean(_pixel_losses(self.loss, output - clean), axis=(1, 2, 3))
        if self.reduction == "half_sum":
            per_example = per_example * (0.5 * clean[0].size)
        elif self.reduction == "log":
            per_example = jnp.log(per_example + _LOG_EPSILON)
        value = jnp.mean(per_example)
        scalars = {"pixel_loss": value}
        if self.feature_loss is not None:
            scalars["feature_loss"] = self.feature_loss.distance(output, clean)
            value = value + self.feature_loss.weight * scalars["feature_loss"]
        return value, scalars

    def _adversarial_step(self, adversary: Adversary) -> AdversarialStep:
        return adversary.step(self.model, self.optimizer, self.precision, self.seed)

    def _take_adversarial_step(
        self, adversary: Adversary, state: TrainState, batch: Batch
    ) -> tuple[TrainState, Scalars]:
        def draw(part: UpdateBatch) -> tuple[Images, GeneratorInputs, Labels]:
            degraded, clean = self._training_pair(part.keys(Purpose.INPUT), part.batch)
            output = jax.eval_shape(
                functools.partial(run_model, self), generator_variables(state), degraded
            )
            _check_shapes(output, clean)
            return clean, (degraded,), None

        def objective(
            adversarial: jax.Array, output: Images, clean: Images
        ) -> tuple[jax.Array, Scalars]:
            value, scalars = self._loss(output, clean)
            return value + adversary.weight * adversarial, scalars | {
                "adversarial_loss": adversarial
            }

        return self._adversarial_step(adversary).take(state, batch, draw, objective)

    def evaluate(self, state: TrainState, batches: Iterable[Batch]) -> dict[str, float]:
        """Return "psnr" (dB) and "mse" of the clipped output, without `border`, means over images.

        Raises:
          InputError: There are no examples, or the output does not have the shape of the clean images.
        """
        return mean_over(batches, functools.partial(self._metric_sums, state))

    def pictures(self, state: TrainState, batch: Batch) -> dict[str, Image.Image]:
        """Return "restorations": center crops of four degraded, restored and clean images."""
        few = first_examples(batch, PICTURE_EXAMPLES)
        degraded, output, clean = (np.asarray(a) for a in self._restore(state, few))
        rows = {
            "degraded": _enlarge(degraded[..., : clean.shape[-1]], clean.shape[1]),
            "restored": output,
            "truth": clean,
        }
        return {"restorations": center_crop_grid(rows, valid_sizes({"image": clean} | few))}

    def baseline(self, train: Source, test: Source) -> dict[str, float]:
        """Return "input_psnr" (dB) and "input_mse" of the clipped degraded image; `train` is not used.

        Downscaled images are first enlarged by bicubic interpolation. Returns {} if the degradation
        crops the image, so that its pixels do not correspond to those of the clean image.
        """
        del train
        first = {name: jnp.asarray(a) for name, a in test.gather(np.zeros(1, np.int32)).items()}
        pair = jax.eval_shape(self._input_pair, first | {"index": jnp.zeros(1, jnp.int32)})
        if pair is None:
            return {}
        batches = (jax.tree.map(jnp.asarray, b) for b in evaluation_batches(test, batch_size=1))
        means = mean_over(batches, self._input_metric_sums)
        return {f"input_{name}": value for name, value in means.items()}

    def evaluation_pair(self, batch: Batch) -> tuple[Images, Images]:
        """Return the model's input in evaluation, the same at every step, and the clean images.

        Clean images are cropped to multiples of `scale`. With `noise_conditional`, the input has the
        channel of the noise level.

        Args:
          batch: Batch with uint8 "image" and "index".
        """
        clean = self._clean(batch)
        if self._has_given_input(batch):
            return images_in_unit_range(batch["input"]), clean
        keys = evaluation_keys(RESTORATION_EVALUATION_SEED, batch["index"])
        return self._degrade(keys, clean), clean

    def _has_given_input(self, batch: Batch) -> bool:
        """Return whether pairs are given; raise InputError if that contradicts the degradation."""
        given = "input" in batch
        if given and self.degradation is not None:
            raise InputError(
                "task.degradation must be None for data of pairs, which have an input; got "
                f"{self.degradation}"
            )
        if not given and self.degradation is None:
            raise InputError("task.degradation=None requires data of pairs, data.source=pairs:PATH")
        if given:
            target = batch["image"].shape[1:3]
            size = tuple(self.scale * n for n in batch["input"].shape[1:3])
            if size != target:
                raise InputError(
                    f"task.model has scale {self.scale}, and the targets are {target[0] / batch['input'].shape[1]:g} "
                    "times as large as the inputs"
                )
        return given

    def _training_pair(self, keys: Key[Array, " batch"], batch: Batch) -> tuple[Images, Images]:
        """Return the model's input in training and the clean images."""
        clean = self._clean(batch)
        if not self._has_given_input(batch):
            clean = self._patches(keys, clean)
            return self._degrade(keys, clean), clean
        given = images_in_unit_range(batch["input"])
        if self.crop is not None:
            # The blocks of the target as channels are as large as the input, so one crop fits both.
            blocks = ops.space_to_depth(clean, self.scale)
            both = jnp.concatenate([given, blocks], axis=-1)
            both = random_crop(fold_in(keys, 0), both, self.crop // self.scale)
            given, blocks = both[..., : given.shape[-1]], both[..., given.shape[-1] :]
            clean = ops.depth_to_space(blocks, self.scale)
        if self.augment:
            given, clean = (random_dihedral(fold_in(keys, 1), images) for images in (given, clean))
        return given, clean

    def _clean(self, batch: Batch) -> Images:
        """Return a batch's images in [0, 1], cropped to a multiple of the scale."""
        images = images_in_unit_range(batch["image"])
        height, width = (n - n % self.scale for n in images.shape[1:3])
        return images[:, :height, :width]

    def _patches(self, keys: Key[Array, " batch"], images: Images) -> Images:
        """Return clean training patches: rescaled, cropped, flipped and rotated at random."""
        if self.crop is not None and self.rescale != (1.0,):
            images = random_rescale(fold_in(keys, 0), images, self.crop, self.rescale)
        elif self.crop is not None:
            images = random_crop(fold_in(keys, 0), images, self.crop)
        return random_dihedral(fold_in(keys, 1), images) if self.augment else images

    def _degrade(self, keys: Key[Array, " batch"], clean: Images) -> Images:
        """Return the model's input."""
        assert self.degradation is not None, "`_has_given_input` checks this first"
        degradation = self.degradation.draw(fold_in(keys, 2), clean.shape)
        degraded = degradation.apply(clean, fold_in(keys, 3))
        if not self.noise_conditional:
            return degraded
        sigma = noise_sigma(degradation)
        if sigma is None:
            raise InputError(
                f"task.noise_conditional requires Gaussian noise; got {self.degradation}"
            )
        levels = jnp.asarray(sigma, degraded.dtype).reshape(-1, 1, 1, 1)
        maps = jnp.broadcast_to(levels, (*degraded.shape[:3], 1))
        return jnp.concatenate([degraded, maps], axis=-1)

    @functools.partial(jit, static_argnums=0)
    def _restore(self, state: TrainState, batch: Batch) -> tuple[Images, Images, Images]:
        """Return degraded, restored and clean images of a batch in evaluation."""
        degraded, clean = self.evaluation_pair(batch)
        output = run_model(self, state.inference_variables(), degraded)
        _check_shapes(output, clean)
        return degraded, jnp.clip(output, 0.0, 1.0), clean

    def _input_pair(self, batch: Batch) -> tuple[Images, Images] | None:
        """Return the baseline's output and the clean images; None if their shapes differ."""
        degraded, clean = self.evaluation_pair(batch)
        image = degraded[..., : clean.shape[-1]]
        if self.scale > 1:
            image = ops.imresize(image, self.scale)
        return (jnp.clip(image, 0.0, 1.0), clean) if image.shape == clean.shape else None

    @functools.partial(jit, static_argnums=0)
    def _metric_sums(self, state: TrainState, batch: Batch) -> dict[str, jax.Array]:
        _, output, clean = self._restore(state, batch)
        return self._masked_metrics(output, clean, batch)

    @functools.partial(jit, static_argnums=0)
    def _input_metric_sums(self, batch: Batch) -> dict[str, jax.Array]:
        pair = self._input_pair(batch)
        assert pair is not None, "`baseline` checks this first"
        return self._masked_metrics(*pair, batch)

    def _masked_metrics(self, output: Images, clean: Images, batch: Batch) -> dict[str, jax.Array]:
        sizes = valid_sizes({"image": clean} | {k: v for k, v in batch.items() if k == "size"})
        sizes = sizes - sizes % self.scale - 2 * self.border
        inner = slice(self.border, None)
        pair = output[:, inner, inner], clean[:, inner, inner]
        metrics = {"psnr": psnr(*pair, sizes), "mse": mean_squared_error(*pair, sizes)}
        return masked_sums(metrics, batch["mask"])


def _pixel_losses(loss: Loss, difference: Images) -> Images:
    if loss == "l1":
        return jnp.abs(difference)
    if loss == "l2":
        return jnp.square(difference)
    return jnp.sqrt(jnp.square(difference) + _CHARBONNIER_EPSILON**2)


def _check_shapes(output: Images | jax.ShapeDtypeStruct, clean: Images) -> None:
    if output.shape != clean.shape:
        raise InputError(
            f"model output has shape {output.shape[1:]}, the target has shape {clean.shape[1:]}; set "
            "task.model.scale and task.model.channels to fit the degradation and the data"
        )


def _enlarge(images: np.ndarray, height: int) -> np.ndarray:
    """Enlarge images to about `height` rows by repeating pixels."""
    factor = max(height // images.shape[1], 1)
    return images.repeat(factor, axis=1).repeat(factor, axis=2)
