"""Vector-quantised autoencoder (van den Oord et al., arXiv:1711.00937): the code is a map of whole numbers.

Each output of the encoder is replaced by the nearest of a codebook's vectors, and the gradient of what
replaces it is passed straight through to it (section 3.2). What a reader would get wrong: the codebook has no
gradient. Its vectors are running means of the outputs that were nearest to them (appendix A.1), so they
are variables of the collection "batch_stats" and move in every call with `train`, at a learning rate of
zero too.
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
"""Added to each code's usage, in units of the mean one (1e-5 vectors in DeepMind's Sonnet)."""


class Codebook(nn.Module):
    """Vectors that follow the means of what is nearest to them; numbers are float32 throughout.

    Restarts are drawn by a key of their own, whatever a run's seed. Its variables are `vectors`
    (size, dim); `usage` (size,), the running mean of the share of positions that a code is nearest to,
    times `size`, so that 1 is its fair share; `sums` (size, dim), that of the sum of the outputs there, in
    the same units; and `updates`, which counts them.

    Attributes:
      size: number of codes.
      dim: numbers in each vector.
      decay: of the running means, gamma of appendix A.1 of arXiv:1711.00937.
      restart_below: a code of less usage is dead and starts anew at an output of the encoder
        ("random restarts", Dhariwal et al., arXiv:2005.00341) with just this usage: a place where it
        is not needed is given up at the next update.
    """

    size: int
    dim: int
    decay: float
    restart_below: float

    def setup(self) -> None:
        """Lays out the variables: all zero until the first update, at which most codes are dead."""

        def zeros(name: str, *shape: int, dtype: Any = jnp.float32) -> nn.Variable:
            return self.variable("batch_stats", name, jnp.zeros, shape, dtype)

        self.vectors = zeros("vectors", self.size, self.dim)
        self.usage = zeros("usage", self.size)
        self.sums = zeros("sums", self.size, self.dim)
        self.updates = zeros("updates", dtype=jnp.int32)

    def nearest(self, outputs: Float[Array, "*shape dim"]) -> Int32[Array, "*shape"]:
        """The code at the least squared distance from each output, the first of equals."""
        vectors = self.vectors.value
        inner = _product(outputs.astype(jnp.float32), vectors.T)
        squares = jnp.sum(jnp.square(vectors), axis=-1).reshape((1,) * (inner.ndim - 1) + (-1,))
        # |z - e|^2 without |z|^2, which is the same for every e.
        return jnp.argmin(squares - 2 * inner, axis=-1).astype(jnp.int32)

    def lookup(self, indices: Int[Array, "*shape"]) -> Float[Array, "*shape dim"]:
        """The vectors of codes, each from 0 to size - 1."""
        return self.vectors.value[indices]

    def update(
        self, outputs: Float[Array, "positions dim"], indices: Int32[Array, " positions"]
    ) -> None:
        """Moves the codebook: the running means of arXiv:1711.00937, appendix A.1, then restarts.

        Args:
          outputs: of the encoder.
          indices: the code nearest to each.
        """
        outputs = jax.lax.stop_gradient(outputs).astype(jnp.float32)
        nearest = jax.nn.one_hot(indices, self.size)
        share = self.size / len(outputs)
        now = (share * jnp.sum(nearest, axis=0), share * _product(nearest.T, outputs))
        usage, sums = jax.tree.map(
            lambda old, new: self.decay * old + (1 - self.decay) * new,
            (self.usage.value, self.sums.value),
            mean_over_devices(now),
        )
        total = jnp.sum(usage)
        smoothed = (usage + _SMOOTHING) * total / (total + self.size * _SMOOTHING)

        dead = usage < self.restart_below
        everywhere = gather_over_devices(outputs)
        # Drawn, as evenly spaced places fall on the same few of an image; the same on every device.
        key = jax.random.fold_in(jax.random.key(0), self.updates.value)
        fresh = everywhere[jax.random.randint(key, (self.size,), 0, len(everywhere))]
        self.vectors.value = jnp.where(dead[:, None], fresh, sums / smoothed[:, None])
        self.usage.value = jnp.where(dead, self.restart_below, usage)
        self.sums.value = jnp.where(dead[:, None], self.restart_below * fresh, sums)
        self.updates.value += 1


class VQVAE(EncoderDecoder):
    """Convolutional autoencoder whose code is a map of indices into a codebook.

    Attributes:
      codebook_size: number of codes.
      codebook_decay, restart_below: see `Codebook`.
      Others: see `EncoderDecoder`; `latent` is "map".
    """

    latent: Literal["vector", "map"] = "map"
    codebook_size: int = 512
    codebook_decay: float = 0.99
    restart_below: float = 0.05

    def setup(self) -> None:
        """See `EncoderDecoder.setup`; raises InputError for settings that fit no codebook."""
        if self.latent != "map":
            raise InputError(f'a VQVAE has latent="map"; got {self.latent!r}')
        at_least("codebook_size", self.codebook_size, 2)
        if not 0 <= self.codebook_decay < 1:
            raise InputError(f"codebook_decay must be in [0, 1); got {self.codebook_decay}")
        if not 0 < self.restart_below < 1:
            raise InputError(
                f"restart_below is a share of the mean usage, in (0, 1); got {self.restart_below}"
            )
        super().setup()
        self.codebook = Codebook(
            self.codebook_size, self.latent_dim, self.codebook_decay, self.restart_below
        )

    def encode(self, images: Images, train: bool = False) -> Indices:
        """Images in [0, 1] to maps of codes at 1 / total stride of the resolution."""
        return self.codebook.nearest(self._encoded(images, train))

    def decode(self, indices: Indices, train: bool = False) -> Images:
        """Maps of codes, each from 0 to `codebook_size` - 1, to images in [0, 1]."""
        return jax.nn.sigmoid(self._logits(self.codebook.lookup(indices), train))

    def __call__(
        self, images: Images, train: bool = False
    ) -> tuple[Images, Float[Array, " batch"], Indices]:
        """Images in [0, 1] to reconstructions in [0, 1], distances to the codebook, and codes.

        Args:
          images: in [0, 1].
          train: whether the codebook is updated, after use; and see `Norm`.

        Returns:
          The reconstructions; of each image the mean square of the differences between the
          encoder's outputs and the vectors that replace them, the last term of equation 3; the
          codes.
        """
        outputs = self._encoded(images, train)
        indices = self.codebook.nearest(outputs)
        vectors = self.codebook.lookup(indices)
        wide = outputs.astype(jnp.float32)
        distance = jnp.mean(jnp.square(wide - vectors), axis=(1, 2, 3))
        if train:
            self.codebook.update(outputs.reshape(-1, self.latent_dim), indices.reshape(-1))
        quantised = straight_through(wide, vectors).astype(outputs.dtype)
        return jax.nn.sigmoid(self._logits(quantised, train)), distance, indices


def perplexity(counts: Float[Array, " codes"]) -> Float[Array, ""]:
    """exp of the entropy of how often each code is used: how many equally frequent ones that is."""
    return jnp.exp(jnp.sum(jax.scipy.special.entr(counts / jnp.sum(counts))))


def _product(a: Array, b: Array) -> Array:
    """a @ b in float32, also where a device's matrix units would round their inputs to less."""
    return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)
