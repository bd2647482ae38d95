"""PSNR and SSIM of a restored file against its reference, in bounded memory."""

import dataclasses
import functools
import math
from pathlib import Path

import jax
import numpy as np
from jaxtyping import Array, Int

from deconv_jax.compilation import jit
from deconv_jax.data.images import read_image
from deconv_jax.errors import InputError
from deconv_jax.inference.restoration.learned_restorer import Pixels
from deconv_jax.io import kind_of
from deconv_jax.metrics.image import SSIM_MIN_SIZE
from deconv_jax.metrics.protocol import EvaluationProtocol, ImageScore

BAND_PIXELS = 2**20
"""Number of pixels of a band; SSIM uses about 150 bytes for each, with color."""


def read_reference(path: Path, restored: Pixels, scale: int) -> Pixels:
    """Return the reference of a restored image, in [0, 1].

    A reference that is larger by less than `scale` pixels is cropped at the bottom and right ("modcrop").

    Raises:
      InputError: The reference does not exist, is unreadable or has another size.
    """
    if kind_of(path) is None:
        raise InputError(f"reference {path} does not exist in any image format")
    truth = _modcrop(read_image(path).pixels, restored, scale)
    if truth.shape[:2] != restored.shape[:2]:
        raise InputError(
            f"the result has {restored.shape[:2]} pixels, but its reference {path} has "
            f"{truth.shape[:2]}"
        )
    return truth


def measure_image(protocol: EvaluationProtocol, output: Pixels, truth: Pixels) -> ImageScore:
    """Return "psnr" in dB and "ssim" of an image that was read from a file.

    A protocol with color="y" interprets a single channel as studio-range Y, but gray files have the full
    range. Gray images are therefore measured as three equal channels.

    Raises:
      InputError: The images differ in size or, with color="rgb", in their channels; or have a side below
        11 pixels without the border.
    """
    if protocol.color != "rgb":
        output, truth = (np.broadcast_to(v, (*v.shape[:2], 3)) for v in (output, truth))
    return measure_in_bands(protocol, output, truth)


def measure_in_bands(protocol: EvaluationProtocol, output: Pixels, target: Pixels) -> ImageScore:
    """Return `protocol.measure` of one image, up to rounding, computed in bands of rows.

    The mean squared error is the mean over the bands, and SSIM is the mean over windows: a band
    extends as far into the next one as the windows that start in it. All bands have the same shape,
    so an image needs one compiled program, whose memory does not grow with the image.

    Raises:
      InputError: The images differ in size, their channels cannot be compared, or a side is below 11
        pixels without the border.
    """
    # Raises the errors of `measure` without computing anything.
    jax.eval_shape(
        protocol.measure,
        *(jax.ShapeDtypeStruct((1, *view.shape), np.float32) for view in (output, target)),
    )
    border, protocol = protocol.border, dataclasses.replace(protocol, border=0)
    height, width = (n - 2 * border for n in output.shape[:2])
    inner = slice(border, border + height), slice(border, border + width)
    overlap = SSIM_MIN_SIZE - 1
    windows = height - overlap
    step = math.ceil(windows / math.ceil(windows * width / BAND_PIXELS))
    squared_error = similarity = 0.0
    for start in range(0, windows, step):
        started = min(step, windows - start)
        # The last band also owns the rows in which no window starts.
        own = started if start + started < windows else started + overlap
        rows = slice(start, start + started + overlap)
        missing = (0, step - started), (0, 0), (0, 0)
        band = (np.pad(view[inner][rows], missing)[None] for view in (output, target))
        sizes = (np.array([[n, width]]) for n in (own, started + overlap))
        psnr, ssim = map(float, _measure_band(protocol, *band, *sizes))
        squared_error += own * 10 ** (-psnr / 10)
        similarity += started * ssim
    mean = squared_error / height
    return {
        "psnr": -10 * math.log10(mean) if mean else math.inf,
        "ssim": similarity / windows,
    }


@functools.partial(jit, static_argnums=0)
def _measure_band(
    protocol: EvaluationProtocol,
    output: Array,
    target: Array,
    own_size: Int[Array, "1 2"],
    window_size: Int[Array, "1 2"],
) -> tuple[Array, Array]:
    """Return PSNR of a band's own rows and SSIM of the windows that start in them."""
    psnr = protocol.measure(output, target, own_size)["psnr"]
    return psnr[0], protocol.measure(output, target, window_size)["ssim"][0]


def _modcrop(truth: Pixels, restored: Pixels, scale: int) -> Pixels:
    height, width = restored.shape[:2]
    extra = truth.shape[0] - height, truth.shape[1] - width
    return truth[:height, :width] if all(0 <= n < scale for n in extra) else truth
