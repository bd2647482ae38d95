"""`deconv-jax visualize`: a picture of what a trained network has learned."""

import argparse
from typing import Any

from deconv_jax.cli.arguments import (
    add_data_dir,
    add_inputs,
    add_model,
    add_output,
    add_parser,
    open_model,
    report_skipped,
)
from deconv_jax.cli.process import enable_compilation_cache
from deconv_jax.errors import InputError, escape_unprintable

_VISUALIZE = """\
show what the layers of a trained network respond to

  deconv-jax visualize --model digits-classifier --layer conv1 --layer conv2 -o layers.png
  deconv-jax visualize --workdir runs/classifier --layer conv3 --method maximize -o made.png
  deconv-jax visualize --workdir runs/classifier --method grad_cam -o why.png photos/*.jpg

With --layer, shows the layer's strongest feature maps. Each has the nine image patches that
activate it most, among the inputs or the run's test split, next to the projections of these
activations to pixels. The projection is deconvnet, guided or gradient; networks with activations
other than ReLU support only gradient. The method maximize instead optimizes images that activate
the layer's first feature maps. Layers are named conv1, conv2, ... and dense1, ... in execution
order, and logits for the network's output.

Without --layer, shows which pixels of the inputs support their class, by any method except
maximize. The attribution is drawn over a faint gray negative of the image, with a legend for its
red and blue. The network must be a classifier, or a segmentation network with --class. grad_cam
also accepts --layer (default: the last layer with height and width).

The result is one picture, so any input that cannot be read is an error.
"""

_LAYER_METHODS = ("deconvnet", "guided", "gradient", "maximize")
_CLASS_METHODS = (
    "deconvnet",
    "guided",
    "gradient",
    "integrated_gradients",
    "occlusion",
    "grad_cam",
)
_METHODS = tuple(dict.fromkeys(_LAYER_METHODS + _CLASS_METHODS))


def add_commands(commands: Any) -> None:
    """Add the parser of `visualize`."""
    visualize = add_parser(commands, "visualize", _VISUALIZE)
    add_model(visualize, "classification, segmentation, detection or restoration")
    visualize.add_argument(
        "--layer",
        action="append",
        default=[],
        metavar="NAME",
        dest="layers",
        help="show the feature maps of this layer; may be repeated",
    )
    visualize.add_argument(
        "--method",
        default="deconvnet",
        choices=_METHODS,
        metavar="NAME",
        help=f"use this method: {', '.join(_METHODS)} (default: deconvnet)",
    )
    visualize.add_argument(
        "--maps",
        type=int,
        metavar="N",
        help="show at most this many feature maps of a layer (default: 16)",
    )
    visualize.add_argument(
        "--class",
        type=int,
        metavar="N",
        dest="class_number",
        help="explain the class of this number (default: the predicted class of each image)",
    )
    add_inputs(visualize, nargs="*")
    add_data_dir(visualize)
    add_output(visualize, "FILE.png", "write the picture to this file")
    visualize.set_defaults(run=_visualize)


def _visualize(arguments: argparse.Namespace) -> int:
    shows_layers = _shows_layers(arguments)
    output = arguments.output
    if output.suffix.lower() != ".png":
        raise InputError(f"--output must be a PNG file; got {output}")
    enable_compilation_cache()
    from deconv_jax.inference.image_files import find_images
    from deconv_jax.inference.interpretation.figures import (
        DEFAULT_MAX_MAPS,
        draw_attributions,
        draw_maximized_inputs,
        draw_top_patches,
    )
    from deconv_jax.inference.interpretation.load import load_interpretable_model
    from deconv_jax.inference.memory import catch_out_of_memory
    from deconv_jax.inference.trained_model import open_test_split
    from deconv_jax.io import check_output_path, write_png

    check_output_path(output, overwrite=arguments.overwrite)
    method, layers = arguments.method, arguments.layers
    found = find_images(arguments.inputs, output)
    files = [file for file, _ in found.files]
    trained, checkpoint = open_model(arguments)
    model = load_interpretable_model(trained, checkpoint)
    maps = DEFAULT_MAX_MAPS if arguments.maps is None else arguments.maps
    with catch_out_of_memory(
        f"not enough memory to visualize {arguments.workdir or arguments.model}; use fewer images or a smaller --maps"
    ):
        if method == "maximize":
            picture = draw_maximized_inputs(model, layers, maps=maps)
        elif shows_layers:
            images = files or open_test_split(trained, arguments.data_dir)
            picture = draw_top_patches(model, images, layers, rule=method, maps=maps)
        else:
            picture = draw_attributions(
                model,
                model.read_images(files),
                [escape_unprintable(file.name) for file in files],
                method,
                layers=layers,
                class_number=arguments.class_number,
            )
        write_png(output, picture)
    print(escape_unprintable(f"written: {output}"))
    return report_skipped(found)


def _shows_layers(arguments: argparse.Namespace) -> bool:
    """Return whether the flags ask for the feature maps of layers rather than for attribution.

    Raises:
      InputError: The flags contradict each other.
    """
    method, layers = arguments.method, arguments.layers
    shows_layers = method == "maximize" or (bool(layers) and method != "grad_cam")
    has_inputs = bool(arguments.inputs)
    layer_methods = ", ".join(_LAYER_METHODS)
    if shows_layers and method not in _LAYER_METHODS:
        raise InputError(
            f"--method {method} cannot be combined with --layer; layers support {layer_methods}"
        )
    if method == "maximize" and not layers:
        raise InputError("--method maximize requires --layer")
    if method == "maximize" and has_inputs:
        raise InputError("--method maximize generates its images and takes no inputs")
    if not shows_layers and not has_inputs:
        raise InputError("give --layer to show its feature maps, or images to explain their class")
    if shows_layers and arguments.class_number is not None:
        raise InputError(
            "--class cannot be combined with --layer; the feature maps of --layer logits are the classes"
        )
    if not shows_layers and arguments.maps is not None:
        raise InputError(f"--maps requires --layer and one of the methods {layer_methods}")
    uses_test_split = shows_layers and method != "maximize" and not has_inputs
    if arguments.data_dir is not None and not uses_test_split:
        raise InputError(
            "--data-dir requires --layer without inputs, when patches come from the run's test split"
        )
    return shows_layers
