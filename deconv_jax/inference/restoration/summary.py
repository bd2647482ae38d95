"""Files restored before a person's eyes: a line for each on stdout, errors and a bar on stderr.

What a reader would get wrong: a file that fails ends nothing. Its line goes to stderr, the others
are done, and how many failed is what is returned. One that is restored and could not be measured
has its line among the results, which says so, and counts as failed too.
"""

import functools
import sys
from collections.abc import Sequence

from deconv_jax.errors import InputError
from deconv_jax.inference.image_files import Job
from deconv_jax.inference.progress import Progress
from deconv_jax.inference.restoration.learned_restorer import ImageRestorer, ProgressCallback
from deconv_jax.inference.restoration.restore_files import BICUBIC, Result, restore_file
from deconv_jax.metrics.protocol import EvaluationProtocol, Row, mean_of_rows


def restore_files(
    restorer: ImageRestorer,
    jobs: Sequence[Job],
    *,
    protocol: EvaluationProtocol,
    overwrite: bool = False,
) -> int:
    """Restores files one after another and says what becomes of them.

    Args:
      restorer, protocol, overwrite: as for `restore_file`.
      jobs: what to read and write.

    Returns:
      How many were not restored, or should have been measured and were not.
    """
    results: list[Result] = []
    failed = 0
    with Progress("restore", len(jobs)) as bar:

        def say(*words: object) -> None:
            bar.write(f"deconv-jax: {': '.join(map(str, words))}", file=sys.stderr)

        for place, job in enumerate(jobs):
            progress = ProgressCallback(
                on_progress=functools.partial(bar.show, place),
                on_message=functools.partial(say, job.source),
            )
            try:
                result = restore_file(
                    restorer, job, progress, protocol=protocol, overwrite=overwrite
                )
            except InputError as error:
                failed += 1
                say("error", error)
            else:
                results.append(result)
                bar.write(f"{job.source} -> {job.output}  {_line(result, restorer.scale)}")
            bar.show(place + 1)
    after = [result.measured for result in results if result.measured]
    before = [result.before for result in results if result.before]
    if after:
        means = _figures(
            mean_of_rows(after), mean_of_rows(before) if before else None, restorer.scale
        )
        print(f"mean of {len(after)}{means}")
        print(protocol.describe())
    unmeasured = sum(result.unmeasured is not None for result in results)
    for count, what in ((failed, "restored"), (unmeasured, "measured")):
        if count:
            say(f"{count} of {len(jobs)} files were not {what}")
    return failed + unmeasured


def _line(result: Result, scale: int) -> str:
    height, width = result.size
    figures = _figures(result.measured, result.before, scale)
    if result.unmeasured is not None:
        figures = f"  not measured: {result.unmeasured}"
    notes = f"  ({'; '.join(result.notes)})" if result.notes else ""
    return f"{width} x {height}  {result.seconds:.1f} s{figures}{notes}"


def _figures(after: Row | None, before: Row | None, scale: int) -> str:
    """Return PSNR and SSIM as the end of a line; `before` is of the input, or its enlargement."""
    baseline = "input" if scale == 1 else BICUBIC
    words = ""
    for name, row in (("", after), (f"{baseline} ", before)):
        if row is not None:
            words += f"  {name}PSNR {row['psnr']:.2f} dB SSIM {row['ssim']:.4f}"
    return words
