"""What several commands share: configs, words of flags, the cache of compiled programs."""

import ast
import ctypes
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from deconv_jax.config_arguments import load_module
from deconv_jax.errors import InputError

_KEEP = ((-8, 1), (-4, 0), (-1, 2**31 - 1))
"""glibc's M_ARENA_MAX, M_MMAP_MAX and M_TRIM_THRESHOLD: one heap, nothing outside it, never given back."""

EXIT_SOME_FAILED = 1
EXIT_INPUT_ERROR = 2
EXIT_INTERRUPTED = 75
EXIT_KEYBOARD = 130


def load_config(path_and_argument: str, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """The config that a file's `get_config` returns, as a dict, with overrides.

    Args:
      path_and_argument: "FILE.py" or "FILE.py:ARGUMENT".
      overrides: "--config.KEY.KEY=VALUE"; the value is a Python literal, or else a string.

    Raises:
      InputError: no such file, no `get_config` in it, or an override that is none.
    """
    name, _, argument = path_and_argument.partition(":")
    module = load_module(Path(name))
    if not hasattr(module, "get_config"):
        raise InputError(f"config file {name!r} has no get_config(arg)")
    config = module.get_config(argument).to_dict()
    for word in overrides:
        keys, equals, text = word.removeprefix("--config.").partition("=")
        if not equals or not keys:
            raise InputError(f"an override is --config.KEY=VALUE; got {word!r}")
        *groups, last = keys.split(".")
        group = config
        for key in groups:
            group = group.setdefault(key, {})
            if not isinstance(group, dict):
                raise InputError(f"{word!r}: config.{key} is a value, not a group of settings")
        group[last] = literal(text)
    return config


def checkpoint_step(word: str) -> Any:
    """Which checkpoint of a run the word of --step stands for."""
    if word in ("last", "best"):
        return word
    try:
        return int(word)
    except ValueError:
        raise InputError(f"--step is last, best or a step; got {word!r}") from None


def check_folder(flag: str, folder: Path | None, *, overwrite: bool) -> None:
    """Raises InputError unless a folder for files, if one is asked for, is empty or may be written over."""
    if folder is None or not folder.exists():
        return
    if not folder.is_dir():
        raise InputError(f"{flag}: {folder} is not a folder")
    if not overwrite and any(folder.iterdir()):
        raise InputError(f"{folder} is not empty; give --overwrite to replace files in it")


def keep_compiled() -> None:
    """Keeps compiled programs between runs, unless the environment says where or not to."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(cache) / "deconv_jax" / "xla"))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")


def keep_memory() -> None:
    """Has the C library keep memory that is freed, for what asks for the same again at every step.

    XLA gets the temporaries of a step on a CPU anew each time; where they come from the system, page by
    page, that is a tenth of a small step's time. Does nothing but with glibc.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    for option, value in _KEEP:
        mallopt(option, value)


def literal(text: str) -> Any:
    """A Python literal, or else the text itself."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
