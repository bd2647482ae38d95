"""Progress of work on files: a bar on a terminal, and callbacks that report to it."""

import dataclasses
import shutil
import sys
from collections.abc import Callable
from typing import Self, TextIO

from tqdm import tqdm

from deconv_jax.errors import escape_unprintable


@dataclasses.dataclass(frozen=True)
class ProgressCallback:
    """Functions that are called while one image is processed.

    Attributes:
      on_progress: Receives the completed fraction, which increases to 1.
      on_message: Receives a sentence to show to the user.
      on_note: Receives words for the line about the result, such as "sigma 14.2 estimated".
      on_status: Receives words about the current state, such as "frame 3 of 750".
    """

    on_progress: Callable[[float], None]
    on_message: Callable[[str], None]
    on_note: Callable[[str], None] = lambda _: None
    on_status: Callable[[str], None] = lambda _: None


SILENT = ProgressCallback(on_progress=lambda _: None, on_message=lambda _: None)
"""A callback that ignores everything."""


class ProgressBar:
    """A bar on stderr such as "restore 3/24" with the remaining time; hidden unless on a terminal."""

    def __init__(self, verb: str, total: int):
        """Draw the bar.

        Args:
          verb: Name of the work.
          total: Number of items.
        """
        self._verb = verb
        self._status = ""
        self._bar = tqdm(
            total=total,
            desc=f"{verb} 0/{total}",
            bar_format="{desc} {percentage:3.0f}%|{bar}| [{elapsed}, ETA {remaining}]",
            # tqdm draws nothing on a terminal that does not report its width.
            ncols=shutil.get_terminal_size().columns,
            disable=not sys.stderr.isatty(),
        )

    def show(self, done: int, fraction: float = 0.0) -> None:
        """Redraw the bar.

        Args:
          done: Number of completed items.
          fraction: Completed fraction of the next item, in [0, 1].
        """
        status = f", {self._status}" if self._status else ""
        self._bar.set_description_str(
            f"{self._verb} {int(done + fraction)}/{self._bar.total}{status}", refresh=False
        )
        self._bar.update(done + fraction - self._bar.n)

    def set_status(self, status: str) -> None:
        """Show words about the current state from now on; none if they are empty."""
        self._status = status

    def write(self, line: str, file: TextIO | None = None) -> None:
        """Print a line above the bar, to stdout by default, with unprintable characters escaped."""
        file = sys.stdout if file is None else file
        self._bar.write(escape_unprintable(line), file=file)
        file.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()
