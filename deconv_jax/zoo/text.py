"""Model cards as plain text for a terminal of 100 columns."""

import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from deconv_jax.zoo.cards import FAMILIES

WIDTH = 100
_LABEL = 15
_VERBS = {
    "classification": "classify",
    "compression": "compress",
    "detection": "detect",
    "gan": "generate",
    "restoration": "restore",
    "segmentation": "segment",
    "variational": "generate",
}

Card = Mapping[str, Any]


def list_text(cards: Iterable[Card]) -> str:
    """Return a table of models, one row each, and the families below it."""
    rows = [("name", "task", "size", "figure", "licence", "SHA-256")]
    rows += [
        (
            card["name"],
            _VERBS[card["task"]],
            f"{card['bytes'] / 1e6:.2f} MB",
            figure_text(card["figures"][0], short=True) if card["figures"] else "",
            card["licence"],
            card["sha256"][:8],
        )
        for card in cards
    ]
    families = "; ".join(f"{name} ({', '.join(found)})" for name, found in FAMILIES.items())
    notes = [
        f"Families, whose variant a command selects: {families}.",
        "dB is PSNR. deconv-jax models NAME prints a card, with the protocol of its figures.",
    ]
    return "\n\n".join([_columns(rows), *(textwrap.fill(note, WIDTH) for note in notes)])


def card_text(card: Card) -> str:
    """Return a model card."""
    lines = [textwrap.fill(f"{card['name']}: {card['summary']}", WIDTH), ""]
    for label, text in card_rows(card):
        lines += textwrap.wrap(
            text,
            WIDTH,
            initial_indent=f"  {label:<{_LABEL}}",
            subsequent_indent=" " * (_LABEL + 2),
            break_on_hyphens=False,
        )
    figures = [(*figure_cells(figure),) for figure in card["figures"]]
    if figures:
        lines += ["", "  figures", textwrap.indent(_columns(figures), "    ")]
        protocol = textwrap.fill(f"Protocol: {card['protocol']}.", 96, break_on_hyphens=False)
        lines += ["", textwrap.indent(protocol, "    ")]
    return "\n".join(lines)


def card_rows(card: Card) -> Iterator[tuple[str, str]]:
    """Yield the label and the text of each property of a card, except for the figures."""
    training = card["training"]
    family = card["family"]
    if family:
        yield "family", f"{family}, with the variants {', '.join(FAMILIES[family])}"
    yield "task", card["task"]
    yield "network", card["architecture"]
    yield "parameters", f"{card['parameters']:,}"
    yield "weights", f"{card['bytes']:,} bytes, {card['dtype']}, SHA-256 {card['sha256']}"
    yield "licence", f"{card['licence']} (weights)"
    for data in training["data"]:
        yield "training data", f"{data['name']}. {data['licence']}. {data['source']}"
    yield "training", training_text(training)
    if card["paper"]:
        yield "paper", f"{card['paper']['reference']}. Figures: {card['paper']['source']}"
    yield "intended use", card["use"]
    yield "limits", card["limits"]
    measured = card["measured"]
    yield "measured", f"{measured['started'][:10]}, commit {_commit(measured)}"


def training_text(training: Mapping[str, Any]) -> str:
    """Return steps, time, device, date and commit of a training in words."""
    device = training["device"]
    return (
        f"{steps_text(training)} examples in {time_text(training)} on "
        f"{device['count']} {device['kind']} ({device['platform']}), {training['started'][:10]}, "
        f"commit {_commit(training)}"
    )


def steps_text(training: Mapping[str, Any]) -> str:
    """Return the steps of a training and of those behind its initial weights: "8,000 steps of 16, then 900 steps of 4".

    Args:
      training: "steps", "batch_size", and possibly "earlier", the earlier trainings in their order.
    """
    trainings = (*training.get("earlier", ()), training)
    return ", then ".join(f"{t['steps']:,} steps of {t['batch_size']}" for t in trainings)


def time_text(training: Mapping[str, Any]) -> str:
    """Return the time of the trainings of `steps_text` in words, the sum of their "wall_time_s"."""
    trainings = (*training.get("earlier", ()), training)
    seconds = sum(t["wall_time_s"] for t in trainings)
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"


def figure_text(figure: Mapping[str, Any], *, short: bool = False) -> str:
    """Return a figure in words, such as "Set12, sigma 25: PSNR 29.94 dB".

    Args:
      figure: Entry of "figures" of a card.
      short: Whether to leave out the name of a metric that has a unit.
    """
    where, metric, value, *_ = figure_cells(figure)
    return f"{where}: {value}" if short and figure["unit"] else f"{where}: {metric} {value}"


def figure_cells(figure: Mapping[str, Any]) -> tuple[str, str, str, str]:
    """Return the data set, the metric, the value, and what the value is compared with."""
    unit = figure["unit"]
    where = ", ".join(filter(None, (figure["data"], figure["setting"])))
    compared = ", ".join(
        f"{name} {_number(value, unit)}" for name, value in figure["compared"].items()
    )
    value = f"{_number(figure['value'], unit)} {unit}".strip()
    return where, figure["metric"], value, compared


def _number(value: float, unit: str) -> str:
    return f"{value:.2f}" if unit else f"{value:.4f}"


def _commit(origin: Mapping[str, Any]) -> str:
    dirty = " with uncommitted changes" if origin["uncommitted_changes"] else ""
    return f"{(origin['commit'] or 'unknown')[:10]}{dirty}"


def _columns(rows: Sequence[Sequence[str]]) -> str:
    """Return rows with columns of equal width, separated by two spaces."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = (zip(row, widths, strict=True) for row in rows)
    return "\n".join("  ".join(f"{c:<{w}}" for c, w in line).rstrip() for line in lines)
