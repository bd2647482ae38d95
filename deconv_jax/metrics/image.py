"""Distances between images, one number an image."""

import jax.numpy as jnp
from jaxtyping import Array, Float


def mean_squared_error(
    prediction: Float[Array, "batch height width channels"],
    target: Float[Array, "batch height width channels"],
) -> Float[Array, " batch"]:
    """Mean over pixels and channels of the squared difference, an image."""
    return jnp.mean(jnp.square(prediction - target), axis=(1, 2, 3))


def psnr(
    prediction: Float[Array, "batch height width channels"],
    target: Float[Array, "batch height width channels"],
) -> Float[Array, " batch"]:
    """Peak signal-to-noise ratio of images in [0, 1], dB: -10 log10(MSE), an image.

    The field's figure for a set is the mean of this over its images, not the PSNR of the mean
    error. Equal images give infinity.
    """
    return -10.0 * jnp.log10(mean_squared_error(prediction, target))
