"""A JAX profiler trace of some steps of a run."""

import contextlib
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

import jax

from deconv_jax.errors import InputError
from deconv_jax.io import kind_of, make_folder

PROFILES = "profile"
"""Name of the folder in a workdir."""


def check_profiled_steps(start: int, stop: int, *, num_steps: int, steps_per_call: int) -> None:
    """Raise InputError unless steps `start` to `stop` are whole calls of a run of `num_steps` steps."""
    if not 0 <= start < stop <= num_steps or start % steps_per_call or stop % steps_per_call:
        raise InputError(
            "the profiled steps START:STOP must satisfy 0 <= START < STOP <= training.num_steps "
            f"({num_steps}) and be multiples of training.steps_per_call ({steps_per_call}); got "
            f"{start}:{stop}"
        )


class StepProfiler:
    """Writes a profiler trace of a range of steps, once per run.

    The trace covers the updates from step `start` to step `stop`, without the evaluation and the save at these
    two steps. A context manager: a run that ends within the range writes the steps until then.
    """

    def __init__(
        self,
        steps: tuple[int, int] | None,
        workdir: Path,
        *,
        resumed_at: int | None,
        say: Callable[[str], None],
    ):
        """Prepare a trace, or report why there will be none.

        Args:
          steps: Start and stop, as checked by `check_profiled_steps`; None for no trace.
          workdir: Folder of the run. The trace is written to its folder profile/steps_START_STOP, unless that
            exists.
          resumed_at: Step of the checkpoint that the run resumes from, or None for a new run.
          say: Function that shows a line to the user.
        """
        self._steps, self._say, self._tracing = steps, say, False
        if steps is None:
            return
        self._folder = workdir / PROFILES / f"steps_{steps[0]}_{steps[1]}"
        if kind_of(self._folder) is not None:
            say(f"note: {self._folder} exists, so these steps are not profiled again")
            self._steps = None
        elif resumed_at is not None and resumed_at > steps[0]:
            say(f"note: step {steps[0]} is before the checkpoint, so no steps are profiled")
            self._steps = None

    def step(self, step: int) -> contextlib.AbstractContextManager[Any]:
        """Return a context for the call that begins at `step`, and start the trace if it is the first one.

        Raises:
          InputError: The folder of the trace cannot be written.
        """
        if self._steps is None:
            return contextlib.nullcontext()
        if step == self._steps[0]:
            make_folder(self._folder)
            options = jax.profiler.ProfileOptions()
            options.python_tracer_level = 0  # Recording every Python call would slow down the host.
            jax.profiler.start_trace(self._folder, profiler_options=options)
            self._tracing = True
        return jax.profiler.StepTraceAnnotation("train", step_num=step)

    def stop_at(self, step: int, state: Any) -> None:
        """Write the trace if `step` is the last step of the range, once `state` is computed."""
        if self._tracing and self._steps is not None and step == self._steps[1]:
            jax.block_until_ready(state)
            self._write()

    def _write(self) -> None:
        self._tracing = False
        jax.profiler.stop_trace()
        self._say(f"profile: {self._folder}")

    def __enter__(self) -> "StepProfiler":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._tracing:
            self._write()
