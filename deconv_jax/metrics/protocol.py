"""What is done to a restored image before it is measured, as a value that every figure can name.

Half a decibel lies between the customs of different papers, so a figure means nothing without its
protocol. The steps are taken in this order:

1. the output is clipped to [0, 1] and rounded to 8 bits, halves upwards, in the channels that the
   network gave; the target is a stored image and is left as it is, so that equal files of 8 bits have
   no error at all;
2. RGB of either becomes Y of BT.601 studio range (color="y"); an image of one channel is taken for
   Y already;
3. with `round_y`, a Y that was made of RGB is rounded to 8 bits too;
4. a border is cropped from all sides of both.

Evaluation code in Python (BasicSR, KAIR) takes Y of the rounded RGB and leaves it unrounded, the
default of "y". The MATLAB code published with SRCNN (arXiv:1501.00092) and FSRCNN
(arXiv:1608.00367) takes `rgb2ycbcr` of the stored 8-bit image, which rounds Y: that is `round_y`,
for an output that is Y itself and a target that is RGB or its rounded Y. The trap is a gray file in
a set of colour images: MATLAB's code measures it as it is, in full range, Python's as RGB with
three equal channels, in studio range.
"""

import dataclasses
import functools
import math
from collections.abc import Iterable, Mapping
from typing import Any, Literal, get_args

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from deconv_jax.compilation import jit
from deconv_jax.errors import InputError, at_least, did_you_mean
from deconv_jax.metrics.image import mean_squared_error, psnr, ssim
from deconv_jax.ops.color import rgb_to_y, rgb_to_y_uint8

_ROUNDING = 1e-6
"""Difference up to which prepared pixels are equal: float32 rounds by less, one level of blue is 4e-4 in Y."""

MeasuredColor = Literal["rgb", "y"]
Row = dict[str, Any]
"""An image's figures, "psnr" and "ssim", and its "name"."""


