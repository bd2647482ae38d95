"""Evaluation protocol of PSNR and SSIM: the preparation of images before they are compared.

Conventions of different papers differ by half a decibel, so a result needs its protocol. The steps are:

1. Clip the output to [0, 1] and round it to 8 bits, halves up, in the channels of the network. The target is
   a stored image and is not changed, so equal 8-bit files have no error.
2. With color="y", convert RGB outputs and targets to Y of BT.601, studio range. Images of one channel are
   taken to be Y already.
3. With `round_y`, round a Y that was converted from RGB to 8 bits.
4. Crop a border from all sides of both.

Python code (BasicSR, KAIR) converts the rounded RGB and does not round Y, the default of color="y".
The MATLAB code of SRCNN (arXiv:1501.00092) and FSRCNN (arXiv:1608.00367) applies `rgb2ycbcr` to the
stored 8-bit image, which rounds Y. `round_y` reproduces this if the output is Y and the target is
RGB or Y rounded from it.

Note: A gray file in a set of color images is measured in full range by the MATLAB code, and as RGB with three
equal channels, in studio range, by the Python code.
"""

import dataclasses
import functools
import math
from collections.abc import Iterable, Mapping
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from deconv_jax.compilation import jit
from deconv_jax.errors import InputError, at_least, check_choice
from deconv_jax.metrics.image import mean_squared_error, psnr, ssim
from deconv_jax.ops.color import rgb_to_y, rgb_to_y_uint8

EQUAL_TOLERANCE = 1e-6
"""Tolerance for equal pixels: above float32 rounding, below one level of blue, which is 4e-4 in Y."""

MeasuredColor = Literal["rgb", "y"]
ImageScore = dict[str, Any]
"""The "name" of an image and its "psnr" and "ssim"."""


