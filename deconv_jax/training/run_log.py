"""What a run tells: a progress bar or plain lines, metrics.jsonl, TensorBoard events, pictures.

Only the first process writes. A run that resumes drops the records that it will make again, so that
metrics.jsonl reads like that of a run never stopped.
"""

import contextlib
import math
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from deconv_jax.errors import InputError
from deconv_jax.io import (
    cannot_write,
    json_object,
    json_text,
    kind_of,
    make_folder,
    read_text,
    write_png,
    write_text,
)

METRICS, EVENTS = "metrics.jsonl", "tensorboard"
FLUSH_SECONDS = 30
"""Seconds after which TensorBoard sees an event at the latest, while there are others."""


class RunLog:
    """The log of one run in its workdir; a context manager that closes it."""

    def __init__(
        self,
        workdir: Path,
        *,
        resumed_at: int | None,
        last_step: int,
        batch_size: int,
        writes: bool,
    ):
        """Opens the log; where not `writes`, every method does nothing.

        Args:
          workdir: of the run.
          resumed_at: step of the checkpoint that the run resumes from, None for a new run.
          last_step: of the run.
          batch_size: examples in a step.
          writes: whether this process is the one that writes.

        Raises:
          InputError: the log cannot be written, or the one that is there is damaged.
        """
        self._writes, self._batch_size = writes, batch_size
        if not writes:
            return
        first_step = resumed_at or 0
        self._path = workdir / METRICS
        self._last_time = time.perf_counter()
        self._last_step, self._compiled = first_step, False
        _keep_records(self._path, resumed_at)
        try:
            self._file = self._path.open("a", buffering=1, encoding="utf-8")
        except OSError as error:
            raise cannot_write(self._path, error) from error
        self._events = _Events(workdir / EVENTS, 0 if resumed_at is None else resumed_at + 1)
        self._pictures = workdir / "pictures"
        self._bar = tqdm(
            total=last_step,
            initial=first_step,
            unit="step",
            desc="train",
            # tqdm draws nothing on a terminal that does not say how wide it is.
            ncols=shutil.get_terminal_size().columns,
            disable=not sys.stderr.isatty(),
        )

    def train(self, step: int, scalars: Mapping[str, float]) -> None:
        """Records the scalars of a step with images/s since the last record, or the compile time."""
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
        else:  # The first record's time is the compiler's.
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
        """Records the measures of a whole split."""
        if not self._writes:
            return
        self._record(step, split, metrics)
        shown = "  ".join(f"{name} {value:.4f}" for name, value in metrics.items())
        self.say(f"step {step}  {split}: {shown}")
        self._events.flush()

    def pictures(self, step: int, pictures: Mapping[str, Image.Image]) -> None:
        """Writes pictures/NAME_STEP.png."""
        if not self._writes:
            return
        for name, picture in pictures.items():
            path = self._pictures / f"{name}_{step:07d}.png"
            write_png(path, picture)
            self._events.add_image(name, picture, step)

    def start_clock(self, step: int) -> None:
        """The next images/s counts from here: evaluating and saving is no training."""
        if self._writes:
            self._last_step, self._last_time = step, time.perf_counter()

    def say(self, message: str) -> None:
        """A line for the person watching."""
        if self._writes:
            self._bar.write(message, file=sys.stderr)

    def close(self) -> None:
        """Closes everything; raises InputError if a file cannot be written to its end."""
        if not self._writes:
            return
        self._bar.close()
        try:
            self._file.close()
        except OSError as error:
            raise cannot_write(self._path, error) from error
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
            self._file.write(json_text(record))
        except OSError as error:
            raise cannot_write(self._path, error) from error
        finite = {name: value for name, value in values.items() if math.isfinite(value)}
        self._events.add_scalars({f"{split}/{name}": value for name, value in finite.items()}, step)


class _Events:
    """TensorBoard events, written by the calling thread.

    The thread of tensorboardX's `SummaryWriter` prints a traceback when the disk is full and ends, and
    the run would wait for it forever.
    """

    def __init__(self, folder: Path, first_step: int):
        """Starts a file of events; earlier files' events from `first_step` on are void."""
        # Slow to import, and only one process needs it.
        from tensorboardX import summary
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import Event, SessionLog

        self._summary, self._event, self._folder = summary, Event, folder
        make_folder(folder)
        start = Event(step=first_step, session_log=SessionLog(status=SessionLog.START))
        try:
            self._writer = EventsWriter(str(folder / "events"))
        except OSError as error:
            raise cannot_write(folder, error) from error
        self._flushed = time.time()
        self._write(start)

    def add_scalars(self, values: Mapping[str, float], step: int) -> None:
        """Writes a number for each name."""
        for name, value in values.items():
            self._write(self._event(step=step, summary=self._summary.scalar(name, value)))

    def add_image(self, name: str, picture: Image.Image, step: int) -> None:
        """Writes a picture."""
        image = self._summary.image(name, np.asarray(picture), dataformats="HWC")
        self._write(self._event(step=step, summary=image))

    def flush(self) -> None:
        """Brings what was written to the disk."""
        self._flushed = time.time()
        self._try(self._writer.flush)

    def close(self) -> None:
        """Closes the file; raises InputError if it cannot be written to its end."""
        self._try(self._writer.close)

    def _write(self, event: Any) -> None:
        event.wall_time = time.time()
        self._try(self._writer.write_event, event)
        if event.wall_time - self._flushed > FLUSH_SECONDS:
            self.flush()

    def _try(self, function: Callable[..., Any], *arguments: Any) -> None:
        try:
            function(*arguments)
        except OSError as error:
            raise cannot_write(self._folder, error) from error


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The records of a metrics.jsonl; a last line cut off by a crash is left out.

    Raises:
      InputError: the file cannot be read, or another line is not a record.
    """
    *lines, rest = read_text(path).split("\n")
    if rest and _is_whole(rest):
        lines.append(rest)
    records = []
    for number, line in enumerate(lines, 1):
        try:
            record = json_object(line)
        except ValueError as error:
            raise InputError(f"{path}, line {number}: not a record ({error})") from error
        if type(record.get("step")) is not int:
            raise InputError(f'{path}, line {number}: "step" must be an integer; got {line[:100]}')
        records.append(record)
    return records


def _is_whole(line: str) -> bool:
    """Whether a line without an end is no beginning of a record, which a crash leaves, nor zeros."""
    if line[0] not in "{\0":
        return True
    try:
        json_object(line)
    except ValueError:
        return False
    return True


def _keep_records(path: Path, last: int | None) -> None:
    """Drops the records that a run makes again: after the step `last` and of the test set; None for all.

    The test set is measured after the last checkpoint.
    """
    if kind_of(path) is None:
        return
    kept = []
    if last is not None:
        kept = [r for r in read_metrics(path) if r["step"] <= last and r.get("split") != "test"]
    write_text(path, "".join(map(json_text, kept)))
