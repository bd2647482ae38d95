"""An exclusive lock on a folder, which the kernel releases when its holder ends, however that is."""

import contextlib
import fcntl
import os
import platform
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from deconv_jax.errors import InputError
from deconv_jax.io import cannot_write, kind_of

LOCK = ".lock"
"""File in a locked folder; it says who holds the lock."""
_TRIES = 100
"""Times that a file is opened which other processes remove meanwhile."""


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder, which is created where it is missing.

    The lock's file is removed at the end, and so are folders that were created and stayed empty. Where
    the file system has no locks, a warning is printed and the folder is used without one.

    Raises:
      InputError: another process holds the lock, which the message names; or the folder cannot be written.
    """
    created = [path for path in (folder, *folder.parents) if kind_of(path) is None]
    path = folder / LOCK
    try:
        with _locked_file(path) as file:
            holder = f"process {os.getpid()} on {platform.node()} since {time.ctime()}"
            with contextlib.suppress(OSError):  # The disk is full: the lock is held all the same.
                file.truncate(0)
                file.write(holder.encode())
            try:
                yield
            finally:
                with contextlib.suppress(OSError):
                    path.unlink()
    finally:
        with contextlib.suppress(OSError):  # Another file is in it.
            for path in created:
                path.rmdir()


def _locked_file(path: Path) -> BinaryIO:
    for _ in range(_TRIES):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = path.open("ab+", buffering=0)
        except FileNotFoundError:
            continue  # The holder before has just removed the folder.
        except OSError as error:
            raise cannot_write(path, error) from error
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            with file:
                file.seek(0)
                holder = file.read(200).decode(errors="replace") or "another process"
            raise InputError(
                f"{path.parent} is in use by {holder}; wait until it has ended or use another folder"
            ) from None
        except OSError as error:
            print(f"warning: {path.parent} is not locked: {error.strerror}", file=sys.stderr)
            return file
        # The holder before may have removed the file since it was opened.
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                return file
        file.close()
    raise InputError(f"cannot write {path}: it vanishes as soon as it is opened")
