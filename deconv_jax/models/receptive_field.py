"""Which input pixels an output pixel depends on: the arithmetic behind exact work on tiles.

A layer of windows maps the pixels that a pixel depends on to an interval along each axis
(Dumoulin & Visin, arXiv:1603.07285); the intervals of a network's layers compose, and where two
paths join the wider one counts. What a reader would get wrong: for a network that changes the size
the interval is not the same for every pixel. It repeats with a period, so a `ReceptiveFieldTracker` carries one
period of intervals through the network, and the field is their union about the pixel's own place.
"""

import dataclasses
import math
from collections.abc import Sequence

from deconv_jax.errors import InputError, at_least, did_you_mean
from deconv_jax.ops.upsample import UpsampleMethod


@dataclasses.dataclass(frozen=True)
class ReceptiveField:
    """What an output pixel depends on, along an axis, in input pixels.

    Output pixel o has its own place at input pixel `o // scale`, and depends on no input pixel
    further than `before` to the left of it (or above it) or `after` to the right (or below).

    Attributes:
      before, after: pixels.
      multiple: a crop of the input whose position is a multiple of it gives the crop of the output
        beyond `before` and `after` of its cuts; sizes have to be multiples of it too.
      scale: output pixels an input pixel.
    """

    before: int
    after: int
    multiple: int = 1
    scale: int = 1


@dataclasses.dataclass(frozen=True)
class ReceptiveFieldTracker:
    """The input pixels that each pixel of a layer depends on; `ReceptiveFieldTracker()` is the input itself.

    A method is a layer and returns the tracker of its output: `ReceptiveFieldTracker().conv(3).conv(3, stride=2)`.

    Attributes:
      first, last: of a period of the layer's pixels, from pixel 0 on, the first and last input
        pixel of each.
      multiple: input pixels that the interval moves by with a period.
    """

    first_input: tuple[int, ...] = (0,)
    last_input: tuple[int, ...] = (0,)
    input_period: int = 1

    def conv(
        self, kernel_size: int, stride: int = 1, dilation: int = 1, padding: int | None = None
    ) -> "ReceptiveFieldTracker":
        """`ops.conv`, or a pooling.

        Args:
          kernel_size: taps.
          stride: in pixels.
          dilation: distance between taps, in pixels.
          padding: pixels before the image; unless given "SAME" for sizes that `stride` divides.

        Raises:
          InputError: a figure out of range.
        """
        extent = _extent(kernel_size, stride, dilation)
        before = _same(extent, stride) if padding is None else padding
        together = math.lcm(len(self.first_input), stride)
        starts = [stride * pixel - before for pixel in range(together // stride)]
        return ReceptiveFieldTracker(
            self._all_first(starts),
            self._all_last([start + extent - 1 for start in starts]),
            self.input_period * together // len(self.first_input),
        )

    def conv_transpose(
        self, kernel_size: int, stride: int = 1, padding: int | None = None
    ) -> "ReceptiveFieldTracker":
        """`ops.conv_transpose`; arguments as for `conv`.

        Raises:
          InputError: a figure out of range, or a kernel smaller than the stride, which leaves
            pixels that depend on none.
        """
        extent = _extent(kernel_size, stride, 1)
        at_least("kernel_size", kernel_size, stride)
        before = _same(extent, stride) if padding is None else padding
        pixels = range(before, before + stride * len(self.first_input))
        return ReceptiveFieldTracker(
            self._all_first([-((extent - 1 - pixel) // stride) for pixel in pixels]),
            self._all_last([pixel // stride for pixel in pixels]),
            self.input_period,
        )

    def enlarge(self, factor: int) -> "ReceptiveFieldTracker":
        """`ops.resize` to the nearest pixel, or `ops.depth_to_space`; raises for a factor below 1."""
        at_least("factor", factor, 1)
        pixels = [pixel // factor for pixel in range(factor * len(self.first_input))]
        return ReceptiveFieldTracker(
            self._all_first(pixels), self._all_last(pixels), self.input_period
        )

    def bicubic(self, factor: int) -> "ReceptiveFieldTracker":
        """`ops.imresize` to `factor` times the size; raises InputError for a factor below 1."""
        at_least("factor", factor, 1)
        first, last = [], []
        for pixel in range(factor * len(self.first_input)):
            left, between = divmod(2 * pixel + 1 - factor, 2 * factor)
            # On a pixel the cubic is one there and zero at all others.
            first.append(left - 1 if between else left)
            last.append(left + 2 if between else left)
        return ReceptiveFieldTracker(
            self._all_first(first), self._all_last(last), self.input_period
        )

    def upsample(
        self, factor: int, method: UpsampleMethod, kernel_size: int
    ) -> "ReceptiveFieldTracker":
        """`ops.upsample`.

        Raises:
          InputError: an unknown method, or a figure out of range.
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
        """The sum or concatenation with another path from the same input.

        Raises:
          InputError: the paths have not the same resolution.
        """
        if len(self.first_input) * other.input_period != len(other.first_input) * self.input_period:
            raise InputError(
                f"paths join at one resolution; got {len(self.first_input)} pixels for "
                f"{self.input_period} of the input and {len(other.first_input)} for {other.input_period}"
            )
        pixels = range(math.lcm(len(self.first_input), len(other.first_input)))
        firsts = zip(self._all_first(pixels), other._all_first(pixels), strict=True)
        lasts = zip(self._all_last(pixels), other._all_last(pixels), strict=True)
        multiple = math.lcm(self.input_period, other.input_period)
        return ReceptiveFieldTracker(tuple(map(min, firsts)), tuple(map(max, lasts)), multiple)

    def receptive_field(self) -> ReceptiveField:
        """Of the network that ends here.

        Raises:
          InputError: the output's size is not a whole multiple of the input's.
        """
        scale, rest = divmod(len(self.first_input), self.input_period)
        if rest:
            raise InputError(
                "the output of a restoration network is a whole multiple of its input's size; got "
                f"{len(self.first_input)} pixels for {self.input_period}"
            )
        places = [pixel // scale for pixel in range(len(self.first_input))]
        before = max(place - first for place, first in zip(places, self.first_input, strict=True))
        after = max(last - place for place, last in zip(places, self.last_input, strict=True))
        return ReceptiveField(max(before, 0), max(after, 0), self.input_period, scale)

    def _all_first(self, pixels: Sequence[int]) -> tuple[int, ...]:
        return self._periodic(self.first_input, pixels)

    def _all_last(self, pixels: Sequence[int]) -> tuple[int, ...]:
        return self._periodic(self.last_input, pixels)

    def _periodic(self, period: tuple[int, ...], pixels: Sequence[int]) -> tuple[int, ...]:
        places = [divmod(pixel, len(period)) for pixel in pixels]
        return tuple(period[phase] + self.input_period * count for count, phase in places)


def _extent(kernel_size: int, stride: int, dilation: int) -> int:
    for name, value in (("kernel_size", kernel_size), ("stride", stride), ("dilation", dilation)):
        at_least(name, value, 1)
    return dilation * (kernel_size - 1) + 1


def _same(extent: int, stride: int) -> int:
    """Pixels before an image that "SAME" adds where the stride divides the size."""
    return max(extent - stride, 0) // 2
