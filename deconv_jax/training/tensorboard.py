"""TensorBoard event files."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from deconv_jax.io import make_folder, write_error

FLUSH_SECONDS = 30
"""Maximum number of seconds between flushes while events are being written."""


class EventWriter:
    """A TensorBoard event file, written by the calling thread.

    Every method raises InputError if the file cannot be written.

    tensorboardX's `SummaryWriter` is not used: on a full disk, its thread prints a traceback and ends, and the
    run would wait for it forever.
    """

    def __init__(self, folder: Path, first_step: int):
        """Open a new event file in `folder`, which is created if missing.

        TensorBoard ignores events of earlier files at steps >= `first_step`.
        """
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
            raise write_error(folder, error) from error
        self._flushed = time.time()
        self._write(start)

    def add_scalars(self, values: Mapping[str, float], step: int) -> None:
        """Write a scalar for each name."""
        for name, value in values.items():
            self._write(self._event(step=step, summary=self._summary.scalar(name, value)))

    def add_image(self, name: str, picture: Image.Image, step: int) -> None:
        """Write an RGB image."""
        image = self._summary.image(name, np.asarray(picture), dataformats="HWC")
        self._write(self._event(step=step, summary=image))

    def flush(self) -> None:
        """Write buffered events to the disk now, rather than within `FLUSH_SECONDS` (30)."""
        self._flushed = time.time()
        self._try(self._writer.flush)

    def close(self) -> None:
        """Write buffered events and close the file."""
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
            raise write_error(self._folder, error) from error
