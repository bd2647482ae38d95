"""`deconv-jax restore`: flags to a restorer, and images through it."""

import argparse
import sys
from pathlib import Path
from typing import Any

from deconv_jax.cli.common import (
    EXIT_SOME_FAILED,
    checkpoint_step,
    keep_compiled,
    literal,
    report_left_out,
)
from deconv_jax.errors import InputError

_RESTORE = """\
restore images: by a trained network, or by a method that undoes a known blur or removes noise

  deconv-jax restore --checkpoint runs/dncnn_25 photos/ scan.png --output restored
  deconv-jax restore --method wiener --kernel blur.png --noise-sigma 2 blurred.png --output sharp
  deconv-jax restore --method tv --noise-sigma 15 noisy.png --output denoised
  deconv-jax restore --method plug_and_play --kernel blur.png --noise-sigma 2.55 \\
    --checkpoint dncnn_15.pth --denoiser-sigma 15 --checkpoint dncnn_50.pth --denoiser-sigma 50 \\
    blurred.png --output sharp

An input is a file, a folder (with what is in it and below, its structure kept) or a quoted pattern
such as 'photos/*.jpg'. A result has its input's name and format, size of samples, transparency,
colour profile, EXIF data and resolution; one that is there already is left alone. A file that
cannot be restored, such as one with several pages or frames, or that has no reference, is reported,
and the others are done; the exit code is then 1. What else is in a folder (files of other formats,
hidden files, links to folders) is left out, counted and named at the end. A network of one channel
restores the channels of a colour picture one by one, or, if it enlarges, the luma, and the
colour is enlarged bicubically. A network works in tiles; a method takes the image as a whole, in 40
to 120 bytes a sample, and refuses one for which the free memory does not suffice. The method
plug_and_play undoes the blur with a network that removes noise: one that is told the noise's level,
or several that were trained for one level each.
"""


