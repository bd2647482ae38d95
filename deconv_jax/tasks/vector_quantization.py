"""Vector quantization: learn to reconstruct images from a map of codebook indices.

The loss is that of van den Oord et al. (arXiv:1711.00937, equation 3) without the codebook term, because
the codebook vectors are exponential moving averages (appendix A.1 there). The metric is PSNR, compared
with classical vector quantization at the same rate: k-means with as many centroids as the codebook has
vectors, on patches of the size that one code covers.

Note: bits_per_dim is the rate of fixed-length codes of log2(codebook size) bits. It is no bound on a
likelihood, and an entropy coder needs fewer bits.
"""

import dataclasses
import functools
import math
import warnings
from collections.abc import Iterable, Mapping
from typing import ClassVar, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from deconv_jax.compilation import jit
from deconv_jax.data.batch import Batch
from deconv_jax.data.sources import Source
from deconv_jax.errors import InputError, at_least
from deconv_jax.metrics.image import mean_squared_error, psnr, psnr_from_mse
from deconv_jax.metrics.masked_mean import masked_sums, mean_over
from deconv_jax.models.vqvae import VQVAE, perplexity
from deconv_jax.ops.collectives import mean_over_devices
from deconv_jax.tasks.task_model import check_model, run_model
from deconv_jax.training.optimizer import Optimizer
from deconv_jax.training.state import Precision, Scalars, TrainState, Tree
from deconv_jax.training.step import apply_model, gradient_step, images_in_unit_range, init_state
from deconv_jax.training.task import Task
from deconv_jax.viz.grids import picture_grid
from deconv_jax.viz.plots import Plot, Series

_KMEANS_SEED = 0
_KMEANS_ITERATIONS = 30
_PATCHES_PER_CENTROID = 100
"""Number of training patches per centroid that k-means is fitted to."""
_BASELINE_BATCH = 500
_MIN_CODES_USED = 0.3
"""Fraction of used codes below which a run warns."""


