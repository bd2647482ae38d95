"""The named models: figure, paper, size and speed.

  deconv-jax tables benchmarks/zoo_speed

Figures are those of the model cards, which `experiments/zoo/publish.py` measures; speed is that of the benchmark
`zoo_speed.py`. There is nothing to run here.
"""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from _common import gap, gap_reason, training_summary
from benchmarks import protocol_sentence

from deconv_jax import zoo
from deconv_jax.io import kind_of
from deconv_jax.records import read_record, record_path
from deconv_jax.tables import linked, linked_to_card, markdown
from deconv_jax.zoo.text import figure_cells

VERSION = 1
PARTS: dict[str, Callable[[Path], dict[str, Any]]] = {}
ROOT = Path(__file__).parents[2]
HEADER = (
    "model | figure | here | paper, quoted | difference | reason | parameters | training | "
    "ms per megapixel | in PyTorch | time ratio"
)


def render(records: Mapping[str, Any]) -> str:
    """Return a row for each named model, the papers, and how speed was measured."""
    del records
    path = record_path(ROOT, "benchmarks", "zoo_speed")
    speed = read_record(path) if kind_of(path) == "file" else None
    cards = [zoo.card(name) for name in zoo.names()]
    blocks = [markdown(HEADER, rows(cards, speed)), *_sources(cards)]
    if speed is not None:
        blocks.append(protocol_sentence(speed))
    return "\n\n".join(blocks)


def rows(
    cards: Iterable[Mapping[str, Any]], speed: Mapping[str, Any] | None = None
) -> list[list[str]]:
    """Return a row for each card: its first figure that has a paper's, or else its first figure.

    Args:
      cards: Model cards.
      speed: Record of the benchmark `zoo_speed`, or None.
    """
    found = []
    for card in cards:
        figures = card["figures"]
        figure = next((f for f in figures if "paper" in f["compared"]), figures[0])
        where, metric, here, _ = figure_cells(figure)
        images = f", {figure['count']:,} images" if "count" in figure else ""
        row = [
            linked_to_card(f"`{card['name']}`", card["name"]),
            f"{where}{images}: {metric}",
            f"**{here}**",
            "",
            "",
            "",
        ]
        if "paper" in figure["compared"]:
            paper = figure["compared"]["paper"]
            row[-3:] = [f"{paper:.2f}", gap(figure["value"], paper), gap_reason({"model": card})]
        row += [f"{card['parameters']:,}", training_summary(card["training"])]
        found.append([*row, *_speed(card["name"], speed)])
    return found


def _speed(name: str, record: Mapping[str, Any] | None) -> list[str]:
    """Return ms per megapixel here and in PyTorch, and their ratio; blank if they were not measured."""
    if record is None or name not in record["megapixels"]:
        return ["", "", ""]
    size = record["megapixels"][name]
    times = [record["median_ms"][f"{name}: {who}"] / size for who in ("deconv_jax", "torch")]
    cells = [*(f"{ms:,.0f}" for ms in times), f"{times[0] / times[1]:.2f}"]
    return [linked(cell, record) for cell in cells]


def _sources(cards: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return one paragraph that names the paper of each model, or [] if no model has one."""
    models: dict[str, list[str]] = {}
    for card in cards:
        if card["paper"]:
            paper = f"{card['paper']['reference']} ({card['paper']['source']})"
            models.setdefault(paper, []).append(f"`{card['name']}`")
    if not models:
        return []
    papers = "; ".join(f"{', '.join(names)}: {paper}" for paper, names in models.items())
    return [f"Papers, and where their figures are quoted from: {papers}."]
