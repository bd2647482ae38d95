"""Splits of a folder of image files, written as short expressions.

    "all"                   every file, in the order of their paths
    "train"                 the files of a subfolder
    "all[:-10]"             a slice of the files; also "all[90%:]" or "train[100:200]"
    "all@0[:90%]"           a slice in a random order given by a seed, the same on every machine
    "portraits+landscapes"  several of these, one after the other
    "folder:PATH[:100]"     the files of another folder, which cannot be joined by "+"

Note:
  A slice counts every file, including those that turn out to be unreadable. The splits of a folder
  therefore stay disjoint if a file is damaged.
"""

import dataclasses
import hashlib
import os
import re
from pathlib import Path

from deconv_jax.data.images import SKIPPED_LINK, list_files
from deconv_jax.errors import InputError
from deconv_jax.io import check_local, kind_of

FOLDER_PREFIX = "folder:"
"""Start of a split expression that names another folder."""

_VARIABLE = re.compile(r"\$(\w+|\{[^}]*\})")
_SPLIT = re.compile(r"(?P<files>[^\[\]]*)(\[(?P<start>[^:\[\]]*):(?P<stop>[^:\[\]]*)\])?")
_BOUND = re.compile(r"(-?\d+)(%?)")
_SHUFFLED = re.compile(r"(?P<files>.*)@(?P<seed>\d+)")


@dataclasses.dataclass(frozen=True)
class Files:
    """Image files of a folder.

    Attributes:
      root: The folder, to which the names of the files are relative.
      paths: The files, in the order of examples.
      left_out: One line for each link to a folder, which is not followed.
    """

    root: Path
    paths: tuple[Path, ...]
    left_out: tuple[str, ...] = ()

    def name(self, path: Path) -> str:
        """Return the path of a file relative to the root, with / between folders."""
        return path.relative_to(self.root).as_posix()


def find_files(
    folder: str, split: str, data_dir: str | None = None, *, inside: str | None = None
) -> Files:
    """Return the files of a split of a folder.

    Args:
      folder: Path of the folder. ~ and environment variables are expanded. A relative path is relative to
        `data_dir`, or else to the working directory.
      split: Split expression: "all" or a subfolder, a slice such as "all[:90%]", a slice in a random order such
        as "all@SEED[:90%]", several joined by "+", or "folder:PATH" for another folder.
      data_dir: Folder that a relative path is relative to. ~ and environment variables are expanded.
      inside: Name of a folder; files that are not in a folder of this name, or below one, are ignored.

    Returns:
      The files with the suffix of an image format, including those in subfolders, sorted by path unless the
      order is random. They are not opened. Hidden files and linked folders are left out. The root is `folder`,
      or the other folder, even if the files are in a subfolder.

    Raises:
      InputError: The folder does not exist or cannot be read, or the split is ill-formed or has no files.
    """
    one = _SPLIT.fullmatch(split)
    joined = "+" in split and FOLDER_PREFIX not in split
    # The name of a subfolder may contain a "+".
    if joined and not (one and kind_of(expanded_path(folder, data_dir) / one["files"]) == "folder"):
        parts = [find_files(folder, part, data_dir, inside=inside) for part in split.split("+")]
        lines = dict.fromkeys(line for part in parts for line in part.left_out)
        return Files(
            parts[0].root, tuple(path for part in parts for path in part.paths), tuple(lines)
        )
    chosen, bounds = parse_split(split)
    root, subfolder, seed = _resolve(folder, chosen, split, data_dir)
    found = list_files(subfolder, strict=True)
    links = found.left_out.get(SKIPPED_LINK, ())
    left_out = tuple(f"{path} is a link to a folder, not followed" for path in links)
    paths = found.files
    if inside is not None:
        paths = [path for path in paths if inside in path.relative_to(root).parent.parts]
        if not paths:
            raise InputError(
                f"split {split!r}: {subfolder} has no image files in a folder {inside!r}"
            )
    files = Files(root, tuple(paths), left_out)
    return slice_files(files if seed is None else _shuffled(files, seed), split, bounds)


