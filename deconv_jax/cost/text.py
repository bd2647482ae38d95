"""A cost as text, CSV or a dict for JSON."""

import csv
import dataclasses
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from deconv_jax.cost.accelerators import Bound
from deconv_jax.cost.measure import Measured
from deconv_jax.cost.networks import Layer, Network
from deconv_jax.cost.report import Cost

_COLUMNS = ("layer", "output", "parameters", "FLOPs forward", "FLOPs training", "activations")
_NUMBERS = [field.name for field in dataclasses.fields(Layer)][2:]
"""Fields of a layer with a sum."""
_STATE_NAMES = {
    "params": "parameters",
    "batch_stats": "batch statistics",
    "opt_state": "optimizer",
    "ema": "averaged weights",
}


def to_dict(cost: Cost) -> dict[str, Any]:
    """Return a cost as JSON-serializable values; times are in seconds."""

    def bounds(found: Mapping[str, Bound], examples: int) -> dict[str, Any]:
        return {
            name: dataclasses.asdict(bound)
            | {"at_least_s": bound.seconds, "at_most_images_per_s": examples / bound.seconds}
            for name, bound in found.items()
        }

    return {
        "name": cost.name,
        "precision": cost.precision,
        "networks": [_network_dict(network) for network in cost.networks],
        "parameters": cost.parameters,
        "forward": {
            "flops": cost.forward_flops,
            "activation_bytes": cost.activation_bytes,
            "bounds": bounds(cost.forward_bounds(), 1),
        },
        "training_step": {
            "batch_size": cost.batch_size,
            "flops": cost.step_flops,
            "flops_outside_networks": cost.other_flops,
            "activation_bytes": cost.step_activation_bytes,
            "bounds": bounds(cost.step_bounds(), cost.batch_size),
        },
        "checkpoint_bytes": dict(cost.state_bytes) | {"total": sum(cost.state_bytes.values())},
        "measured": None if cost.measured is None else dataclasses.asdict(cost.measured),
    }


def _network_dict(network: Network) -> dict[str, Any]:
    field = network.receptive_field
    return {
        "name": network.name,
        "input_shapes": network.input_shapes,
        "receptive_field": None if field is None else dataclasses.asdict(field),
        "layers": [dataclasses.asdict(layer) for layer in network.layers],
    }


def to_csv(cost: Cost) -> str:
    """Return one row for each layer, then one for each network, with the layer "total"."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["network", "layer", "output_shape", *_NUMBERS])
    for network in cost.networks:
        for layer in network.layers:
            values = [getattr(layer, field) for field in _NUMBERS]
            writer.writerow([network.name, layer.name, _shapes(layer.output_shapes), *values])
        writer.writerow([network.name, "total", "", *(network.total(field) for field in _NUMBERS)])
    return text.getvalue()


def to_text(cost: Cost) -> str:
    """Return the tables of a cost as text."""
    blocks = [line for network in cost.networks for line in _network_text(network)]
    blocks += [*_totals(cost), "", *_bounds_text(cost)]
    if cost.measured is not None:
        blocks += ["", *_measured_text(cost, cost.measured)]
    return "\n".join(blocks)


def _network_text(network: Network) -> Iterator[str]:
    yield f"{network.name} of one example, input {_shapes(network.input_shapes)}"
    rows: list[tuple[str, ...]] = [
        (
            layer.name or "(itself)",
            _shapes(layer.output_shapes),
            f"{layer.parameters:,}",
            short(layer.forward_flops),
            short(layer.training_flops),
            f"{short(layer.activation_bytes)}B",
        )
        for layer in network.layers
    ]
    total = [network.total(field) for field in _NUMBERS]
    rows.append(("total", "", f"{total[0]:,}", *map(short, total[1:3]), f"{short(total[3])}B"))
    yield from columns([_COLUMNS, *rows], left=2)
    if (field := network.receptive_field) is not None:
        side = field.before + 1 + field.after
        yield f"receptive field: {side} x {side} pixels"
    yield ""


def _totals(cost: Cost) -> Iterator[str]:
    yield (
        f"training step of {cost.batch_size} examples: {short(cost.step_flops)}FLOP, "
        f"{short(cost.step_flops / cost.batch_size)}FLOP an example"
    )
    if cost.other_flops:
        yield f"  of which outside the networks: {short(cost.other_flops)}FLOP"
    yield f"outputs of all layers for a training batch: {short(cost.step_activation_bytes)}B"
    parts = ", ".join(
        f"{_STATE_NAMES[part]} {short(size)}B" for part, size in cost.state_bytes.items() if size
    )
    yield f"checkpoint: {short(sum(cost.state_bytes.values()))}B ({parts})"


def _bounds_text(cost: Cost) -> Iterator[str]:
    yield (
        f"bounds for {cost.precision} on one chip at its peak rates; it can be faster only where outputs of layers "
        "stay in a cache"
    )
    rows: list[tuple[str, ...]] = [
        (
            "device",
            "forward at least",
            "step: compute",
            "memory",
            "at least",
            "images/s at most",
        )
    ]
    forward = cost.forward_bounds()
    for name, bound in cost.step_bounds().items():
        times = (forward[name].seconds, bound.compute_s, bound.memory_s, bound.seconds)
        rows.append((name, *map(duration, times), f"{cost.batch_size / bound.seconds:,.0f}"))
    yield from columns(rows, left=1)


def _measured_text(cost: Cost, measured: Measured) -> Iterator[str]:
    def line(what: str, seconds: float, flops: float, examples: int) -> str:
        return (
            f"  {what}: {duration(seconds)}, {examples / seconds:,.1f} images/s, "
            f"{short(flops / seconds)}FLOP/s"
        )

    yield f"measured on {measured.device}"
    yield line("forward of one example", measured.forward_s, cost.forward_flops, 1)
    yield line("training step", measured.step_s, cost.step_flops, cost.batch_size)
    if measured.step_memory_bytes:
        yield f"  memory of a training step: {short(measured.step_memory_bytes)}B"


def _shapes(shapes: Sequence[Sequence[int]]) -> str:
    """Return shapes as text, such as "40x40x64"; equal ones are counted."""
    texts = ["x".join(map(str, shape)) or "scalar" for shape in shapes]
    counted = {text: texts.count(text) for text in texts}
    return ", ".join(f"{n} of {text}" if n > 1 else text for text, n in counted.items())


def columns(rows: Sequence[Sequence[str]], left: int) -> Iterator[str]:
    """Yield rows with columns of equal width: the first `left` columns left-aligned, others right-aligned."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [
            f"{cell:<{width}}" if i < left else f"{cell:>{width}}"
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        yield ("  " + "  ".join(cells)).rstrip()


def short(value: float) -> str:
    """Return a number with four digits and a decimal prefix, such as "1.843 M"; the unit may follow."""
    power = max(0, min(5, int(math.log10(abs(value)) // 3))) if abs(value) >= 1 else 0
    return f"{value / 1000**power:.4g} {['', 'k', 'M', 'G', 'T', 'P'][power]}"


def duration(seconds: float) -> str:
    """Return a time in s, ms or us, with three digits, or as whole seconds from 1,000 s."""
    if seconds >= 999.5:
        return f"{seconds:,.0f} s"
    factor, unit = next(
        (f, u)
        for f, u in ((1, "s"), (1e3, "ms"), (1e6, "us"))
        if seconds * f >= 0.9995 or u == "us"
    )
    return f"{seconds * factor:.3g} {unit}"
