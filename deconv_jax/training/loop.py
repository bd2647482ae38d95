"""The training loop, one function for every task.

Its order is fixed: evaluate, save, next batch, step, log. The saved state is the evaluated state. The data
iterator advances only after a save, so a resumed run sees the same batches as one that never stopped. The
scalars of a call are fetched after the next call is dispatched, so the device never waits for the host.
"""

import collections
import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import numpy as np

from deconv_jax.data.pipeline import Prefetched
from deconv_jax.errors import InputError, at_least
from deconv_jax.training.checkpoint import Checkpoints
from deconv_jax.training.parallel import Compiler, Devices
from deconv_jax.training.profiling import StepProfiler
from deconv_jax.training.run_log import RunLog
from deconv_jax.training.state import TrainState
from deconv_jax.training.stopping import Interrupted, StopRequests
from deconv_jax.training.task import Task


@dataclasses.dataclass(frozen=True)
class TrainingConfig:
    """Length of a run, and intervals of evaluating, saving and logging.

    All numbers of steps must be multiples of `steps_per_call`.

    Attributes:
      num_steps: Number of updates.
      batch_size: Number of examples per update, over all devices of all processes; a multiple of the number
        of devices.
      eval_batch_size: Number of examples per evaluation batch, rounded up to a multiple of the number of
        devices; None means `batch_size`.
      eval_every: Steps between evaluations on the validation split, with pictures. The first is before
        training, and the last at the end.
      save_every: Steps between checkpoints, a multiple of `eval_every`. The first is saved before training, and
        the last at the end.
      log_every: Steps between log records.
      steps_per_call: Number of steps per dispatch. More steps cost less host time.
      compiler: "jit" (global view, any number of processes) or "pmap" (one process).
      shard_optimizer: Whether each device holds only a part of the optimizer state, to save memory; requires
        compiler="jit". The results are the same up to rounding.

    Raises:
      InputError: A number is below 1 or not the multiple stated above. Only `Devices` checks divisibility by
        the number of devices.
    """

    num_steps: int
    batch_size: int
    eval_batch_size: int | None = None
    eval_every: int = 500
    save_every: int = 500
    log_every: int = 100
    steps_per_call: int = 1
    compiler: Compiler = "jit"
    shard_optimizer: bool = False

    def __post_init__(self) -> None:
        if self.shard_optimizer and self.compiler != "jit":
            raise InputError(
                f"training.shard_optimizer requires training.compiler='jit'; got {self.compiler!r}"
            )
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
                f"({self.eval_every}), so that every checkpoint has metrics; got {self.save_every}"
            )


class Diverged(InputError):
    """A loss or gradient norm was NaN or infinite; the last checkpoint is intact."""


@dataclasses.dataclass
class LoopData:
    """The data of the training loop.

    Attributes:
      train: Iterator over training batches on the devices, `steps_per_call` batches at a time, as from
        `Devices.put_batches`.
      cached: Arrays of the whole training split on the devices, if the batches hold only "index"; else {}.
      validation: Function that starts a new pass over the validation batches, on the devices.
      examples: A few validation examples for pictures, replicated.
    """

    train: Prefetched
    cached: Mapping[str, jax.Array]
    validation: Callable[[], Iterable[Mapping[str, jax.Array]]]
    examples: Mapping[str, jax.Array]


