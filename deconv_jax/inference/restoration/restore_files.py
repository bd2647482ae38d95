"""What a restorer does to one file: read, restore, write, measure, compare.

Everything that is wrong with a file is an `InputError` of this file, and the next can be done. What
a reader would get wrong: results are measured in memory before they are rounded to the file's bits,
and the protocol rounds them, to 8 bits; and a result that cannot be measured is a result.
"""

import dataclasses
import functools
import math
import time
from collections.abc import Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int
from PIL import Image

from deconv_jax import ops
from deconv_jax.compilation import jit
from deconv_jax.data.images import FORMATS, read_image, write_image
from deconv_jax.errors import InputError, did_you_mean
from deconv_jax.inference.image_files import Job
from deconv_jax.inference.memory import catch_out_of_memory
from deconv_jax.inference.restoration.learned_restorer import (
    ImageRestorer,
    Pixels,
    ProgressCallback,
)
from deconv_jax.io import check_unused, kind_of, write_png
from deconv_jax.metrics.image import SSIM_LEAST_SIZE
from deconv_jax.metrics.protocol import EvaluationProtocol, Row
from deconv_jax.viz.grids import picture_grid

BICUBIC = "bicubic"
"""The baseline of an enlargement."""
PICTURED = 1024
"""Pixels a side of an image that a comparison shows; of a larger one it shows the middle."""
MEASURED_AT_ONCE = 2**20
"""Pixels of a band that is measured at once; SSIM takes some 150 bytes for each, colour included."""


@dataclasses.dataclass(frozen=True)
class Result:
    """What became of one file.

    Attributes:
      size: height and width of the result, pixels.
      seconds: that it took, reading and writing included.
      measured: "psnr" in dB and "ssim" of the result, if there is a reference.
      before: those of the file itself; where it is enlarged, of its bicubic enlargement.
      unmeasured: why it was not measured, if there should be a reference; otherwise None.
      notes: what reading the file left out or converted, see `ImageFile`.
    """

    size: tuple[int, int]
    seconds: float
    measured: Row | None = None
    before: Row | None = None
    unmeasured: str | None = None
    notes: tuple[str, ...] = ()


def restore_file(
    restorer: ImageRestorer,
    job: Job,
    progress: ProgressCallback,
    *,
    protocol: EvaluationProtocol | None = None,
    overwrite: bool = False,
) -> Result:
    """Restores one file; its result appears whole or not at all.

    Bit depth, alpha (bicubically enlarged), ICC profile, EXIF data and resolution stay as far as the
    format of the result's name has room for them, see `write_image`.

    Args:
      restorer: what does it.
      job: what to read and write.
      progress: who is told.
      protocol: of the measuring, for a job with a reference. A reference larger by less than the
        restorer's scale is cut at its bottom and right, as for "modcrop".
      overwrite: whether a result that is there already is replaced.

    Raises:
      InputError: whatever is wrong with this file, too little memory for it included; others may
        still be done. A result that could not be measured is no error, see `Result.unmeasured`.
    """
    started = time.perf_counter()
    protocol = protocol or EvaluationProtocol()
    if job.output.suffix.lower() not in FORMATS:
        raise InputError(
            f"no image format for {job.output}; {did_you_mean(job.output.suffix, FORMATS)}"
        )
    for path in filter(None, (job.output, job.comparison)):
        check_unused(path, overwrite=overwrite)
    with catch_out_of_memory(
        f"{job.source}: not enough memory; with a network, a smaller tile takes less"
    ):
        image = read_image(job.source)
        try:
            restored = restorer(image.pixels, progress)
        except InputError as error:
            raise InputError(f"{job.source}: {error}") from error
        write_image(job.output, restored, image)
        views = {"input": image.pixels}
        if restorer.scale > 1 and (job.reference or job.comparison) is not None:
            views[BICUBIC] = np.asarray(ops.imresize(jnp.asarray(image.pixels), restorer.scale))
        views["restored"] = restored
        rows: dict[str, Row] = {}
        unmeasured = None
        if job.reference is not None:
            try:
                with catch_out_of_memory("not enough memory"):
                    truth = _truth(job.reference, restored, restorer.scale)
                    for name, view in views.items():
                        if view.shape[:2] == restored.shape[:2]:
                            rows[name] = measure_in_bands(
                                protocol, *_measurable(protocol, view, truth)
                            )
                    views["reference"] = truth
            except InputError as error:
                rows, unmeasured = {}, str(error)
        if job.comparison is not None:
            picture = _comparison(views, rows, restorer.scale)
            write_png(job.comparison, picture)
    height, width = restored.shape[:2]
    seconds = time.perf_counter() - started
    before = rows.get(BICUBIC if restorer.scale > 1 else "input")
    measured = rows.get("restored"), before, unmeasured
    return Result((height, width), seconds, *measured, image.notes)