@dataclasses.dataclass(frozen=True)
class VectorQuantization(Task):
    """A vector-quantized autoencoder of images in [0, 1] with mean squared error.

    Attributes:
      model: `VQVAE`.
      optimizer: Optimizer of the model.
      precision: "f32", or "bf16" for bfloat16 weights and activations.
      commitment: Weight of the mean squared distance between the encoder's outputs and their
        codebook vectors (beta of equation 3).
      image_variance: Variance of the data's pixel values, by which the mean squared error is divided
        as in DeepMind's code; 1 for no division.
    """

    model: nn.Module
    optimizer: Optimizer
    precision: Precision = "f32"
    commitment: float = 0.25
    image_variance: float = 1.0

    monitor: ClassVar[str] = "psnr"
    metric_names: ClassVar[tuple[str, ...]] = (
        "mse",
        "psnr",
        "perplexity",
        "codes_used",
        "bits_per_dim",
    )
    protocol: ClassVar[str] = (
        "PSNR in dB of 8-bit images scaled to [0, 1], reconstruction not rounded, whole image, mean over "
        "images of each image's PSNR; mse: mean over all pixels; perplexity: exp of the entropy of the "
        "code frequencies in the split; codes_used: fraction of codes that occur; bits_per_dim: "
        "log2(codebook size) times positions over pixels and channels; patch_vq: k-means of training "
        "patches with as many centroids as codes and one patch per position"
    )

    def __post_init__(self) -> None:
        check_model(self.model, "codebook_size", "a model with a codebook", "vqvae")
        at_least("task.commitment", self.commitment, 0)
        if not self.image_variance > 0:
            raise InputError(f"task.image_variance must be positive; got {self.image_variance}")

    @property
    def codebook_size(self) -> int:
        """Number of codebook vectors."""
        return self._vqvae.codebook_size

    @property
    def patch_size(self) -> int:
        """Side of the image patch that one code covers, in pixels."""
        return self._vqvae.stride ** len(self._vqvae.features)

    @property
    def _vqvae(self) -> VQVAE:
        return cast(VQVAE, self.model)

    def init(self, key: jax.Array, batch: Batch) -> TrainState:
        """Return the initial state for images of the batch's shape.

        Raises:
          InputError: The images do not fit the model.
        """
        return init_state(self.model, self.optimizer, key, batch["image"])

    def train_step(self, state: TrainState, batch: Batch) -> tuple[TrainState, Scalars]:
        """Take a gradient step on squared error and commitment, and update the codebook averages.

        Scalars: "perplexity" of the batch's codes; "commitment", the unweighted mean squared distance;
        "mse"; and "loss", "grad_norm" (before clipping) and "learning_rate".
        """

        def loss(variables: Tree, batch: Batch) -> tuple[jax.Array, tuple[Scalars, Tree]]:
            images = images_in_unit_range(batch["image"])
            (output, distance, indices), stats = apply_model(
                self.model, variables, images, train=True, precision=self.precision
            )
            error = jnp.mean(mean_squared_error(output, images))
            commitment = jnp.mean(distance)
            counts = mean_over_devices(self._code_counts(indices, jnp.ones(len(indices))))
            scalars = {"mse": error, "commitment": commitment, "perplexity": perplexity(counts)}
            return error / self.image_variance + self.commitment * commitment, (scalars, stats)

        return gradient_step(state, batch, loss, self.optimizer)

    def _code_counts(self, indices: jax.Array, weights: jax.Array) -> jax.Array:
        """Count each code in index maps (batch, rows, columns), with one weight per map."""
        rows, columns = indices.shape[1:]
        repeated = jnp.repeat(weights, rows * columns)
        return jnp.bincount(indices.reshape(-1), weights=repeated, length=self.codebook_size)

    def evaluate(self, state: TrainState, batches: Iterable[Batch]) -> dict[str, float]:
        """Compute the quality of reconstructions and the use of the codebook over a split.

        Returns:
          "psnr" (dB) and "mse", means over images; "perplexity" of the split's codes; "codes_used", the
          fraction of codes that occur; and "bits_per_dim" of fixed-length codes, which depends on the
          model alone.

        Raises:
          InputError: There are no examples.
        """
        means = mean_over(batches, functools.partial(self._metric_sums, state))
        counts = means.pop("codes")
        channels = self._vqvae.image_shape[-1]
        return means | {
            "perplexity": float(perplexity(jnp.asarray(counts, jnp.float32))),
            "codes_used": float(np.mean(counts > 0)),
            "bits_per_dim": math.log2(self.codebook_size) / (self.patch_size**2 * channels),
        }

    def pictures(self, state: TrainState, batch: Batch) -> dict[str, Image.Image]:
        """Return "reconstructions": originals above their reconstructions."""
        output, _ = self._reconstruct(state, batch)
        return {
            "reconstructions": picture_grid(
                {"original": np.asarray(batch["image"]), "reconstruction": np.asarray(output)}
            )
        }

    def plots(
        self, state: TrainState, batches: Iterable[Batch], metrics: Mapping[str, float]
    ) -> dict[str, Plot]:
        """Return "codes": the code frequencies in the split, in descending order."""
        del metrics
        counts = np.sum([self._metric_sums(state, batch)["codes"] for batch in batches], axis=0)
        frequencies = np.sort(counts)[::-1] / np.sum(counts)
        ranks = np.arange(1, self.codebook_size + 1)
        used = f"{np.sum(counts > 0)} of {self.codebook_size} codes occur"
        uniform = np.full(2, 1 / self.codebook_size)
        series = [
            Series(ranks, frequencies, "codes", joined=True),
            Series(ranks[[0, -1]], uniform, "uniform", joined=True),
        ]
        return {"codes": Plot(used, "rank", "fraction of the positions", series)}

    def baseline(self, train: Source, test: Source) -> dict[str, float]:
        """Evaluate vector quantization of patches with k-means centroids of the training set.

        Returns:
          "patch_vq_psnr" (dB), "patch_vq_mse" and "patch_vq_codes_used", the fraction of centroids
          that occur in `test`.
        """
        size, rng = self.patch_size, np.random.default_rng(_KMEANS_SEED)
        from scipy.cluster.vq import vq  # Slow to import.

        images = train.gather(np.arange(len(train)))["image"]
        order = rng.permutation(len(images))
        _, height, width, _ = images.shape
        count = _PATCHES_PER_CENTROID * self.codebook_size
        # Draw the patches from a random subset of images that holds about 2 * count patches.
        images = images[order[: 2 * math.ceil(count * size**2 / (height * width))]]
        patches = rng.permutation(_patches(images / 255.0, size))[:count]
        centroids = kmeans_patches(patches, self.codebook_size, rng)
        errors, used = [], np.zeros(len(centroids), bool)
        for start in range(0, len(test), _BASELINE_BATCH):
            index = np.arange(start, min(start + _BASELINE_BATCH, len(test)))
            target = _patches(test.gather(index)["image"] / 255.0, size)
            nearest, _ = vq(target, centroids)
            used[nearest] = True
            squares = np.square(centroids[nearest] - target)
            errors.append(squares.reshape(len(index), -1).mean(axis=1))
        image_errors = np.concatenate(errors)
        return {
            "patch_vq_psnr": float(np.mean(psnr_from_mse(image_errors))),
            "patch_vq_mse": float(np.mean(image_errors)),
            "patch_vq_codes_used": float(np.sum(used) / self.codebook_size),
        }

    def warnings(self, metrics: Mapping[str, float], scalars: Mapping[str, float]) -> list[str]:
        """Return a warning if less than 30 % of the codes are used, and [] otherwise.

        Args:
          metrics: Metrics of the validation split; "codes_used" is required.
          scalars: Not used.
        """
        del scalars
        if metrics["codes_used"] >= _MIN_CODES_USED:
            return []
        return [
            f"only {metrics['codes_used']:.1%} of the codes are used; try a larger restart_below, a "
            "smaller codebook_size or a smaller learning_rate"
        ]

    @functools.partial(jit, static_argnums=0)
    def _reconstruct(self, state: TrainState, batch: Batch) -> tuple[jax.Array, jax.Array]:
        """Return the reconstructions of a batch, and its codes."""
        images = images_in_unit_range(batch["image"])
        output, _, indices = run_model(self, state.inference_variables(), images)
        return output, indices

    @functools.partial(jit, static_argnums=0)
    def _metric_sums(self, state: TrainState, batch: Batch) -> dict[str, jax.Array]:
        images = images_in_unit_range(batch["image"])
        output, indices = self._reconstruct(state, batch)
        metrics = {"psnr": psnr(output, images), "mse": mean_squared_error(output, images)}
        codes = self._code_counts(indices, batch["mask"])
        return masked_sums(metrics, batch["mask"]) | {"codes": codes}


def kmeans_patches(patches: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Compute k-means centroids of patches, starting from random distinct patches.

    Args:
      patches: Patches (number, pixels per patch).
      count: Number of centroids.
      rng: Generator that chooses the initial centroids.

    Returns:
      The centroids (count, pixels per patch), or all distinct patches if there are at most `count`.
    """
    from scipy.cluster.vq import kmeans2  # Slow to import.

    distinct = np.unique(patches, axis=0)
    if len(distinct) <= count:
        return distinct
    start = distinct[rng.choice(len(distinct), count, replace=False)]
    with warnings.catch_warnings():
        # A centroid that loses all its patches stays in place and counts as unused.
        warnings.filterwarnings("ignore", "One of the clusters is empty", UserWarning)
        return kmeans2(patches, start, iter=_KMEANS_ITERATIONS, minit="matrix")[0]


def _patches(images: np.ndarray, size: int) -> np.ndarray:
    """Cut images (count, height, width, channels) into squares, one per row, image by image."""
    count, height, width, channels = images.shape
    cut = images.reshape(count, height // size, size, width // size, size, channels)
    return cut.transpose(0, 1, 3, 2, 4, 5).reshape(-1, size * size * channels)
