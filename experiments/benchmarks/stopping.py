"""Time from a signal to the saved checkpoint and to the end of the run.

Runs of one and of two processes are started by the command line, with a small and with a large state. SIGTERM is
sent to the last process only. The processes agree to stop, save, and end. A run of one process is also
signaled within a long evaluation. The grace period of a scheduler must be longer than these times.

  python experiments/benchmarks/stopping.py
"""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from timing import ROOT, interleaved_order, parse_arguments, time_ratios, write_record

from deconv_jax.cli import EXIT_INTERRUPTED
from deconv_jax.data.source_configs import Digits
from deconv_jax.io import list_names
from deconv_jax.training.run_log import METRICS
from deconv_jax.workdir import CHECKPOINTS

CONFIG = ROOT / "experiments" / "autoencoding" / "digits.py"
LENGTH = 1_000_000
INTERVALS = [
    f"--config.training.{name}={value}"
    for name, value in dict(
        num_steps=LENGTH,
        eval_every=LENGTH,
        save_every=LENGTH,
        log_every=1,
        steps_per_call=1,
        batch_size=16,
    ).items()
]
"""No evaluation and no checkpoint between the first one and the end."""
LARGE = [
    "--config.task.model.features=(32,64,512)",
    "--config.task.model.latent_dim=1024",
]
EVALUATING = [
    "--config.training.eval_every=4",
    f"--config.training.save_every={LENGTH}",
    "--config.training.eval_batch_size=1",
    "--config.data.validation_split=train",
]
"""Almost all of the time is spent in evaluations."""
CASES: dict[str, tuple[int, list[str]]] = {
    "small state, 1 process": (1, []),
    "small state, 2 processes": (2, []),
    "large state, 1 process": (1, LARGE),
    "large state, 2 processes": (2, LARGE),
    "small state, 1 process, evaluating": (1, EVALUATING),
}
STEPS_BEFORE = 10
"""Number of steps before the signal; 8 if evaluations are between them."""


def main() -> None:
    """Start and stop a run of each case once per round."""
    arguments = parse_arguments(__file__, __doc__, rounds=3)
    saved: dict[str, list[float]] = {f"{case}, to the checkpoint": [] for case in CASES}
    ended: dict[str, list[float]] = {f"{case}, to the end": [] for case in CASES}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        Digits().prepare(str(folder / "data"))
        for case in interleaved_order(list(CASES), arguments.rounds):
            to_saved, to_end = stop(*CASES[case], folder)
            saved[f"{case}, to the checkpoint"].append(1e3 * to_saved)
            ended[f"{case}, to the end"].append(1e3 * to_end)
    write_record(
        arguments.output,
        measured="time from SIGTERM to the complete checkpoint and to the end of all processes",
        protocol=f"training on digits, in processes on one machine; signal to the last process after {STEPS_BEFORE} steps (8 "
        "if evaluating); median over rounds; cases interleaved",
        times=saved | ended,
        ratios=time_ratios(
            saved,
            *(
                (
                    f"{state}, 2 processes, to the checkpoint",
                    f"{state}, 1 process, to the checkpoint",
                )
                for state in ("small state", "large state")
            ),
        ),
        config=str(CONFIG.relative_to(ROOT)),
        overrides={case: [*INTERVALS, *overrides] for case, (_, overrides) in CASES.items()},
    )


def stop(processes: int, overrides: list[str], folder: Path) -> tuple[float, float]:
    """Return seconds from the signal to the checkpoint and to the end of a run.

    Args:
      processes: Number of processes.
      overrides: Overrides of the config.
      folder: Folder of the data, the compilation cache and the workdirs.
    """
    workdir = Path(tempfile.mkdtemp(prefix="workdir_", dir=folder))
    command = [sys.executable, "-m", "deconv_jax.cli", "train", "--config", str(CONFIG)]
    command += ["--workdir", str(workdir), f"--config.data.data_dir={folder / 'data'}"]
    command += [*INTERVALS, *overrides]
    address = _free_address()
    joined = [["--distributed", f"{address},{i},{processes}"] for i in range(processes)]
    environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": str(folder / "compiled")}
    with contextlib.ExitStack() as stack:
        log = stack.enter_context((workdir.with_suffix(".log")).open("w"))
        started = [
            subprocess.Popen(
                command + (joined[i] if processes > 1 else []),
                env=environment,
                stdout=log,
                stderr=log,
            )
            for i in range(processes)
        ]
        for process in started:
            stack.callback(process.kill)
        steps = 8 if overrides == EVALUATING else STEPS_BEFORE
        _wait(lambda: _logged(workdir) >= steps, started)
        if overrides == EVALUATING:
            time.sleep(0.2)  # Into the evaluation.
        begin = time.perf_counter()
        started[-1].send_signal(signal.SIGTERM)
        _wait(lambda: any(n.isdecimal() and n != "0" for n in list_names(workdir / CHECKPOINTS)))
        saved = time.perf_counter() - begin
        codes = [process.wait() for process in started]
        ended = time.perf_counter() - begin
    if set(codes) != {EXIT_INTERRUPTED}:
        raise SystemExit(f"exit codes {codes}; see {workdir.with_suffix('.log').read_text()}")
    return saved, ended


def _logged(workdir: Path) -> int:
    """Return the number of steps in the log."""
    path = workdir / METRICS
    return path.read_text().count('"train"') if path.exists() else 0


def _wait(happened: Callable[[], bool], processes: Sequence[subprocess.Popen[bytes]] = ()) -> None:
    """Wait until something has happened, while no process has ended."""
    deadline = time.monotonic() + 300
    while not happened():
        if time.monotonic() > deadline or any(p.poll() is not None for p in processes):
            raise SystemExit("a run has ended early or hangs")
        time.sleep(0.002)


def _free_address() -> str:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return f"localhost:{probe.getsockname()[1]}"


if __name__ == "__main__":
    main()