def add_commands(commands: Any) -> None:
    """Adds its parser to the subparsers of the command line."""
    restore = commands.add_parser(
        "restore",
        help="restore a person's images",
        description=_RESTORE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="deconv-jax restore (--checkpoint RUN_OR_WEIGHTS | --method NAME --kernel FILE)\n"
        "                          INPUT [INPUT ...] --output DIR [options]\n"
        "       deconv-jax restore --method tv|wavelet --noise-sigma SIGMA\n"
        "                          INPUT [INPUT ...] --output DIR [options]\n"
        "       deconv-jax restore --method plug_and_play --kernel FILE --noise-sigma SIGMA\n"
        "                          --checkpoint RUN_OR_WEIGHTS [--denoiser-sigma SIGMA] ...\n"
        "                          INPUT [INPUT ...] --output DIR [options]",
        allow_abbrev=False,
    )
    restore.add_argument(
        "inputs",
        nargs="+",
        metavar="INPUT",
        help="file, folder or pattern; PNG, JPEG, TIFF, BMP or WebP",
    )
    restore.add_argument(
        "--output", required=True, type=Path, metavar="DIR", help="folder for the results"
    )
    restore.add_argument(
        "--overwrite", action="store_true", help="replace results that are there already"
    )
    restore.add_argument(
        "--format", metavar="png|tif|...", help="of the results (default: each input's own)"
    )
    restore.add_argument(
        "--noise-sigma",
        type=float,
        metavar="SIGMA",
        help="standard deviation of the images' noise in levels of 255, for networks that are told "
        "and methods that ask",
    )
    network = restore.add_argument_group("a trained network")
    network.add_argument(
        "--checkpoint",
        type=Path,
        action="append",
        default=[],
        metavar="RUN_OR_WEIGHTS",
        help="workdir of a run of restoration, or published weights (.pth, .safetensors); may be "
        "repeated for plug_and_play",
    )
    network.add_argument(
        "--step", default=None, metavar="last|best|STEP", help="of a run (default: last)"
    )
    network.add_argument(
        "--scale", type=int, metavar="N", help="of weights that do not say by how much they enlarge"
    )
    network.add_argument(
        "--batch-norm-epsilon",
        type=float,
        metavar="EPSILON",
        help="what the batch normalization of a DnCNN's weights adds to the variance (default: that of "
        "the code whose names the file has)",
    )
    network.add_argument(
        "--tile",
        type=int,
        metavar="PIXELS",
        help="restore in tiles of so many pixels a side, to the same result (default: as large as "
        "the free memory allows); one size for files of many sizes saves compiling for each",
    )
    network.add_argument(
        "--self-ensemble",
        action="store_true",
        default=None,
        help="mean over the eight ways to turn and mirror the image; eight times slower",
    )
    network.add_argument(
        "--precision",
        choices=("f32", "bf16"),
        help="(default: bf16 on accelerators, f32 on a CPU)",
    )
    method = restore.add_argument_group("a method without learning")
    method.add_argument(
        "--method", metavar="NAME", help="wiener, richardson_lucy, tv, plug_and_play, ..."
    )
    method.add_argument(
        "--kernel",
        type=Path,
        metavar="FILE",
        help="the blur: a picture of a blurred white point on black, the point's own place at its "
        "centre, or a .npy array; scaled to sum 1. Without it tv and wavelet remove noise",
    )
    method.add_argument(
        "--boundary",
        choices=("unknown", "reflect", "circular", "zeros"),
        help="what lies beyond the border (default: unknown, as of a photograph)",
    )
    method.add_argument(
        "--option",
        action="append",
        metavar="KEY=VALUE",
        help="of the method, e.g. iterations=50; may be repeated",
    )
    method.add_argument(
        "--denoiser-sigma",
        type=float,
        action="append",
        metavar="SIGMA",
        help="the noise that a --checkpoint of plug_and_play was trained for, in levels of 255; of a "
        "run it is known, of weights it is given once for each, in their order",
    )
    measure = restore.add_argument_group("measuring and looking")
    measure.add_argument(
        "--reference",
        type=Path,
        metavar="DIR",
        help="true images of the inputs' names: prints PSNR and SSIM, also of the inputs",
    )
    measure.add_argument(
        "--border", type=int, metavar="PIXELS", help="left out when measuring (default: 0)"
    )
    measure.add_argument(
        "--y-channel", action="store_true", help="measure Y of BT.601 instead of RGB"
    )
    measure.add_argument(
        "--compare", action="store_true", help="write NAME.compare.png: before and after"
    )
    restore.set_defaults(run=_restore)


def _restore(arguments: argparse.Namespace) -> int:
    from deconv_jax.inference.image_files import plan_jobs
    from deconv_jax.inference.restoration.summary import restore_files
    from deconv_jax.metrics.protocol import EvaluationProtocol

    keep_compiled()
    _refuse_flags_of_the_other(arguments)
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
    restorer = _method(arguments) if arguments.method else _network(arguments)
    failed = restore_files(restorer, plan.jobs, protocol=protocol, overwrite=arguments.overwrite)
    return report_left_out(plan) or (EXIT_SOME_FAILED if failed else 0)


