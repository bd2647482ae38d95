"""`deconv-jax launch`: render a recipe of `launch/` and submit it."""

import argparse
from pathlib import Path
from typing import Any

from deconv_jax import launch
from deconv_jax.cli.arguments import add_parser
from deconv_jax.cli.config import load_config
from deconv_jax.io import check_local
from deconv_jax.launch import Job, check_in_image, check_shared, job_name, show, submit

_LAUNCH = """\
train with several processes: on this machine, a cluster or a cloud

Renders a template of the folder launch/ and submits it; --dry-run prints it, to be edited and
submitted by hand. The config is checked first. Each KIND has its own flags:
  deconv-jax launch slurm --help
Print the job of two nodes with eight GPUs each:
  deconv-jax launch slurm --config experiments/restoration/dncnn.py --workdir runs/dncnn \\
    --nodes 2 --gpus 8 --dry-run
"""


def add_commands(commands: Any) -> None:
    """Add the parser of `launch`, with one parser for each kind."""
    parser = add_parser(commands, "launch", _LAUNCH)
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="KIND")

    slurm = _add_kind(kinds, "slurm", "train on nodes of a Slurm cluster, through sbatch")
    _add_number(slurm, "--nodes", 1, "number of nodes (default: 1)")
    _add_number(slurm, "--gpus", 1, "GPUs per node; 0 trains on the CPU (default: 1)")
    _add_number(slurm, "--tasks", None, "processes per node (default: one per GPU)")
    _add_number(slurm, "--cpus", 8, "CPU cores per process (default: 8)")
    slurm.set_defaults(recipe=launch.slurm, keys=("nodes", "gpus", "tasks", "cpus"))

    jobset = _add_kind(kinds, "jobset", "train on Kubernetes with JobSet, through kubectl")
    _add_number(jobset, "--nodes", 1, "number of pods, one process each (default: 1)")
    _add_number(jobset, "--gpus", 1, "GPUs per pod (default: 1)")
    _add_image(jobset, "cuda")
    _add_name(jobset, "--claim", "mount this persistent volume claim at /shared")
    _add_name(jobset, "--namespace", "use this namespace (default: default)", default="default")
    jobset.set_defaults(recipe=launch.jobset, keys=("nodes", "gpus", "image", "claim", "namespace"))

    xpk = _add_kind(kinds, "xpk", "train on a GKE cluster, through xpk")
    _add_name(xpk, "--cluster", "use this cluster")
    _add_name(xpk, "--device", "use this device type, such as v5litepod-16")
    _add_number(xpk, "--slices", 1, "number of slices (default: 1)")
    _add_image(xpk, "tpu")
    _add_name(xpk, "--storage", "use this xpk storage, which is mounted at /shared")
    xpk.set_defaults(recipe=launch.xpk, keys=("cluster", "device", "slices", "image", "storage"))

    tpu_vm = _add_kind(kinds, "tpu-vm", "train on a Cloud TPU VM, through gcloud")
    _add_name(tpu_vm, "--device", "use this accelerator type, such as v5litepod-16")
    _add_name(tpu_vm, "--zone", "create the VM in this zone")
    _add_name(tpu_vm, "--version", "use this software version, such as v2-alpha-tpuv5-lite")
    _add_image(tpu_vm, "tpu")
    _add_name(tpu_vm, "--bucket", "mount this bucket at /shared")
    tpu_vm.set_defaults(recipe=launch.tpu_vm, keys=("device", "zone", "version", "image", "bucket"))

    local = _add_kind(kinds, "local", "train with several processes on this machine")
    _add_number(local, "--processes", 2, "number of processes, one per GPU (default: 2)")
    local.set_defaults(recipe=launch.local, keys=("processes",))


def _add_kind(kinds: Any, name: str, description: str) -> Any:
    """Return the parser of a kind, with the flags that all kinds have."""
    parser = add_parser(
        kinds,
        name,
        description,
        usage=f"deconv-jax launch {name} --config FILE[:ARG] --workdir DIR [FLAGS] "
        "[--config.KEY=VALUE ...]",
    )
    parser.add_argument(
        "--config", required=True, metavar="FILE[:ARG]", help="read the experiment from this file"
    )
    parser.add_argument(
        "--workdir", required=True, type=Path, metavar="DIR", help="write the run to this folder"
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="print the rendered file instead of submitting it"
    )
    if name != "local":
        parser.add_argument(
            "--name", metavar="NAME", help="name of the job (default: the name of the workdir)"
        )
    parser.set_defaults(run=_launch, parser=parser)
    return parser


def _add_number(parser: Any, flag: str, default: int | None, help_text: str) -> None:
    parser.add_argument(flag, type=int, default=default, metavar="N", help=help_text)


def _add_name(parser: Any, flag: str, help_text: str, default: str | None = None) -> None:
    parser.add_argument(
        flag, required=default is None, default=default, metavar="NAME", help=help_text
    )


def _add_image(parser: Any, platform: str) -> None:
    _add_name(parser, "--image", f"run this image, built by launch/Dockerfile for {platform}")


def _launch(arguments: argparse.Namespace) -> int:
    from deconv_jax.experiment import Experiment

    check_local(arguments.workdir)
    if arguments.kind in ("jobset", "xpk", "tpu-vm"):
        check_shared(arguments.workdir)
        check_in_image(arguments.config)
    Experiment.from_dict(load_config(arguments.config, arguments.overrides))
    words = ["--config", arguments.config, "--workdir", str(arguments.workdir)]
    name = "local" if arguments.kind == "local" else job_name(arguments.name, arguments.workdir)
    steps = arguments.recipe(
        Job(name, [*words, *arguments.overrides]),
        **{key: getattr(arguments, key) for key in arguments.keys},
    )
    if arguments.dry_run:
        print(show(steps), end="")
    else:
        submit(steps)
    return 0
