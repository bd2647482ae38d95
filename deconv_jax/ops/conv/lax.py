"""A convolution, its adjoint and its kernel gradient as one `lax` convolution each.

GPU and TPU libraries are optimized for these. A transposed convolution has the kernel gradient of
the convolution that it transposes, with input and output exchanged. Unlike the result of automatic
transposition, this kernel gradient never convolves an image dilated with zeros.

Shapes, with the channels split into groups:

    x         (batch, *input_size, groups, inputs)
    kernel    (*kernel_size, inputs, groups, outputs)
    y         (batch, *output_size, groups, outputs)
"""

import dataclasses

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from deconv_jax.ops.conv.window import Size, extents


@dataclasses.dataclass(frozen=True)
class Geometry:
    """The static arguments of a zero-padded convolution, with one entry per spatial axis.

    Tap t of output pixel i multiplies input pixel `stride * i + dilation * t - pad_before`.

    Attributes:
      input_size: Size of x, in pixels.
      output_size: Size of y, in pixels.
      kernel_size: Number of taps.
      stride: Step between output positions, in pixels.
      dilation: Distance between taps, in pixels.
      pad_before: Padding before the image, in pixels; negative where the image is cropped.
      precision: Precision of the products, as for `jax.default_matmul_precision`.
    """

    input_size: Size
    output_size: Size
    kernel_size: Size
    stride: Size
    dilation: Size
    pad_before: Size
    precision: str | None = None

    @property
    def padding(self) -> list[tuple[int, int]]:
        """Padding (before, after), in pixels; negative where the image is cropped."""
        extent = extents(self.kernel_size, self.dilation)
        sizes = (self.input_size, self.output_size, extent, self.stride, self.pad_before)
        axes = zip(*sizes, strict=True)
        return [(low, s * (m - 1) + e - n - low) for n, m, e, s, low in axes]


def conv(x: Array, kernel: Array, geometry: Geometry) -> Array:
    """Compute y (batch, *output_size, groups, outputs) from x and the kernel.

    x has shape (batch, *input_size, groups, inputs), the kernel (*kernel_size, inputs, groups,
    outputs).
    """
    y = canonical_conv(
        flatten_channels(x),
        flatten_channels(kernel),
        geometry,
        window_strides=geometry.stride,
        padding=geometry.padding,
        rhs_dilation=geometry.dilation,
        feature_group_count=x.shape[-2],
    )
    return split_channels(y, x.shape[-2])


def conv_transpose(kernel: Array, y: Array, geometry: Geometry) -> Array:
    """Compute x: convolve y, dilated by the stride, with the flipped kernel.

    Shapes are those of `conv`.

    On a GPU, XLA calls cuDNN's backward-data convolution, which skips the zeros of the dilated y, only if the
    kernel of the convolution is the `reverse` itself; an operation in between makes it store the zeros and
    multiply by them. It also stores them if there are groups.
    """
    flipped = flip_geometry(geometry)
    kernel = flatten_channels(kernel.swapaxes(-3, -1))
    x = canonical_conv(
        flatten_channels(y),
        lax.rev(kernel, range(kernel.ndim - 2)),
        geometry,
        window_strides=flipped.stride,
        padding=flipped.padding,
        lhs_dilation=geometry.stride,
        rhs_dilation=geometry.dilation,
        feature_group_count=y.shape[-2],
    )
    return split_channels(x, y.shape[-2])


def kernel_gradient(x: Array, y: Array, geometry: Geometry) -> Array:
    """Compute the gradient of the kernel by convolving x with the gradient y of the output.

    The result has the shape of the kernel, (*kernel_size, inputs, groups, outputs).

    The batch axis is passed as the input channels, and the channels of x as the batch axis.
    """
    gradient = canonical_conv(
        flatten_channels(x).swapaxes(0, -1),
        jnp.moveaxis(flatten_channels(y), 0, -2),
        geometry,
        window_strides=geometry.dilation,
        padding=geometry.padding,
        rhs_dilation=geometry.stride,
        batch_group_count=x.shape[-2],
    )
    return split_channels(jnp.moveaxis(gradient, 0, -2), x.shape[-2])


def flip(kernel: Array, geometry: Geometry) -> tuple[Array, Geometry]:
    """Return kernel and geometry of the stride-1 convolution that maps the dilated y to x."""
    return flip_kernel(kernel), flip_geometry(geometry)


def flip_kernel(kernel: Array) -> Array:
    """Flip a kernel along its spatial axes, and exchange its inputs and outputs."""
    return lax.rev(kernel, range(kernel.ndim - 3)).swapaxes(-3, -1)


def flip_geometry(geometry: Geometry) -> Geometry:
    """Return the geometry of the stride-1 convolution that maps the dilated y to x."""
    extent = extents(geometry.kernel_size, geometry.dilation)
    axes = zip(geometry.stride, geometry.output_size, strict=True)
    return dataclasses.replace(
        geometry,
        input_size=tuple(s * (m - 1) + 1 for s, m in axes),
        output_size=geometry.input_size,
        stride=(1,) * len(extent),
        pad_before=tuple(e - 1 - b for e, b in zip(extent, geometry.pad_before, strict=True)),
    )


def canonical_conv(lhs: Array, rhs: Array, geometry: Geometry, **options) -> Array:
    """Apply `lax.conv_general_dilated` in the channels-last layout that XLA calls canonical.

    Inside a loop, XLA's CPU backend runs convolutions of any other layout as a naive loop nest.
    """
    space = "DHW"[3 - len(geometry.kernel_size) :]
    layout = (f"N{space}C", f"{space}IO", f"N{space}C")
    return lax.conv_general_dilated(
        lhs, rhs, dimension_numbers=layout, precision=geometry.precision, **options
    )


def flatten_channels(array: Array) -> Array:
    """Merge the last two axes, (groups, channels per group)."""
    return array.reshape(*array.shape[:-2], array.shape[-2] * array.shape[-1])


def split_channels(array: Array, groups: int) -> Array:
    """Split the last axis into (groups, channels per group)."""
    return array.reshape(*array.shape[:-1], groups, array.shape[-1] // groups)
