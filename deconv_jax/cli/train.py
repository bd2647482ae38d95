"""`deconv-jax train`: train the experiment of a config file."""

import argparse
from pathlib import Path
from typing import Any

from deconv_jax.cli.arguments import add_parser
from deconv_jax.cli.config import load_config
from deconv_jax.cli.process import enable_compilation_cache, retain_freed_memory
from deconv_jax.errors import InputError

_TRAIN = """\
train an experiment, or resume it

A config is a Python file with a function get_config(arg) that returns an ml_collections ConfigDict.
The text after a colon is the argument. Override any key of the config on the command line:
  deconv-jax train --config experiments/autoencoding/digits.py:latent=16 --workdir runs/digits \\
    --config.optimizer.learning_rate=3e-4 --config.training.num_steps=500
Start from the weights of a named model, a run or a file:
  deconv-jax train --config experiments/restoration/ffdnet.py --workdir runs/tuned \\
    --config.init_from=denoise
SIGTERM and SIGINT save the state and exit with code 75; the same command then resumes the run.
"""


def add_commands(commands: Any) -> None:
    """Add the parser of `train`."""
    train = add_parser(
        commands,
        "train",
        _TRAIN,
        usage="deconv-jax train --config FILE[:ARG] --workdir DIR [--profile START:STOP]\n"
        "                        [--distributed [HOST:PORT,INDEX,COUNT]] [--config.KEY=VALUE ...]",
    )
    train.add_argument(
        "--config", required=True, metavar="FILE[:ARG]", help="read the experiment from this file"
    )
    train.add_argument(
        "--workdir", required=True, type=Path, metavar="DIR", help="write the run to this folder"
    )
    train.add_argument(
        "--distributed",
        nargs="?",
        const="auto",
        metavar="HOST:PORT,INDEX,COUNT",
        help="join the other processes of the run; without a value, find them through Slurm (srun), "
        "Open MPI before version 5, a TPU pod or a Kubernetes job (needs the extra kubernetes and the rights of "
        "launch/rbac.yaml)",
    )
    train.add_argument(
        "--profile",
        metavar="START:STOP",
        help="write a JAX profiler trace of these steps, such as 100:110, to the folder profile of the "
        "workdir, once per run",
    )
    train.set_defaults(run=_train)


def _train(arguments: argparse.Namespace) -> int:
    enable_compilation_cache()
    retain_freed_memory()
    if arguments.distributed:
        from deconv_jax.training.parallel import initialize_processes

        initialize_processes(arguments.distributed)
    import jax

    from deconv_jax.experiment import Experiment
    from deconv_jax.io import check_local, kind_of
    from deconv_jax.train import train
    from deconv_jax.workdir import RESULT

    experiment = Experiment.from_dict(load_config(arguments.config, arguments.overrides))
    workdir, profile = arguments.workdir, _parse_steps(arguments.profile)
    check_local(workdir)
    finished = kind_of(workdir / RESULT) is not None
    result = train(experiment, workdir, profile=profile)
    if jax.process_index() == 0:
        print(f"already finished: {workdir}" if finished else _summary(workdir, result))
    return 0


def _parse_steps(text: str | None) -> tuple[int, int] | None:
    """Return the start and stop of the value of --profile, or None without one."""
    if text is None:
        return None
    start, _, stop = text.partition(":")
    try:
        return int(start), int(stop)
    except ValueError:
        raise InputError(f"--profile must be START:STOP, such as 100:110; got {text!r}") from None


def _summary(workdir: Path, result: dict[str, Any]) -> str:
    """Return the content of a workdir and the test metrics as text."""
    entries = [
        ("checkpoints/", "the last two and the best: weights, optimizer and data state"),
        ("config.json", "the whole experiment"),
        ("inputs.json", "shapes of its data"),
        ("metrics.jsonl", "logged scalars and metrics"),
        ("tensorboard/", f"the same; tensorboard --logdir {workdir / 'tensorboard'}"),
        ("pictures/", "sample images, as PNG"),
        ("result.json", "the test metrics below, with their protocol"),
    ]
    if "initial_weights" in result:
        entries.insert(3, ("initial_weights.json", "what was copied from config.init_from"))
    lines = [f"{workdir}/"] + [f"  {name:<22}{what}" for name, what in entries]
    metrics = result["metrics"]["test"] | result["baseline"]["test"]
    lines.append("test: " + "  ".join(f"{name} {value:.4f}" for name, value in metrics.items()))
    return "\n".join(lines)
