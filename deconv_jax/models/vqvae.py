"""Vector-quantized autoencoder (VQ-VAE, van den Oord et al., arXiv:1711.00937).

Each encoder output is replaced by the nearest vector of a codebook, with a straight-through
gradient (section 3.2).

Note: The codebook has no gradient. Its vectors are exponential moving averages of the encoder
outputs assigned to them (appendix A.1). They are variables of the collection "batch_stats" and
change in every call with `train`, even at learning rate 0.
"""

from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Int32

from deconv_jax.errors import InputError, at_least
from deconv_jax.models.autoencoder import EncoderDecoder
from deconv_jax.ops.collectives import gather_over_devices, mean_over_devices
from deconv_jax.ops.straight_through import straight_through

Images = Float[Array, "batch height width channels"]
Indices = Int32[Array, "batch rows columns"]

_SMOOTHING = 1e-5
"""Laplace smoothing of the usage, relative to the mean usage (1e-5 counts in DeepMind's Sonnet)."""


class Codebook(nn.Module):
    """A codebook updated by exponential moving averages (EMA), in float32.

    Its variables are:

    - `vectors` (size, dim): the codes' vectors.
    - `usage` (size,): EMA of the fraction of outputs assigned to each code, times `size`; 1 is
      uniform usage.
    - `sums` (size, dim): EMA of the sum of the outputs assigned to each code, in the same units.
    - `updates` (): number of updates.

    Random restarts use a fixed PRNG key, independent of the run's seed.

    Attributes:
      size: Number of codes.
      dim: Length of each vector.
      decay: Decay of the moving averages, gamma of appendix A.1 of arXiv:1711.00937.
      restart_below: Usage below which a code is dead. Dead codes are re-initialized at random
        encoder outputs (random restarts, Dhariwal et al., arXiv:2005.00341) with this usage, so
        that a code that remains unused restarts again at the next update.
    """

    size: int
    dim: int
    decay: float
    restart_below: float

    def setup(self) -> None:
        """Define the variables, all zero until the first update.

        All vectors are then equal, so the first batch is assigned to code 0, and the update sets
        the other codes to random encoder outputs (restarts).
        """

        def zeros(name: str, *shape: int, dtype: Any = jnp.float32) -> nn.Variable:
            return self.variable("batch_stats", name, jnp.zeros, shape, dtype)

        self.vectors = zeros("vectors", self.size, self.dim)
        self.usage = zeros("usage", self.size)
        self.sums = zeros("sums", self.size, self.dim)
        self.updates = zeros("updates", dtype=jnp.int32)

    def nearest(self, outputs: Float[Array, "*shape dim"]) -> Int32[Array, "*shape"]:
        """Return the index of the nearest vector to each output; ties go to the lowest index."""
        vectors = self.vectors.value
        inner = _matmul(outputs.astype(jnp.float32), vectors.T)
        squares = jnp.sum(jnp.square(vectors), axis=-1).reshape((1,) * (inner.ndim - 1) + (-1,))
        # |z - e|^2 without |z|^2, which does not depend on e.
        return jnp.argmin(squares - 2 * inner, axis=-1).astype(jnp.int32)

    def lookup(self, indices: Int[Array, "*shape"]) -> Float[Array, "*shape dim"]:
        """Return the vectors of codes in 0..size - 1 (not checked)."""
        return self.vectors.value[indices]

    def update(
        self, outputs: Float[Array, "positions dim"], indices: Int32[Array, " positions"]
    ) -> None:
        """Update the averages (arXiv:1711.00937, appendix A.1), restart dead codes, count the update.

        Args:
          outputs: Encoder outputs.
          indices: Index of the nearest vector to each.
        """
        outputs = jax.lax.stop_gradient(outputs).astype(jnp.float32)
        assignment = jax.nn.one_hot(indices, self.size)
        unit = self.size / len(outputs)
        batch = (unit * jnp.sum(assignment, axis=0), unit * _matmul(assignment.T, outputs))
        usage, sums = jax.tree.map(
            lambda old, new: self.decay * old + (1 - self.decay) * new,
            (self.usage.value, self.sums.value),
            mean_over_devices(batch),
        )
        total = jnp.sum(usage)
        smoothed = (usage + _SMOOTHING) * total / (total + self.size * _SMOOTHING)

        dead = usage < self.restart_below
        all_outputs = gather_over_devices(outputs)
        # Random positions, because evenly spaced ones repeat the same few positions of the images.
        # The key, and so the choice, is the same on all devices.
        key = jax.random.fold_in(jax.random.key(0), self.updates.value)
        fresh = all_outputs[jax.random.randint(key, (self.size,), 0, len(all_outputs))]
        self.vectors.value = jnp.where(dead[:, None], fresh, sums / smoothed[:, None])
        self.usage.value = jnp.where(dead, self.restart_below, usage)
        self.sums.value = jnp.where(dead[:, None], self.restart_below * fresh, sums)
        self.updates.value += 1


