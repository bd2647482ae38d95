"""Time that saving and logging add to a training step.

The training loop trains an autoencoder of the digits, a small one and one with a large state, without saving and
logging, and with a checkpoint every 20 steps and a log record every step. The time of evaluations and pictures
is subtracted. `save` returns when the state may be changed; the checkpoint is then written in the background,
which on a CPU takes time from the computation, and on an accelerator does not.

  python experiments/benchmarks/checkpointing.py
"""

import contextlib
import functools
import io
import tempfile
from collections.abc import Callable
from pathlib import Path
from time import perf_counter, thread_time
from typing import Any
from unittest import mock

import jax
import numpy as np
from timing import ROOT, interleaved_order, parse_arguments, time_ratios, write_record

from deconv_jax.cli import load_config
from deconv_jax.data.source_configs import Digits
from deconv_jax.experiment import Experiment
from deconv_jax.tasks import Autoencoding
from deconv_jax.train import train
from deconv_jax.training.checkpoint import Checkpoints
from deconv_jax.training.parallel import Devices
from deconv_jax.training.run_log import RunLog

CONFIG = ROOT / "experiments" / "autoencoding" / "digits.py"
STEPS, EVERY, BATCH_SIZE = 80, 20, 16
"""The steps before the first save at step `EVERY` are not timed."""
MODELS: dict[str, dict[str, Any]] = {
    "small state": dict(),
    "large state": dict(features=(32, 64, 512), latent_dim=1024),
}
"""Overrides of config.task.model."""
NEITHER, BOTH = "neither", "saving and logging"
INTERVALS = {
    NEITHER: dict(eval_every=STEPS, save_every=STEPS, log_every=STEPS),
    BOTH: dict(eval_every=EVERY, save_every=EVERY, log_every=1),
}
SUBTRACTED = {Autoencoding: ("evaluate", "pictures"), RunLog: ("evaluation", "pictures")}
REPORTED = {
    "one save": (Checkpoints, "save", perf_counter),
    "one save, CPU time of its thread": (Checkpoints, "save", thread_time),
    "one log record": (RunLog, "train", perf_counter),
}


def main() -> None:
    """Train each model with and without saving and logging, once per round."""
    arguments = parse_arguments(__file__, __doc__, rounds=5)
    runs = {f"{model}: {which}": (model, which) for model in MODELS for which in INTERVALS}
    names = [f"{model}: {name}" for model in MODELS for name in (*INTERVALS, *REPORTED)]
    times: dict[str, list[float]] = {name: [] for name in names}
    megabytes: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        Digits().prepare(str(folder / "data"))
        jax.config.update("jax_compilation_cache_dir", str(folder / "compiled"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        for run in interleaved_order(list(runs), arguments.rounds):
            model, which = runs[run]
            workdir = Path(tempfile.mkdtemp(prefix="workdir_", dir=folder))
            measured = measure(experiment(model, which, folder / "data"), workdir)
            times[run].append(measured["step"])
            if which == BOTH:
                for reported in REPORTED:
                    times[f"{model}: {reported}"].append(measured[reported])
                megabytes[model] = measured["megabytes"]
    write_record(
        arguments.output,
        measured="one training step with and without saving and logging, and the calls that save and log",
        protocol=f"mean over steps {EVERY} to {STEPS} of a run, without the time of evaluations and pictures; "
        f"a checkpoint every {EVERY} steps and a log record every step; calls are timed in the main "
        "thread; median over rounds; runs interleaved in one process, each with a new workdir",
        times=times,
        ratios=time_ratios(times, *((f"{m}: {BOTH}", f"{m}: {NEITHER}") for m in MODELS)),
        state_mb=megabytes,
        models={name: model | dict(batch_size=BATCH_SIZE) for name, model in MODELS.items()},
        config=str(CONFIG.relative_to(ROOT)),
    )


def experiment(model: str, which: str, data_dir: Path) -> Experiment:
    """Return the digits experiment with the overrides of a model and intervals."""
    config = load_config(str(CONFIG))
    config["task"]["model"] |= MODELS[model]
    few = dict(validation_split=f"validation[:{BATCH_SIZE}]", test_split=f"test[:{BATCH_SIZE}]")
    config["data"] |= dict(data_dir=str(data_dir)) | few
    calls = dict(num_steps=STEPS, batch_size=BATCH_SIZE, steps_per_call=1)
    config["training"] |= calls | INTERVALS[which]
    config["optimizer"]["warmup_steps"] = 0
    return Experiment.from_dict(config)


def measure(experiment: Experiment, workdir: Path) -> dict[str, float]:
    """Return milliseconds per step and per reported call, and the megabytes of the state."""
    spent: dict[str, list[float]] = {name: [] for name in ("subtracted", *REPORTED)}
    started: list[float] = []
    subtracted_before: list[float] = []
    compile_step = Devices.compile

    def compiled(devices: Devices, step: Any) -> Callable[..., Any]:
        call = compile_step(devices, step)

        def timed(*args: Any) -> Any:
            started.append(perf_counter())
            subtracted_before.append(sum(spent["subtracted"]))
            return call(*args)

        return timed

    with contextlib.ExitStack() as stack:
        stack.enter_context(contextlib.redirect_stderr(io.StringIO()))  # The run's own log.
        stack.enter_context(mock.patch.object(Devices, "compile", compiled))
        for owner, names in SUBTRACTED.items():
            for name in names:
                stack.enter_context(_timed(owner, name, perf_counter, spent["subtracted"]))
        for reported, (owner, name, clock) in REPORTED.items():
            stack.enter_context(_timed(owner, name, clock, spent[reported]))
        train(experiment, workdir)
    seconds = started[-1] - started[EVERY] - (subtracted_before[-1] - subtracted_before[EVERY])
    # The first save and record are before the timed steps, and the last save is after them.
    content = (workdir / "checkpoints").rglob("*")
    return {
        "step": 1e3 * seconds / (STEPS - 1 - EVERY),
        "megabytes": round(sum(p.stat().st_size for p in content if p.is_file()) / 2e6, 1),
        **{name: 1e3 * float(np.median(spent[name][1:])) for name in REPORTED},
    }


def _timed(owner: type, name: str, clock: Callable[[], float], spent: list[float]) -> Any:
    """Return a patch of a method that appends the seconds of each call."""
    method = getattr(owner, name)

    @functools.wraps(method)
    def timed(*args: Any, **kwargs: Any) -> Any:
        begin = clock()
        try:
            return method(*args, **kwargs)
        finally:
            spent.append(clock() - begin)

    return mock.patch.object(owner, name, timed)


if __name__ == "__main__":
    main()