@dataclasses.dataclass(frozen=True)
class EvaluationProtocol:
    """Preparation of outputs and targets before they are compared, both float images in [0, 1].

    Outputs are clipped, rounded to 8 bits, converted to Y and cropped, as far as the attributes say so. Targets
    are only converted and cropped.

    Attributes:
      color: "rgb" to compare all channels as they are, also of gray images; or "y" to convert images of three
        channels to Y of BT.601 in studio range, and take images of one channel as Y already.
      border: Pixels cropped from each side. Super-resolution by convention crops the scale factor.
      clip: Whether to clip the output to [0, 1].
      round_to_8_bits: Whether to round the output to multiples of 1/255; requires `clip`.
      round_y: Whether to round Y converted from RGB; requires color="y" and `round_to_8_bits`, and targets
        of 8 bits.

    Raises:
      InputError: The settings are invalid or contradict each other.
    """

    color: MeasuredColor = "rgb"
    border: int = 0
    clip: bool = True
    round_to_8_bits: bool = True
    round_y: bool = False

    def __post_init__(self) -> None:
        check_choice("color", self.color, MeasuredColor)
        at_least("border", self.border, 0)
        if self.round_to_8_bits and not self.clip:
            raise InputError(
                "round_to_8_bits requires clip=True, because 8 bits hold only [0, 1]; got clip=False"
            )
        if self.round_y and not (self.color == "y" and self.round_to_8_bits):
            raise InputError(
                f"round_y requires color='y' and round_to_8_bits=True; got color={self.color!r} and "
                f"round_to_8_bits={self.round_to_8_bits}"
            )

    def prepare(
        self, images: Float[Array, "batch height width channels"]
    ) -> Float[Array, "batch cropped_height cropped_width measured_channels"]:
        """Clip, round, convert and crop outputs, in that order and as far as the attributes say so.

        With `clip`, infinity becomes NaN, so that it is not mistaken for white or black.

        Returns:
          Images of at least float32, with one channel if color="y".

        Raises:
          InputError: The images are not floats of four axes, have neither 1 nor 3 channels, or are all border.
        """
        images = _at_least_float32(images)
        if self.clip:
            images = jnp.where(jnp.isfinite(images), jnp.clip(images, 0.0, 1.0), jnp.nan)
        if self.round_to_8_bits:
            images = _levels(images) / 255.0
        return self.prepare_target(images)

    def prepare_target(
        self, images: Float[Array, "batch height width channels"]
    ) -> Float[Array, "batch cropped_height cropped_width measured_channels"]:
        """Convert targets to Y if color="y" and they have three channels, and crop them by `border`.

        Raises:
          InputError: The images are not floats of four axes, have neither 1 nor 3 channels, or are all border.
        """
        images = _at_least_float32(images)
        _, height, width, channels = images.shape
        if self.color == "y" and channels == 3:
            if self.round_y:
                images = rgb_to_y_uint8(_levels(images).astype("uint8")) / jnp.float32(255.0)
            else:
                images = rgb_to_y(images)
        border = self.border
        if 2 * border >= min(height, width):
            raise InputError(
                f"a border of {border} pixels leaves nothing of an image of {height} x {width} pixels"
            )
        return images[:, border : height - border, border : width - border]

    def measure(
        self,
        output: Float[Array, "batch height width channels"],
        target: Float[Array, "batch height width target_channels"],
        size: Int[Array, "batch 2"] | None = None,
    ) -> dict[str, Float[Array, " batch"]]:
        """Return the "psnr" in dB and the "ssim" of each image.

        Images that are equal after their preparation have infinite PSNR. An output with NaN, or with
        infinity and `clip`, has NaN in both, unless that is in padding or the border.

        Args:
          output: Restored images, neither clipped nor rounded.
          target: Images to compare with. With color="y", a Y output may have an RGB target.
          size: Height and width of each image without padding, where images are padded at the bottom and
            right to share an array. The border is cropped inside it. An image with a side below 11 after
            cropping has NaN as "ssim".

        Raises:
          InputError: The images are not floats of 1 or 3 channels; the arrays differ in size, or have a side
            below 11 without the border; or their channels cannot be compared, such as RGB outputs with gray targets, which
            would compare studio range with full range.
        """
        channels = output.shape[-1], target.shape[-1]
        if channels[0] != channels[1] and (self.color, *channels) != ("y", 1, 3):
            raise InputError(
                f"outputs of {channels[0]} channels cannot be compared with targets of "
                f"{channels[1]} with color={self.color!r}; give gray images three equal channels"
            )
        prepared = self.prepare(output), self.prepare_target(target)
        if size is not None:
            size = size - 2 * self.border
        decibels = psnr(*prepared, size)
        if self.round_to_8_bits:
            # The last bit of level / 255, or of its Y, depends on what the compiler fuses.
            different = ~(jnp.abs(prepared[0] - prepared[1]) < EQUAL_TOLERANCE)
            zeros = jnp.zeros_like(prepared[0])
            equal = mean_squared_error(different.astype(zeros.dtype), zeros, size) == 0
            decibels = jnp.where(equal, jnp.inf, decibels)
        return {"psnr": decibels, "ssim": ssim(*prepared, size)}

    def measure_all(
        self, pairs: Iterable[tuple[str, Array | np.ndarray, Array | np.ndarray]]
    ) -> list[ImageScore]:
        """Measure images of any size one by one, compiling once per size.

        Args:
          pairs: Name, output and target of each image, the latter two (height, width, channels).

        Returns:
          A dict of "name", "psnr" in dB and "ssim" for each pair, in their order.

        Raises:
          InputError: As in `measure`.
        """
        rows = []
        for name, output, target in pairs:
            figures = self._measure_jitted(jnp.asarray(output)[None], jnp.asarray(target)[None])
            rows.append({"name": name} | {key: float(value[0]) for key, value in figures.items()})
        return rows

    def describe(self) -> str:
        """Return the protocol in words, for a record or the caption of a table."""
        channels = {
            "rgb": "all channels",
            "y": "the channel Y of BT.601 in studio range, "
            + ("rounded to 8 bits" if self.round_y else "itself not rounded"),
        }[self.color]
        steps = [
            word
            for word, done in (
                ("clipped to [0, 1]", self.clip),
                ("rounded to 8 bits", self.round_to_8_bits),
            )
            if done
        ]
        pixels = "pixel" if self.border == 1 else "pixels"
        border = f"a border of {self.border} {pixels}" if self.border else "no border"
        return (
            f"PSNR and SSIM (Gaussian window of 11 x 11 pixels, sigma 1.5, inside the image) of "
            f"{channels}; output {' and '.join(steps) or 'neither clipped nor rounded'}; {border} "
            f"cropped; a set's figure is the mean of its images'"
        )

    @functools.partial(jit, static_argnums=0)
    def _measure_jitted(self, output: Array, target: Array) -> dict[str, Array]:
        return self.measure(output, target)


def mean_of_rows(rows: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Return the mean of each metric over the rows of `measure_all`, in double precision, without "name".

    Raises:
      InputError: There is no row.
    """
    rows = list(rows)
    if not rows:
        raise InputError("the set to average over has no images")
    names = [name for name in rows[0] if name != "name"]
    return {name: math.fsum(row[name] for row in rows) / len(rows) for name in names}


def _at_least_float32(images: Array) -> Array:
    """Convert to at least float32; shorter floats cannot represent all 8-bit levels."""
    valid = images.ndim == 4 and images.shape[-1] in (1, 3)
    if not valid or not jnp.issubdtype(images.dtype, jnp.floating):
        raise InputError(
            "an evaluation protocol requires floats in [0, 1], (batch, height, width, 1 or 3 channels); got "
            f"{images.dtype} {images.shape}"
        )
    return images.astype(jnp.promote_types(images.dtype, jnp.float32))


def _levels(images: Array) -> Array:
    """Round images in [0, 1] to levels 0 to 255, halves up like MATLAB."""
    return jnp.floor(255.0 * images + 0.5)
