"""Random image augmentation on the device, inside the compiled step, with one key per example."""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from deconv_jax.data.batch import valid_mask, valid_sizes
from deconv_jax.errors import InputError


def example_keys(key: Key[Array, ""], index: Int[Array, " batch"]) -> Key[Array, " batch"]:
    """Return one key per example, folded from the key of the step and the position in the data set.

    The randomness of an example therefore does not depend on its position in the batch or on the devices.
    """
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, index)


def random_translate(
    keys: Key[Array, " batch"], images: Float[Array, "batch height width channels"], max_shift: int
) -> Float[Array, "batch height width channels"]:
    """Translate each image by -`max_shift` to `max_shift` whole pixels along each axis, and fill with zeros."""

    def translate(key: Array, image: Array) -> Array:
        padded = jnp.pad(image, ((max_shift, max_shift), (max_shift, max_shift), (0, 0)))
        top, left = jax.random.randint(key, (2,), 0, 2 * max_shift + 1)
        return jax.lax.dynamic_slice(padded, (top, left, 0), image.shape)

    return jax.vmap(translate)(keys, images)


def random_crop(
    keys: Key[Array, " batch"], images: Float[Array, "batch height width channels"], size: int
) -> Float[Array, "batch size size channels"]:
    """Crop a square at a uniformly random position; raises InputError for images smaller than `size`."""
    height, width, channels = images.shape[1:]
    check_crop_fits(images.shape[1:3], size)

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
    """Downscale each image by a random factor, and crop a square of it.

    Downscaling is bicubic with antialiasing (Keys' a = -0.5, as `ops.imresize`). The crop starts at a whole pixel of
    the image, so factor 1 is a plain crop. The result is clipped to [0, 1].

    Args:
      keys: One key per example.
      images: Images in [0, 1].
      size: Side of the result in pixels.
      factors: Factors in (0, 1], chosen with equal probability. Repeat a factor to make it more likely.

    Raises:
      InputError: The images are smaller than `size / min(factors)`, or `factors` is empty or out of range.
    """
    if not factors or not all(0 < f <= 1 for f in factors):
        raise InputError(f"factors of random_rescale must be in (0, 1]; got {factors}")
    # Rounded first, because 42 / 0.7 in floating point would require a 61st pixel.
    sides = [math.ceil(round(size / factor, 6)) for factor in factors]
    check_crop_fits(images.shape[1:3], max(sides))
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
    """Apply a random element of the dihedral group to each square image: quarter turns and reflections.

    All eight elements are equally likely.

    Raises:
      InputError: The images are not square.
    """
    if images.shape[1] != images.shape[2]:
        raise InputError(f"random_dihedral requires square images; got {images.shape[1:3]}")

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
    """Take the largest center crop with the aspect ratio of `size`, and shrink or enlarge it to `size`.

    Interpolation is bilinear, with antialiasing if it shrinks.

    Args:
      images: Images in [0, 1].
      size: Height and width of the result in pixels.
      valid_size: Height and width of the valid region of each image, at its top left; None for the whole image.

    Returns:
      Images of `size`, clipped to [0, 1].
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
    """Change brightness and contrast of the valid region of an image, and clip it to [0, 1].

    The contrast factor multiplies the difference to the mean over the region and all channels.

    Args:
      key: Key of this image.
      image: Image in [0, 1].
      size: Height and width of the valid region. Other pixels are not changed.
      brightness: Maximum change of brightness; the change is uniform in both directions.
      contrast: Maximum deviation of the contrast factor from 1, uniform.
    """
    add, factor = jax.random.uniform(key, (2,), minval=-1.0)
    inside = valid_mask((image.shape[0], image.shape[1]), size)[..., None]
    mean = jnp.sum(jnp.where(inside, image, 0.0)) / (jnp.prod(size) * image.shape[-1])
    changed = mean + (1 + contrast * factor) * (image - mean) + brightness * add
    return jnp.where(inside, jnp.clip(changed, 0.0, 1.0), image)


def check_crop_fits(shape: Sequence[int], size: int) -> None:
    """Raise InputError if crops of `size` x `size` pixels do not fit into images of `shape` (height, width)."""
    if min(shape) < size:
        raise InputError(
            f"crops of {size} x {size} pixels do not fit into images of {shape[0]} x {shape[1]}"
        )
