"""Folders of image files as sources of examples, all of one shape though the files are not.

For training an image is cut into tiles that overlap by half, and an example is one tile: files are
decoded as they are needed, and random crops happen on the device, inside a tile. For evaluation an
example is a whole image. Either is extended by mirroring, at the bottom and at the right, where it
is too small, and "size" says what of it is true. What a reader would get wrong: a slice of a split
counts files, in the order of their paths, also those that turn out to be unreadable, so that the
splits of a folder stay disjoint whatever happens to its files.
"""

import collections
import dataclasses
import hashlib
import os
import re
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from deconv_jax.data.batch import HostBatch
from deconv_jax.data.images import LINKED, Color, list_files, read_pixels
from deconv_jax.data.overlap import parts_of_files
from deconv_jax.errors import InputError, at_least
from deconv_jax.io import kind_of

FOLDER = "folder:"
"""How the name of a data set begins that is a folder."""
CANVAS_MULTIPLE = 16
"""Of the height and width to which whole images are extended, so that four halvings fit."""
CACHE_BYTES = 1 << 30
"""Decoded images that a source holds, most recently used first."""

_VARIABLE = re.compile(r"\$(\w+|\{[^}]*\})")
_SPLIT = re.compile(r"(?P<files>[^\[\]]*)(\[(?P<start>[^:\[\]]*):(?P<stop>[^:\[\]]*)\])?")
_BOUND = re.compile(r"(-?\d+)(%?)")
_SHUFFLED = re.compile(r"(?P<files>.*)@(?P<seed>\d+)")


@dataclasses.dataclass(frozen=True)
class Files:
    """Image files and the folder that their names are told from.

    Attributes:
      root: the folder.
      paths: the files.
      left_out: a line for each link to a folder beside them, which is not followed.
    """

    root: Path
    paths: tuple[Path, ...]
    left_out: tuple[str, ...] = ()

    def name(self, path: Path) -> str:
        """What to call a file, with / between folders."""
        return path.relative_to(self.root).as_posix()


class Seen(NamedTuple):
    """What is known of a file that can be read."""

    height: int
    width: int
    bytes: int


