"""A convolution, its adjoint and its kernel gradient as `lax` convolutions: one each.

This is what GPU and TPU libraries are made for; `cpu` has what XLA's CPU backend does better. The
kernel gradient is that of an ordinary convolution for both operators, its images in exchanged
roles, and never slides a window over an image spread with zeros.

Arrays have their channels split into (groups, channels per group): x is (batch, *space, groups,
inputs), kernel (*space, inputs, groups, outputs), y (batch, *space, groups, outputs).
"""

import dataclasses

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from deconv_jax.ops.window import extents


@dataclasses.dataclass(frozen=True)
class Geometry:
    """What a zero-padded convolution needs beside its arrays, a figure an axis of space; static.

    Output pixel i sees, through tap t, input pixel `stride * i + dilation * t - before`.
    """

    input_size: tuple[int, ...]
    output_size: tuple[int, ...]
    kernel_size: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    before: tuple[int, ...]
    """Pixels of padding before the image; those after it follow from the sizes."""
    precision: str | None = None
    """Of the products, as `jax.default_matmul_precision` names it."""

    @property
    def extent(self) -> tuple[int, ...]:
        """Pixels between the first and the last tap of the dilated kernel, both included."""
        return extents(self.kernel_size, self.dilation)

    @property
    def padding(self) -> list[tuple[int, int]]:
        """Pixels before and after the image; negative after it where `conv` leaves some out."""
        axes = zip(
            self.input_size, self.output_size, self.extent, self.stride, self.before, strict=True
        )
        return [(low, s * (m - 1) + extent - n - low) for n, m, extent, s, low in axes]


def native_conv(x: Array, kernel: Array, geometry: Geometry) -> Array:
    """y by the one convolution that it is."""
    y = _canonical_conv(
        _flat(x),
        _flat(kernel),
        geometry,
        window_strides=geometry.stride,
        padding=geometry.padding,
        rhs_dilation=geometry.dilation,
        feature_group_count=x.shape[-2],
    )
    return _split(y, x.shape[-2])


def native_conv_transpose(kernel: Array, y: Array, geometry: Geometry) -> Array:
    """x by a convolution of y, spread with zeros, with the kernel turned round."""
    kernel, turned = turned_round(kernel, geometry)
    x = _canonical_conv(
        _flat(y),
        _flat(kernel),
        geometry,
        window_strides=turned.stride,
        padding=turned.padding,
        lhs_dilation=geometry.stride,
        rhs_dilation=geometry.dilation,
        feature_group_count=y.shape[-2],
    )
    return _split(x, y.shape[-2])


def turned_round(kernel: Array, geometry: Geometry) -> tuple[Array, Geometry]:
    """The convolution with stride 1 that the adjoint is of y, once y is spread with zeros.

    Returns:
      Its kernel, flipped in space and with inputs and outputs exchanged, and its geometry.
    """
    turned = lax.rev(kernel, range(len(geometry.kernel_size))).swapaxes(-3, -1)
    return turned, turned_geometry(geometry)


def turned_geometry(geometry: Geometry) -> Geometry:
    """The geometry of `turned_round`, for an image of the size that y has spread with zeros."""
    spread = tuple(
        s * (m - 1) + 1 for s, m in zip(geometry.stride, geometry.output_size, strict=True)
    )
    return dataclasses.replace(
        geometry,
        input_size=spread,
        output_size=geometry.input_size,
        stride=(1,) * len(spread),
        before=tuple(e - 1 - b for e, b in zip(geometry.extent, geometry.before, strict=True)),
    )


def native_kernel_gradient(x: Array, y: Array, geometry: Geometry) -> Array:
    """The kernel's gradient by a convolution that slides y over x.

    Its sum runs over the batch: so x's channels take the place of the batch, and y's images that
    of the kernel.
    """
    gradient = _canonical_conv(
        _flat(x).swapaxes(0, -1),
        jnp.moveaxis(_flat(y), 0, -2),
        geometry,
        window_strides=geometry.dilation,
        padding=geometry.padding,
        rhs_dilation=geometry.stride,
        batch_group_count=x.shape[-2],
    )
    return _split(jnp.moveaxis(gradient, 0, -2), x.shape[-2])


def _canonical_conv(lhs: Array, rhs: Array, geometry: Geometry, **options) -> Array:
    # Every convolution is handed to XLA in this one layout. Within a loop its CPU backend brings
    # none other into it, and runs what is not on a plain loop nest, very slowly.
    space = "DHW"[3 - len(geometry.kernel_size) :]
    layout = (f"N{space}C", f"{space}IO", f"N{space}C")
    return lax.conv_general_dilated(
        lhs, rhs, dimension_numbers=layout, precision=geometry.precision, **options
    )


def _flat(array: Array) -> Array:
    """Merges the last two axes."""
    return array.reshape(*array.shape[:-2], array.shape[-2] * array.shape[-1])


def _split(array: Array, groups: int) -> Array:
    """Splits the last axis into (groups, channels per group)."""
    return array.reshape(*array.shape[:-1], groups, array.shape[-1] // groups)
