"""Adversarial losses and the penalties on a discriminator's gradient.

A discriminator gives logits; each loss says what it is to minimise on real and generated images and
what the generator is to minimise on generated ones:

| name | discriminator | generator |
|---|---|---|
| minimax | -log s(D(x)) - log(1 - s(D(G))) | log(1 - s(D(G))) |
| non_saturating | the same | -log s(D(G)) |
| least_squares | ((D(x) - 1)^2 + D(G)^2) / 2 | (D(G) - 1)^2 / 2 |
| hinge | max(0, 1 - D(x)) + max(0, 1 + D(G)) | -D(G) |
| wasserstein | D(G) - D(x) | -D(G) |

with s the logistic function: Goodfellow et al., arXiv:1406.2661 (both of the first; what a reader
would get wrong is which is meant by "the GAN loss"); Mao et al., arXiv:1611.04076, equation 9;
Lim & Ye, arXiv:1705.02894; Arjovsky et al., arXiv:1701.07875, whose discriminator has to be kept
Lipschitz, by a penalty here.
"""

import dataclasses
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
from jax.nn import relu, softplus

from deconv_jax.ops.collectives import mean_over_devices

LossName = Literal["minimax", "non_saturating", "least_squares", "hinge", "wasserstein"]
Logits = jax.Array
Discriminator = Callable[[jax.Array], jax.Array]
"""Images (batch, height, width, channels) -> logits (batch,)."""


@dataclasses.dataclass(frozen=True)
class AdversarialLoss:
    """What either side minimises, an example each; all arrays (batch,).

    Attributes:
      on_real: the discriminator's, of its logits of real images.
      on_fake: the discriminator's, of its logits of generated images.
      generator: the generator's, of the same.
      boundary: the logit between "real" and "generated"; None where only differences mean something.
    """

    on_real: Callable[[Logits], jax.Array]
    on_fake: Callable[[Logits], jax.Array]
    generator: Callable[[Logits], jax.Array]
    boundary: float | None = 0.0

    def discriminator(self, real: Logits, fake: Logits) -> jax.Array:
        """The discriminator's loss, a scalar."""
        return jnp.mean(self.on_real(real)) + jnp.mean(self.on_fake(fake))

    def accuracies(self, real: Logits, fake: Logits) -> tuple[jax.Array, jax.Array]:
        """The share of each that is told right; without a boundary, by the mean of all logits."""
        middle = mean_over_devices(0.5 * (jnp.mean(real) + jnp.mean(fake)))
        boundary = middle if self.boundary is None else self.boundary
        return jnp.mean(real > boundary), jnp.mean(fake < boundary)


def _negative(logits: Logits) -> jax.Array:
    return -logits


LOSSES: dict[LossName, AdversarialLoss] = {
    "minimax": AdversarialLoss(
        lambda real: softplus(-real), softplus, lambda fake: -softplus(fake)
    ),
    "non_saturating": AdversarialLoss(
        lambda real: softplus(-real), softplus, lambda fake: softplus(-fake)
    ),
    "least_squares": AdversarialLoss(
        lambda real: 0.5 * (real - 1.0) ** 2,
        lambda fake: 0.5 * fake**2,
        lambda fake: 0.5 * (fake - 1.0) ** 2,
        boundary=0.5,
    ),
    "hinge": AdversarialLoss(
        lambda real: relu(1.0 - real), lambda fake: relu(1.0 + fake), _negative
    ),
    "wasserstein": AdversarialLoss(_negative, lambda fake: fake, _negative, boundary=None),
}


def squared_gradient_norms(discriminator: Discriminator, images: jax.Array) -> jax.Array:
    """The squared norm of each logit's gradient by its own image, (batch,).

    By an image in [-1, 1], as in the papers, though those given are in [0, 1]. Batch norm makes a
    logit depend on the other images of the batch as well: of the sum of all logits, whose gradient
    this is, that is then a part.
    """
    gradients = jax.grad(lambda x: jnp.sum(discriminator(x)))(images)
    return jnp.sum(jnp.square(0.5 * gradients), axis=(1, 2, 3))


def r1_penalty(discriminator: Discriminator, real: jax.Array) -> jax.Array:
    """E |grad D(x)|^2 / 2 on real images (Mescheder et al., arXiv:1801.04406, equation 9)."""
    return 0.5 * jnp.mean(squared_gradient_norms(discriminator, real))


def gradient_penalty(
    discriminator: Discriminator, real: jax.Array, fake: jax.Array, position: jax.Array
) -> jax.Array:
    """E (|grad D(x)| - 1)^2 between pairs of images (Gulrajani et al., arXiv:1704.00028, equation 3).

    Args:
      discriminator: without batch norm.
      real, fake: (batch, height, width, channels), in [0, 1].
      position: (batch,), uniform in [0, 1]: how far from the generated to the real one.
    """
    position = position[:, None, None, None]
    between = position * real + (1.0 - position) * fake
    # The derivative of a root at zero is infinite.
    norms = jnp.sqrt(squared_gradient_norms(discriminator, between) + 1e-12)
    return jnp.mean(jnp.square(norms - 1.0))
