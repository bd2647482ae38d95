"""The folder of a run: check, lock, describe, open and load it, and record provenance.

A workdir is self-describing. `config.json` holds the whole experiment, including defaults, and `inputs.json`
the shapes of its data. The path of the workdir is therefore all that a trained model needs.
"""

import contextlib
import importlib.metadata
import operator
import platform
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np

from deconv_jax import schema
from deconv_jax.data.batch import Batch
from deconv_jax.errors import InputError
from deconv_jax.experiment import Experiment
from deconv_jax.io import check_local, kind_of, list_names, read_json, write_json
from deconv_jax.lock import locked
from deconv_jax.training.checkpoint import Checkpoints
from deconv_jax.training.parallel import Devices, any_process, wait_for_all
from deconv_jax.training.state import TrainState

Checkpoint = Literal["last", "best"] | int
"""The last checkpoint, the best on the validation split, or the one of a step."""

CONFIG, INPUTS, RESULT, CHECKPOINTS = "config.json", "inputs.json", "result.json", "checkpoints"
INITIAL_WEIGHTS = "initial_weights.json"

UNCHECKED_DATA_KEYS = frozenset({"data_dir", "workers", "prefetch"})
"""Keys of `config.data` that may change when a run resumes, because results do not depend on them."""


def check_workdir(workdir: Path, experiment: Experiment) -> None:
    """Raise InputError unless an experiment can start or resume in a workdir.

    The workdir must be missing, empty except for hidden files, or that of a run. If the run has a checkpoint or a
    result, its config must be that of the experiment (`check_unchanged`).
    """
    kind = kind_of(workdir)
    if kind not in (None, "folder"):
        raise InputError(f"workdir {workdir} is not a folder")
    if kind_of(workdir / CONFIG) is None:
        others = [name for name in list_names(workdir) if not name.startswith(".")]
        if others:
            raise InputError(
                f"workdir {workdir} is not empty (it holds {others[0]!r}) and has no {CONFIG}, so it is "
                "not the workdir of a run; use a new or empty folder"
            )
        return
    before = open_workdir(workdir)
    if kind_of(workdir / RESULT) or list_names(workdir / CHECKPOINTS):
        check_unchanged(f"workdir {workdir}", before, experiment)


def check_unchanged(where: str, before: Experiment, experiment: Experiment) -> None:
    """Raise InputError if an experiment differs from the one that a run was started with.

    `data_dir`, `workers` and `prefetch` of the data may differ, because results do not depend on them.
    Experiments are compared rather than configs, so that keys added in newer versions have their defaults.

    Args:
      where: Workdir or checkpoint of the run, for the error message.
      before: Experiment that the run was started with.
      experiment: Experiment that would resume it.
    """
    old, new = before.to_dict(), experiment.to_dict()
    for values in (old, new):
        values["data"] = {k: v for k, v in values["data"].items() if k not in UNCHECKED_DATA_KEYS}
    changes = list(schema.differences(old, new))
    if changes:
        raise InputError(
            f"{where} belongs to a run with another config; use another workdir or undo:\n  "
            + "\n  ".join(changes)
        )


def has_checkpoint(workdir: Path) -> bool:
    """Return whether a run has saved a checkpoint that is not set aside as damaged."""
    return any(name.isdecimal() for name in list_names(workdir / CHECKPOINTS))


@contextlib.contextmanager
def workdir_lock(workdir: Path) -> Iterator[None]:
    """Hold the lock of a workdir, which is created if missing, in a `with` block.

    The first process holds it for all processes.

    Raises:
      InputError: In all processes: another run holds the lock, or the workdir cannot be written.
    """
    error = None
    with contextlib.ExitStack() as stack:
        if jax.process_index() == 0:
            try:
                stack.enter_context(locked(workdir))
            except InputError as raised:
                error = raised
        if any_process(error is not None):
            raise error or InputError(f"workdir {workdir} is in use or cannot be written")
        yield


def write_description(
    workdir: Path,
    experiment: Experiment,
    example: Batch,
    initial_weights: Mapping[str, Any] | None = None,
) -> None:
    """Write config.json and inputs.json in the first process, and wait for them in the others.

    Args:
      workdir: Folder of the run.
      experiment: Experiment to describe.
      example: Batch of one training example.
      initial_weights: Content of initial_weights.json, from `initial_weights.copy_weights`; None leaves the
        file as it is.
    """
    if jax.process_index() == 0:
        # Write the config first: a folder with other files but no config is refused.
        write_json(workdir / CONFIG, experiment.to_dict())
        write_inputs(workdir, example)
        if initial_weights is not None:
            write_json(workdir / INITIAL_WEIGHTS, dict(initial_weights))
    wait_for_all("config written")


def write_inputs(workdir: Path, example: Batch) -> None:
    """Write inputs.json: the shape, without the batch axis, and dtype of each array of a batch."""
    described = {
        name: {"shape": list(array.shape[1:]), "dtype": str(array.dtype)}
        for name, array in example.items()
    }
    write_json(workdir / INPUTS, described)


def write_result(workdir: Path, result: dict[str, Any]) -> None:
    """Write result.json in the first process, and wait for it in the others."""
    if jax.process_index() == 0:
        write_json(workdir / RESULT, result)
    wait_for_all("result written")


def read_result(workdir: Path) -> dict[str, Any] | None:
    """Return the content of result.json, as from `train.train`; None if the file does not exist.

    Raises:
      InputError: The file is damaged: it is not JSON, or has no "metrics".
    """
    path = workdir / RESULT
    if kind_of(path) is None:
        return None
    result = read_json(path)
    if "metrics" not in result:
        raise InputError(
            f"{path} is damaged: it has no metrics; remove it and run the same command again to "
            "evaluate the test split again"
        )
    return result


