"""The training loop: one function, for every task.

Its order is fixed: evaluate, save, next batch, step, log. The state that is saved is the state that
was evaluated; the data iterator is advanced only after a save, so a resumed run sees the batch that
a run never stopped would have seen; and the scalars of a call are fetched only once the next one
has been dispatched, so the device never waits for the host.
"""

import collections
import contextlib
import dataclasses
import signal
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import jax
import numpy as np

from deconv_jax.data.pipeline import Prefetched
from deconv_jax.errors import InputError, at_least
from deconv_jax.training.checkpoint import Checkpoints
from deconv_jax.training.parallel import Compiler, Devices, any_process
from deconv_jax.training.run_log import RunLog
from deconv_jax.training.state import TrainState
from deconv_jax.training.task import Task


@dataclasses.dataclass(frozen=True)
class TrainingConfig:
    """The length and rhythm of a run; all `*_every` in steps.

    Attributes:
      num_steps: updates.
      batch_size: examples of an update, over all devices of all processes.
      eval_batch_size: examples of an evaluation batch; None for `batch_size`.
      eval_every: validation measures and pictures.
      save_every: checkpoints; one is always written at the end.
      log_every: scalars of the step; also how often several processes ask one another whether
        to stop.
      steps_per_call: steps in one dispatch; more of them cost less host time. All of the above
        count in whole calls.
      compiler: "jit" (global view, any number of processes) or "pmap" (one process).
    """

    num_steps: int
    batch_size: int
    eval_batch_size: int | None = None
    eval_every: int = 500
    save_every: int = 500
    log_every: int = 100
    steps_per_call: int = 1
    compiler: Compiler = "jit"

    def __post_init__(self) -> None:
        at_least("training.steps_per_call", self.steps_per_call, 1)
        at_least("training.batch_size", self.batch_size, 1)
        if self.eval_batch_size is not None:
            at_least("training.eval_batch_size", self.eval_batch_size, 1)
        for field in ("num_steps", "eval_every", "save_every", "log_every"):
            value = getattr(self, field)
            if value < 1 or value % self.steps_per_call:
                raise InputError(
                    f"training.{field} must be a positive multiple of training.steps_per_call "
                    f"({self.steps_per_call}); got {value}"
                )
        if self.save_every % self.eval_every:
            raise InputError(
                "training.save_every must be a multiple of training.eval_every "
                f"({self.eval_every}), so that every checkpoint is measured; got {self.save_every}"
            )


class Interrupted(Exception):
    """The run was told to stop, and has saved; running the same command again continues it."""


class Diverged(InputError):
    """A loss or gradient was NaN or infinite; the last good checkpoint is intact."""


@dataclasses.dataclass
class LoopData:
    """What the loop takes batches from.

    Attributes:
      train: batches on the devices, in groups of `steps_per_call`.
      cached: whole data set arrays on the devices, or {}.
      validation: a fresh pass over the validation batches, on the devices.
      examples: a few validation examples for pictures, whole on every device.
    """

    train: Prefetched
    cached: Mapping[str, jax.Array]
    validation: Callable[[], Iterable[Mapping[str, jax.Array]]]
    examples: Mapping[str, jax.Array]


def fit(
    task: Task,
    state: TrainState,
    stream: LoopData,
    *,
    training: TrainingConfig,
    devices: Devices,
    checkpoints: Checkpoints,
    log: RunLog,
    resumed_at: int | None = None,
) -> TrainState:
    """Trains from `state` to `training.num_steps` and returns the final state, saved.

    Args:
      resumed_at: the step of the checkpoint that `state` is from; None for a new run.

    Raises:
      Interrupted: after SIGTERM or SIGINT, once the current call has ended and been saved.
      Diverged: loss or gradient norm is NaN or infinite.
      InputError: a checkpoint or the log cannot be written.
    """
    call = devices.compile(task.train_step)
    step = int(state.step)
    pending: tuple[int, Any] | None = None
    since: dict[str, list[float]] = collections.defaultdict(list)  # the last evaluation
    stop = False

    with _stop_signals() as stop_requested:
        while True:
            done = step >= training.num_steps
            # A run that resumes has evaluated and saved this state before it stopped.
            fresh = step != resumed_at
            metrics = None

            evaluates = fresh and (done or step % training.eval_every == 0)
            saves = fresh and (done or stop or step % training.save_every == 0)
            if evaluates or saves:
                _record(pending, training, log, since)  # Raises if this state came of a NaN.
                pending = None

            # 1. Evaluate the state that the save below will write.
            if evaluates:
                metrics = task.evaluate(state, stream.validation())
                log.evaluation(step, "validation", metrics)
                means = {name: float(np.mean(values)) for name, values in since.items()}
                for warning in task.warnings(metrics, means) if means else ():
                    log.say(f"warning: {warning}")
                since.clear()
                log.pictures(step, task.pictures(state, stream.examples))

            # 2. Save.
            if saves:
                checkpoints.save(state, stream.train.get_state(), metrics)
            if evaluates or saves:
                log.start_clock(step)
            if done or stop:
                checkpoints.wait()
                # A signal during the last evaluation is obeyed too: what follows takes time.
                if stop or _stop_agreed(stop_requested, step, training):
                    raise Interrupted(step)
                return state

            # 3. Next batches; 4. dispatch the steps on them.
            state, scalars = call(state, next(stream.train), stream.cached)

            # 5. Log the call before, while the device works on this one.
            _record(pending, training, log, since)
            step += training.steps_per_call
            pending = (step, scalars)
            stop = _stop_agreed(stop_requested, step, training)


def _record(
    pending: tuple[int, Any] | None,
    training: TrainingConfig,
    log: RunLog,
    since: dict[str, list[float]],
) -> None:
    """Keeps the scalars of a call, and logs them if due; raises Diverged if they are not finite."""
    if pending is None:
        return
    step, scalars = pending[0], jax.device_get(pending[1])
    loss, norm = scalars["loss"], scalars["grad_norm"]
    bad = ~(np.isfinite(loss) & np.isfinite(norm))
    if bad.any():
        first = int(bad.argmax())
        raise Diverged(
            f"in the update after step {step - len(bad) + first} the loss was {loss[first]} and "
            f"the gradient norm {norm[first]}; the last checkpoint is of before. Try a smaller "
            "optimizer.learning_rate, optimizer.clip_norm=1.0 or, with bf16, precision='f32'"
        )
    for name, values in scalars.items():
        since[name].extend(values.tolist())
    if step == training.steps_per_call or step % training.log_every == 0:
        log.train(step, {name: float(v[-1]) for name, v in scalars.items()})


def _stop_agreed(requested: Callable[[], bool], step: int, training: TrainingConfig) -> bool:
    """Whether to stop here; several processes ask one another only where they log."""
    if jax.process_count() == 1:
        return requested()
    return step % training.log_every == 0 and any_process(requested())


@contextlib.contextmanager
def _stop_signals() -> Iterator[Callable[[], bool]]:
    """Within it, SIGTERM and SIGINT are noted instead of obeyed; a second SIGINT is obeyed."""
    received: list[int] = []

    def note(number: int, frame: Any) -> None:
        del frame
        if number == signal.SIGINT and signal.SIGINT in received:
            raise KeyboardInterrupt
        received.append(number)

    before = {s: signal.signal(s, note) for s in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield lambda: bool(received)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
