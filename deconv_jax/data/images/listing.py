"""Find the image files of a folder."""

import collections
import os
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

from deconv_jax.data.images.image_file import FORMATS
from deconv_jax.errors import InputError
from deconv_jax.io import kind_of

SKIPPED_OTHER_FORMAT = "of a format that is not read here"

SKIPPED_LINK = "links to folders, which are not followed"

SKIPPED_HIDDEN = "hidden"

SKIPPED_UNREADABLE = "folders that cannot be read"


class FileListing(NamedTuple):
    """The files of a folder.

    Attributes:
      files: Files with one of the requested suffixes, sorted by path. Links to files are included.
      left_out: Other files and folders that were not entered, sorted, by the reason: `SKIPPED_OTHER_FORMAT`, `SKIPPED_LINK`,
        `SKIPPED_HIDDEN` or `SKIPPED_UNREADABLE`. Reasons that do not occur are missing.
    """

    files: list[Path]
    left_out: dict[str, list[Path]]


def list_images(folder: Path) -> list[Path]:
    """Return the image files in a folder and its subfolders, by suffix, sorted by path.

    Hidden files and folders and links to folders are left out. Files are not opened.

    Raises:
      InputError: The folder does not exist, or it or a folder in it cannot be read.
    """
    return list_files(folder, strict=True).files


def list_files(
    folder: Path, suffixes: Collection[str] = tuple(FORMATS), *, strict: bool = False
) -> FileListing:
    """Find the files with one of the suffixes in a folder and its subfolders, and report the others.

    Hidden files and folders, and links to folders, are reported and not searched.

    Args:
      folder: Folder to search.
      suffixes: Collection of suffixes in lower case, with the dot; not one string. Those of files may have upper case.
      strict: Whether an unreadable subfolder is an error, instead of being reported.

    Raises:
      InputError: The folder does not exist or cannot be read, or with `strict` a subfolder cannot be read.
    """
    if kind_of(folder) != "folder":
        raise InputError(f"no folder {folder}")
    found: list[Path] = []
    left_out: dict[str, list[Path]] = collections.defaultdict(list)

    def unreadable(error: OSError) -> None:
        path = Path(error.filename)
        if strict or path == folder:
            raise InputError(f"cannot read folder {path}: {error.strerror}") from error
        left_out[SKIPPED_UNREADABLE].append(path)

    for parent, folders, names in os.walk(folder, onerror=unreadable):
        left_out[SKIPPED_HIDDEN] += [
            Path(parent, n) for n in (*folders, *names) if n.startswith(".")
        ]
        folders[:] = [name for name in folders if not name.startswith(".")]
        paths = [Path(parent, name) for name in names if not name.startswith(".")]
        found += [path for path in paths if path.suffix.lower() in suffixes]
        left_out[SKIPPED_OTHER_FORMAT] += [
            path for path in paths if path.suffix.lower() not in suffixes
        ]
        below = [Path(parent, name) for name in folders]
        left_out[SKIPPED_LINK] += [path for path in below if path.is_symlink()]

    def place(path: Path) -> str:
        return path.relative_to(folder).as_posix()

    found.sort(key=place)
    return FileListing(
        found, {why: sorted(paths, key=place) for why, paths in left_out.items() if paths}
    )
