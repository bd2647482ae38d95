"""Random image transforms that run on the device, inside the compiled step, a key an example."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key


def example_keys(key: Key[Array, ""], index: Int[Array, " batch"]) -> Key[Array, " batch"]:
    """One key an example, folded from the step's key and the example's place in the data set.

    The randomness of an example so depends on neither its place in the batch nor the devices.
    """
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, index)


def random_translate(
    keys: Key[Array, " batch"], images: Float[Array, "batch height width channels"], most: int
) -> Float[Array, "batch height width channels"]:
    """Moves each image by up to `most` pixels along each axis, filling with zeros."""

    def translate(key: Array, image: Array) -> Array:
        padded = jnp.pad(image, ((most, most), (most, most), (0, 0)))
        top, left = jax.random.randint(key, (2,), 0, 2 * most + 1)
        return jax.lax.dynamic_slice(padded, (top, left, 0), image.shape)

    return jax.vmap(translate)(keys, images)
