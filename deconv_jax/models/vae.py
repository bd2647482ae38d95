"""Convolutional variational autoencoder (VAE, Kingma & Welling, arXiv:1312.6114).

The prior is N(0, I), and the encoder's q(z|x) is N(mean, diag(exp(log variance))). There are three
likelihoods p(x|z):

- "bernoulli": the binary cross-entropy. It is a log-likelihood only for images of zeros and ones.
- "gaussian": a density over images in [0, 1].
- "discretized_logistic": a probability mass over 8-bit levels (Salimans et al., arXiv:1701.05517,
  equations 1 and 2 with one component).

A conditional VAE (Sohn et al., "Learning structured output representation using deep conditional generative
models", NeurIPS 2015) models p(x|y) for a given image y, such as x with a hole: encoder and decoder see y, too.
The prior of the latents does not depend on y, which is section 4.1's restriction p(z|y) = p(z).

Note: Values of different likelihoods are not comparable.
"""

from typing import Any, ClassVar, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from deconv_jax.errors import InputError
from deconv_jax.models.autoencoder import Down, EncoderDecoder
from deconv_jax.models.layers import Dense

Images = Float[Array, "batch height width channels"]
Likelihood = Literal["bernoulli", "gaussian", "discretized_logistic"]

_INITIAL_SCALE = 0.1
"""Initial scale of the Gaussian and the logistic likelihood, for images in [0, 1]."""
_MAX_LEVEL = 255


class VAE(EncoderDecoder):
    """A convolutional variational autoencoder.

    Attributes:
      likelihood: Likelihood of an image given its latents: "bernoulli" (binary cross-entropy),
        "gaussian" (a density, with a learned standard deviation for each channel) or
        "discretized_logistic" (a probability of 8-bit levels, with a learned scale per channel).
      conditional: Whether the model is one of p(x|y). Every method then requires the condition y, images of the
        shape `image_shape`. A second encoder passes it to the decoder as `latent_dim` numbers beside the latents.
      Others: See `EncoderDecoder` (image_shape, features, latent, latent_dim, kernel_size, stride,
        residual_blocks, norm, activation and remat); `latent` must be "vector".
    """

    likelihood: Likelihood = "bernoulli"
    conditional: bool = False

    outputs_per_latent: ClassVar[int] = 2

    def setup(self) -> None:
        """Define the stages, and the scale unless the likelihood is "bernoulli".

        Raises:
          InputError: `latent` is not "vector", another attribute is out of range, or the total
            stride does not divide `image_shape`.
        """
        if self.latent != "vector":
            raise InputError(f"a VAE requires latent='vector'; got {self.latent!r}")
        super().setup()
        if self.conditional:
            self.condition_down = [self._stage(Down, f) for f in self.features]
            self.from_condition = Dense(self.latent_dim)
        if self.likelihood != "bernoulli":
            init = nn.initializers.constant(jnp.log(_INITIAL_SCALE))
            self.log_scale: Any = self.param("log_scale", init, (self.image_shape[-1],))

    def encode(
        self, images: Images, condition: Images | None = None, train: bool = False
    ) -> tuple[Float[Array, "batch latent_dim"], Float[Array, "batch latent_dim"]]:
        """Return the mean and log variance of q(z|x), or of q(z|x, y), for images in [0, 1].

        Raises:
          InputError: The images do not have the shape `image_shape`, or the condition is missing or not wanted.
        """
        self._check_condition(condition)
        mean, log_variance = jnp.split(self._encoded(images, train, condition), 2, axis=-1)
        return mean, log_variance

    def decode(
        self,
        latents: Float[Array, "batch latent_dim"],
        condition: Images | None = None,
        train: bool = False,
    ) -> Images:
        """Return the mean of p(x|z), or the location of a discretized logistic, in [0, 1].

        Raises:
          InputError: The condition is missing or not wanted.
        """
        return jax.nn.sigmoid(self._decoded(latents, condition, train))

    def log_likelihood(
        self,
        images: Images,
        latents: Float[Array, "batch latent_dim"],
        condition: Images | None = None,
        train: bool = False,
    ) -> Float[Array, " batch"]:
        """Return log p(x|z) of each image in nats, summed over pixels, always computed in float32.

        Args:
          images: Images in [0, 1]; of zeros and ones for "bernoulli", of 8-bit levels over 255 for
            "discretized_logistic" (not checked).
          latents: Latent of each image.
          condition: Condition of each image, for a conditional model.
          train: Whether batch norm uses and updates the statistics of the batch.

        Raises:
          InputError: The condition is missing or not wanted.
        """
        x = images.astype(jnp.float32)
        logits = self._decoded(latents, condition, train).astype(jnp.float32)
        if self.likelihood == "bernoulli":
            values = x * jax.nn.log_sigmoid(logits) + (1 - x) * jax.nn.log_sigmoid(-logits)
        else:
            log_scale = self.log_scale.astype(jnp.float32).reshape(1, 1, 1, -1)
            log_probability = (
                _log_normal if self.likelihood == "gaussian" else _log_discretized_logistic
            )
            values = log_probability(x, jax.nn.sigmoid(logits), log_scale)
        return jnp.sum(values, axis=(1, 2, 3))

    def __call__(
        self,
        images: Images,
        noise: Float[Array, "batch latent_dim"],
        condition: Images | None = None,
        train: bool = False,
    ) -> tuple[
        Float[Array, " batch"],
        Float[Array, "batch latent_dim"],
        Float[Array, "batch latent_dim"],
    ]:
        """Return log p(x|z) at a sample z, and the mean and log variance of q(z|x).

        Args:
          images: Images in [0, 1].
          noise: Standard normal noise of the reparameterization z = mean + exp(log variance / 2) *
            noise.
          condition: Condition of each image, for a conditional model.
          train: Whether batch norm uses and updates the statistics of the batch.

        Raises:
          InputError: The images do not have the shape `image_shape`, or the condition is missing or not wanted.
        """
        mean, log_variance = self.encode(images, condition, train)
        latents = mean + jnp.exp(0.5 * log_variance) * noise
        return self.log_likelihood(images, latents, condition, train), mean, log_variance

    def _decoded(self, latents: Array, condition: Images | None, train: bool) -> Images:
        """Return the logits of latents, which the code of the condition follows, if any."""
        self._check_condition(condition)
        if condition is None:
            return self._logits(latents, train)
        x = condition
        for stage in self.condition_down:
            x = stage(x, train)
        code = self.from_condition(x.reshape(x.shape[0], -1))
        return self._logits(jnp.concatenate([latents, code], axis=-1), train)

    def _check_condition(self, condition: Images | None) -> None:
        if (condition is not None) != self.conditional:
            raise InputError(
                f"a VAE with conditional={self.conditional} "
                + ("requires a condition" if self.conditional else "takes no condition")
            )
        if condition is not None and condition.shape[1:] != self.image_shape:
            raise InputError(
                f"the condition must have the shape {self.image_shape}; got {condition.shape[1:]}"
            )


