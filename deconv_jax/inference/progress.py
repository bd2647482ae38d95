"""A bar that counts files, or other work, on a terminal; lines pass above it."""

import shutil
import sys
from typing import Self, TextIO

from tqdm import tqdm

from deconv_jax.errors import printable


class Progress:
    """A bar on stderr, "restore 3/24", with the time that is left; none where that is no terminal."""

    def __init__(self, what: str, total: int):
        """Draws the bar of `total` pieces of work, named by a verb."""
        self._what = what
        self._bar = tqdm(
            total=total,
            desc=f"{what} 0/{total}",
            bar_format="{desc} {percentage:3.0f}%|{bar}| [{elapsed}, ETA {remaining}]",
            # tqdm draws nothing on a terminal that does not say how wide it is.
            ncols=shutil.get_terminal_size().columns,
            disable=not sys.stderr.isatty(),
        )

    def show(self, done: int, share: float = 0.0) -> None:
        """Moves the bar.

        Args:
          done: pieces that are done.
          share: of the next one that is done, from 0 to 1.
        """
        self._bar.set_description_str(
            f"{self._what} {int(done + share)}/{self._bar.total}", refresh=False
        )
        self._bar.update(done + share - self._bar.n)

    def write(self, line: str, file: TextIO | None = None) -> None:
        """Prints a `printable` line, on stdout unless told otherwise, and leaves the bar below it."""
        file = sys.stdout if file is None else file
        self._bar.write(printable(line), file=file)
        file.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()
