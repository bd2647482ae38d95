"""`deconv-jax measure`: image files against references, or two sets of images."""

import argparse
import sys
from pathlib import Path
from typing import Any

from deconv_jax.cli.arguments import add_overwrite, add_parser, refuse_flags, report_skipped
from deconv_jax.cli.exit_codes import EXIT_SOME_FAILED
from deconv_jax.cli.process import enable_compilation_cache
from deconv_jax.errors import InputError, escape_unprintable

_MEASURE = """\
measure images against references, or compare two sets of images

  deconv-jax measure restored.png original.png
  deconv-jax measure restored/ originals/ --y-channel --border 4 --json scores.json
  deconv-jax measure samples/ images/ --extractor inception

Prints PSNR, SSIM and MS-SSIM of each image and their means, with the protocol. Files of two folders
are matched by their relative path without the extension. Images of a pair must have the same size.
Transparency is not measured. MS-SSIM has five scales and needs 176 x 176 pixels. Files without a
partner and pairs that cannot be measured are listed; the exit code is then 1.

With --extractor, the two folders are compared as sets, the second one with the real images: Frechet
distance, kernel distance (KID), precision, recall, density and coverage. The values depend on the
extractor and on the number of images, which are printed with them.

In JSON, infinity is null: the PSNR of equal images, and means over it.
"""


def add_commands(commands: Any) -> None:
    """Add the parser of `measure`."""
    measure = add_parser(commands, "measure", _MEASURE)
    measure.add_argument("images", type=Path, metavar="A", help="measure this image or folder")
    measure.add_argument(
        "references", type=Path, metavar="B", help="compare with this image or folder"
    )
    measure.add_argument(
        "--border",
        type=int,
        metavar="PIXELS",
        help="crop this border before evaluating (default: 0)",
    )
    measure.add_argument(
        "--y-channel",
        action="store_true",
        default=None,
        help="evaluate Y of BT.601 instead of RGB",
    )
    measure.add_argument(
        "--extractor",
        metavar="NAME",
        help="compare two folders as sets, by the features of this extractor: inception, "
        "inception-clean, digits, mnist, fashion or pixels",
    )
    measure.add_argument(
        "--json",
        metavar="FILE|-",
        help="write all figures to this file as JSON; - prints them instead of the lines",
    )
    add_overwrite(measure)
    measure.set_defaults(run=_measure)


def _measure(arguments: argparse.Namespace) -> int:
    enable_compilation_cache()
    from deconv_jax.inference.image_files import expand_inputs
    from deconv_jax.io import check_output_path, kind_of, to_json, write_text

    paths = arguments.images, arguments.references
    if arguments.json not in (None, "-"):
        check_output_path(Path(arguments.json), overwrite=arguments.overwrite)
    kinds = [kind_of(path) for path in paths]
    for path, kind in zip(paths, kinds, strict=True):
        if kind is None:
            raise InputError(f"{path} does not exist")
    folders = [kind == "folder" for kind in kinds]
    if folders[0] != folders[1]:
        raise InputError(f"give two files or two folders; got {paths[0]} and {paths[1]}")
    if arguments.extractor is not None:
        refuse_flags(arguments, ("--border", "--y-channel"), "--extractor")
        if not folders[0]:
            raise InputError(f"--extractor compares two folders; got {paths[0]} and {paths[1]}")
    found = [expand_inputs([str(path)]) for path in paths]
    measure = _measure_pairs if arguments.extractor is None else _measure_sets
    figures, failed = measure(arguments, *found)
    for files in found:
        failed += report_skipped(files)
    if arguments.json == "-":
        print(to_json(figures, indent=2), end="")
    elif arguments.json is not None:
        write_text(Path(arguments.json), to_json(figures, indent=2))
    return EXIT_SOME_FAILED if failed else 0


def _measure_pairs(
    arguments: argparse.Namespace, images: Any, references: Any
) -> tuple[dict[str, Any], int]:
    """Print a line for each pair and the mean; return all figures and the number of failures."""
    from deconv_jax.data.images.samples import pluralize
    from deconv_jax.inference.progress import ProgressBar
    from deconv_jax.inference.restoration.measure_files import (
        MS_SSIM_PROTOCOL,
        FilePair,
        format_scores,
        match_files,
        mean_scores,
        measure_pairs,
    )
    from deconv_jax.metrics.protocol import EvaluationProtocol

    protocol = EvaluationProtocol(
        color="y" if arguments.y_channel else "rgb", border=arguments.border or 0
    )
    if arguments.images.is_dir():
        pairs, unmatched = match_files(images.files, references.files)
    else:
        pairs = [FilePair(arguments.images.name, arguments.images, arguments.references)]
        unmatched = []
    errors: list[str] = []
    quiet = arguments.json == "-"
    with ProgressBar("measure", len(pairs)) as bar:

        def show(row: dict[str, Any]) -> None:
            if not quiet:
                bar.write(f"{row['name']}  {format_scores(row)}")

        def report(message: str) -> None:
            errors.append(message)
            bar.write(f"deconv-jax: error: {message}", file=sys.stderr)

        rows = measure_pairs(protocol, pairs, show, report, bar.show)
    if unmatched:
        lines = "\n  ".join(map(escape_unprintable, unmatched))
        files = pluralize(len(unmatched), "file")
        print(f"deconv-jax: {files} not matched:\n  {lines}", file=sys.stderr)
    if errors:
        print(f"deconv-jax: {len(errors)} of {len(pairs)} pairs were not measured", file=sys.stderr)
    described = f"{protocol.describe()}; {MS_SSIM_PROTOCOL}"
    means = mean_scores(rows)
    if rows and not quiet:
        if len(pairs) > 1:
            print(f"mean of {len(rows)}  {format_scores(means)}")
        print(described)
    figures = {
        "protocol": described,
        "images": rows,
        "mean": means,
        "unmatched": unmatched,
        "errors": errors,
    }
    return figures, len(unmatched) + len(errors)


def _measure_sets(
    arguments: argparse.Namespace, images: Any, references: Any
) -> tuple[dict[str, Any], int]:
    """Print the metrics of two sets; return all figures and the number of files that failed."""
    from deconv_jax.inference.generation.measure_sets import (
        compare_sets,
        describe_protocol,
        extract_features,
    )
    from deconv_jax.inference.progress import ProgressBar
    from deconv_jax.models.extractors import load_extractor

    extractor = load_extractor(arguments.extractor)
    errors: list[str] = []
    done = 0
    with ProgressBar("measure", len(images.files) + len(references.files)) as bar:

        def report(message: str) -> None:
            errors.append(message)
            bar.write(f"deconv-jax: error: {message}", file=sys.stderr)

        def advance() -> None:
            nonlocal done
            done += 1
            bar.show(done)

        sets = [
            extract_features(extractor, [path for path, _ in found.files], advance, report)
            for found in (images, references)
        ]
    metrics = compare_sets(extractor, *sets)
    counts = {
        str(path): len(features.features)
        for path, features in zip((arguments.images, arguments.references), sets, strict=True)
    }
    described = describe_protocol(extractor)
    if arguments.json != "-":
        for name, value in metrics.items():
            print(f"{name}  {value:.4f}")
        for path, count in counts.items():
            print(escape_unprintable(f"{count} images in {path}"))
        print(described)
    figures = {
        "extractor": extractor.name,
        "protocol": described,
        "counts": list(counts.values()),
        "metrics": metrics,
        "errors": errors,
    }
    return figures, len(errors)
