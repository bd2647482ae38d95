"""Self-ensemble: average a network's outputs over the eight symmetries of the square.

The "enhanced prediction" of Timofte et al. (arXiv:1511.02228, section 3.5), known as the "+" of EDSR+
(arXiv:1707.02921, section 3.4): f+(x) = 1/8 sum over g of g^-1 f(g x). It takes eight times as long
and changes nothing for a network that is equivariant to these symmetries.

Note: A symmetry may swap the sides of the receptive field, so tiles must overlap by
`ensemble_field`, not by the network's own receptive field.
"""

import dataclasses
import itertools

import jax.numpy as jnp
from jaxtyping import Array, Float

from deconv_jax.inference.tiling import Apply
from deconv_jax.models.receptive_field import ReceptiveField

SYMMETRIES = tuple(itertools.product(range(4), (False, True)))
"""Pairs of the number of counterclockwise quarter turns and whether to flip left-right after them."""


def self_ensemble(apply: Apply) -> Apply:
    """Return a function of images that averages a network over the eight symmetries of the square.

    Its result is float32 at least.

    Args:
      apply: Network of any scale. It is called eight times; a compiled one is compiled for two shapes
        if images are not square.
    """

    def apply_all(images: Float[Array, "batch height width channels"]) -> Array:
        total = jnp.zeros(())
        for turns, flip in SYMMETRIES:
            total = total + _invert(apply(_transform(images, turns, flip)), turns, flip)
        return total / len(SYMMETRIES)

    return apply_all


def ensemble_field(field: ReceptiveField) -> ReceptiveField:
    """Return the receptive field of a network's self-ensemble: the wider side, on both sides."""
    side = max(field.before, field.after)
    return dataclasses.replace(field, before=side, after=side)


def _transform(images: Array, turns: int, flip: bool) -> Array:
    turned = jnp.rot90(images, turns, axes=(1, 2))
    return turned[:, :, ::-1] if flip else turned


def _invert(images: Array, turns: int, flip: bool) -> Array:
    turned = images[:, :, ::-1] if flip else images
    return jnp.rot90(turned, -turns, axes=(1, 2))
