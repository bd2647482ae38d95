"""A trained GAN or VAE at work: numbered samples, walks and traversals of latent space, files of them.

Every device makes batches of the same fixed size, by a program of its own, and a sample depends on
its number alone. So the same seed gives the same images on any number of devices.
"""

import functools
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec
from PIL import Image

from deconv_jax.compilation import jit
from deconv_jax.data.augment import example_keys
from deconv_jax.data.images import FORMATS, write_image
from deconv_jax.errors import InputError, at_least
from deconv_jax.io import write_atomically
from deconv_jax.models.latent_sampling import draw_latents, interpolate_latents
from deconv_jax.ops.collectives import DATA_AXIS
from deconv_jax.training.parallel import Devices
from deconv_jax.viz.grids import mosaic

Tree = Any
Decode = Callable[[Tree, jax.Array, jax.Array | None], jax.Array]
"""(variables, latents (batch, latent_dim), labels (batch,) or None) -> images in [0, 1]."""

STILL_FORMATS = {suffix: FORMATS[suffix] for suffix in (".png", ".webp", ".tif", ".tiff")}
"""Formats that lose nothing, by the ending of a file's name."""
ANIMATION_FORMATS = {".gif": "GIF", ".webp": "WEBP"}

FARTHEST = 3.0
"""To how many standard deviations of the prior, either way, a traversal takes a number of a latent."""

_BATCH = 32
"""Samples of a device's batch."""
_RANKED_AT, _RANKED_STEPS = 4, 7
"""Latents about which numbers are moved to see what they do, and places that each is moved to."""
_FRAME_MS = 60
_LARGEST_PICTURE = 10_000
"""Pixels a side of a picture of many samples."""


def latents_from_seed(
    count: int, latent_dim: int, *, seed: int, truncation: float | None = None
) -> np.ndarray:
    """Latents 0 to count - 1 of a seed, (count, latent_dim); `truncation` as for `draw_latents`.

    Raises:
      InputError: a count or seed below its least, or a truncation that is not positive.
    """
    at_least("num", count, 1)
    at_least("seed", seed, 0)
    draw = jit(functools.partial(draw_latents, latent_dim=latent_dim, truncation=truncation))
    return np.asarray(draw(example_keys(jax.random.key(seed), jnp.arange(count))))


def walk(latents: np.ndarray, steps: int) -> np.ndarray:
    """A closed walk along great circles from each latent to the next, and from the last to the first.

    Args:
      latents: (count, latent_dim), two at least.
      steps: from a latent to just before the next.

    Returns:
      (count * steps, latent_dim).

    Raises:
      InputError: fewer than two latents, or no step.
    """
    at_least("--walk", len(latents), 2)
    at_least("steps", steps, 1)
    ends = np.roll(latents, -1, axis=0)
    along = jit(jax.vmap(functools.partial(interpolate_latents, steps=steps)))
    return np.asarray(along(latents, ends)).reshape(-1, latents.shape[-1])


def traversal(latent: np.ndarray, dimensions: np.ndarray, steps: int) -> np.ndarray:
    """Copies of a latent with one number moved from -3 to 3, the others left as they are.

    Args:
      latent: (latent_dim,).
      dimensions: which of its numbers are moved, one after the other, (count,).
      steps: places that each is moved to, two at least.

    Returns:
      (count * steps, latent_dim), all of a dimension beside one another.

    Raises:
      InputError: fewer than two steps.
    """
    at_least("steps", steps, 2)
    moved = np.tile(latent, (len(dimensions), steps, 1))
    moved[np.arange(len(dimensions)), :, dimensions] = np.linspace(-FARTHEST, FARTHEST, steps)
    return moved.reshape(-1, len(latent))


def rank_dimensions(
    decode: Decode, variables: Tree, latent_dim: int, label: int | None = None
) -> np.ndarray:
    """The numbers of a latent, (latent_dim,), that which changes images most first.

    A change is the variance of a pixel, in the mean over pixels, as the number goes from -3 to 3, in
    the mean over a few latents, always the same. A VAE does not use all its latents; the
    images of those that it ignores are all alike.

    Args:
      decode, variables: as for `generate`.
      latent_dim: numbers in a latent.
      label: class of the images, of a conditional generator.
    """
    every = np.arange(latent_dim)
    about = latents_from_seed(_RANKED_AT, latent_dim, seed=0)
    latents = np.concatenate([traversal(latent, every, _RANKED_STEPS) for latent in about])
    labels = None if label is None else np.full(len(latents), label, np.int32)
    images = np.concatenate(list(generate(decode, variables, latents, labels)))
    sweeps = images.reshape(_RANKED_AT, latent_dim, _RANKED_STEPS, -1)
    changes = np.array([sweeps[:, number].var(axis=1).mean() for number in every])
    return np.argsort(-changes, kind="stable")


