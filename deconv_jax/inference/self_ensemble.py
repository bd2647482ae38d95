"""Self-ensemble: the mean of what a network makes of an image turned and mirrored in all eight ways.

The "enhanced prediction" of Timofte et al. (arXiv:1511.02228, section 3.5), known as the "+" of
EDSR+ (arXiv:1707.02921, section 3.4): f+(x) = 1/8 sum over g of g^-1 f(g x), g the eight symmetries
of the square. It takes eight times as long and changes nothing for a network that commutes with
them. What a reader would get wrong: g swaps the sides of what the network sees, so tiles of an
ensemble overlap by its `ensemble_field`, not the network's own field.
"""

import dataclasses
import itertools

import jax.numpy as jnp
from jaxtyping import Array, Float

from deconv_jax.inference.tiling import Apply
from deconv_jax.models.receptive_field import ReceptiveField

SYMMETRIES = tuple(itertools.product(range(4), (False, True)))
"""Quarter turns counterclockwise, and whether the turned image is mirrored left to right."""


def self_ensemble(apply: Apply) -> Apply:
    """The mean over the eight symmetries of the square.

    Args:
      apply: a network; a compiled one is called eight times and compiled twice for images that are
        not square, upright and lying.

    Returns:
      A function of images as `apply`, for any scale of it.
    """

    def apply_all(images: Float[Array, "batch height width channels"]) -> Array:
        total = jnp.zeros(())
        for turns, mirrored in SYMMETRIES:
            restored = apply(_moved(images, turns, mirrored))
            total = total + _moved_back(restored, turns, mirrored)
        return total / len(SYMMETRIES)

    return apply_all


def ensemble_field(field: ReceptiveField) -> ReceptiveField:
    """What the ensemble of a network sees: on every side what the network sees on any."""
    side = max(field.before, field.after)
    return dataclasses.replace(field, before=side, after=side)


def _moved(images: Array, turns: int, mirrored: bool) -> Array:
    turned = jnp.rot90(images, turns, axes=(1, 2))
    return turned[:, :, ::-1] if mirrored else turned


def _moved_back(images: Array, turns: int, mirrored: bool) -> Array:
    turned = images[:, :, ::-1] if mirrored else images
    return jnp.rot90(turned, -turns, axes=(1, 2))
