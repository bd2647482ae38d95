"""An experiment as a value, and what can be done with one: train it, evaluate it.

A workdir is self-describing: `config.json` there holds the whole experiment, defaults included, and
`inputs.json` the shapes of its data, so everything after training needs the folder's path and nothing else.
"""

import contextlib
import dataclasses
import importlib.metadata
import operator
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from deconv_jax import schema
from deconv_jax.data.degradations import DEGRADATIONS, Degradation
from deconv_jax.data.overlap import overlaps
from deconv_jax.data.pipeline import Data, Prefetched, evaluation_batches, training_iterator
from deconv_jax.data.sources import STACKED, Source, in_memory
from deconv_jax.data.views import VIEWS, DigitScenes, View
from deconv_jax.errors import InputError, at_least
from deconv_jax.io import (
    json_text,
    kind_of,
    make_folder,
    names_in,
    read_json,
    write_json,
    write_png,
)
from deconv_jax.lock import locked
from deconv_jax.models import MODELS
from deconv_jax.tasks import TASKS
from deconv_jax.training.checkpoint import Checkpoints
from deconv_jax.training.loop import Stream, Training, fit
from deconv_jax.training.optimizer import Optimizer
from deconv_jax.training.parallel import Devices, agree, same_everywhere, wait_for_all
from deconv_jax.training.run_log import RunLog
from deconv_jax.training.state import Precision, TrainState
from deconv_jax.training.task import Batch, Task
from deconv_jax.viz.plots import draw

CONFIG, RESULT, CHECKPOINTS = "config.json", "result.json", "checkpoints"
INPUTS = "inputs.json"
"""What an example of a run's training data holds: a shape and a type for each name."""
PICTURED = 12
"""Examples in a picture."""

_CHOICES: schema.Choices = {
    nn.Module: MODELS,
    Task: TASKS,
    Degradation: DEGRADATIONS,
    View: VIEWS,
}
_WHERE_AND_HOW = frozenset({"data_dir", "workers", "prefetch"})
"""Keys of config.data that a run may be continued with other values of: they change no number."""
_HANDED_DOWN = frozenset({"optimizer", "precision", "seed", "num_steps"})
"""Task fields that are no keys of config.task: they are settings of the whole experiment."""


@dataclasses.dataclass(frozen=True)
class Experiment:
    """A task on a data set, for so many steps.

    Attributes:
      task: what is learned; holds `optimizer`, `precision` and, as it needs them, `seed` and
        `num_steps`.
      data: what from.
      training: for how long.
      seed: of the initial weights, the order of examples and the task's random numbers.
    """

    task: Task
    data: Data
    training: Training
    optimizer: Optimizer
    precision: Precision = "f32"
    seed: int = 0

    def __post_init__(self) -> None:
        at_least("seed", self.seed, 0)
        scenes = isinstance(getattr(self.task, "view", None), DigitScenes)
        if scenes and not self.data.name.startswith(STACKED):
            raise InputError(
                f"the view digit_scenes is of stacked digits, a data.name that begins with {STACKED!r}; "
                f"got {self.data.name!r}"
            )

    @classmethod
    def from_dict(cls, config: Mapping[str, Any]) -> "Experiment":
        """Builds an experiment of the keys task, data, training, optimizer, precision, seed.

        Raises:
          InputError: an unknown, missing or ill-typed key.
        """
        try:
            return cls._built(config)
        except schema.UnknownKey as error:
            raise error.elsewhere(cls._keys(config)) from None

    @classmethod
    def _built(cls, config: Mapping[str, Any]) -> "Experiment":
        values = dict(config)
        known = [field.name for field in dataclasses.fields(cls)]
        for key in values:
            if key not in known:
                raise schema.UnknownKey("config", key, known)
        task_values = values.pop("task", None)
        task_class, task_fields = schema.choose(TASKS, task_values, "config.task")
        outer = schema.build(cls, {"optimizer": {}} | values, _CHOICES, task=None)
        optimizer = outer.optimizer
        if optimizer.decay_steps is None:
            optimizer = dataclasses.replace(optimizer, decay_steps=outer.training.num_steps)
        task = schema.build(
            task_class,
            task_fields,
            _CHOICES,
            "config.task",
            optimizer=optimizer,
            precision=outer.precision,
            seed=outer.seed,
            num_steps=outer.training.num_steps,
        )
        return dataclasses.replace(outer, task=task)

    @classmethod
    def _keys(cls, config: Mapping[str, Any]) -> Iterator[str]:
        """The keys of a config for `from_dict`, with their groups."""
        for key in schema.keys(cls, config, _CHOICES):
            if not any(f"{key}.".startswith(f"config.task.{name}.") for name in _HANDED_DOWN):
                yield key

    def to_dict(self) -> dict[str, Any]:
        """The config that `from_dict` makes this of, defaults written out; JSON-able."""
        values = schema.to_dict(self, _CHOICES, leave_out=frozenset({"task"}))
        return {"task": schema.to_dict(self.task, _CHOICES, leave_out=_HANDED_DOWN)} | values


