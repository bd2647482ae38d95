"""Restoration of files: read, restore, write, measure and compare each, and report on it.

Videos are recognized by their suffix, and only restored.

A file that fails does not stop the others: its error goes to stderr, results and metrics go to
stdout. A result without alpha in a lossy format (JPEG, AVIF, HEIC) is measured after reading its file
back. Other results are measured in memory before rounding; the protocol rounds to 8 bits. A result
that cannot be measured is still written.
"""

import dataclasses
import functools
import math
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from deconv_jax.data.images import FORMATS, LOSSY_FORMATS, read_image, write_image
from deconv_jax.errors import InputError
from deconv_jax.inference.image_files import Job
from deconv_jax.inference.memory import catch_out_of_memory
from deconv_jax.inference.progress import ProgressBar, ProgressCallback
from deconv_jax.inference.restoration.learned_restorer import ImageRestorer, Pixels
from deconv_jax.inference.restoration.measurement import measure_image, read_reference
from deconv_jax.inference.restoration.resizing import resize, result_size
from deconv_jax.inference.restoration.video import DEFAULT_CRF, restore_video
from deconv_jax.inference.restoration.video_source import is_video
from deconv_jax.inference.restoration.wrapping import Wrap
from deconv_jax.io import check_output_path, write_png
from deconv_jax.metrics.protocol import EvaluationProtocol, ImageScore, mean_of_rows
from deconv_jax.viz.grids import picture_grid

Alpha = Literal["bicubic", "network"]
"""Method that enlarges alpha: bicubic interpolation, or the restorer, as for a gray image."""
BICUBIC = "bicubic"
"""Name of the baseline for enlargement."""
COMPARISON_SIDE = 1024
"""Maximum side of the crop that a comparison picture shows, in pixels of the result."""


@dataclasses.dataclass(frozen=True)
class Result:
    """Outcome of restoring one file.

    Attributes:
      size: Height and width of the result, in pixels.
      seconds: Duration, with reading and writing.
      metrics: "psnr" in dB and "ssim" of the result; None without a reference.
      input_metrics: Metrics of the input, or of the input resized bicubically if the result has another size.
      measurement_error: Reason why the result could not be measured; None if it was, or if no reference was
        asked for.
      notes: Conversions and losses when the file was read, and notes of the restorer, in words.
      resized: Whether the result has another size than the input.
      damage: A sentence for each kind of damage of a video.
    """

    size: tuple[int, int]
    seconds: float
    metrics: ImageScore | None = None
    input_metrics: ImageScore | None = None
    measurement_error: str | None = None
    notes: tuple[str, ...] = ()
    resized: bool = False
    damage: tuple[str, ...] = ()


def restore_files(
    restorer: ImageRestorer,
    jobs: Sequence[Job],
    *,
    protocol: EvaluationProtocol,
    overwrite: bool = False,
    outscale: float | None = None,
    alpha: Alpha = "bicubic",
    crf: float = DEFAULT_CRF,
    wrap: Wrap = "none",
) -> int:
    """Restore files one after another, and print a line for each and the mean of their metrics.

    Errors of single files are printed on standard error and do not stop the others.

    Args:
      restorer: Restorer of images.
      jobs: Files to read and write.
      protocol: Protocol of the measurement, for jobs with a reference.
      overwrite: Whether to replace existing results.
      outscale, alpha, wrap: As in `restore_file`.
      crf: Constant rate factor of the videos among the files.

    Returns:
      Number of files that could not be read completely, restored, or measured against their reference.
    """
    results: list[Result] = []
    failed = 0
    with ProgressBar("restore", len(jobs)) as bar:

        def report(*words: object) -> None:
            bar.write(f"deconv-jax: {': '.join(map(str, words))}", file=sys.stderr)

        for index, job in enumerate(jobs):
            progress = ProgressCallback(
                on_progress=functools.partial(bar.show, index),
                on_message=functools.partial(report, job.source),
                on_status=bar.set_status,
            )
            try:
                if is_video(job.source):
                    result = _restore_video(
                        restorer,
                        job,
                        progress,
                        overwrite=overwrite,
                        outscale=outscale,
                        crf=crf,
                        wrap=wrap,
                    )
                else:
                    result = restore_file(
                        restorer,
                        job,
                        progress,
                        protocol=protocol,
                        overwrite=overwrite,
                        outscale=outscale,
                        alpha=alpha,
                        wrap=wrap,
                    )
            except InputError as error:
                failed += 1
                report("error", error)
            else:
                results.append(result)
                for sentence in result.damage:
                    report("error", f"{job.source}: {sentence}")
                bar.write(f"{job.source} -> {job.output}  {_format_result(result)}")
            bar.set_status("")
            bar.show(index + 1)
    after = [result.metrics for result in results if result.metrics]
    before = [result.input_metrics for result in results if result.input_metrics]
    if after:
        mean_before = mean_of_rows(before) if before else None
        resized = any(result.resized for result in results)
        means = _format_metrics(mean_of_rows(after), mean_before, resized)
        print(f"mean of {len(after)}{means}")
        print(protocol.describe())
    unmeasured = sum(result.measurement_error is not None for result in results)
    damaged = sum(bool(result.damage) for result in results)
    for count, what in (
        (failed, "restored"),
        (damaged, "read completely"),
        (unmeasured, "measured"),
    ):
        if count:
            report(f"{count} of {len(jobs)} files were not {what}")
    return failed + damaged + unmeasured


