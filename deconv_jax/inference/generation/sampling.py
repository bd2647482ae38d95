"""Latents (samples, walks and traversals of latent space) and the images decoded from them.

Every device decodes batches of the same fixed size, and a sample depends only on its index, so a seed
gives the same images on any number of devices.
"""

import functools
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float32, Int, UInt8

from deconv_jax.compilation import jit
from deconv_jax.data.augment import example_keys
from deconv_jax.errors import at_least
from deconv_jax.models.latent_sampling import draw_latents, interpolate_latents
from deconv_jax.ops.collectives import DATA_AXIS
from deconv_jax.training.parallel import Devices
from deconv_jax.training.state import Tree

Latents = Float32[np.ndarray, "count latent_dim"]
Decode = Callable[[Tree, Array, Array | None], Array]
"""(variables, latents (batch, latent_dim), labels (batch,) or None) -> images in [0, 1]."""

TRAVERSAL_RANGE = 3.0
"""Half the range of a traversal, in standard deviations of the prior."""

_BATCH = 32
"""Batch size per device."""
_RANKING_LATENTS, _RANKING_STEPS = 4, 7
"""Number of latents, and of values per dimension, with which dimensions are ranked."""


def latents_from_seed(
    count: int, latent_dim: int, *, seed: int, truncation: float | None = None
) -> Latents:
    """Return the first `count` latents of a seed.

    Args:
      count: Number of latents.
      latent_dim: Length of a latent vector.
      seed: Seed; each latent depends only on it and on its index.
      truncation: Bound of the absolute value of a truncated normal distribution; None for a standard
        normal one.

    Raises:
      InputError: The count is below 1, the seed is negative or the truncation is not positive.
    """
    at_least("num", count, 1)
    at_least("seed", seed, 0)
    draw = jit(functools.partial(draw_latents, latent_dim=latent_dim, truncation=truncation))
    return np.asarray(draw(example_keys(jax.random.key(seed), jnp.arange(count))))


def latent_walk(latents: Latents, steps: int) -> Float32[np.ndarray, "count*steps latent_dim"]:
    """Return a closed walk along great circles through all latents.

    Args:
      latents: Latents to pass through, at least two.
      steps: Number of points from one latent to just before the next.

    Returns:
      Points of the walk; row i * steps is latent i.

    Raises:
      InputError: There are fewer than two latents, or no steps.
    """
    at_least("number of latents", len(latents), 2)
    at_least("steps", steps, 1)
    ends = np.roll(latents, -1, axis=0)
    interpolate = jit(jax.vmap(functools.partial(interpolate_latents, steps=steps)))
    return np.asarray(interpolate(latents, ends)).reshape(-1, latents.shape[-1])


def latent_traversal(
    latent: Float32[np.ndarray, " latent_dim"], dimensions: Int[np.ndarray, " count"], steps: int
) -> Float32[np.ndarray, "count*steps latent_dim"]:
    """Return copies of a latent in which one dimension at a time varies from -3 to 3.

    Args:
      latent: Latent whose other dimensions stay fixed.
      dimensions: Indices of the dimensions to vary.
      steps: Number of values per dimension, at least two.

    Returns:
      Latents, dimension by dimension, each in order from -3 to 3.

    Raises:
      InputError: There are fewer than two steps.
    """
    at_least("steps", steps, 2)
    moved = np.tile(latent, (len(dimensions), steps, 1))
    values = np.linspace(-TRAVERSAL_RANGE, TRAVERSAL_RANGE, steps)
    moved[np.arange(len(dimensions)), :, dimensions] = values
    return moved.reshape(-1, len(latent))


def rank_dimensions(
    decode: Decode, variables: Tree, latent_dim: int, label: int | None = None
) -> Int[np.ndarray, " latent_dim"]:
    """Return the latent dimensions in order of decreasing effect on the images.

    The effect of a dimension is the variance of a pixel over a traversal from -3 to 3, averaged over
    pixels and over four fixed latents. A VAE may ignore dimensions; their effect is zero.

    Args:
      decode: Decoder of a task, a pure function with images in [0, 1].
      variables: Variables of the decoder.
      latent_dim: Length of a latent vector.
      label: Class of the images, required by a conditional generator; None for any other.
    """
    dimensions = np.arange(latent_dim)
    centers = latents_from_seed(_RANKING_LATENTS, latent_dim, seed=0)
    latents = np.concatenate([latent_traversal(z, dimensions, _RANKING_STEPS) for z in centers])
    labels = None if label is None else np.full(len(latents), label, np.int32)
    images = np.concatenate(list(generate(decode, variables, latents, labels)))
    traversals = images.reshape(_RANKING_LATENTS, latent_dim, _RANKING_STEPS, -1)
    effects = np.array([traversals[:, number].var(axis=1).mean() for number in dimensions])
    return np.argsort(-effects, kind="stable")


def generate(
    decode: Decode,
    variables: Tree,
    latents: Latents,
    labels: Int[np.ndarray, " count"] | None = None,
) -> Iterator[UInt8[np.ndarray, "batch height width channels"]]:
    """Yield batches of the images of latents, in their order.

    A batch has 32 images per device, and the last one possibly fewer.

    Args:
      decode: Decoder of a task, a pure function with images in [0, 1].
      variables: Variables of the decoder.
      latents: Latents to decode.
      labels: Class of each image, int32, required by a conditional generator; None for any other.
    """
    devices = Devices.all()
    specs = (PartitionSpec(), PartitionSpec(DATA_AXIS), PartitionSpec(DATA_AXIS))

    @jit
    @functools.partial(
        jax.shard_map, mesh=devices.mesh, in_specs=specs, out_specs=PartitionSpec(DATA_AXIS)
    )
    def decode_batch(variables: Tree, latents: Array, labels: Array | None) -> Array:
        return jnp.round(255 * decode(variables, latents, labels)).astype(jnp.uint8)

    variables = devices.replicate(variables)
    batch_size = _BATCH * devices.mesh.size
    for start in range(0, len(latents), batch_size):
        rows = np.arange(start, start + batch_size) % len(latents)
        batch_labels = None if labels is None else labels[rows]
        images = decode_batch(variables, latents[rows], batch_labels)
        yield np.asarray(images)[: len(latents) - start]