class FolderSource:
    """A split of image files; `gather` gives "image" and "size".

    "image" is uint8 (batch, height, width, channels), and "size" int32 (batch, 2), the height and
    width of what is true of each, at the top left. Every file is decoded once at the start, so that
    a damaged one is found before training and not in the middle of it; that takes as long as a pass
    over the files.

    Args:
      files: the image files, in the order of examples.
      tile: height and width of an example, a part of an image; None for whole images, extended to
        the largest height and width among them, rounded up to a multiple of 16.
      color: channels, see `read_pixels`.
      cache_bytes: of decoded images, kept so that the tiles of an image need not decode it again.

    Attributes:
      names: the files that examples are of, by their paths in the folder.
      fingerprint: see `Source.fingerprint`; of the files' names, sizes in pixels and in bytes, so
        that one of the same sizes but with other pixels in it passes for the same.
      parts: see `Source.parts`; the files.
      skipped: a line for each file, or link to a folder, that was left out, with the reason.

    Raises:
      InputError: there is no file, or none that can be read.
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
        self._files, self._color, self._cache_bytes = files, color, cache_bytes
        self._start_cache()
        with ThreadPoolExecutor(os.cpu_count()) as threads:
            found = list(threads.map(self._look_at, files.paths))
        unreadable = tuple(reason for reason in found if isinstance(reason, str))
        self.skipped = (*files.left_out, *unreadable)
        seen = {
            path: file
            for path, file in zip(files.paths, found, strict=True)
            if not isinstance(file, str)
        }
        if not seen:
            reason = f" that can be read: {unreadable[0]}" if unreadable else ""
            raise InputError(f"no image file{reason} in {files.root}")
        if tile is None:
            largest = np.max([(file.height, file.width) for file in seen.values()], axis=0)
            self._shape = tuple(int(-(-n // CANVAS_MULTIPLE) * CANVAS_MULTIPLE) for n in largest)
            self._examples = [(path, 0, 0) for path in seen]
        else:
            self._shape = (tile, tile)
            self._examples = [
                (path, top, left)
                for path, file in seen.items()
                for top in tile_starts(file.height, tile)
                for left in tile_starts(file.width, tile)
            ]
        self.names = tuple(map(files.name, seen))
        self.parts = parts_of_files(seen)
        self.fingerprint = fingerprint_of(
            len(self), dict(zip(self.names, seen.values(), strict=True)), (tile, color)
        )

    def __len__(self) -> int:
        return len(self._examples)

    def gather(self, indices: np.ndarray) -> HostBatch:
        """The examples at `indices`; raises InputError if a file has become unreadable."""
        height, width = self._shape
        sizes = np.empty((len(indices), 2), np.int32)
        images = np.empty((len(indices), height, width, 3 if self._color == "rgb" else 1), np.uint8)
        for row, index in enumerate(indices):
            path, top, left = self._examples[index]
            part = self._image(path)[top : top + height, left : left + width]
            sizes[row] = part.shape[:2]
            images[row] = extended(part, height, width)
        return {"image": images, "size": sizes}

    def _look_at(self, path: Path) -> Seen | str:
        """The sizes of a file, or why it cannot be read."""
        try:
            height, width, _ = self._image(path).shape
            return Seen(height, width, path.stat().st_size)
        except (InputError, OSError) as error:
            return str(error)

    def _image(self, path: Path) -> np.ndarray:
        """A decoded file, of the cache if it is there; two threads may decode the same one."""
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

    def _start_cache(self) -> None:
        self._lock = threading.Lock()
        self._cache: collections.OrderedDict[Path, np.ndarray] = collections.OrderedDict()
        self._cached_bytes = 0

    def __getstate__(self) -> dict[str, Any]:
        """For processes that load: each has a cache of its own."""
        own = ("_lock", "_cache", "_cached_bytes")
        return {name: value for name, value in self.__dict__.items() if name not in own}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._start_cache()


def fingerprint_of(
    examples: int, seen: Mapping[str, Seen], options: tuple[object, ...]
) -> Mapping[str, int | str]:
    """See `Source.fingerprint`: of a number of examples, made of files, by name, in some way."""
    described = [options, *((name, tuple(file)) for name, file in seen.items())]
    return {
        "examples": examples,
        "files": len(seen),
        "bytes": sum(file.bytes for file in seen.values()),
        "names_and_sizes": hashlib.sha256(repr(described).encode()).hexdigest()[:16],
    }


def tile_starts(length: int, tile: int) -> list[int]:
    """Where tiles begin along an axis: every half tile, and one at the end.

    Any part of an axis no longer than half a tile, plus one pixel, is inside some tile.
    """
    last = max(length - tile, 0)
    return [*range(0, last, max(tile // 2, 1)), last]


def extended(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """An image (h, w, channels) extended by mirroring about its last row and column."""
    missing = (height - image.shape[0], width - image.shape[1])
    if missing == (0, 0):
        return image
    return np.pad(image, ((0, missing[0]), (0, missing[1]), (0, 0)), mode="reflect")


def find_files(name: str, split: str, data_dir: str | None = None) -> Files:
    """The files of a split of a folder.

    Args:
      name: "folder:PATH"; ~ and environment variables are expanded, and a path that is not
        absolute is one in `data_dir`, or in the working directory without it.
      split: "all", a subfolder ("train"), or another folder ("folder:PATH"), then perhaps a slice
        of its sorted files: "all[:-10]", "all[90%:]", "train[100:200]"; or of its files in the random
        order of a seed, the same on any machine: "all@0[:90%]"; or several that are no other
        folders, one after the other: "portraits+landscapes[:100]", "all[:10]+all[20:]".
      data_dir: see `name`.

    Raises:
      InputError: no such folder, an ill-formed split, or one without files.
    """
    joined = "+" in split and FOLDER not in split
    # The name of one folder may have a + in it.
    one = _SPLIT.fullmatch(split)
    if joined and not (one and kind_of(_folder(name, data_dir) / one["files"]) == "folder"):
        parts = [find_files(name, part, data_dir) for part in split.split("+")]
        lines = dict.fromkeys(line for part in parts for line in part.left_out)
        return Files(
            parts[0].root, tuple(path for part in parts for path in part.paths), tuple(lines)
        )
    chosen, bounds = parse_split(split)
    shuffled = _SHUFFLED.fullmatch(chosen)
    # The name of a folder may end like that too.
    as_named = (
        _folder(chosen, data_dir) if chosen.startswith(FOLDER) else _folder(name, data_dir) / chosen
    )
    if shuffled and kind_of(as_named) != "folder":
        chosen = shuffled["files"]
    else:
        shuffled = None
    elsewhere = chosen.startswith(FOLDER)
    root = _folder(chosen if elsewhere else name, data_dir)
    if kind_of(root) != "folder":
        raise InputError(f"data set {name!r}, split {split!r}: no folder {root}{_unset(root)}")
    if not elsewhere and (Path(chosen).is_absolute() or ".." in Path(chosen).parts):
        raise InputError(
            f"data set {name!r}: split {split!r} is no folder in {root}; one that is elsewhere is "
            f"written {FOLDER}PATH"
        )
    folder = root if elsewhere or chosen == "all" else root / chosen
    if kind_of(folder) != "folder":
        raise InputError(
            f'data set {name!r} has no split {split!r}: it is not "all", and {folder} is no '
            'folder; a part of the files is e.g. "all[:-10]"'
        )
    found = list_files(folder, complete=True)
    links = found.left_out.get(LINKED, ())
    left_out = tuple(f"{path} is a link to a folder, not followed" for path in links)
    files = Files(root, tuple(found.files), left_out)
    if shuffled:
        files = _in_random_order(files, int(shuffled["seed"]))
    return sliced(files, split, bounds)


def seeded_splits(files: Files, seed: int = 0) -> dict[str, str]:
    """Splits of all files of a folder, that of each in a random order: about 80, 10 and 10 percent.

    Returns:
      The expressions of "train", "validation" and "test" for `find_files`.

    Raises:
      InputError: there are fewer than three files.
    """
    count = len(files.paths)
    if count < 3:
        raise InputError(
            f"{files.root} has {count} image files; a training, a validation and a test split need "
            "one each"
        )
    held_out = max(1, round(0.1 * count))
    return {
        "train": f"all@{seed}[:-{2 * held_out}]",
        "validation": f"all@{seed}[-{2 * held_out}:-{held_out}]",
        "test": f"all@{seed}[-{held_out}:]",
    }


def _in_random_order(files: Files, seed: int) -> Files:
    """By a hash of seed and name, which keeps the order of files where others come or go."""

    def place(path: Path) -> bytes:
        return hashlib.sha256(os.fsencode(f"{seed}/{files.name(path)}")).digest()

    return dataclasses.replace(files, paths=tuple(sorted(files.paths, key=place)))


def parse_split(split: str) -> tuple[str, tuple[str, str]]:
    """What a split is of, and the two ends of its slice, "" where there is none."""
    match = _SPLIT.fullmatch(split)
    ends = (match["start"] or "", match["stop"] or "") if match else ("", "")
    if match is None or any(end and not _BOUND.fullmatch(end) for end in ends):
        raise InputError(
            f'split {split!r} is ill-formed; wanted is e.g. "all", "train[:100]" or "all[90%:]"'
        )
    return match["files"], ends


def sliced(files: Files, split: str, ends: tuple[str, str]) -> Files:
    """A slice of files; ends are whole numbers or percentages, from the end if negative.

    A negative percentage is what is missing to 100%, and is then rounded as others are, so that
    [:90%] and [-10%:] share no file.
    """
    count = len(files.paths)

    def place(end: str, default: int) -> int:
        if not end:
            return default
        number, percent = _BOUND.fullmatch(end).groups()  # type: ignore[union-attr]
        if abs(int(number)) > (100 if percent else count):
            raise InputError(f"split {split!r}: {end} is beyond the {count} files of {files.root}")
        whole = 100 if percent else count
        offset = int(number) + (whole if number.startswith("-") else 0)
        return round(offset * count / 100) if percent else offset

    chosen = files.paths[place(ends[0], 0) : place(ends[1], count)]
    if not chosen:
        raise InputError(f"split {split!r} is empty: {files.root} has {count} image files for it")
    return Files(files.root, chosen, files.left_out)


def _folder(name: str, data_dir: str | None) -> Path:
    path = name.removeprefix(FOLDER)
    if not path:
        raise InputError(f"{name!r} names no folder; wanted is {FOLDER}PATH")
    parts = [data_dir or "", path]
    return Path(*(os.path.expanduser(os.path.expandvars(part)) for part in parts))


def _unset(folder: Path) -> str:
    """What to add to the report of a missing folder if it is named by unknown variables."""
    unset = sorted({match[1].strip("{}") for match in _VARIABLE.finditer(str(folder))})
    return "".join(f"; the environment variable {name} is not set" for name in unset)
