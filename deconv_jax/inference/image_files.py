"""Input files and output paths of a command, planned and checked before any work starts.

A folder stands for the images in it and its subfolders, and keeps its structure below the output
folder; the result of a file or a pattern goes directly into the output folder. Without an output
folder, the result of NAME.EXT is NAME.restored.EXT beside it. Everything else in a folder is skipped
and counted by reason.

Errors that involve several files (two results with one path, a result that would replace an input)
are raised here. Errors of a single file, such as a missing reference or a named pipe, are raised
when that file is processed, so that the others are still done.
"""

import collections
import dataclasses
import glob
import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path

from deconv_jax.data.images import FORMATS, SKIPPED_OTHER_FORMAT, SKIPPED_UNREADABLE, list_files
from deconv_jax.errors import InputError, did_you_mean
from deconv_jax.io import kind_of

_MAX_NAMES = 20
"""Maximum number of files that a summary line names."""
_COMPARISON = ".compare.png"
"""Suffix of before-and-after pictures, which are never inputs."""
_RESTORED = ".restored"
"""End of the stem of results beside their inputs, which folders and patterns skip."""
_EARLIER_RESULT = "output of an earlier run"
_DUPLICATE = "duplicate of another input"
_MATCHED_FOLDER = "folder matched by a pattern"


@dataclasses.dataclass(frozen=True)
class Job:
    """One image to process.

    Attributes:
      source: File to read.
      output: File to write.
      reference: Path of the ground truth, which may not exist; None if nothing is measured.
      comparison: Path of a before-and-after picture; None if none is written.
    """

    source: Path
    output: Path
    reference: Path | None = None
    comparison: Path | None = None


@dataclasses.dataclass(frozen=True)
class FoundFiles:
    """Files that the inputs of a command stand for.

    Attributes:
      files: Pairs of a file and its path relative to the output folder, without duplicates.
      skipped: Other files and folders that were found, by reason.
    """

    files: list[tuple[Path, Path]]
    skipped: Mapping[str, Sequence[str]]

    @property
    def all_folders_readable(self) -> bool:
        """Whether every folder was readable."""
        return not self.skipped.get(SKIPPED_UNREADABLE)

    def summary(self) -> list[str]:
        """Return a line per reason, with the number of skipped files and the first 20 names."""
        lines = []
        for reason, names in self.skipped.items():
            hidden = len(names) - _MAX_NAMES
            more = f" and {hidden} more" if hidden > 0 else ""
            lines.append(f"skipped {len(names)} ({reason}): {', '.join(names[:_MAX_NAMES])}{more}")
        return lines


@dataclasses.dataclass(frozen=True)
class Plan(FoundFiles):
    """Images to process, and what was skipped.

    Attributes:
      jobs: One job per file, in the order of `files`.
    """

    jobs: list[Job]


def plan_jobs(
    inputs: Sequence[str],
    output: Path | None,
    *,
    suffix: str | None = None,
    references: Path | None = None,
    compare: bool = False,
    accept_file: bool = False,
    videos: Mapping[str, str] | None = None,
) -> Plan:
    """Return one job per image that the inputs stand for.

    Args:
      inputs: Paths of files and folders, and patterns such as "photos/*.jpg" or "**/*.png"; at least
        one.
      output: Folder for the results. Files in it are never inputs: folders and patterns skip them,
        and naming one is an error. None writes NAME.restored.EXT beside each NAME.EXT; folders and
        patterns then skip files with such a name.
      suffix: File suffix of the results, a key of `FORMATS`; None to keep each input's suffix.
      references: Folder of ground-truth images, which have the inputs' relative paths with any
        suffix.
      compare: Whether to write NAME.compare.png beside each result.
      accept_file: Whether an output with a suffix of `FORMATS` or `videos` that is not an existing
        folder is the file of the only result.
      videos: Suffixes of their results by suffixes of videos, to which `suffix` does not apply. Videos
        are taken if they are named, or match a pattern such as "*.mp4"; folders skip them.

    Returns:
      Jobs in the order of the inputs. The result of a file from an input folder keeps its path
      relative to that folder; that of any other file goes directly into `output`. A file that several
      inputs or links name appears once, where it was found first.

    Raises:
      InputError: The suffix is unknown; `output` or `references` is not a folder; an input does not
        exist or is in the output folder; a folder or pattern contains no images; an output file has
        several inputs or another suffix than `suffix`; two results have the same path; a result would
        replace an input or a reference; no image has a reference; or a video should be measured or
        compared.
    """
    videos = videos or {}
    if suffix is not None and suffix not in FORMATS:
        raise InputError(f"no image format {suffix!r}; {did_you_mean(suffix, FORMATS)}")
    if references is not None and kind_of(references) != "folder":
        raise InputError(f"reference folder {references} is not a folder")
    file = None
    if accept_file and output is not None and _names_file(output, videos):
        if suffix is not None and output.suffix.lower() != suffix:
            raise InputError(f"output {output} has another format than {suffix}")
        file, output = output, None
    elif output is not None and kind_of(output) not in ("folder", None):
        raise InputError(f"output {output} is not a folder")
    found = _find_inputs(inputs, output, file, videos)
    if file is not None and len(found.files) > 1:
        raise InputError(
            f"output {file} is a single file, but there are {len(found.files)} inputs; name a folder"
        )
    jobs = []
    for source, relative in found.files:
        kind = source.suffix.lower()
        if kind in videos and (compare or references is not None):
            raise InputError(f"only images are measured or compared; {source} is a video")
        new = videos.get(kind, suffix)
        new = None if new == kind else new
        jobs.append(_job(source, relative, output, file, new, references, compare))
    _check_paths(jobs)
    if not any(job.reference is None or _is(job.reference, "file") for job in jobs):
        raise InputError(f"{references} contains no reference for any of the {len(jobs)} images")
    return Plan(found.files, found.skipped, jobs)


