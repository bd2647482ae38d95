"""Vector quantisation: learn to pass images through a map of whole numbers, each an index into a codebook.

The loss is that of van den Oord et al. (arXiv:1711.00937, equation 3) with the codebook's term left out,
since its vectors are running means (appendix A.1 there). The measure is PSNR beside that of classical vector
quantisation at the same bits: every patch of as many pixels as a code stands for is replaced by the nearest
of as many centres, which k-means finds. What a reader would get wrong: bits_per_dim is of codes written
with log2 of the codebook's size each; it is no bound on a likelihood, and an entropy coder needs less.
"""

import dataclasses
import functools
import math
import warnings
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image
from scipy.cluster.vq import kmeans2, vq

from deconv_jax.compilation import jit
from deconv_jax.data.batch import Batch
from deconv_jax.data.sources import Source
from deconv_jax.errors import InputError, at_least
from deconv_jax.metrics.image import mean_squared_error, psnr, psnr_from_mse
from deconv_jax.metrics.masked_mean import masked_sums, mean_over
from deconv_jax.models.vqvae import perplexity
from deconv_jax.ops.collectives import mean_over_devices
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
from deconv_jax.viz.plots import Plot, Series

_PATCHES_A_CENTRE = 100
"""Of the training set, that k-means is fitted to."""
_ROUNDS = 30
_IMAGES_AT_A_TIME = 500
_FEW = 0.3


