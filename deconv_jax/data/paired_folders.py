"""Folders of image pairs: the inputs of a restoration network, and the targets.

    input/NAME.png    degraded image
    target/NAME.png   clean image, of the same size or an integer multiple of it

The two files of a pair have the same name up to the format, and the same place below `input` and `target`.
"""

import collections
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from deconv_jax.data.batch import HostBatch
from deconv_jax.data.decoded_files import CACHE_BYTES, DecodedFiles, FileInfo
from deconv_jax.data.file_splits import Files
from deconv_jax.data.folders import common_shape, file_fingerprint, pad_reflect, tile_starts
from deconv_jax.data.images import Color, list_images
from deconv_jax.data.overlap import image_file_records
from deconv_jax.errors import InputError, at_least

INPUT_FOLDER, TARGET_FOLDER = "input", "target"


class PairedSource:
    """A split of image pairs with features "image" (the target), "input" and "size" (of the target).

    Every file is decoded once at the start. Pairs with a damaged file are left out. All other pairs must match.

    Args:
      targets: The target files, in the order of examples; see `find_files` with `inside="target"`.
      tile: Side in pixels of the square tiles of targets used as examples, a multiple of the scale; inputs
        are cut at the same place. None for whole images, padded to a common shape.
      color: Channels of the images: "rgb", "gray" or "y"; see `read_pixels`.
      cache_bytes: Size in bytes of the cache of decoded images; each loading process has its own.

    Attributes:
      scale: Ratio of the sizes of targets and inputs.
      names: Paths of the readable targets, relative to the folder.
      fingerprint: Identification by the names and sizes of the files and the options, not by the pixels.
      files: The readable targets; see `Source.files`.
      skipped: One line for each file or link that was left out, with the reason.

    Raises:
      InputError: Pairs do not match: a file has no partner, or the size of a target is not the size of its
        input times the scale, an integer that all pairs share. The message lists all of them. Or no pair can
        be read, or `tile` is not a multiple of the scale.
    """

    def __init__(
        self,
        targets: Files,
        *,
        tile: int | None = None,
        color: Color = "rgb",
        cache_bytes: int = CACHE_BYTES,
    ):
        self._channels, self._decoded = 3 if color == "rgb" else 1, DecodedFiles(color, cache_bytes)
        pairs, problems = _pair_files(targets)
        paths = [path for pair in pairs.items() for path in pair]
        with ThreadPoolExecutor(os.cpu_count()) as threads:
            found = dict(zip(paths, threads.map(self._decoded.inspect, paths), strict=True))
        unreadable = tuple(reason for reason in found.values() if isinstance(reason, str))
        infos = {path: info for path, info in found.items() if not isinstance(info, str)}
        self.skipped = (*targets.left_out, *unreadable)
        pairs = {t: i for t, i in pairs.items() if t in infos and i in infos}
        scales = {t: _scale(infos[t], infos[i]) for t, i in pairs.items()}
        counts = collections.Counter(scale for scale in scales.values() if scale)
        self.scale = counts.most_common(1)[0][0] if counts else 1
        problems += [
            f"{targets.name(target)} has {_size(infos[target])}, not {self.scale} times the "
            f"{_size(infos[pairs[target]])} of its input"
            for target, scale in scales.items()
            if scale != self.scale
        ]
        if problems:
            raise InputError(
                f"{len(problems)} mismatches between {INPUT_FOLDER} and {TARGET_FOLDER} in {targets.root}:\n  "
                + "\n  ".join(problems)
            )
        if not pairs:
            raise InputError(f"no pair that can be read in {targets.root}: {unreadable[0]}")
        self._set_examples(pairs, infos, tile)
        self.names = tuple(map(targets.name, pairs))
        self.files = image_file_records(pairs)
        self.fingerprint = file_fingerprint(
            len(self),
            {targets.name(path): infos[path] for pair in pairs.items() for path in pair},
            (tile, color),
        )

    def __len__(self) -> int:
        return len(self._examples)

    def gather(self, indices: np.ndarray) -> HostBatch:
        """Return the examples at `indices`, padded by reflection to the shape of the source.

        "image" is uint8 (count, height, width, 3 or 1), the target, and "input" (count, height / scale, width /
        scale, 3 or 1). "size", int32 (count, 2), is the part of "image" that is not padding.

        Raises:
          InputError: A file has become unreadable.
        """
        height, width = self._input_shape
        count, scale = len(indices), self.scale
        batch: HostBatch = {
            "image": np.empty((count, scale * height, scale * width, self._channels), np.uint8),
            "input": np.empty((count, height, width, self._channels), np.uint8),
            "size": np.empty((count, 2), np.int32),
        }
        for row, index in enumerate(indices):
            target, given, top, left = self._examples[index]
            for name, path, s in ("image", target, scale), ("input", given, 1):
                rows = slice(s * top, s * (top + height))
                part = self._decoded.read(path)[rows, s * left : s * (left + width)]
                batch[name][row] = pad_reflect(part, s * height, s * width)
                if name == "image":
                    batch["size"][row] = part.shape[:2]
        return batch

    def _set_examples(
        self, pairs: Mapping[Path, Path], infos: Mapping[Path, FileInfo], tile: int | None
    ) -> None:
        """Set the examples: target, input, and the top left corner in the input."""
        inputs = [infos[path] for path in pairs.values()]
        if tile is None:
            self._input_shape = common_shape(inputs)
            self._examples = [(*pair, 0, 0) for pair in pairs.items()]
            return
        at_least("tile", tile, 1)
        if tile % self.scale:
            raise InputError(
                f"tile must be a multiple of the pairs' scale {self.scale}; got {tile}"
            )
        side = tile // self.scale
        self._input_shape = (side, side)
        self._examples = [
            (*pair, top, left)
            for pair, info in zip(pairs.items(), inputs, strict=True)
            for top in tile_starts(info.height, side)
            for left in tile_starts(info.width, side)
        ]


