"""Autoencoding: learn to reconstruct images from a low-dimensional code.

A denoising autoencoder (Vincent et al., ICML 2008 and JMLR 11, 2010) sees degraded images and reconstructs
the clean ones. A contractive autoencoder (Rifai et al., ICML 2011) penalizes the encoder's Jacobian.

The metric is PSNR, compared with principal component analysis (PCA) with a code of the same size, which is
the optimum among *linear* autoencoders (Baldi & Hornik, 1989).

Note: Degraded images reach the network unclipped, with values outside [0, 1]. Only the baseline clips them.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterable, Mapping
from typing import ClassVar, Literal, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Key
from PIL import Image

from deconv_jax.compilation import jit
from deconv_jax.data.augment import example_keys
from deconv_jax.data.batch import Batch
from deconv_jax.data.degradations import Degradation
from deconv_jax.data.forward_model import fold_in
from deconv_jax.data.random_keys import AUTOENCODING_EVALUATION_SEED, step_key
from deconv_jax.data.sources import Source
from deconv_jax.errors import InputError, at_least, check_choice
from deconv_jax.metrics.image import (
    SSIM_MIN_SIZE,
    max_ms_ssim_scales,
    mean_squared_error,
    ms_ssim,
    psnr,
    psnr_from_mse,
)
from deconv_jax.metrics.masked_mean import masked_sums, mean_over
from deconv_jax.models.autoencoder import Autoencoder
from deconv_jax.tasks.latent_plot import latent_scatter, principal_components
from deconv_jax.tasks.task_model import check_model, degrade_same_shape, run_model
from deconv_jax.training.optimizer import Optimizer
from deconv_jax.training.state import Precision, Scalars, TrainState, Tree
from deconv_jax.training.step import apply_model, gradient_step, images_in_unit_range, init_state
from deconv_jax.training.task import Task
from deconv_jax.viz.grids import picture_grid
from deconv_jax.viz.plots import Plot

Images = Float[Array, "batch height width channels"]
Codes = Float[Array, "batch *code"]
Loss = Literal["l2", "l1", "bce"]

_PURPOSE_DEGRADE, _PURPOSE_PROBE = 0, 1


@dataclasses.dataclass(frozen=True)
class Autoencoding(Task):
    """An autoencoder of images in [0, 1].

    Attributes:
      model: `Autoencoder`, which maps images to images in [0, 1].
      optimizer: Optimizer of the model.
      precision: "f32", or "bf16" for bfloat16 weights and activations.
      degradation: Shape-preserving degradation of the model's input; the clean image is the target.
        None for a plain autoencoder.
      loss: Loss of a pixel with reconstruction x and clean value t, mean over pixels: "l2" is
        (x - t)^2, "l1" is |x - t|, "bce" is -t log x - (1 - t) log(1 - x) in nats, computed from
        logits.
      ms_ssim: Weight a of MS-SSIM in the loss a (1 - MS-SSIM) + (1 - a) `loss`, with as many scales
        as the images allow. This is equation 14 of Zhao et al. (arXiv:1511.08861), where a = 0.84
        and `loss` is "l1", without their Gaussian weighting of the second term.
      contractive: Weight of the penalty ||d code / d image||_F^2 (Rifai et al. 2011) at the model's
        input, mean over images; estimated by `squared_jacobian_norms`.
      sparsity: Weight of the mean absolute value of the code's entries.
      seed: Seed of degradations and of Jacobian estimates.
    """

    model: nn.Module
    optimizer: Optimizer
    precision: Precision = "f32"
    degradation: Degradation | None = None
    loss: Loss = "l2"
    ms_ssim: float = 0.0
    contractive: float = 0.0
    sparsity: float = 0.0
    seed: int = 0

    monitor: ClassVar[str] = "psnr"
    metric_names: ClassVar[tuple[str, ...]] = ("mse", "psnr")

    def __post_init__(self) -> None:
        check_model(self.model, "logits_and_code", "an autoencoder", "autoencoder")
        check_choice("task.loss", self.loss, Loss)
        for field in ("ms_ssim", "contractive", "sparsity", "seed"):
            at_least(f"task.{field}", getattr(self, field), 0)
        if self.ms_ssim > 1:
            raise InputError(f"task.ms_ssim must be at most 1; got {self.ms_ssim}")
        if self.contractive and cast(Autoencoder, self.model).norm == "batch":
            raise InputError(
                "task.contractive requires task.model.norm != 'batch', because batch norm makes a code "
                "depend on other images; got norm='batch'"
            )

    @property
    def protocol(self) -> str:
        """Definition of the metrics of `evaluate` and `baseline`, stored with results."""
        metrics = (
            "PSNR in dB of 8-bit images scaled to [0, 1], reconstruction not rounded, whole image, mean "
            "over images of each image's PSNR; mse: mean over all pixels"
        )
        if self.degradation is None:
            return metrics
        return (
            f"{self.degradation.describe()}; random numbers from JAX, seed "
            f"{AUTOENCODING_EVALUATION_SEED} folded with the image's index in the split; the model's "
            "input is not clipped, its output is compared with the clean image; "
            f"{metrics}; input_psnr and input_mse: degraded image clipped to [0, 1]; pca_psnr and "
            "pca_mse: degraded image projected on the principal components of clean training images"
        )

    def init(self, key: jax.Array, batch: Batch) -> TrainState:
        """Return the initial state for images of the batch's shape.

        Raises:
          InputError: The images do not fit the model.
        """
        return init_state(self.model, self.optimizer, key, batch["image"])

    def train_step(self, state: TrainState, batch: Batch) -> tuple[TrainState, Scalars]:
        """Take a gradient step on the mean loss with penalties.

        Scalars: "contractive" and "sparsity", the unweighted penalties, if they are enabled; and
        "loss", "grad_norm" (before clipping) and "learning_rate".

        Raises:
          InputError: The images do not fit the model, are too small for `ms_ssim`, or the degradation
            changes their shape.
        """
        key = step_key(self.seed, state.step)

        def loss(variables: Tree, batch: Batch) -> tuple[jax.Array, tuple[Scalars, Tree]]:
            inputs, clean = self._input_and_target(key, batch)

            def run(images: Images) -> tuple[Codes, tuple[Images, Tree]]:
                (logits, code), stats = apply_model(
                    self.model,
                    variables,
                    images,
                    train=True,
                    precision=self.precision,
                    method="logits_and_code",
                )
                return code, (logits, stats)

            scalars = {}
            if self.contractive:
                code, vjp, (logits, stats) = jax.vjp(run, inputs, has_aux=True)
                keys = fold_in(example_keys(key, batch["index"]), _PURPOSE_PROBE)
                scalars["contractive"] = jnp.mean(squared_jacobian_norms(vjp, code, keys))
            else:
                code, (logits, stats) = run(inputs)
            if self.sparsity:
                scalars["sparsity"] = jnp.mean(jnp.abs(code))
            value = jnp.mean(self._reconstruction_losses(logits, clean))
            for name, penalty in scalars.items():
                value += getattr(self, name) * penalty
            return value, (scalars, stats)

        return gradient_step(state, batch, loss, self.optimizer)

    def _reconstruction_losses(self, logits: Images, clean: Images) -> Float[Array, " batch"]:
        """Return the loss of each image, without penalties."""
        output = jax.nn.sigmoid(logits)
        if self.loss == "l2":
            losses = mean_squared_error(output, clean)
        elif self.loss == "l1":
            losses = jnp.mean(jnp.abs(output - clean), axis=(1, 2, 3))
        else:
            # From logits, because the logarithm of a saturated sigmoid is infinite.
            losses = jnp.mean(optax.sigmoid_binary_cross_entropy(logits, clean), axis=(1, 2, 3))
        if not self.ms_ssim:
            return losses
        height, width = clean.shape[1:3]
        scales = max_ms_ssim_scales(height, width)
        if not scales:
            raise InputError(
                f"task.ms_ssim requires images of at least {SSIM_MIN_SIZE} x {SSIM_MIN_SIZE} "
                f"pixels; got {height} x {width}"
            )
        dissimilarity = 1.0 - ms_ssim(output, clean, scales)
        return self.ms_ssim * dissimilarity + (1.0 - self.ms_ssim) * losses

    def evaluate(self, state: TrainState, batches: Iterable[Batch]) -> dict[str, float]:
        """Return "psnr" (dB) and "mse", means over images.

        The model's input is degraded if there is a degradation, and its output is compared with the
        clean images.

        Raises:
          InputError: There are no examples.
        """
        return mean_over(batches, functools.partial(self._metric_sums, state))

    def pictures(self, state: TrainState, batch: Batch) -> dict[str, Image.Image]:
        """Return "reconstructions": rows of degraded images (if any), reconstructions and originals."""
        original = {"original": np.asarray(batch["image"])}
        reconstruction = {"reconstruction": np.asarray(self._reconstruct(state, batch))}
        if self.degradation is None:
            rows = original | reconstruction
        else:
            rows = {"degraded": np.asarray(self.model_input(batch))} | reconstruction | original
        return {"reconstructions": picture_grid(rows)}

    def plots(
        self, state: TrainState, batches: Iterable[Batch], metrics: Mapping[str, float]
    ) -> dict[str, Plot]:
        """Return "codes", a scatter plot with one point per image; {} for codes with one entry.

        Codes with more than two entries are projected on their first two principal components.
        """
        del metrics
        return latent_scatter(batches, functools.partial(self._encode, state))

    def baseline(self, train: Source, test: Source) -> dict[str, float]:
        """Return PSNR (dB) and mean squared error of methods without a network, means over images.

        "pca_psnr" and "pca_mse" are those of PCA, fitted to the clean training images, with as many
        components as the code has entries; omitted if the code is at least as long as a flattened
        image. For a denoising autoencoder, "input_psnr" and "input_mse" are those of the clipped
        degraded image. The result can be {}.

        Note: PCA of degraded images is not the optimal linear map: it also keeps the noise
        along its components.
        """
        images = train.gather(np.arange(len(train)))["image"]
        code = jax.eval_shape(
            lambda images: self.model.init_with_output(jax.random.key(0), images, method="encode")[
                0
            ],
            jax.ShapeDtypeStruct((1, *images.shape[1:]), jnp.float32),
        )
        index = np.arange(len(test))
        test_images = test.gather(index)["image"]
        targets = test_images / 255.0
        inputs, metrics = targets, {}
        if self.degradation is not None:
            batch = {"image": jnp.asarray(test_images), "index": jnp.asarray(index)}
            inputs = np.asarray(self.model_input(batch), np.float64)
            metrics = _error_metrics("input", np.clip(inputs, 0.0, 1.0), targets)
        length = math.prod(code.shape)
        if length >= math.prod(images.shape[1:]):
            return metrics
        output = pca_reconstruction(images / 255.0, inputs, length)
        return _error_metrics("pca", output, targets) | metrics

    @functools.partial(jit, static_argnums=0)
    def model_input(self, batch: Batch) -> Images:
        """Return the model's input in evaluation: the clean images in [0, 1], or degraded ones.

        Degraded images may have values outside [0, 1].

        Args:
          batch: Batch with uint8 "image" and "index"; example i is degraded by a key of `index[i]`.

        Raises:
          InputError: The degradation changes the shape of the images.
        """
        return self._input_and_target(jax.random.key(AUTOENCODING_EVALUATION_SEED), batch)[0]

    def _input_and_target(self, key: Key[Array, ""], batch: Batch) -> tuple[Images, Images]:
        """Return the model's input and the clean images."""
        clean = images_in_unit_range(batch["image"])
        if self.degradation is None:
            return clean, clean
        keys = fold_in(example_keys(key, batch["index"]), _PURPOSE_DEGRADE)
        return degrade_same_shape(self.degradation, clean, keys), clean

    @functools.partial(jit, static_argnums=0)
    def _reconstruct(self, state: TrainState, batch: Batch) -> Images:
        return run_model(self, state.inference_variables(), self.model_input(batch))

    @functools.partial(jit, static_argnums=0)
    def _encode(self, state: TrainState, batch: Batch) -> Codes:
        variables = state.inference_variables()
        return run_model(self, variables, self.model_input(batch), method="encode")

    @functools.partial(jit, static_argnums=0)
    def _metric_sums(self, state: TrainState, batch: Batch) -> dict[str, jax.Array]:
        images = images_in_unit_range(batch["image"])
        output = self._reconstruct(state, batch)
        metrics = {"psnr": psnr(output, images), "mse": mean_squared_error(output, images)}
        return masked_sums(metrics, batch["mask"])


