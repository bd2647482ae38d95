"""Image files that are decoded on demand, with a cache of the pixels."""

import collections
import threading
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from deconv_jax.data.images import Color, read_pixels
from deconv_jax.errors import InputError

CACHE_BYTES = 1 << 30
"""Size of the least-recently-used cache of decoded images."""


class FileInfo(NamedTuple):
    """Size of a readable file, in pixels and bytes."""

    height: int
    width: int
    bytes: int


class DecodedFiles:
    """Pixels of image files, from a least-recently-used cache if possible.

    Several threads may read at the same time. A pickled copy has an empty cache, because each loading process
    has its own.

    Args:
      color: Channels of the images: "rgb", "gray" or "y"; see `read_pixels`.
      cache_bytes: Size in bytes of the cache.
    """

    def __init__(self, color: Color, cache_bytes: int = CACHE_BYTES):
        self._color, self._cache_bytes = color, cache_bytes
        self._start_cache()

    def read(self, path: Path) -> np.ndarray:
        """Return a file as uint8 (height, width, channels). Two threads may decode the same file.

        Raises:
          InputError: The file cannot be read.
        """
        with self._lock:
            if path in self._cache:
                self._cache.move_to_end(path)
                return self._cache[path]
        image = read_pixels(path, self._color)
        with self._lock:
            if path not in self._cache:
                self._cache[path] = image
                self._cached_bytes += image.nbytes
            while self._cached_bytes > self._cache_bytes:
                _, oldest = self._cache.popitem(last=False)
                self._cached_bytes -= oldest.nbytes
        return image

    def inspect(self, path: Path) -> FileInfo | str:
        """Return the sizes of a file, which is decoded, or the reason that it cannot be read."""
        try:
            height, width, _ = self.read(path).shape
            return FileInfo(height, width, path.stat().st_size)
        except (InputError, OSError) as error:
            return str(error)

    def _start_cache(self) -> None:
        self._lock = threading.Lock()
        self._cache: collections.OrderedDict[Path, np.ndarray] = collections.OrderedDict()
        self._cached_bytes = 0

    def __getstate__(self) -> dict[str, Any]:
        own = ("_lock", "_cache", "_cached_bytes")
        return {name: value for name, value in self.__dict__.items() if name not in own}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._start_cache()
