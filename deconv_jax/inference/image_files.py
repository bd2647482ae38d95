"""Which files are read and where results go, decided and checked before any work is done.

A folder stands for the images in it and below, and keeps its structure under the output folder; a
file or a pattern goes right into it. What else is in a folder is left out, and counted by the reason.
Note: mistakes that concern several files (two results of one name, a result
in the place of an input) are found here, before hours of work; what is wrong with one file alone,
such as a missing reference or that it is a pipe, is found when its turn comes, and the others are
still done.
"""

import collections
import dataclasses
import glob
import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float

from deconv_jax.data.images import FORMATS, OTHER_FORMAT, UNREADABLE, list_files, read_image
from deconv_jax.errors import InputError, did_you_mean
from deconv_jax.io import kind_of, open_regular


@dataclasses.dataclass(frozen=True)
class Job:
    """One image to work on.

    Attributes:
      source: the file to read.
      output: the file to write.
      reference: what the result should be, to measure it, whether it is there or not; or None.
      comparison: a picture of input and result to write, or None.
    """

    source: Path
    output: Path
    reference: Path | None = None
    comparison: Path | None = None


@dataclasses.dataclass(frozen=True)
class FoundFiles:
    """Files that inputs stand for.

    Attributes:
      files: each once, where it was found first, and its place below the output folder.
      left_out: what else was found, by the reason; in the order in which it was found.
    """

    files: list[tuple[Path, Path]]
    left_out: Mapping[str, Sequence[str]]

    @property
    def complete(self) -> bool:
        """Whether every folder could be read."""
        return not self.left_out.get(UNREADABLE)

    def summary(self) -> list[str]:
        """A line for each reason: how many files it concerns, and which."""
        lines = []
        for reason, names in self.left_out.items():
            more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
            lines.append(f"left out, {reason} ({len(names)}): {', '.join(names[:_NAMED])}{more}")
        return lines


@dataclasses.dataclass(frozen=True)
class Plan(FoundFiles):
    """The images to work on, and what was left out.

    Attributes:
      jobs: one for each file, in the same order.
    """

    jobs: list[Job]


_NAMED = 20
"""Files that a line names; those beyond are counted."""
_MAX_KERNEL_PIXELS = 2**24
"""Height times width up to which a blur kernel is read."""
_MOST_LETTERS = 200
"""Longest reason in the error of an unreadable kernel; it may repeat the header of the file."""
_COMPARISON = ".compare.png"
"""How the names of pictures end that show before and after, which are no inputs."""
_RESULTS = "results of earlier runs"
_AGAIN = "other names of files that were found before"
_MATCHED_FOLDERS = "folders that a pattern matches"


def plan_jobs(
    inputs: Sequence[str],
    output: Path,
    *,
    suffix: str | None = None,
    references: Path | None = None,
    compare: bool = False,
) -> Plan:
    """The images that inputs stand for.

    Args:
      inputs: paths of files, of folders, and patterns such as "photos/*.jpg" or "**/*.png".
      output: the folder for the results; what it already holds is never an input: folders and
        patterns leave it out, and naming it is a mistake.
      suffix: the ending of the results' names, a key of `FORMATS`; None for each file's own.
      references: a folder with true images, of the inputs' places and names but for the ending.
      compare: whether to write NAME.compare.png beside each result.

    Returns:
      Jobs in the order of the inputs, each file once, where it was found first (a link to a file is
      that file); and what was left out.

    Raises:
      InputError: an input that is not there or is in the output folder, a folder or pattern without
        images, two results of one name, a result in the place of an input or a reference, or
        references for none of the inputs.
    """
    if suffix is not None and suffix not in FORMATS:
        raise InputError(f"no image format {suffix!r}; {did_you_mean(suffix, FORMATS)}")
    if kind_of(output) not in ("folder", None):
        raise InputError(f"output {output} is not a folder")
    if references is not None and kind_of(references) != "folder":
        raise InputError(f"reference folder {references} is not a folder")
    results = _real(output)

    def is_result(file: Path) -> bool:
        return _real(file).is_relative_to(results) or file.name.endswith(_COMPARISON)

    for word in inputs:
        if kind_of(Path(word)) not in ("folder", None) and _real(Path(word)).is_relative_to(
            results
        ):
            raise InputError(
                f"{word} is in the output folder {output}, whose files are never inputs; choose "
                "another output folder"
            )
    found = expand_inputs(inputs, is_result=is_result)
    jobs: list[Job] = []
    writers: dict[Path, Path] = {}
    for source, place in found.files:
        name = place if suffix is None else place.with_suffix(suffix)
        job = Job(
            source,
            output / name,
            reference=None if references is None else _reference(references, place),
            comparison=output / name.with_name(name.name + _COMPARISON) if compare else None,
        )
        for path in _written(job):
            other = writers.setdefault(_real(path), source)
            if other != source:
                raise InputError(
                    f"{other} and {source} would both be written to {path}; give them "
                    "different output folders"
                )
        jobs.append(job)
    for job in jobs:
        for path in filter(None, (job.source, job.reference)):
            writer = writers.get(_real(path))
            if writer is not None:
                raise InputError(
                    f"the result of {writer} would replace {path}; choose another output folder"
                )
    if not any(job.reference is None or _is(job.reference, "file") for job in jobs):
        raise InputError(f"{references} has no reference for any of the {len(jobs)} images")
    return Plan(found.files, found.left_out, jobs)


def find_images(inputs: Sequence[str], output: Path) -> FoundFiles:
    """The image files that inputs of a command with a single result stand for.

    Args:
      inputs: as for `plan_jobs`.
      output: the file for the result, which is no input.

    Raises:
      InputError: an input that is not there or is the output, or a folder or pattern without images.
    """
    result = _real(output)
    if any(_real(Path(word)) == result for word in inputs):
        raise InputError(f"the result would replace {output}; choose another output")
    return expand_inputs(
        inputs,
        is_result=lambda path: _real(path) == result or path.name.endswith(_COMPARISON),
    )