def _pair_files(targets: Files) -> tuple[dict[Path, Path], list[str]]:
    """Return the input of each target, and one line for each file without a partner.

    All files of the folders with the targets are compared, whatever slice of them the targets are.
    """
    inputs: dict[Path, Path] = {}
    problems = []
    for folder in dict.fromkeys(_target_folder(targets, path) for path in targets.paths):
        ours, theirs = _by_name(folder), _by_name(folder.with_name(INPUT_FOLDER))
        for group, other, partner in (ours, theirs, "input"), (theirs, ours, "target"):
            for name, paths in group.items():
                files = " and ".join(map(targets.name, paths))
                if len(paths) > 1:
                    problems.append(f"{files} have the same name")
                elif name not in other:
                    problems.append(f"{files} has no {partner}")
        inputs |= {paths[0]: theirs[name][0] for name, paths in ours.items() if name in theirs}
    return {path: inputs[path] for path in targets.paths if path in inputs}, problems


def _target_folder(targets: Files, path: Path) -> Path:
    """Return the first folder called "target" on the way from the root to a file."""
    parts = path.relative_to(targets.root).parts
    return targets.root.joinpath(*parts[: parts.index(TARGET_FOLDER) + 1])


def _by_name(folder: Path) -> dict[str, list[Path]]:
    """Return the image files of a folder and its subfolders by their relative path without suffix."""
    found = collections.defaultdict(list)
    for path in list_images(folder):
        found[path.relative_to(folder).with_suffix("").as_posix()].append(path)
    return dict(found)


def _scale(target: FileInfo, given: FileInfo) -> int | None:
    """Return the integer ratio of the sizes of a target and its input; None if there is none."""
    scale = target.height // given.height
    same = (target.height, target.width) == (scale * given.height, scale * given.width)
    return scale if same else None


def _size(info: FileInfo) -> str:
    return f"{info.width} x {info.height} pixels"
