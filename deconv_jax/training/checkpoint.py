"""Checkpoints of a run, and the only file that imports orbax.

A checkpoint is the train state, the data iterator's state and the config (JSON). It appears whole or
not at all: orbax writes under a temporary name and renames. A checksum of everything in it travels with
it, since the storage format does not notice every damaged byte; a checkpoint that fails it is
reported, and the one before is used. The state is copied to the host, and written in the
background while training continues.
"""

import contextlib
import dataclasses
import functools
import gc
import json
import logging
import os
import re
import sys
import traceback
import warnings
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, TypeVar

import jax
import numpy as np
from orbax.checkpoint import v1 as ocp

from deconv_jax.errors import InputError
from deconv_jax.io import cannot_write, kind_of, names_in, read_json
from deconv_jax.training.parallel import any_process, wait_for_all
from deconv_jax.training.state import TrainState

T = TypeVar("T")

KEEP_LATEST = 2
"""Newest checkpoints kept: the last, and the one to fall back to should the last be damaged."""

_UNREADABLE = (
    OSError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    ArithmeticError,
    RecursionError,
)
"""What is raised while damaged files are read."""
_LEFT_BEHIND = ("Event loop is closed", "Encountered error while reading array index")
"""What tasks print that orbax leaves behind."""
_OF_TENSORSTORE = re.compile(r"[A-Z_]{5,}: ")
"""The status that an error of TensorStore, a bare ValueError, begins with."""


def warn(message: str) -> None:
    """Prints a warning on standard error."""
    print(f"warning: {message}", file=sys.stderr)


@dataclasses.dataclass(frozen=True)
class Restored:
    """What a checkpoint holds, and the step it was written at."""

    step: int
    state: TrainState
    data: Any
    config: Any


