"""Exact tiling: restore a large image in overlapping tiles, within bounded memory.

A network without global operations computes each output pixel from a bounded window of its input,
the receptive field, and is shift-invariant for shifts by multiples of its total stride
(`ReceptiveField.multiple`). Tiles that overlap by the receptive field and start at multiples of that
stride therefore reproduce, in their inner parts, the pixels of the whole image.

Note: A tile at the image's border must end exactly there, so that the network pads it as it pads the
whole image. Mirrored or zero-filled margins around the tiles give other pixels, and blending
overlapping tiles only hides the seams.

All tiles of an image have the same shape, (min(height, tile), min(width, tile)) with sizes rounded up
to the stride, so an image needs one compiled program. Tiles run one at a time: a single tile already
keeps every core busy, and the purpose of tiling is to limit memory.
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
"""(1, height, width, channels) -> (1, height * scale, width * scale, out_channels)."""

MAX_TILE = 1024
"""Largest default tile side, in pixels; the overlap costs only a few percent at this size."""
MEMORY_FRACTION = 0.25
"""Fraction of the free memory that one tile may use."""
PROBE_TILE = 256
"""Side of the tile whose memory use is measured, in pixels."""


@dataclasses.dataclass(frozen=True)
class Tile:
    """A tile of an image, as (rows, columns) ranges of input pixels.

    Attributes:
      window: Region that the network is applied to.
      inner: Region whose output is valid. The inner regions partition the image.
    """

    window: tuple[range, range]
    inner: tuple[range, range]


def min_tile(field: ReceptiveField) -> int:
    """Return the smallest tile side, in pixels, that has a non-empty inner region.

    It is a multiple of `field.multiple`.
    """
    return _round_up(field.before + field.after + field.multiple, field.multiple)


def check_tile(tile: int, field: ReceptiveField) -> None:
    """Raise InputError if a tile is smaller than `min_tile`."""
    if tile < min_tile(field):
        raise InputError(
            f"tile must be at least {min_tile(field)} pixels for this network, whose receptive field "
            f"reaches {field.before} pixels before and {field.after} after a pixel; got {tile}"
        )


def tile_plan(size: Sequence[int], tile: int | None, field: ReceptiveField) -> tuple[Tile, ...]:
    """Return the tiles that cover an image.

    Args:
      size: Height and width of the image, multiples of `field.multiple`.
      tile: Side of a tile, in pixels, rounded down to a multiple of `field.multiple`; None for the
        whole image.
      field: Receptive field of the network.

    Returns:
      Tiles in row-major order, all of the same shape. An axis no longer than `tile` has one tile.

    Raises:
      InputError: A size is not a multiple of `field.multiple`, or the image is larger than the tile
        and the tile is smaller than `min_tile`.
    """
    rows, columns = (_tiles_along_axis(n, n if tile is None else tile, field) for n in size)
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
    """Return a network's output for an image, computed tile by tile.

    The result equals that of the whole image up to rounding. An image whose sizes are not multiples
    of `field.multiple` is extended at the bottom and right by symmetric padding, and the output is
    cropped.

    Args:
      apply: Compiled network, called with NumPy batches of one tile, all of the same shape.
      image: Image of any size.
      field: Receptive field of the network.
      tile: Side of a tile, in pixels, rounded down to a multiple of `field.multiple`; None for the
        whole image.
      report: Callback that receives the completed fraction after every tile.

    Returns:
      Float32 output in host memory, `field.scale` times as large as the image.

    Raises:
      InputError: The image is empty, the output has the wrong size, or the image is larger than the
        tile and the tile is smaller than `min_tile`.
    """
    height, width = image.shape[:2]
    if not height or not width:
        raise InputError(f"image must have at least one pixel; got shape {image.shape}")
    indices = [_mirrored_indices(n, _round_up(n, field.multiple)) for n in (height, width)]
    tiles = tile_plan([len(axis) for axis in indices], tile, field)
    scale = field.scale
    output: np.ndarray | None = None
    for done, piece in enumerate(tiles, 1):
        window = [axis[r.start : r.stop] for axis, r in zip(indices, piece.window, strict=True)]
        # Only the tile is padded, by indexing; the image itself is never copied.
        restored = np.asarray(apply(image[np.ix_(*window)][None]))[0]
        expected = tuple(len(r) * scale for r in piece.window)
        if restored.shape[:2] != expected:
            raise InputError(
                f"a network of scale {scale} must output {expected} pixels for a tile; got "
                f"{restored.shape[:2]}"
            )
        if output is None:
            output = np.empty((height * scale, width * scale, restored.shape[2]), np.float32)
        # Slices end at the output's border, which drops the padding.
        target = tuple(slice(r.start * scale, r.stop * scale) for r in piece.inner)
        shape = output[target].shape
        valid = tuple(
            slice((inner.start - window.start) * scale, (inner.start - window.start) * scale + n)
            for inner, window, n in zip(piece.inner, piece.window, shape[:2], strict=True)
        )
        output[target] = restored[valid]
        if report is not None:
            report(done / len(tiles))
    assert output is not None  # There is at least one tile.
    return output


def default_tile(program_bytes: Callable[[int], int], field: ReceptiveField) -> int:
    """Return a tile side, in pixels, that suits the free memory.

    The largest square tile that uses at most a quarter (`MEMORY_FRACTION`) of the free memory, assuming
    the memory per pixel of a tile of 256 pixels (`PROBE_TILE`). The upper bound is 1024 pixels
    (`MAX_TILE`), or four times the receptive field if that is larger; the lower bound is `min_tile`.

    Args:
      program_bytes: Function from the side of a tile to the bytes that its program uses, see
        `working_bytes`.
      field: Receptive field of the network.
    """
    probe = max(min_tile(field), _round_up(PROBE_TILE, field.multiple))
    per_pixel = max(program_bytes(probe), 1) / probe**2
    side = math.isqrt(int(MEMORY_FRACTION * free_memory() / per_pixel))
    side = min(side, max(MAX_TILE, 4 * (field.before + field.after)))
    return max(_round_down(side, field.multiple), min_tile(field))


def _tiles_along_axis(size: int, tile: int, field: ReceptiveField) -> list[tuple[range, range]]:
    """Return (window, inner) ranges of the tiles along one axis."""
    if size % field.multiple:
        raise InputError(
            f"image sizes must be multiples of {field.multiple} for this network; got {size}"
        )
    if size <= tile:
        return [(range(size), range(size))]
    check_tile(tile, field)
    tile -= tile % field.multiple
    step = _round_down(tile - field.before - field.after, field.multiple)
    starts = [*range(0, size - tile, step), size - tile]
    # A tile's output is valid at the image's border, and beyond the receptive field of the tile's other
    # borders. Valid regions of neighboring tiles overlap; the later tile takes over.
    begins = [0, *(start + field.before for start in starts[1:])]
    ends = [*begins[1:], size]
    windows = [range(start, start + tile) for start in starts]
    return list(zip(windows, map(range, begins, ends), strict=True))


def _mirrored_indices(size: int, padded_size: int) -> np.ndarray:
    """Return the source index of each pixel along an axis with symmetric padding at its end."""
    return np.pad(np.arange(size), (0, padded_size - size), mode="symmetric")


def _round_down(value: int, multiple: int) -> int:
    return value - value % multiple


def _round_up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple
