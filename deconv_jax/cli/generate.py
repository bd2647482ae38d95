"""`deconv-jax generate`: images of a trained GAN or VAE."""

import argparse
import math
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from deconv_jax.cli.arguments import (
    add_model,
    add_output,
    add_parser,
    check_folder,
    open_model,
    refuse_flags,
)
from deconv_jax.cli.process import enable_compilation_cache
from deconv_jax.errors import InputError, at_least, escape_unprintable

_OUTPUT = "samples.png"
_SAMPLES, _WALK_STEPS, _TRAVERSAL_STEPS = 64, 16, 9
_GENERATE = """\
generate images with a trained GAN or VAE

  deconv-jax generate --model digits-gan
  deconv-jax generate --workdir runs/gan -o samples.png --num 64
  deconv-jax generate --workdir runs/gan -o threes.png --class 3 --truncation 1.5
  deconv-jax generate --workdir runs/gan -o walk.gif --class 3 --walk 8 --scale 4
  deconv-jax generate --workdir runs/vae -o traversals.png --traverse 8
  deconv-jax generate --workdir runs/gan --output-dir samples/ --num 10000
  deconv-jax generate --workdir runs/texture -o wall.png --size 2048x1024 --tileable
  deconv-jax generate --workdir runs/texture -o water.mp4 --size 512x512 --tileable --walk 4

The same seed generates the same images on any number of devices. A walk (--walk) follows great
circles through random latents and back to the first, as an animation (.gif, .webp, or .mp4 with the
extra video) or as a picture with one row per latent (.png). A traversal (--traverse) varies one
dimension of a random latent from -3 to 3 in each row, starting with the dimension that changes the
images most.

The generator of a texture draws at any size (--size), in tiles of bounded memory. Repeated copies
of a tileable texture (--tileable) show no seam; the gradient energy across the borders over that
inside is printed. A blend (--blend) changes from one texture to another.
"""

_TEXTURE_FLAGS = ("size", "tileable", "blend")
_NOT_WITH_TRAVERSE = {
    "num": "--steps sets the number of images in a row",
    "walk": "a traversal is not a walk",
    "truncation": "a traversal covers -3 to 3",
    "columns": "--steps sets the number of images in a row",
}


def add_commands(commands: Any) -> None:
    """Add the parser of `generate`."""
    generate = add_parser(commands, "generate", _GENERATE)
    add_model(generate, "GAN or variational autoencoding")
    add_output(
        generate,
        "FILE",
        f"write one picture, or an animation of a walk, to this file (default: {_OUTPUT}, unless "
        "--output-dir is given)",
        required=False,
    )
    generate.add_argument(
        "--output-dir",
        type=Path,
        metavar="DIR",
        help="write each sample to this folder, as 000000.png and so on",
    )
    generate.add_argument(
        "--num",
        type=int,
        metavar="N",
        help=f"generate this many samples (default: {_SAMPLES}, rounded down to whole rows for a "
        "conditional generator; 1 with --size, --tileable or --blend)",
    )
    generate.add_argument(
        "--seed", type=int, default=0, metavar="N", help="draw latents with this seed (default: 0)"
    )
    generate.add_argument(
        "--class",
        dest="label",
        type=int,
        metavar="N",
        help="generate only this class of a conditional generator (default: all in turn; required "
        "for walks and traversals)",
    )
    generate.add_argument(
        "--truncation",
        type=float,
        metavar="T",
        help="draw latents from a normal distribution truncated to [-T, T], for less diversity; "
        "generators with batch norm give faded samples for T below about 0.8",
    )
    generate.add_argument(
        "--walk",
        type=int,
        metavar="N",
        help="walk through latent space along this many latents",
    )
    generate.add_argument(
        "--traverse",
        type=int,
        metavar="N",
        help="traverse this many latent dimensions, those that change the images most",
    )
    generate.add_argument(
        "--steps",
        type=int,
        metavar="N",
        help=f"take this many steps between latents of a walk (default: {_WALK_STEPS}) or in a row "
        f"of a traversal (default: {_TRAVERSAL_STEPS})",
    )
    generate.add_argument(
        "--columns",
        type=int,
        metavar="N",
        help="arrange samples in this many columns (default: a square; one per class for a "
        "conditional generator)",
    )
    generate.add_argument(
        "--scale",
        type=int,
        default=1,
        metavar="N",
        help="draw each pixel as N x N pixels (default: 1)",
    )
    generate.add_argument(
        "--size",
        metavar="WxH",
        help="draw textures of this width and height (default: those of training)",
    )
    generate.add_argument(
        "--tileable",
        action="store_true",
        default=None,
        help="draw textures whose opposite borders fit together; width and height must be multiples of the "
        "generator's stride, 16 for the model brick",
    )
    generate.add_argument(
        "--blend",
        type=int,
        metavar="SEED",
        help="change each texture from left to right into that of this seed; with --tileable, up to the "
        "middle and back",
    )
    generate.set_defaults(run=_generate)