def train(experiment: Experiment, workdir: Path) -> dict[str, Any]:
    """Trains an experiment, or continues it from the last checkpoint in `workdir`.

    Leaves there checkpoints/, config.json, inputs.json, metrics.jsonl, tensorboard/, pictures/ and, once
    finished, result.json.

    Returns:
      The content of result.json; if it was there before, nothing is done but to write an inputs.json that
      is missing, as runs of older versions had none.

    Raises:
      InputError: the config does not fit the data, the devices or what is in `workdir`; or another
        process trains there; or the disk is full; or the loss became NaN.
      Interrupted: after SIGTERM or SIGINT, saved.
    """
    started, ran_in = time.perf_counter(), provenance()
    data, writes = experiment.data.with_splits(), jax.process_index() == 0
    if data != experiment.data and writes:
        print(
            f"note: {data.name} has no subfolders train, validation and test; its files are split by "
            f"chance: data.train_split={data.train_split!r}, "
            f"data.validation_split={data.validation_split!r}, data.test_split={data.test_split!r}",
            file=sys.stderr,
        )
    experiment = dataclasses.replace(experiment, data=data)
    _check_workdir(workdir, experiment)
    if kind_of(workdir / RESULT):
        if writes and not kind_of(workdir / INPUTS):
            example = _example(experiment, experiment.data.source("train"))
            write_json(workdir / INPUTS, _described(example))
        result = read_json(workdir / RESULT)
        if "metrics" not in result:
            raise InputError(
                f"{workdir / RESULT} is damaged: it has no metrics; remove it, and the same command "
                "measures the test set again"
            )
        return result
    with _locked(workdir):
        _check_workdir(workdir, experiment)  # Another process may have written since.
        result = _train(experiment, workdir) | ran_in
        result["wall_time_s"] = round(time.perf_counter() - started, 2)
        if jax.process_index() == 0:
            write_json(workdir / RESULT, result)
        wait_for_all("result written")
    return result


