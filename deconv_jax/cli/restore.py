"""`deconv-jax restore`: image files through a trained network or a classical method."""

import argparse
import dataclasses
import sys
from pathlib import Path
from typing import Any

from deconv_jax.cli.arguments import (
    add_checkpoint,
    add_inputs,
    add_output,
    add_parser,
    parse_checkpoint,
    refuse_flags,
    report_skipped,
)
from deconv_jax.cli.config import parse_literal
from deconv_jax.cli.exit_codes import EXIT_SOME_FAILED
from deconv_jax.cli.process import enable_compilation_cache
from deconv_jax.errors import InputError

_RESTORE = """\
restore images with a trained network or a classical method

  deconv-jax restore --workdir runs/dncnn_25 photos/ scan.png -o restored
  deconv-jax restore --method wiener --kernel blur.png --noise-sigma 2 blurred.png -o sharp
  deconv-jax restore --method tv --noise-sigma 15 noisy.png -o denoised
  deconv-jax restore --method plug_and_play --kernel blur.png --noise-sigma 2.55 \\
    --weights dncnn_15.pth --denoiser-sigma 15 --weights dncnn_50.pth --denoiser-sigma 50 \\
    blurred.png -o sharp

Reads PNG, JPEG, TIFF, BMP and WebP. Folders are searched recursively, and the output keeps their
structure. A result has the name, format, bit depth, transparency, color profile, EXIF data and
resolution of its input. If a file cannot be restored (such as one with several pages or frames),
lacks a reference, or already has a result, it is reported and the others are processed; the exit
code is then 1. Folders may also hold files of other formats, hidden files and links to folders:
these are skipped and listed at the end.

A network for one channel restores the channels of a color image one by one; if it enlarges, it
restores the luma, and the color is enlarged bicubically. A network works in tiles. A classical
method works on the whole image, needs 40 to 120 bytes per sample, and refuses images that do not
fit into free memory. The method plug_and_play undoes a blur with denoising networks: one that takes
the noise level as input, or several that were each trained for one level.
"""
_USAGE = """\
deconv-jax restore (--workdir DIR | --weights FILE) INPUT [INPUT ...] --output DIR [options]
       deconv-jax restore --method NAME --kernel FILE INPUT [INPUT ...] --output DIR [options]
       deconv-jax restore --method tv|wavelet --noise-sigma SIGMA
                          INPUT [INPUT ...] --output DIR [options]
       deconv-jax restore --method plug_and_play --kernel FILE --noise-sigma SIGMA
                          (--workdir DIR | --weights FILE [--denoiser-sigma SIGMA]) ...
                          INPUT [INPUT ...] --output DIR [options]"""

_METHOD_FLAGS = ("--kernel", "--boundary", "--option", "--denoiser-sigma")
_NETWORK_FLAGS = ("--scale", "--tile", "--self-ensemble", "--precision")
_TRAINING_FLAGS = ("--checkpoint", "--batch-norm-epsilon")


@dataclasses.dataclass(frozen=True)
class _Network:
    """A trained network on the command line.

    Attributes:
      flag: "--workdir" or "--weights".
      path: Workdir of a run, or a weights file.
    """

    flag: str
    path: Path


def add_commands(commands: Any) -> None:
    """Add the parser of `restore`."""
    restore = add_parser(commands, "restore", _RESTORE, usage=_USAGE)
    add_inputs(restore)
    add_output(restore, "DIR", "write the results to this folder")
    restore.add_argument(
        "--format",
        metavar="png|tif|...",
        help="write results in this format (default: that of each input)",
    )
    restore.add_argument(
        "--noise-sigma",
        type=float,
        metavar="SIGMA",
        help="set the standard deviation of the noise that the network or method assumes, in units "
        "of 1/255",
    )
    _add_network_flags(restore.add_argument_group("trained networks"))
    _add_method_flags(restore.add_argument_group("classical methods"))
    _add_evaluation_flags(restore.add_argument_group("evaluation"))
    restore.set_defaults(run=_restore)


