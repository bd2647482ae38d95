"""The log of a run: progress on the terminal, metrics.jsonl, TensorBoard events and pictures.

Only the first process writes. A run that resumes drops the records that it will write again, so its
metrics.jsonl is that of a run that never stopped.
"""

import contextlib
import math
import shutil
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from PIL import Image
from tqdm import tqdm

from deconv_jax.errors import InputError
from deconv_jax.io import (
    kind_of,
    parse_json_object,
    read_text,
    to_json,
    write_error,
    write_png,
    write_text,
)
from deconv_jax.training.tensorboard import EventWriter

METRICS, EVENTS, PICTURES = "metrics.jsonl", "tensorboard", "pictures"
"""Names of the file and the folders in a workdir."""


class RunLog:
    """The log of a run in its workdir. A context manager that closes it."""

    def __init__(
        self,
        workdir: Path,
        *,
        resumed_at: int | None,
        last_step: int,
        batch_size: int,
        writes: bool,
    ):
        """Open the log. If not `writes`, every method does nothing.

        Records after `resumed_at` and those of the test split are dropped from an existing metrics.jsonl; a new
        run drops all.

        Args:
          workdir: Folder of the run.
          resumed_at: Step of the checkpoint that the run resumes from, or None for a new run.
          last_step: Last step of the run.
          batch_size: Number of examples per step.
          writes: Whether this process writes the log.

        Raises:
          InputError: The log cannot be written, or the existing log is damaged.
        """
        self._writes, self._batch_size = writes, batch_size
        if not writes:
            return
        first_step = resumed_at or 0
        self._path = workdir / METRICS
        self._last_time = time.perf_counter()
        self._last_step, self._compiled = first_step, False
        _drop_records(self._path, resumed_at)
        try:
            self._file = self._path.open("a", buffering=1, encoding="utf-8")
        except OSError as error:
            raise write_error(self._path, error) from error
        self._events = EventWriter(workdir / EVENTS, 0 if resumed_at is None else resumed_at + 1)
        self._pictures = workdir / PICTURES
        self._bar = tqdm(
            total=last_step,
            initial=first_step,
            unit="step",
            desc="train",
            # tqdm draws nothing on a terminal that does not report its width.
            ncols=shutil.get_terminal_size().columns,
            disable=not sys.stderr.isatty(),
        )

    def train(self, step: int, scalars: Mapping[str, float]) -> None:
        """Record the scalars of a step, among them "loss", and report the progress on standard error.

        The record also has "images_per_second" since the last record; the first one has "first_call_seconds"
        instead, because the first call compiles the step.

        Raises:
          InputError: The log cannot be written.
        """
        if not self._writes:
            return
        now = time.perf_counter()
        seconds, self._last_time = now - self._last_time, now
        steps, self._last_step = step - self._last_step, step
        if self._compiled:
            rate = steps * self._batch_size / seconds
            remaining = (self._bar.total - step) * seconds / steps
            speed = {"images_per_second": rate}
            shown = f"{rate:,.0f} images/s  ETA {tqdm.format_interval(remaining)}"
        else:
            speed = {"first_call_seconds": seconds}
            shown = f"compiled in {seconds:.1f} s"
        self._compiled = True
        self._record(step, "train", {**scalars, **speed})
        if self._bar.disable:
            self.say(f"step {step}/{self._bar.total}  loss {scalars['loss']:.5f}  {shown}")
        else:
            self._bar.set_postfix_str(f"loss {scalars['loss']:.5f}, {shown.split('  ')[0]}")
            self._bar.update(step - self._bar.n)

    def evaluation(self, step: int, split: str, metrics: Mapping[str, float]) -> None:
        """Record the metrics of a split and print them; raise InputError if they cannot be written."""
        if not self._writes:
            return
        self._record(step, split, metrics)
        shown = "  ".join(f"{name} {value:.4f}" for name, value in metrics.items())
        self.say(f"step {step}  {split}: {shown}")
        self._events.flush()

    def pictures(self, step: int, pictures: Mapping[str, Image.Image]) -> None:
        """Write RGB pictures as pictures/NAME_STEP.png, STEP with seven digits, and to TensorBoard.

        Raises:
          InputError: A picture cannot be written.
        """
        if not self._writes:
            return
        for name, picture in pictures.items():
            write_png(self._pictures / f"{name}_{step:07d}.png", picture)
            self._events.add_image(name, picture, step)

    def start_clock(self, step: int) -> None:
        """Restart the measurement of images/s, to exclude the time of evaluating and saving."""
        if self._writes:
            self._last_step, self._last_time = step, time.perf_counter()

    def say(self, message: str) -> None:
        """Print a line on standard error."""
        if self._writes:
            self._bar.write(message, file=sys.stderr)

    def close(self) -> None:
        """Close all files; raise InputError if buffered content cannot be written."""
        if not self._writes:
            return
        self._bar.close()
        try:
            self._file.close()
        except OSError as error:
            raise write_error(self._path, error) from error
        finally:
            self._events.close()

    def __enter__(self) -> "RunLog":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with contextlib.suppress(InputError) if error else contextlib.nullcontext():
            self.close()

    def _record(self, step: int, split: str, values: Mapping[str, float]) -> None:
        record = {"step": step, "split": split, "time": time.time(), **values}
        try:
            self._file.write(to_json(record))
        except OSError as error:
            raise write_error(self._path, error) from error
        finite = {name: value for name, value in values.items() if math.isfinite(value)}
        self._events.add_scalars({f"{split}/{name}": value for name, value in finite.items()}, step)


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Return the records of a metrics.jsonl, without a last line that a crash truncated.

    A record has an integer "step", a "split", a "time" and numbers by name, with None for infinity and NaN.

    Raises:
      InputError: The file is missing or cannot be read, or another line is not a JSON object with an integer
        "step".
    """
    *lines, rest = read_text(path).split("\n")
    if rest and not _is_truncated(rest):
        lines.append(rest)
    records = []
    for number, line in enumerate(lines, 1):
        try:
            record = parse_json_object(line)
        except ValueError as error:
            raise InputError(f"{path}, line {number}: not a record ({error})") from error
        if type(record.get("step")) is not int:
            raise InputError(f'{path}, line {number}: "step" must be an integer; got {line[:100]}')
        records.append(record)
    return records


def _is_truncated(line: str) -> bool:
    """Return whether a line without a line end is the beginning of a record, or zero bytes."""
    if line[0] not in "{\0":
        return False
    try:
        parse_json_object(line)
    except ValueError:
        return True
    return False


def _drop_records(path: Path, resumed_at: int | None) -> None:
    """Drop the records that a run writes again.

    These are the records after the step `resumed_at`, and those of the test split, which is evaluated after
    the last checkpoint. None drops all records.
    """
    if kind_of(path) is None:
        return
    kept = []
    if resumed_at is not None:
        kept = [
            record
            for record in read_metrics(path)
            if record["step"] <= resumed_at and record.get("split") != "test"
        ]
    write_text(path, "".join(map(to_json, kept)))
