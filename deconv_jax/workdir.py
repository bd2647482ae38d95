"""The folder of a run: opened, checked, locked, loaded, and the provenance of what it holds.

A workdir is self-describing. `config.json` holds the whole experiment, defaults included, and `inputs.json`
the shapes of its data, so a trained model needs nothing but the path of its workdir.
"""

import contextlib
import dataclasses
import importlib.metadata
import operator
import platform
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np

from deconv_jax import schema
from deconv_jax.data.batch import Batch
from deconv_jax.data.sources import Source
from deconv_jax.errors import InputError
from deconv_jax.experiment import Experiment
from deconv_jax.io import kind_of, names_in, read_json, write_json
from deconv_jax.lock import locked
from deconv_jax.training.checkpoint import Checkpoints
from deconv_jax.training.parallel import Devices, any_process, wait_for_all
from deconv_jax.training.state import TrainState

Checkpoint = Literal["last", "best"] | int
"""The last checkpoint, the best on the validation split, or that of a step."""

CONFIG, INPUTS, RESULT, CHECKPOINTS = "config.json", "inputs.json", "result.json", "checkpoints"

_UNCHECKED_DATA_KEYS = frozenset({"data_dir", "workers", "prefetch"})
"""Keys of config.data that may change when a run is resumed, because no result depends on them."""


def check_workdir(workdir: Path, experiment: Experiment) -> None:
    """Raise InputError unless an experiment can start or resume in a workdir.

    A workdir without a checkpoint may be given another config.
    """
    kind = kind_of(workdir)
    if kind not in (None, "folder"):
        raise InputError(f"workdir {workdir} is not a folder")
    if kind_of(workdir / CONFIG) is None:
        others = [name for name in names_in(workdir) if not name.startswith(".")]
        if others:
            raise InputError(
                f"workdir {workdir} is not empty (it holds {others[0]!r}) and is not the folder of a run: "
                f"it has no {CONFIG}; use a new or an empty folder"
            )
        return
    before = open_workdir(workdir)
    if kind_of(workdir / RESULT) or names_in(workdir / CHECKPOINTS):
        check_unchanged(f"workdir {workdir}", before, experiment)


def check_unchanged(where: str, before: Experiment, experiment: Experiment) -> None:
    """Raise InputError if an experiment differs from the one that a run was started with.

    Paths and the speed of loading may differ. Both experiments are built first, so a setting that is
    new has its default in both.
    """
    old, new = before.to_dict(), experiment.to_dict()
    for values in (old, new):
        values["data"] = {k: v for k, v in values["data"].items() if k not in _UNCHECKED_DATA_KEYS}
    changes = list(schema.differences(old, new))
    if changes:
        raise InputError(
            f"{where} belongs to a run with another config; use another workdir, or undo:\n  "
            + "\n  ".join(changes)
        )


@contextlib.contextmanager
def locked_for_all(workdir: Path) -> Iterator[None]:
    """Hold the lock of a workdir. The first process holds it for all processes."""
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


def write_description(workdir: Path, experiment: Experiment, example: Batch) -> None:
    """Write config.json and inputs.json in the first process, and wait for them in the others.

    Args:
      workdir: Folder of the run.
      experiment: The experiment to describe.
      example: A batch of one example of the training data.
    """
    if jax.process_index() == 0:
        # The config first: without it, a folder that is not empty is refused.
        write_json(workdir / CONFIG, experiment.to_dict())
        write_inputs(workdir, example)
    wait_for_all("config written")


def write_inputs(workdir: Path, example: Batch) -> None:
    """Write inputs.json: shape, without the batch axis, and dtype of each array of a batch."""
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
    """Return the content of result.json, or None for a run that has not finished.

    Raises:
      InputError: The file is damaged.
    """
    path = workdir / RESULT
    if kind_of(path) is None:
        return None
    result = read_json(path)
    if "metrics" not in result:
        raise InputError(
            f"{path} is damaged: it has no metrics; remove it and run the same command again to "
            "measure the test set again"
        )
    return result