@dataclasses.dataclass(frozen=True)
class VectorQuantization(Task):
    """Vector-quantised autoencoder of images in [0, 1] with mean squared error.

    Attributes:
      model: a `VQVAE`.
      optimizer, precision: see `Optimizer` and `apply_model`.
      commitment: weight of the mean squared distance between the encoder's outputs and their
        codes' vectors (beta of equation 3).
      image_variance: of the numbers in the images, which the mean squared error is divided by; 1
        leaves it as it is. DeepMind's code divides.
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
        "PSNR in dB of 8-bit images scaled to [0, 1], reconstruction not rounded, whole image, "
        "mean over images of each image's PSNR; mse is the mean over all pixels; perplexity is exp "
        "of the entropy of how often each code occurs in the split, codes_used the share of codes "
        "that occur; bits_per_dim is log2(codes) times positions over pixels and channels; "
        "patch_vq is k-means of patches of training images with as many centres, one a position"
    )

    def __post_init__(self) -> None:
        if not hasattr(self.model, "codebook_size"):
            raise InputError(
                f"task.model {type(self.model).__name__} has no codebook; wanted is 'vqvae'"
            )
        at_least("task.commitment", self.commitment, 0)
        if not self.image_variance > 0:
            raise InputError(f"task.image_variance must be positive; got {self.image_variance}")

    @property
    def codes(self) -> int:
        """Size of the codebook."""
        return self.model.codebook_size  # type: ignore[attr-defined]

    @property
    def patch_size(self) -> int:
        """Pixels a side of what one code stands for."""
        return self.model.stride ** len(self.model.features)  # type: ignore[attr-defined]

    def init(self, key: jax.Array, batch: Batch) -> TrainState:
        """A state for images of the batch's shape."""
        return init_state(self.model, self.optimizer, key, batch["image"])

    def train_step(self, state: TrainState, batch: Batch) -> tuple[TrainState, Scalars]:
        """One descent of the batch's mean squared error and commitment, and one move of the codebook.

        Scalars: "perplexity" of the batch's codes; "commitment", the mean squared distance,
        unweighted; "mse".
        """

        def loss(variables: Any, batch: Batch) -> Any:
            images = images_in_unit_range(batch["image"])
            (output, distance, indices), stats = apply_model(
                self.model, variables, images, train=True, precision=self.precision
            )
            error = jnp.mean(mean_squared_error(output, images))
            commitment = jnp.mean(distance)
            used = mean_over_devices(self._counts(indices, jnp.ones(len(indices))))
            scalars = {"mse": error, "commitment": commitment, "perplexity": perplexity(used)}
            return error / self.image_variance + self.commitment * commitment, (scalars, stats)

        return gradient_step(state, batch, loss, self.optimizer)

    def _counts(self, indices: jax.Array, weights: jax.Array) -> jax.Array:
        """How often each code occurs in maps (batch, rows, columns), each counted `weights` times."""
        rows, columns = indices.shape[1:]
        each = jnp.repeat(weights, rows * columns)
        return jnp.bincount(indices.reshape(-1), weights=each, length=self.codes)

    def evaluate(self, state: TrainState, batches: Iterable[Batch]) -> dict[str, float]:
        """Gives the measures of `protocol` but for those of `baseline`."""
        measures = mean_over(batches, functools.partial(self._sums, state))
        of_split = measures.pop("codes")
        channels = self.model.image_shape[-1]  # type: ignore[attr-defined]
        return measures | {
            "perplexity": float(perplexity(jnp.asarray(of_split, jnp.float32))),
            "codes_used": float(np.mean(of_split > 0)),
            "bits_per_dim": math.log2(self.codes) / (self.patch_size**2 * channels),
        }

    def pictures(self, state: TrainState, batch: Batch) -> dict[str, Image.Image]:
        """Under "reconstructions": originals above their reconstructions."""
        output, _ = self._reconstruct(state, batch)
        return {
            "reconstructions": picture_grid(
                {"original": np.asarray(batch["image"]), "reconstruction": np.asarray(output)}
            )
        }

    def plots(
        self, state: TrainState, batches: Iterable[Batch], metrics: Mapping[str, float]
    ) -> dict[str, Plot]:
        """Under "codes": how often each code occurs in the split, most frequent first."""
        del metrics
        counts = np.sum([self._sums(state, batch)["codes"] for batch in batches], axis=0)
        shares = np.sort(counts)[::-1] / np.sum(counts)
        ranks = np.arange(1, self.codes + 1)
        used = f"{np.sum(counts > 0)} of {self.codes} codes occur"
        series = [
            Series(ranks, shares, "codes", joined=True),
            Series(ranks[[0, -1]], np.full(2, 1 / self.codes), "all alike", joined=True),
        ]
        return {"codes": Plot(used, "rank", "share of the positions", series)}

    def baseline(self, train: Source, test: Source) -> dict[str, float]:
        """Vector quantisation of patches by as many centres, fitted to the training set.

        Gives "patch_vq_psnr" (dB), "patch_vq_mse" and "patch_vq_codes_used", the share of the
        centres that occur in `test`.
        """
        size, random = self.patch_size, np.random.default_rng(0)
        images = train.gather(np.arange(len(train)))["image"]
        chosen = random.permutation(len(images))
        _, height, width, _ = images.shape
        wanted = _PATCHES_A_CENTRE * self.codes
        # All patches of twice as many images as hold the patches wanted, and of those some.
        images = images[chosen[: 2 * math.ceil(wanted * size**2 / (height * width))]]
        patches = random.permutation(_patches(images / 255.0, size))[:wanted]
        centres = kmeans_patches(patches, self.codes, random)
        errors, used = [], np.zeros(len(centres), bool)
        for start in range(0, len(test), _IMAGES_AT_A_TIME):
            rows = np.arange(start, min(start + _IMAGES_AT_A_TIME, len(test)))
            target = _patches(test.gather(rows)["image"] / 255.0, size)
            nearest, _ = vq(target, centres)
            used[nearest] = True
            errors.append(np.square(centres[nearest] - target).reshape(len(rows), -1).mean(axis=1))
        of_image = np.concatenate(errors)
        return {
            "patch_vq_psnr": float(np.mean(psnr_from_mse(of_image))),
            "patch_vq_mse": float(np.mean(of_image)),
            "patch_vq_codes_used": float(np.sum(used) / self.codes),
        }

    def warnings(self, metrics: Mapping[str, float], scalars: Mapping[str, float]) -> list[str]:
        """Says so when most of the codebook is not used."""
        del scalars
        if metrics["codes_used"] >= _FEW:
            return []
        return [
            f"{metrics['codes_used']:.1%} of the codes are used: the others carry nothing; try a "
            "larger restart_below, a smaller codebook_size or a smaller learning_rate"
        ]

    @functools.partial(jit, static_argnums=0)
    def _reconstruct(self, state: TrainState, batch: Batch) -> tuple[jax.Array, jax.Array]:
        """The batch's reconstructions and codes."""
        images = images_in_unit_range(batch["image"])
        variables = state.inference_variables()
        (output, _, indices), _ = apply_model(
            self.model, variables, images, train=False, precision=self.precision
        )
        return output, indices

    @functools.partial(jit, static_argnums=0)
    def _sums(self, state: TrainState, batch: Batch) -> dict[str, jax.Array]:
        images = images_in_unit_range(batch["image"])
        output, indices = self._reconstruct(state, batch)
        measures = {"psnr": psnr(output, images), "mse": mean_squared_error(output, images)}
        codes = self._counts(indices, batch["mask"])
        return masked_sums(measures, batch["mask"]) | {"codes": codes}


def kmeans_patches(patches: np.ndarray, count: int, random: np.random.Generator) -> np.ndarray:
    """Centres of patches by k-means from random different patches.

    Args:
      patches: (number, pixels of a patch).
      count: of centres.
      random: what chooses the first centres.

    Returns:
      (count, pixels of a patch), or all different patches where there are no more than `count`.
    """
    different = np.unique(patches, axis=0)
    if len(different) <= count:
        return different
    start = different[random.choice(len(different), count, replace=False)]
    with warnings.catch_warnings():
        # A centre that no patch is nearest to stays where it was, and is counted as unused.
        warnings.filterwarnings("ignore", "One of the clusters is empty", UserWarning)
        return kmeans2(patches, start, iter=_ROUNDS, minit="matrix")[0]


def _patches(images: np.ndarray, size: int) -> np.ndarray:
    """Images (count, height, width, channels) cut into squares, each a row, image by image."""
    count, height, width, channels = images.shape
    cut = images.reshape(count, height // size, size, width // size, size, channels)
    return cut.transpose(0, 1, 3, 2, 4, 5).reshape(-1, size * size * channels)