def _names_file(output: Path, videos: Collection[str]) -> bool:
    suffix = output.suffix.lower()
    return (suffix in FORMATS or suffix in videos) and kind_of(output) != "folder"


def _find_inputs(
    inputs: Sequence[str], output: Path | None, file: Path | None, videos: Collection[str]
) -> FoundFiles:
    """Return the inputs of a command that writes to a folder, to one file or beside the inputs."""
    if file is not None:
        return expand_inputs(inputs, pattern_suffixes=videos)
    if output is None:
        return expand_inputs(
            inputs,
            pattern_suffixes=videos,
            is_result=lambda path: path.stem.endswith(_RESTORED) or path.name.endswith(_COMPARISON),
        )
    results = _resolve(output)
    for name in inputs:
        path = Path(name)
        if kind_of(path) not in ("folder", None) and _resolve(path).is_relative_to(results):
            raise InputError(
                f"input {name} is in the output folder {output}; choose another output folder"
            )
    return expand_inputs(
        inputs,
        pattern_suffixes=videos,
        is_result=lambda path: (
            _resolve(path).is_relative_to(results) or path.name.endswith(_COMPARISON)
        ),
    )


def _job(
    source: Path,
    relative: Path,
    output: Path | None,
    file: Path | None,
    suffix: str | None,
    references: Path | None,
    compare: bool,
) -> Job:
    if file is not None:
        result = file
    elif output is None:
        result = source.with_name(f"{source.stem}{_RESTORED}{suffix or source.suffix}")
    else:
        result = output / (relative if suffix is None else relative.with_suffix(suffix))
    return Job(
        source,
        result,
        reference=None if references is None else _reference(references, relative),
        comparison=result.with_name(result.name + _COMPARISON) if compare else None,
    )


def _check_paths(jobs: Sequence[Job]) -> None:
    """Raise InputError if two jobs write to one path, or one would replace an input or reference."""
    writers: dict[Path, Path] = {}
    for job in jobs:
        for path in _outputs(job):
            other = writers.setdefault(_resolve(path), job.source)
            if other != job.source:
                raise InputError(
                    f"{other} and {job.source} would both be written to {path}; choose different "
                    "output folders"
                )
    for job in jobs:
        for path in filter(None, (job.source, job.reference)):
            writer = writers.get(_resolve(path))
            if writer is not None:
                raise InputError(
                    f"the result of {writer} would replace {path}; choose another output folder"
                )


def find_images(inputs: Sequence[str], output: Path) -> FoundFiles:
    """Return the image files that the inputs of a command with a single output file stand for.

    Args:
      inputs: Paths of files and folders, and patterns such as "photos/*.jpg".
      output: File for the result, which folders and patterns skip.

    Returns:
      Files in the order of the inputs, each once; none without inputs.

    Raises:
      InputError: An input does not exist or is the output; or a folder or pattern contains no
        images.
    """
    result = _resolve(output)
    if any(_resolve(Path(name)) == result for name in inputs):
        raise InputError(f"the result would replace input {output}; choose another output")
    return expand_inputs(
        inputs,
        is_result=lambda path: _resolve(path) == result or path.name.endswith(_COMPARISON),
    )


