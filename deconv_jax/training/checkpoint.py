"""Checkpoints of a run, and the only file that imports orbax.

A checkpoint is the train state, the data iterator's state and the config (JSON). It appears whole or
not at all: orbax writes under a temporary name and renames. A checksum of the state travels with
it, since the storage format does not notice every damaged byte; a checkpoint that fails it is
renamed and reported, and the one before is used. The state is copied to the host, and written in the
background while training continues.
"""

import contextlib
import dataclasses
import gc
import json
import logging
import warnings
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from orbax.checkpoint import v1 as ocp

from deconv_jax.errors import InputError
from deconv_jax.files import cannot_write
from deconv_jax.training.parallel import agree, wait_for_all
from deconv_jax.training.state import TrainState

KEPT = 2
"""Newest checkpoints kept: the last, and the one to fall back to should the last be damaged."""


@dataclasses.dataclass(frozen=True)
class Restored:
    """What a checkpoint holds, and the step it was written at."""

    step: int
    state: TrainState
    data: Any


class Checkpoints:
    """The checkpoints in a folder: the newest `KEPT`, and the best by a validation measure."""

    def __init__(
        self,
        directory: Path,
        *,
        monitor: str,
        config: Any = None,
        report: Callable[[str], None] = warnings.warn,
        read_only: bool = False,
    ):
        """Opens the folder; unless `read_only`, creates it and removes unfinished checkpoints.

        Args:
          directory: where the checkpoints are.
          monitor: the measure whose best checkpoint is kept, see `Task.monitor`.
          config: the run's, stored with each checkpoint; JSON-able.
          report: told of every damaged checkpoint that is passed over.
          read_only: open without changing anything.

        Raises:
          InputError: the folder cannot be read or created.
        """
        self.directory = directory.absolute()
        self._measure, self._sign = monitor.removeprefix("-"), -1 if monitor[0] == "-" else 1
        self._config, self._report = config, report
        self._read_only = read_only
        self._saving: tuple[int, Any] | None = None
        policies = ocp.training.preservation_policies
        best = policies.BestN(
            get_metric_fn=self._score,
            n=1,
            keep_checkpoints_without_metrics=False,
        )
        if read_only and not directory.is_dir():
            raise InputError(f"{directory} holds no checkpoints")
        if not read_only:
            self._set_aside(_unreadable(self.directory))
        try:
            self._orbax = ocp.training.Checkpointer(
                self.directory,
                save_decision_policy=ocp.training.save_decision_policies.FixedIntervalPolicy(1),
                preservation_policy=policies.AnyPreservationPolicy([policies.LatestN(KEPT), best]),
                cleanup_tmp_directories=not read_only,
            )
        except OSError as error:
            raise cannot_write(self.directory, error) from error
        except ValueError as error:
            raise InputError(f"{self.directory} is not readable: {_first_line(error)}") from error

    def steps(self) -> list[int]:
        """Steps that have a checkpoint, rising."""
        return sorted(info.step for info in self._orbax.checkpoints)

    def best_step(self) -> int | None:
        """The step with the best validation measure, or None."""
        measured = [info for info in self._orbax.checkpoints if info.metrics]
        if not measured:
            return None
        return max(measured, key=lambda info: self._score(info.metrics)).step

    def _score(self, metrics: Mapping[str, float]) -> float:
        return self._sign * metrics[self._measure]

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
        self.wait()
        step = int(state.step)
        extra = {"checksum": _checksum(state), "data": data, "config": self._config}
        # JSON has no word for others (an infinite PSNR), and they could not be compared either.
        finite = {k: v for k, v in (metrics or {}).items() if np.isfinite(v)}
        try:
            response = self._orbax.save_checkpointables_async(
                step,
                {"state": state},
                metrics=finite if self._measure in finite else None,
                custom_metadata=extra,
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
        self, like: TrainState, sharding: jax.sharding.Sharding, step: int | None = None
    ) -> Restored | None:
        """The checkpoint of a step, or the newest undamaged one; None if there is none at all.

        Args:
          like: a state of the same structure, shapes and types, abstract or not.
          sharding: where every array is put, whatever devices wrote it.
          step: which; None for the newest.

        Raises:
          InputError: the checkpoint asked for, or every one, is damaged or of another model.
        """
        steps = self.steps()
        if step is not None and step not in steps:
            raise InputError(f"{self.directory} has no checkpoint of step {step}; it has {steps}")
        wanted = steps[::-1] if step is None else [step]
        damaged: dict[int, str] = {}
        for candidate in wanted:
            restored, reason = None, "another process could not read it"
            try:
                with _quiet():
                    restored = self._load(candidate, like, sharding)
            except (OSError, ValueError, KeyError) as error:
                reason = _first_line(error)
            if agree(restored is None):
                damaged[candidate] = reason
                continue
            if not self._read_only and damaged:
                self._set_aside(damaged)
                self._orbax.reload()
            else:
                self._report_all(damaged, "passed over")
            return restored
        self._report_all(damaged, "passed over")
        if wanted:
            raise InputError(f"{self.directory} has no readable checkpoint; tried steps {wanted}")
        return None

    def close(self) -> None:
        """Waits for what is being written and frees orbax's threads."""
        try:
            self.wait()
        finally:
            self._orbax.close()

    def _set_aside(self, damaged: Mapping[int, str]) -> None:
        """Renames checkpoints that cannot be read, so that their steps can be saved anew."""
        if jax.process_index() == 0:
            for step in damaged:
                aside = self.directory / f"{step}.damaged"
                while aside.exists():
                    aside = aside.with_name(f"{aside.name}.again")
                (self.directory / str(step)).rename(aside)
        wait_for_all("damaged checkpoints set aside")
        self._report_all(damaged, "renamed to STEP.damaged")

    def _report_all(self, damaged: Mapping[int, str], done: str) -> None:
        for step, reason in damaged.items():
            self._report(f"checkpoint of step {step} is damaged, {done}: {reason}")

    def _load(self, step: int, like: TrainState, sharding: jax.sharding.Sharding) -> Restored:
        abstract = jax.tree.map(
            lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=sharding), like
        )
        extra = self._orbax.metadata(step).custom_metadata
        if not extra:
            raise ValueError("its metadata is missing")
        state = self._orbax.load_checkpointables(step, {"state": abstract})["state"]
        if _checksum(state) != extra["checksum"]:
            raise ValueError("its checksum does not match")
        return Restored(step, state, extra["data"])

    def _cannot_save(self, step: int, error: Exception) -> InputError:
        message = cannot_write(self.directory / str(step), error)
        intact = [s for s in self.steps() if s != step]
        kept = (
            f"the checkpoint of step {intact[-1]} is intact" if intact else "none was written yet"
        )
        return InputError(f"{message}; {kept}")


def _unreadable(directory: Path) -> dict[int, str]:
    """Steps whose metadata orbax cannot parse, and why: it would not open the folder."""
    reasons = {}
    for folder in directory.glob("[0-9]*"):
        if not folder.name.isdecimal():
            continue
        try:
            with _quiet():
                ocp.checkpointables_metadata(folder)
            for path in (folder / "metrics").glob("metrics"):
                json.loads(path.read_text())
        except (OSError, ValueError, KeyError) as error:
            reasons[int(folder.name)] = _first_line(error)
    return reasons


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps orbax and asyncio from logging page-long details of an error that is reported here."""
    logging.disable(logging.CRITICAL)
    try:
        yield
    except Exception:
        gc.collect()  # asyncio logs a failed task only when it is collected.
        raise
    finally:
        logging.disable(logging.NOTSET)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def _checksum(state: TrainState) -> int:
    """CRC-32 over names, shapes, types and bytes of every array; fetches them all."""
    value = 0
    for path, leaf in jax.tree_util.tree_leaves_with_path(state):
        array = np.asarray(leaf)
        name = f"{jax.tree_util.keystr(path)} {array.shape} {array.dtype}"
        value = zlib.crc32(array.tobytes(), zlib.crc32(name.encode(), value))
    return value
