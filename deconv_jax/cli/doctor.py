"""`deconv-jax doctor`: check a machine, and a config on it, before a run."""

import argparse
import sys
from pathlib import Path
from typing import Any

from deconv_jax.cli.arguments import add_parser
from deconv_jax.cli.config import load_config
from deconv_jax.cli.exit_codes import EXIT_INPUT_ERROR
from deconv_jax.cli.process import enable_compilation_cache, retain_freed_memory
from deconv_jax.errors import InputError, escape_unprintable

_DOCTOR = """\
check this machine, and a config on it, before a run

Without flags: versions, devices, a sum over all devices, compilation cache, memory and disk. With
--config, also the data, the memory that a training step needs, and the time to compile it. With
--workdir, also whether all processes see the folder. With both, also the time to save and restore a
checkpoint. Nothing stays in the workdir.
  deconv-jax doctor
  deconv-jax doctor --config experiments/restoration/dncnn.py --workdir runs/dncnn --distributed

The exit code is 2 if something is wrong, with one line for each problem on standard error.
"""


def add_commands(commands: Any) -> None:
    """Add the parser of `doctor`."""
    doctor = add_parser(
        commands,
        "doctor",
        _DOCTOR,
        usage="deconv-jax doctor [--config FILE[:ARG] [--config.KEY=VALUE ...]] [options]",
    )
    doctor.add_argument(
        "--config", metavar="FILE[:ARG]", help="check the experiment of this file, as for train"
    )
    doctor.add_argument(
        "--workdir", type=Path, metavar="DIR", help="check that a run can be written to this folder"
    )
    doctor.add_argument(
        "--distributed",
        nargs="?",
        const="auto",
        metavar="HOST:PORT,INDEX,COUNT",
        help="join the other processes of the run, as for train",
    )
    doctor.set_defaults(run=_doctor)


def _doctor(arguments: argparse.Namespace) -> int:
    if arguments.overrides and arguments.config is None:
        raise InputError(f"{arguments.overrides[0]} requires --config")
    enable_compilation_cache()
    retain_freed_memory()
    from deconv_jax.training.parallel import any_process, initialize_processes

    if arguments.distributed:
        initialize_processes(arguments.distributed)
    import jax

    from deconv_jax.doctor import examine, to_text
    from deconv_jax.experiment import Experiment

    experiment = None
    if arguments.config is not None:
        experiment = Experiment.from_dict(load_config(arguments.config, arguments.overrides))
    found = examine(experiment, arguments.workdir)
    several = arguments.distributed is not None and jax.process_count() > 1
    prefix = f"process {jax.process_index()}: " if several else ""
    lines = to_text(found, prefix).split("\n")
    print("\n".join(map(escape_unprintable, lines)), flush=True)
    problems = found.problems
    if several and any_process(bool(problems)) and not problems:
        problems = ["another process has a problem"]
    for problem in problems:
        print(escape_unprintable(f"{prefix}problem: {problem}"), file=sys.stderr, flush=True)
    if not problems:
        print(f"{prefix}no problems found")
    return EXIT_INPUT_ERROR if problems else 0
