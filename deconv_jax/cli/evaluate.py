"""`deconv-jax evaluate`: the metrics of a trained model."""

import argparse
import json
from pathlib import Path
from typing import Any

from deconv_jax.cli.arguments import (
    add_checkpoint,
    add_data_dir,
    add_overwrite,
    add_parser,
    add_workdir,
    check_folder,
    parse_checkpoint,
)
from deconv_jax.cli.process import enable_compilation_cache

_EVALUATE = "evaluate a trained model and print its metrics as JSON"


def add_commands(commands: Any) -> None:
    """Add the parser of `evaluate`."""
    evaluate = add_parser(commands, "evaluate", _EVALUATE)
    add_workdir(evaluate, "any task")
    add_checkpoint(evaluate)
    evaluate.add_argument(
        "--split",
        default="test",
        choices=("train", "validation", "test"),
        help="evaluate this split (default: test)",
    )
    add_data_dir(evaluate)
    evaluate.add_argument(
        "--plots", type=Path, metavar="DIR", help="write plots of the split to this folder, as PNG"
    )
    add_overwrite(evaluate)
    evaluate.set_defaults(run=_evaluate)


def _evaluate(arguments: argparse.Namespace) -> int:
    check_folder("--plots", arguments.plots, overwrite=arguments.overwrite)
    enable_compilation_cache()
    from deconv_jax.train import evaluate

    evaluated = evaluate(
        arguments.workdir,
        checkpoint=parse_checkpoint(arguments.checkpoint),
        split=arguments.split,
        data_dir=arguments.data_dir,
        plots=arguments.plots,
    )
    print(json.dumps(evaluated, indent=2))
    return 0
