"""`deconv-jax models`: the named models and their cards."""

import argparse
import json
from typing import Any

from deconv_jax.cli.arguments import add_parser

_MODELS = """\
list the named models, or print the card of one

  deconv-jax models
  deconv-jax models denoise-color

The list has the name, the task, the size of the weights, the first figure of the card, the licence
of the weights and the start of their SHA-256. The name of a family, such as denoise, stands for its
variants: commands select one by the number of channels or the scale.
"""


def add_commands(commands: Any) -> None:
    """Add the parser of `models`."""
    models = add_parser(commands, "models", _MODELS)
    models.add_argument(
        "name",
        nargs="?",
        metavar="NAME",
        help="print the card of this model, or of the default variant of a family",
    )
    models.add_argument("--json", action="store_true", help="print JSON")
    models.set_defaults(run=_models)


def _models(arguments: argparse.Namespace) -> int:
    from deconv_jax.zoo.cards import card, names
    from deconv_jax.zoo.text import card_text, list_text

    if arguments.name is not None:
        found = card(arguments.name)
        print(json.dumps(found, indent=2) if arguments.json else card_text(found))
    else:
        cards = [card(name) for name in names()]
        print(json.dumps(cards, indent=2) if arguments.json else list_text(cards))
    return 0