def squared_jacobian_norms(
    vjp: Callable[[Codes], tuple[Images]], code: Codes, keys: Key[Array, " batch"]
) -> Float[Array, " batch"]:
    """Estimate ||J||_F^2 of the Jacobian J of each image's code with respect to the image.

    Uses one Rademacher vector v per image: E |J^T v|^2 = tr(J^T E[v v^T] J) = ||J||_F^2 (Hutchinson
    1989). The estimate is unbiased, and exact for codes with one entry.

    Args:
      vjp: Vector-Jacobian product of all codes with respect to all images, from `jax.vjp`. No code
        may depend on another image.
      code: Codes; only the shape and type are used.
      keys: One key per image.
    """
    signs = jax.vmap(lambda key: jax.random.rademacher(key, code.shape[1:], code.dtype))(keys)
    (products,) = vjp(signs)
    return jnp.sum(jnp.square(products), axis=(1, 2, 3))


def _error_metrics(name: str, output: np.ndarray, targets: np.ndarray) -> dict[str, float]:
    errors = np.mean(np.square(output - targets), axis=(1, 2, 3))
    return {
        f"{name}_psnr": float(np.mean(psnr_from_mse(errors))),
        f"{name}_mse": float(np.mean(errors)),
    }


def pca_reconstruction(train: np.ndarray, images: np.ndarray, components: int) -> np.ndarray:
    """Project images on the first principal components of others, in double precision.

    Args:
      train: Images that the components are fitted to (count, height, width, channels).
      images: Images to project (other count, height, width, channels).
      components: Number of components; more than the rank of `train` give no error.

    Returns:
      The projections in float64, of the shape of `images`, clipped to [0, 1].
    """
    rows = train.reshape(len(train), -1).astype(np.float64)
    mean, basis = principal_components(rows, components)
    flat = images.reshape(len(images), -1) - mean
    return np.clip(flat @ basis @ basis.T + mean, 0.0, 1.0).reshape(images.shape)
