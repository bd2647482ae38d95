"""Helpers of the tables of generative networks: runs of several seeds, and rows of their metrics."""

import statistics
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from _common import run_part

from deconv_jax.errors import InputError
from deconv_jax.tables import linked

Records = Mapping[str, dict[str, Any]]
Parts = dict[str, Callable[[Path], dict[str, Any]]]

RANKED_SEEDS = 3
"""Least number of seeds of a row that is compared with others."""
TITLES = {"frechet_distance": "Fréchet distance", "reverse_kl": "reverse KL"}


def parts(configs: Mapping[str, str], seeds: Iterable[int]) -> Parts:
    """Return a part "NAME_SEED" for every config and seed.

    Args:
      configs: GAN configs, "FILE.py:ARGUMENTS", by name.
      seeds: Seeds of the runs.
    """
    return {
        f"{name}_{seed}": run_part(f"synthesis/{config},seed={seed}")
        for seed in seeds
        for name, config in configs.items()
    }


def rows(
    records: Records, names: Mapping[str, str], decimals: Mapping[str, int]
) -> tuple[list[str], list[list[str]], dict[str, Any] | None]:
    """Return titles, rows of means and standard deviations over seeds, and one of the records.

    Args:
      records: Records of `parts`.
      names: Row label of each config.
      decimals: Number of decimals of each metric.

    Raises:
      InputError: The records differ in protocol or training length.
    """
    found = {
        label: {
            part.rpartition("_")[2]: records[part]
            for part in records
            if part.rpartition("_")[0] == name
        }
        for name, label in names.items()
    }
    found = {label: of_seeds for label, of_seeds in found.items() if of_seeds}
    everything = [record for of_seeds in found.values() for record in of_seeds.values()]
    if len({training_and_protocol(record) for record in everything}) > 1:
        raise InputError(
            "the records of one table must share training length and protocol; measure them again"
        )
    titles = [*(TITLES.get(m, m.replace("_", " ")) for m in decimals), "time per run", "seeds"]
    lines = []
    for label, by_seed in found.items():
        of_seeds = list(by_seed.values())
        cells = [_spread([r["metrics"].get(m) for r in of_seeds], n) for m, n in decimals.items()]
        # The wall time of a resumed run covers only its last part.
        whole = [r["training"] for r in of_seeds if not r["training"]["resumed_at_step"]]
        minutes = (
            [f"{statistics.median(t['wall_time_s'] / 60 for t in whole):.1f} min"]
            if whole
            else [""]
        )
        seeds = ", ".join(linked(seed, record) for seed, record in sorted(by_seed.items()))
        few = "" if len(of_seeds) >= RANKED_SEEDS else ": no ranking"
        lines.append([label, *cells, *minutes, f"{seeds}{few}"])
    return titles, lines, everything[0] if everything else None


def real_row(record: dict[str, Any], decimals: Mapping[str, int]) -> list[str]:
    """Return the row of real training images in place of samples."""
    cells = [_spread([record["baseline"].get(f"real_{m}")], n) for m, n in decimals.items()]
    return [linked("*real images*", record), *cells, "", ""]


def training_and_protocol(record: dict[str, Any]) -> str:
    """Return the training length and the protocol that all rows of a table share."""
    training = record["training"]
    return (
        f"{training['steps']:,} steps of {training['batch_size']} images, {record['counts']['test']:,} samples "
        f"and as many real images. Protocol: {record['protocol']}."
    )


def _spread(values: list[float | None], decimals: int) -> str:
    """Return mean and standard deviation, or "" if a run lacks the metric."""
    finite = [value for value in values if value is not None]
    if len(finite) < len(values):
        return ""
    mean = f"{statistics.mean(finite):,.{decimals}f}"
    return f"{mean} ± {statistics.stdev(finite):,.{decimals}f}" if len(finite) > 1 else mean