def measure_in_bands(protocol: EvaluationProtocol, output: Pixels, target: Pixels) -> Row:
    """`protocol.measure` of one image of any size, but for rounding, a band of rows at a time.

    The mean squared error is the mean of the bands', and SSIM the mean over windows: a band reaches
    as far into the next as the windows that begin in it. All bands have one shape, so an image
    needs one compiled program, whose memory does not grow with the image.

    Raises:
      InputError: as `protocol.measure`.
    """
    # Images that cannot be measured are refused here, without computing anything.
    jax.eval_shape(
        protocol.measure,
        *(jax.ShapeDtypeStruct((1, *view.shape), np.float32) for view in (output, target)),
    )
    border, protocol = protocol.border, dataclasses.replace(protocol, border=0)
    height, width = (n - 2 * border for n in output.shape[:2])
    inner = slice(border, border + height), slice(border, border + width)
    overlap = SSIM_LEAST_SIZE - 1
    windows = height - overlap
    step = math.ceil(windows / math.ceil(windows * width / MEASURED_AT_ONCE))
    squared_error = similarity = 0.0
    for start in range(0, windows, step):
        begun = min(step, windows - start)
        # The last band also has the rows in which no window begins.
        own = begun if start + begun < windows else begun + overlap
        rows = slice(start, start + begun + overlap)
        missing = (0, step - begun), (0, 0), (0, 0)
        band = (np.pad(view[inner][rows], missing)[None] for view in (output, target))
        sizes = (np.array([[n, width]]) for n in (own, begun + overlap))
        psnr, ssim = map(float, _measured(protocol, *band, *sizes))
        squared_error += own * 10 ** (-psnr / 10)
        similarity += begun * ssim
    mean = squared_error / height
    return {
        "psnr": -10 * math.log10(mean) if mean else math.inf,
        "ssim": similarity / windows,
    }


@functools.partial(jit, static_argnums=0)
def _measured(
    protocol: EvaluationProtocol,
    output: Array,
    target: Array,
    own: Int[Array, "1 2"],
    seen: Int[Array, "1 2"],
) -> tuple[Array, Array]:
    """PSNR of a band's own part and SSIM of the part whose windows are its own."""
    psnr = protocol.measure(output, target, own)["psnr"]
    return psnr[0], protocol.measure(output, target, seen)["ssim"][0]


def _truth(reference: Path, restored: Pixels, scale: int) -> Pixels:
    """What the result should be; raises InputError where there is no such image of its size."""
    if kind_of(reference) is None:
        raise InputError(f"there is no reference {reference}, nor one of another format")
    truth = _cut(read_image(reference).pixels, restored, scale)
    if truth.shape[:2] != restored.shape[:2]:
        raise InputError(
            f"the result has {restored.shape[:2]} pixels, its reference {reference} has "
            f"{truth.shape[:2]}"
        )
    return truth


def _measurable(
    protocol: EvaluationProtocol, output: Pixels, truth: Pixels
) -> tuple[Pixels, Pixels]:
    """Return both as `protocol` compares files.

    A protocol takes one channel for a Y of studio range, while a gray file has the full range. So Y
    of a gray file is measured of three equal channels.
    """
    if protocol.color == "rgb":
        return output, truth
    of_output, of_truth = (np.broadcast_to(v, (*v.shape[:2], 3)) for v in (output, truth))
    return of_output, of_truth


def _cut(truth: Pixels, restored: Pixels, scale: int) -> Pixels:
    height, width = restored.shape[:2]
    extra = truth.shape[0] - height, truth.shape[1] - width
    return truth[:height, :width] if all(0 <= n < scale for n in extra) else truth


def _comparison(views: Mapping[str, Pixels], rows: Mapping[str, Row], scale: int) -> Image.Image:
    """Draw the views side by side, each under its name and what was measured of it."""
    shown = PICTURED // scale
    starts = [max(n - shown, 0) // 2 for n in views["input"].shape[:2]]
    columns = []
    for name, view in views.items():
        # The input of an enlargement is shown in its own pixels, repeated.
        own, repeated = (1, scale) if name == "input" else (scale, 1)
        middle = view[tuple(slice(own * start, own * (start + shown)) for start in starts)]
        middle = middle.repeat(repeated, axis=0).repeat(repeated, axis=1)
        columns.append(np.broadcast_to(middle, (*middle.shape[:2], 3)))
    names = [f"{name} {rows[name]['psnr']:.2f} dB" if name in rows else name for name in views]
    return picture_grid({"": np.stack(columns)}, names=names, scale=1)