def _train(experiment: Experiment, workdir: Path) -> dict[str, Any]:
    """Trains in a workdir that is locked and checked; returns what result.json holds of it."""
    config = experiment.to_dict()
    writes = jax.process_index() == 0
    training = experiment.training
    devices = Devices.all(training.compiler)
    devices.check_batch_size(training.batch_size)
    sources = _sources(experiment.data)
    shared = overlaps({name: source.parts for name, source in sources.items()})
    stream = _stream(experiment, devices, sources)
    example = _example(experiment, sources["train"])
    state = _init(experiment, devices, example)
    if writes:
        # In this order: without a config, a folder that is not empty is taken for another's.
        write_json(workdir / CONFIG, config)
        write_json(workdir / INPUTS, _described(example))
    wait_for_all("config written")

    with Checkpoints(
        workdir / CHECKPOINTS, monitor=experiment.task.monitor, config=config
    ) as checkpoints:
        restored = checkpoints.restore(state, devices.replicated)
        if restored is not None:
            if restored.config is not None:
                before = Experiment.from_dict(restored.config)
                _refuse_changes(f"the checkpoint of step {restored.step}", before, experiment)
            state = restored.state
            stream.train.set_state(restored.data)
        resumed_at = None if restored is None else restored.step
        with RunLog(
            workdir,
            resumed_at=resumed_at,
            last_step=training.num_steps,
            batch_size=training.batch_size,
            writes=writes,
        ) as log:
            for pair, count in shared.items():
                log.say(
                    f"warning: splits overlap, {pair}: {count} files or records; set data.train_split, "
                    "data.validation_split and data.test_split to disjoint ones, or figures are not of "
                    "new images"
                )
            if restored is not None:
                log.say(f"continuing from the checkpoint of step {resumed_at}")
            state = fit(
                experiment.task,
                state,
                stream,
                training=training,
                devices=devices,
                checkpoints=checkpoints,
                log=log,
                resumed_at=resumed_at,
            )
            metrics = _evaluate_split(experiment, devices, sources["test"], state)
            log.evaluation(training.num_steps, "test", metrics)
    return {
        "config": config,
        "step": training.num_steps,
        "metrics": {"test": metrics},
        "baseline": {"test": experiment.task.baseline(sources["train"], sources["test"])},
        "protocol": experiment.task.protocol,
        "counts": {name: len(source) for name, source in sources.items()},
        "data": {name: dict(source.fingerprint) for name, source in sources.items()},
        "overlapping_splits": shared,
        "parameters": sum(a.size for a in jax.tree.leaves(state.params)),
        "seed": experiment.seed,
        "resumed_at_step": resumed_at or 0,
    }


def evaluate(
    workdir: Path,
    *,
    checkpoint: Literal["last", "best"] | int = "last",
    split: Literal["train", "validation", "test"] = "test",
    data_dir: str | None = None,
    plots: Path | None = None,
) -> dict[str, Any]:
    """The measures of a trained model on a split.

    Args:
      workdir: of the run.
      checkpoint: the last, the best on the validation split, or that of a step.
      split: one of those the config names.
      data_dir: where the data is now, if not where the run found it.
      plots: a folder for the task's pictures of the split's first examples and its plots of the
        whole split, NAME.png each; files of that name are replaced.

    Returns:
      {"step": of the checkpoint, "split": ..., "metrics": {...}}

    Raises:
      InputError: the workdir is none, or holds no such checkpoint; or `plots` cannot be written.
    """
    experiment = open_workdir(workdir)
    if plots is not None:  # Found out before the time that measuring takes.
        make_folder(plots)
    if data_dir is not None:
        data = dataclasses.replace(experiment.data, data_dir=data_dir)
        experiment = dataclasses.replace(experiment, data=data)
    devices = Devices.all()
    source = experiment.data.source(split)
    example = _example(experiment, source)
    step, state = load_state(workdir, checkpoint, lambda key: experiment.task.init(key, example))
    metrics = _evaluate_split(experiment, devices, source, state)
    if plots is not None:
        pictures = experiment.task.pictures(state, _first_examples(devices, source))
        batches = _evaluation(experiment, devices, source)
        drawn = experiment.task.plots(state, batches, metrics)
        for name, picture in (pictures | {n: draw(plot) for n, plot in drawn.items()}).items():
            write_png(plots / f"{name}.png", picture)
    return {"step": step, "split": split, "metrics": metrics}


