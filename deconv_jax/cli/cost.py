"""`deconv-jax cost`: FLOPs, memory and bounds on time of a network and of its training step."""

import argparse
import dataclasses
import json
import re
from typing import Any

from deconv_jax.cli.arguments import add_parser
from deconv_jax.cli.config import load_config
from deconv_jax.cli.process import enable_compilation_cache, retain_freed_memory
from deconv_jax.errors import InputError

_COST = """\
print the FLOPs, the memory and bounds on the time of a network

For each layer: output, parameters, FLOPs of the forward pass and of a training step for one
example, and size of the output. In all: receptive field, size of a checkpoint, and the least time
on H200, H100, A100 and TPUs by their peak rates. The step is traced; only --measure runs it.
  deconv-jax cost --model denoise-gray --size 512x512
  deconv-jax cost --config experiments/restoration/dncnn.py --config.precision=bf16 --format csv

FLOPs are two for each multiply-add of a convolution or a matrix product, on padding zeros too.
"""


def add_commands(commands: Any) -> None:
    """Add the parser of `cost`."""
    cost = add_parser(
        commands,
        "cost",
        _COST,
        usage="deconv-jax cost (--model NAME | --config FILE[:ARG] [--config.KEY=VALUE ...]) [options]",
    )
    group = cost.add_mutually_exclusive_group(required=True)
    group.add_argument("--model", metavar="NAME", help="use this named model and its training")
    group.add_argument(
        "--config",
        metavar="FILE[:ARG]",
        help="read the experiment from this file; its data is needed",
    )
    cost.add_argument(
        "--size",
        metavar="HxW",
        help="use images of this height and width in the forward pass (default: those of training); "
        "the figures of the training step stay the same",
    )
    cost.add_argument(
        "--measure",
        action="store_true",
        help="also measure a forward pass and a training step on this device, on random images",
    )
    cost.add_argument(
        "--format", choices=("text", "csv", "json"), default="text", help="format (default: text)"
    )
    cost.set_defaults(run=_cost)


def _cost(arguments: argparse.Namespace) -> int:
    size = _size(arguments.size)
    if arguments.overrides and arguments.model is not None:
        raise InputError(f"{arguments.overrides[0]} requires --config; got --model")
    if arguments.measure and arguments.format == "csv":
        raise InputError("--measure requires --format text or json; got csv")
    if arguments.measure:
        enable_compilation_cache()
        retain_freed_memory()
    from deconv_jax import zoo
    from deconv_jax.cost.measure import measure
    from deconv_jax.cost.report import cost_of, example_shapes
    from deconv_jax.cost.text import to_csv, to_dict, to_text
    from deconv_jax.experiment import Experiment

    if arguments.model is not None:
        model = zoo.load(arguments.model)
        name, experiment, shapes = model.name, model.experiment, model.input_shapes
    else:
        name = arguments.config
        experiment = Experiment.from_dict(load_config(name, arguments.overrides))
        shapes = example_shapes(experiment)
    cost = cost_of(name, experiment, shapes, size)
    if arguments.measure:
        measured = measure(experiment, shapes, cost.networks)
        cost = dataclasses.replace(cost, measured=measured)
    if arguments.format == "json":
        print(json.dumps(to_dict(cost), indent=2))
    else:
        print(to_text(cost) if arguments.format == "text" else to_csv(cost).rstrip())
    return 0


def _size(text: str | None) -> tuple[int, int] | None:
    """Return the height and width of --size."""
    if text is None:
        return None
    match = re.fullmatch(r"([1-9]\d{0,5})x([1-9]\d{0,5})", text)
    if match is None:
        raise InputError(f"--size must be HxW, such as 512x512; got {text!r}")
    return int(match[1]), int(match[2])