def _refuse_flags_of_the_other(arguments: argparse.Namespace) -> None:
    """Raises InputError unless one of network and method is asked for, and only its flags are set."""
    from deconv_jax.classical import METHODS
    from deconv_jax.inference.restoration.classical_restorer import DENOISING

    both = arguments.method == "plug_and_play"
    if not both and bool(arguments.checkpoint) == bool(arguments.method):
        raise InputError(
            "restore takes one of --checkpoint (a network) and --method (with --kernel, or tv or "
            "wavelet to remove noise); both for plug_and_play"
        )
    name = f"--method {arguments.method}" if arguments.method else "--checkpoint"
    others: tuple[str, ...]
    if both:
        others = ("scale", "tile", "self_ensemble", "precision")
    elif arguments.method:
        others = (
            "step",
            "scale",
            "batch_norm_epsilon",
            "tile",
            "self_ensemble",
            "precision",
            "denoiser_sigma",
        )
    else:
        others = ("kernel", "boundary", "option", "denoiser_sigma")
    for flag in others:
        if getattr(arguments, flag) is not None:
            raise InputError(f"--{flag.replace('_', '-')} does not go with {name}")
    if arguments.method and arguments.kernel is None:
        if arguments.method in METHODS and arguments.method not in DENOISING:
            raise InputError(
                f"{name} needs --kernel, the blur that it undoes; without one "
                f"{' and '.join(DENOISING)} remove noise"
            )
        if arguments.boundary is not None:
            raise InputError("--boundary is of a blur: give --kernel")
    if both and not arguments.checkpoint:
        raise InputError(f"{name} needs --checkpoint, a network that removes noise")
    if not both and len(arguments.checkpoint) > 1:
        raise InputError("--checkpoint is given once, but for plug_and_play")
    if not arguments.reference and (arguments.border is not None or arguments.y_channel):
        raise InputError("--border and --y-channel are of the measuring: give --reference")


def _method(arguments: argparse.Namespace) -> Any:
    """The method that the flags ask for, as a restorer."""
    from deconv_jax.inference.image_files import read_kernel
    from deconv_jax.inference.restoration.classical_restorer import ClassicalRestorer
    from deconv_jax.inference.restoration.pnp_denoiser import TrainedDenoiser, make_pnp_denoiser

    options = {}
    for word in arguments.option or ():
        key, equals, text = word.partition("=")
        if not equals or not key:
            raise InputError(f"an option is KEY=VALUE; got {word!r}")
        options[key] = literal(text)
    kernel = None if arguments.kernel is None else read_kernel(arguments.kernel)
    networks = [
        TrainedDenoiser(str(path), **_trained(path, arguments)) for path in arguments.checkpoint
    ]
    return ClassicalRestorer(
        arguments.method,
        kernel,
        noise_sigma=arguments.noise_sigma,
        boundary=arguments.boundary or "unknown",
        options=options,
        denoiser=make_pnp_denoiser(networks, arguments.denoiser_sigma or ()) if networks else None,
    )


def _network(arguments: argparse.Namespace) -> Any:
    """The network that the flags ask for, as a restorer."""
    import jax

    from deconv_jax.inference.restoration.learned_restorer import LearnedRestorer

    trained = _trained(arguments.checkpoint[0], arguments)
    return LearnedRestorer(
        trained["model"],
        trained["variables"],
        noise_conditional=trained["noise_conditional"],
        noise_sigma=arguments.noise_sigma,
        precision=arguments.precision or ("f32" if jax.default_backend() == "cpu" else "bf16"),
        tile=arguments.tile,
        ensemble=bool(arguments.self_ensemble),
    )


def _trained(path: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """The network of a run or of a file of weights, and what is known of its training."""
    from deconv_jax.io import kind_of

    kind = kind_of(path)
    if kind is None:
        raise InputError(f"--checkpoint: no such file or folder {path}")
    if kind == "folder":
        from deconv_jax.inference.restoration.load import load_restoration

        for flag in ("scale", "batch_norm_epsilon"):
            if getattr(arguments, flag) is not None:
                name = flag.replace("_", "-")
                raise InputError(f"--{name} is for weights in a file: a run says its own")
        task, variables = load_restoration(path, checkpoint_step(arguments.step or "last"))
        known = {"noise_conditional": task.noise_conditional, "degradation": task.degradation}
        return {"model": task.model, "variables": variables} | known
    from deconv_jax.models.weight_import import load_torch_weights

    if arguments.step is not None:
        raise InputError("--step is for the workdir of a run; weights in a file have no steps")
    model, variables = load_torch_weights(
        path,
        arguments.scale,
        batch_norm_epsilon=arguments.batch_norm_epsilon,
        report=lambda sentence: print(f"deconv-jax: {sentence}", file=sys.stderr),
    )
    return {"model": model, "variables": variables, "noise_conditional": False}
