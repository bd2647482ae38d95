"""Textures of any size from a trained texture generator, computed in exact tiles.

A texture generator has no padding: the pixels of a cell depend on the latents of the cell and its
neighbors only. The pixels of a window of the grid are therefore those of the whole texture, and windows
take the place of the overlapping tiles of `inference.tiling`. All windows have the same shape, so a
texture needs one compiled program, whose memory does not grow with the texture. The grid itself is small.
"""

import dataclasses
import functools
from collections.abc import Iterator
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, UInt8

from deconv_jax.compilation import jit
from deconv_jax.errors import InputError, at_least
from deconv_jax.models.texture import TextureGenerator
from deconv_jax.tasks import GAN
from deconv_jax.training.state import Tree
from deconv_jax.training.step import apply_model

TILE = 512
"""Default side of a tile, in pixels."""

Grid = Float32[np.ndarray, "rows columns cell_dim"]


def texture_task(task: Any, size: tuple[int, int] | None, *, tileable: bool) -> GAN:
    """Return the task of a texture generator with another size of its samples.

    Latents of the new task have its `latent_dim`; the variables are those of the old one.

    Args:
      task: Task of a trained generator.
      size: Height and width of the samples, in pixels; None for those of training.
      tileable: Whether opposite borders of a sample fit together.

    Raises:
      InputError: The generator is not a texture generator, or the size is not valid.
    """
    generator = getattr(task, "generator", None)
    if not isinstance(generator, TextureGenerator):
        name = type(generator or task).__name__
        raise InputError(f"size and tileable require a texture_generator; got {name}")
    height, width = generator.image_shape[:2] if size is None else size
    at_least("height", height, 1)
    at_least("width", width, 1)
    shape = (height, width, generator.image_shape[2])
    changed = generator.clone(image_shape=shape, tileable=tileable)
    task = dataclasses.replace(cast(GAN, task), generator=changed)
    # Tracing raises the errors of the size.
    jax.eval_shape(changed.init, jax.random.key(0), jnp.zeros((1, changed.latent_dim)))
    return task


def latent_grid(task: GAN, variables: Tree, latent: Float32[np.ndarray, " latent_dim"]) -> Grid:
    """Return the grid of a latent of a texture task."""
    return np.asarray(_grid(task, variables, jnp.asarray(latent)[None])[0])


def blend_grids(task: GAN, first: Grid, second: Grid) -> Grid:
    """Return a grid that changes from one texture to another, from left to right.

    The local latents are those of the first grid. The others are mixed with a weight that rises smoothly
    from 0 to 1 across the image, or to 1 in the middle and back to 0 for a tileable generator, and are scaled
    to keep the variance of independent latents.

    Args:
      task: Task of the texture generator.
      first, second: Grids of two latents.
    """
    generator = cast(TextureGenerator, task.generator)
    columns = first.shape[1]
    turns = np.arange(columns) / columns if generator.tileable else np.linspace(0, 0.5, columns)
    weight = (0.5 - 0.5 * np.cos(2 * np.pi * turns)).astype(np.float32)[None, :, None]
    mixed = ((1 - weight) * first + weight * second) / np.hypot(1 - weight, weight)
    local = generator.local_dim
    return np.concatenate([first[..., :local], mixed[..., local:]], axis=-1)


def draw_texture(
    task: GAN, variables: Tree, grid: Grid, *, tile: int = TILE
) -> UInt8[np.ndarray, "height width channels"]:
    """Return the texture of a grid, computed tile by tile.

    Args:
      task: Task of the texture generator, from `texture_task`.
      variables: Its variables.
      grid: Grid, from `latent_grid` or `blend_grids`.
      tile: Side of a tile, in pixels, rounded down to whole cells, at least one.
    """
    generator = cast(TextureGenerator, task.generator)
    height, width, channels = generator.image_shape
    stride, margin = generator.stride, generator.margin
    output = np.empty((height, width, channels), np.uint8)
    cells = generator.cells
    side = [min(n, max(tile // stride, 1)) for n in cells]
    # The last tile ends at the border and overlaps the one before, because all have the same shape.
    starts = [[*range(0, n - s, s), n - s] for n, s in zip(cells, side, strict=True)]
    for top in starts[0]:
        for left in starts[1]:
            window = [
                np.arange(start, start + length + 2 * margin)
                for start, length in zip((top, left), side, strict=True)
            ]
            if generator.tileable:
                window = [(w - margin) % n for w, n in zip(window, cells, strict=True)]
            pixels = np.asarray(_decode(task, variables, grid[np.ix_(*window)][None])[0])
            target = output[top * stride :, left * stride :][: pixels.shape[0], : pixels.shape[1]]
            target[...] = pixels[: target.shape[0], : target.shape[1]]
    return output


def draw_textures(
    task: GAN,
    variables: Tree,
    latents: Float32[np.ndarray, "count latent_dim"],
    other: Float32[np.ndarray, "count latent_dim"] | None = None,
) -> Iterator[UInt8[np.ndarray, "1 height width channels"]]:
    """Yield the textures of latents one by one, as batches of one.

    Args:
      task: Task of the texture generator, from `texture_task`.
      variables: Its variables.
      latents: Latents to draw.
      other: Latents of the textures that each changes into from left to right; None for no change.
    """
    variables = jax.device_put(variables, jax.local_devices()[0])
    for number, latent in enumerate(latents):
        grid = latent_grid(task, variables, latent)
        if other is not None:
            grid = blend_grids(task, grid, latent_grid(task, variables, other[number]))
        yield draw_texture(task, variables, grid)[None]


@functools.partial(jit, static_argnums=0)
def _grid(
    task: GAN, variables: Tree, latents: Array
) -> Float[Array, "batch rows columns cell_dim"]:
    grid, _ = apply_model(
        task.generator, variables, latents, train=False, precision="f32", method="grid"
    )
    return grid


@functools.partial(jit, static_argnums=0)
def _decode(task: GAN, variables: Tree, grid: Array) -> UInt8[Array, "batch height width channels"]:
    images, _ = apply_model(
        task.generator, variables, grid, train=False, precision=task.precision, method="decode"
    )
    return jnp.round(255 * images).astype(jnp.uint8)
