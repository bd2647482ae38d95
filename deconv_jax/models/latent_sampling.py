"""Sampling and interpolation of a generator's latents, which are standard normal vectors."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from deconv_jax.errors import InputError


def draw_latents(
    keys: Key[Array, " batch"], latent_dim: int, truncation: float | None = None
) -> Float[Array, "batch latent_dim"]:
    """Sample standard normal latents, one for each key.

    Args:
      keys: PRNG key of each latent.
      latent_dim: Length of a latent.
      truncation: None for no truncation, or the bound of the absolute value of a truncated normal
        distribution (the truncation trick, Brock et al., arXiv:1809.11096, section 3.1). Lower
        values give less diverse and more typical images. Below about 0.8, generators with batch
        norm degrade, because their running statistics are those of untruncated latents.

    Raises:
      InputError: The truncation is not positive.
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
    """Interpolate latents on a great circle (White, arXiv:1609.04468, section 2.1).

    The vectors on a straight line between standard normal vectors are shorter than the generator's
    training latents. Here the length changes linearly.

    Args:
      start: First latent.
      end: Latent that the path approaches.
      steps: Number of latents, from `start` to one step before `end`, which is not included.
    """
    lengths = jnp.linalg.norm(start), jnp.linalg.norm(end)
    first, last = (_divide(v, n) for v, n in zip((start, end), lengths, strict=True))
    # Orthogonalized twice, because rounding errors dominate the first result for nearly opposite
    # vectors.
    across = _reject(_reject(last, first), first)
    height = jnp.linalg.norm(across)
    # For exactly opposite vectors the great circle is not unique; choose one.
    other = _reject(jax.nn.one_hot(jnp.argmin(jnp.abs(first)), len(first)), first)
    across = jnp.where(height > 0, across, other)
    angle = jnp.arctan2(height, jnp.dot(first, last))
    fraction = (jnp.arange(steps) / steps)[:, None]
    direction = jnp.cos(fraction * angle) * first[None]
    direction += jnp.sin(fraction * angle) * _divide(across, jnp.linalg.norm(across))[None]
    return ((1 - fraction) * lengths[0] + fraction * lengths[1]) * direction


def _reject(vector: Array, direction: Array) -> Array:
    """Return the component orthogonal to a unit vector."""
    return vector - jnp.dot(direction, vector) * direction


def _divide(vector: Array, length: Array) -> Array:
    return vector / jnp.maximum(length, 1e-12)
