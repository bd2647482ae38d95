"""`deconv-jax compress` and `deconv-jax decompress`: image files through a trained codec."""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from deconv_jax.cli.arguments import (
    add_inputs,
    add_model,
    add_output,
    add_parser,
    open_model,
    report_skipped,
)
from deconv_jax.cli.exit_codes import EXIT_SOME_FAILED
from deconv_jax.cli.process import enable_compilation_cache
from deconv_jax.errors import InputError

_COMPRESS = """\
compress images with a trained codec

  deconv-jax compress photo.png
  deconv-jax compress photos/ more/*.png -o small/ --level 0
  deconv-jax compress --workdir runs/codec photo.png -o photo.djx

Folders are searched recursively, and the output keeps their structure. Pixels are coded with 8
bits per sample. Transparent pixels are blended with white; color profiles and EXIF data are
dropped. Each file is decoded again to print its PSNR against those pixels. Only the model that
wrote a file can decode it: a named model, or a checkpoint of a run with its folder codec/, so keep
the run. Without --output, NAME.djx is written beside each input. Among several inputs, a file that
cannot be read, or has several pages or frames, is reported and the others are processed; the exit
code is then 1. Folders may also hold files of other formats, hidden files and links to folders:
these are skipped and listed at the end.
"""
_DECOMPRESS = """\
decompress files of a trained codec

  deconv-jax decompress photo.djx
  deconv-jax decompress small/ -o decoded/
  deconv-jax decompress --workdir runs/codec photo.djx -o photo.png

Folders are searched recursively, and the output keeps their structure. The extension of a single
output selects its format; PNG is lossless. Without --output, NAME.decompressed.png is written
beside each input. Among several inputs, a file that cannot be read is reported and the others are
processed; the exit code is then 1.
"""
_DEFAULT = "codec"
"""Named model without --model and --workdir."""
_DECOMPRESSED = ".decompressed.png"
"""End of the names of decompressed files without --output; NAME.png may be the original."""
_MAX_BYTES_PER_PIXEL = 6
"""Largest compressed file that is read, per pixel: twice the size of the raw pixels."""


def add_commands(commands: Any) -> None:
    """Add the parsers of `compress` and `decompress`."""
    for name, run, description, suffix in (
        ("compress", _compress, _COMPRESS, ".djx"),
        ("decompress", _decompress, _DECOMPRESS, _DECOMPRESSED),
    ):
        parser = add_parser(commands, name, description)
        add_model(parser, "compression", default=_DEFAULT)
        add_inputs(parser)
        add_output(
            parser,
            "FILE_OR_DIR",
            "write to this file, or to this folder if there are several inputs or it has no extension "
            f"(default: NAME{suffix} beside each input)",
            required=False,
        )
        if run is _compress:
            parser.add_argument(
                "--level",
                type=int,
                metavar="N",
                help="compress at this quality level; 0 gives the smallest files (the model codec has 0 to "
                "5; default: the middle level)",
            )
        parser.set_defaults(run=run)


def _compress(arguments: argparse.Namespace) -> int:
    import numpy as np

    from deconv_jax.data.images import FORMATS
    from deconv_jax.inference.compression.codec import SUFFIX
    from deconv_jax.inference.image_files import expand_inputs

    found = expand_inputs(arguments.inputs, tuple(FORMATS))
    jobs = _plan(found, arguments.output, SUFFIX, arguments.overwrite)
    codec = _load_codec(arguments)
    levels = codec.model.levels
    level = levels // 2 if arguments.level is None else arguments.level

    def process(source: Path, output: Path) -> str:
        from deconv_jax.data.images import read_8bit
        from deconv_jax.io import write_atomically
        from deconv_jax.metrics.image import psnr_from_mse

        image, conversions = read_8bit(source, max_pixels=codec.max_pixels)
        data = _naming(source, codec.compress, image, level)
        error = image.astype(np.int16) - _naming(source, codec.decompress, data)
        psnr = psnr_from_mse(np.mean(np.square(error, dtype=np.int32)) / 255.0**2)
        write_atomically(output, lambda file: file.write(data))
        larger = ["larger than its source"] if len(data) > source.stat().st_size else []
        remarks = ", ".join([*conversions, *larger])
        notes = f" ({remarks})" if remarks else ""
        rate = 8 * len(data) / (image.shape[0] * image.shape[1])
        return f"{len(data):,} bytes, {rate:.3f} bits/pixel, PSNR {psnr:.2f} dB{notes}"

    return _process_each("compress", found, jobs, process)