def _add_network_flags(group: Any) -> None:
    group.add_argument(
        "--workdir",
        type=lambda path: _Network("--workdir", Path(path)),
        action="append",
        dest="networks",
        default=[],
        metavar="DIR",
        help="use the model of this run (restoration); may be repeated for plug_and_play",
    )
    add_checkpoint(group)
    group.add_argument(
        "--weights",
        type=lambda path: _Network("--weights", Path(path)),
        action="append",
        dest="networks",
        metavar="FILE",
        help="use these published weights (.pth, .pt or .safetensors); may be repeated for "
        "plug_and_play",
    )
    group.add_argument(
        "--scale",
        type=int,
        metavar="N",
        help="set the upscaling factor of --weights that do not determine it",
    )
    group.add_argument(
        "--batch-norm-epsilon",
        type=float,
        metavar="EPSILON",
        help="set the epsilon of the batch normalization of a DnCNN's --weights (default: "
        "inferred from the parameter names in the file, which identify the codebase)",
    )
    group.add_argument(
        "--tile",
        type=int,
        metavar="PIXELS",
        help="restore in tiles of this side length, with the same result (default: as large as free "
        "memory allows); one tile size for images of many sizes avoids recompilation",
    )
    group.add_argument(
        "--self-ensemble",
        action="store_true",
        default=None,
        help="average over the eight flips and rotations of the image; eight times slower",
    )
    group.add_argument(
        "--precision",
        choices=("f32", "bf16"),
        help="compute in this precision (default: bf16 on accelerators, f32 on a CPU)",
    )


def _add_method_flags(group: Any) -> None:
    group.add_argument(
        "--method",
        metavar="NAME",
        help="use this method: wiener, richardson_lucy, tv, plug_and_play, ...",
    )
    group.add_argument(
        "--kernel",
        type=Path,
        metavar="FILE",
        help="undo this blur: the point-spread function, centered, as an image (bright on black) or "
        "a .npy array; normalized to sum 1",
    )
    group.add_argument(
        "--boundary",
        choices=("unknown", "reflect", "circular", "zeros"),
        help="assume this beyond the border (default: unknown, as in a photograph)",
    )
    group.add_argument(
        "--option",
        action="append",
        metavar="KEY=VALUE",
        help="set an option of the method, such as iterations=50; may be repeated",
    )
    group.add_argument(
        "--denoiser-sigma",
        type=float,
        action="append",
        metavar="SIGMA",
        help="state the noise level that a network of plug_and_play was trained for, in units of "
        "1/255: once per network, in order; a run records its own",
    )


def _add_evaluation_flags(group: Any) -> None:
    group.add_argument(
        "--reference",
        type=Path,
        metavar="DIR",
        help="print PSNR and SSIM of inputs and results against the images of the same name here",
    )
    group.add_argument(
        "--border",
        type=int,
        metavar="PIXELS",
        help="crop this border before evaluating (default: 0)",
    )
    group.add_argument(
        "--y-channel", action="store_true", help="evaluate Y of BT.601 instead of RGB"
    )
    group.add_argument(
        "--compare", action="store_true", help="write NAME.compare.png: before and after"
    )


def _restore(arguments: argparse.Namespace) -> int:
    from deconv_jax.inference.image_files import plan_jobs
    from deconv_jax.inference.restoration.restore_files import restore_files
    from deconv_jax.metrics.protocol import EvaluationProtocol

    enable_compilation_cache()
    _check_flags(arguments)
    protocol = EvaluationProtocol(
        color="y" if arguments.y_channel else "rgb", border=arguments.border or 0
    )
    plan = plan_jobs(
        arguments.inputs,
        arguments.output,
        suffix=arguments.format and f".{arguments.format.lower().removeprefix('.')}",
        references=arguments.reference,
        compare=arguments.compare,
    )
    restorer = _classical(arguments) if arguments.method else _learned(arguments)
    failed = restore_files(restorer, plan.jobs, protocol=protocol, overwrite=arguments.overwrite)
    return report_skipped(plan) or (EXIT_SOME_FAILED if failed else 0)


