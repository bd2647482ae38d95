"""The command line; the only file with flags, and the only one that sees a ConfigDict.

Exit codes: 0 done; 2 the input was wrong (one line on stderr says what); 75 (EX_TEMPFAIL) the run was
told to stop while training and has saved: the same command continues it; 130 stopped elsewhere.
"""

import argparse
import ast
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from deconv_jax.config_arguments import load_module
from deconv_jax.errors import InputError

EXIT_INPUT_ERROR = 2
EXIT_INTERRUPTED = 75
EXIT_KEYBOARD = 130

_TRAIN = """\
train an experiment, or continue it

The config is a Python file with get_config(arg), which returns an ml_collections ConfigDict; what
follows a colon after its path is the argument. Any key of it can be overridden:
  deconv-jax train --config experiments/autoencoding/digits.py:latent=16 --workdir runs/digits \\
    --config.optimizer.learning_rate=3e-4 --config.training.num_steps=500
Exits with 75 after SIGTERM or SIGINT, saved; the same command then continues the run.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit code."""
    parser = _parser()
    arguments, rest = parser.parse_known_args(argv)
    overrides = rest if arguments.command == "train" else []
    if len(overrides) < len(rest) or any(not word.startswith("--config.") for word in overrides):
        hint = " (an override is --config.KEY=VALUE, in one word)" if overrides else ""
        parser.error(f"unknown arguments: {' '.join(rest)}{hint}")
    arguments.overrides = overrides
    # orbax, TFDS and grain log their inner workings as warnings of absl's logger.
    logging.getLogger("absl").setLevel(logging.ERROR)
    try:
        return arguments.run(arguments)
    except InputError as error:
        print(f"deconv-jax: error: {error}", file=sys.stderr)
        return EXIT_INPUT_ERROR
    except KeyboardInterrupt:
        print("deconv-jax: stopped", file=sys.stderr)
        return EXIT_KEYBOARD


def load_config(path_and_argument: str, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """The config that a file's `get_config` returns, as a dict, with overrides.

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
        group[last] = _literal(text)
    return config


def _parser() -> argparse.ArgumentParser:
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        prog="deconv-jax",
        description="Convolution and transposed-convolution networks in JAX.",
        epilog="deconv-jax COMMAND --help describes a command.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    train = commands.add_parser(
        "train",
        help="train an experiment, or continue it",
        description=_TRAIN,
        formatter_class=formatter,
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
        "--checkpoint", default="last", metavar="last|best|STEP", help="which (default: last)"
    )
    evaluate.add_argument(
        "--split", default="test", choices=("train", "validation", "test"), help="(default: test)"
    )
    evaluate.add_argument("--data_dir", metavar="DIR", help="where the data is now")
    evaluate.set_defaults(run=_evaluate)

    prepare = commands.add_parser(
        "prepare",
        help="download and prepare a data set",
        description="Downloads and prepares a TFDS data set in the format that training reads. "
        "Needs the extra: pip install 'deconv_jax[prepare]' (embedded sets do not).",
    )
    prepare.add_argument("name", help="a TFDS name, e.g. mnist")
    prepare.add_argument(
        "--data_dir", metavar="DIR", help="(default: $TFDS_DATA_DIR or ~/tensorflow_datasets)"
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
    tables.add_argument("--check", action="store_true", help="change nothing; fail on a difference")
    tables.set_defaults(run=_tables)
    return parser


def _train(arguments: argparse.Namespace) -> int:
    _keep_compiled()
    if arguments.distributed:
        from deconv_jax.training.parallel import initialize_processes

        initialize_processes(arguments.distributed)
    from deconv_jax.experiment import RESULT, Experiment, train
    from deconv_jax.training.loop import Interrupted

    experiment = Experiment.from_dict(load_config(arguments.config, arguments.overrides))
    workdir = arguments.workdir
    finished = (workdir / RESULT).exists()
    try:
        result = train(experiment, workdir)
    except Interrupted as stop:
        print(f"stopped and saved at step {stop}; run the same command to continue")
        return EXIT_INTERRUPTED
    print(f"already finished: {workdir}" if finished else _summary(workdir, result))
    return 0


def _summary(workdir: Path, result: dict[str, Any]) -> str:
    entries = [
        ("checkpoints/", "last two and best: weights, optimizer and data state"),
        ("config.json", "the whole experiment"),
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
    import json

    _keep_compiled()
    from deconv_jax.experiment import evaluate

    checkpoint = arguments.checkpoint
    if checkpoint not in ("last", "best"):
        try:
            checkpoint = int(checkpoint)
        except ValueError:
            raise InputError(f"--checkpoint is last, best or a step; got {checkpoint!r}") from None
    measured = evaluate(
        arguments.workdir,
        checkpoint=checkpoint,
        split=arguments.split,
        data_dir=arguments.data_dir,
    )
    print(json.dumps(measured, indent=2))
    return 0


def _prepare(arguments: argparse.Namespace) -> int:
    from deconv_jax.data.sources import prepare

    print(f"prepared: {prepare(arguments.name, arguments.data_dir)}")
    return 0


def _tables(arguments: argparse.Namespace) -> int:
    from deconv_jax.tables import render_texts, run_missing

    if arguments.name and arguments.check:
        raise InputError("--check runs nothing: give it without a table's name")
    if arguments.name:
        _keep_compiled()
        data = os.environ.get("DECONV_JAX_DATA")
        if not data:
            raise InputError("DECONV_JAX_DATA must name the folder of data sets and weights")
        for path in run_missing(Path.cwd(), arguments.name, Path(data)):
            print(f"written: {path}")
    changed = render_texts(Path.cwd(), check=arguments.check)
    for path in changed:
        print(f"{'differs' if arguments.check else 'rewritten'}: {path}")
    return EXIT_INPUT_ERROR if arguments.check and changed else 0


def _keep_compiled() -> None:
    """Keeps compiled programs between runs, unless the environment says where or not to."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(cache) / "deconv_jax" / "xla"))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


if __name__ == "__main__":
    sys.exit(main())