def generate(
    decode: Decode, variables: Tree, latents: np.ndarray, labels: np.ndarray | None = None
) -> Iterator[np.ndarray]:
    """Batches of images of latents, in their order, uint8 (some, height, width, channels).

    Args:
      decode: of a task.
      variables: that it takes.
      latents: (count, latent_dim).
      labels: int32 (count,), of a conditional generator.
    """
    devices = Devices.all()
    shares = (PartitionSpec(), PartitionSpec(DATA_AXIS), PartitionSpec(DATA_AXIS))

    @jit
    @functools.partial(
        jax.shard_map, mesh=devices.mesh, in_specs=shares, out_specs=PartitionSpec(DATA_AXIS)
    )
    def make(variables: Tree, latents: jax.Array, labels: jax.Array | None) -> jax.Array:
        return jnp.round(255 * decode(variables, latents, labels)).astype(jnp.uint8)

    variables = devices.replicate(variables)
    at_a_time = _BATCH * devices.mesh.size
    for start in range(0, len(latents), at_a_time):
        rows = np.arange(start, start + at_a_time) % len(latents)
        of_rows = None if labels is None else labels[rows]
        images = make(variables, latents[rows], of_rows)
        yield np.asarray(images)[: len(latents) - start]


def check_picture(
    path: Path,
    formats: Mapping[str, str],
    count: int,
    columns: int,
    size: tuple[int, int],
    scale: int,
    *,
    animates: bool,
) -> None:
    """Raises InputError for a picture of the wrong kind or too large, before images are made for it.

    Args:
      path: of the file.
      formats: `STILL_FORMATS`, `ANIMATION_FORMATS` or both.
      count: images.
      columns: images beside one another.
      size: height and width of an image.
      scale: pixels a side that an image's pixel is drawn with.
      animates: whether images come one after the other.
    """
    _format(path, formats)
    if animates:
        pixels = count * size[0] * size[1] * scale**2
        if pixels > _LARGEST_PICTURE**2:
            raise InputError(
                f"an animation of {count} frames would have {pixels:,} pixels, wanted are at most "
                f"{_LARGEST_PICTURE**2:,}; give a smaller --scale or fewer --steps"
            )
        return
    height, width = scale * (size[0] + 1) * -(-count // columns), scale * (size[1] + 1) * columns
    if max(height, width) > _LARGEST_PICTURE:
        raise InputError(
            f"{count} samples, {columns} beside one another, make a picture of {width} x {height} "
            f"pixels, wanted are at most {_LARGEST_PICTURE} a side; give other --columns, a smaller "
            "--scale, or --output-dir for a file each"
        )


def write_picture(path: Path, images: np.ndarray, columns: int, scale: int) -> None:
    """Writes images beside and below one another as one.

    Args:
      path: its suffix, of `STILL_FORMATS`, says the format.
      images: uint8 (count, height, width, 1 or 3).
      columns: images beside one another.
      scale: pixels a side that an image's pixel is drawn with.

    Raises:
      InputError: another suffix, or a file that cannot be written.
    """
    _format(path, STILL_FORMATS)
    write_image(path, _enlarged(mosaic(images, columns), scale))


def write_animation(path: Path, images: np.ndarray, scale: int) -> None:
    """Writes images one after the other, endlessly; arguments and errors as for `write_picture`.

    A WebP is lossless; a GIF has 256 colours.
    """
    kind = _format(path, ANIMATION_FORMATS)
    first, *others = [_pillow(_enlarged(image, scale)) for image in images]
    options: dict[str, Any] = {
        "save_all": True,
        "append_images": others,
        "duration": _FRAME_MS,
        "loop": 0,
    }
    if kind == "WEBP":
        options["lossless"] = True
    write_atomically(path, functools.partial(first.save, format=kind, **options))


def write_each(folder: Path, first: int, images: np.ndarray, scale: int) -> None:
    """Writes images as 000000.png and so on, counted from `first`; errors as `write_picture`."""
    for number, image in enumerate(images, first):
        write_image(folder / f"{number:06d}.png", _enlarged(image, scale))


def _format(path: Path, formats: Mapping[str, str]) -> str:
    suffix = path.suffix.lower()
    if suffix not in formats:
        raise InputError(f"{path} must end in {', '.join(formats)}; got {suffix or 'no suffix'!r}")
    return formats[suffix]


def _enlarged(image: np.ndarray, scale: int) -> np.ndarray:
    return image.repeat(scale, axis=0).repeat(scale, axis=1)


def _pillow(image: np.ndarray) -> Image.Image:
    return Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
