"""Flags that mean the same in every command, and their checks."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from deconv_jax.cli.exit_codes import EXIT_SOME_FAILED
from deconv_jax.errors import InputError, escape_unprintable


def add_parser(commands: Any, name: str, description: str, **options: Any) -> Any:
    """Return the parser of a new command, whose flags cannot be abbreviated.

    Args:
      commands: Subparsers of the program.
      name: Name of the command.
      description: Long help, kept as formatted; its first line is the short help.
      options: Further arguments of `add_parser` of argparse.
    """
    return commands.add_parser(
        name,
        help=description.splitlines()[0],
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        **options,
    )


def add_workdir(parser: Any, kind: str) -> None:
    """Add --workdir, the run whose model a command uses.

    Args:
      parser: Parser of the command.
      kind: Kinds of runs that the command accepts.
    """
    parser.add_argument(
        "--workdir",
        required=True,
        type=Path,
        metavar="DIR",
        help=f"use the model of this run ({kind})",
    )


def add_model(parser: Any, kind: str, *, default: str | None = None) -> None:
    """Add --model, --workdir and --checkpoint, which select the trained model for `open_model`.

    Args:
      parser: Parser of the command.
      kind: Kinds of models that the command accepts.
      default: Named model without these flags; None requires --model or --workdir.
    """
    group = parser.add_mutually_exclusive_group(required=default is None)
    fallback = f" (default: {default})" if default else ""
    group.add_argument(
        "--model",
        metavar="NAME",
        default=default,
        help=f"use this named model ({kind}); `deconv-jax models` lists them{fallback}",
    )
    group.add_argument(
        "--workdir", type=Path, metavar="DIR", help=f"use the model of this run ({kind})"
    )
    add_checkpoint(parser)


def open_model(arguments: argparse.Namespace) -> tuple[Any, Literal["last", "best"] | int]:
    """Return the model of the flags of `add_model` and its checkpoint, for the `load` of an application.

    Returns:
      The workdir or the named model, and the checkpoint.

    Raises:
      InputError: There is no such named model, its files are damaged, or --checkpoint is invalid or given
        without --workdir.
    """
    from deconv_jax import zoo

    checkpoint = parse_checkpoint(arguments.checkpoint)
    if arguments.workdir is not None:
        return arguments.workdir, checkpoint
    if arguments.checkpoint is not None:
        raise InputError("--checkpoint requires --workdir; a named model has no checkpoints")
    return zoo.load(arguments.model), checkpoint


def add_checkpoint(parser: Any) -> None:
    """Add --checkpoint, whose value, by default None, is for `parse_checkpoint`."""
    parser.add_argument(
        "--checkpoint",
        metavar="last|best|STEP",
        help="use this checkpoint of the run (default: last)",
    )


def add_data_dir(parser: Any) -> None:
    """Add --data-dir, for data that has moved since training."""
    parser.add_argument(
        "--data-dir",
        metavar="DIR",
        help="read the run's data from this folder (default: the one it was trained with)",
    )


def add_inputs(parser: Any, nargs: str = "+") -> None:
    """Add the positional `inputs`: files, folders and patterns, at least one by default."""
    parser.add_argument(
        "inputs",
        nargs=nargs,
        metavar="INPUT",
        help="read files, folders and patterns such as '**/*.png'",
    )


def add_output(parser: Any, metavar: str, help_text: str, *, required: bool = True) -> None:
    """Add -o, --output, a path that is required by default, and --overwrite."""
    parser.add_argument(
        "-o", "--output", required=required, type=Path, metavar=metavar, help=help_text
    )
    add_overwrite(parser)


def add_overwrite(parser: Any) -> None:
    """Add --overwrite."""
    parser.add_argument("--overwrite", action="store_true", help="replace existing files")


def parse_checkpoint(word: str | None) -> Literal["last", "best"] | int:
    """Return the checkpoint that the value of --checkpoint selects; None selects the last.

    Raises:
      InputError: The value is neither "last" nor "best" nor an integer.
    """
    if word is None or word == "last":
        return "last"
    if word == "best":
        return "best"
    try:
        return int(word)
    except ValueError:
        raise InputError(f"--checkpoint must be last, best or a step; got {word!r}") from None


def check_folder(flag: str, folder: Path | None, *, overwrite: bool) -> None:
    """Raise InputError unless an output folder is None, missing or empty, or may be overwritten.

    Args:
      flag: Flag that names the folder, for the error message.
      folder: Path of the folder. Any other existing kind of file is an error.
      overwrite: Whether files in the folder may be replaced.
    """
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


def refuse_flags(arguments: argparse.Namespace, flags: Sequence[str], other: str) -> None:
    """Raise InputError if one of the flags is set, because it cannot be combined with another.

    Args:
      arguments: Parsed flags; a flag is set if its value is not None, even if it is False.
      flags: Flags such as "--self-ensemble".
      other: Flag that they cannot be combined with, for the error message.
    """
    for flag in flags:
        if getattr(arguments, flag.removeprefix("--").replace("-", "_")) is not None:
            raise InputError(f"{flag} cannot be combined with {other}")


def report_skipped(found: Any) -> int:
    """Print the summary of the files that a `FoundFiles` skipped on standard error.

    Returns:
      1 if a folder could not be read, otherwise 0.
    """
    for line in found.summary():
        print(escape_unprintable(f"deconv-jax: {line}"), file=sys.stderr)
    return 0 if found.all_folders_readable else EXIT_SOME_FAILED
