"""What several commands share: configs, words of flags, the cache of compiled programs."""

import ast
import ctypes
import math
import os
import sys
from collections.abc import Iterator, Sequence, Set
from fractions import Fraction
from pathlib import Path
from typing import Any

from deconv_jax.config_arguments import load_module
from deconv_jax.errors import InputError, printable

_KEEP = ((-8, 1), (-4, 0), (-1, 2**31 - 1))
"""glibc's M_ARENA_MAX, M_MMAP_MAX and M_TRIM_THRESHOLD: one heap, nothing outside it, never given back."""

_FROM_THE_START = ("warmup_steps", "kl_warmup_steps", "generator_only_steps")
_WITHIN_THE_RUN = ("decay_steps", "step_boundaries")
"""Settings that count steps of the run and so scale with its length; the former are rounded down, the
latter up, so that what came after a warm-up still does."""

EXIT_SOME_FAILED = 1
EXIT_INPUT_ERROR = 2
EXIT_INTERRUPTED = 75
EXIT_KEYBOARD = 130


def load_config(path_and_argument: str, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """The config that a file's `get_config` returns, as a dict, with overrides.

    Where an override names another folder of images, the splits of the file's own data set are left
    out; where one makes the run shorter, settings that count steps of the run are scaled with it. Both
    leave other overrides alone, and a line on standard error says so.

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
    length, data_set, given = _length(config), _setting(config, "data", "name"), set()
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
        given.add(keys)
    if _setting(config, "data", "name") != data_set:
        dropped = list(_drop_splits(config["data"], given))
        if dropped:
            print(f"note: with another data.name go {', '.join(dropped)}", file=sys.stderr)
    steps = _length(config)
    if length and steps and steps < length:
        scaled = list(_shorten(config, Fraction(steps, length), given))
        if scaled:
            print(
                f"note: training.num_steps {length} -> {steps} also changes {', '.join(scaled)}",
                file=sys.stderr,
            )
    return config


def _setting(config: dict[str, Any], group: str, key: str) -> Any:
    """A setting of a config that may be ill-formed; None where it has none."""
    settings = config.get(group)
    return settings.get(key) if isinstance(settings, dict) else None


def _length(config: dict[str, Any]) -> int | None:
    """Steps of a config's run; None where it does not say, or what no run has."""
    steps = _setting(config, "training", "num_steps")
    return steps if type(steps) is int and steps > 0 else None


def _drop_splits(data: dict[str, Any], given: Set[str]) -> Iterator[str]:
    """Removes the splits of the file from a folder's settings, unless one is `given`; gives "KEY=VALUE"s."""
    from deconv_jax.data.annotated_folders import ANNOTATED
    from deconv_jax.data.folders import FOLDER

    if not str(data["name"]).startswith((FOLDER, *ANNOTATED)):
        return
    splits = [key for key in data if key.endswith("_split")]
    if any(f"data.{key}" in given for key in splits):
        return
    for key in splits:
        yield f"data.{key}={data.pop(key)!r}"


def _shorten(
    config: dict[str, Any], ratio: Fraction, given: Set[str], path: str = ""
) -> Iterator[str]:
    """Scales, in place, what counts steps of the run; gives "KEY: OLD -> NEW" for what changes.

    Args:
      config: with the new number of steps.
      ratio: of the new number to the old.
      given: keys to leave as they are, "optimizer.warmup_steps".
      path: what to put before the keys.
    """
    for key, old in config.items():
        name = f"{path}{key}"
        if isinstance(old, dict):
            yield from _shorten(old, ratio, given, f"{name}.")
            continue
        new = old
        if name == "training.steps_per_call" and type(old) is int:
            new = math.gcd(old, config["num_steps"])
        elif key in _FROM_THE_START and type(old) is int:
            new = math.floor(ratio * old)
        elif key in _WITHIN_THE_RUN and type(old) is int:
            new = math.ceil(ratio * old)
        elif key in _WITHIN_THE_RUN and isinstance(old, tuple | list):
            new = tuple(math.ceil(ratio * step) for step in old)
        if new != old and name not in given:
            config[key] = new
            yield f"{name} {old} -> {new}"


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
    from deconv_jax.io import kind_of

    if folder is None or kind_of(folder) is None:
        return
    if kind_of(folder) != "folder":
        raise InputError(f"{flag}: {folder} is not a folder")
    try:
        occupied = any(folder.iterdir())
    except OSError as error:
        raise InputError(f"{flag}: cannot read folder {folder}: {error.strerror}") from error
    if not overwrite and occupied:
        raise InputError(f"{folder} is not empty; give --overwrite to replace files in it")


def report_left_out(found: Any) -> int:
    """Say what a `FoundFiles` left out, and return the exit code that this alone has."""
    for line in found.summary():
        print(printable(f"deconv-jax: {line}"), file=sys.stderr)
    return 0 if found.complete else EXIT_SOME_FAILED


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
