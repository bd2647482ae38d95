"""Stopping a run on SIGTERM and SIGINT, at the same point in all processes."""

import signal
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Any, TypeVar

from deconv_jax.training.parallel import PeriodicAgreement

T = TypeVar("T")


class Interrupted(Exception):
    """The run was told to stop and has saved its state; its only argument is the step."""


class StopRequests:
    """Requests to stop, received as SIGTERM or SIGINT by any process of a run.

    A context manager for the main thread. In its `with` block the signals are recorded and do not end the
    process; a second SIGINT raises KeyboardInterrupt. Several processes agree every two seconds on whether one of
    them received a signal (`PeriodicAgreement`), so they stop at the same step although a scheduler may
    signal only one.
    """

    def __init__(self) -> None:
        self._received: list[int] = []
        self._agreement = PeriodicAgreement()
        self._before: dict[int, Any] = {}

    def agreed(self) -> bool:
        """Return whether to stop now, alike in all processes, which must all call this equally often."""
        return self._agreement.any(bool(self._received))

    def until_agreed(self, items: Iterable[T], step: int) -> Iterator[T]:
        """Yield the items, of which all processes must have equally many.

        Raises:
          Interrupted: The processes agreed to stop. Its argument is `step`.
        """
        # Batches of an evaluation take another time than steps of training.
        agreement = PeriodicAgreement()
        for item in items:
            if agreement.any(bool(self._received)):
                raise Interrupted(step)
            yield item

    def __enter__(self) -> "StopRequests":
        self._before = {s: signal.signal(s, self._note) for s in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: Any) -> None:
        del frame
        if number == signal.SIGINT and signal.SIGINT in self._received:
            raise KeyboardInterrupt
        self._received.append(number)