@dataclasses.dataclass(frozen=True)
class EvaluationProtocol:
    """How outputs and targets, float images in [0, 1], are made comparable; see the module.

    Attributes:
      color: "rgb", all channels as they are, gray images included; or "y".
      border: pixels cropped from each side; super-resolution crops as many as it enlarges.
      clip: whether the output is clipped to [0, 1].
      round_to_8_bits: whether the output is rounded to multiples of 1/255; needs `clip`.
      round_y: whether Y made of RGB is rounded as well; needs color="y" and 8-bit outputs and
        targets.

    Raises:
      InputError: for settings that are no protocol.
    """

    color: MeasuredColor = "rgb"
    border: int = 0
    clip: bool = True
    round_to_8_bits: bool = True
    round_y: bool = False

    def __post_init__(self) -> None:
        if self.color not in get_args(MeasuredColor):
            raise InputError(
                f"no color {self.color!r}; {did_you_mean(self.color, get_args(MeasuredColor))}"
            )
        at_least("border", self.border, 0)
        if self.round_to_8_bits and not self.clip:
            raise InputError(
                "round_to_8_bits needs clip, for 8 bits hold [0, 1] alone; got clip=False"
            )
        if self.round_y and not (self.color == "y" and self.round_to_8_bits):
            raise InputError(
                f"round_y needs color='y' and round_to_8_bits; got color={self.color!r} and "
                f"round_to_8_bits={self.round_to_8_bits}"
            )

    def prepare(
        self, images: Float[Array, "batch height width channels"]
    ) -> Float[Array, "batch cropped_height cropped_width measured_channels"]:
        """Outputs as they are measured: clipped, rounded, converted and cropped, in that order.

        Raises:
          InputError: for images not of floats, or of neither 1 nor 3 channels.
        """
        images = _in_full_precision(images)
        if self.clip:
            images = jnp.where(jnp.isfinite(images), jnp.clip(images, 0.0, 1.0), jnp.nan)
        if self.round_to_8_bits:
            images = _levels(images) / 255.0
        return self.prepare_target(images)

    def prepare_target(
        self, images: Float[Array, "batch height width channels"]
    ) -> Float[Array, "batch cropped_height cropped_width measured_channels"]:
        """Targets as they are measured: converted and cropped.

        Raises:
          InputError: for images not of floats, of neither 1 nor 3 channels, or without anything
            inside the border.
        """
        images = _in_full_precision(images)
        _, height, width, channels = images.shape
        if self.color == "y" and channels == 3:
            if self.round_y:
                images = rgb_to_y_uint8(_levels(images).astype("uint8")) / jnp.float32(255.0)
            else:
                images = rgb_to_y(images)
        border = self.border
        if 2 * border >= min(height, width):
            raise InputError(
                f"a border of {border} pixels leaves nothing of an image of {height} x {width}"
            )
        return images[:, border : height - border, border : width - border]

    def measure(
        self,
        output: Float[Array, "batch height width channels"],
        target: Float[Array, "batch height width target_channels"],
        size: Int[Array, "batch 2"] | None = None,
    ) -> dict[str, Float[Array, " batch"]]:
        """ "psnr" in dB and "ssim" of each image, for `masked_sums` or a table's rows.

        Equal images of 8 bits have infinite PSNR; an output that holds infinity or NaN has NaN.

        Args:
          output: restored images, not yet clipped or rounded.
          target: what they should be; for color="y", Y of one channel or RGB as well.
          size: (height, width) of the images themselves where they were extended at the right and
            the bottom to share an array; what lies beyond is neither measured nor a border.

        Raises:
          InputError: for images that differ in size, or of less than 11 pixels without the border;
            for channels that cannot be compared, as RGB outputs and targets of one channel, which
            would set studio range against full range.
        """
        channels = output.shape[-1], target.shape[-1]
        if channels[0] != channels[1] and (self.color, *channels) != ("y", 1, 3):
            raise InputError(
                f"outputs of {channels[0]} channels cannot be compared with targets of "
                f"{channels[1]} in color={self.color!r}; give gray images three equal channels"
            )
        prepared = self.prepare(output), self.prepare_target(target)
        if size is not None:
            size = size - 2 * self.border
        decibels = psnr(*prepared, size)
        if self.round_to_8_bits:
            # The last bit of a level / 255, or of its Y, depends on what a compiler fuses.
            apart = ~(jnp.abs(prepared[0] - prepared[1]) < _ROUNDING)
            none = jnp.zeros_like(prepared[0])
            equal = mean_squared_error(apart.astype(none.dtype), none, size) == 0
            decibels = jnp.where(equal, jnp.inf, decibels)
        return {"psnr": decibels, "ssim": ssim(*prepared, size)}

    def measure_all(
        self, pairs: Iterable[tuple[str, Array | np.ndarray, Array | np.ndarray]]
    ) -> list[Row]:
        """Measures images of any sizes one by one.

        Args:
          pairs: name, output and target, (height, width, channels) each. A program is compiled for
            each size.

        Raises:
          InputError: as `measure`.
        """
        rows = []
        for name, output, target in pairs:
            figures = self._measure_jitted(jnp.asarray(output)[None], jnp.asarray(target)[None])
            rows.append({"name": name} | {key: float(value[0]) for key, value in figures.items()})
        return rows

    def describe(self) -> str:
        """The protocol in words, for a result file or a table's caption."""
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
    """The mean of each figure over the rows of `measure_all`, in double precision.

    Raises:
      InputError: there is no row.
    """
    rows = list(rows)
    if not rows:
        raise InputError("the set to take the mean of has no images")
    names = [name for name in rows[0] if name != "name"]
    return {name: math.fsum(row[name] for row in rows) / len(rows) for name in names}


def _in_full_precision(images: Array) -> Array:
    """Images of at least float32, for shorter floats do not hold the levels of 8 bits."""
    plain = images.ndim == 4 and images.shape[-1] in (1, 3)
    if not plain or not jnp.issubdtype(images.dtype, jnp.floating):
        raise InputError(
            "a protocol is for floats in [0, 1], (batch, height, width, 1 or 3 channels); got "
            f"{images.dtype} {images.shape}"
        )
    return images.astype(jnp.promote_types(images.dtype, jnp.float32))


def _levels(images: Array) -> Array:
    """The nearest of the levels 0 to 255 of images in [0, 1], halves upwards as MATLAB's."""
    return jnp.floor(255.0 * images + 0.5)