def _generate(arguments: argparse.Namespace) -> int:
    if arguments.output is None and arguments.output_dir is None:
        arguments.output = Path(_OUTPUT)
    _check_flags(arguments)
    enable_compilation_cache()
    from deconv_jax.inference.generation import pictures, sampling, texture
    from deconv_jax.inference.generation.load import load_generator

    size = _size(arguments.size)
    task, variables = load_generator(*open_model(arguments))
    textures = None
    if _draws_textures(arguments):
        task = textures = texture.texture_task(task, size, tileable=bool(arguments.tileable))
    num_classes = task.num_classes if arguments.label is None else 0
    latents, count, columns = _draw_latents(arguments, task.latent_dim, num_classes)
    walks, traverses = arguments.walk is not None, arguments.traverse is not None
    labels = _labels(arguments.label, task.num_classes, count, walks or traverses)
    animates = _animates(arguments)
    if arguments.output:
        pictures.check_picture(
            arguments.output,
            pictures.STILL_FORMATS | (pictures.ANIMATION_FORMATS if walks else {}),
            count,
            columns,
            task.image_shape[:2],
            arguments.scale,
            animates=animates,
        )
    if traverses:
        ranked = sampling.rank_dimensions(task.sample, variables, task.latent_dim, arguments.label)
        shown = ranked[: arguments.traverse]
        latents = sampling.latent_traversal(latents[0], shown, columns)
        print(f"rows: latents {', '.join(map(str, shown))}")
    if textures is not None:
        other = None
        if arguments.blend is not None:
            blended = argparse.Namespace(**vars(arguments) | {"seed": arguments.blend})
            other, _, _ = _draw_latents(blended, task.latent_dim, num_classes)
        batches = texture.draw_textures(textures, variables, latents, other)
        if arguments.tileable and not walks:
            batches = _print_seams(batches)
    else:
        batches = sampling.generate(task.sample, variables, latents, labels)
    _write(arguments, batches, len(latents), columns, animates)
    for written in filter(None, (arguments.output, arguments.output_dir)):
        print(escape_unprintable(f"written: {written}"))
    return 0


def _draw_latents(
    arguments: argparse.Namespace, latent_dim: int, num_classes: int
) -> tuple[Any, int, int]:
    """Return the latents, the number of images and the number of columns.

    A traversal gets the single latent that it varies: the dimensions to vary are only known after
    images were generated, which happens after all flags are checked.

    Args:
      arguments: Flags of the command.
      latent_dim: Number of latent dimensions.
      num_classes: Number of classes that samples go through in turn, one column each; 0 for none.
    """
    from deconv_jax.inference.generation import sampling

    def draw(count: int) -> Any:
        return sampling.latents_from_seed(
            count, latent_dim, seed=arguments.seed, truncation=arguments.truncation
        )

    if arguments.traverse is not None:
        if not 1 <= arguments.traverse <= latent_dim:
            raise InputError(
                f"--traverse must be from 1 to {latent_dim}, the number of latent dimensions; "
                f"got {arguments.traverse}"
            )
        steps = _default(arguments.steps, _TRAVERSAL_STEPS)
        at_least("--steps", steps, 2)
        return draw(1), arguments.traverse * steps, steps
    if arguments.walk is not None:
        steps = _default(arguments.steps, _WALK_STEPS)
        latents, columns = sampling.latent_walk(draw(arguments.walk), steps), steps
    else:
        by_class = 0 < num_classes <= _SAMPLES
        default = _SAMPLES // num_classes * num_classes if by_class else _SAMPLES
        if _draws_textures(arguments):
            default = 1
        latents = draw(_default(arguments.num, default))
        columns = num_classes if by_class else math.ceil(len(latents) ** 0.5)
    return latents, len(latents), min(_default(arguments.columns, columns), len(latents))