def load_state(
    workdir: Path,
    checkpoint: Literal["last", "best"] | int,
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


def read_example(workdir: Path) -> dict[str, jax.ShapeDtypeStruct]:
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


@contextlib.contextmanager
def _locked(workdir: Path) -> Iterator[None]:
    """Hold a workdir's lock, in the first process for all."""
    error = None
    with contextlib.ExitStack() as stack:
        if jax.process_index() == 0:
            try:
                stack.enter_context(locked(workdir))
            except InputError as raised:
                error = raised
        if agree(error is not None):
            raise error or InputError(f"workdir {workdir} is in use or cannot be written")
        yield


def _check_workdir(workdir: Path, experiment: Experiment) -> None:
    """Refuses a workdir that is of another experiment, or is something else.

    One that has saved nothing yet, as its config did not work, may be given another config.
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
        _refuse_changes(f"workdir {workdir}", before, experiment)


def _refuse_changes(where: str, before: Experiment, experiment: Experiment) -> None:
    """Raises InputError for an experiment that would go on otherwise than the one before.

    Both are built, so that a setting that did not exist then has the default that it has now.
    """
    old, new = before.to_dict(), experiment.to_dict()
    for values in (old, new):
        values["data"] = {k: v for k, v in values["data"].items() if k not in _WHERE_AND_HOW}
    changes = list(schema.differences(old, new))
    if changes:
        raise InputError(
            f"{where} belongs to a run with another config; use another workdir, or undo:\n  "
            + "\n  ".join(changes)
        )


def _sources(data: Data) -> dict[str, Source]:
    """All splits; the first process comes first, since it may have to prepare an embedded set.

    Raises:
      InputError: in every process, if one of them cannot open the data or sees other data.
    """
    if jax.process_index() != 0:
        wait_for_all("data prepared")
    sources: dict[str, Source] = {}
    error = None
    try:
        sources = {split: data.source(split) for split in ("train", "validation", "test")}
    except InputError as raised:
        error = raised
    if jax.process_index() == 0:
        wait_for_all("data prepared")
    if agree(error is not None):
        raise error or InputError(f"another process cannot open data set {data.name!r}")
    seen = json_text({split: dict(source.fingerprint) for split, source in sources.items()})
    if not same_everywhere(seen):
        raise InputError(
            f"the processes see different examples of data set {data.name!r}; process "
            f"{jax.process_index()} has {seen.strip()}"
        )
    return sources


def _stream(experiment: Experiment, devices: Devices, sources: Mapping[str, Source]) -> Stream:
    data, training = experiment.data, experiment.training
    on_device = data.cache == "device"
    batches = training_iterator(
        sources["train"],
        batch_size=training.batch_size,
        batches=training.num_steps,
        seed=experiment.seed,
        indices_only=on_device,
        workers=data.workers,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )
    train = Prefetched(
        batches,
        devices.put_batches,
        group=training.steps_per_call,
        depth=data.prefetch,
        fingerprint=sources["train"].fingerprint,
    )
    cached = devices.replicate(dict(in_memory(sources["train"]).arrays)) if on_device else {}
    validation = sources["validation"]
    return Stream(
        train=train,
        cached=cached,
        validation=lambda: _evaluation(experiment, devices, validation),
        examples=_first_examples(devices, validation),
    )


def _first_examples(devices: Devices, source: Source) -> dict[str, jax.Array]:
    """What pictures are of, whole on every device."""
    places = np.arange(min(PICTURED, len(source)), dtype=np.int32)
    return devices.replicate(source.gather(places) | {"index": places})


def _evaluation(
    experiment: Experiment, devices: Devices, source: Source
) -> Iterator[dict[str, jax.Array]]:
    training = experiment.training
    wanted = training.eval_batch_size or training.batch_size
    batches = evaluation_batches(
        source,
        # Filling is masked out, so any number of devices will do.
        batch_size=-(-wanted // devices.mesh.size) * devices.mesh.size,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )
    return map(devices.put_batch, batches)


def _evaluate_split(
    experiment: Experiment, devices: Devices, source: Source, state: TrainState
) -> dict[str, float]:
    return experiment.task.evaluate(state, _evaluation(experiment, devices, source))


def _example(experiment: Experiment, source: Source) -> Batch:
    """The first row of a split."""
    if len(source) == 0:
        raise InputError(f"a split of data set {experiment.data.name!r} is empty")
    rows = source.gather(np.zeros(1, np.int32)) | {"index": np.zeros(1, np.int32)}
    return jax.tree.map(jnp.asarray, rows)


def _described(example: Batch) -> dict[str, Any]:
    """The shapes and types of a batch, without its first axis, as `INPUTS` has them."""
    return {
        name: {"shape": list(array.shape[1:]), "dtype": str(array.dtype)}
        for name, array in example.items()
    }


def _init(experiment: Experiment, devices: Devices, example: Batch) -> TrainState:
    def init(key: jax.Array) -> TrainState:
        return experiment.task.init(key, example)

    return devices.init(init, jax.random.key(experiment.seed))
