"""Settings of the whole process: logging, compilation cache, memory allocator."""

import ctypes
import io
import logging
import os
import sys
import warnings
from pathlib import Path

from deconv_jax.training.orbax_logs import silence_orbax

_MALLOPT = ((-8, 1), (-4, 0), (-1, 2**31 - 1))
"""glibc's M_ARENA_MAX=1, M_MMAP_MAX=0 and M_TRIM_THRESHOLD=max: one heap that never shrinks."""


def configure_output() -> None:
    """Silence third-party logs that repeat an error, and make any file name printable."""
    # orbax, TFDS and grain log internal details as warnings of absl's logger.
    logging.getLogger("absl").setLevel(logging.ERROR)
    silence_orbax()
    # tifffile and Pillow log damaged files, which our own errors already report.
    logging.getLogger("tifffile").setLevel(logging.CRITICAL)
    warnings.filterwarnings("ignore", module=r"PIL\.")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def enable_compilation_cache() -> None:
    """Keep compiled programs in ~/.cache/deconv_jax/xla between runs.

    $XDG_CACHE_HOME replaces ~/.cache. Settings of JAX in environment variables take precedence.
    """
    import jax

    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    settings = {
        "jax_compilation_cache_dir": str(Path(cache) / "deconv_jax" / "xla"),
        "jax_persistent_cache_min_compile_time_secs": 0.1,
    }
    for name, value in settings.items():
        if name.upper() not in os.environ:
            jax.config.update(name, value)


def retain_freed_memory() -> None:
    """Make malloc keep freed memory for the next training step; do nothing without glibc.

    On a CPU, XLA allocates the temporaries of every step anew. Page faults on memory fresh from the
    system would take a tenth of the time of a small step.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    for option, value in _MALLOPT:
        mallopt(option, value)
