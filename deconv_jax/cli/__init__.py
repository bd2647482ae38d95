"""The command line: the only place with flags, and the only one that sees a ConfigDict."""

import argparse
import importlib.metadata
import os
import re
import select
import sys
from collections.abc import Sequence

from deconv_jax.cli import (
    compress,
    cost,
    demo,
    doctor,
    evaluate,
    export,
    generate,
    launch,
    measure,
    models,
    predict,
    prepare,
    restore,
    tables,
    train,
    visualize,
)
from deconv_jax.cli.config import load_config
from deconv_jax.cli.exit_codes import (
    EXIT_BROKEN_PIPE,
    EXIT_INPUT_ERROR,
    EXIT_INTERRUPTED,
    EXIT_KEYBOARD,
)
from deconv_jax.cli.process import configure_output
from deconv_jax.errors import InputError, closest_match, did_you_mean, escape_unprintable

__all__ = ["EXIT_INPUT_ERROR", "EXIT_INTERRUPTED", "EXIT_KEYBOARD", "load_config", "main"]

_WITH_OVERRIDES = ("train", "cost", "doctor", "launch")
"""Commands that take overrides of a config, --config.KEY=VALUE."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    Invalid input is reported on standard error. An invalid command line raises SystemExit(2), and
    --help raises SystemExit(0).

    Args:
      argv: Command and flags; None for those of the process, `sys.argv[1:]`.

    Returns:
      0 for success; 1 if some files failed or a check found differences; 2 for invalid input; 75 if
      training was stopped and saved; 130 after Ctrl-C; 141 if the reader of the output closed it.
    """
    arguments = _parse(sys.argv[1:] if argv is None else argv)
    configure_output()
    try:
        code = _run(arguments)
        for stream in filter(None, (sys.stdout, sys.stderr)):
            stream.flush()
        return code
    except BrokenPipeError:
        if not _discard_unread_output():
            raise
        return EXIT_BROKEN_PIPE


def _run(arguments: argparse.Namespace) -> int:
    """Run the command, report an error or a stop, and return the exit code."""
    try:
        return arguments.run(arguments)
    except InputError as error:
        # Split before escaping: a list in a message has indented lines, a file name may have line ends.
        lines = map(escape_unprintable, f"deconv-jax: error: {error}".split("\n  "))
        print("\n  ".join(lines), file=sys.stderr)
        return EXIT_INPUT_ERROR
    except KeyboardInterrupt:
        print("deconv-jax: stopped", file=sys.stderr)
        return EXIT_KEYBOARD
    except _interrupted() as stop:
        print(f"stopped and saved at step {stop}; run the same command to continue")
        return EXIT_INTERRUPTED


def _discard_unread_output() -> bool:
    """Send standard streams whose reader has closed them to the null device; return whether there are any.

    Python flushes them again at exit, and would report the same error.
    """
    found = False
    for stream in filter(None, (sys.stdout, sys.stderr)):
        poll = select.poll()
        poll.register(stream, 0)
        if any(event & select.POLLERR for _, event in poll.poll(0)):
            found = True
            with open(os.devnull, "wb") as null:
                os.dup2(null.fileno(), stream.fileno())
    return found


def _interrupted() -> type[Exception]:
    """Return the exception of a stopped training, importing its module only when needed."""
    from deconv_jax.training.loop import Interrupted

    return Interrupted


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    """Parse the command line; exit the program if it is invalid."""
    parser = argparse.ArgumentParser(
        prog="deconv-jax",
        description="Train and use convolution and transposed-convolution networks.",
        epilog="Run deconv-jax COMMAND --help for the flags of a command.",
    )
    version = importlib.metadata.version("deconv_jax")
    parser.add_argument("--version", action="version", version=f"deconv-jax {version}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for module in (
        train,
        launch,
        evaluate,
        predict,
        visualize,
        restore,
        measure,
        generate,
        compress,
        export,
        demo,
        models,
        prepare,
        cost,
        doctor,
        tables,
    ):
        module.add_commands(commands)
    if argv and not argv[0].startswith("-") and argv[0] not in commands.choices:
        parser.error(f"no command {argv[0]!r}; {did_you_mean(argv[0], commands.choices)}")
    arguments, rest = parser.parse_known_args(argv)
    overridable = arguments.command in _WITH_OVERRIDES
    arguments.overrides = [word for word in rest if overridable and word.startswith("--config.")]
    unknown = [word for word in rest if word not in arguments.overrides]
    if unknown:
        # A command with kinds, such as `launch`, names the parser of the kind.
        used = getattr(arguments, "parser", commands.choices[arguments.command])
        flags = re.findall(r"--[a-z][\w-]*", used.format_help())
        flag = closest_match(re.split(r"[=.]", unknown[0])[0], flags)
        hint = f"; did you mean {flag!r}?" if flag else ""
        if overridable:
            hint += " (write an override as one word: --config.KEY=VALUE)"
        parser.error(f"unknown arguments: {' '.join(unknown)}{hint}")
    return arguments