def fit(
    task: Task,
    state: TrainState,
    data: LoopData,
    *,
    training: TrainingConfig,
    devices: Devices,
    checkpoints: Checkpoints,
    log: RunLog,
    stops: StopRequests,
    profiler: StepProfiler,
    resumed_at: int | None = None,
    evaluated: bool = True,
) -> TrainState:
    """Train from `state` to `training.num_steps`, and return the final state once it is saved.

    On the way, evaluate, save and log at the intervals of `training`.

    Args:
      task: Task to train.
      state: State to start from. With "jit", its buffers are donated, so it must not be used again.
      data: Training and validation data.
      training: Length and intervals.
      devices: Devices to compile for.
      checkpoints: Where to save.
      log: Where to log.
      stops: Requests to stop. An evaluation is then broken off, and the state is saved without metrics.
      profiler: Writer of a trace of some of the steps.
      resumed_at: Step of the checkpoint that holds `state`, which is not saved again; None for a new run.
      evaluated: Whether the state of that checkpoint was evaluated. If not, and an evaluation is due, it is
        evaluated now and its checkpoint gets the metrics.

    Raises:
      Interrupted: After a request to stop, once the current call has ended and its state is saved.
      Diverged: The loss or the gradient norm is NaN or infinite.
      InputError: A checkpoint or the log cannot be written.
    """
    call = devices.compile(task.train_step)
    step = int(state.step)
    evaluated_at = resumed_at if evaluated else None
    pending: tuple[int, Any] | None = None
    # Values of every scalar since the last evaluation.
    history: dict[str, list[float]] = collections.defaultdict(list)
    stop = False
    transfers = "allow"  # Compiling the first call may transfer constants.

    while True:
        done = step >= training.num_steps
        metrics = None

        due = done or step % training.eval_every == 0
        evaluates = due and not stop and step != evaluated_at
        saves = done or stop or step % training.save_every == 0
        if evaluates or saves:
            _record(pending, training, log, history)  # Raises if this state is invalid.
            pending = None
        profiler.stop_at(step, state)

        # 1. Evaluate the state that the save below writes.
        if evaluates:
            try:
                metrics = task.evaluate(state, stops.until_agreed(data.validation(), step))
            except Interrupted:
                stop = saves = True
        if metrics is not None:
            log.evaluation(step, "validation", metrics)
            means = {name: float(np.mean(values)) for name, values in history.items()}
            for warning in task.warnings(metrics, means) if means else ():
                log.say(f"warning: {warning}")
            history.clear()
            log.pictures(step, task.pictures(state, data.examples))

        # 2. Save.
        if saves and (step != resumed_at or metrics is not None):
            checkpoints.save(state, data.train.get_state(), metrics, overwrite=step == resumed_at)
        if evaluates or saves:
            log.start_clock(step)
        if done or stop:
            checkpoints.wait()
            if stop:
                raise Interrupted(step)
            return state

        # 3. Get the next batches. 4. Dispatch the steps on them.
        batches = next(data.train)
        with profiler.step(step), jax.transfer_guard(transfers):
            state, scalars = call(state, batches, data.cached)
        transfers = "disallow"

        # 5. Log the previous call while the device works on this one.
        _record(pending, training, log, history)
        step += training.steps_per_call
        pending = (step, scalars)
        stop = stops.agreed()


def _record(
    pending: tuple[int, Any] | None,
    training: TrainingConfig,
    log: RunLog,
    history: dict[str, list[float]],
) -> None:
    """Add the scalars of a call to the history, and log them if due.

    Raises:
      Diverged: The loss or the gradient norm of a step is not finite.
    """
    if pending is None:
        return
    step, scalars = pending[0], jax.device_get(pending[1])
    loss, norm = scalars["loss"], scalars["grad_norm"]
    bad = ~(np.isfinite(loss) & np.isfinite(norm))
    if bad.any():
        first = int(bad.argmax())
        raise Diverged(
            f"in the update after step {step - len(bad) + first} the loss was {loss[first]} and "
            f"the gradient norm {norm[first]}; the last checkpoint is from an earlier step. Try a "
            "smaller optimizer.learning_rate, optimizer.clip_norm=1.0 or, with bf16, precision='f32'"
        )
    for name, values in scalars.items():
        history[name].extend(values.tolist())
    if step == training.steps_per_call or step % training.log_every == 0:
        log.train(step, {name: float(v[-1]) for name, v in scalars.items()})
