"""PSNR, SSIM and MS-SSIM of an image file against its reference, in bounded memory.

An image is measured in tiles, which all have the same shape. One program therefore measures images of all sizes.
"""

import functools
import math
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from deconv_jax.compilation import jit
from deconv_jax.data.images import read_image
from deconv_jax.errors import InputError
from deconv_jax.inference.restoration.learned_restorer import Pixels
from deconv_jax.io import kind_of
from deconv_jax.metrics.image import (
    MS_SSIM_MIN_SIZE,
    SSIM_MIN_SIZE,
    combine_scales,
    max_ms_ssim_scales,
    ssim_sums,
)
from deconv_jax.metrics.protocol import EQUAL_TOLERANCE, EvaluationProtocol, ImageScore

TILE_SIDE = 256
"""Pixels, or windows of SSIM, along a side of a tile; SSIM uses about 150 bytes for each, with color."""
MS_SSIM_SCALES = max_ms_ssim_scales(MS_SSIM_MIN_SIZE, MS_SSIM_MIN_SIZE)


def read_reference(path: Path, restored: Pixels, scale: int) -> Pixels:
    """Return the reference of a restored image, in [0, 1].

    A reference that is larger by less than `scale` pixels is cropped at the bottom and right ("modcrop").

    Raises:
      InputError: The reference does not exist, is unreadable or has another size.
    """
    if kind_of(path) is None:
        raise InputError(f"reference {path} does not exist in any image format")
    truth = _modcrop(read_image(path).pixels, restored, scale)
    if truth.shape[:2] != restored.shape[:2]:
        raise InputError(
            f"the result has {restored.shape[:2]} pixels, but its reference {path} has "
            f"{truth.shape[:2]}"
        )
    return truth


def measure_image(
    protocol: EvaluationProtocol, output: Pixels, truth: Pixels, *, ms_ssim: bool = False
) -> ImageScore:
    """Return "psnr" in dB and "ssim" of an image that was read from a file.

    A protocol with color="y" interprets a single channel as studio-range Y, but gray files have the full
    range. Gray images are therefore measured as three equal channels.

    Args:
      protocol: Protocol of the measurement.
      output, truth: Image and its reference, in [0, 1].
      ms_ssim: Whether to return "ms_ssim" too.

    Raises:
      InputError: The images differ in size or, with color="rgb", in their channels; or have a side below
        11 pixels without the border.
    """
    if protocol.color != "rgb":
        output, truth = (np.broadcast_to(v, (*v.shape[:2], 3)) for v in (output, truth))
    return measure_in_tiles(protocol, output, truth, ms_ssim=ms_ssim)


def measure_in_tiles(
    protocol: EvaluationProtocol, output: Pixels, target: Pixels, *, ms_ssim: bool = False
) -> ImageScore:
    """Return `protocol.measure` of one image, up to rounding, computed in tiles.

    Args:
      protocol: Protocol of the measurement.
      output, target: Image and its reference, in [0, 1].
      ms_ssim: Whether to return "ms_ssim" too: MS-SSIM with five scales, or None for an image with a side
        below 176 pixels without the border.

    Raises:
      InputError: The images differ in size, their channels cannot be compared, or a side is below 11
        pixels without the border.
    """
    # Raises the errors of `measure` without computing anything.
    jax.eval_shape(
        protocol.measure,
        *(jax.ShapeDtypeStruct((1, *view.shape), np.float32) for view in (output, target)),
    )
    prepared, target, error = _prepare(protocol, output, target)
    full, contrast = _ssim_means(prepared, target)
    psnr = -10 * math.log10(error) if error else math.inf
    scores: ImageScore = {"psnr": psnr, "ssim": float(np.mean(full))}
    if not ms_ssim:
        return scores
    if min(prepared.shape[:2]) < MS_SSIM_MIN_SIZE:
        return scores | {"ms_ssim": None}
    means = [contrast]
    for _ in range(1, MS_SSIM_SCALES):
        prepared, target = _halve(prepared), _halve(target)
        full, contrast = _ssim_means(prepared, target)
        means.append(contrast)
    combined = combine_scales([jnp.asarray(m[None], jnp.float32) for m in (*means[:-1], full)])
    return scores | {"ms_ssim": float(combined[0])}


