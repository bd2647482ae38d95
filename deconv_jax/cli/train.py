"""`deconv-jax train` and `deconv-jax evaluate`."""

import argparse
import json
from pathlib import Path
from typing import Any

from deconv_jax.cli.common import (
    check_folder,
    checkpoint_step,
    keep_compiled,
    keep_memory,
    load_config,
)

_TRAIN = """\
train an experiment, or continue it

The config is a Python file with get_config(arg), which returns an ml_collections ConfigDict; what
follows a colon after its path is the argument. Any key of it can be overridden:
  deconv-jax train --config experiments/autoencoding/digits.py:latent=16 --workdir runs/digits \\
    --config.optimizer.learning_rate=3e-4 --config.training.num_steps=500
Exits with 75 after SIGTERM or SIGINT, saved; the same command then continues the run.
"""


def add_commands(commands: Any) -> None:
    """Adds their parsers to the subparsers of the command line."""
    train = commands.add_parser(
        "train",
        help="train an experiment, or continue it",
        description=_TRAIN,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="deconv-jax train --config FILE[:ARG] --workdir DIR [--config.KEY=VALUE ...]",
        allow_abbrev=False,
    )
    train.add_argument("--config", required=True, metavar="FILE[:ARG]", help="the experiment")
    train.add_argument("--workdir", required=True, type=Path, metavar="DIR", help="its folder")
    train.add_argument(
        "--distributed",
        nargs="?",
        const="auto",
        metavar="HOST:PORT,INDEX,COUNT",
        help="join several processes; without a value, as SLURM, Open MPI, Kubernetes or a TPU "
        "pod says",
    )
    train.set_defaults(run=_train)

    evaluate = commands.add_parser(
        "evaluate",
        help="measure a trained model again, from its checkpoint",
        description="Computes the measures of a checkpoint and prints them as JSON.",
    )
    evaluate.add_argument("--workdir", required=True, type=Path, metavar="DIR", help="of the run")
    evaluate.add_argument(
        "--step",
        "--checkpoint",
        default="last",
        metavar="last|best|STEP",
        help="which checkpoint (default: last)",
    )
    evaluate.add_argument(
        "--split", default="test", choices=("train", "validation", "test"), help="(default: test)"
    )
    evaluate.add_argument("--data_dir", metavar="DIR", help="where the data is now")
    evaluate.add_argument(
        "--plots", type=Path, metavar="DIR", help="draw what the model does with the split, as PNG"
    )
    evaluate.add_argument("--overwrite", action="store_true", help="replace files in DIR")
    evaluate.set_defaults(run=_evaluate)


def _train(arguments: argparse.Namespace) -> int:
    keep_compiled()
    keep_memory()
    if arguments.distributed:
        from deconv_jax.training.parallel import initialize_processes

        initialize_processes(arguments.distributed)
    from deconv_jax.experiment import Experiment
    from deconv_jax.io import kind_of
    from deconv_jax.train import train
    from deconv_jax.workdir import RESULT

    experiment = Experiment.from_dict(load_config(arguments.config, arguments.overrides))
    workdir = arguments.workdir
    finished = kind_of(workdir / RESULT) is not None
    result = train(experiment, workdir)
    print(f"already finished: {workdir}" if finished else _summary(workdir, result))
    return 0


def _summary(workdir: Path, result: dict[str, Any]) -> str:
    entries = [
        ("checkpoints/", "last two and best: weights, optimizer and data state"),
        ("config.json", "the whole experiment"),
        ("inputs.json", "the shapes of its data"),
        ("metrics.jsonl", "every logged step"),
        ("tensorboard/", f"the same: tensorboard --logdir {workdir / 'tensorboard'}"),
        ("pictures/", "what the model does, as PNG"),
        ("result.json", "the figures below, with their protocol"),
    ]
    lines = [f"{workdir}/"] + [f"  {name:<15}{what}" for name, what in entries]
    measures = result["metrics"]["test"] | result["baseline"]["test"]
    lines.append("test: " + "  ".join(f"{name} {value:.4f}" for name, value in measures.items()))
    return "\n".join(lines)


def _evaluate(arguments: argparse.Namespace) -> int:
    check_folder("--plots", arguments.plots, overwrite=arguments.overwrite)
    keep_compiled()
    from deconv_jax.train import evaluate

    measured = evaluate(
        arguments.workdir,
        checkpoint=checkpoint_step(arguments.step),
        split=arguments.split,
        data_dir=arguments.data_dir,
        plots=arguments.plots,
    )
    print(json.dumps(measured, indent=2))
    return 0
