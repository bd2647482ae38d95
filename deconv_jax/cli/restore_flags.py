"""Flags and help of `deconv-jax restore`."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

from deconv_jax.cli.arguments import add_checkpoint, add_inputs, add_output, add_parser

_RESTORE = """\
restore images and videos with a trained network or a classical method

  deconv-jax restore photo.jpg
  deconv-jax restore --model denoise --noise-sigma 25 photos/ -o restored
  deconv-jax restore --model sr --scale 4 small.png -o large.png
  deconv-jax restore --model denoise clip.mp4 -o clean.mp4
  deconv-jax restore --workdir runs/dncnn_25 photos/ scan.png -o restored
  deconv-jax restore --model denoise --wrap x panorama.jpg
  deconv-jax restore --method wiener --kernel blur.png --noise-sigma 2 blurred.png
  deconv-jax restore --method plug_and_play --model denoise --kernel blur.png --noise-sigma 2.55 \\
    blurred.png -o sharp
  deconv-jax restore --method tv --mask hole.png --noise-sigma 5 damaged.png -o filled
  deconv-jax restore --method generative_prior --model mnist-vae --mask hole.png digit.png

Without flags, the named model photo removes noise and JPEG artifacts. It also smooths images that
have neither. Other models: denoise (only noise), jpeg (only JPEG artifacts) and sr (enlarges);
"deconv-jax models" lists all. Gray images get the variant of denoise and jpeg for gray images; the
model photo restores them as three equal channels. A network that takes the noise level as input
gets --noise-sigma, or else the level estimated for each image.

Reads PNG, JPEG, TIFF, BMP, WebP, AVIF and HEIC. Folders are searched recursively, and the output
keeps their structure. Without --output, the result of NAME.EXT is NAME.restored.EXT beside it. A
result has the format, bit depth, transparency, color profile, EXIF data and resolution of its
input. A file that cannot be restored (such as one with several pages or frames), that lacks a
reference, or that already has a result is reported, and the others are processed; the exit code is
then 1. Folders may also hold files of other formats, hidden files, links to folders and earlier
results: these are skipped and listed at the end.

Videos are restored frame by frame; this needs PyAV (the extra video). Timestamps, sound, subtitles,
rotation and color tags are kept, and the result is H.264 with 8 bits per sample. Folders skip
videos: name them, or a pattern such as 'clips/*.mp4'. After an interruption, the same command
continues; the finished parts are in OUTPUT.parts. A frame that cannot be decoded is reported, and
the exit code is then 1.

A network for one channel restores the channels of a color image one by one; if it enlarges, it
restores the luma, and the color is enlarged bicubically. A network works in tiles. A classical
method works on the whole image, needs 40 to 120 bytes per sample, and refuses images that do not
fit into free memory. The method plug_and_play undoes a blur with denoising networks: one that takes
the noise level as input, or several that were each trained for one level.