class Checkpoints:
    """The checkpoints in a folder: the newest `KEEP_LATEST`, and the best by a validation measure.

    A context manager that closes it.
    """

    def __init__(
        self,
        directory: Path,
        *,
        monitor: str,
        config: Any = None,
        report: Callable[[str], None] = warn,
        read_only: bool = False,
    ):
        """Opens the folder; unless `read_only`, creates it and removes unfinished checkpoints.

        Args:
          directory: where the checkpoints are.
          monitor: the measure whose best checkpoint is kept, see `Task.monitor`.
          config: the run's, stored with each checkpoint; JSON-able.
          report: told of every damaged checkpoint that is passed over.
          read_only: open without changing anything; a run may be writing there.

        Raises:
          InputError: the folder cannot be read or created, or every checkpoint in it is damaged.
        """
        self.directory = directory.absolute()
        self._measure, self._sign = monitor.removeprefix("-"), -1 if monitor[0] == "-" else 1
        self._config, self._report = config, report
        self._saving: tuple[int, Any] | None = None
        self._failed, self._orbax = False, None
        self._reported: set[str] = set()
        _silence_orbax()
        kind = kind_of(directory)
        if kind != "folder" and (read_only or kind):
            raise InputError(f"{directory} holds no checkpoints")
        if read_only:
            return
        if kind:
            damaged = self._damaged_metadata()
            if damaged and len(damaged) == len(self.steps()):  # Not to start again from step 0.
                step = max(damaged)
                raise InputError(
                    f"{directory} has no readable checkpoint; that of step {step}: {damaged[step]}"
                )
            self._set_aside(damaged)
        policies = ocp.training.preservation_policies
        best = policies.BestN(
            get_metric_fn=self._score,
            n=1,
            keep_checkpoints_without_metrics=False,
        )
        # Folders made in the background leave other threads waiting for them where the disk is full.
        context = ocp.Context()
        context.asynchronous.create_directories_asynchronously = False
        try:
            self._orbax = ocp.training.Checkpointer(
                self.directory,
                context=context,
                save_decision_policy=ocp.training.save_decision_policies.FixedIntervalPolicy(1),
                preservation_policy=policies.AnyPreservationPolicy(
                    [policies.LatestN(KEEP_LATEST), best]
                ),
                cleanup_tmp_directories=True,
            )
        except OSError as error:
            raise cannot_write(self.directory, error) from error
        except ValueError as error:
            raise InputError(f"{self.directory} is not readable: {_reason(error)}") from error

    def steps(self) -> list[int]:
        """Steps that have a checkpoint, rising.

        Raises:
          InputError: the folder cannot be read.
        """
        names = names_in(self.directory)
        return sorted(int(name) for name in names if re.fullmatch(r"0|[1-9][0-9]*", name))

    def best_step(self) -> int | None:
        """The step with the best validation measure, or None."""
        return next(iter(self._best_steps()), None)

    def _best_steps(self) -> list[int]:
        """Measured steps, the best first; reports those whose measures cannot be read."""
        scores, damaged = {}, {}
        for step in self.steps():
            try:
                metrics = self._metrics(step)
                if metrics is not None:
                    scores[step] = self._score(metrics)
            except _UNREADABLE as error:
                _refuse_if_forbidden(self.directory / str(step), error)
                damaged[step] = _reason(error)
        self._report_all(damaged, "passed over")
        return sorted(scores, key=lambda step: scores[step], reverse=True)

    def _metrics(self, step: int) -> dict[str, float] | None:
        """The validation measures of a checkpoint, None if it has none."""
        path = self.directory / str(step) / "metrics" / "metrics"
        return None if kind_of(path) is None else read_json(path)

    def _score(self, metrics: Mapping[str, float]) -> float:
        if self._measure not in metrics:
            raise ValueError(f"its metrics have no {self._measure}")
        score = self._sign * float(metrics[self._measure])
        if not np.isfinite(score):
            raise ValueError(f"its measure {self._measure} is {score}")
        return score

    def save(self, state: TrainState, data: Any, metrics: dict[str, float] | None) -> None:
        """Starts writing a checkpoint; returns once the state may be changed.

        Args:
          state: replicated over all devices.
          data: the data iterator's state, JSON-able.
          metrics: validation measures of this very state, or None.

        Raises:
          InputError: this checkpoint, or the one before it, cannot be written; those already there
            are untouched. Or there is one of this step or a later one.
        """
        if self._orbax is None:
            raise ValueError("these checkpoints were opened read-only or are closed")
        self.wait()
        step = int(state.step)
        # JSON has no word for others (an infinite PSNR), and they could not be compared either.
        finite = {k: v for k, v in (metrics or {}).items() if np.isfinite(v)}
        measured = finite if self._measure in finite else None
        facts = {"step": step, "data": data, "config": self._config}
        extra = facts | {"checksum": _checksum(state, facts | {"metrics": measured})}
        try:
            response = self._orbax.save_checkpointables_async(
                step, {"state": state}, metrics=measured, custom_metadata=extra
            )
        except (OSError, ValueError) as error:
            raise self._cannot_save(step, error) from error
        if response is None:
            raise InputError(f"{self.directory} already has a checkpoint of step {step} or later")
        self._saving = (step, response)

    def wait(self) -> None:
        """Returns once the last `save` is on disk; raises InputError if it could not be written."""
        if self._saving is None:
            return
        step, response = self._saving
        self._saving = None
        try:
            response.result()
        except (OSError, ValueError) as error:
            raise self._cannot_save(step, error) from error

    def restore(
        self,
        like: TrainState,
        sharding: jax.sharding.Sharding,
        which: Literal["last", "best"] | int = "last",
    ) -> Restored | None:
        """Reads a checkpoint; None if there is none at all.

        Unless a step is asked for, a damaged checkpoint is reported and the next one is read: the one
        before the last, or the second best. Where this object may write, it is also renamed.

        Args:
          like: a state of the same structure, shapes and types, abstract or not.
          sharding: where every array is put, whatever devices wrote it.
          which: the last, the best by the validation measure, or that of a step.

        Raises:
          InputError: the checkpoint asked for, or every one, is damaged or of another model; or none
            was measured, so none is best.
        """
        damaged: dict[int, str] = {}
        self._reported.clear()
        while candidates := [step for step in self._candidates(which) if step not in damaged]:
            step = candidates[0]
            restored, reason = self._attempt(step, lambda n: self._load(n, like, sharding))
            if restored is None and self._orbax is None and step not in self.steps():
                continue  # The run that is writing here has removed it.
            if any_process(restored is None):
                damaged[step] = reason or "another process could not read it"
                continue
            if self._orbax is not None and damaged:
                self._set_aside(damaged)
                self._orbax.reload()
            else:
                self._report_all(damaged, "passed over")
            return restored
        if not damaged:
            return None
        if isinstance(which, int):
            others = [step for step in self.steps() if step != which]
            raise InputError(
                f"the checkpoint of step {which} in {self.directory} is damaged: {damaged[which]}; "
                f"others are of steps {others}"
            )
        self._report_all(damaged, "passed over")
        raise InputError(
            f"{self.directory} has no readable checkpoint; tried steps {list(damaged)}"
        )

    def close(self) -> None:
        """Waits for what is being written and frees orbax's threads.

        Raises:
          InputError: as `wait`, unless an earlier call did.
        """
        orbax, self._orbax = self._orbax, None
        if orbax is None:
            return
        failed, errors = self._failed, []
        # orbax raises the error of a failed save at each of these, and frees its threads at the last.
        for finish in (self.wait, orbax.wait, orbax.close):
            try:
                finish()
            except (OSError, ValueError) as error:
                errors.append(error)
        if errors and not failed:
            first = errors[0]
            raise first if isinstance(first, InputError) else cannot_write(self.directory, first)

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with contextlib.suppress(InputError) if error else contextlib.nullcontext():
            self.close()

    def _candidates(self, which: Literal["last", "best"] | int) -> list[int]:
        """Steps to try, in their order."""
        steps = self.steps()
        if which == "last":
            return steps[::-1]
        if which == "best":
            best = self._best_steps()
            if steps and not best:
                raise InputError(f"no checkpoint in {self.directory} was measured, so none is best")
            return best
        if which not in steps:
            raise InputError(f"{self.directory} has no checkpoint of step {which}; it has {steps}")
        return [which]

    def _damaged_metadata(self) -> dict[int, str]:
        """Steps whose metadata orbax cannot parse, and why: it would not open the folder."""

        def read(step: int) -> bool:
            ocp.checkpointables_metadata(self.directory / str(step))
            self._score(self._metrics(step) or {self._measure: 0.0})
            return True

        attempts = {step: self._attempt(step, read) for step in self.steps()}
        return {step: reason for step, (_, reason) in attempts.items() if reason}

    def _attempt(self, step: int, read: Callable[[int], T]) -> tuple[T | None, str]:
        """What `read` returns of a step, and ""; or None, and why its files cannot be read."""
        level = logging.root.manager.disable
        logging.disable(logging.CRITICAL)  # asyncio logs every task of a failed read.
        try:
            try:
                return read(step), ""
            except _UNREADABLE as error:
                _refuse_if_forbidden(self.directory / str(step), error)
                reason = _reason(error)
            with warnings.catch_warnings(action="ignore", category=RuntimeWarning):
                gc.collect()  # A task is logged only when it is collected.
        finally:
            logging.disable(level)
        return None, reason

    def _set_aside(self, damaged: Mapping[int, str]) -> None:
        """Renames checkpoints that cannot be read, so that their steps can be saved anew."""
        if jax.process_index() == 0:
            for step in damaged:
                folder = self.directory / str(step)
                aside = folder.with_name(f"{step}.damaged")
                while kind_of(aside):
                    aside = aside.with_name(f"{aside.name}.again")
                try:
                    folder.rename(aside)
                except OSError as error:
                    raise cannot_write(folder, error) from error
        wait_for_all("damaged checkpoints set aside")
        self._report_all(damaged, "renamed to STEP.damaged")

    def _report_all(self, damaged: Mapping[int, str], done: str) -> None:
        for step, reason in damaged.items():
            message = f"checkpoint of step {step} is damaged, {done}: {reason}"
            if message not in self._reported:
                self._reported.add(message)
                self._report(message)

    def _load(self, step: int, like: TrainState, sharding: jax.sharding.Sharding) -> Restored:
        folder = self.directory / str(step)
        abstract = jax.tree.map(
            lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=sharding), like
        )
        extra = ocp.checkpointables_metadata(folder).custom_metadata
        if not extra:
            raise ValueError("its metadata is missing")
        state = ocp.load_checkpointables(folder, {"state": abstract})["state"]
        facts = None
        if "step" in extra:  # Older versions wrote the checksum of the state alone.
            facts = {name: extra[name] for name in ("step", "data", "config")}
            facts["metrics"] = self._metrics(step)
        if _checksum(state, facts) != extra["checksum"]:
            raise ValueError("its checksum does not match")
        if int(state.step) != step:
            raise ValueError(f"it holds the state of step {int(state.step)}")
        return Restored(step, state, extra["data"], extra["config"])

    def _cannot_save(self, step: int, error: Exception) -> InputError:
        self._failed = True
        # TensorStore tells the number of the system's error only in its text.
        number = re.search(r"os_error_code='(\d+)'", str(error))
        if number:
            error = OSError(int(number[1]), os.strerror(int(number[1])))
        message = cannot_write(self.directory / str(step), error)
        intact = [s for s in self.steps() if s != step]
        kept = (
            f"the checkpoint of step {intact[-1]} is intact" if intact else "none was written yet"
        )
        return InputError(f"{message}; {kept}")


