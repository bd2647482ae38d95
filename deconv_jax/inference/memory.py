"""Memory of programs: what they need, what is free, and one clear error when it runs out."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import jax

from deconv_jax.errors import InputError


def working_bytes(compiled: jax.stages.Compiled) -> int:
    """What a compiled network takes while it works, without its weights and its input; 0: unknown."""
    memory = compiled.memory_analysis()
    if memory is None:
        return 0
    return memory.temp_size_in_bytes + memory.output_size_in_bytes


def free_memory() -> int:
    """Bytes free for a program: on the accelerator, or on the machine where there is none.

    Where the system does not say what is free, all of its memory; where it says nothing, 4 GiB.
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
def catch_out_of_memory(otherwise: str) -> Iterator[None]:
    """Turns running out of memory, the machine's or the accelerator's, into an InputError."""
    try:
        yield
    except (MemoryError, jax.errors.JaxRuntimeError) as error:
        if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error):
            raise InputError(otherwise) from error
        raise