The methods tv, wavelet, plug_and_play and generative_prior fill the pixels that are white in
--mask. The method generative_prior searches for the image of a GAN or VAE that explains the input
best; the input must have the size of the model's images. Semantic inpainting has --option
misfit=absolute, context_window=7, blend=True and, with the run of a GAN, critic_weight=0.003.
"""
_USAGE = """\
deconv-jax restore [--model NAME | --workdir DIR | --weights FILE]
                          INPUT [INPUT ...] [-o FILE_OR_DIR] [options]
       deconv-jax restore --workdir DIR --workdir DIR --interpolate ALPHA
                          INPUT [INPUT ...] [-o FILE_OR_DIR] [options]
       deconv-jax restore --method NAME --kernel FILE INPUT [INPUT ...] [options]
       deconv-jax restore --method tv|wavelet --noise-sigma SIGMA INPUT [INPUT ...] [options]
       deconv-jax restore --method plug_and_play --kernel FILE --noise-sigma SIGMA
                          (--model NAME | --workdir DIR | --weights FILE
                          [--denoiser-sigma SIGMA]) ... INPUT [INPUT ...] [options]
       deconv-jax restore --method generative_prior (--model NAME | --workdir DIR)
                          [--mask FILE] INPUT [INPUT ...] [options]"""


@dataclasses.dataclass(frozen=True)
class Network:
    """A trained network on the command line.

    Attributes:
      flag: "--model", "--workdir" or "--weights".
      value: Name of a model, workdir of a run, or path of a weights file.
    """

    flag: str
    value: str


def add_restore_parser(commands: Any, run: Callable[..., int]) -> None:
    """Add the parser of `restore`, whose command calls `run` with the parsed arguments."""
    restore = add_parser(commands, "restore", _RESTORE, usage=_USAGE)
    add_inputs(restore)
    add_output(
        restore,
        "FILE_OR_DIR",
        "write the results to this folder, or the only result to this file if it has the extension of "
        "an image or video (default: NAME.restored.EXT beside each input)",
        required=False,
    )
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
        "of 1/255 (default for networks: estimated for each image)",
    )
    restore.add_argument(
        "--outscale",
        type=float,
        metavar="FACTOR",
        help="resize the restored image bicubically to this multiple of the input's size; --model sr "
        "without --scale takes the smallest network scale that suffices",
    )
    restore.add_argument(
        "--wrap",
        choices=("x", "y", "xy"),
        help="treat images as periodic horizontally (360-degree panoramas), vertically or both (tileable "
        "textures), so that the result continues across its borders",
    )
    restore.add_argument(
        "--crf",
        type=float,
        metavar="CRF",
        help="encode videos at this constant rate factor of x264, from 0 (lossless) to 51 (default: 18)",
    )
    _add_network_flags(restore.add_argument_group("trained networks"))
    _add_method_flags(restore.add_argument_group("classical methods"))
    _add_evaluation_flags(restore.add_argument_group("evaluation"))
    restore.set_defaults(run=run)


def _add_network_flags(group: Any) -> None:
    group.add_argument(
        "--model",
        type=lambda name: Network("--model", name),
        action="append",
        dest="networks",
        default=[],
        metavar="NAME",
        help="use this named model: photo (default), denoise, jpeg, sr, ...",
    )
    group.add_argument(
        "--workdir",
        type=lambda path: Network("--workdir", path),
        action="append",
        dest="networks",
        metavar="DIR",
        help="use the model of this run (restoration); may be repeated for plug_and_play and --interpolate",
    )
    add_checkpoint(group)
    group.add_argument(
        "--weights",
        type=lambda path: Network("--weights", path),
        action="append",
        dest="networks",
        metavar="FILE",
        help="use these published weights (.pth, .pt or .safetensors); may be repeated for "
        "plug_and_play",
    )
    group.add_argument(
        "--interpolate",
        type=float,
        metavar="ALPHA",
        help="blend the weights of two networks of the same architecture: 0 gives the first one, 1 the "
        "second, such as one trained for PSNR and one with an adversary",
    )
    group.add_argument(
        "--scale",
        type=int,
        metavar="N",
        help="choose the upscaling factor of --model sr (default: 2), or state that of --weights that "
        "do not determine it",
    )
    group.add_argument(
        "--strength",
        type=float,
        metavar="FACTOR",
        help="multiply the noise level that the network gets (default: 1); 0 keeps most of the noise, but not the "
        "JPEG artifacts that a model such as photo removes. A network without a noise level is blended with "
        "the input: 0 gives the input",
    )
    group.add_argument(
        "--alpha",
        choices=("bicubic", "network"),
        help="enlarge transparency bicubically, or restore it like a gray image (default: bicubic)",
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
        help="restore in tiles of this side length, with the same result, or nearly so for RRDBNet "
        "(default: as large as free memory allows); one tile size for images of many sizes avoids "
        "recompilation",
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
        help="use this method: wiener, richardson_lucy, tv, plug_and_play, generative_prior, ...",
    )
    group.add_argument(
        "--kernel",
        type=Path,
        metavar="FILE",
        help="undo this blur: the point-spread function, centered, as an image (bright on black) or "
        "a .npy array; normalized to sum 1",
    )
    group.add_argument(
        "--mask",
        type=Path,
        metavar="FILE",
        help="fill the pixels that are white in this image, which has the size of the inputs",
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