def restore_file(
    restorer: ImageRestorer,
    job: Job,
    progress: ProgressCallback,
    *,
    protocol: EvaluationProtocol | None = None,
    overwrite: bool = False,
    outscale: float | None = None,
    alpha: Alpha = "bicubic",
    wrap: Wrap = "none",
) -> Result:
    """Restore one file; the result is written completely or not at all.

    Bit depth, alpha, ICC profile, EXIF data and resolution are kept as far as the format of the result
    allows.

    Args:
      restorer: Restorer of images.
      job: File to read and files to write.
      progress: Callbacks for progress and messages. Notes become `Result.notes`.
      protocol: Protocol of the measurement, for a job with a reference; None for RGB without a border.
        A reference that is larger than the result by less than the scale is cropped at the bottom and
        right ("modcrop").
      overwrite: Whether to replace an existing result.
      outscale: Ratio of the result's to the input's size, rounded to pixels, to which the restored image
        is resized as MATLAB's `imresize` does; None for the restorer's scale.
      alpha: Method that enlarges alpha. "network" also restores it at its size. Constant alpha stays
        constant.
      wrap: Axes along which images are periodic when they are resized; a restorer has its own.

    Raises:
      InputError: The file cannot be restored, a result or comparison exists and `overwrite` is False,
        or there is too little memory. A result that cannot be measured is not an error, but has
        `Result.measurement_error`.
    """
    started = time.perf_counter()
    protocol = protocol or EvaluationProtocol()
    if job.output.suffix.lower() not in FORMATS:
        known = f"known are {', '.join(FORMATS)}"
        if job.output.suffix == job.source.suffix:
            raise InputError(f"cannot restore {job.source}: not a file of an image format; {known}")
        raise InputError(f"no image format for {job.output}; {known}")
    for path in filter(None, (job.output, job.comparison)):
        check_output_path(path, overwrite=overwrite)
    notes: list[str] = []
    progress = dataclasses.replace(progress, on_note=notes.append)
    with catch_out_of_memory(
        f"{job.source}: not enough memory; a network needs less with a smaller tile"
    ):
        image = read_image(job.source)
        try:
            size = result_size(
                image.pixels.shape[:2], restorer.scale if outscale is None else outscale
            )
            restored = resize(restorer(image.pixels, progress, image.jpeg_table), size, wrap)
            if alpha == "network" and image.alpha is not None and np.ptp(image.alpha) > 0:
                silent = dataclasses.replace(progress, on_note=lambda _: None)
                opacity = resize(restorer(image.alpha, silent), size, wrap)
                image = dataclasses.replace(image, alpha=np.clip(opacity, 0.0, 1.0))
            elif wrap != "none" and image.alpha is not None:
                opacity = resize(image.alpha, size, wrap)
                image = dataclasses.replace(image, alpha=np.clip(opacity, 0.0, 1.0))
        except InputError as error:
            raise InputError(f"{job.source}: {error}") from error
        write_image(job.output, restored, image)
        views = {"input": image.pixels}
        resized = restored.shape != image.pixels.shape
        if resized and (job.reference or job.comparison) is not None:
            views[BICUBIC] = resize(image.pixels, size, wrap)
        views["restored"] = restored
        rows: dict[str, ImageScore] = {}
        measurement_error = None
        if job.reference is not None:
            modcrop = math.ceil(restorer.scale if outscale is None else outscale)
            try:
                if FORMATS[job.output.suffix.lower()] in LOSSY_FORMATS and image.alpha is None:
                    written = read_image(job.output, max_pixels=math.prod(size)).pixels
                    views["restored"] = written[..., : restored.shape[-1]]  # AVIF has no gray.
                rows, views["reference"] = _measure(job.reference, views, modcrop, protocol)
            except InputError as error:
                measurement_error = str(error)
        if job.comparison is not None:
            write_png(job.comparison, _draw_comparison(views, rows))
    return Result(
        size=size,
        seconds=time.perf_counter() - started,
        metrics=rows.get("restored"),
        input_metrics=rows.get(BICUBIC if resized else "input"),
        measurement_error=measurement_error,
        notes=(*image.notes, *notes),
        resized=resized,
    )


