"""The named models on their page, rendered from the model cards."""

import re
from collections.abc import Iterator
from typing import Any

from deconv_jax import zoo
from deconv_jax.tables import markdown
from deconv_jax.zoo.text import card_rows, figure_cells, figure_text

_MARK = re.compile(r"<!-- named-models: (\w+) -->")


def on_page_markdown(text: str, **_: Any) -> str:
    """Replace the marks `<!-- named-models: PART -->`."""
    parts = {"families": families, "list": model_list, "cards": cards}
    return _MARK.sub(lambda mark: parts[mark[1]](), text)


def families() -> str:
    """Return a table of the families."""
    rows = [
        [f"`{name}`", ", ".join(f"`{variant}`" for variant in variants)]
        for name, variants in zoo.FAMILIES.items()
    ]
    return markdown("family | variants", rows)


def model_list() -> str:
    """Return a table of all models."""
    rows = []
    for name in zoo.names():
        card = zoo.card(name)
        rows.append(
            [
                f"[`{name}`](#{name})",
                card["summary"],
                f"{card['bytes'] / 1e6:.2f} MB",
                figure_text(card["figures"][0]),
                card["licence"],
            ]
        )
    return markdown("name | the model | weights | figure | licence", rows)


def cards() -> str:
    """Return the cards of all models, one section each."""
    return "\n".join(line for name in zoo.names() for line in _card(name))


def _card(name: str) -> Iterator[str]:
    card = zoo.card(name)
    yield from (f"### {name} {{ #{name} }}", "", f"The model {card['summary']}.", "")
    yield from (
        markdown("property | value", [[label, text] for label, text in card_rows(card)]),
        "",
    )
    figures = []
    for figure in card["figures"]:
        where, metric, value, compared = figure_cells(figure)
        figures.append([where, metric, f"{value} ({compared})" if compared else value])
    yield from (markdown("test set | metric | value", figures), "")
    yield from (f"Protocol: {card['protocol']}.", "")
