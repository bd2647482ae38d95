"""What a restorer does to one file: read, restore, write, measure, compare.

Everything that is wrong with a file is an `InputError` of this file, and the next can be done. What
a reader would get wrong: results are measured in memory before they are rounded to the file's bits,
and the protocol rounds them, to 8 bits.
"""

import dataclasses
import functools
import time
from collections.abc import Mapping

import jax
import numpy as np
from PIL import Image

from deconv_jax.data.images import FORMATS, read_image, write_image
from deconv_jax.errors import InputError, closest
from deconv_jax.files import write_atomically
from deconv_jax.inference.files import Job
from deconv_jax.inference.restore import Pixels, Restorer, Watch
from deconv_jax.metrics.protocol import Protocol, Row
from deconv_jax.training.logging import picture_grid

PICTURED = 1024
"""Pixels a side of an image that a comparison shows; of a larger one it shows the middle."""


@dataclasses.dataclass(frozen=True)
class Result:
    """What became of one file.

    Attributes:
      size: height and width of the result, pixels.
      seconds: that it took, reading and writing included.
      measured: "psnr" in dB and "ssim" of the result, if there is a reference.
      before: those of the file itself, if the reference has its size.
    """

    size: tuple[int, int]
    seconds: float
    measured: Row | None = None
    before: Row | None = None


def restore_file(
    restorer: Restorer,
    job: Job,
    watch: Watch,
    *,
    protocol: Protocol | None = None,
    overwrite: bool = False,
) -> Result:
    """Restores one file; its result appears whole or not at all.

    Bit depth, alpha (bicubically enlarged), ICC profile and EXIF data stay as far as the format of
    the result's name has room for them, see `write_image`.

    Args:
      restorer: what does it.
      job: what to read and write.
      watch: who is told.
      protocol: of the measuring, for a job with a reference. A reference larger by less than the
        restorer's scale is cut at its bottom and right, as for "modcrop".
      overwrite: whether a result that is there already is replaced.

    Raises:
      InputError: whatever is wrong with this file; others may still be done. A result that could
        not be measured is written before.
    """
    started = time.perf_counter()
    if job.output.suffix.lower() not in FORMATS:
        raise InputError(f"no image format for {job.output}; {closest(job.output.suffix, FORMATS)}")
    for path in filter(None, (job.output, job.comparison)):
        if path.exists() and not overwrite:
            raise InputError(f"{path} is there already; give --overwrite to replace it")
    image = read_image(job.source)
    try:
        restored = restorer(image.pixels, watch)
    except (MemoryError, jax.errors.JaxRuntimeError) as error:
        if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error):
            raise InputError(
                f"{job.source}: not enough memory for an image of {image.pixels.shape}; with a "
                "network, a smaller tile takes less"
            ) from error
        raise
    except InputError as error:
        raise InputError(f"{job.source}: {error}") from error
    write_image(job.output, restored, image)
    views = {"before": image.pixels, "after": restored}
    rows: dict[str, Row] = {}
    if job.reference is not None:
        truth = _cut(read_image(job.reference).pixels, restored, restorer.scale)
        if truth.shape[:2] != restored.shape[:2]:
            raise InputError(
                f"{job.output} of {restored.shape[:2]} pixels cannot be measured: its reference "
                f"{job.reference} has {truth.shape[:2]}"
            )
        same = [(name, view, truth) for name, view in views.items() if view.shape == restored.shape]
        rows = {row.pop("name"): row for row in (protocol or Protocol()).measure_all(same)}
        views["reference"] = truth
    if job.comparison is not None:
        picture = _comparison(views, rows, restorer.scale)
        write_atomically(job.comparison, functools.partial(picture.save, format="PNG"))
    height, width = restored.shape[:2]
    seconds = time.perf_counter() - started
    return Result((height, width), seconds, rows.get("after"), rows.get("before"))


def _cut(truth: Pixels, restored: Pixels, scale: int) -> Pixels:
    height, width = restored.shape[:2]
    extra = truth.shape[0] - height, truth.shape[1] - width
    return truth[:height, :width] if all(0 <= n < scale for n in extra) else truth


def _comparison(views: Mapping[str, Pixels], rows: Mapping[str, Row], scale: int) -> Image.Image:
    """Input, result and, if there is one, reference side by side, with what was measured."""
    shown = PICTURED // scale
    starts = [max(n - shown, 0) // 2 for n in views["before"].shape[:2]]
    columns = []
    for name, view in views.items():
        # The input of an enlargement is shown in its own pixels, repeated.
        own, repeated = (1, scale) if name == "before" else (scale, 1)
        middle = view[tuple(slice(own * start, own * (start + shown)) for start in starts)]
        middle = middle.repeat(repeated, axis=0).repeat(repeated, axis=1)
        columns.append(np.broadcast_to(middle, (*middle.shape[:2], 3)))
    figures = [f"{name} {row['psnr']:.2f} dB" for name, row in rows.items()]
    caption = ", ".join(figures) or "restored"
    return picture_grid({caption: np.stack(columns)}, names=list(views), scale=1)
