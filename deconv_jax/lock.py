"""An exclusive lock on a folder, which the kernel releases even if its holder is killed."""

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
from deconv_jax.io import kind_of, write_error

LOCK = ".lock"
"""Name of the file in a locked folder that identifies the holder of the lock."""
_TRIES = 100
"""Number of times to open a lock file that other processes keep removing."""


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder in a `with` block; create the folder if it is missing.

    The lock file is removed at the end, and so are folders that were created and stayed empty. If
    the file system does not support locks, a warning is printed and the folder is used without a
    lock.

    Args:
      folder: Folder to lock.

    Raises:
      InputError: The lock is held already, by the process that the message names or by this one, or
        the folder cannot be written. The call does not wait.
    """
    created = [path for path in (folder, *folder.parents) if kind_of(path) is None]
    path = folder / LOCK
    try:
        with _locked_file(path) as file:
            holder = f"process {os.getpid()} on {platform.node()} since {time.ctime()}"
            with contextlib.suppress(OSError):  # the disk is full, but the lock is held
                file.truncate(0)
                file.write(holder.encode())
            try:
                yield
            finally:
                with contextlib.suppress(OSError):
                    path.unlink()
    finally:
        with contextlib.suppress(OSError):  # the folder contains other files
            for path in created:
                path.rmdir()


def _locked_file(path: Path) -> BinaryIO:
    for _ in range(_TRIES):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = path.open("ab+", buffering=0)
        except FileNotFoundError:
            continue  # the previous holder has just removed the folder
        except OSError as error:
            raise write_error(path, error) from error
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            with file:
                file.seek(0)
                holder = file.read(200).decode(errors="replace") or "another process"
            raise InputError(
                f"{path.parent} is in use by {holder}; wait until it ends or use another folder"
            ) from None
        except OSError as error:
            print(f"warning: {path.parent} is not locked: {error.strerror}", file=sys.stderr)
            return file
        # The previous holder may have removed the file since it was opened.
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                return file
        file.close()
    raise InputError(f"cannot write {path}: other processes keep removing it")
