"""Random image transforms that run on the device, inside the compiled step, a key an example."""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from deconv_jax.data.batch import valid_mask, valid_sizes
from deconv_jax.errors import InputError


def example_keys(key: Key[Array, ""], index: Int[Array, " batch"]) -> Key[Array, " batch"]:
    """One key an example, folded from the step's key and the example's place in the data set.

    The randomness of an example so depends on neither its place in the batch nor the devices.
    """
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, index)


def random_translate(
    keys: Key[Array, " batch"], images: Float[Array, "batch height width channels"], max_shift: int
) -> Float[Array, "batch height width channels"]:
    """Moves each image by up to `max_shift` pixels along each axis, filling with zeros."""

    def translate(key: Array, image: Array) -> Array:
        padded = jnp.pad(image, ((max_shift, max_shift), (max_shift, max_shift), (0, 0)))
        top, left = jax.random.randint(key, (2,), 0, 2 * max_shift + 1)
        return jax.lax.dynamic_slice(padded, (top, left, 0), image.shape)

    return jax.vmap(translate)(keys, images)


def random_crop(
    keys: Key[Array, " batch"], images: Float[Array, "batch height width channels"], size: int
) -> Float[Array, "batch size size channels"]:
    """A square part of each image, every place as likely; InputError for images smaller than it."""
    height, width, channels = images.shape[1:]
    check_room(images.shape[1:3], size)

    def crop(key: Array, image: Array) -> Array:
        most = jnp.array([height - size, width - size])
        top, left = jax.random.randint(key, (2,), 0, most + 1)
        return jax.lax.dynamic_slice(image, (top, left, 0), (size, size, channels))

    return jax.vmap(crop)(keys, images)


def random_rescale(
    keys: Key[Array, " batch"],
    images: Float[Array, "batch height width channels"],
    size: int,
    factors: Sequence[float],
) -> Float[Array, "batch size size channels"]:
    """A square part of each image made smaller by a random one of `factors`.

    Bicubic with antialiasing (Keys' a = -0.5, as `ops.imresize`), the part at a whole pixel, so that
    factor 1 is a crop; clipped to [0, 1].

    Args:
      keys: one an example.
      images: in [0, 1].
      size: of the result, pixels a side.
      factors: in (0, 1], each as likely; repeat one to favour it.

    Raises:
      InputError: for images smaller than `size / min(factors)`, or a factor out of range.
    """
    if not factors or not all(0 < f <= 1 for f in factors):
        raise InputError(f"factors of random_rescale are in (0, 1]; got {factors}")
    # Rounded first, or the error of 42 / 0.7 in floats would ask for a 61st pixel.
    sides = [math.ceil(round(size / factor, 6)) for factor in factors]
    check_room(images.shape[1:3], max(sides))
    channels = images.shape[-1]
    choices = jnp.array(factors, images.dtype)
    most = jnp.array([[n - side for n in images.shape[1:3]] for side in sides])

    def rescale(key: Array, image: Array) -> Array:
        which, where = jax.random.split(key)
        choice = jax.random.randint(which, (), 0, len(factors))
        factor = choices[choice]
        corner = jax.random.randint(where, (2,), 0, most[choice] + 1)
        return jax.image.scale_and_translate(
            image,
            (size, size, channels),
            (0, 1),
            jnp.stack([factor, factor]),
            -corner * factor,
            method="cubic",
            antialias=True,
        )

    return jnp.clip(jax.vmap(rescale)(keys, images), 0.0, 1.0)


def random_dihedral(
    keys: Key[Array, " batch"], images: Float[Array, "batch height width channels"]
) -> Float[Array, "batch height width channels"]:
    """Each square image in one of its eight orientations: quarter turns, mirrored or not."""
    if images.shape[1] != images.shape[2]:
        raise InputError(f"random_dihedral turns square images; got {images.shape[1:3]}")

    def turn(key: Array, image: Array) -> Array:
        transpose, down, across = jax.random.bernoulli(key, shape=(3,))
        image = jnp.where(transpose, image.swapaxes(0, 1), image)
        image = jnp.where(down, image[::-1], image)
        return jnp.where(across, image[:, ::-1], image)

    return jax.vmap(turn)(keys, images)


def center_resize(
    images: Float[Array, "batch height width channels"],
    size: Sequence[int],
    valid_size: Int[Array, "batch 2"] | None = None,
) -> Float[Array, "batch out_height out_width channels"]:
    """The largest part in the middle that has the shape of `size`, resized by antialiased bilinear.

    Args:
      images: in [0, 1].
      size: height and width of the result, pixels.
      valid_size: height and width of what is true of each image, at its top left; None for all of it.

    Returns:
      Images in [0, 1].
    """
    channels = images.shape[-1]
    if valid_size is None:
        valid_size = valid_sizes({"image": images})
    wanted = jnp.array(size, images.dtype)

    def fit(image: Array, true: Array) -> Array:
        true = true.astype(image.dtype)
        scale = jnp.max(wanted / true)
        return jax.image.scale_and_translate(
            image,
            (*size, channels),
            (0, 1),
            jnp.stack([scale, scale]),
            0.5 * (wanted - scale * true),
            method="linear",
            antialias=True,
        )

    return jnp.clip(jax.vmap(fit)(images, valid_size), 0.0, 1.0)


def random_brightness_contrast(
    key: Key[Array, ""],
    image: Float[Array, "height width channels"],
    size: Int[Array, " 2"],
    brightness: float,
    contrast: float,
) -> Float[Array, "height width channels"]:
    """What is true of an image, brighter or darker and with more or less contrast; clipped to [0, 1].

    Args:
      key: of this image.
      image: in [0, 1].
      size: height and width of what is true of it; the rest stays as it is.
      brightness: most that is added or taken, uniform.
      contrast: most that the factor of the differences to the mean is above or below 1, uniform.
    """
    add, factor = jax.random.uniform(key, (2,), minval=-1.0)
    inside = valid_mask((image.shape[0], image.shape[1]), size)[..., None]
    mean = jnp.sum(jnp.where(inside, image, 0.0)) / (jnp.prod(size) * image.shape[-1])
    changed = mean + (1 + contrast * factor) * (image - mean) + brightness * add
    return jnp.where(inside, jnp.clip(changed, 0.0, 1.0), image)


def check_room(shape: Sequence[int], size: int) -> None:
    """Raise InputError if squares of `size` pixels do not fit images of a height and width."""
    if min(shape) < size:
        raise InputError(
            f"parts of {size} pixels a side do not fit images of {shape[0]} x {shape[1]}"
        )
