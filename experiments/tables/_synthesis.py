"""What the tables of generative networks share: runs of several seeds, and rows of their measures."""

import functools
import statistics
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from _common import finished_run

Records = Mapping[str, dict[str, Any]]
Parts = dict[str, Callable[[Path], dict[str, Any]]]

TITLES = {"fid": "FID", "kid": "KID", "reverse_kl": "reverse KL"}


def parts(configs: Mapping[str, str], seeds: Iterable[int]) -> Parts:
    """A part "NAME_SEED" for every config of synthesis, "FILE.py:ARGUMENTS", and seed; seed by seed."""
    return {
        f"{name}_{seed}": functools.partial(_run, config=f"{config},seed={seed}")
        for seed in seeds
        for name, config in configs.items()
    }


def _run(data: Path, *, config: str) -> dict[str, Any]:
    _, result, training = finished_run(f"synthesis/{config}", data / "tfds")
    return {
        "metrics": result["metrics"]["test"],
        "floor": result["baseline"]["test"],
        "protocol": result["protocol"],
        "count": result["counts"]["test"],
        "training": training,
    }


def rows(
    records: Records, names: Mapping[str, str], measures: Mapping[str, int]
) -> tuple[list[str], list[list[str]], dict[str, Any] | None]:
    """Titles and rows of means and standard deviations over seeds, and one of the records.

    Args:
      records: of `parts`.
      names: what a config is called in its row.
      measures: decimals of each.
    """
    found = {
        label: [records[part] for part in records if part.rpartition("_")[0] == name]
        for name, label in names.items()
    }
    found = {label: of_seeds for label, of_seeds in found.items() if of_seeds}
    titles = [*(TITLES.get(m, m.replace("_", " ")) for m in measures), "time a run", "seeds"]
    lines = []
    for label, of_seeds in found.items():
        cells = [_spread([r["metrics"][m] for r in of_seeds], n) for m, n in measures.items()]
        minutes = statistics.median(record["training"]["wall_time_s"] / 60 for record in of_seeds)
        lines.append([label, *cells, f"{minutes:.1f} min", str(len(of_seeds))])
    return titles, lines, next((of_seeds[0] for of_seeds in found.values()), None)


def budget_and_protocol(record: dict[str, Any]) -> str:
    """What all rows of a table had in common."""
    training = record["training"]
    return (
        f"{training['steps']:,} steps of {training['batch_size']} images, {record['count']:,} samples "
        f"beside as many real images. Protocol: {record['protocol']}."
    )


def _spread(values: list[float | None], decimals: int) -> str:
    """Mean and standard deviation; what was infinite is null in a record."""
    finite = [value for value in values if value is not None]
    if len(finite) < len(values):
        return "inf"
    mean = f"{statistics.mean(finite):,.{decimals}f}"
    return f"{mean} ± {statistics.stdev(finite):,.{decimals}f}" if len(finite) > 1 else mean
