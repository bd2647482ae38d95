"""What the tables of generative networks share: runs of several seeds, and rows of their measures."""

import statistics
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from _common import run_part

from deconv_jax.errors import InputError

Records = Mapping[str, dict[str, Any]]
Parts = dict[str, Callable[[Path], dict[str, Any]]]

TITLES = {"fid": "FID", "kid": "KID", "reverse_kl": "reverse KL"}


def parts(configs: Mapping[str, str], seeds: Iterable[int]) -> Parts:
    """A part "NAME_SEED" for every config of synthesis, "FILE.py:ARGUMENTS", and seed; seed by seed."""
    return {
        f"{name}_{seed}": run_part(f"synthesis/{config},seed={seed}")
        for seed in seeds
        for name, config in configs.items()
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
    everything = [record for of_seeds in found.values() for record in of_seeds]
    if len({budget_and_protocol(record) for record in everything}) > 1:
        raise InputError("records of one table must share budget and protocol; run them anew")
    titles = [*(TITLES.get(m, m.replace("_", " ")) for m in measures), "time a run", "seeds"]
    lines = []
    for label, of_seeds in found.items():
        cells = [_spread([r["metrics"].get(m) for r in of_seeds], n) for m, n in measures.items()]
        # What was continued has the time of its last part alone.
        whole = [r["training"] for r in of_seeds if not r["training"]["resumed_at_step"]]
        minutes = (
            [f"{statistics.median(t['wall_time_s'] / 60 for t in whole):.1f} min"]
            if whole
            else [""]
        )
        lines.append([label, *cells, *minutes, str(len(of_seeds))])
    return titles, lines, everything[0] if everything else None


def real_row(record: dict[str, Any], measures: Mapping[str, int]) -> list[str]:
    """The row of real images in place of samples."""
    cells = [_spread([record["baseline"].get(f"real_{m}")], n) for m, n in measures.items()]
    return ["*real images*", *cells, "", ""]


def budget_and_protocol(record: dict[str, Any]) -> str:
    """What all rows of a table had in common."""
    training = record["training"]
    return (
        f"{training['steps']:,} steps of {training['batch_size']} images, {record['counts']['test']:,} samples "
        f"beside as many real images. Protocol: {record['protocol']}."
    )


def _spread(values: list[float | None], decimals: int) -> str:
    """Mean and standard deviation; blank where a run has no such measure."""
    finite = [value for value in values if value is not None]
    if len(finite) < len(values):
        return ""
    mean = f"{statistics.mean(finite):,.{decimals}f}"
    return f"{mean} ± {statistics.stdev(finite):,.{decimals}f}" if len(finite) > 1 else mean