class VQVAE(EncoderDecoder):
    """A convolutional autoencoder whose latent is a map of codebook indices.

    Attributes:
      latent: Kind of latent; must be "map".
      codebook_size: Number of codes, at least 2.
      codebook_decay: Decay of the codebook's moving averages, in [0, 1).
      restart_below: Usage, relative to the mean usage and in (0, 1), below which a code is
        re-initialized at a random encoder output.
      Others: See `EncoderDecoder` (image_shape, features, latent_dim, which is the length of a
        codebook vector, kernel_size, stride, residual_blocks, norm, activation and remat).
    """

    latent: Literal["vector", "map"] = "map"
    codebook_size: int = 512
    codebook_decay: float = 0.99
    restart_below: float = 0.05

    def setup(self) -> None:
        """Define the stages and the codebook.

        Raises:
          InputError: `latent` is not "map", another attribute is out of range, or the total stride
            does not divide `image_shape`.
        """
        if self.latent != "map":
            raise InputError(f"a VQVAE requires latent='map'; got {self.latent!r}")
        at_least("codebook_size", self.codebook_size, 2)
        if not 0 <= self.codebook_decay < 1:
            raise InputError(f"codebook_decay must be in [0, 1); got {self.codebook_decay}")
        if not 0 < self.restart_below < 1:
            raise InputError(
                f"restart_below must be a fraction of the mean usage in (0, 1); got {self.restart_below}"
            )
        super().setup()
        self.codebook = Codebook(
            self.codebook_size, self.latent_dim, self.codebook_decay, self.restart_below
        )

    def encode(self, images: Images, train: bool = False) -> Indices:
        """Encode images in [0, 1] to maps of indices at 1 / total stride of the resolution.

        The codebook is not updated, even with `train`.

        Raises:
          InputError: The images have other channels than `image_shape`, or sides that are not
            multiples of the total stride.
        """
        return self.codebook.nearest(self._encoded(images, train))

    def decode(self, indices: Indices, train: bool = False) -> Images:
        """Decode maps of indices in 0..codebook_size - 1 (not checked) to images in [0, 1]."""
        return jax.nn.sigmoid(self._logits(self.codebook.lookup(indices), train))

    def __call__(
        self, images: Images, train: bool = False
    ) -> tuple[Images, Float[Array, " batch"], Indices]:
        """Reconstruct images.

        Args:
          images: Images in [0, 1].
          train: Whether to update the codebook after quantization, and whether batch norm uses and
            updates the statistics of the batch.

        Returns:
          The reconstructions in [0, 1]; the commitment loss of each image, the mean squared
          difference of the encoder outputs and the vectors that replace them (last term of equation
          3); and the indices.

        Raises:
          InputError: The images do not fit the model, see `encode`.
        """
        outputs = self._encoded(images, train)
        indices = self.codebook.nearest(outputs)
        vectors = self.codebook.lookup(indices)
        wide = outputs.astype(jnp.float32)
        distance = jnp.mean(jnp.square(wide - vectors), axis=(1, 2, 3))
        if train:
            self.codebook.update(outputs.reshape(-1, self.latent_dim), indices.reshape(-1))
        quantized = straight_through(wide, vectors).astype(outputs.dtype)
        return jax.nn.sigmoid(self._logits(quantized, train)), distance, indices


def perplexity(counts: Float[Array, " codes"]) -> Float[Array, ""]:
    """Return the codebook perplexity: exp of the entropy of the code frequencies.

    It is 1 if only one code occurs, and the number of codes if all are equally frequent.

    Args:
      counts: Number of occurrences of each code; their sum must be positive.
    """
    return jnp.exp(jnp.sum(jax.scipy.special.entr(counts / jnp.sum(counts))))


def _matmul(a: Array, b: Array) -> Array:
    """Return a @ b in full float32 precision on every device."""
    return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)