def open_workdir(workdir: Path) -> Experiment:
    """Return the experiment of a workdir.

    Raises:
      InputError: The folder has no config.json, or it cannot be read or is not a config of this version.
    """
    check_local(workdir)
    path = workdir / CONFIG
    if kind_of(path) is None:
        raise InputError(f"{workdir} is not the workdir of a run: it has no {CONFIG}")
    config = read_json(path)
    try:
        return Experiment.from_dict(config)
    except InputError as error:
        raise InputError(f"{path} is not the config of a run: {error}") from error


def load_state(
    workdir: Path,
    checkpoint: Checkpoint,
    init: Callable[[jax.Array], TrainState] | None = None,
) -> tuple[int, TrainState]:
    """Return the step and the state of a checkpoint of a run.

    If the last checkpoint is damaged, print a warning and try the one before, and so on. For "best", try the
    second best next, and so on. For a step, there is no fallback.

    Args:
      workdir: Folder of the run.
      checkpoint: "last", "best" on the validation split, or a step.
      init: Function from a key to an initial state of the run; only shapes matter. None for that of the task
        with the shapes of `read_input_shapes`.

    Returns:
      The step, and the state, replicated over all devices.

    Raises:
      InputError: The folder is not the workdir of a run; the step is missing or damaged; every candidate for
        "last" or "best" is damaged; "best" is requested and no checkpoint has metrics; or, without `init`, as in
        `read_input_shapes`.
    """
    experiment = open_workdir(workdir)
    devices = Devices.all()
    key = jax.random.key(0)
    if init is None:
        like = jax.eval_shape(experiment.task.init, key, read_input_shapes(workdir))
    else:
        like = jax.eval_shape(init, key)
    with Checkpoints(
        workdir / CHECKPOINTS, monitor=experiment.task.monitor, read_only=True
    ) as checkpoints:
        restored = checkpoints.restore(like, devices.replicated, checkpoint)
    if restored is None:
        raise InputError(f"{workdir} has no checkpoint yet")
    return restored.step, restored.state


def read_input_shapes(workdir: Path) -> dict[str, jax.ShapeDtypeStruct]:
    """Return the shapes and dtypes of a batch of one training example of a run.

    Returns:
      Shape (1, ...) and dtype by name: "image" (1, height, width, channels), "index" (1,) and the other arrays
      of the data set, such as "label".

    Raises:
      InputError: The folder is not the workdir of a run; or it has no inputs.json, because an older version
        trained it; or the file is damaged.
    """
    open_workdir(workdir)
    if kind_of(workdir / INPUTS) is None:
        raise InputError(
            f"{workdir} has no {INPUTS}, because it was trained by a version that did not record the "
            "shapes of its data; run its training command again to add them"
        )
    return parse_input_shapes(read_json(workdir / INPUTS), workdir / INPUTS)


def parse_input_shapes(
    described: dict[str, Any], where: Path | str = "inputs"
) -> dict[str, jax.ShapeDtypeStruct]:
    """Return the shapes and dtypes of a batch of one example from the content of inputs.json.

    Args:
      described: "shape", without the batch axis, and "dtype" by name of the array.
      where: File of the description, for the error message.

    Raises:
      InputError: The description is damaged.
    """
    try:
        example = {
            name: jax.ShapeDtypeStruct((1, *map(operator.index, about["shape"])), about["dtype"])
            for name, about in described.items()
        }
        numbers = all(
            np.dtype(like.dtype).kind in "buif" and all(0 <= n < 2**31 for n in like.shape)
            for like in example.values()
        )
        valid = numbers and "index" in example and len(example["image"].shape) == 4
    except (AttributeError, LookupError, OverflowError, TypeError, ValueError):
        valid = False
    if not valid:
        raise InputError(
            f"{where} is damaged: expected a shape and a dtype for each array, among them "
            f'"image" with three axes and "index"; got {described}'
        )
    return example


def provenance(ignored: Sequence[str] = ()) -> dict[str, Any]:
    """Return what a result depends on besides its config, JSON-serializable.

    Args:
      ignored: Folders of the checkout whose changes do not affect the result, besides the records of results.

    Returns:
      "commit" and "uncommitted_changes" (whether there are any), both None outside of a git checkout; "versions"
      by package; "device" with "kind", "count", "processes" and "platform"; and "started", the time in UTC.
    """
    root = Path(__file__).parent.parent
    packages = ("jax", "jaxlib", "flax", "optax", "numpy")
    # Results and the texts rendered from them do not affect results.
    excluded = [f":!{folder}" for folder in ("experiments/results", "*.md", *ignored)]
    changes = _git(root, "status", "--porcelain", "--", ".", *excluded)
    return {
        "commit": _git(root, "rev-parse", "HEAD"),
        "uncommitted_changes": None if changes is None else bool(changes),
        "versions": {"python": platform.python_version()}
        | {"deconv_jax": importlib.metadata.version("deconv_jax")}
        | {name: importlib.metadata.version(name) for name in packages},
        "device": {
            "kind": jax.devices()[0].device_kind,
            "count": jax.device_count(),
            "processes": jax.process_count(),
            "platform": f"{platform.system()} {platform.machine()}",
        },
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def _git(root: Path, *arguments: str) -> str | None:
    """Return the output of a git command, or None without a checkout or without git."""
    if not (root / ".git").exists():
        return None
    command = ["git", "-C", str(root), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None