def _write(
    arguments: argparse.Namespace,
    batches: Iterable[Any],
    count: int,
    columns: int,
    animates: bool,
) -> None:
    """Write batches of `count` images in total to the requested files."""
    import numpy as np

    from deconv_jax.inference.generation import pictures
    from deconv_jax.inference.progress import ProgressBar

    kept: list[Any] = []
    done = 0
    with ProgressBar("generate", count) as bar:
        for images in batches:
            if arguments.output_dir:
                pictures.write_each(arguments.output_dir, done, images, arguments.scale)
            if arguments.output:
                kept.append(images)
            done += len(images)
            bar.show(done)
    if animates:
        pictures.write_animation(arguments.output, np.concatenate(kept), arguments.scale)
    elif arguments.output:
        pictures.write_picture(arguments.output, np.concatenate(kept), columns, arguments.scale)


def _draws_textures(arguments: argparse.Namespace) -> bool:
    return any(getattr(arguments, flag) is not None for flag in _TEXTURE_FLAGS)


def _print_seams(batches: Iterable[Any]) -> Iterator[Any]:
    """Yield the batches, and print the seam energy of each image."""
    from deconv_jax.metrics.seams import seam_energy

    for images in batches:
        for image in images:
            across, down = (seam_energy(image, axis) for axis in (1, 0))
            print(
                f"gradient energy at the seam over that inside (1: no visible seam): {across:.3f} in x, {down:.3f} in y"
            )
        yield images


def _size(text: str | None) -> tuple[int, int] | None:
    """Return the height and width of --size."""
    if text is None:
        return None
    match = re.fullmatch(r"([1-9]\d{0,5})x([1-9]\d{0,5})", text)
    if match is None:
        raise InputError(f"--size must be WxH, such as 2048x1024; got {text!r}")
    return int(match[2]), int(match[1])


def _default(value: int | None, default: int) -> int:
    return default if value is None else value


def _check_flags(arguments: argparse.Namespace) -> None:
    """Raise InputError for flags that contradict each other and for outputs that exist."""
    from deconv_jax.io import check_output_path

    output, folder = arguments.output, arguments.output_dir
    walks, traverses = arguments.walk is not None, arguments.traverse is not None
    if arguments.steps is not None and not (walks or traverses):
        raise InputError("--steps requires --walk or --traverse")
    if walks and arguments.num is not None:
        raise InputError("--num cannot be combined with --walk, which sets the number")
    if traverses:
        for flag, why in _NOT_WITH_TRAVERSE.items():
            if getattr(arguments, flag) is not None:
                raise InputError(f"--{flag} cannot be combined with --traverse: {why}")
        refuse_flags(arguments, [f"--{flag}" for flag in _TEXTURE_FLAGS], "--traverse")
    if walks:
        at_least("--walk", arguments.walk, 2)
    if arguments.columns is not None:
        at_least("--columns", arguments.columns, 1)
    at_least("--scale", arguments.scale, 1)
    check_folder("--output-dir", folder, overwrite=arguments.overwrite)
    if output is not None:
        check_output_path(output, overwrite=arguments.overwrite)


def _animates(arguments: argparse.Namespace) -> bool:
    """Return whether to write an animation; raise InputError if the flags do not allow one."""
    from deconv_jax.inference.generation.pictures import ANIMATION_FORMATS, STILL_FORMATS

    suffix = arguments.output.suffix.lower() if arguments.output else ""
    if arguments.walk is None:
        if suffix in ANIMATION_FORMATS and suffix not in STILL_FORMATS:
            raise InputError(f"{arguments.output}: an animation requires --walk")
        return False
    if suffix in ANIMATION_FORMATS and arguments.columns is not None:
        raise InputError(f"--columns cannot be combined with an animation; got {arguments.output}")
    return suffix in ANIMATION_FORMATS


def _labels(label: int | None, num_classes: int, count: int, single_class: bool) -> Any:
    """Return the class of every sample, or None for an unconditional generator."""
    import numpy as np

    if not num_classes:
        if label is not None:
            raise InputError(f"--class requires a conditional generator; got --class {label}")
        return None
    if label is not None and not 0 <= label < num_classes:
        raise InputError(f"--class must be from 0 to {num_classes - 1}; got {label}")
    if label is None and single_class:
        raise InputError("--walk and --traverse require --class for a conditional generator")
    return (np.arange(count) % num_classes if label is None else np.full(count, label)).astype(
        np.int32
    )
