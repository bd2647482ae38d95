"""`deconv-jax compress` and `deconv-jax decompress`: flags to files of a trained codec."""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from deconv_jax.cli.common import (
    EXIT_SOME_FAILED,
    checkpoint_step,
    keep_compiled,
    report_left_out,
)
from deconv_jax.errors import InputError

_COMPRESS = """\
write images as files of a trained codec

  deconv-jax compress --checkpoint runs/codec photo.png -o photo.djx
  deconv-jax compress --checkpoint runs/codec photos/ more/*.png -o small/ --level 0

An input is a file, a folder (with what is in it and below, its structure kept) or a pattern. What is coded
are pixels of 8 bits, with what is transparent laid on white; colour profiles and EXIF data are left out. Each
file is decoded again for its PSNR against those pixels. A file is read by the checkpoint that wrote it: keep
the run, its folder codec/ included. What cannot be read among several files, or has several pages or frames,
is left out, and the exit code then is 1; files of other formats in a folder, hidden ones and links to
folders are counted and named at the end.
"""
_DECOMPRESS = """\
read images from files of a trained codec

  deconv-jax decompress --checkpoint runs/codec photo.djx -o photo.png
  deconv-jax decompress --checkpoint runs/codec small/ -o decoded/

An input is a file, a folder (with what is in it and below, its structure kept) or a pattern. The
ending of a single output says its format; PNG keeps the pixels as they are. What cannot be read among several
files is left out, and the exit code then is 1.
"""
_MOST_BYTES_A_PIXEL = 6
"""Of a file that is read at all: twice what the pixels themselves take."""