def expand_inputs(
    inputs: Sequence[str],
    endings: Collection[str] = tuple(FORMATS),
    is_result: Callable[[Path], bool] = lambda path: path.name.endswith(_COMPARISON),
) -> FoundFiles:
    """Find the files that inputs stand for.

    Args:
      inputs: as for `plan_jobs`.
      endings: of the names of files in folders and of patterns; a file that is named is taken as it is.
      is_result: whether a file of a folder or a pattern is left out as a result.

    Raises:
      InputError: an input that is not there, or a folder or pattern without such files.
    """
    files: dict[Path, tuple[Path, Path]] = {}
    left_out: dict[str, list[str]] = collections.defaultdict(list)
    for word in inputs:
        for source, place in _found(word, endings, is_result, left_out):
            first, _ = files.setdefault(_real(source), (source, place))
            # A file that overlapping inputs name alike is no other.
            if os.path.abspath(first) != os.path.abspath(source):
                left_out[_AGAIN].append(f"{source} is {first}")
    return FoundFiles(
        list(files.values()), {why: list(dict.fromkeys(n)) for why, n in left_out.items() if n}
    )


def read_kernel(path: Path) -> Float[np.ndarray, "height width"]:
    """A blur kernel from a picture of it, or from a NumPy array of two axes (.npy).

    Returns:
      Float32, scaled to sum 1. A colour picture counts by the mean of its channels.

    Raises:
      InputError: the file is unreadable or no kernel: without axes of at least one pixel, of more
        than 2^24 pixels, not finite, or with a sum that is not positive.
    """
    suffix = path.suffix.lower()
    if suffix == ".mat":
        raise InputError(f"cannot read kernel {path}: MATLAB files are not read; use .png or .npy")
    if suffix == ".npy":
        try:
            # Mapped, so that a header which claims more than the file holds allocates nothing.
            with open_regular(path):
                kernel = np.load(path, mmap_mode="r", allow_pickle=False)
        except Exception as error:  # NumPy raises all sorts of things on a damaged header.
            reason = getattr(error, "strerror", None) or str(error).strip() or type(error).__name__
            raise InputError(
                f"cannot read kernel {path}: {reason.splitlines()[0][:_MOST_LETTERS]}"
            ) from error
    else:
        kernel = read_image(path, _MAX_KERNEL_PIXELS).pixels.mean(axis=-1, dtype=np.float64)
    if not isinstance(kernel, np.ndarray) or kernel.ndim != 2 or kernel.dtype.kind not in "biuf":
        raise InputError(f"kernel {path} must be an array of numbers of two axes")
    if kernel.size > _MAX_KERNEL_PIXELS:
        raise InputError(
            f"kernel {path} must have at most {_MAX_KERNEL_PIXELS} pixels; got {kernel.shape}"
        )
    kernel = kernel.astype(np.float64)
    total = kernel.sum()
    if not kernel.size or not np.isfinite(kernel).all() or not total > 0:
        raise InputError(
            f"kernel {path} must have finite numbers with a positive sum; got {kernel.shape} with "
            f"sum {total}"
        )
    return (kernel / total).astype(np.float32)


def _real(path: Path) -> Path:
    """The path without links, as far as it can be found out: one that leads round in a circle stays."""
    return Path(os.path.realpath(path))


def _is(path: Path, kind: str) -> bool:
    """Whether something of a kind is at a path, where what cannot be found out is none."""
    try:
        return kind_of(path) == kind
    except InputError:
        return False


def _found(
    word: str,
    endings: Collection[str],
    is_result: Callable[[Path], bool],
    left_out: Mapping[str, list[str]],
) -> Iterator[tuple[Path, Path]]:
    """Files that an input stands for, and their places below the output folder."""
    path = Path(word)
    kind = kind_of(path)
    if kind == "folder":
        seen = list_files(path, endings)
        others = dict(seen.left_out)
        found = [(file, file.relative_to(path)) for file in seen.files]
    elif kind is not None:
        yield path, Path(path.name)
        return
    elif glob.has_magic(word):
        matches = [Path(name) for name in sorted(glob.glob(word, recursive=True))]
        files = [file for file in matches if not _is(file, "folder")]
        found = [(file, Path(file.name)) for file in files if file.suffix.lower() in endings]
        others = {OTHER_FORMAT: [file for file in files if file.suffix.lower() not in endings]}
        if "**" not in word:  # Which also matches what is in them.
            others[_MATCHED_FOLDERS] = [file for file in matches if file not in files]
    else:
        raise InputError(f"no input {word}{': it is a link to nothing' * path.is_symlink()}")
    others[_RESULTS] = [file for file, _ in found if is_result(file)]
    found = [pair for pair in found if not is_result(pair[0])]
    for reason, paths in others.items():
        left_out[reason] += map(str, paths)
    if not found:
        named = [f"{len(paths)} {reason}" for reason, paths in others.items() if paths]
        but = f"; left out: {', '.join(named)}" if named else ""
        raise InputError(f"{word} holds no files to work on ({', '.join(sorted(endings))}){but}")
    yield from found


def _reference(folder: Path, place: Path) -> Path:
    """The file of the same place and name, whatever image it is, or would be."""
    endings = [place.suffix, *(suffix for suffix in FORMATS if suffix != place.suffix)]
    for candidate in (folder / place.with_suffix(ending) for ending in endings):
        if _is(candidate, "file"):
            return candidate
    return folder / place


def _written(job: Job) -> Iterator[Path]:
    yield job.output
    if job.comparison is not None:
        yield job.comparison
