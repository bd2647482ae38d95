"""Reading and atomic writing of files, with errors for the user.

Files are written under a temporary name and then renamed, so they are either complete or missing.
Only regular files are read: opening a pipe or a device may block or have side effects.
"""

import contextlib
import errno
import functools
import json
import math
import os
import re
import secrets
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, Literal

from PIL import Image

from deconv_jax.errors import InputError

_DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
NOT_REGULAR = "not a regular file"
_URL = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]+):/+(?P<rest>.*)", re.DOTALL)


def check_local(path: str | Path) -> None:
    """Raise InputError if a path is a URL such as gs://bucket/run.

    Without this check it would name a local folder, because `Path` turns "gs://bucket" into "gs:/bucket".
    """
    url = _URL.fullmatch(str(path))
    if url:
        raise InputError(
            f"{url['scheme']}://{url['rest']} is not a path of the file system; mount the bucket as a folder, "
            "with gcsfuse for gs:// or mountpoint-s3 for s3://, and give the path of the folder"
        )


def kind_of(path: Path) -> Literal["file", "folder", "other"] | None:
    """Return the kind of file at a path, following links; None if nothing exists there.

    Pipes, sockets and devices are "other".

    Raises:
      InputError: The path cannot be accessed, for example without permission, or is a URL (`check_local`).
    """
    check_local(path)
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise InputError(f"cannot access {path}: {reason}") from error
    if stat.S_ISDIR(mode):
        return "folder"
    return "file" if stat.S_ISREG(mode) else "other"


def is_folder(path: Path) -> bool:
    """Return whether a path is a folder; False if it cannot be accessed."""
    try:
        return kind_of(path) == "folder"
    except InputError:
        return False


def check_regular(path: Path) -> None:
    """Raise InputError if a path is a pipe, a socket or a device, or cannot be accessed."""
    if kind_of(path) == "other":
        raise InputError(f"cannot read {path}: {NOT_REGULAR}")


def check_output_path(path: Path, *, overwrite: bool) -> None:
    """Raise InputError if a path exists and must not be replaced.

    A path that cannot be accessed is an InputError too.

    Args:
      path: Path of the output file.
      overwrite: Whether an existing regular file may be replaced. Folders, pipes, sockets and
        devices never may.
    """
    kind = kind_of(path)
    if kind in ("folder", "other"):
        raise InputError(f"cannot write {path}: it exists and is {NOT_REGULAR}")
    if kind == "file" and not overwrite:
        raise InputError(f"{path} exists; give --overwrite to replace it")


def open_regular(path: Path) -> BinaryIO:
    """Open a regular file for reading.

    Pipes and devices are not opened, because that may block.

    Raises:
      OSError: The file is missing, not a regular file or cannot be opened. It is not an InputError.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        kind = errno.EISDIR if path.is_dir() else errno.EINVAL
        raise OSError(kind, os.strerror(kind) if kind == errno.EISDIR else NOT_REGULAR, str(path))
    return path.open("rb")


def write_atomically(path: Path, write: Callable[[BinaryIO], Any]) -> None:
    """Create or replace a file atomically.

    Args:
      path: Path of the file. Missing parent folders are created.
      write: Function that writes the content to a binary file.

    Raises:
      InputError: The file cannot be written, or the path exists and is not a regular file. The path
        is then unchanged. Other exceptions of `write` are passed on, with the path unchanged too.
    """
    write_together({path: write})


def write_together(files: Mapping[Path, Callable[[BinaryIO], Any]]) -> None:
    """Create or replace files atomically, and only if all of them can be written.

    Every file is written under a temporary name beside its path before the first one is renamed. A rename that fails
    can leave the earlier ones done.

    Args:
      files: Function that writes the content to a binary file, by path. Missing parent folders are created.

    Raises:
      InputError: A file cannot be written, or its path exists and is not a regular file. Unless a rename fails, all
        paths are then unchanged. Other exceptions of the functions are passed on, with the paths unchanged too.
    """
    for path in files:
        check_output_path(path, overwrite=True)
    # A temporary name does not contain that of the file, which may have the maximal length.
    temporary = {path: path.with_name(f".{secrets.token_hex(8)}.tmp") for path in files}
    try:
        for path, write in files.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            with temporary[path].open("wb") as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())
        for path, complete in temporary.items():
            complete.replace(path)
    except OSError as error:
        raise write_error(path, error) from error
    finally:
        for left in temporary.values():
            with contextlib.suppress(OSError):  # already renamed, or never created
                left.unlink()


def write_png(path: Path, picture: Image.Image) -> None:
    """Write an image as PNG; errors and parent folders as for `write_atomically`."""
    write_atomically(path, functools.partial(picture.save, format="PNG"))


def make_folder(path: Path) -> None:
    """Create a folder and its parents if they are missing; raise InputError if that fails."""
    check_local(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise write_error(path, error) from error


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text; errors and parent folders as for `write_atomically`."""
    write_atomically(path, lambda file: file.write(text.encode()))


def write_json(path: Path, value: Any) -> None:
    """Write a value as indented JSON (`to_json`); errors and folders as for `write_atomically`."""
    write_text(path, to_json(value, indent=2))


def to_json(value: Any, indent: int | None = None) -> str:
    """Return a value as JSON with a final line break; infinity and NaN become null.

    Raises:
      TypeError: A value is not one of JSON, such as a NumPy array or integer.
    """
    return json.dumps(_finite(value), indent=indent, allow_nan=False) + "\n"


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def list_names(folder: Path) -> list[str]:
    """Return the sorted names of the files and folders in a folder; an empty list if it is missing.

    Raises:
      InputError: The path is not a folder or cannot be read.
    """
    try:
        return sorted(os.listdir(folder))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise InputError(f"cannot read {folder}: {error.strerror}") from error


def read_text(path: Path) -> str:
    """Read the UTF-8 text of a regular file; raise InputError if that fails or it is missing."""
    check_regular(path)
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read {path}: {error}") from error


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON file that contains an object.

    Raises:
      InputError: The file is missing or unreadable, or does not contain a JSON object.
    """
    text = read_text(path)
    try:
        return parse_json_object(text)
    except ValueError as error:
        raise InputError(f"cannot read {path}: {error}") from error


def parse_json_object(text: str) -> dict[str, Any]:
    """Parse a JSON object.

    Raises:
      ValueError: The text is not JSON, is nested too deeply, or is another value than an object.
    """
    try:
        value = json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if not isinstance(value, dict):
        kinds = {"list": "an array", "str": "a string", "bool": "a Boolean", "NoneType": "null"}
        kind = kinds.get(type(value).__name__, "a number")
        raise ValueError(f"it holds {kind}; a JSON object is required")
    return value


def write_error(path: Path, error: Exception) -> InputError:
    """Return, but do not raise, the InputError for a failure to write `path`."""
    full = isinstance(error, OSError) and error.errno in _DISK_FULL
    hint = " (free some space and run the same command again)" if full else ""
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    if isinstance(error, OSError) and error.strerror:
        reason = error.strerror
    return InputError(f"cannot write {path}: {reason}{hint}")
