"""`deconv-jax generate`: flags to images of a trained GAN or VAE."""

import argparse
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from deconv_jax.cli.common import check_folder, checkpoint_step, keep_compiled
from deconv_jax.errors import InputError, at_least, printable

_SAMPLES, _WALK_STEPS, _TRAVERSAL_STEPS = 64, 16, 9
_GENERATE = """\
draw images of a trained GAN or VAE

  deconv-jax generate --checkpoint runs/gan --output samples.png --num 64
  deconv-jax generate --checkpoint runs/gan --output threes.png --class 3 --truncation 1.5
  deconv-jax generate --checkpoint runs/gan --output walk.gif --class 3 --interpolate 8 --scale 4
  deconv-jax generate --checkpoint runs/vae --output traversals.png --traverse 8
  deconv-jax generate --checkpoint runs/gan --individual samples/ --num 10000

The same seed gives the same images, on any number of devices. A walk goes along great circles from
one random latent to the next and back to the first: as an animation (.gif, .webp), or as a strip, a
row for each latent (.png). A traversal takes one number of a random latent from -3 to 3 in each row
and leaves the others: first the number that changes images most. Both are of one class where the
run has classes.
"""


_NOT_OF_TRAVERSALS = {
    "num": "it has its steps' number of images in each row",
    "interpolate": "it is no walk",
    "truncation": "it goes from -3 to 3",
    "columns": "a row has its steps; give --steps",
}


