"""Receptive fields of networks, computed by interval arithmetic.

Each pixel of a layer depends on an interval of input pixels along each axis. A layer maps intervals
to intervals (Dumoulin & Visin, arXiv:1603.07285), layers compose, and the sum of two paths depends
on the union of their intervals. Tiled inference uses the result to restore crops exactly.

Note: In a network that changes the resolution, the interval relative to the pixel's position is not
the same for all pixels but repeats periodically. `ReceptiveFieldTracker` therefore tracks one
period of intervals, and the receptive field is their union relative to the pixel's position.
"""

import dataclasses
import math
from collections.abc import Sequence

from deconv_jax.errors import InputError, at_least, did_you_mean
from deconv_jax.ops.upsample import UpsampleMethod


@dataclasses.dataclass(frozen=True)
class ReceptiveField:
    """The receptive field of an output pixel along an axis, in input pixels.

    Output pixel o is at input pixel `o // scale`. It depends on at most `before` input pixels to
    the left of it (or above it) and `after` to the right (or below).

    Attributes:
      before: Extent to the left of, or above, the pixel's position.
      after: Extent to the right of, or below, the pixel's position.
      multiple: Alignment of the network. If the position and size of a crop of the input are
        multiples of it, then the network's output for the crop equals the crop of its output for
        the whole image, except within `before` and `after` of the cuts.
      scale: Output size over input size.
    """

    before: int
    after: int
    multiple: int = 1
    scale: int = 1


