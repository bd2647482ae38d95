"""Memory use of compiled programs, free memory, and out-of-memory errors."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import jax

from deconv_jax.errors import InputError


def working_bytes(compiled: jax.stages.Compiled) -> int:
    """Return the bytes a program uses beside its arguments: temporaries and output; 0 if unknown."""
    memory = compiled.memory_analysis()
    if memory is None:
        return 0
    return memory.temp_size_in_bytes + memory.output_size_in_bytes


def free_memory() -> int:
    """Return the free bytes on the first accelerator, or on the host if there is no accelerator.

    Where the system does not report free memory, return its total memory, or else 4 GiB.
    """
    statistics = jax.local_devices()[0].memory_stats()
    if statistics and "bytes_limit" in statistics:
        return statistics["bytes_limit"] - statistics["bytes_in_use"]
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(int(w[1]) << 10 for w in map(str.split, lines) if w[0] == "MemAvailable:")
    except (OSError, StopIteration):
        pass
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return 4 << 30


@contextlib.contextmanager
def catch_out_of_memory(message: str) -> Iterator[None]:
    """Raise InputError with this message if the `with` block runs out of host or accelerator memory."""
    try:
        yield
    except (MemoryError, jax.errors.JaxRuntimeError) as error:
        if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error):
            raise InputError(message) from error
        raise
