"""`deconv-jax tables` and `deconv-jax prepare`: what figures are made of, and figures in texts."""

import argparse
import os
from pathlib import Path
from typing import Any

from deconv_jax.cli.common import EXIT_SOME_FAILED, keep_compiled, keep_memory, load_config
from deconv_jax.errors import InputError


def add_commands(commands: Any) -> None:
    """Adds their parsers to the subparsers of the command line."""
    prepare = commands.add_parser(
        "prepare",
        help="download and prepare a data set",
        description="Downloads and prepares a TFDS data set in the format that training reads. "
        "Needs the extra: pip install 'deconv_jax[prepare]' (embedded sets do not).",
    )
    prepare.add_argument("name", help="a TFDS name, e.g. mnist")
    prepare.add_argument(
        "--data_dir",
        metavar="DIR",
        help="(default: $TFDS_DATA_DIR, or $DECONV_JAX_DATA/tfds, or ~/tensorflow_datasets)",
    )
    prepare.set_defaults(run=_prepare)

    tables = commands.add_parser(
        "tables",
        help="run what a paper's table lacks; render all figures in the texts",
        description="Runs the parts of a table (a module of experiments/tables) that have no record "
        "under experiments/results yet, then rewrites the marked parts of the texts from the "
        "records. Data sets and published weights are read from the folder $DECONV_JAX_DATA.",
    )
    tables.add_argument(
        "name", nargs="?", metavar="TABLE[/PART]", help="what to run (default: only render)"
    )
    tables.add_argument(
        "--check",
        nargs="?",
        const="all",
        choices=("all", "texts"),
        help="change nothing; fail if a text differs from the records or, unless only texts are "
        "checked, if a record is stale",
    )
    tables.set_defaults(run=_tables)


def _prepare(arguments: argparse.Namespace) -> int:
    from deconv_jax.data.sources import prepare

    print(f"prepared: {prepare(arguments.name, arguments.data_dir)}")
    return 0


def _tables(arguments: argparse.Namespace) -> int:
    from deconv_jax.tables import render_texts, run_missing

    if arguments.name and arguments.check:
        raise InputError("--check runs nothing: give it without a table's name")
    if arguments.name:
        keep_compiled()
        keep_memory()
        data = os.environ.get("DECONV_JAX_DATA")
        if not data:
            raise InputError("DECONV_JAX_DATA must name the folder of data sets and weights")
        for path in run_missing(Path.cwd(), arguments.name, Path(data)):
            print(f"written: {path}")
    check = arguments.check is not None
    changed = render_texts(Path.cwd(), check=check)
    for path in changed:
        print(f"{'differs' if check else 'rewritten'}: {path}")
    stale = _print_stale(Path.cwd()) if arguments.check == "all" else False
    return EXIT_SOME_FAILED if stale or (check and changed) else 0


def _print_stale(root: Path) -> bool:
    """Print the stale records, why they are stale, and how to measure them again."""
    from deconv_jax.records import stale_records

    stale = stale_records(root, load_config)
    for record in stale:
        print(f"stale: {record.name} ({record.seconds / 60:.1f} min): {'; '.join(record.reasons)}")
    if stale:
        hours = sum(record.seconds for record in stale) / 3600
        print(
            f"{len(stale)} stale records, about {hours:.1f} hours; to measure one again, remove its file "
            "and run: deconv-jax tables TABLE/PART"
        )
    return bool(stale)
