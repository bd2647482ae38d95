"""Adversarial losses, and penalties on the discriminator's gradient.

The discriminator D returns logits; s is the logistic function, x a real and G a generated image. Each
network minimizes:

| name | discriminator | generator |
|---|---|---|
| minimax | -log s(D(x)) - log(1 - s(D(G))) | log(1 - s(D(G))) |
| non_saturating | the same | -log s(D(G)) |
| least_squares | ((D(x) - 1)^2 + D(G)^2) / 2 | (D(G) - 1)^2 / 2 |
| hinge | max(0, 1 - D(x)) + max(0, 1 + D(G)) | -D(G) |
| wasserstein | D(G) - D(x) | -D(G) |

Sources: Goodfellow et al., arXiv:1406.2661 (minimax and non_saturating); Mao et al., arXiv:1611.04076,
equation 9; Lim & Ye, arXiv:1705.02894; Arjovsky et al., arXiv:1701.07875. The Wasserstein loss requires a
Lipschitz-bounded discriminator, here by a penalty or spectral normalization.

Note: Papers call both minimax and non_saturating "the GAN loss".
"""

import dataclasses
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
from jax.nn import relu, softplus

from deconv_jax.errors import InputError
from deconv_jax.ops.collectives import mean_over_devices

LossName = Literal["minimax", "non_saturating", "least_squares", "hinge", "wasserstein"]
Logits = jax.Array
Discriminator = Callable[[jax.Array], jax.Array]
"""Images (batch, height, width, channels) -> logits (batch,)."""


@dataclasses.dataclass(frozen=True)
class AdversarialLoss:
    """The per-example losses of both networks; all arrays have shape (batch,).

    Attributes:
      on_real: Discriminator loss as a function of its logits of real images.
      on_fake: Discriminator loss as a function of its logits of generated images.
      generator: Generator loss as a function of the logits of generated images.
      boundary: Logit between "real" and "generated"; None if only differences of logits have a
        meaning.
      relativistic: Whether both losses compare each logit with the mean logit of the other images;
        see `relativistic_average`.
    """

    on_real: Callable[[Logits], jax.Array]
    on_fake: Callable[[Logits], jax.Array]
    generator: Callable[[Logits], jax.Array]
    boundary: float | None = 0.0
    relativistic: bool = False

    def discriminator(self, real: Logits, fake: Logits) -> jax.Array:
        """Return the discriminator's loss, a scalar: mean over real plus mean over generated images."""
        if self.relativistic:
            real, fake = _relative(real, fake)
        return jnp.mean(self.on_real(real)) + jnp.mean(self.on_fake(fake))

    def for_generator(self, real: Logits | None, fake: Logits) -> jax.Array:
        """Return the generator's loss, a scalar.

        Args:
          real: Logits of real images, which only a relativistic loss requires.
          fake: Logits of generated images.
        """
        if not self.relativistic:
            return jnp.mean(self.generator(fake))
        assert real is not None, "a relativistic loss depends on the real images"
        real, fake = _relative(real, fake)
        return jnp.mean(self.on_fake(real)) + jnp.mean(self.on_real(fake))

    def accuracies(self, real: Logits, fake: Logits) -> tuple[jax.Array, jax.Array]:
        """Return the fractions of real and of generated images on the right side of the boundary.

        Without a boundary, the threshold is the mean of the two mean logits.
        """
        middle = mean_over_devices(0.5 * (jnp.mean(real) + jnp.mean(fake)))
        boundary = middle if self.boundary is None else self.boundary
        return jnp.mean(real > boundary), jnp.mean(fake < boundary)


def _relative(real: Logits, fake: Logits) -> tuple[Logits, Logits]:
    """Subtract from each logit the mean logit of the other kind of images."""
    means = mean_over_devices((jnp.mean(real), jnp.mean(fake)))
    return real - means[1], fake - means[0]


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
"""The losses by name."""


RELATIVISTIC: tuple[LossName, ...] = ("non_saturating", "hinge")
"""Losses with a relativistic form."""


def relativistic_average(name: LossName) -> AdversarialLoss:
    """Return the relativistic average form of a loss (Jolicoeur-Martineau, arXiv:1807.00734).

    The discriminator judges how much more real an image is than the mean image of the other kind: its
    logits become D(x) - E D(G) and D(G) - E D(x). The generator minimizes the same loss with the two
    kinds exchanged. That of "non_saturating" is equations 1 and 2 of ESRGAN (arXiv:1809.00219).

    Raises:
      InputError: The loss is none of `RELATIVISTIC`.
    """
    if name not in RELATIVISTIC:
        raise InputError(
            f"the relativistic form requires the loss {' or '.join(map(repr, RELATIVISTIC))}; got {name!r}"
        )
    return dataclasses.replace(LOSSES[name], boundary=None, relativistic=True)


def squared_gradient_norms(discriminator: Discriminator, images: jax.Array) -> jax.Array:
    """Return the squared norm of each logit's gradient with respect to its image, of shape (batch,).

    The gradient is that with respect to an image in [-1, 1], as in the papers, although `images` are
    in [0, 1].

    Note: The gradient is computed from the sum of all logits. With batch norm it therefore includes
    the dependence of a logit on the other images of the batch.
    """
    gradients = jax.grad(lambda x: jnp.sum(discriminator(x)))(images)
    return jnp.sum(jnp.square(0.5 * gradients), axis=(1, 2, 3))


def r1_penalty(discriminator: Discriminator, real: jax.Array) -> jax.Array:
    """Compute E |grad D(x)|^2 / 2 on real images (Mescheder et al., arXiv:1801.04406, equation 9)."""
    return 0.5 * jnp.mean(squared_gradient_norms(discriminator, real))


def gradient_penalty(
    discriminator: Discriminator, real: jax.Array, fake: jax.Array, position: jax.Array
) -> jax.Array:
    """Compute E (|grad D(x)| - 1)^2 between real and generated images.

    Gulrajani et al., arXiv:1704.00028, equation 3.

    Args:
      discriminator: Discriminator without batch norm.
      real: Real images (batch, height, width, channels) in [0, 1].
      fake: Generated images of the same shape.
      position: Interpolation weight of each real image (batch,), uniform in [0, 1].
    """
    position = position[:, None, None, None]
    between = position * real + (1.0 - position) * fake
    # The offset avoids the infinite derivative of the square root at zero.
    norms = jnp.sqrt(squared_gradient_norms(discriminator, between) + 1e-12)
    return jnp.mean(jnp.square(norms - 1.0))
