"""Differentiable augmentation of all images that a discriminator sees (DiffAugment)."""

from collections.abc import Sequence
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

AugmentName = Literal["color", "translation", "cutout"]


def differentiable_augment(
    keys: Key[Array, " batch"],
    images: Float[Array, "batch height width channels"],
    policy: Sequence[AugmentName],
) -> Float[Array, "batch height width channels"]:
    """Augment images for a discriminator (DiffAugment, Zhao et al., arXiv:2006.10738).

    Gradients pass through, so the generator is trained through the augmentation. Strengths are those of the
    authors' code. "color" adds up to +-0.25 to the brightness (half of that code's range of [-1, 1]), and multiplies
    the saturation by 0 to 2 and the contrast by 0.5 to 1.5. "translation" translates by whole pixels, up to an
    eighth of each side. "cutout" blanks a rectangle of half of each side, which may lie partly outside. Both
    fill with 0, which is black here; that code fills with middle gray.

    Args:
      keys: One key per example.
      images: Images in [0, 1]. "color" may leave that range.
      policy: Augmentations to apply, in this order; none returns the images unchanged.
    """

    def augment(key: Array, image: Array) -> Array:
        for number, name in enumerate(policy):
            image = _AUGMENTS[name](jax.random.fold_in(key, number), image)
        return image

    return jax.vmap(augment)(keys, images)


def _color(key: Array, image: Array) -> Array:
    brightness, saturation, contrast = jax.random.uniform(key, (3,), image.dtype)
    image = image + 0.5 * (brightness - 0.5)
    gray = jnp.mean(image, axis=-1, keepdims=True)
    image = gray + 2.0 * saturation * (image - gray)
    mean = jnp.mean(image)
    return mean + (0.5 + contrast) * (image - mean)


def _translation(key: Array, image: Array) -> Array:
    height, width, _ = image.shape
    most = jnp.array([int(height / 8 + 0.5), int(width / 8 + 0.5)])
    down, right = jax.random.randint(key, (2,), -most, most + 1)
    rows, columns = jnp.arange(height)[:, None] - down, jnp.arange(width)[None] - right
    inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    moved = jnp.roll(image, (down, right), axis=(0, 1))
    return jnp.where(inside[..., None], moved, 0.0)


def _cutout(key: Array, image: Array) -> Array:
    height, width, _ = image.shape
    size = (height // 2, width // 2)
    most = jnp.array([height + 1 - size[0] % 2, width + 1 - size[1] % 2])
    top, left = jax.random.randint(key, (2,), 0, most) - jnp.array(size) // 2
    rows, columns = jnp.arange(height)[:, None] - top, jnp.arange(width)[None] - left
    blank = (rows >= 0) & (rows < size[0]) & (columns >= 0) & (columns < size[1])
    return jnp.where(blank[..., None], 0.0, image)


_AUGMENTS = {"color": _color, "translation": _translation, "cutout": _cutout}
