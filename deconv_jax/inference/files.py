"""Which files are read and where results go, decided and checked before any work is done.

A folder stands for the images in it and below, and keeps its structure under the output folder; a
file or a pattern goes right into it. What a reader would get wrong: mistakes that concern several
files (two results of one name, a result in the place of an input) are found here, before hours of
work; what is wrong with one file alone, such as a missing reference, is found when its turn comes,
and the others are still done.
"""

import dataclasses
import glob
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float

from deconv_jax.data.images import FORMATS, list_images, read_image
from deconv_jax.errors import InputError, closest


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


_COMPARISON = ".compare.png"
"""How the names of pictures end that show before and after, which are no inputs."""


def plan_jobs(
    inputs: Sequence[str],
    output: Path,
    *,
    suffix: str | None = None,
    references: Path | None = None,
    compare: bool = False,
) -> list[Job]:
    """The images that inputs stand for.

    Args:
      inputs: paths of files, of folders, and patterns such as "photos/*.jpg" or "**/*.png".
      output: the folder for the results; what it already holds is never an input: folders and
        patterns leave it out, and naming it is a mistake.
      suffix: the ending of the results' names, a key of `FORMATS`; None for each file's own.
      references: a folder with true images, of the inputs' places and names but for the ending.
      compare: whether to write NAME.compare.png beside each result.

    Returns:
      Jobs in the order of the inputs, each file once, where it was found first; a link to a file
      is that file.

    Raises:
      InputError: an input that is not there or is in the output folder, a folder or pattern without
        images, two results of one name, a result in the place of an input or a reference, or
        references for none of the inputs.
    """
    if suffix is not None and suffix not in FORMATS:
        raise InputError(f"no image format {suffix!r}; {closest(suffix, FORMATS)}")
    if output.exists() and not output.is_dir():
        raise InputError(f"output {output} is not a folder")
    if references is not None and not references.is_dir():
        raise InputError(f"reference folder {references} is not a folder")
    jobs: list[Job] = []
    writers: dict[Path, Path] = {}
    for source, place in _all_found(inputs, output):
        name = place if suffix is None else place.with_suffix(suffix)
        job = Job(
            source,
            output / name,
            reference=None if references is None else _reference(references, place),
            comparison=output / name.with_name(name.name + _COMPARISON) if compare else None,
        )
        for path in _written(job):
            other = writers.setdefault(path.resolve(), source)
            if other != source:
                raise InputError(
                    f"{other} and {source} would both be written to {path}; give them "
                    "different output folders"
                )
        jobs.append(job)
    for job in jobs:
        for path in filter(None, (job.source, job.reference)):
            writer = writers.get(path.resolve())
            if writer is not None:
                raise InputError(
                    f"the result of {writer} would replace {path}; choose another output folder"
                )
    if not any(job.reference is None or job.reference.is_file() for job in jobs):
        raise InputError(f"{references} has no reference for any of the {len(jobs)} images")
    return jobs


def find_images(inputs: Sequence[str], output: Path) -> list[Path]:
    """The image files that inputs of a command with a single result stand for.

    Args:
      inputs: as for `plan_jobs`.
      output: the file for the result, which is no input.

    Returns:
      In the order of the inputs, each file once.

    Raises:
      InputError: an input that is not there or is the output, or a folder or pattern without images.
    """
    if any(Path(word).resolve() == output.resolve() for word in inputs):
        raise InputError(f"the result would replace {output}; choose another output")
    return [source for source, _ in _all_found(inputs, output)]


def read_kernel(path: Path) -> Float[np.ndarray, "height width"]:
    """A blur kernel from a picture of it, or from a NumPy array of two axes (.npy).

    Returns:
      Float32, scaled to sum 1. A colour picture counts by the mean of its channels.

    Raises:
      InputError: the file is unreadable or no kernel: without axes of at least one pixel, not
        finite, or with a sum that is not positive.
    """
    if path.suffix.lower() == ".npy":
        try:
            kernel = np.load(path, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise InputError(f"cannot read kernel {path}: {error}") from error
    else:
        kernel = read_image(path).pixels.mean(axis=-1, dtype=np.float64)
    if not isinstance(kernel, np.ndarray) or kernel.ndim != 2 or kernel.dtype.kind not in "biuf":
        raise InputError(f"kernel {path} must be an array of numbers of two axes")
    kernel = kernel.astype(np.float64)
    total = kernel.sum()
    if not kernel.size or not np.isfinite(kernel).all() or not total > 0:
        raise InputError(
            f"kernel {path} must have finite numbers with a positive sum; got {kernel.shape} with "
            f"sum {total}"
        )
    return (kernel / total).astype(np.float32)


def _all_found(inputs: Sequence[str], output: Path) -> list[tuple[Path, Path]]:
    """Of all inputs, each file once, where it was found first."""
    found: dict[Path, tuple[Path, Path]] = {}
    for source, place in (pair for word in inputs for pair in _found(word, output)):
        found.setdefault(source.resolve(), (source, place))
    return list(found.values())


def _found(word: str, output: Path) -> Iterator[tuple[Path, Path]]:
    """Image files that an input stands for, and their places below the output folder."""
    path, results = Path(word), output.resolve()

    def is_result(file: Path) -> bool:
        return file.resolve().is_relative_to(results) or file.name.endswith(_COMPARISON)

    if path.is_dir():
        found = [(file, file.relative_to(path)) for file in list_images(path)]
    elif path.is_file():
        if path.resolve().is_relative_to(results):
            raise InputError(
                f"{path} is in the output folder {output}, whose files are never inputs; choose "
                "another output folder"
            )
        yield path, Path(path.name)
        return
    elif glob.has_magic(word):
        files = [Path(name) for name in sorted(glob.glob(word, recursive=True))]
        found = [(file, Path(file.name)) for file in files if file.suffix.lower() in FORMATS]
    else:
        raise InputError(f"no input {word}")
    found = [pair for pair in found if not is_result(pair[0])]
    if not found:
        raise InputError(
            f"{word} holds no images to work on ({', '.join(sorted(FORMATS))}) outside of {output}, "
            f"*{_COMPARISON} left out"
        )
    yield from found


def _reference(folder: Path, place: Path) -> Path:
    """The file of the same place and name, whatever image it is, or would be."""
    endings = [place.suffix, *(suffix for suffix in FORMATS if suffix != place.suffix)]
    for candidate in (folder / place.with_suffix(ending) for ending in endings):
        if candidate.is_file():
            return candidate
    return folder / place


def _written(job: Job) -> Iterator[Path]:
    yield job.output
    if job.comparison is not None:
        yield job.comparison