def open_workdir(workdir: Path) -> Experiment:
    """The experiment that a workdir was trained with.

    Raises:
      InputError: the folder is not the workdir of a run, or cannot be read.
    """
    path = workdir / CONFIG
    if kind_of(path) is None:
        raise InputError(f"{workdir} is not the workdir of a run: it has no {CONFIG}")
    config = read_json(path)
    try:
        return Experiment.from_dict(config)
    except InputError as error:
        raise InputError(f"{path} is not the config of a run: {error}") from error


def open_task(workdir: Path, *kinds: type) -> Any:
    """Return the task of a run.

    Args:
      workdir: Folder of the run.
      kinds: The task classes that are accepted.

    Raises:
      InputError: The folder is not the workdir of a run, or the run has another kind of task.
    """
    task = open_workdir(workdir).task
    if not isinstance(task, kinds):
        wanted = " or ".join(kind.__name__ for kind in kinds)
        raise InputError(
            f"{workdir} is a run of {type(task).__name__}; wanted is a run of {wanted}"
        )
    return task


def load_state(
    workdir: Path,
    checkpoint: Checkpoint,
    init: Callable[[jax.Array], TrainState],
) -> tuple[int, TrainState]:
    """The step and the state of one of a run's checkpoints.

    Where the last or the best is damaged, a warning is printed and the one before, or the second best,
    is read.

    Args:
      workdir: of the run.
      checkpoint: the last, the best on the validation split, or that of a step.
      init: makes a state of the run of a key; only its shapes matter.

    Returns:
      The state is on every device.

    Raises:
      InputError: the workdir is none, or holds no such checkpoint, or it is damaged.
    """
    experiment = open_workdir(workdir)
    devices = Devices.all()
    like = jax.eval_shape(init, jax.random.key(0))
    with Checkpoints(
        workdir / CHECKPOINTS, monitor=experiment.task.monitor, read_only=True
    ) as checkpoints:
        restored = checkpoints.restore(like, devices.replicated, checkpoint)
    if restored is None:
        raise InputError(f"{workdir} holds no checkpoint yet")
    return restored.step, restored.state


def read_input_shapes(workdir: Path) -> dict[str, jax.ShapeDtypeStruct]:
    """The shapes and types of a batch of one example of the images that a workdir was trained on.

    Raises:
      InputError: the workdir is none; or does not say, being older than `INPUTS` is, or not of images.
    """
    open_workdir(workdir)
    if kind_of(workdir / INPUTS) is None:
        raise InputError(
            f"{workdir} has no {INPUTS}: it was trained by a version that did not write down the "
            "shapes of its data; give the command that trained it once more, which adds them"
        )
    described = read_json(workdir / INPUTS)
    try:
        example = {
            name: jax.ShapeDtypeStruct((1, *map(operator.index, about["shape"])), about["dtype"])
            for name, about in described.items()
        }
        numbers = all(
            np.dtype(like.dtype).kind in "buif" and all(0 <= n < 2**31 for n in like.shape)
            for like in example.values()
        )
        of_images = numbers and "index" in example and len(example["image"].shape) == 4
    except (AttributeError, LookupError, OverflowError, TypeError, ValueError):
        of_images = False
    if not of_images:
        raise InputError(
            f"{workdir / INPUTS} is damaged: wanted is a shape and a dtype for each array, among them "
            f'"image" of three axes and "index"; got {described}'
        )
    return example


def provenance() -> dict[str, Any]:
    """What else a figure depends on: commit, versions, devices, platform, time."""
    root = Path(__file__).parent.parent
    packages = ("jax", "jaxlib", "flax", "optax", "numpy")
    # What runs write, and what is rendered from it, changes no figure.
    written = (":!experiments/results", ":!*.md")
    changes = _git(root, "status", "--porcelain", "--", ".", *written)
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
            "platform": platform.platform(terse=True),
        },
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def _git(root: Path, *arguments: str) -> str | None:
    """What git prints, or None where the package is in no checkout or there is no git."""
    if not (root / ".git").exists():
        return None
    command = ["git", "-C", str(root), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def open_test_split(workdir: Path, data_dir: str | None = None) -> Source:
    """The test split of a run's data.

    Args:
      workdir: of the run.
      data_dir: where the data is now, if not where the run found it.

    Raises:
      InputError: the workdir is none, or the data cannot be opened.
    """
    data = open_workdir(workdir).data
    if data_dir is not None:
        data = dataclasses.replace(data, data_dir=data_dir)
    return data.source("test")