def gaussian_kl(
    mean: Float[Array, "*batch latent_dim"], log_variance: Float[Array, "*batch latent_dim"]
) -> Float[Array, "*batch latent_dim"]:
    """Return KL(N(mean, exp(log variance)) || N(0, 1)) of each latent entry, in nats, not summed.

    See arXiv:1312.6114, appendix B.
    """
    return 0.5 * (jnp.exp(log_variance) + jnp.square(mean) - 1.0 - log_variance)


def _log_normal(x: Array, mean: Array, log_scale: Array) -> Array:
    return -0.5 * (
        jnp.square((x - mean) * jnp.exp(-log_scale)) + 2.0 * log_scale + jnp.log(2.0 * jnp.pi)
    )


def _log_discretized_logistic(x: Array, mean: Array, log_scale: Array) -> Array:
    """Return the log probability of the 8-bit level of x; the end levels include the tails."""
    half = 0.5 / _MAX_LEVEL
    inverse = jnp.exp(-log_scale)
    upper, lower = (x - mean + half) * inverse, (x - mean - half) * inverse
    # sigmoid(u) - sigmoid(l) = sigmoid(u) sigmoid(-l) (1 - exp(l - u)), without cancellation.
    width = 2.0 * half * inverse
    inside = jax.nn.log_sigmoid(upper) + jax.nn.log_sigmoid(-lower) + jnp.log(-jnp.expm1(-width))
    below, above = jax.nn.log_sigmoid(upper), jax.nn.log_sigmoid(-lower)
    return jnp.where(x < half, below, jnp.where(x > 1.0 - half, above, inside))
