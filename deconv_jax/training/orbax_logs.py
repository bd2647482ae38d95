"""Silence the messages that orbax prints about errors it also raises.

When orbax cannot read or write one array, it abandons the tasks of the others. Each abandoned task logs its
exception when it ends or is collected, which may be long after the failed call.
"""

import functools
import logging
import os
import re
import sys
import traceback
import warnings
from typing import Any

_ABANDONED = ("Event loop is closed", "Encountered error while reading array index")
"""Beginnings of the exceptions of abandoned tasks."""
_TENSORSTORE_STATUS = re.compile(r"[A-Z_]{5,}: ")
"""Status code with which the message of a TensorStore error, a plain ValueError, begins."""


@functools.cache
def silence_orbax() -> None:
    """Drop what orbax prints about failed reads and writes, for the rest of the process, once.

    That is: the log records of absl and asyncio that orbax causes, its warning about a coroutine that was never
    awaited, and unraisable exceptions of abandoned tasks ("Event loop is closed", also from other code).

    The command line calls this. It changes loggers and `sys.unraisablehook` of the whole process, so nothing
    else in the package does.
    """
    for name in ("absl", "asyncio"):
        logging.getLogger(name).addFilter(_is_not_from_orbax)
    warnings.filterwarnings("ignore", "coroutine '_read_array_index", RuntimeWarning)
    previous = sys.unraisablehook

    def hook(unraisable: Any) -> None:
        if not str(unraisable.exc_value).startswith(_ABANDONED):
            previous(unraisable)

    sys.unraisablehook = hook


def _is_not_from_orbax(record: logging.LogRecord) -> bool:
    _, error, trace = record.exc_info or (None, None, None)
    # An abandoned task may be collected when no frame of orbax is left on the stack.
    if type(error) is ValueError and _TENSORSTORE_STATUS.match(str(error)):
        return False
    # The record may name a file of absl or asyncio as its origin, so inspect the stack instead.
    frames = (*traceback.walk_stack(None), *traceback.walk_tb(trace))
    files = (frame.f_code.co_filename for frame, _ in frames)
    return not any(f"{os.sep}orbax{os.sep}" in file for file in files)
