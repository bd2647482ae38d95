"""Checkpoints of a run. This is the only file that imports orbax.

A checkpoint holds the train state, the state of the data iterator and the config (JSON). It is complete or
absent: orbax writes under a temporary name and renames. A CRC-32 covers all of its content, because the
storage format does not detect every damaged byte. A damaged checkpoint is reported, and the one before it
is used. Saving copies the state to the host and writes it in the background while training continues.
"""

import contextlib
import dataclasses
import gc
import logging
import os
import re
import sys
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, TypeVar

import jax
import numpy as np

from deconv_jax.errors import InputError
from deconv_jax.io import kind_of, list_names, read_json, write_error
from deconv_jax.training.checksum import state_checksum
from deconv_jax.training.parallel import any_process, wait_for_all
from deconv_jax.training.read_errors import READ_ERRORS, raise_if_permission_denied, root_reason
from deconv_jax.training.state import TrainState

T = TypeVar("T")

KEEP_LATEST = 2
"""Number of latest checkpoints to keep: the last, and one to fall back to if the last is damaged."""


def warn(message: str) -> None:
    """Print "warning: MESSAGE" on standard error."""
    print(f"warning: {message}", file=sys.stderr)


@dataclasses.dataclass(frozen=True)
class RestoredCheckpoint:
    """The content of a checkpoint.

    Attributes:
      step: Step at which it was saved.
      state: Train state.
      iterator_state: State of the data iterator, as given to `Checkpoints.save`.
      config: Config of the run, or None if it was saved without one.
      evaluated: Whether it was saved with validation metrics, even if they were not finite.
    """

    step: int
    state: TrainState
    iterator_state: Any
    config: Any
    evaluated: bool


