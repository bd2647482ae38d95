"""Size arithmetic of sliding windows with stride, dilation and padding, after arXiv:1603.07285.

A window maps `stride` consecutive image sizes to the same output size. `Window.transposed_size`
chooses the one that the adjoint returns.
"""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any, Literal

from jax import export

from deconv_jax.errors import InputError, as_int

Padding = Literal["SAME", "VALID"] | int | Sequence[Sequence[int]]
"""Padding of every spatial axis: by rule, in pixels on every side, or (before, after) per axis."""
Dimension = Any
"""An int, or a symbolic dimension of `jax.export`."""
IntOrPerAxis = int | Sequence[Dimension]
"""An int for every spatial axis, or one per axis."""
Size = tuple[Dimension, ...]
"""One int, or symbolic dimension, per spatial axis."""


@dataclasses.dataclass(frozen=True)
class Window:
    """The validated arguments of a sliding window, with one entry per spatial axis.

    Attributes:
      kernel_size: Number of taps.
      stride: Step between windows, in pixels.
      dilation: Distance between taps, in pixels.
      padding: Padding by rule, or pixels (before, after).
    """

    kernel_size: Size
    stride: Size
    dilation: Size
    padding: Literal["SAME", "VALID"] | tuple[tuple[int, int], ...]

    @classmethod
    def of(
        cls,
        kernel_size: Sequence[int],
        stride: IntOrPerAxis,
        padding: Padding,
        dilation: IntOrPerAxis = 1,
    ) -> "Window":
        """Validate an operator's arguments and broadcast them to all spatial axes.

        Raises:
          InputError: `kernel_size` is not a tuple or list, an entry of it, the stride or the
            dilation is below 1, padding is negative or of another form, or numbers of axes differ.
        """
        if not isinstance(kernel_size, tuple | list):
            raise InputError(f"kernel_size must be a tuple, one int per axis; got {kernel_size!r}")
        rank = len(kernel_size)
        return cls(
            per_axis("kernel_size", kernel_size, rank, 1),
            per_axis("stride", stride, rank, 1),
            per_axis("dilation", dilation, rank, 1),
            _checked_padding(padding, rank),
        )

    @property
    def extent(self) -> Size:
        """Extent of the dilated kernel, in pixels."""
        return extents(self.kernel_size, self.dilation)

    def pads(self, size: Size) -> tuple[tuple[int, int], ...]:
        """Return the padding (before, after) of images of `size`, in pixels, per axis."""
        if self.padding == "VALID":
            return ((0, 0),) * len(size)
        if self.padding != "SAME":
            return self.padding
        axes = zip(size, self.stride, self.extent, strict=True)
        totals = [max((-(-n // s) - 1) * s + extent - n, 0) for n, s, extent in axes]
        return tuple((total // 2, total - total // 2) for total in totals)

    def output_size(self, size: Sequence[Dimension]) -> Size:
        """Return the size to which the window maps `size`; raise InputError if it does not fit."""
        size = per_axis("size", size, len(self.kernel_size), 0)
        pads = self.pads(size)
        axes = list(zip(size, pads, self.extent, self.stride, strict=True))
        if any(n + sum(pad) < extent for n, pad, extent, _ in axes):
            raise InputError(
                f"an image of {size} pixels, padded by {pads}, is smaller than the dilated kernel "
                f"or window of {self.extent} pixels"
            )
        return tuple((n + sum(pad) - extent) // s + 1 for n, pad, extent, s in axes)

    def smallest_image_size(self, output_size: Size) -> Size:
        """Return the first of the `stride` consecutive sizes that are mapped to `output_size`, per axis.

        After arXiv:1603.07285, relationship 14. Sizes may be below 1 where padding is large.
        """
        if self.padding == "SAME":
            return tuple((m - 1) * s + 1 for m, s in zip(output_size, self.stride, strict=True))
        axes = zip(output_size, self.stride, self.extent, self.pads(output_size), strict=True)
        return tuple((m - 1) * s + extent - sum(pad) for m, s, extent, pad in axes)

    def transposed_size(
        self,
        size: Sequence[Dimension],
        output_padding: IntOrPerAxis | None,
        output_size: IntOrPerAxis | None,
    ) -> Size:
        """Return the output size of the adjoint for images of `size`.

        Without `output_padding` and `output_size` it is the smallest size that the window maps to
        `size` for padding in pixels, `size * stride` for "SAME", and the larger of the two for
        "VALID".

        Raises:
          InputError: `output_padding` or `output_size` is invalid, or the output would be empty.
        """
        size = per_axis("size", size, len(self.kernel_size), 0)
        lowest = self.smallest_image_size(size)
        if output_size is not None:
            if output_padding is not None:
                raise InputError(
                    "output_padding and output_size exclude each other; got "
                    f"output_padding={output_padding!r} and output_size={output_size!r}"
                )
            chosen = per_axis("output_size", output_size, len(size), 1)
            bounds = [(low, low + s - 1) for low, s in zip(lowest, self.stride, strict=True)]
            if any(n < low or n > high for n, (low, high) in zip(chosen, bounds, strict=True)):
                ranges = ", ".join(f"{low} to {high}" for low, high in bounds)
                raise InputError(
                    f"output_size {output_size!r} is impossible for an input of size {size} with "
                    f"stride {self.stride}, kernel {self.kernel_size} and padding {self.padding!r}; "
                    f"valid: {ranges}"
                )
        elif output_padding is not None:
            extra = per_axis("output_padding", output_padding, len(size), 0)
            if self.padding == "SAME":
                raise InputError(
                    'padding="SAME" takes output_size, not output_padding; got '
                    f"output_padding={output_padding!r}"
                )
            if any(e >= s for e, s in zip(extra, self.stride, strict=True)):
                raise InputError(
                    f"output_padding must be smaller than the stride {self.stride}; got "
                    f"{output_padding!r}"
                )
            chosen = tuple(low + e for low, e in zip(lowest, extra, strict=True))
        elif isinstance(self.padding, str):
            axes = zip(lowest, size, self.stride, strict=True)
            chosen = tuple(max(low, m * s) for low, m, s in axes)
        else:
            chosen = lowest
        if any(n < 1 for n in chosen):
            raise InputError(
                f"padding {self.padding!r} crops the whole output of an input of size {size} with "
                f"kernel {self.kernel_size} and stride {self.stride}"
            )
        return chosen


def extents(kernel_size: Size, dilation: Size) -> Size:
    """Return the extent of a dilated kernel, in pixels."""
    return tuple(d * (k - 1) + 1 for k, d in zip(kernel_size, dilation, strict=True))


def per_axis(name: str, value: IntOrPerAxis, rank: int, least: int) -> Size:
    """Broadcast the argument `name` to `rank` ints; symbolic dimensions of `jax.export` count as ints.

    Raises:
      InputError: The value is not an int or `rank` ints, or one is below `least`.
    """
    values = broadcast_ints(value, rank)
    if len(values) == rank and all(n >= least for n in values):
        return values
    raise InputError(f"{name} must be an int >= {least}, or {rank} of them; got {value!r}")


def broadcast_ints(value: IntOrPerAxis, count: int) -> Size:
    """Return an int `count` times, a sequence of ints as a tuple, and () for anything else."""
    number = _as_dimension(value)
    if number is not None:
        return (number,) * count
    if isinstance(value, str) or not isinstance(value, Iterable):
        return ()
    try:
        items = tuple(map(_as_dimension, value))
    except TypeError:  # a NumPy array without axes
        return ()
    numbers = tuple(item for item in items if item is not None)
    return numbers if len(numbers) == len(items) else ()


def _as_dimension(value: Any) -> Dimension | None:
    """Return an integer as an int and a symbolic dimension as it is; None for anything else."""
    return value if export.is_symbolic_dim(value) else as_int(value)


def _checked_padding(padding, rank: int):
    if isinstance(padding, str) and padding in ("SAME", "VALID"):
        return padding
    sides = padding if as_int(padding) is None else ((padding, padding),) * rank
    if not _is_row(sides, rank) or not all(_is_row(side, 2) for side in sides):
        raise InputError(
            f'padding must be "SAME", "VALID", an int or {rank} pairs (before, after); got '
            f"{padding!r}"
        )
    return tuple(per_axis("padding", side, 2, 0) for side in sides)


def _is_row(value: object, length: int) -> bool:
    return isinstance(value, tuple | list) and len(value) == length
