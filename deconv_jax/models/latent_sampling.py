"""Latents, the standard normal vectors that a generator makes images of: drawing them, walking between them."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from deconv_jax.errors import InputError


def draw_latents(
    keys: Key[Array, " batch"], latent_dim: int, truncation: float | None = None
) -> Float[Array, "batch latent_dim"]:
    """Standard normal latents, one a key.

    Args:
      keys: a key each, so that a latent depends on no other.
      latent_dim: numbers in each.
      truncation: numbers are drawn from the part of the distribution between plus and minus it (the
        truncation trick of Brock et al., arXiv:1809.11096, section 3.1): the lower, the less diverse
        the images; and the more typical, down to where a generator with batch norm, whose statistics
        are of whole latents, no longer knows them: below some 0.8 its images fade.

    Raises:
      InputError: a truncation that is not positive.
    """
    if truncation is not None and not truncation > 0:
        raise InputError(f"truncation must be positive; got {truncation}")

    def draw(key: Array) -> Array:
        if truncation is None:
            return jax.random.normal(key, (latent_dim,))
        return jax.random.truncated_normal(key, -truncation, truncation, (latent_dim,))

    return jax.vmap(draw)(keys)


def interpolate_latents(
    start: Float[Array, "dims"], end: Float[Array, "dims"], steps: int
) -> Float[Array, "steps dims"]:
    """Latents from `start` to just before `end` on a great circle (White, arXiv:1609.04468, section 2.1).

    Between standard normal vectors the straight line passes through shorter ones, which a generator
    has never seen. Here the length goes evenly from one to the other.
    """
    lengths = jnp.linalg.norm(start), jnp.linalg.norm(end)
    first, last = (_divided(v, n) for v, n in zip((start, end), lengths, strict=True))
    # Twice, as of nearly opposite vectors rounding leaves as much along the first as across it.
    across = _rejected(_rejected(last, first), first)
    height = jnp.linalg.norm(across)
    # Exactly opposite ones have no one way round: any will do.
    aside = _rejected(jax.nn.one_hot(jnp.argmin(jnp.abs(first)), len(first)), first)
    across = jnp.where(height > 0, across, aside)
    angle = jnp.arctan2(height, jnp.dot(first, last))
    along = (jnp.arange(steps) / steps)[:, None]
    turned = jnp.cos(along * angle) * first[None]
    turned += jnp.sin(along * angle) * _divided(across, jnp.linalg.norm(across))[None]
    return ((1 - along) * lengths[0] + along * lengths[1]) * turned


def _rejected(vector: Array, direction: Array) -> Array:
    """Its part perpendicular to a direction of length 1."""
    return vector - jnp.dot(direction, vector) * direction


def _divided(vector: Array, length: Array) -> Array:
    return vector / jnp.maximum(length, 1e-12)