class Checkpoints:
    """The checkpoints in a folder: the latest two (`KEEP_LATEST`), and the best by a validation metric.

    Each save deletes all other checkpoints. A context manager that waits for the last save and closes the
    folder.
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
        """Open the folder.

        Unless `read_only`, create it, remove unfinished checkpoints, and rename those with damaged metadata to
        STEP.damaged.

        Args:
          directory: Folder of the checkpoints.
          monitor: Name of the metric whose best checkpoint is kept; "-NAME" if lower is better.
          config: Config of the run, stored with each checkpoint as JSON.
          report: Function called with a message about each damaged checkpoint.
          read_only: Whether to leave the folder unmodified, as is necessary while a run may be writing to it.

        Raises:
          InputError: The path is not a folder, or is missing and `read_only`; the folder cannot be read or
            created; or, unless `read_only`, every checkpoint in it has damaged metadata.
        """
        self.directory = directory.absolute()
        self._metric, self._sign = monitor.removeprefix("-"), -1 if monitor[0] == "-" else 1
        self._config, self._report = config, report
        self._saving: tuple[int, Any] | None = None
        self._save_failed = False
        self._reported: set[str] = set()
        kind = kind_of(directory)
        if kind != "folder" and (read_only or kind):
            raise InputError(f"{directory} holds no checkpoints")
        # All processes decide alike, although one may create the folder before another one looks.
        exists = not read_only and any_process(kind == "folder")
        self._orbax = None if read_only else self._open_for_writing(exists=exists)

    def steps(self) -> list[int]:
        """Return the steps that have a checkpoint, in increasing order; [] without any.

        Raises:
          InputError: The folder cannot be read.
        """
        names = list_names(self.directory)
        return sorted(int(name) for name in names if re.fullmatch(r"0|[1-9][0-9]*", name))

    def best_step(self) -> int | None:
        """Return the step with the best validation metric, or None if no checkpoint has metrics.

        Checkpoints with damaged metrics are reported and passed over.

        Raises:
          InputError: The folder cannot be read.
        """
        return next(iter(self._best_steps()), None)

    def save(
        self,
        state: TrainState,
        iterator_state: Any,
        metrics: dict[str, float] | None,
        *,
        overwrite: bool = False,
    ) -> None:
        """Start writing a checkpoint, and return once the state may be changed.

        Args:
          state: State, on the devices of all processes.
          iterator_state: State of the data iterator, JSON-serializable.
          metrics: Validation metrics of this state, or None. If the monitored one is missing or not finite,
            no metrics are saved, and this checkpoint cannot be the best.
          overwrite: Whether to replace a checkpoint of this step, which is deleted first.

        Raises:
          InputError: This checkpoint or the previous one cannot be written, or, unless `overwrite`, this or a
            later step already has a checkpoint. Other existing checkpoints are unchanged.
          ValueError: The folder was opened with `read_only`, or is closed.
        """
        if self._orbax is None:
            raise ValueError("these checkpoints were opened read-only or are closed")
        self.wait()
        step = int(state.step)
        # Non-finite values, such as an infinite PSNR, have no JSON representation and cannot be ranked.
        finite = {k: v for k, v in (metrics or {}).items() if np.isfinite(v)}
        saved_metrics = finite if self._metric in finite else None
        facts = {
            "step": step,
            "data": iterator_state,
            "config": self._config,
            "evaluated": metrics is not None,
        }
        extra = facts | {"checksum": state_checksum(state, facts | {"metrics": saved_metrics})}
        try:
            response = self._orbax.save_checkpointables_async(
                step,
                {"state": state},
                overwrite=overwrite,
                metrics=saved_metrics,
                custom_metadata=extra,
            )
        except (OSError, ValueError) as error:
            raise self._cannot_save(step, error) from error
        if response is None:
            raise InputError(f"{self.directory} already has a checkpoint of step {step} or later")
        self._saving = (step, response)

    def wait(self) -> None:
        """Wait until the last `save` is on disk; raise InputError if it could not be written."""
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
        sharding: jax.sharding.Sharding | TrainState,
        which: Literal["last", "best"] | int = "last",
    ) -> RestoredCheckpoint | None:
        """Return a checkpoint; None if "last" or "best" is requested and the folder has none.

        If the last checkpoint is damaged, report it and try the one before, and so on, until one
        can be read. For "best", try the second best next, and so on. If the folder is open for
        writing, also rename the damaged ones to STEP.damaged.

        Args:
          like: State of the same structure, shapes and dtypes; may be abstract.
          sharding: Sharding of every restored array, or a state of them, whatever devices saved it.
          which: The last checkpoint, the best by the validation metric, or that of a step.

        Raises:
          InputError: The requested step has no checkpoint; its checkpoint, or every checkpoint, is damaged or
            belongs to another model; none has the metric, so none is best; or a permission is missing.
        """
        damaged: dict[int, str] = {}
        self._reported.clear()
        while candidates := [step for step in self._candidates(which) if step not in damaged]:
            step = candidates[0]
            restored, reason = self._try_read(step, lambda n: self._load(n, like, sharding))
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
                f"other checkpoints: steps {others}"
            )
        self._report_all(damaged, "passed over")
        raise InputError(
            f"{self.directory} has no readable checkpoint; tried steps {list(damaged)}"
        )

    def close(self) -> None:
        """Wait for the last save, and free orbax's threads; do nothing if `read_only` or already closed.

        Raises:
          InputError: The last save failed, and no earlier call raised its error.
        """
        orbax, self._orbax = self._orbax, None
        if orbax is None:
            return
        already_raised, errors = self._save_failed, []
        # Each of these raises the error of a failed save. All must be called to free the threads.
        for finish in (self.wait, orbax.wait, orbax.close):
            try:
                finish()
            except (OSError, ValueError) as error:
                errors.append(error)
        if errors and not already_raised:
            first = errors[0]
            raise first if isinstance(first, InputError) else write_error(self.directory, first)

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

    def _open_for_writing(self, *, exists: bool) -> Any:
        """Return orbax's checkpointer."""
        from orbax.checkpoint import v1 as ocp

        if exists:
            damaged = self._damaged_metadata()
            if damaged and len(damaged) == len(self.steps()):
                # Refuse, rather than silently restart from step 0.
                step = max(damaged)
                raise InputError(
                    f"{self.directory} has no readable checkpoint; that of step {step}: {damaged[step]}"
                )
            self._set_aside(damaged)
        policies = ocp.training.preservation_policies
        best = policies.BestN(
            get_metric_fn=self._score, n=1, keep_checkpoints_without_metrics=False
        )
        context = ocp.Context()
        # On a full disk, creating folders in the background deadlocks the threads that wait for them.
        context.asynchronous.create_directories_asynchronously = False
        try:
            return ocp.training.Checkpointer(
                self.directory,
                context=context,
                save_decision_policy=ocp.training.save_decision_policies.FixedIntervalPolicy(1),
                preservation_policy=policies.AnyPreservationPolicy(
                    [policies.LatestN(KEEP_LATEST), best]
                ),
                cleanup_tmp_directories=True,
            )
        except OSError as error:
            raise write_error(self.directory, error) from error
        except ValueError as error:
            raise InputError(f"cannot read {self.directory}: {root_reason(error)}") from error

    def _candidates(self, which: Literal["last", "best"] | int) -> list[int]:
        """Return the steps to try, in order."""
        steps = self.steps()
        if which == "last":
            return steps[::-1]
        if which == "best":
            best = self._best_steps()
            if steps and not best:
                raise InputError(
                    f"no checkpoint in {self.directory} has validation metrics, so none is best"
                )
            return best
        if which not in steps:
            raise InputError(f"{self.directory} has no checkpoint of step {which}; it has {steps}")
        return [which]

    def _best_steps(self) -> list[int]:
        """Return the steps with metrics, best first, and report those with unreadable metrics."""
        scores, damaged = {}, {}
        for step in self.steps():
            try:
                metrics = self._read_metrics(step)
                if metrics is not None:
                    scores[step] = self._score(metrics)
            except READ_ERRORS as error:
                raise_if_permission_denied(self.directory / str(step), error)
                damaged[step] = root_reason(error)
        self._report_all(damaged, "passed over")
        return sorted(scores, key=lambda step: scores[step], reverse=True)

    def _score(self, metrics: Mapping[str, float]) -> float:
        """Return the monitored metric, negated if lower is better."""
        if self._metric not in metrics:
            raise ValueError(f"its metrics have no {self._metric}")
        score = self._sign * float(metrics[self._metric])
        if not np.isfinite(score):
            raise ValueError(f"its metric {self._metric} is {score}")
        return score

    def _read_metrics(self, step: int) -> dict[str, float] | None:
        """Return the validation metrics of a checkpoint, or None if it has none."""
        path = self.directory / str(step) / "metrics" / "metrics"
        return None if kind_of(path) is None else read_json(path)

    def _load(
        self, step: int, like: TrainState, sharding: jax.sharding.Sharding | TrainState
    ) -> RestoredCheckpoint:
        """Read a checkpoint and verify its checksum."""
        from orbax.checkpoint import v1 as ocp

        folder = self.directory / str(step)
        abstract = jax.tree.map(
            lambda a, s: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=s),
            like,
            jax.tree.broadcast(sharding, like),
        )
        extra = ocp.checkpointables_metadata(folder).custom_metadata
        if not extra:
            raise ValueError("its metadata is missing")
        state: Any = None
        error: Exception | None = None
        try:
            state = ocp.load_checkpointables(folder, {"state": abstract})["state"]
        except READ_ERRORS as reason:
            error = reason
        # Each process reads its part, and the checksum needs all parts.
        if any_process(error is not None):
            raise error or ValueError("another process could not read its part")
        facts = None
        if "step" in extra:  # In older versions the checksum covered only the state.
            names = ("step", "data", "config", "evaluated")
            facts = {name: extra[name] for name in names if name in extra}
            facts["metrics"] = self._read_metrics(step)
        if state_checksum(state, facts) != extra["checksum"]:
            raise ValueError("its checksum does not match")
        if int(state.step) != step:
            raise ValueError(f"it holds the state of step {int(state.step)}")
        # Older versions evaluated the state before they saved it.
        evaluated = extra.get("evaluated", True)
        return RestoredCheckpoint(step, state, extra["data"], extra["config"], evaluated)

    def _damaged_metadata(self) -> dict[int, str]:
        """Return the steps whose metadata orbax cannot parse, with the reason.

        Orbax refuses to open a folder that contains such a checkpoint.
        """
        from orbax.checkpoint import v1 as ocp

        def read(step: int) -> bool:
            ocp.checkpointables_metadata(self.directory / str(step))
            self._score(self._read_metrics(step) or {self._metric: 0.0})
            return True

        attempts = {step: self._try_read(step, read) for step in self.steps()}
        return {step: reason for step, (_, reason) in attempts.items() if reason}

    def _try_read(self, step: int, read: Callable[[int], T]) -> tuple[T | None, str]:
        """Return (`read(step)`, ""), or (None, reason) if the checkpoint cannot be read."""
        level = logging.root.manager.disable
        logging.disable(logging.CRITICAL)  # asyncio logs each of the many tasks of a failed read.
        try:
            try:
                return read(step), ""
            except READ_ERRORS as error:
                raise_if_permission_denied(self.directory / str(step), error)
                reason = root_reason(error)
            with warnings.catch_warnings(action="ignore", category=RuntimeWarning):
                gc.collect()  # A task logs its exception when it is collected: do it while muted.
        finally:
            logging.disable(level)
        return None, reason

    def _set_aside(self, damaged: Mapping[int, str]) -> None:
        """Rename damaged checkpoints, so that their steps can be saved again."""
        if jax.process_index() == 0:
            for step in damaged:
                folder = self.directory / str(step)
                aside = folder.with_name(f"{step}.damaged")
                while kind_of(aside):
                    aside = aside.with_name(f"{aside.name}.again")
                try:
                    folder.rename(aside)
                except OSError as error:
                    raise write_error(folder, error) from error
        wait_for_all("damaged checkpoints set aside")
        self._report_all(damaged, "renamed to STEP.damaged")

    def _report_all(self, damaged: Mapping[int, str], action: str) -> None:
        for step, reason in damaged.items():
            message = f"checkpoint of step {step} is damaged, {action}: {reason}"
            if message not in self._reported:
                self._reported.add(message)
                self._report(message)

    def _cannot_save(self, step: int, error: Exception) -> InputError:
        self._save_failed = True
        # TensorStore gives the error number of the system only in its text.
        number = re.search(r"os_error_code='(\d+)'", str(error))
        if number:
            error = OSError(int(number[1]), os.strerror(int(number[1])))
        message = write_error(self.directory / str(step), error)
        intact = [s for s in self.steps() if s != step]
        kept = (
            f"the checkpoint of step {intact[-1]} is intact" if intact else "none was written yet"
        )
        return InputError(f"{message}; {kept}")
