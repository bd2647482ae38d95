"""The command line; the only file with flags, and the only one that sees a ConfigDict.

Exit codes: 0 done; 1 some files were not restored, or not measured though --reference was given, the
others are (a line for each says why); 2 the input was wrong (one line on stderr says what); 75
(EX_TEMPFAIL) train or tables was told to stop while training and has saved: the same command
continues it; 130 stopped elsewhere.
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

EXIT_SOME_FAILED = 1
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

_RESTORE = """\
restore images: by a trained network, or by a method that undoes a known blur

  deconv-jax restore --checkpoint runs/dncnn_25 photos/ scan.png --output restored
  deconv-jax restore --method wiener --kernel blur.png --noise-sigma 2 blurred.png --output sharp
  deconv-jax restore --method plug_and_play --kernel blur.png --noise-sigma 2.55 \\
    --checkpoint dncnn_15.pth --denoiser-sigma 15 --checkpoint dncnn_50.pth --denoiser-sigma 50 \\
    blurred.png --output sharp

An input is a file, a folder (with what is in it and below, its structure kept) or a quoted pattern
such as 'photos/*.jpg'. A result has its input's name and format, size of samples, transparency,
colour profile and EXIF data; one that is there already is left alone. A file that cannot be
restored, or has no reference to be measured by, is reported, and the others are done; the exit code
is then 1. A network of one channel restores the channels of a colour picture one by one, or, if it
enlarges, the luma, and the colour is enlarged bicubically. The method plug_and_play undoes the blur
with a network that removes noise: one that is told the noise's level, or several that were trained
for one level each.
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
    except _interrupted() as stop:
        print(f"stopped and saved at step {stop}; run the same command to continue")
        return EXIT_INTERRUPTED


def _interrupted() -> type[Exception]:
    """What a training that was told to stop raises; only commands that train have imported it."""
    from deconv_jax.training.loop import Interrupted

    return Interrupted


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
    evaluate.set_defaults(run=_evaluate)

    restore = commands.add_parser(
        "restore",
        help="restore a person's images",
        description=_RESTORE,
        formatter_class=formatter,
        usage="deconv-jax restore (--checkpoint RUN_OR_WEIGHTS | --method NAME --kernel FILE)\n"
        "                          INPUT [INPUT ...] --output DIR [options]\n"
        "       deconv-jax restore --method plug_and_play --kernel FILE --noise-sigma SIGMA\n"
        "                          --checkpoint RUN_OR_WEIGHTS [--denoiser-sigma SIGMA] ...\n"
        "                          INPUT [INPUT ...] --output DIR [options]",
        allow_abbrev=False,
    )
    restore.add_argument("inputs", nargs="+", metavar="INPUT", help="file, folder or pattern")
    restore.add_argument(
        "--output", required=True, type=Path, metavar="DIR", help="folder for the results"
    )
    restore.add_argument(
        "--overwrite", action="store_true", help="replace results that are there already"
    )
    restore.add_argument(
        "--format", metavar="png|tif|...", help="of the results (default: each input's own)"
    )
    restore.add_argument(
        "--noise-sigma",
        type=float,
        metavar="SIGMA",
        help="standard deviation of the images' noise in levels of 255, for networks that are told "
        "and methods that ask",
    )
    network = restore.add_argument_group("a trained network")
    network.add_argument(
        "--checkpoint",
        type=Path,
        action="append",
        default=[],
        metavar="RUN_OR_WEIGHTS",
        help="workdir of a run of restoration, or published weights (.pth, .safetensors); may be "
        "repeated for plug_and_play",
    )
    network.add_argument(
        "--step", default=None, metavar="last|best|STEP", help="of a run (default: last)"
    )
    network.add_argument(
        "--scale", type=int, metavar="N", help="of weights that do not say by how much they enlarge"
    )
    network.add_argument(
        "--tile",
        type=int,
        metavar="PIXELS",
        help="restore in tiles of so many pixels a side, to the same result (default: as large as "
        "the free memory allows); one size for files of many sizes saves compiling for each",
    )
    network.add_argument(
        "--self-ensemble",
        action="store_true",
        default=None,
        help="mean over the eight ways to turn and mirror the image; eight times slower",
    )
    network.add_argument(
        "--precision",
        choices=("f32", "bf16"),
        help="(default: bf16 on accelerators, f32 on a CPU)",
    )
    method = restore.add_argument_group("a method without learning")
    method.add_argument(
        "--method", metavar="NAME", help="wiener, richardson_lucy, tv, plug_and_play, ..."
    )
    method.add_argument(
        "--kernel",
        type=Path,
        metavar="FILE",
        help="the blur: a picture of it, or a .npy array; scaled to sum 1",
    )
    method.add_argument(
        "--boundary",
        choices=("reflect", "circular", "zeros"),
        help="what the blur took from beyond the border (default: reflect)",
    )
    method.add_argument(
        "--option",
        action="append",
        metavar="KEY=VALUE",
        help="of the method, e.g. iterations=50; may be repeated",
    )
    method.add_argument(
        "--denoiser-sigma",
        type=float,
        action="append",
        metavar="SIGMA",
        help="the noise that a --checkpoint of plug_and_play was trained for, in levels of 255; of a "
        "run it is known, of weights it is given once for each, in their order",
    )
    measure = restore.add_argument_group("measuring and looking")
    measure.add_argument(
        "--reference",
        type=Path,
        metavar="DIR",
        help="true images of the inputs' names: prints PSNR and SSIM, also of the inputs",
    )
    measure.add_argument(
        "--border", type=int, metavar="PIXELS", help="left out when measuring (default: 0)"
    )
    measure.add_argument(
        "--y-channel", action="store_true", help="measure Y of BT.601 instead of RGB"
    )
    measure.add_argument(
        "--compare", action="store_true", help="write NAME.compare.png: before and after"
    )
    restore.set_defaults(run=_restore)

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

    experiment = Experiment.from_dict(load_config(arguments.config, arguments.overrides))
    workdir = arguments.workdir
    finished = (workdir / RESULT).exists()
    result = train(experiment, workdir)
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

    measured = evaluate(
        arguments.workdir,
        checkpoint=_step(arguments.step),
        split=arguments.split,
        data_dir=arguments.data_dir,
    )
    print(json.dumps(measured, indent=2))
    return 0


