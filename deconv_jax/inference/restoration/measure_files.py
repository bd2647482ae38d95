"""Image files measured against references of the same name."""

import collections
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from deconv_jax.data.images import read_image
from deconv_jax.errors import InputError
from deconv_jax.inference.memory import catch_out_of_memory
from deconv_jax.inference.restoration.measurement import measure_image
from deconv_jax.metrics.protocol import EvaluationProtocol, ImageScore

METRICS = ("psnr", "ssim", "ms_ssim")

MS_SSIM_PROTOCOL = (
    "MS-SSIM with five scales, of images of at least 176 x 176 pixels without the border"
)


class FilePair(NamedTuple):
    """An image and its reference.

    Attributes:
      name: Path relative to both folders, without suffix; for two files, the name of the image.
      image: Image to measure.
      reference: Image to compare with.
    """

    name: str
    image: Path
    reference: Path


class MatchedFiles(NamedTuple):
    """The pairs of two folders, and the files without a partner.

    Attributes:
      pairs: Pairs in the order of their names.
      unmatched: One line for each name with no or several files in one of the folders.
    """

    pairs: list[FilePair]
    unmatched: list[str]


def match_files(
    images: Iterable[tuple[Path, Path]], references: Iterable[tuple[Path, Path]]
) -> MatchedFiles:
    """Match images with references of the same relative path, with any suffix.

    Args:
      images: Files to measure, each with its path relative to its folder.
      references: Files to compare with, in the same form.

    Raises:
      InputError: No file has a partner.
    """
    ours, theirs = _by_name(images), _by_name(references)
    pairs, unmatched = [], []
    for name in sorted({*ours, *theirs}):
        files = ours.get(name, []), theirs.get(name, [])
        if [len(paths) for paths in files] == [1, 1]:
            pairs.append(FilePair(name, files[0][0], files[1][0]))
            continue
        several = next((paths for paths in files if len(paths) > 1), None)
        if several is not None:
            unmatched.append(f"{' and '.join(map(str, several))} have the same name")
        else:
            unmatched.append(
                f"{files[0][0]} has no reference" if files[0] else f"{files[1][0]} has no image"
            )
    if not pairs:
        raise InputError(f"no image has a reference of the same name: {unmatched[0]}")
    return MatchedFiles(pairs, unmatched)


def measure_pair(protocol: EvaluationProtocol, pair: FilePair) -> ImageScore:
    """Return "name", "psnr" in dB, "ssim" and "ms_ssim" of a pair; see `measurement.measure_image`.

    Transparency is not measured.

    Raises:
      InputError: A file cannot be read, or the images differ in size or channels or are too small.
    """
    with catch_out_of_memory(f"{pair.image}: not enough memory"):
        views = [read_image(path).pixels for path in (pair.image, pair.reference)]
        sizes = [f"{view.shape[1]} x {view.shape[0]} pixels" for view in views]
        if sizes[0] != sizes[1]:
            raise InputError(
                f"{pair.image} has {sizes[0]}, but its reference {pair.reference} has {sizes[1]}"
            )
        try:
            return {"name": pair.name} | measure_image(protocol, *views, ms_ssim=True)
        except InputError as error:
            raise InputError(f"{pair.image}: {error}") from error


def mean_scores(rows: Sequence[Mapping[str, Any]]) -> dict[str, float | None]:
    """Return the mean of each metric over the images that have it; None if no image has."""
    means: dict[str, float | None] = {}
    for metric in METRICS:
        values = [row[metric] for row in rows if row[metric] is not None]
        means[metric] = math.fsum(values) / len(values) if values else None
    return means


def format_scores(scores: Mapping[str, Any]) -> str:
    """Return metrics as text, such as "PSNR 30.12 dB  SSIM 0.9012  MS-SSIM 0.9876"; "-" for None."""
    ms_ssim = "-" if scores["ms_ssim"] is None else f"{scores['ms_ssim']:.4f}"
    return f"PSNR {scores['psnr']:.2f} dB  SSIM {scores['ssim']:.4f}  MS-SSIM {ms_ssim}"


def measure_pairs(
    protocol: EvaluationProtocol,
    pairs: Sequence[FilePair],
    on_row: Callable[[ImageScore], None],
    on_error: Callable[[str], None],
    on_progress: Callable[[int], None],
) -> list[ImageScore]:
    """Measure pairs one after another, and return the rows of those that can be measured.

    Args:
      protocol: Protocol of the measurement.
      pairs: Pairs to measure.
      on_row: Function that is called with each row.
      on_error: Function that is called with the message about a pair that cannot be measured.
      on_progress: Function that is called with the number of pairs that are done.
    """
    rows = []
    for done, pair in enumerate(pairs, 1):
        try:
            rows.append(measure_pair(protocol, pair))
        except InputError as error:
            on_error(str(error))
        else:
            on_row(rows[-1])
        on_progress(done)
    return rows


def _by_name(files: Iterable[tuple[Path, Path]]) -> dict[str, list[Path]]:
    found = collections.defaultdict(list)
    for path, relative in files:
        found[relative.with_suffix("").as_posix()].append(path)
    return dict(found)
