"""Quality and cost of the named models.

  deconv-jax tables zoo_cost
  pip install -e '.[bench]' && python experiments/tables/zoo_cost.py   # draws docs/zoo_cost.png

Figures are those of the model cards. FLOPs are counted by `deconv_jax.cost` for the images of training, and given
per pixel of the input or of the output, whichever has more: of a codec its whole network, of a GAN its generator.
"""

import functools
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
from _common import Records

from deconv_jax import zoo
from deconv_jax.cost.networks import Network
from deconv_jax.cost.report import cost_of
from deconv_jax.cost.text import short
from deconv_jax.tables import linked, linked_to_card, markdown
from deconv_jax.zoo.text import figure_cells

VERSION = 1
PICTURE = Path("docs/zoo_cost.png")
PROTOCOL = (
    "two FLOPs per multiply-add of convolutions and matrix products, on padding zeros too; forward pass of one "
    "example of the size of training"
)


def _cost(data: Path, *, name: str) -> dict[str, Any]:
    """Return the record of a model."""
    del data
    model = zoo.load(name)
    cost = cost_of(name, model.experiment, model.input_shapes)
    network = cost.networks[0]  # of a GAN, the generator
    return {
        "protocol": PROTOCOL,
        "network": model.card["config"]["task"],
        "parameters": network.total("parameters"),
        "flops": network.total("forward_flops"),
        "xla_flops": jax.jit(network.apply).lower(*network.arguments).cost_analysis()["flops"],
        "pixels": _pixels(network),
        "activation_bytes": network.total("activation_bytes"),
    }


def _pixels(network: Network) -> int:
    """Return the pixels of the input or of the output, whichever has more."""
    shapes = [*network.input_shapes, *network.layers[-1].output_shapes]
    return max(math.prod(shape[:2]) for shape in shapes if len(shape) == 3)


PARTS: dict[str, Callable[[Path], dict[str, Any]]] = {
    name: functools.partial(_cost, name=name) for name in zoo.names()
}


def render(records: Records) -> str:
    """Return a row for each model."""
    rows = []
    for name, card, record in _models(records):
        where, metric, value, _ = figure_cells(card["figures"][0])
        numbers = ["", "", ""]
        if record is not None:
            flops, pixels = record["flops"], record["pixels"]
            numbers = [f"{short(flops)}FLOP", f"{short(flops / pixels)}FLOP"]
            numbers.append(f"{short(record['activation_bytes'])}B")
            numbers = [linked(number, record) for number in numbers]
        rows.append(
            [
                linked_to_card(f"`{name}`", name),
                f"{where}: {metric}",
                f"**{value}**",
                f"{card['parameters']:,}",
                *numbers,
            ]
        )
    header = "model | figure | value | parameters | forward pass | per pixel | activations"
    text = f"{markdown(header, rows)}\n\nProtocol: {PROTOCOL}."
    ratios = [record["flops"] / record["xla_flops"] for record in records.values()]
    if not ratios:
        return text
    return (
        f"{text} These are {min(ratios):.2f} to {max(ratios):.2f} times "
        f"the FLOPs of XLA's cost_analysis for all {len(ratios)} models, which skips padding zeros and adds elementwise "
        "operations."
    )


def _models(
    records: Records,
) -> Iterator[tuple[str, Mapping[str, Any], Mapping[str, Any] | None]]:
    """Yield name, card and record of each model.

    The record is None if the cost of the present network is not recorded.
    """
    for name in zoo.names():
        card, record = zoo.card(name), records.get(name)
        if record is not None and record["network"] != card["config"]["task"]:
            record = None
        yield name, card, record


def draw(records: Records, path: Path) -> None:
    """Draw the first figure of each card over the FLOPs per pixel, one plot per metric of several models."""
    import matplotlib.pyplot as plt

    plots: dict[str, list[tuple[str, float, float]]] = {}
    for name, card, record in _models(records):
        if record is not None:
            figure = card["figures"][0]
            where = ", ".join(filter(None, (figure["data"], figure["setting"])))
            label = name if where == "test" else f"{name}: {where}"
            metric = f"{figure['metric']} {figure['unit']}".strip()
            point = label, record["flops"] / record["pixels"], figure["value"]
            plots.setdefault(metric, []).append(point)
    plots = {metric: points for metric, points in plots.items() if len(points) > 1}
    powers = [math.log10(flops) for points in plots.values() for _, flops, _ in points]
    limits = 10.0 ** math.floor(min(powers)), 10.0 ** math.ceil(max(powers))
    picture, axes = plt.subplots(1, len(plots), figsize=(4 * len(plots), 4.6), squeeze=False)
    for axis, (metric, points) in zip(axes[0], plots.items(), strict=True):
        for label, flops, value in points:
            axis.semilogx([flops], [value], "o", label=label)
        axis.set_xlim(limits)
        axis.margins(y=0.2)
        axis.set_xlabel("FLOPs per pixel")
        axis.set_title(metric)
        axis.grid(alpha=0.3, which="both")
        axis.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.25))
    picture.savefig(path, dpi=110, bbox_inches="tight")


if __name__ == "__main__":
    from deconv_jax.io import read_json
    from deconv_jax.records import RESULTS

    folder = RESULTS / "zoo_cost"
    draw({path.stem: read_json(path) for path in folder.glob("*.json")}, PICTURE)
    print(f"written: {PICTURE}")