@dataclasses.dataclass(frozen=True)
class ReceptiveFieldTracker:
    """The input pixels that each pixel of a layer depends on.

    `ReceptiveFieldTracker()` is the input. Every method adds a layer and returns the tracker of its
    output: `ReceptiveFieldTracker().conv(3).conv(3, stride=2)`.

    Attributes:
      first_input: First input pixel that each pixel depends on, for one period of pixels from pixel
        0.
      last_input: Last input pixel that each pixel depends on.
      input_period: Number of input pixels by which the intervals shift from one period to the next.
    """

    first_input: tuple[int, ...] = (0,)
    last_input: tuple[int, ...] = (0,)
    input_period: int = 1

    def conv(
        self, kernel_size: int, stride: int = 1, dilation: int = 1, padding: int | None = None
    ) -> "ReceptiveFieldTracker":
        """Add a convolution or a pooling.

        Args:
          kernel_size: Size of the kernel or pooling window, in pixels.
          stride: Stride, in pixels.
          dilation: Distance between the weights of the kernel, in pixels.
          padding: Pixels before the image. None is "SAME" for sizes that are multiples of `stride`.

        Raises:
          InputError: The kernel size, stride or dilation is below 1.
        """
        extent = _extent(kernel_size, stride, dilation)
        before = _same_padding(extent, stride) if padding is None else padding
        common = math.lcm(len(self.first_input), stride)
        starts = [stride * pixel - before for pixel in range(common // stride)]
        return ReceptiveFieldTracker(
            self._first_inputs(starts),
            self._last_inputs([start + extent - 1 for start in starts]),
            self.input_period * common // len(self.first_input),
        )

    def conv_transpose(
        self, kernel_size: int, stride: int = 1, padding: int | None = None
    ) -> "ReceptiveFieldTracker":
        """Add a transposed convolution.

        Args:
          kernel_size: Size of the kernel, in pixels.
          stride: Stride, the ratio of output to input size.
          padding: Pixels that the output is cropped by at its start. None is "SAME".

        Raises:
          InputError: An argument is below 1, or the kernel is smaller than the stride, so that
            some output pixels depend on no input.
        """
        extent = _extent(kernel_size, stride, 1)
        at_least("kernel_size", kernel_size, stride)
        before = _same_padding(extent, stride) if padding is None else padding
        pixels = range(before, before + stride * len(self.first_input))
        return ReceptiveFieldTracker(
            self._first_inputs([-((extent - 1 - pixel) // stride) for pixel in pixels]),
            self._last_inputs([pixel // stride for pixel in pixels]),
            self.input_period,
        )

    def enlarge(self, factor: int) -> "ReceptiveFieldTracker":
        """Add nearest-neighbor upsampling or `ops.depth_to_space`.

        Raises:
          InputError: The factor is below 1.
        """
        at_least("factor", factor, 1)
        pixels = [pixel // factor for pixel in range(factor * len(self.first_input))]
        return ReceptiveFieldTracker(
            self._first_inputs(pixels), self._last_inputs(pixels), self.input_period
        )

    def bicubic(self, factor: int) -> "ReceptiveFieldTracker":
        """Add bicubic upsampling by `ops.imresize`.

        Raises:
          InputError: The factor is below 1.
        """
        at_least("factor", factor, 1)
        first, last = [], []
        for pixel in range(factor * len(self.first_input)):
            left, between = divmod(2 * pixel + 1 - factor, 2 * factor)
            # At an integer position only that pixel has a nonzero weight.
            first.append(left - 1 if between else left)
            last.append(left + 2 if between else left)
        return ReceptiveFieldTracker(
            self._first_inputs(first), self._last_inputs(last), self.input_period
        )

    def upsample(
        self, factor: int, method: UpsampleMethod, kernel_size: int
    ) -> "ReceptiveFieldTracker":
        """Add learned upsampling by `ops.upsample`.

        Args:
          factor: Ratio of output to input size.
          method: "transposed", "subpixel" or "resize".
          kernel_size: Size of the kernel: in input pixels for "subpixel", in output pixels
            otherwise.

        Raises:
          InputError: Unknown method, an argument is below 1, or the kernel of "transposed" is
            smaller than the factor.
        """
        layers = {
            "transposed": lambda: self.conv_transpose(kernel_size, factor),
            "subpixel": lambda: self.conv(kernel_size).enlarge(factor),
            "resize": lambda: self.enlarge(factor).conv(kernel_size),
        }
        if method not in layers:
            raise InputError(f"no upsampling {method!r}; {did_you_mean(method, layers)}")
        return layers[method]()

    def join(self, other: "ReceptiveFieldTracker") -> "ReceptiveFieldTracker":
        """Add or concatenate another path from the same input; each pixel depends on both paths.

        Raises:
          InputError: The paths have different resolutions.
        """
        if len(self.first_input) * other.input_period != len(other.first_input) * self.input_period:
            raise InputError(
                "joined paths must have the same resolution; got "
                f"{len(self.first_input)} pixels for {self.input_period} input pixels and "
                f"{len(other.first_input)} for {other.input_period}"
            )
        pixels = range(math.lcm(len(self.first_input), len(other.first_input)))
        firsts = zip(self._first_inputs(pixels), other._first_inputs(pixels), strict=True)
        lasts = zip(self._last_inputs(pixels), other._last_inputs(pixels), strict=True)
        input_period = math.lcm(self.input_period, other.input_period)
        return ReceptiveFieldTracker(tuple(map(min, firsts)), tuple(map(max, lasts)), input_period)

    def receptive_field(self) -> ReceptiveField:
        """Return the receptive field of the tracked network.

        Raises:
          InputError: The output's size is not an integer multiple of the input's.
        """
        scale, rest = divmod(len(self.first_input), self.input_period)
        if rest:
            raise InputError(
                "the output size of a restoration network must be an integer multiple of its input "
                f"size; got {len(self.first_input)} pixels for {self.input_period} input pixels"
            )
        positions = [pixel // scale for pixel in range(len(self.first_input))]
        before = max(p - first for p, first in zip(positions, self.first_input, strict=True))
        after = max(last - p for p, last in zip(positions, self.last_input, strict=True))
        return ReceptiveField(max(before, 0), max(after, 0), self.input_period, scale)

    def _first_inputs(self, pixels: Sequence[int]) -> tuple[int, ...]:
        return self._extend(self.first_input, pixels)

    def _last_inputs(self, pixels: Sequence[int]) -> tuple[int, ...]:
        return self._extend(self.last_input, pixels)

    def _extend(self, period: tuple[int, ...], pixels: Sequence[int]) -> tuple[int, ...]:
        """Look pixels up in the periodic continuation of one period of input pixels."""
        positions = [divmod(pixel, len(period)) for pixel in pixels]
        return tuple(period[phase] + self.input_period * count for count, phase in positions)


def _extent(kernel_size: int, stride: int, dilation: int) -> int:
    for name, value in (("kernel_size", kernel_size), ("stride", stride), ("dilation", dilation)):
        at_least(name, value, 1)
    return dilation * (kernel_size - 1) + 1


def _same_padding(extent: int, stride: int) -> int:
    """Return the pixels that "SAME" adds before an image whose size is a multiple of the stride."""
    return max(extent - stride, 0) // 2
