"""What the benchmarks share: candidates timed in turns, their medians, and the record of a run.

A machine's speed drifts by more than the differences worth knowing. So all candidates are timed in
one process, in turns, and each is summarised by its median. The ratios are what a record is for:
they say something about other machines of the same kind, the milliseconds hardly do, and those of
two runs must not be divided by one another.
"""

import argparse
import os
import platform
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from deconv_jax.io import write_json
from deconv_jax.workdir import provenance

ROOT = Path(__file__).parents[2]
_STARTED = perf_counter()


def parse_arguments(script: str, description: str | None, *, rounds: int) -> argparse.Namespace:
    """Reads --output and --rounds.

    Args:
      script: its file; the record is called as it is.
      description: the script's docstring.
      rounds: what --rounds is unless given.
    """
    output = ROOT / "experiments" / "results" / "benchmarks" / f"{Path(script).stem}.json"
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--output", type=Path, default=output, metavar="FILE", help="(default: %(default)s)"
    )
    parser.add_argument(
        "--rounds", type=int, default=rounds, metavar="N", help="(default: %(default)s)"
    )
    return parser.parse_args()


def turns(names: list[str], rounds: int) -> Iterator[str]:
    """Each name once a round, every other round backwards: none always follows the same other."""
    for number in range(rounds):
        yield from names if number % 2 == 0 else reversed(names)


def time_in_turns(
    candidates: Mapping[str, Callable[[], Any]], *, rounds: int, calls: int
) -> dict[str, list[float]]:
    """Milliseconds a call of each candidate, one figure a round.

    A turn is one untimed call, which brings caches and thread pools back to this candidate, and
    `calls` timed ones. A candidate returns once its work is done, not once it is dispatched.
    """
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for name in turns(list(candidates), rounds):
        call = candidates[name]
        call()
        started = perf_counter()
        for _ in range(calls):
            call()
        times[name].append(1e3 * (perf_counter() - started) / calls)
    return times


def time_ratios(times: Mapping[str, list[float]], *pairs: tuple[str, str]) -> dict[str, float]:
    """ "a / b" -> the median time of a over that of b, for each pair (a, b)."""
    return {
        f"{a} / {b}": float(f"{np.median(times[a]) / np.median(times[b]):.4g}") for a, b in pairs
    }


def processors() -> int:
    """How many processors this process may use: the threads that jax and torch are given."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def write_record(
    output: Path,
    *,
    measured: str,
    protocol: str,
    times: Mapping[str, list[float]],
    ratios: Mapping[str, float],
    versions: Mapping[str, str] | None = None,
    **more: Any,
) -> None:
    """Prints a table and writes the record.

    Args:
      output: the file.
      measured: what a time is of, e.g. "one training step".
      protocol: how it was measured, in a sentence.
      times: ms of each candidate, one a round.
      ratios: of `time_ratios`.
      versions: of packages beside those that `provenance` names.
      more: further keys, e.g. shapes.
    """
    width = max(map(len, [*times, *ratios])) + 2
    print(f"{measured}\n{'':{width}}{'median':>12}{'quartiles':>26}")
    for name, ms in times.items():
        low, middle, high = np.percentile(ms, (25, 50, 75))
        print(f"{name:{width}}{middle:>9.2f} ms{f'{low:.2f} to {high:.2f} ms':>26}")
    for name, ratio in ratios.items():
        print(f"{name:{width}}{ratio:>9.3f}")
    ran_in = provenance()
    record = {
        "measured": measured,
        "protocol": protocol,
        **more,
        "rounds": max(map(len, times.values())),
        "median_ms": {name: _rounded(np.median(ms)) for name, ms in times.items()},
        "quartiles_ms": {
            name: [_rounded(q) for q in np.percentile(ms, (25, 75))] for name, ms in times.items()
        },
        "time_ratios": dict(ratios),
        "threads": processors(),
        "processor": _processor(),
        # Above the number of processors, others were at work: the figures are then worth little.
        "load_average": [round(load, 2) for load in os.getloadavg()],
        "seed": 0,
        "wall_time_s": round(perf_counter() - _STARTED, 2),
        **ran_in,
        "versions": ran_in["versions"] | dict(versions or {}),
    }
    write_json(output, record)
    print(f"written: {output}")


def _rounded(ms: float) -> float:
    return float(f"{ms:.4g}")


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()