def add_commands(commands: Any) -> None:
    """Adds its parser to the subparsers of the command line."""
    generate = commands.add_parser(
        "generate",
        help="draw images of a trained GAN or VAE",
        description=_GENERATE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    generate.add_argument(
        "--checkpoint",
        required=True,
        type=Path,
        metavar="RUN",
        help="workdir of a run of synthesis or variational autoencoding",
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
    generate.add_argument(
        "--num",
        type=int,
        metavar="N",
        help=f"samples (default: {_SAMPLES}, of a conditional generator whole rows of about as many)",
    )
    generate.add_argument("--seed", type=int, default=0, metavar="N", help="(default: 0)")
    generate.add_argument(
        "--class",
        dest="label",
        type=int,
        metavar="K",
        help="of a conditional generator (default: all in turn; walks and traversals need one)",
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
        "--traverse",
        type=int,
        metavar="N",
        help="move one number of a latent at a time, the N that change images most",
    )
    generate.add_argument(
        "--steps",
        type=int,
        metavar="N",
        help=f"of a walk, from a latent to the next (default: {_WALK_STEPS}); of a traversal, in a "
        f"row (default: {_TRAVERSAL_STEPS})",
    )
    generate.add_argument(
        "--columns",
        type=int,
        metavar="N",
        help="samples beside one another (default: a square; of a conditional generator a column a class)",
    )
    generate.add_argument(
        "--scale", type=int, default=1, metavar="N", help="draw a pixel as N x N (default: 1)"
    )
    generate.set_defaults(run=_generate)


def _generate(arguments: argparse.Namespace) -> int:
    _check(arguments)
    keep_compiled()
    from deconv_jax.inference.generation import sampling as work
    from deconv_jax.inference.generation.load import load_generator

    task, variables = load_generator(arguments.checkpoint, checkpoint_step(arguments.step))
    classes = task.num_classes if arguments.label is None else 0
    latents, count, columns = _drawn(arguments, task.latent_dim, classes)
    walks, traverses = arguments.interpolate is not None, arguments.traverse is not None
    labels = _labels(arguments.label, task.num_classes, count, walks or traverses)
    animates = _animates(arguments)
    if arguments.output:
        work.check_picture(
            arguments.output,
            work.STILL_FORMATS | (work.ANIMATION_FORMATS if walks else {}),
            count,
            columns,
            task.image_shape[:2],
            arguments.scale,
            animates=animates,
        )
    if traverses:
        ranked = work.rank_dimensions(task.sample, variables, task.latent_dim, arguments.label)
        shown = ranked[: arguments.traverse]
        latents = work.traversal(latents[0], shown, columns)
        print(f"rows: latents {', '.join(map(str, shown))}")
    batches = work.generate(task.sample, variables, latents, labels)
    _write(arguments, batches, len(latents), columns, animates)
    for written in filter(None, (arguments.output, arguments.individual)):
        print(printable(f"written: {written}"))
    return 0


def _drawn(arguments: argparse.Namespace, latent_dim: int, classes: int) -> tuple[Any, int, int]:
    """Latents, how many images there will be, and how many beside one another.

    The latents are those of the images, or the one that a traversal is about: what is to be moved
    is known once images have been made, and none are before all flags are checked. Samples of all
    `classes` in turn, 0 for none, have a column for each, unless those are too many.
    """
    from deconv_jax.inference.generation import sampling as work

    def draw(count: int) -> Any:
        return work.latents_from_seed(
            count, latent_dim, seed=arguments.seed, truncation=arguments.truncation
        )

    if arguments.traverse is not None:
        if not 1 <= arguments.traverse <= latent_dim:
            raise InputError(
                f"--traverse must be from 1 to {latent_dim}, the numbers of a latent of this run; "
                f"got {arguments.traverse}"
            )
        steps = _default(arguments.steps, _TRAVERSAL_STEPS)
        at_least("steps", steps, 2)
        return draw(1), arguments.traverse * steps, steps
    if arguments.interpolate is not None:
        steps = _default(arguments.steps, _WALK_STEPS)
        latents, columns = work.walk(draw(arguments.interpolate), steps), steps
    else:
        in_columns = 0 < classes <= _SAMPLES
        default = _SAMPLES // classes * classes if in_columns else _SAMPLES
        latents = draw(_default(arguments.num, default))
        columns = classes if in_columns else math.ceil(len(latents) ** 0.5)
    return latents, len(latents), min(_default(arguments.columns, columns), len(latents))


def _write(
    arguments: argparse.Namespace,
    batches: Iterable[Any],
    count: int,
    columns: int,
    animates: bool,
) -> None:
    """Batches of `count` images in all to the files that are asked for."""
    import numpy as np

    from deconv_jax.inference.generation import sampling as work
    from deconv_jax.inference.progress import Progress

    kept: list[Any] = []
    done = 0
    with Progress("generate", count) as bar:
        for images in batches:
            if arguments.individual:
                work.write_each(arguments.individual, done, images, arguments.scale)
            if arguments.output:
                kept.append(images)
            done += len(images)
            bar.show(done)
    if animates:
        work.write_animation(arguments.output, np.concatenate(kept), arguments.scale)
    elif arguments.output:
        work.write_picture(arguments.output, np.concatenate(kept), columns, arguments.scale)


def _default(value: int | None, otherwise: int) -> int:
    return otherwise if value is None else value


def _check(arguments: argparse.Namespace) -> None:
    """Raises InputError for flags that do not go together, or files that would be lost."""
    from deconv_jax.io import check_unused

    output, folder = arguments.output, arguments.individual
    if output is None and folder is None:
        raise InputError("generate needs --output FILE or --individual DIR")
    walks, traverses = arguments.interpolate is not None, arguments.traverse is not None
    if arguments.steps is not None and not (walks or traverses):
        raise InputError("--steps is of a walk or traversal: give --interpolate or --traverse")
    if walks and arguments.num is not None:
        raise InputError(
            "--num and --interpolate do not go together: a walk has its latents' number"
        )
    if traverses:
        for flag, why in _NOT_OF_TRAVERSALS.items():
            if getattr(arguments, flag) is not None:
                raise InputError(f"--{flag} and --traverse do not go together: {why}")
    if arguments.columns is not None:
        at_least("columns", arguments.columns, 1)
    at_least("scale", arguments.scale, 1)
    check_folder("--individual", folder, overwrite=arguments.overwrite)
    if output is not None:
        check_unused(output, overwrite=arguments.overwrite)


def _animates(arguments: argparse.Namespace) -> bool:
    """Whether images come one after the other; raises InputError where they cannot."""
    from deconv_jax.inference.generation.sampling import ANIMATION_FORMATS, STILL_FORMATS

    suffix = arguments.output.suffix.lower() if arguments.output else ""
    if arguments.interpolate is None:
        if suffix in ANIMATION_FORMATS and suffix not in STILL_FORMATS:
            raise InputError(f"{arguments.output}: an animation is of a walk: give --interpolate")
        return False
    if suffix in ANIMATION_FORMATS and arguments.columns is not None:
        raise InputError("--columns is of a picture: an animation shows one image after the other")
    return suffix in ANIMATION_FORMATS


def _labels(label: int | None, classes: int, count: int, one_class: bool) -> Any:
    """The class of every sample, or None for a generator without classes."""
    import numpy as np

    if not classes:
        if label is not None:
            raise InputError(f"--class={label}: this generator was trained without classes")
        return None
    if label is not None and not 0 <= label < classes:
        raise InputError(f"--class must be from 0 to {classes - 1}; got {label}")
    if label is None and one_class:
        raise InputError(
            "a walk or traversal of a conditional generator is of one class: give --class"
        )
    return (np.arange(count) % classes if label is None else np.full(count, label)).astype(np.int32)
