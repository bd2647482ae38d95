"""Autoencoding: learn to pass images through a small code with the least squared error.

The measure is PSNR beside that of principal component analysis with a code of the same size, which
is the best that any *linear* autoencoder can reach (Baldi & Hornik, 1989).
"""

import dataclasses
import functools
from collections.abc import Iterable
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from deconv_jax.data.sources import Source
from deconv_jax.metrics.image import mean_squared_error, psnr
from deconv_jax.metrics.mean import masked_sums, mean_over
from deconv_jax.training.logging import picture_grid
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
from deconv_jax.training.task import Batch, Task


@dataclasses.dataclass(frozen=True)
class Autoencoding(Task):
    """Autoencoder of images in [0, 1] with mean squared error.

    Attributes:
      model: maps images in [0, 1] to images in [0, 1].
      optimizer, precision: see `Optimizer` and `apply_model`.
    """

    model: nn.Module
    optimizer: Optimizer
    precision: Precision = "f32"

    monitor: ClassVar[str] = "psnr"
    protocol: ClassVar[str] = (
        "PSNR in dB of 8-bit images scaled to [0, 1], reconstruction not rounded, whole image, "
        "mean over images of each image's PSNR; mse is the mean over all pixels"
    )

    def init(self, key: jax.Array, batch: Batch) -> TrainState:
        """A state for images of the batch's shape."""
        return init_state(self.model, self.optimizer, key, batch["image"])

    def train_step(self, state: TrainState, batch: Batch) -> tuple[TrainState, Scalars]:
        """One descent of the batch's mean squared error."""

        def loss(variables: Any, batch: Batch) -> Any:
            images = images_in_unit_range(batch["image"])
            output, stats = apply_model(
                self.model, variables, images, train=True, precision=self.precision
            )
            return jnp.mean(mean_squared_error(output, images)), ({}, stats)

        return gradient_step(state, batch, loss, self.optimizer)

    def evaluate(self, state: TrainState, batches: Iterable[Batch]) -> dict[str, float]:
        """Gives "psnr" (dB) and "mse", means over images."""
        return mean_over(batches, functools.partial(self._sums, state))

    def pictures(self, state: TrainState, batch: Batch) -> dict[str, Image.Image]:
        """Under "reconstructions": originals above their reconstructions."""
        output = self._reconstruct(state, batch)
        return {
            "reconstructions": picture_grid(
                {"original": np.asarray(batch["image"]), "reconstruction": np.asarray(output)}
            )
        }

    def baseline(self, train: Source, test: Source) -> dict[str, float]:
        """Gives "pca_psnr" (dB) and "pca_mse" with as many components as the model's code has numbers."""
        images = train.gather(np.arange(len(train)))["image"]
        code = jax.eval_shape(
            lambda images: self.model.init_with_output(jax.random.key(0), images, method="encode")[
                0
            ],
            jax.ShapeDtypeStruct((1, *images.shape[1:]), jnp.float32),
        )
        targets = test.gather(np.arange(len(test)))["image"] / 255.0
        output = pca_reconstruction(images / 255.0, targets, int(np.prod(code.shape)))
        errors = np.mean(np.square(output - targets), axis=(1, 2, 3))
        with np.errstate(divide="ignore"):  # An exact projection has an infinite PSNR.
            decibels = -10 * np.log10(errors)
        return {
            "pca_psnr": float(np.mean(decibels)),
            "pca_mse": float(np.mean(errors)),
        }

    @functools.partial(jax.jit, static_argnums=0)
    def _reconstruct(self, state: TrainState, batch: Batch) -> jax.Array:
        images = images_in_unit_range(batch["image"])
        variables = state.inference_variables()
        return apply_model(self.model, variables, images, train=False, precision=self.precision)[0]

    @functools.partial(jax.jit, static_argnums=0)
    def _sums(self, state: TrainState, batch: Batch) -> dict[str, jax.Array]:
        images = images_in_unit_range(batch["image"])
        output = self._reconstruct(state, batch)
        measures = {"psnr": psnr(output, images), "mse": mean_squared_error(output, images)}
        return masked_sums(measures, batch["mask"])


def pca_reconstruction(train: np.ndarray, images: np.ndarray, components: int) -> np.ndarray:
    """Projects images on the first principal components of others, in double precision.

    Args:
      train: (count, height, width, channels), what the components are fitted to.
      images: (other count, height, width, channels).
      components: size of the code.

    Returns:
      The projections, of `images`' shape, clipped to [0, 1].
    """
    rows = train.reshape(len(train), -1).astype(np.float64)
    mean = rows.mean(axis=0)
    _, vectors = np.linalg.eigh((rows - mean).T @ (rows - mean))
    basis = vectors[:, ::-1][:, :components]
    flat = images.reshape(len(images), -1) - mean
    return np.clip(flat @ basis @ basis.T + mean, 0.0, 1.0).reshape(images.shape)