def _decompress(arguments: argparse.Namespace) -> int:
    from deconv_jax.inference.compression.codec import SUFFIX
    from deconv_jax.inference.image_files import expand_inputs

    found = expand_inputs(arguments.inputs, (SUFFIX,))
    suffix = ".png" if arguments.output else _DECOMPRESSED
    jobs = _plan(found, arguments.output, suffix, arguments.overwrite)
    codec = _load_codec(arguments)

    def process(source: Path, output: Path) -> str:
        from deconv_jax.data.images import write_image

        image = _naming(source, codec.decompress, _read(source, codec.max_pixels))
        write_image(output, image)
        height, width, channels = image.shape
        return f"{width} x {height} pixels, {'gray' if channels == 1 else 'RGB'}"

    return _process_each("decompress", found, jobs, process)


def _load_codec(arguments: argparse.Namespace) -> Any:
    enable_compilation_cache()
    from deconv_jax.inference.compression.load import load_codec

    return load_codec(*open_model(arguments))[1]


def _plan(found: Any, output: Path | None, suffix: str, overwrite: bool) -> list[tuple[Path, Path]]:
    """Return the source and the output of each file, beside the source without an output.

    Raises:
      InputError: Two outputs have the same path, or an output exists or is an input.
    """
    from deconv_jax.io import check_output_path, kind_of

    if output is None:
        jobs = [(path, path.with_suffix(suffix)) for path, _ in found.files]
    else:
        kind, count = kind_of(output), len(found.files)
        folder = count > 1 or kind == "folder" or not output.suffix
        if folder and kind not in ("folder", None):
            raise InputError(f"--output must be a folder for {count} files; got {output}")
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
            raise InputError(f"{target} is an input; give another --output")
        check_output_path(target, overwrite=overwrite)
    return jobs


def _process_each(
    verb: str, found: Any, jobs: Sequence[tuple[Path, Path]], process: Callable[[Path, Path], str]
) -> int:
    """Process all files, print a line for each, and return the exit code.

    An error is printed and the next file is processed; the error of a single input is raised.
    """
    from deconv_jax.inference.progress import ProgressBar

    failed = 0
    with ProgressBar(verb, len(jobs)) as bar:
        for done, (source, output) in enumerate(jobs, 1):
            try:
                bar.write(f"{source} -> {output}: {process(source, output)}")
            except InputError as error:
                if len(jobs) == 1 and not found.skipped:
                    raise
                failed += 1
                bar.write(f"deconv-jax: error: {error}", file=sys.stderr)
            bar.show(done)
    if failed:
        print(f"deconv-jax: {failed} of {len(jobs)} files failed", file=sys.stderr)
    return report_skipped(found) or (EXIT_SOME_FAILED if failed else 0)


def _naming(source: Path, function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function of the codec, and prefix its errors with the name of the file."""
    try:
        return function(*arguments)
    except InputError as error:
        raise InputError(f"{source}: {error}") from error


def _read(path: Path, max_pixels: int) -> bytes:
    """Return the bytes of a file that is not too large to be decoded."""
    from deconv_jax.io import open_regular

    limit = _MAX_BYTES_PER_PIXEL * max_pixels
    try:
        with open_regular(path) as file:
            data = file.read(limit + 1)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    if len(data) > limit:
        raise InputError(f"{path} is not a codec file: it is larger than {limit:,} bytes")
    return data
