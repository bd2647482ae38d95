"""A convolution, its adjoint and its kernel gradient: one `lax` convolution each.

GPU and TPU libraries are made for these. The kernel gradient of a transposed convolution is that of
the convolution, with its images in exchanged roles. It never convolves an image dilated with zeros,
as automatic transposition would.

Arrays have their channels split into (groups, channels per group): x is (batch, *space, groups,
inputs), kernel (*space, inputs, groups, outputs), y (batch, *space, groups, outputs).
"""

import dataclasses

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from deconv_jax.ops.conv.window import Size, extents


@dataclasses.dataclass(frozen=True)
class Geometry:
    """The static arguments of a zero-padded convolution, one number per spatial axis.

    Output pixel i meets, through tap t, input pixel `stride * i + dilation * t - before`.
    """

    input_size: Size
    output_size: Size
    kernel_size: Size
    stride: Size
    dilation: Size
    before: Size
    """Pixels of padding before the image; negative if the image is cropped."""
    precision: str | None = None
    """Precision of the products, as in `jax.default_matmul_precision`."""

    @property
    def padding(self) -> list[tuple[int, int]]:
        """Pixels of padding before and after the image; negative where the image is cropped."""
        extent = extents(self.kernel_size, self.dilation)
        axes = zip(self.input_size, self.output_size, extent, self.stride, self.before, strict=True)
        return [(low, s * (m - 1) + e - n - low) for n, m, e, s, low in axes]


def conv(x: Array, kernel: Array, geometry: Geometry) -> Array:
    """Return y."""
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
    """Return x: the convolution of y, dilated by the stride, with the flipped kernel."""
    kernel, flipped = flip(kernel, geometry)
    x = canonical_conv(
        flatten_channels(y),
        flatten_channels(kernel),
        geometry,
        window_strides=flipped.stride,
        padding=flipped.padding,
        lhs_dilation=geometry.stride,
        rhs_dilation=geometry.dilation,
        feature_group_count=y.shape[-2],
    )
    return split_channels(x, y.shape[-2])


def kernel_gradient(x: Array, y: Array, geometry: Geometry) -> Array:
    """Return the kernel's gradient: the convolution of x with y, summed over the batch.

    The batch takes the place of the input channels, and x's channels that of the batch.
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
    """Return kernel and geometry of the convolution with stride 1 that maps y, dilated, to x."""
    return flip_kernel(kernel), flip_geometry(geometry)


def flip_kernel(kernel: Array) -> Array:
    """Flip a kernel in space, and exchange its inputs and outputs."""
    return lax.rev(kernel, range(kernel.ndim - 3)).swapaxes(-3, -1)


def flip_geometry(geometry: Geometry) -> Geometry:
    """Return the geometry of the convolution with stride 1 that maps y, dilated, to x."""
    extent = extents(geometry.kernel_size, geometry.dilation)
    axes = zip(geometry.stride, geometry.output_size, strict=True)
    return dataclasses.replace(
        geometry,
        input_size=tuple(s * (m - 1) + 1 for s, m in axes),
        output_size=geometry.input_size,
        stride=(1,) * len(extent),
        before=tuple(e - 1 - b for e, b in zip(extent, geometry.before, strict=True)),
    )


def canonical_conv(lhs: Array, rhs: Array, geometry: Geometry, **options) -> Array:
    """Apply `lax.conv_general_dilated` in XLA's canonical layout, channels last.

    Within a loop, XLA's CPU backend computes any other layout by a naive loop nest.
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
