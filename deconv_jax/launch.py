"""Recipes that start training elsewhere: the templates of `launch/`, filled in and submitted.

A template is a file that works as it is once the words between double underscores, such as `__NODES__`, are
replaced. Values are quoted for the language of the template: shell or YAML.
"""

import dataclasses
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from deconv_jax.errors import InputError, at_least
from deconv_jax.io import read_text

TEMPLATES = Path(__file__).parent / "launch_templates"
"""Folder of the templates: a link to launch/ in a clone, a folder in an installed package."""

SHARED = PurePosixPath("/shared")
"""Where the containers mount the volume or bucket that holds workdirs and data."""

_WORD = re.compile(r"__([A-Z]+)__")
_PLAIN = re.compile(r"[\w.:/@-]+", re.ASCII)
_NAME = re.compile(r"[a-z]([a-z0-9-]{0,38}[a-z0-9])?")


@dataclasses.dataclass(frozen=True)
class Step:
    """A rendered template and the program that takes it.

    Attributes:
      text: Rendered template.
      command: Program and arguments that read the text from standard input; ("bash",) runs the text in
        place of this process.
      needs: Program that must be installed.
    """

    text: str
    command: tuple[str, ...]
    needs: str


@dataclasses.dataclass(frozen=True)
class Job:
    """A training run to start.

    Attributes:
      name: Name of the job, as `job_name` returns it.
      arguments: Words after `deconv-jax train`, without --distributed.
    """

    name: str
    arguments: Sequence[str]

    @property
    def container(self) -> list[str]:
        """Arguments of the image's entry point."""
        return ["train", *self.arguments, "--distributed"]

    @property
    def local(self) -> str:
        """Shell command that trains with the Python of this process."""
        return shlex.join([sys.executable, "-m", "deconv_jax.cli", "train", *self.arguments])


def job_name(name: str | None, workdir: Path) -> str:
    """Return the name of a job, by default made from the name of the workdir.

    Raises:
      InputError: The name is invalid, or there is none and the workdir's name has no letter.
    """
    if name is None:
        words = re.sub(r"[^a-z0-9]+", "-", workdir.name.lower())
        name = re.sub(r"^[^a-z]+", "", words)[:40].rstrip("-")
    if not _NAME.fullmatch(name):
        raise InputError(
            "--name must be at most 40 lower-case letters, digits and hyphens, begin with a letter and "
            f"not end with a hyphen; got {name!r}"
        )
    return name


def check_shared(workdir: Path) -> None:
    """Raise InputError unless a workdir is in the folder that containers share."""
    path = PurePosixPath(workdir)
    if ".." in path.parts or SHARED not in path.parents:
        raise InputError(
            f"--workdir must be in {SHARED}, where the containers mount the shared storage; got {workdir}"
        )


def check_in_image(config: str) -> None:
    """Raise InputError unless a container can have the config: a relative path, or one in `SHARED`."""
    path = PurePosixPath(config.partition(":")[0])
    if ".." in path.parts or (path.is_absolute() and SHARED not in path.parents):
        raise InputError(
            "--config must be relative to the clone that the image was built from, such as "
            f"experiments/restoration/dncnn.py, or in {SHARED}; got {config}"
        )


def _plain(flag: str, value: str) -> str:
    """Return the value of a flag that needs no quoting in a shell; raise InputError for any other value."""
    if not _PLAIN.fullmatch(value):
        raise InputError(
            f"{flag} must be letters, digits and the characters . : / @ _ -; got {value!r}"
        )
    return value


def render(template: str, /, **values: str | int) -> str:
    """Return a template with its words `__NAME__` replaced.

    Args:
      template: File name of the template.
      **values: Value of every word of the template, by its lower-case name, quoted as needed.

    Raises:
      KeyError: The template has a word without a value.
    """
    return _WORD.sub(lambda word: str(values[word[1].lower()]), read_text(TEMPLATES / template))


def slurm(job: Job, *, nodes: int, gpus: int, tasks: int | None, cpus: int) -> list[Step]:
    """Return the steps that submit a job to Slurm.

    Args:
      job: Run to start.
      nodes: Number of nodes.
      gpus: GPUs per node; 0 trains on the CPU.
      tasks: Processes per node; None means one per GPU, or one without GPUs.
      cpus: CPU cores per process.

    Raises:
      InputError: A number is out of range, or the tasks cannot share the GPUs equally.
    """
    at_least("--nodes", nodes, 1)
    at_least("--gpus", gpus, 0)
    at_least("--cpus", cpus, 1)
    tasks = max(gpus, 1) if tasks is None else tasks
    at_least("--tasks", tasks, 1)
    if gpus % tasks:
        raise InputError(f"--gpus must be a multiple of --tasks ({tasks}); got {gpus}")
    text = render(
        "slurm.sbatch",
        name=job.name,
        nodes=nodes,
        gpus=gpus,
        tasks=tasks,
        cpus=cpus,
        train=job.local,
    )
    return [Step(text, ("sbatch",), "sbatch")]