def _resolve(
    folder: str, chosen: str, split: str, data_dir: str | None
) -> tuple[Path, Path, int | None]:
    """Return the root, the folder of a split's files, and the seed of their order if they are shuffled."""
    elsewhere = chosen.startswith(FOLDER_PREFIX)
    shuffled = _SHUFFLED.fullmatch(chosen)
    named = (
        expanded_path(chosen.removeprefix(FOLDER_PREFIX), data_dir)
        if elsewhere
        else expanded_path(folder, data_dir) / chosen
    )
    # The name of a folder may end in "@SEED" too.
    seed = int(shuffled["seed"]) if shuffled and kind_of(named) != "folder" else None
    if shuffled and seed is not None:
        chosen = shuffled["files"]
    root = expanded_path(chosen.removeprefix(FOLDER_PREFIX) if elsewhere else folder, data_dir)
    if kind_of(root) != "folder":
        raise InputError(f"split {split!r}: no folder {root}{_unset_variables(root)}")
    if not elsewhere and (Path(chosen).is_absolute() or ".." in Path(chosen).parts):
        raise InputError(
            f"split {split!r} is not a folder in {root}; write another folder as {FOLDER_PREFIX}PATH"
        )
    subfolder = root if elsewhere or chosen == "all" else root / chosen
    if kind_of(subfolder) != "folder":
        raise InputError(
            f'{root} has no split {split!r}: it is not "all", and {subfolder} is not a folder; '
            'a slice of the files is written "all[:-10]"'
        )
    return root, subfolder, seed


def random_splits(files: Files, seed: int = 0) -> dict[str, str]:
    """Split all files of a folder at random, about 80, 10 and 10 percent.

    Args:
      files: The files of the split "all"; only their number matters.
      seed: Seed of the random order.

    Returns:
      The split expressions by name: "train", "validation" and "test".

    Raises:
      InputError: There are fewer than three files.
    """
    count = len(files.paths)
    if count < 3:
        raise InputError(
            f"a training, a validation and a test split need one image file each; {files.root} has {count}"
        )
    held_out = max(1, round(0.1 * count))
    return {
        "train": f"all@{seed}[:-{2 * held_out}]",
        "validation": f"all@{seed}[-{2 * held_out}:-{held_out}]",
        "test": f"all@{seed}[-{held_out}:]",
    }


def _shuffled(files: Files, seed: int) -> Files:
    """Order files by a hash of seed and name. Adding or removing a file keeps the order of the others."""

    def place(path: Path) -> bytes:
        return hashlib.sha256(os.fsencode(f"{seed}/{files.name(path)}")).digest()

    return dataclasses.replace(files, paths=tuple(sorted(files.paths, key=place)))


def parse_split(split: str) -> tuple[str, tuple[str, str]]:
    """Return the files that a split is a slice of, and the two bounds; "" for an open bound.

    "all@0[:90%]" gives ("all@0", ("", "90%")), and "train" gives ("train", ("", "")). Whether the files exist
    is not checked. A "+" is not special.

    Raises:
      InputError: The split is ill-formed.
    """
    match = _SPLIT.fullmatch(split)
    bounds = (match["start"] or "", match["stop"] or "") if match else ("", "")
    if match is None or any(bound and not _BOUND.fullmatch(bound) for bound in bounds):
        raise InputError(
            f'split {split!r} is ill-formed; valid are e.g. "all", "train[:100]" or "all[90%:]"'
        )
    return match["files"], bounds


def slice_files(files: Files, split: str, bounds: tuple[str, str]) -> Files:
    """Return a slice of files.

    Args:
      files: The files.
      split: Split expression, for error messages.
      bounds: Start and stop as text: integers or percentages, counted from the end if negative, or "" for
        an open bound. -10% is the same position as 90%, so [:90%] and [-10%:] share no file.

    Raises:
      InputError: A bound is out of range, or the slice is empty.
    """
    count = len(files.paths)

    def place(bound: str, default: int) -> int:
        match = _BOUND.fullmatch(bound)
        if match is None:
            return default
        number, percent = match.groups()
        whole = 100 if percent else count
        if abs(int(number)) > whole:
            raise InputError(
                f"split {split!r}: {bound} is beyond the {count} files of {files.root}"
            )
        offset = int(number) + (whole if number.startswith("-") else 0)
        return round(offset * count / 100) if percent else offset

    chosen = files.paths[place(bounds[0], 0) : place(bounds[1], count)]
    if not chosen:
        raise InputError(f"split {split!r} is empty: {files.root} has {count} image files for it")
    return Files(files.root, chosen, files.left_out)


def expanded_path(folder: str, data_dir: str | None) -> Path:
    """Return a path relative to `data_dir`, with ~ and environment variables expanded.

    Raises:
      InputError: The path is empty, or not local.
    """
    if not folder:
        raise InputError("the path of a folder must not be empty")
    parts = [os.path.expandvars(part) for part in (data_dir or "", folder)]
    for part in parts:
        check_local(part)
    return Path(*map(os.path.expanduser, parts))


def _unset_variables(folder: Path) -> str:
    """Return the end of an error message about a folder whose path has unset variables."""
    unset = sorted({match[1].strip("{}") for match in _VARIABLE.finditer(str(folder))})
    return "".join(f"; the environment variable {name} is not set" for name in unset)
