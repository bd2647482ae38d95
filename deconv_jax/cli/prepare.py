"""`deconv-jax prepare`: download and prepare a data set."""

import argparse
from typing import Any

from deconv_jax.cli.arguments import add_parser

_PREPARE = """\
download and prepare a data set

Prepares a TFDS data set in the format that training reads. Requires the extra `prepare` (pip
install 'deconv_jax[prepare]'), except for the data
set digits, which is bundled with the package.
"""


def add_commands(commands: Any) -> None:
    """Add the parser of `prepare`."""
    prepare = add_parser(commands, "prepare", _PREPARE)
    prepare.add_argument("name", metavar="NAME", help="prepare this TFDS data set, such as mnist")
    prepare.add_argument(
        "--data-dir",
        metavar="DIR",
        help="write to this folder (default: $TFDS_DATA_DIR, else $DECONV_JAX_DATA/tfds, "
        "else ~/tensorflow_datasets)",
    )
    prepare.set_defaults(run=_prepare)


def _prepare(arguments: argparse.Namespace) -> int:
    from deconv_jax.data.source_configs import parse_source

    print(f"prepared: {parse_source(arguments.name).prepare(arguments.data_dir)}")
    return 0