def _restore(arguments: argparse.Namespace) -> int:
    from deconv_jax.inference.files import plan_jobs
    from deconv_jax.inference.terminal import restore_files
    from deconv_jax.metrics.protocol import Protocol

    _keep_compiled()
    _refuse_flags_of_the_other(arguments)
    protocol = Protocol(color="y" if arguments.y_channel else "rgb", border=arguments.border or 0)
    jobs = plan_jobs(
        arguments.inputs,
        arguments.output,
        suffix=arguments.format and f".{arguments.format.lower().removeprefix('.')}",
        references=arguments.reference,
        compare=arguments.compare,
    )
    restorer = _method(arguments) if arguments.method else _network(arguments)
    failed = restore_files(restorer, jobs, protocol=protocol, overwrite=arguments.overwrite)
    return EXIT_SOME_FAILED if failed else 0


def _refuse_flags_of_the_other(arguments: argparse.Namespace) -> None:
    """Raises InputError unless one of network and method is asked for, and only its flags are set."""
    both = arguments.method == "plug_and_play"
    if not both and bool(arguments.checkpoint) == bool(arguments.method):
        raise InputError(
            "restore takes one of --checkpoint (a network) and --method (with --kernel); both for "
            "plug_and_play"
        )
    name = f"--method {arguments.method}" if arguments.method else "--checkpoint"
    others: tuple[str, ...]
    if both:
        others = ("scale", "tile", "self_ensemble", "precision")
    elif arguments.method:
        others = ("step", "scale", "tile", "self_ensemble", "precision", "denoiser_sigma")
    else:
        others = ("kernel", "boundary", "option", "denoiser_sigma")
    for flag in others:
        if getattr(arguments, flag) is not None:
            raise InputError(f"--{flag.replace('_', '-')} does not go with {name}")
    if arguments.method and arguments.kernel is None:
        raise InputError(f"{name} needs --kernel, the blur that it undoes")
    if both and not arguments.checkpoint:
        raise InputError(f"{name} needs --checkpoint, a network that removes noise")
    if not both and len(arguments.checkpoint) > 1:
        raise InputError("--checkpoint is given once, but for plug_and_play")
    if not arguments.reference and (arguments.border is not None or arguments.y_channel):
        raise InputError("--border and --y-channel are of the measuring: give --reference")


def _method(arguments: argparse.Namespace) -> Any:
    """The method that the flags ask for, as a restorer."""
    from deconv_jax.inference.denoiser import TrainedDenoiser, plug_in
    from deconv_jax.inference.files import read_kernel
    from deconv_jax.inference.methods import ClassicalRestorer

    options = {}
    for word in arguments.option or ():
        key, equals, text = word.partition("=")
        if not equals or not key:
            raise InputError(f"an option is KEY=VALUE; got {word!r}")
        options[key] = _literal(text)
    kernel = read_kernel(arguments.kernel)
    networks = [
        TrainedDenoiser(str(path), **_trained(path, arguments)) for path in arguments.checkpoint
    ]
    return ClassicalRestorer(
        arguments.method,
        kernel,
        noise_sigma=arguments.noise_sigma,
        boundary=arguments.boundary or "reflect",
        options=options,
        denoiser=plug_in(networks, arguments.denoiser_sigma or ()) if networks else None,
    )


def _network(arguments: argparse.Namespace) -> Any:
    """The network that the flags ask for, as a restorer."""
    import jax

    from deconv_jax.inference.restore import LearnedRestorer

    trained = _trained(arguments.checkpoint[0], arguments)
    return LearnedRestorer(
        trained["model"],
        trained["variables"],
        noise_conditional=trained["noise_conditional"],
        noise_sigma=arguments.noise_sigma,
        precision=arguments.precision or ("f32" if jax.default_backend() == "cpu" else "bf16"),
        tile=arguments.tile,
        ensemble=bool(arguments.self_ensemble),
    )


def _trained(path: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """The network of a run or of a file of weights, and what is known of its training."""
    if not path.exists():
        raise InputError(f"--checkpoint: no such file or folder {path}")
    if path.is_dir():
        from deconv_jax.experiment import load_restoration

        if arguments.scale is not None:
            raise InputError("--scale is for weights in a file: a run says its own")
        task, variables = load_restoration(path, _step(arguments.step or "last"))
        known = {"noise_conditional": task.noise_conditional, "degradation": task.degradation}
        return {"model": task.model, "variables": variables} | known
    from deconv_jax.models.published import load_published

    if arguments.step is not None:
        raise InputError("--step is for the workdir of a run; weights in a file have no steps")
    model, variables = load_published(path, arguments.scale)
    return {"model": model, "variables": variables, "noise_conditional": False}


def _step(word: str) -> Any:
    """Which checkpoint of a run the word of --step stands for."""
    if word in ("last", "best"):
        return word
    try:
        return int(word)
    except ValueError:
        raise InputError(f"--step is last, best or a step; got {word!r}") from None


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