def _refuse_if_forbidden(path: Path, error: BaseException) -> None:
    """Raises InputError for an error of missing permission, which is no damage."""
    for cause in _causes(error):
        if isinstance(cause, PermissionError) or "PERMISSION_DENIED" in str(cause):
            raise InputError(f"cannot read {path}: permission denied") from error
    # A file in a folder that may not be entered looks as if it were missing.
    for parent, folders, _ in os.walk(path):
        for name in folders:
            folder = Path(parent, name)
            if not os.access(folder, os.R_OK | os.X_OK):
                raise InputError(f"cannot read {folder}: permission denied") from error


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error, the one that caused it, and so on."""
    while error is not None:
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


@functools.cache
def _silence_orbax() -> None:
    """Keeps orbax from printing page-long details of an error that is raised too, also by its threads.

    When one array cannot be read or written, the tasks of the others are left behind, and each of them
    prints an exception when it ends or is collected.
    """

    def of_others(record: logging.LogRecord) -> bool:
        _, error, trace = record.exc_info or (None, None, None)
        if type(error) is ValueError and _OF_TENSORSTORE.match(str(error)):
            return False  # Of a task, it may be collected when no frame of orbax is left.
        # The file that a record names may be absl's or asyncio's own.
        frames = (*traceback.walk_stack(None), *traceback.walk_tb(trace))
        files = (frame.f_code.co_filename for frame, _ in frames)
        return not any(f"{os.sep}orbax{os.sep}" in file for file in files)

    for name in ("absl", "asyncio"):
        logging.getLogger(name).addFilter(of_others)
    warnings.filterwarnings("ignore", "coroutine '_read_array_index", RuntimeWarning)
    before = sys.unraisablehook

    def hook(unraisable: Any) -> None:
        if not str(unraisable.exc_value).startswith(_LEFT_BEHIND):
            before(unraisable)

    sys.unraisablehook = hook


def _reason(error: Exception) -> str:
    """The first line of what an error, or the one at its root, says."""
    root = error if isinstance(error, InputError) else [*_causes(error)][-1]
    return (str(root).strip().splitlines() or [type(root).__name__])[0][:200]


def _checksum(state: TrainState, facts: Mapping[str, Any] | None) -> int:
    """CRC-32 over names, shapes, types and bytes of every array, which are fetched, and over facts.

    Args:
      state: the arrays.
      facts: what else there is, JSON-able; None if nothing.
    """
    value = 0
    for path, leaf in jax.tree_util.tree_leaves_with_path(state):
        array = np.asarray(leaf)
        name = f"{jax.tree_util.keystr(path)} {array.shape} {array.dtype}"
        value = zlib.crc32(array.tobytes(), zlib.crc32(name.encode(), value))
    if facts is not None:
        # As they are read again: tuples as lists, keys as strings.
        read = json.loads(json.dumps(facts))
        value = zlib.crc32(json.dumps(read, sort_keys=True).encode(), value)
    return value
