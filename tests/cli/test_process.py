"""Settings of the process: compilation cache, memory allocator."""

import ctypes
import platform
import subprocess
import sys
import types

import jax
import pytest

from deconv_jax.cli.process import enable_compilation_cache, retain_freed_memory

RETAINS_MEMORY = """
import ctypes
from deconv_jax.cli.process import retain_freed_memory

SIZE = 64 * 2**20
library = ctypes.CDLL(None)
library.malloc.restype, library.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
library.free.argtypes = [ctypes.c_void_p]
library.sbrk.restype, library.sbrk.argtypes = ctypes.c_void_p, [ctypes.c_ssize_t]
retain_freed_memory()
start = library.sbrk(0)
library.free(library.malloc(SIZE))
kept = library.sbrk(0) - start
assert kept > SIZE / 2, kept  # Some of it was free before.
for _ in range(3):
    library.free(library.malloc(SIZE))
assert library.sbrk(0) - start == kept
"""


def test_compiled_programs_are_kept_unless_the_environment_says_otherwise(tmp_path, monkeypatch):
    settings = {}
    monkeypatch.setattr(jax.config, "update", settings.__setitem__)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "5")
    enable_compilation_cache()
    assert settings == {"jax_compilation_cache_dir": str(tmp_path / "deconv_jax" / "xla")}


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="requires glibc")
def test_freed_memory_is_retained_and_reused():
    """Even a block of 64 MB stays on the heap and is used again."""
    ran = subprocess.run([sys.executable, "-c", RETAINS_MEMORY], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr


def test_malloc_options_are_set(monkeypatch):
    options = {}
    library = types.SimpleNamespace(mallopt=options.__setitem__)
    monkeypatch.setattr(ctypes, "CDLL", lambda _: library)
    retain_freed_memory()
    # malloc.h: M_ARENA_MAX, M_MMAP_MAX and M_TRIM_THRESHOLD.
    assert options == {-8: 1, -4: 0, -1: 2**31 - 1}


@pytest.mark.parametrize("error", [AttributeError, OSError, TypeError])
def test_other_c_libraries_are_left_unchanged(monkeypatch, error):
    def refuse(_):
        raise error("no mallopt")

    monkeypatch.setattr(ctypes, "CDLL", refuse)
    retain_freed_memory()
    monkeypatch.setattr(ctypes, "CDLL", lambda _: object())
    retain_freed_memory()
