"""Files that are either whole or not there: written under a temporary name, then renamed."""

import contextlib
import errno
import functools
import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from PIL import Image

from deconv_jax.errors import InputError

_DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def write_atomically(path: Path, write: Callable[[BinaryIO], Any]) -> None:
    """Creates or replaces `path` with what `write` puts into the file it is given.

    Raises:
      InputError: the file cannot be written; what was there before is untouched.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
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


def read_json(path: Path) -> Any:
    """Reads a JSON file.

    Raises:
      InputError: it is missing, unreadable or not JSON.
    """
    try:
        return json.loads(path.read_text())
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(f"cannot read {path}: {error}") from error


def cannot_write(path: Path, error: Exception) -> InputError:
    """The error to show a person when `path` could not be written."""
    full = isinstance(error, OSError) and error.errno in _DISK_FULL
    hint = " (free some space and run the same command again)" if full else ""
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return InputError(f"cannot write {path}: {reason}{hint}")
