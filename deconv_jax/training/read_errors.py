"""Why a checkpoint cannot be read: damage or a missing permission."""

import os
from collections.abc import Iterator
from pathlib import Path

from deconv_jax.errors import InputError

READ_ERRORS = (
    OSError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    ArithmeticError,
    RecursionError,
)
"""Exceptions that reading a damaged checkpoint can raise."""


def raise_if_permission_denied(path: Path, error: BaseException) -> None:
    """Raise InputError if an error comes from a missing permission, which is not damage.

    The error names a missing permission, or a subfolder of the checkpoint cannot be entered.

    Args:
      path: Folder of the checkpoint.
      error: Error of reading it.
    """
    for cause in _causes(error):
        if isinstance(cause, PermissionError) or "PERMISSION_DENIED" in str(cause):
            raise InputError(f"cannot read {path}: permission denied") from error
    # A file in a folder without execute permission looks as if it were missing.
    for parent, folders, _ in os.walk(path):
        for name in folders:
            folder = Path(parent, name)
            if not os.access(folder, os.R_OK | os.X_OK):
                raise InputError(f"cannot read {folder}: permission denied") from error


def root_reason(error: Exception) -> str:
    """Return the first line, at most 200 characters, of the message of an error's root cause.

    An InputError is its own root cause. A cause without a message is described by its type.
    """
    root = error if isinstance(error, InputError) else [*_causes(error)][-1]
    return (str(root).strip().splitlines() or [type(root).__name__])[0][:200]


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error, its cause, the cause of that, and so on."""
    while error is not None:
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
