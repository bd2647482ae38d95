"""`deconv-jax tables`: measure what the tables show, and render it into Markdown files."""

import argparse
import os
from pathlib import Path
from typing import Any

from deconv_jax.cli.arguments import add_parser
from deconv_jax.cli.config import load_config
from deconv_jax.cli.exit_codes import EXIT_SOME_FAILED
from deconv_jax.cli.process import enable_compilation_cache, retain_freed_memory
from deconv_jax.errors import InputError

_TABLES = """\
run the missing parts of a table and render the Markdown files

Runs the parts of a table (a module of experiments/tables) that have no record under
experiments/results, then renders all records into the marked sections of the Markdown files. Data
sets and published weights are read from the folder $DECONV_JAX_DATA.

--again measures one record again, leaves it as it is, and prints the figures that differ. Times,
dates, versions, devices and load are not compared. A run that is in runs/tables is read, not
trained again. The exit code is 1 if a figure differs.
"""
TOLERANCE = 1e-4


def add_commands(commands: Any) -> None:
    """Add the parser of `tables`."""
    tables = add_parser(commands, "tables", _TABLES)
    tables.add_argument(
        "name", nargs="?", metavar="TABLE[/PART]", help="run this table (default: only render)"
    )
    tables.add_argument(
        "--check",
        nargs="?",
        const="all",
        choices=("all", "texts"),
        help="write nothing; fail if a file is out of date or a record is stale (texts: ignore "
        "stale records)",
    )
    tables.add_argument("--again", action="store_true", help="measure this part again and compare")
    tables.add_argument(
        "--tolerance",
        type=float,
        metavar="RELATIVE",
        help=f"largest relative difference with --again (default: {TOLERANCE})",
    )
    tables.set_defaults(run=_tables)


def _tables(arguments: argparse.Namespace) -> int:
    from deconv_jax.records import RESULTS
    from deconv_jax.tables import render_texts, run_missing

    if arguments.name and arguments.check:
        raise InputError(f"--check cannot be combined with a table; got {arguments.name!r}")
    if arguments.again:
        if arguments.check:
            raise InputError("--check cannot be combined with --again")
        return _again(arguments)
    if arguments.tolerance is not None:
        raise InputError("--tolerance requires --again")
    if arguments.name:
        written = run_missing(Path.cwd(), arguments.name, _data())
        for path in written:
            print(f"written: {path}")
        if not written:
            print(
                f"{arguments.name} has all its records; to measure a part again, remove "
                f"{RESULTS}/TABLE/PART.json and run the same command"
            )
    check = arguments.check is not None
    changed = render_texts(Path.cwd(), check=check)
    for path in changed:
        print(f"{'differs' if check else 'rewritten'}: {path}")
    stale = False
    if arguments.check == "all":
        stale = _print_stale(Path.cwd())
        _print_oldest(Path.cwd())
    return EXIT_SOME_FAILED if stale or (check and changed) else 0


def _data() -> Path:
    """Return the folder of data sets and weights; prepare the process for measurements."""
    from deconv_jax.io import check_local

    enable_compilation_cache()
    retain_freed_memory()
    data = os.environ.get("DECONV_JAX_DATA")
    if not data:
        raise InputError("DECONV_JAX_DATA must name the folder of data sets and weights")
    check_local(data)
    return Path(data)


def _again(arguments: argparse.Namespace) -> int:
    """Measure a record again, and print what differs."""
    from deconv_jax.tables import measure_again

    name = arguments.name or ""
    if "/" not in name:
        raise InputError(f"--again requires one record, TABLE/PART; got {name!r}")
    tolerance = TOLERANCE if arguments.tolerance is None else arguments.tolerance
    if not 0 <= tolerance < 1:
        raise InputError(f"--tolerance must be in [0, 1); got {tolerance:g}")
    differences, record = measure_again(Path.cwd(), name, _data(), tolerance)
    for difference in differences:
        print(f"differs: {difference}")
    equal = "differs" if differences else "is the same"
    print(
        f"{name} {equal}, with a relative tolerance of {tolerance:g}; {record['wall_time_s']:.1f} s"
    )
    return EXIT_SOME_FAILED if differences else 0


def _print_oldest(root: Path) -> None:
    """Print the number of records, and the origin of the oldest one."""
    from deconv_jax.records import oldest_record

    count, name, commit, started = oldest_record(root)
    oldest = f"; the oldest is {name}, commit {commit[:7]}, {started[:10]}" if name else ""
    print(f"{count} records{oldest}")


def _print_stale(root: Path) -> bool:
    """Print the stale records, why they are stale, and how to measure them again."""
    from deconv_jax.records import stale_records

    stale = stale_records(root, load_config)
    for record in stale:
        print(f"stale: {record.name} ({record.seconds / 60:.1f} min): {'; '.join(record.reasons)}")
    if stale:
        hours = sum(record.seconds for record in stale) / 3600
        print(
            f"{len(stale)} stale records, about {hours:.1f} hours; to measure one again, remove its "
            "file and run: deconv-jax tables TABLE/PART"
        )
    return bool(stale)