def add_commands(commands: Any) -> None:
    """Adds their parsers to the subparsers of the command line."""
    for name, run, description in (
        ("compress", _compress, _COMPRESS),
        ("decompress", _decompress, _DECOMPRESS),
    ):
        parser = commands.add_parser(
            name,
            help=description.splitlines()[0],
            description=description,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        parser.add_argument(
            "--checkpoint",
            required=True,
            type=Path,
            metavar="RUN",
            help="workdir of a run of compression",
        )
        parser.add_argument(
            "--step", default="last", metavar="last|best|STEP", help="which of its checkpoints"
        )
        parser.add_argument("inputs", nargs="+", metavar="INPUT", help="what to read")
        parser.add_argument(
            "-o",
            "--output",
            required=True,
            type=Path,
            metavar="FILE_OR_DIR",
            help="the file to write, or a folder: for several, or without an ending",
        )
        parser.add_argument("--overwrite", action="store_true", help="replace files that are there")
        if run is _compress:
            parser.add_argument(
                "--level",
                type=int,
                metavar="N",
                help="of quality, 0 for the smallest files (default: the one in the middle)",
            )
        parser.set_defaults(run=run)


def _compress(arguments: argparse.Namespace) -> int:
    import numpy as np

    from deconv_jax.data.images import FORMATS
    from deconv_jax.inference.compression.codec import SUFFIX
    from deconv_jax.inference.image_files import expand_inputs

    found = expand_inputs(arguments.inputs, tuple(FORMATS))
    jobs = _jobs(found, arguments.output, SUFFIX, arguments.overwrite)
    codec = _codec(arguments)
    levels = codec.model.levels
    level = levels // 2 if arguments.level is None else arguments.level

    def work(source: Path, output: Path) -> str:
        from deconv_jax.data.images import read_8bit
        from deconv_jax.io import write_atomically
        from deconv_jax.metrics.image import psnr_from_mse

        image, lost = read_8bit(source, max_pixels=codec.max_pixels)
        data = _of(source, codec.compress, image, level)
        error = image.astype(np.int16) - _of(source, codec.decompress, data)
        psnr = psnr_from_mse(np.mean(np.square(error, dtype=np.int32)) / 255.0**2)
        write_atomically(output, lambda file: file.write(data))
        words = f" ({', '.join(lost)})" if lost else ""
        rate = 8 * len(data) / (image.shape[0] * image.shape[1])
        return f"{len(data):,} bytes, {rate:.3f} bits a pixel, PSNR {psnr:.2f} dB{words}"

    return _each("compress", found, jobs, work)


def _decompress(arguments: argparse.Namespace) -> int:
    from deconv_jax.inference.compression.codec import SUFFIX
    from deconv_jax.inference.image_files import expand_inputs

    found = expand_inputs(arguments.inputs, (SUFFIX,))
    jobs = _jobs(found, arguments.output, ".png", arguments.overwrite)
    codec = _codec(arguments)

    def work(source: Path, output: Path) -> str:
        from deconv_jax.data.images import write_image

        image = _of(source, codec.decompress, _read(source, codec.max_pixels))
        write_image(output, image)
        height, width, channels = image.shape
        return f"{width} x {height} pixels, {'gray' if channels == 1 else 'RGB'}"

    return _each("decompress", found, jobs, work)


def _codec(arguments: argparse.Namespace) -> Any:
    keep_compiled()
    from deconv_jax.inference.compression.load import load_codec

    return load_codec(arguments.checkpoint, checkpoint_step(arguments.step))[1]


def _jobs(found: Any, output: Path, suffix: str, overwrite: bool) -> list[tuple[Path, Path]]:
    """What is read and what is written of it.

    Raises:
      InputError: two outputs of one name, one that is there already, or an input in its place.
    """
    from deconv_jax.io import check_unused, kind_of

    kind, count = kind_of(output), len(found.files)
    folder = count > 1 or kind == "folder" or not output.suffix
    if folder and kind not in ("folder", None):
        raise InputError(f"--output {output} must be a folder for {count} files")
    jobs = [
        (path, (output / place).with_suffix(suffix) if folder else output)
        for path, place in found.files
    ]
    written: dict[str, Path] = {}
    sources = {os.path.realpath(source) for source, _ in jobs}
    for source, target in jobs:
        other = written.setdefault(os.path.realpath(target), source)
        if other != source:
            raise InputError(f"{other} and {source} would both be written to {target}")
        if os.path.realpath(target) in sources:
            raise InputError(f"{target} is an input; wanted is another --output")
        check_unused(target, overwrite=overwrite)
    return jobs


def _each(
    verb: str, found: Any, jobs: Sequence[tuple[Path, Path]], work: Callable[[Path, Path], str]
) -> int:
    """Does all files, whatever becomes of one; a line for each, and for what was left out."""
    from deconv_jax.inference.progress import Progress

    failed = 0
    with Progress(verb, len(jobs)) as bar:
        for done, (source, output) in enumerate(jobs, 1):
            try:
                bar.write(f"{source} -> {output}: {work(source, output)}")
            except InputError as error:
                if len(jobs) == 1 and not found.left_out:
                    raise
                failed += 1
                bar.write(f"deconv-jax: error: {error}", file=sys.stderr)
            bar.show(done)
    if failed:
        print(f"deconv-jax: {failed} of {len(jobs)} files were left out", file=sys.stderr)
    return report_left_out(found) or (EXIT_SOME_FAILED if failed else 0)


def _of(source: Path, work: Callable[..., Any], *arguments: Any) -> Any:
    """What the codec makes of a file's content, of whose name it knows nothing; errors say it."""
    try:
        return work(*arguments)
    except InputError as error:
        raise InputError(f"{source}: {error}") from error


def _read(path: Path, max_pixels: int) -> bytes:
    """A file's bytes, not more than one that can be decoded has."""
    from deconv_jax.io import open_regular

    limit = _MOST_BYTES_A_PIXEL * max_pixels
    try:
        with open_regular(path) as file:
            data = file.read(limit + 1)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    if len(data) > limit:
        raise InputError(f"{path} has more than {limit:,} bytes: no file of a codec has")
    return data
