"""`deconv-jax export`: trained models as files that run without this package."""

import argparse
from pathlib import Path
from typing import Any

from deconv_jax.cli.arguments import add_model, add_output, add_parser, open_model
from deconv_jax.errors import escape_unprintable

_EXPORT = """\
export a trained model to a file that runs without this package

  deconv-jax export --model denoise-gray -o exported
  deconv-jax export --model sr-x2 -o exported --format onnx
  deconv-jax export --workdir runs/dncnn -o exported --format safetensors

Formats:
  stablehlo    a program for CPU, CUDA and TPU that jax.export reads
  onnx         a graph for onnxruntime, browsers and other tools; needs the extra export
  safetensors  the weights of a restoration network with the names of its PyTorch version

A file of the first two formats serves any batch size and, unless the network has a fixed size, any
height and width that are multiples of its stride. A codec gives a file for each of its transforms.
Each file is first run on inputs of three shapes. If it differs from this package by more than 1e-5,
nothing is written. NAME.FORMAT.json beside each file describes its inputs and outputs and has the
differences.
"""


def add_commands(commands: Any) -> None:
    """Add the parser of `export`."""
    export = add_parser(commands, "export", _EXPORT)
    add_model(export, "all tasks but vector quantization")
    add_output(export, "DIR", "write the files to this folder")
    export.add_argument(
        "--format",
        choices=("stablehlo", "onnx", "safetensors"),
        default="stablehlo",
        help="format (default: stablehlo)",
    )
    export.add_argument(
        "--layout",
        choices=("nhwc", "nchw"),
        help="use channels last or first in images and feature maps (default: nhwc for stablehlo, "
        "nchw for onnx)",
    )
    export.set_defaults(run=_export)


def _export(arguments: argparse.Namespace) -> int:
    from deconv_jax.export import export

    trained, checkpoint = open_model(arguments)
    folder: Path = arguments.output
    files = export(
        trained,
        folder,
        arguments.format,
        layout=arguments.layout,
        checkpoint=checkpoint,
        overwrite=arguments.overwrite,
    )
    for file in files:
        megabytes = file.description["bytes"] / 1e6
        text = f"written: {file.path}, {megabytes:.2f} MB, differs by at most {file.max_difference:.1e}"
        print(escape_unprintable(text))
    return 0
