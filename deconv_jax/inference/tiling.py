"""Large images restored piece by piece, to the same pixels as in one piece, in bounded memory.

A network without global operations computes an output pixel from a window of its input, the
receptive field, and the same way wherever the window lies, as long as it moves in steps of the
network's total stride (`ReceptiveField.multiple`). So tiles that overlap by the receptive field and
start at multiples of that stride give, each in its inner part, the pixels of the whole image. What a
reader would get wrong is the border: a tile must end *exactly* at the image's border, so that the
network pads there what it pads on the whole image; mirrored or zero-filled margins around the tiles
give other pixels, and blending overlapping tiles hides seams instead of having none.

All tiles of an image have one shape, (min(height, tile), min(width, tile)) with the image's sizes
rounded up to the stride, so an image needs one compiled program, and a set of images at most one
for each distinct pair of these. Tiles go through the network one at a time: on a CPU one of them
already keeps every core busy, and memory is what tiles are for.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Array, Float

from deconv_jax.errors import InputError
from deconv_jax.inference.memory import free_memory
from deconv_jax.models.receptive_field import ReceptiveField

Apply = Callable[[Float[Array, "1 height width channels"]], Array]
"""A network on images: (1, height, width, channels) -> (1, height * scale, width * scale, others)."""

MAX_TILE = 1024
"""Pixels a side beyond which a tile gains nothing: the overlap costs a few per cent there."""
MEMORY_FRACTION = 0.25
"""Of the free memory, what the tile that is at work may take."""
PROBE_TILE = 256
"""Pixels a side of the tile that the need of memory is measured on."""


@dataclasses.dataclass(frozen=True)
class Tile:
    """A piece of an image, as pairs of half-open ranges (rows, columns), in input pixels.

    Attributes:
      window: what the network is given.
      inner: the part of it whose output is right; these parts make up the image without overlap.
    """

    window: tuple[range, range]
    inner: tuple[range, range]


def min_tile(field: ReceptiveField) -> int:
    """The smallest tile, in pixels a side, that still has an inner part to move on by."""
    return _round_up(field.before + field.after + field.multiple, field.multiple)


def check_tile(tile: int, field: ReceptiveField) -> None:
    """Raises InputError for a tile smaller than `min_tile`."""
    if tile < min_tile(field):
        raise InputError(
            f"a tile must be at least {min_tile(field)} pixels a side for this network, which "
            f"sees {field.before} before and {field.after} after a pixel; got {tile}"
        )


def tile_plan(size: Sequence[int], tile: int | None, field: ReceptiveField) -> tuple[Tile, ...]:
    """The tiles that an image is restored by.

    Args:
      size: height and width of the image, multiples of `field.multiple`.
      tile: pixels a side of a tile, rounded down to a multiple of `field.multiple`; None for the
        whole image.
      field: what the network sees.

    Returns:
      Tiles in reading order, all of one shape; along an axis no longer than `tile` there is one.

    Raises:
      InputError: a size that is no multiple, or a tile smaller than `min_tile` for an image
        larger than it.
    """
    rows, columns = (_along_axis(n, n if tile is None else tile, field) for n in size)
    return tuple(
        Tile((row, column), (inner_row, inner_column))
        for row, inner_row in rows
        for column, inner_column in columns
    )


def restore_tiled(
    apply: Apply,
    image: Float[np.ndarray, "height width channels"],
    field: ReceptiveField,
    tile: int | None = None,
    report: Callable[[float], None] | None = None,
) -> Float[np.ndarray, "out_height out_width out_channels"]:
    """Restores an image tile by tile: the same as at once, but for rounding.

    An image whose sizes are no multiples of `field.multiple` is extended at its bottom and right by
    mirroring (with the border pixel, as often as it takes), in tiles or not, and the output cut.

    Args:
      apply: the network, compiled; called with one shape.
      image: of any size.
      field: what the network sees.
      tile: pixels a side, see `tile_plan`; None for the whole image.
      report: told after every tile which share of the image is done.

    Returns:
      The output, float32, `field.scale` times as large, in the host's memory: beside it and the
      image, only what `apply` takes for a tile is needed.

    Raises:
      InputError: for an image without pixels, or as `tile_plan`.
    """
    height, width = image.shape[:2]
    if not height or not width:
        raise InputError(f"an image has at least one pixel; got {image.shape}")
    mirrored = [_mirrored(n, _round_up(n, field.multiple)) for n in (height, width)]
    tiles = tile_plan([len(places) for places in mirrored], tile, field)
    scale = field.scale
    output: np.ndarray | None = None
    for done, piece in enumerate(tiles, 1):
        window = [
            places[r.start : r.stop] for places, r in zip(mirrored, piece.window, strict=True)
        ]
        # The image itself is never extended: the tile's pixels are looked up where they come from.
        restored = np.asarray(apply(image[np.ix_(*window)][None]))[0]
        expected = tuple(len(r) * scale for r in piece.window)
        if restored.shape[:2] != expected:
            raise InputError(
                f"a network of scale {scale} makes a tile of {expected} pixels; got "
                f"{restored.shape[:2]}"
            )
        if output is None:
            output = np.empty((height * scale, width * scale, restored.shape[2]), np.float32)
        # Slices end at the output's border by themselves: what was mirrored is left out.
        put = tuple(slice(r.start * scale, r.stop * scale) for r in piece.inner)
        room = output[put].shape
        take = tuple(
            slice((inner.start - window.start) * scale, (inner.start - window.start) * scale + n)
            for inner, window, n in zip(piece.inner, piece.window, room[:2], strict=True)
        )
        output[put] = restored[take]
        if report is not None:
            report(done / len(tiles))
    assert output is not None  # There is at least one tile.
    return output


def default_tile(program_bytes: Callable[[int], int], field: ReceptiveField) -> int:
    """The tile for the memory at hand, pixels a side.

    The largest square tile that takes at most `MEMORY_FRACTION` of the memory that is free now, see
    `free_memory`, if a pixel takes what it takes in a tile of `PROBE_TILE` pixels a side. At most
    `MAX_TILE`, or four times what the network sees where that is more; at least the smallest
    that works.

    Args:
      program_bytes: what the program takes for a tile of so many pixels a side, see `working_bytes`.
      field: what the network sees.
    """
    probe = max(min_tile(field), _round_up(PROBE_TILE, field.multiple))
    per_pixel = max(program_bytes(probe), 1) / probe**2
    side = math.isqrt(int(MEMORY_FRACTION * free_memory() / per_pixel))
    side = min(side, max(MAX_TILE, 4 * (field.before + field.after)))
    return max(_round_down(side, field.multiple), min_tile(field))


def _along_axis(size: int, tile: int, field: ReceptiveField) -> list[tuple[range, range]]:
    """Window and inner part of the tiles along one axis."""
    if size % field.multiple:
        raise InputError(
            f"this network takes images whose sizes are multiples of {field.multiple}; got {size}"
        )
    if size <= tile:
        return [(range(size), range(size))]
    check_tile(tile, field)
    tile -= tile % field.multiple
    step = _round_down(tile - field.before - field.after, field.multiple)
    starts = [*range(0, size - tile, step), size - tile]
    # At the image's borders everything is right; inside, what the tile's own borders do not reach.
    # The next tile's right part starts before this one's ends: it takes over there.
    begins = [0, *(start + field.before for start in starts[1:])]
    ends = [*begins[1:], size]
    windows = [range(start, start + tile) for start in starts]
    return list(zip(windows, map(range, begins, ends), strict=True))


def _mirrored(size: int, extended: int) -> np.ndarray:
    """Where the pixels of an axis extended by mirroring come from."""
    return np.pad(np.arange(size), (0, extended - size), mode="symmetric")


def _round_down(value: int, multiple: int) -> int:
    return value - value % multiple


def _round_up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple
