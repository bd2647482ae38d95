"""`deconv-jax generate`: flags to samples of a trained generator."""

import argparse
from pathlib import Path
from typing import Any

from deconv_jax.cli.common import check_folder, checkpoint_step, keep_compiled
from deconv_jax.errors import InputError, at_least

_SAMPLES, _STEPS = 64, 16
_GENERATE = """\
draw samples of a trained generator

  deconv-jax generate --checkpoint runs/gan --output samples.png --num 64
  deconv-jax generate --checkpoint runs/gan --output threes.png --class 3 --truncation 1.5
  deconv-jax generate --checkpoint runs/gan --output walk.gif --class 3 --interpolate 8 --scale 4
  deconv-jax generate --checkpoint runs/gan --individual samples/ --num 10000

The same seed gives the same images, on any number of devices. A walk goes along great circles from
one random latent to the next and back to the first: as an animation (.gif, .webp), or as a strip, a
row for each latent (.png). That of a conditional generator is of one class.
"""


def add_commands(commands: Any) -> None:
    """Adds its parser to the subparsers of the command line."""
    generate = commands.add_parser(
        "generate",
        help="draw samples of a trained generator",
        description=_GENERATE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    generate.add_argument(
        "--checkpoint",
        required=True,
        type=Path,
        metavar="RUN",
        help="workdir of a run of synthesis",
    )
    generate.add_argument(
        "--step", default="last", metavar="last|best|STEP", help="which of its checkpoints"
    )
    generate.add_argument(
        "--output", type=Path, metavar="FILE", help="one picture, or an animation of a walk"
    )
    generate.add_argument(
        "--individual", type=Path, metavar="DIR", help="a PNG a sample: 000000.png and so on"
    )
    generate.add_argument("--overwrite", action="store_true", help="replace files that are there")
    generate.add_argument("--num", type=int, metavar="N", help=f"samples (default: {_SAMPLES})")
    generate.add_argument("--seed", type=int, default=0, metavar="N", help="(default: 0)")
    generate.add_argument(
        "--class",
        dest="label",
        type=int,
        metavar="K",
        help="of a conditional generator (default: all in turn; a walk needs one)",
    )
    generate.add_argument(
        "--truncation",
        type=float,
        metavar="T",
        help="numbers of a latent are drawn from [-T, T]: less diverse images; with batch norm they "
        "fade below some 0.8",
    )
    generate.add_argument(
        "--interpolate", type=int, metavar="N", help="walk through latent space by way of N latents"
    )
    generate.add_argument(
        "--steps",
        type=int,
        metavar="N",
        help=f"of a walk, from a latent to the next (default: {_STEPS})",
    )
    generate.add_argument(
        "--columns", type=int, metavar="N", help="samples beside one another (default: a square)"
    )
    generate.add_argument(
        "--scale", type=int, default=1, metavar="N", help="draw a pixel as N x N (default: 1)"
    )
    generate.set_defaults(run=_generate)


def _generate(arguments: argparse.Namespace) -> int:
    _check(arguments)
    keep_compiled()
    import numpy as np

    from deconv_jax.inference import generate as work
    from deconv_jax.trained import load_generative

    task, variables = load_generative(arguments.checkpoint, checkpoint_step(arguments.step))
    walks = arguments.interpolate is not None
    count = arguments.interpolate if walks else _default(arguments.num, _SAMPLES)
    latents = work.numbered_latents(
        count, task.latent_dim, seed=arguments.seed, truncation=arguments.truncation
    )
    steps = _default(arguments.steps, _STEPS)
    if walks:
        latents = work.walk(latents, steps)
    labels = _labels(arguments.label, task.num_classes, len(latents), walks)
    suffix = arguments.output.suffix.lower() if arguments.output else ""
    animates = walks and suffix in work.ANIMATIONS
    if animates and arguments.columns is not None:
        raise InputError("--columns is of a picture: an animation shows one image after the other")
    if suffix in work.ANIMATIONS and suffix not in work.STILLS and not walks:
        raise InputError(f"{arguments.output}: an animation is of a walk: give --interpolate")
    square = int(np.ceil(len(latents) ** 0.5))
    columns = min(_default(arguments.columns, steps if walks else square), len(latents))
    if arguments.output:
        work.check_picture(
            arguments.output,
            work.STILLS | (work.ANIMATIONS if walks else {}),
            len(latents),
            columns,
            task.image_shape[:2],
            arguments.scale,
            animates=animates,
        )
    kept: list[Any] = []
    done = 0
    for images in work.generate(task.sample, variables, latents, labels):
        if arguments.individual:
            work.write_each(arguments.individual, done, images, arguments.scale)
        if arguments.output:
            kept.append(images)
        done += len(images)
    if arguments.output:
        images = np.concatenate(kept)
        if animates:
            work.write_animation(arguments.output, images, arguments.scale)
        else:
            work.write_picture(arguments.output, images, columns, arguments.scale)
    for written in filter(None, (arguments.output, arguments.individual)):
        print(f"written: {written}")
    return 0


def _default(value: int | None, otherwise: int) -> int:
    return otherwise if value is None else value


def _check(arguments: argparse.Namespace) -> None:
    """Raises InputError for flags that do not go together, or files that would be lost."""
    output, folder = arguments.output, arguments.individual
    if output is None and folder is None:
        raise InputError("generate needs --output FILE or --individual DIR")
    if arguments.interpolate is None:
        if arguments.steps is not None:
            raise InputError("--steps is of a walk: give --interpolate")
    elif arguments.num is not None:
        raise InputError(
            "--num and --interpolate do not go together: a walk has its latents' number"
        )
    if arguments.columns is not None:
        at_least("columns", arguments.columns, 1)
    at_least("scale", arguments.scale, 1)
    check_folder("--individual", folder, overwrite=arguments.overwrite)
    if output is not None and output.exists() and not arguments.overwrite:
        raise InputError(f"{output} is there already; give --overwrite to replace it")


def _labels(label: int | None, classes: int, count: int, walks: bool) -> Any:
    """The class of every sample, or None for a generator without classes."""
    import numpy as np

    if not classes:
        if label is not None:
            raise InputError(f"--class={label}: this generator was trained without classes")
        return None
    if label is not None and not 0 <= label < classes:
        raise InputError(f"--class must be from 0 to {classes - 1}; got {label}")
    if label is None and walks:
        raise InputError("a walk of a conditional generator is of one class: give --class")
    return (np.arange(count) % classes if label is None else np.full(count, label)).astype(np.int32)