def expand_inputs(
    inputs: Sequence[str],
    suffixes: Collection[str] = tuple(FORMATS),
    is_result: Callable[[Path], bool] = lambda path: path.name.endswith(_COMPARISON),
    pattern_suffixes: Collection[str] = (),
) -> FoundFiles:
    """Return the files that paths and patterns stand for.

    Args:
      inputs: Paths of files and folders, and patterns such as "photos/*.jpg".
      suffixes: Suffixes, in lower case with a dot, of the files taken from folders and patterns. A file
        that is named explicitly may have any suffix.
      is_result: Whether to skip a file of a folder or pattern as an earlier result.
      pattern_suffixes: Suffixes of files taken only from patterns that end with that suffix.

    Returns:
      Files in the order of the inputs, each once, with paths relative to an input folder, or else
      their names.

    Raises:
      InputError: An input does not exist, or a folder or pattern contains no such files.
    """
    files: dict[Path, tuple[Path, Path]] = {}
    skipped: dict[str, list[str]] = collections.defaultdict(list)
    for name in inputs:
        kind = Path(name).suffix.lower()
        taken = (kind,) if kind in pattern_suffixes and glob.has_magic(name) else suffixes
        for source, relative in _expand(name, taken, is_result, skipped):
            first, _ = files.setdefault(_resolve(source), (source, relative))
            # Overlapping inputs that spell a file the same way are not worth a report.
            if os.path.abspath(first) != os.path.abspath(source):
                skipped[_DUPLICATE].append(f"{source} is {first}")
    return FoundFiles(
        list(files.values()), {why: list(dict.fromkeys(n)) for why, n in skipped.items() if n}
    )


def _resolve(path: Path) -> Path:
    """Return the path without links; a link in a loop stays as it is."""
    return Path(os.path.realpath(path))


def _is(path: Path, kind: str) -> bool:
    """Return whether a path has a kind; False where it cannot be accessed."""
    try:
        return kind_of(path) == kind
    except InputError:
        return False


def _expand(
    name: str,
    suffixes: Collection[str],
    is_result: Callable[[Path], bool],
    skipped: Mapping[str, list[str]],
) -> Iterator[tuple[Path, Path]]:
    """Yield the files that one input stands for, with their paths relative to the output folder."""
    path = Path(name)
    kind = kind_of(path)
    if kind == "folder":
        seen = list_files(path, suffixes)
        others = dict(seen.left_out)
        found = [(file, file.relative_to(path)) for file in seen.files]
    elif kind is not None:
        yield path, Path(path.name)
        return
    elif glob.has_magic(name):
        matches = [Path(match) for match in sorted(glob.glob(name, recursive=True))]
        files = [file for file in matches if not _is(file, "folder")]
        found = [(file, Path(file.name)) for file in files if file.suffix.lower() in suffixes]
        others = {
            SKIPPED_OTHER_FORMAT: [file for file in files if file.suffix.lower() not in suffixes]
        }
        if "**" not in name:  # A recursive pattern also matches the folders' contents.
            others[_MATCHED_FOLDER] = [file for file in matches if file not in files]
    elif path.is_symlink():
        raise InputError(f"input {name} is a broken link")
    else:
        raise InputError(f"input {name} does not exist")
    others[_EARLIER_RESULT] = [file for file, _ in found if is_result(file)]
    found = [pair for pair in found if not is_result(pair[0])]
    for reason, paths in others.items():
        skipped[reason] += map(str, paths)
    if not found:
        counts = [f"{len(paths)} ({reason})" for reason, paths in others.items() if paths]
        detail = f"; skipped {', '.join(counts)}" if counts else ""
        raise InputError(f"{name} contains no {' '.join(sorted(suffixes))} files{detail}")
    yield from found


def _reference(folder: Path, relative: Path) -> Path:
    """Return the reference with this relative path and any suffix, or the path it should have."""
    suffixes = [relative.suffix, *(suffix for suffix in FORMATS if suffix != relative.suffix)]
    for candidate in (folder / relative.with_suffix(suffix) for suffix in suffixes):
        if _is(candidate, "file"):
            return candidate
    return folder / relative


def _outputs(job: Job) -> Iterator[Path]:
    yield job.output
    if job.comparison is not None:
        yield job.comparison
