"""`deconv-jax visualize`: flags to a picture of what is inside a trained network."""

import argparse
from pathlib import Path
from typing import Any

from deconv_jax.cli.common import checkpoint_step, keep_compiled, report_left_out
from deconv_jax.errors import InputError, printable

_VISUALIZE = """\
look inside a trained network

  deconv-jax visualize --checkpoint runs/classifier --layer conv1 --layer conv2 --output layers.png
  deconv-jax visualize --checkpoint runs/classifier --layer conv3 --method maximise --output made.png
  deconv-jax visualize --checkpoint runs/classifier --method grad_cam --output why.png photos/*.jpg

With --layer: what the units of a layer look for. Of each of its strongest feature maps the nine patches
that excite it most, among the given images or the run's test split, beside the projections of the units
there to pixels, by the method deconvnet, guided or gradient; or images that were made to excite each of the
layer's first maps (maximise). Layers are called conv1, conv2, ... and dense1, ... as they run; the output of
the network, for a classifier that of its last dense layer, is logits.
A network with other activations than ReLUs takes gradient alone of the first three.

Without --layer: what in the given images speaks for their class, by any method but maximise, over their
negative in faint gray; the picture says what its red and blue are. The network is a classifier, or one of
segmentation with --class. grad_cam takes layers too, and without one the last with height and width.

All is one picture: an image that cannot be read ends the work.
"""

_OF_UNITS = ("deconvnet", "guided", "gradient", "maximise")
_OF_CLASSES = (
    "deconvnet",
    "guided",
    "gradient",
    "integrated_gradients",
    "occlusion",
    "grad_cam",
)


def add_commands(commands: Any) -> None:
    """Adds its parser to the subparsers of the command line."""
    visualize = commands.add_parser(
        "visualize",
        help="look inside a trained network",
        description=_VISUALIZE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    visualize.add_argument(
        "--checkpoint",
        required=True,
        type=Path,
        metavar="RUN",
        help="workdir of a run of recognition, segmentation, detection or restoration",
    )
    visualize.add_argument(
        "--step", default="last", metavar="last|best|STEP", help="which of its checkpoints"
    )
    visualize.add_argument(
        "--layer",
        action="append",
        default=[],
        metavar="NAME",
        dest="layers",
        help="whose units; several may be given",
    )
    visualize.add_argument(
        "--method",
        default="deconvnet",
        choices=tuple(dict.fromkeys(_OF_UNITS + _OF_CLASSES)),
        help="(default: deconvnet)",
    )
    visualize.add_argument(
        "--maps", type=int, metavar="N", help="feature maps of a layer, at most (default: 16)"
    )
    visualize.add_argument(
        "--class",
        type=int,
        metavar="N",
        dest="class_number",
        help="number of the class (default: that predicted for each image)",
    )
    visualize.add_argument(
        "inputs", nargs="*", metavar="IMAGE", help="files, folders and patterns such as '**/*.png'"
    )
    visualize.add_argument("--data_dir", metavar="DIR", help="where the run's data is now")
    visualize.add_argument(
        "--output", required=True, type=Path, metavar="FILE.png", help="the picture"
    )
    visualize.add_argument("--overwrite", action="store_true", help="replace it if it is there")
    visualize.set_defaults(run=_visualize)


def _visualize(arguments: argparse.Namespace) -> int:
    units = _is_of_units(arguments)
    output = arguments.output
    if output.suffix.lower() != ".png":
        raise InputError(f"--output is a PNG file; got {output}")
    keep_compiled()
    from deconv_jax.inference.image_files import find_images
    from deconv_jax.inference.interpretation.figures import (
        MAPS,
        draw_attributions,
        draw_maximised_inputs,
        draw_top_patches,
    )
    from deconv_jax.inference.interpretation.load import load_interpretable_model
    from deconv_jax.inference.memory import catch_out_of_memory
    from deconv_jax.io import check_unused, write_png
    from deconv_jax.workdir import open_test_split

    check_unused(output, overwrite=arguments.overwrite)
    method, layers = arguments.method, arguments.layers
    found = find_images(arguments.inputs, output)
    files = [file for file, _ in found.files]
    subject = load_interpretable_model(arguments.checkpoint, checkpoint_step(arguments.step))
    maps = MAPS if arguments.maps is None else arguments.maps
    with catch_out_of_memory(
        f"not enough memory to look into {arguments.checkpoint}; fewer images or --maps take less"
    ):
        if method == "maximise":
            picture = draw_maximised_inputs(subject, layers, maps=maps)
        elif units:
            images = files or open_test_split(arguments.checkpoint, arguments.data_dir)
            picture = draw_top_patches(subject, images, layers, rule=method, maps=maps)
        else:
            picture = draw_attributions(
                subject,
                subject.read_images(files),
                [printable(file.name) for file in files],
                method,
                layers=layers,
                class_number=arguments.class_number,
            )
        write_png(output, picture)
    print(printable(f"written: {output}"))
    return report_left_out(found)


def _is_of_units(arguments: argparse.Namespace) -> bool:
    """Whether the flags ask for what units look for; raises InputError where they do not go together."""
    method, layers = arguments.method, arguments.layers
    units = method == "maximise" or (bool(layers) and method != "grad_cam")
    images = bool(arguments.inputs)
    if units and method not in _OF_UNITS:
        raise InputError(
            f"--method {method} is of classes and takes no --layer; of layers are {', '.join(_OF_UNITS)}"
        )
    if method == "maximise" and not layers:
        raise InputError("--method maximise needs --layer")
    if method == "maximise" and images:
        raise InputError("--method maximise makes its images; leave the given ones out")
    if not units and not images:
        raise InputError(
            "give --layer to see what its units look for, or images to see what speaks for their class"
        )
    if units and arguments.class_number is not None:
        raise InputError(
            "--class is for images without --layer; a class's own unit is of the layer logits"
        )
    if not units and arguments.maps is not None:
        raise InputError(
            "--maps is for a --layer's feature maps, of the methods " + ", ".join(_OF_UNITS)
        )
    from_data = units and method != "maximise" and not images
    if arguments.data_dir is not None and not from_data:
        raise InputError("--data_dir is for patches of the run's test split, without images")
    return units