def jobset(
    job: Job, *, nodes: int, gpus: int, image: str, claim: str, namespace: str
) -> list[Step]:
    """Return the steps that create a JobSet on Kubernetes, after its service account.

    Args:
      job: Run to start.
      nodes: Number of pods, one process each.
      gpus: GPUs per pod.
      image: Image of `launch/Dockerfile`.
      claim: Name of the persistent volume claim to mount at `SHARED`.
      namespace: Namespace of all objects.

    Raises:
      InputError: A number is out of range.
    """
    at_least("--nodes", nodes, 1)
    at_least("--gpus", gpus, 0)
    # Kubernetes expands $(NAME) in arguments; JSON is also YAML.
    words = [word.replace("$(", "$$(") for word in job.container]
    namespace = json.dumps(_plain("--namespace", namespace))
    account = render("rbac.yaml", namespace=namespace)
    text = render(
        "jobset.yaml",
        name=job.name,
        namespace=namespace,
        nodes=nodes,
        gpus=gpus,
        image=json.dumps(_plain("--image", image)),
        claim=json.dumps(_plain("--claim", claim)),
        arguments=json.dumps(words),
    )
    return [
        Step(account, ("kubectl", "apply", "-f", "-"), "kubectl"),
        # "create" fails if a JobSet of this name exists; "apply" would do nothing and succeed.
        Step(text, ("kubectl", "create", "-f", "-"), "kubectl"),
    ]


def xpk(
    job: Job, *, cluster: str, device: str, slices: int, image: str, storage: str
) -> list[Step]:
    """Return the step that creates an xpk workload on GKE.

    Args:
      job: Run to start.
      cluster: Name of the cluster.
      device: Device type, such as "v5litepod-16".
      slices: Number of TPU slices.
      image: Image of `launch/Dockerfile`.
      storage: Name of the xpk storage, mounted at `SHARED`.

    Raises:
      InputError: The number of slices is below 1.
    """
    at_least("--slices", slices, 1)
    text = render(
        "xpk.sh",
        name=job.name,
        cluster=_plain("--cluster", cluster),
        device=_plain("--device", device),
        slices=slices,
        image=_plain("--image", image),
        storage=_plain("--storage", storage),
        # "exec" makes SIGTERM, which xpk sends to a subshell, reach the process.
        command=shlex.quote(shlex.join(["exec", "deconv-jax", *job.container])),
    )
    return [Step(text, ("bash",), "xpk")]


def tpu_vm(
    job: Job, *, device: str, zone: str, version: str, image: str, bucket: str
) -> list[Step]:
    """Return the step that creates a TPU VM and trains on its workers.

    Args:
      job: Run to start; its name is also that of the VM.
      device: Accelerator type, such as "v5litepod-16".
      zone: Zone of the VM.
      version: Software version of the VM.
      image: Image of `launch/Dockerfile`.
      bucket: Name of the bucket that every worker mounts at `SHARED`.

    Raises:
      InputError: The bucket is a URL.
    """
    if not re.fullmatch(r"[\w.-]+", bucket, re.ASCII):
        raise InputError(f"--bucket must be the name of a bucket, without gs://; got {bucket!r}")
    text = render(
        "tpu_vm.sh",
        name=job.name,
        device=_plain("--device", device),
        zone=_plain("--zone", zone),
        version=_plain("--version", version),
        image=_plain("--image", image),
        bucket=bucket,
        command=shlex.quote(shlex.join(job.container)),
    )
    return [Step(text, ("bash",), "gcloud")]


def local(job: Job, *, processes: int) -> list[Step]:
    """Return the step that trains with several processes on this machine.

    Raises:
      InputError: The number of processes is below 2.
    """
    if processes < 2:
        raise InputError(
            f"--processes must be at least 2; got {processes} (for one, use deconv-jax train)"
        )
    text = render(
        "local.sh", processes=processes, train=job.local, python=shlex.quote(sys.executable)
    )
    return [Step(text, ("bash",), "bash")]


def show(steps: Sequence[Step]) -> str:
    """Return the texts of the steps, as one file."""
    return "---\n".join(step.text for step in steps)


def submit(steps: Sequence[Step]) -> None:
    """Pass each text to its program; a script replaces this process and does not return.

    Raises:
      InputError: A program is not installed or fails.
    """
    for step in steps:
        if shutil.which(step.needs) is None:
            raise InputError(
                f"{step.needs} is not installed on this machine; use --dry-run to print the file and "
                "submit it elsewhere"
            )
    for step in steps:
        if step.command == ("bash",):
            sys.stdout.flush()
            os.execvp("bash", ["bash", "-c", step.text])
        code = subprocess.run(step.command, input=step.text, text=True, check=False).returncode
        if code:
            raise InputError(f"`{shlex.join(step.command)}` failed with exit code {code}")