def _restore_video(
    restorer: ImageRestorer,
    job: Job,
    progress: ProgressCallback,
    *,
    overwrite: bool,
    outscale: float | None,
    crf: float,
    wrap: Wrap,
) -> Result:
    video = restore_video(
        restorer,
        job.source,
        job.output,
        progress,
        outscale=outscale,
        crf=crf,
        overwrite=overwrite,
        wrap=wrap,
    )
    speed = [] if video.frames_per_second is None else [f"{video.frames_per_second:.2f} frames/s"]
    return Result(
        size=video.size,
        seconds=video.seconds,
        notes=(f"{video.frames} frames", *speed, *video.notes),
        damage=video.damage,
    )


def _measure(
    reference: Path, views: Mapping[str, Pixels], modcrop: int, protocol: EvaluationProtocol
) -> tuple[dict[str, ImageScore], Pixels]:
    """Return the metrics of each view that has the result's size, and the reference.

    Raises:
      InputError: The views cannot be measured.
    """
    restored = views["restored"]
    with catch_out_of_memory("not enough memory"):
        truth = read_reference(reference, restored, modcrop)
        rows = {
            name: measure_image(protocol, view, truth)
            for name, view in views.items()
            if view.shape[:2] == restored.shape[:2]
        }
    return rows, truth


def _draw_comparison(views: Mapping[str, Pixels], rows: Mapping[str, ImageScore]) -> Image.Image:
    """Draw the center of each view side by side, with its name and PSNR above."""
    size = views["restored"].shape[:2]
    starts = [max(n - COMPARISON_SIDE, 0) // 2 for n in size]
    columns = []
    for view in views.values():
        # The pixels of an input with another size are repeated to that of the result.
        place = [
            np.arange(start, min(start + COMPARISON_SIDE, n)) * own // n
            for start, n, own in zip(starts, size, view.shape[:2], strict=True)
        ]
        crop = view[np.ix_(*place)]
        columns.append(np.broadcast_to(crop, (*crop.shape[:2], 3)))
    names = [f"{name} {rows[name]['psnr']:.2f} dB" if name in rows else name for name in views]
    return picture_grid({"": np.stack(columns)}, names=names, scale=1)


def _format_result(result: Result) -> str:
    height, width = result.size
    metrics = _format_metrics(result.metrics, result.input_metrics, result.resized)
    if result.measurement_error is not None:
        metrics = f"  not measured: {result.measurement_error}"
    notes = f"  ({'; '.join(result.notes)})" if result.notes else ""
    return f"{width} x {height}  {result.seconds:.1f} s{metrics}{notes}"


def _format_metrics(after: ImageScore | None, before: ImageScore | None, resized: bool) -> str:
    """Return PSNR and SSIM of a result and of the baseline, as the end of a line."""
    baseline = BICUBIC if resized else "input"
    words = ""
    for name, row in (("", after), (f"{baseline} ", before)):
        if row is not None:
            words += f"  {name}PSNR {row['psnr']:.2f} dB SSIM {row['ssim']:.4f}"
    return words
