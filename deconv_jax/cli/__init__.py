"""The command line: the only place with flags, and the only one that sees a ConfigDict.

Exit codes: 0 done; 1 some files were not looked at, restored, coded or decoded, or not measured though --reference
was given, the others are (a line for each says why), or tables --check found a difference; 2 the input
was wrong (one line on stderr says what); 75 (EX_TEMPFAIL) train or tables was told to stop while
training and has saved: the same command continues it; 130 stopped elsewhere.
"""

import argparse
import importlib.metadata
import io
import logging
import re
import sys
import warnings
from collections.abc import Sequence

from deconv_jax.cli import compress, generate, predict, restore, tables, train, visualize
from deconv_jax.cli.common import (
    EXIT_INPUT_ERROR,
    EXIT_INTERRUPTED,
    EXIT_KEYBOARD,
    load_config,
)
from deconv_jax.errors import InputError, closest_match, did_you_mean, printable

__all__ = ["EXIT_INPUT_ERROR", "EXIT_INTERRUPTED", "EXIT_KEYBOARD", "load_config", "main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit code."""
    arguments = _parsed(sys.argv[1:] if argv is None else argv)
    # orbax, TFDS and grain log their inner workings as warnings of absl's logger.
    logging.getLogger("absl").setLevel(logging.ERROR)
    # tifffile and Pillow tell of damage in files; what is wrong with one is said once, by its error.
    logging.getLogger("tifffile").setLevel(logging.CRITICAL)
    warnings.filterwarnings("ignore", module=r"PIL\.")
    # A name may have characters that the output's encoding has not.
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        return arguments.run(arguments)
    except InputError as error:
        # A list in a message has indented lines; a line end in a file name is none of these.
        lines = map(printable, f"deconv-jax: error: {error}".split("\n  "))
        print("\n  ".join(lines), file=sys.stderr)
        return EXIT_INPUT_ERROR
    except KeyboardInterrupt:
        print("deconv-jax: stopped", file=sys.stderr)
        return EXIT_KEYBOARD
    except _interrupted() as stop:
        print(f"stopped and saved at step {stop}; run the same command to continue")
        return EXIT_INTERRUPTED


def _interrupted() -> type[Exception]:
    """What a training that was told to stop raises; only commands that train have imported it."""
    from deconv_jax.training.loop import Interrupted

    return Interrupted


def _parsed(argv: Sequence[str]) -> argparse.Namespace:
    """The flags of a command; ends the program where they are wrong."""
    parser = argparse.ArgumentParser(
        prog="deconv-jax",
        description="Convolution and transposed-convolution networks in JAX.",
        epilog="deconv-jax COMMAND --help describes a command.",
    )
    version = importlib.metadata.version("deconv_jax")
    parser.add_argument("--version", action="version", version=f"deconv-jax {version}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for module in (train, predict, visualize, restore, generate, compress, tables):
        module.add_commands(commands)
    if argv and not argv[0].startswith("-") and argv[0] not in commands.choices:
        parser.error(f"no command {argv[0]!r}; {did_you_mean(argv[0], commands.choices)}")
    arguments, rest = parser.parse_known_args(argv)
    trains = arguments.command == "train"
    arguments.overrides = [word for word in rest if trains and word.startswith("--config.")]
    unknown = [word for word in rest if word not in arguments.overrides]
    if unknown:
        flags = re.findall(r"--[a-z][\w-]*", commands.choices[arguments.command].format_help())
        flag = closest_match(re.split(r"[=.]", unknown[0])[0], flags)
        hint = f"; did you mean {flag!r}?" if flag else ""
        if trains:
            hint += " (an override is --config.KEY=VALUE, in one word)"
        parser.error(f"unknown arguments: {' '.join(unknown)}{hint}")
    return arguments