def _check_flags(arguments: argparse.Namespace) -> None:
    """Raise InputError unless the flags describe one network, one method, or plug and play."""
    from deconv_jax.classical import METHODS
    from deconv_jax.inference.restoration.classical_restorer import DENOISING

    networks, method = arguments.networks, arguments.method
    plug_and_play = method == "plug_and_play"
    if not plug_and_play and bool(networks) == bool(method):
        raise InputError(
            "restore requires one of --workdir, --weights and --method; only --method plug_and_play "
            "takes both a method and networks"
        )
    if not plug_and_play and len(networks) > 1:
        raise InputError(f"only --method plug_and_play takes several networks; got {len(networks)}")
    if plug_and_play:
        refuse_flags(arguments, _NETWORK_FLAGS, f"--method {method}")
    elif method:
        others = (*_TRAINING_FLAGS, *_NETWORK_FLAGS, "--denoiser-sigma")
        refuse_flags(arguments, others, f"--method {method}")
    else:
        refuse_flags(arguments, _METHOD_FLAGS, networks[0].flag)
    if method and arguments.kernel is None:
        if method in METHODS and method not in DENOISING:
            raise InputError(
                f"--method {method} requires --kernel, the blur to undo; without a kernel "
                f"{' and '.join(DENOISING)} remove noise"
            )
        if arguments.boundary is not None:
            raise InputError("--boundary requires --kernel")
    if plug_and_play and not networks:
        raise InputError(f"--method {method} requires --workdir or --weights, a denoising network")
    flags = {network.flag for network in networks}
    if networks and "--workdir" not in flags and arguments.checkpoint is not None:
        raise InputError("--checkpoint requires --workdir; a weights file has no checkpoints")
    if networks and "--weights" not in flags:
        for flag in ("scale", "batch_norm_epsilon"):
            if getattr(arguments, flag) is not None:
                raise InputError(f"--{flag.replace('_', '-')} requires --weights")
    if not arguments.reference and (arguments.border is not None or arguments.y_channel):
        raise InputError("--border and --y-channel require --reference")


def _classical(arguments: argparse.Namespace) -> Any:
    """Return the restorer of a classical method."""
    from deconv_jax.inference.restoration.blur_kernel import read_kernel
    from deconv_jax.inference.restoration.classical_restorer import ClassicalRestorer
    from deconv_jax.inference.restoration.pnp_denoiser import TrainedDenoiser, make_pnp_denoiser

    options = {}
    for word in arguments.option or ():
        key, equals, text = word.partition("=")
        if not equals or not key:
            raise InputError(f"--option must be KEY=VALUE; got {word!r}")
        options[key] = parse_literal(text)
    kernel = None if arguments.kernel is None else read_kernel(arguments.kernel)
    denoisers = [
        TrainedDenoiser(str(network.path), **_load(network, arguments))
        for network in arguments.networks
    ]
    return ClassicalRestorer(
        arguments.method,
        kernel,
        noise_sigma=arguments.noise_sigma,
        boundary=arguments.boundary or "unknown",
        options=options,
        denoiser=make_pnp_denoiser(denoisers, arguments.denoiser_sigma or ())
        if denoisers
        else None,
    )


def _learned(arguments: argparse.Namespace) -> Any:
    """Return the restorer of a trained network."""
    import jax

    from deconv_jax.inference.restoration.learned_restorer import LearnedRestorer

    loaded = _load(arguments.networks[0], arguments)
    return LearnedRestorer(
        loaded["model"],
        loaded["variables"],
        noise_conditional=loaded["noise_conditional"],
        noise_sigma=arguments.noise_sigma,
        precision=arguments.precision or ("f32" if jax.default_backend() == "cpu" else "bf16"),
        tile=arguments.tile,
        ensemble=bool(arguments.self_ensemble),
    )


def _load(network: _Network, arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the model and variables of a network, and what is known about its training."""
    if network.flag == "--workdir":
        from deconv_jax.inference.restoration.load import load_restoration

        task, variables = load_restoration(network.path, parse_checkpoint(arguments.checkpoint))
        return {
            "model": task.model,
            "variables": variables,
            "noise_conditional": task.noise_conditional,
            "degradation": task.degradation,
        }
    from deconv_jax.io import kind_of
    from deconv_jax.models.weight_import import load_torch_weights

    kind = kind_of(network.path)
    if kind is None:
        raise InputError(f"--weights: no such file {network.path}")
    if kind == "folder":
        raise InputError(f"--weights must be a file; got the folder {network.path} (see --workdir)")
    model, variables, noise_conditional = load_torch_weights(
        network.path,
        arguments.scale,
        batch_norm_epsilon=arguments.batch_norm_epsilon,
        report=lambda sentence: print(f"deconv-jax: {sentence}", file=sys.stderr),
    )
    return {"model": model, "variables": variables, "noise_conditional": noise_conditional}
