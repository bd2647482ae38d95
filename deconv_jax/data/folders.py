"""Folders of image files as sources of examples of one shape.

Training examples are tiles, which overlap by half, so that random crops can be taken from a tile on the
device. Evaluation examples are whole images. Both are padded by reflection at the bottom and the right.
Files are decoded on demand.
"""

import hashlib
import os
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from deconv_jax.data.batch import HostBatch
from deconv_jax.data.decoded_files import CACHE_BYTES, DecodedFiles, FileInfo
from deconv_jax.data.file_splits import Files
from deconv_jax.data.images import Color
from deconv_jax.data.overlap import image_file_records
from deconv_jax.errors import InputError, at_least

SIZE_MULTIPLE = 16
"""Whole images are padded to a multiple of this, so that a network can halve them four times."""


class FolderSource:
    """A split of image files with features "image" and "size".

    Every file is decoded once at the start, so that a damaged file is found before training, and left out.
    That takes as long as a pass over the files.

    Args:
      files: The image files, in the order of examples. The tiles of a file follow one another, row by row.
      tile: Side in pixels of the square tiles used as examples. None for whole images, padded to
        the largest height and width among them, rounded up to a multiple of 16.
      color: Channels of the images: "rgb", "gray" or "y"; see `read_pixels`.
      cache_bytes: Size in bytes of the cache of decoded images; each loading process has its own.

    Attributes:
      names: Paths of the readable files, relative to the folder.
      fingerprint: Identification by the names and sizes of the files and the options, not by the pixels.
      files: The readable files; see `Source.files`.
      skipped: One line for each file or link that was left out, with the reason.

    Raises:
      InputError: There is no file, none can be read, or `tile` is less than 1.
    """

    def __init__(
        self,
        files: Files,
        *,
        tile: int | None = None,
        color: Color = "rgb",
        cache_bytes: int = CACHE_BYTES,
    ):
        if tile is not None:
            at_least("tile", tile, 1)
        self._channels, self._decoded = 3 if color == "rgb" else 1, DecodedFiles(color, cache_bytes)
        with ThreadPoolExecutor(os.cpu_count()) as threads:
            found = list(threads.map(self._decoded.inspect, files.paths))
        unreadable = tuple(reason for reason in found if isinstance(reason, str))
        self.skipped = (*files.left_out, *unreadable)
        infos = {
            path: info
            for path, info in zip(files.paths, found, strict=True)
            if not isinstance(info, str)
        }
        if not infos:
            reason = f" that can be read: {unreadable[0]}" if unreadable else ""
            raise InputError(f"no image file{reason} in {files.root}")
        if tile is None:
            self._shape = common_shape(infos.values())
            self._examples = [(path, 0, 0) for path in infos]
        else:
            self._shape = (tile, tile)
            self._examples = [
                (path, top, left)
                for path, info in infos.items()
                for top in tile_starts(info.height, tile)
                for left in tile_starts(info.width, tile)
            ]
        self.names = tuple(map(files.name, infos))
        self.files = image_file_records(infos)
        self.fingerprint = file_fingerprint(
            len(self), dict(zip(self.names, infos.values(), strict=True)), (tile, color)
        )

    def __len__(self) -> int:
        return len(self._examples)

    def gather(self, indices: np.ndarray) -> HostBatch:
        """Return the examples at `indices`, padded by reflection to the shape of the source.

        "image" is uint8 (count, height, width, 3 or 1). "size", int32 (count, 2), is the part that is not padding.

        Raises:
          InputError: A file has become unreadable.
        """
        height, width = self._shape
        sizes = np.empty((len(indices), 2), np.int32)
        images = np.empty((len(indices), height, width, self._channels), np.uint8)
        for row, index in enumerate(indices):
            path, top, left = self._examples[index]
            part = self._decoded.read(path)[top : top + height, left : left + width]
            sizes[row] = part.shape[:2]
            images[row] = pad_reflect(part, height, width)
        return {"image": images, "size": sizes}


def common_shape(infos: Iterable[FileInfo]) -> tuple[int, int]:
    """Return the largest height and the largest width of one or more files, rounded up to multiples of 16."""
    height, width = np.max([(info.height, info.width) for info in infos], axis=0)
    return _round_up(height), _round_up(width)


def _round_up(length: int) -> int:
    return int(-(-length // SIZE_MULTIPLE) * SIZE_MULTIPLE)


def file_fingerprint(
    examples: int, infos: Mapping[str, FileInfo], options: tuple[object, ...]
) -> Mapping[str, int | str]:
    """Return the fingerprint of a source of files; see `Source.fingerprint`.

    Args:
      examples: Number of examples.
      infos: Sizes of the files, by name.
      options: Settings that change the examples.

    Returns:
      The numbers of "examples", "files" and "bytes", and "names_and_sizes", a hash of `infos` and `options`.
    """
    described = [options, *((name, tuple(info)) for name, info in infos.items())]
    return {
        "examples": examples,
        "files": len(infos),
        "bytes": sum(info.bytes for info in infos.values()),
        "names_and_sizes": hashlib.sha256(repr(described).encode()).hexdigest()[:16],
    }


def tile_starts(length: int, tile: int) -> list[int]:
    """Return where tiles start along an axis: every half tile, and one that ends at the border.

    An axis no longer than a tile has one tile, which starts at 0.

    Any segment of at most half a tile plus one pixel lies inside some tile.
    """
    last = max(length - tile, 0)
    return [*range(0, last, max(tile // 2, 1)), last]


def pad_reflect(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Pad an image (h, w, channels) at the bottom and right, by reflection about its last row and column.

    Args:
      image: Image that is not larger than the result.
      height, width: Size of the result in pixels.
    """
    missing = (height - image.shape[0], width - image.shape[1])
    if missing == (0, 0):
        return image
    return np.pad(image, ((0, missing[0]), (0, missing[1]), (0, 0)), mode="reflect")
