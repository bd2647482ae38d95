"""Interleaved timing of candidates, their medians, and the record of a run.

The speed of a machine drifts by more than the differences of interest. All candidates are therefore timed in
one process, in turns, and each is summarized by its median. Compare ratios, which carry over to machines of the
same kind. Milliseconds do not, and those of two runs must not be divided by each other.
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
    """Parse --output and --rounds.

    Args:
      script: Path of the script. The record is named after it.
      description: Docstring of the script.
      rounds: Default of --rounds.
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


def interleaved_order(names: list[str], rounds: int) -> Iterator[str]:
    """Yield each name once per round, in reverse order every other round."""
    for number in range(rounds):
        yield from names if number % 2 == 0 else reversed(names)


def time_in_turns(
    candidates: Mapping[str, Callable[[], Any]], *, rounds: int, calls: int
) -> dict[str, list[float]]:
    """Return milliseconds per call of each candidate, one value per round.

    A turn has one untimed call, which warms caches and thread pools, and `calls` timed ones. A candidate must block
    until its result is ready.
    """
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for name in interleaved_order(list(candidates), rounds):
        call = candidates[name]
        call()
        started = perf_counter()
        for _ in range(calls):
            call()
        times[name].append(1e3 * (perf_counter() - started) / calls)
    return times


def time_ratios(times: Mapping[str, list[float]], *pairs: tuple[str, str]) -> dict[str, float]:
    """Return "a / b" -> median time of a / median time of b, for each pair (a, b)."""
    return {
        f"{a} / {b}": float(f"{np.median(times[a]) / np.median(times[b]):.4g}") for a, b in pairs
    }


def processors() -> int:
    """Return the number of processors that this process may use, which is the number of threads."""
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
    """Print a table and write the record.

    Args:
      output: Path of the record.
      measured: Description of what is timed, such as "one training step".
      protocol: Description of how it is timed, in a sentence.
      times: Milliseconds of each candidate, one value per round.
      ratios: Result of `time_ratios`.
      versions: Versions of packages that `provenance` does not list.
      more: Further keys of the record, such as shapes.
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
        # A load above the number of processors means that other programs disturbed the timing.
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
