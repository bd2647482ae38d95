"""Files that are either whole or not there: written under a temporary name, then renamed.

Only regular files are read. To open a pipe or a device may wait forever or have effects of its own.
"""

import contextlib
import errno
import functools
import json
import math
import os
import secrets
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, Literal

from PIL import Image

from deconv_jax.errors import InputError

_DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
NOT_REGULAR = "not a regular file"


def kind_of(path: Path) -> Literal["file", "folder", "other"] | None:
    """Return what is at a path, links followed; None for nothing, "other" for a pipe or a device.

    Raises:
      InputError: it cannot be found out, for example without permission.
    """
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
    """Return whether there is a folder at a path, False if that cannot be found out."""
    try:
        return kind_of(path) == "folder"
    except InputError:
        return False


def check_regular(path: Path) -> None:
    """Raise InputError for what is there and is no regular file."""
    if kind_of(path) == "other":
        raise InputError(f"cannot read {path}: {NOT_REGULAR}")


def check_unused(path: Path, *, overwrite: bool) -> None:
    """Raise InputError unless a file may be written here.

    Args:
      path: where a result goes.
      overwrite: whether a regular file that is there may be replaced.
    """
    kind = kind_of(path)
    if kind in ("folder", "other"):
        raise InputError(f"cannot write {path}: it is there and {NOT_REGULAR}")
    if kind == "file" and not overwrite:
        raise InputError(f"{path} is there already; give --overwrite to replace it")


def open_regular(path: Path) -> BinaryIO:
    """Open a regular file for reading; raises OSError for anything else, which is not opened."""
    if not stat.S_ISREG(path.stat().st_mode):
        kind = errno.EISDIR if path.is_dir() else errno.EINVAL
        raise OSError(kind, os.strerror(kind) if kind == errno.EISDIR else NOT_REGULAR, str(path))
    return path.open("rb")


def write_atomically(path: Path, write: Callable[[BinaryIO], Any]) -> None:
    """Creates or replaces `path` with what `write` puts into the file it is given.

    Raises:
      InputError: the file cannot be written, or what is there is no regular file; it is untouched.
    """
    if kind_of(path) == "other":
        raise InputError(f"cannot write {path}: it is there and {NOT_REGULAR}")
    # Not of the file's own name, which may be as long as a name can be.
    temporary = path.with_name(f".{secrets.token_hex(8)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise cannot_write(path, error) from error
    finally:
        with contextlib.suppress(OSError):  # Renamed, or its folder could not be made.
            temporary.unlink()


def write_png(path: Path, picture: Image.Image) -> None:
    """Writes a picture as PNG, atomically."""
    write_atomically(path, functools.partial(picture.save, format="PNG"))


def make_folder(path: Path) -> None:
    """Creates a folder, unless it is there; raises InputError where that cannot be."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_write(path, error) from error


def write_text(path: Path, text: str) -> None:
    """Writes UTF-8 text, atomically."""
    write_atomically(path, lambda file: file.write(text.encode()))


def write_json(path: Path, value: Any) -> None:
    """Writes `value` as indented JSON, atomically; see `json_text`."""
    write_text(path, json_text(value, indent=2))


def json_text(value: Any, indent: int | None = None) -> str:
    """`value` as JSON with a line end; infinity and NaN, which JSON has no word for, as null."""
    return json.dumps(_finite(value), indent=indent, allow_nan=False) + "\n"


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def names_in(folder: Path) -> list[str]:
    """Return the sorted names of what is in a folder, none if it is missing; InputError if unreadable."""
    try:
        return sorted(os.listdir(folder))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise InputError(f"cannot read {folder}: {error.strerror}") from error


def read_text(path: Path) -> str:
    """Reads the UTF-8 text of a regular file; raises InputError where that cannot be."""
    check_regular(path)
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read {path}: {error}") from error


def read_json(path: Path) -> dict[str, Any]:
    """Reads the object that a JSON file holds.

    Raises:
      InputError: it is missing, unreadable, not JSON or another value than an object.
    """
    text = read_text(path)
    try:
        return json_object(text)
    except ValueError as error:
        raise InputError(f"cannot read {path}: {error}") from error


def json_object(text: str) -> dict[str, Any]:
    """Parses a JSON object.

    Raises:
      ValueError: the text is not JSON, too deeply nested, or of another value than an object.
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


def cannot_write(path: Path, error: Exception) -> InputError:
    """The error to show a person when `path` could not be written."""
    full = isinstance(error, OSError) and error.errno in _DISK_FULL
    hint = " (free some space and run the same command again)" if full else ""
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    if isinstance(error, OSError) and error.strerror:
        reason = error.strerror
    return InputError(f"cannot write {path}: {reason}{hint}")