def _prepare(
    protocol: EvaluationProtocol, output: Pixels, target: Pixels
) -> tuple[Pixels, Pixels, float]:
    """Return the prepared output and target, and their mean squared error, 0 if they are equal."""
    border = protocol.border
    height, width = (n - 2 * border for n in output.shape[:2])
    inner = slice(border, border + height), slice(border, border + width)
    views, rows = (output[inner], target[inner]), []
    squared_error, equal = 0.0, protocol.round_to_8_bits
    for row in _starts(height):
        tiles = []
        for column in _starts(width):
            part = slice(row, row + TILE_SIDE), slice(column, column + TILE_SIDE)
            size = views[0][part].shape[:2]
            padded = (_pad(view[part], TILE_SIDE) for view in views)
            both = np.asarray(_prepare_tile(protocol, *padded))[:, : size[0], : size[1]]
            difference = np.subtract(*both, dtype=np.float64)
            squared_error += float(np.sum(np.square(difference)))
            equal = equal and bool(np.all(np.abs(difference) < EQUAL_TOLERANCE))
            tiles.append(both)
        rows.append(np.concatenate(tiles, axis=2))
    prepared = np.concatenate(rows, axis=1)
    return *prepared, 0.0 if equal else squared_error / prepared[0].size


def _ssim_means(output: Pixels, target: Pixels) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean of SSIM and of its contrast-structure factor over all windows, by channel."""
    overlap = SSIM_MIN_SIZE - 1
    windows = [n - overlap for n in output.shape[:2]]
    side = TILE_SIDE + overlap
    sums = np.zeros((2, output.shape[-1]))
    for row in _starts(windows[0]):
        for column in _starts(windows[1]):
            part = slice(row, row + side), slice(column, column + side)
            size = np.array([output[part].shape[:2]])
            padded = (_pad(view[part], side) for view in (output, target))
            sums += np.asarray(_sum_tile(*padded, size), np.float64)
    full, contrast = sums / math.prod(windows)
    return full, contrast


@functools.partial(jit, static_argnums=0)
def _prepare_tile(protocol: EvaluationProtocol, output: Array, target: Array) -> Array:
    whole = EvaluationProtocol(
        protocol.color, 0, protocol.clip, protocol.round_to_8_bits, protocol.round_y
    )
    return jnp.stack([whole.prepare(output[None])[0], whole.prepare_target(target[None])[0]])


@jit
def _sum_tile(output: Array, target: Array, size: Int[Array, "1 2"]) -> Array:
    return jnp.stack(ssim_sums(output[None], target[None], size))[:, 0]


def _starts(length: int) -> Iterator[int]:
    return iter(range(0, length, TILE_SIDE))


def _pad(view: Pixels, side: int) -> Pixels:
    """Pad an image with zeros at the bottom and right to a square."""
    height, width = view.shape[:2]
    return np.pad(view, ((0, side - height), (0, side - width), (0, 0)))


def _halve(view: Pixels) -> Pixels:
    """Average blocks of 2 x 2 pixels; an odd last row or column is repeated, as in `ms_ssim`."""
    even = np.pad(view, [(0, n % 2) for n in view.shape[:2]] + [(0, 0)], mode="edge")
    height, width, channels = even.shape
    return even.reshape(height // 2, 2, width // 2, 2, channels).mean(axis=(1, 3))


def _modcrop(truth: Pixels, restored: Pixels, scale: int) -> Pixels:
    height, width = restored.shape[:2]
    extra = truth.shape[0] - height, truth.shape[1] - width
    return truth[:height, :width] if all(0 <= n < scale for n in extra) else truth
