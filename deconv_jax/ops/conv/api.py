"""Convolution and its adjoint in 1, 2 or 3 dimensions, after Dumoulin & Visin, arXiv:1603.07285.

One identity holds for every combination of arguments:

    <conv(x, kernel), y> = <x, conv_transpose(y, kernel)>

Note: `conv_transpose` takes the same kernel and the same arguments as the `conv` it transposes. So
its kernel is laid out (*kernel size, out channels / groups, in channels).

A `conv` maps `stride` consecutive image sizes to one output size, and arguments of `conv_transpose`
select one of them. With a number as padding that is `output_padding`, as in PyTorch. "SAME" and
"VALID" select as Keras does. `output_size` names the size.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Literal

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from deconv_jax.errors import InputError, as_index
from deconv_jax.ops.conv import primitives
from deconv_jax.ops.conv.lax import Geometry
from deconv_jax.ops.conv.window import OnePerAxis, Padding, Size, Window

PaddingMode = Literal["zeros", "circular", "reflect", "edge"]

_NUMPY_PAD_MODE = {"circular": "wrap", "reflect": "reflect", "edge": "edge"}


def conv(
    x: Float[Array, "*batch_and_size in_channels"],
    kernel: Float[Array, "*kernel_size in_channels_per_group out_channels"],
    *,
    stride: OnePerAxis = 1,
    padding: Padding = "SAME",
    padding_mode: PaddingMode = "zeros",
    dilation: OnePerAxis = 1,
    groups: int = 1,
) -> Float[Array, "*batch_and_output_size out_channels"]:
    """Compute a strided, dilated, grouped cross-correlation: the "convolution" of neural networks.

    Args:
      x: images with any number of batch axes, and 1, 2 or 3 spatial axes, as many as the kernel.
      kernel: weights; the last axis but one holds `in_channels / groups`.
      stride: step between output positions, in pixels.
      padding: "SAME" (output size `ceil(size / stride)`, the odd pixel after the image), "VALID"
        (none), pixels on every side, or pixels (before, after) for each spatial axis.
      padding_mode: padding value: zeros, the image wrapped around ("circular"), mirrored without
        its border pixel ("reflect"), or its border pixel repeated ("edge").
      dilation: distance between kernel taps, in pixels.
      groups: number of independent channel groups; `in_channels` makes the convolution depthwise.

    Returns:
      Images of the size that `conv_output_size` gives. Half-precision products are summed in
      float32, and the sum is rounded once.

    Raises:
      InputError: for arguments that do not fit one another.
    """
    x, kernel, rank = _promote("conv", x, kernel, groups)
    if x.shape[-1] != kernel.shape[-2] * groups or kernel.shape[-1] % groups:
        raise InputError(
            f"conv: kernel {kernel.shape} with groups={groups} takes {kernel.shape[-2] * groups} "
            f"input channels and out channels divisible by groups; got images {x.shape}"
        )
    dtype = x.dtype
    x, kernel = _wide_enough(x, kernel, padding_mode)
    batch, size = x.shape[: -rank - 1], x.shape[-rank - 1 : -1]
    window = Window.of(kernel.shape[:rank], stride, padding, dilation)
    pad, geometry = _split_padding(window, size, padding_mode)
    x = pad(x.reshape(math.prod(batch), *size, groups, kernel.shape[-2]))
    y = primitives.conv(x, _split_groups(kernel, groups), geometry)
    return y.reshape(*batch, *geometry.output_size, kernel.shape[-1]).astype(dtype)


def conv_transpose(
    y: Float[Array, "*batch_and_size in_channels"],
    kernel: Float[Array, "*kernel_size out_channels_per_group in_channels"],
    *,
    stride: OnePerAxis = 1,
    padding: Padding = "SAME",
    padding_mode: PaddingMode = "zeros",
    dilation: OnePerAxis = 1,
    groups: int = 1,
    output_padding: OnePerAxis | None = None,
    output_size: OnePerAxis | None = None,
) -> Float[Array, "*batch_and_output_size out_channels"]:
    """Compute the adjoint of `conv` with the same arguments: the "deconvolution layer".

    Args:
      y: images of the size and channels that the transposed `conv` returns.
      kernel: kernel of that `conv`; the last axis but one holds `out_channels / groups`.
      stride: distance between input pixels in the output, in pixels.
      padding: as for `conv`; the pixels it adds there are cropped here.
      padding_mode: as for `conv`; its transpose adds the padding back onto the pixels it came from.
      dilation: distance between kernel taps, in pixels.
      groups: number of independent channel groups.
      output_padding: which of the `stride` possible output sizes to return, counted from the
        smallest; not with "SAME".
      output_size: that size itself, in pixels.

    Returns:
      Images of the size that `conv_transpose_output_size` gives. Half-precision products are
      summed in float32, and the sum is rounded once.

    Raises:
      InputError: for arguments that do not fit one another.
    """
    y, kernel, rank = _promote("conv_transpose", y, kernel, groups)
    if y.shape[-1] != kernel.shape[-1] or y.shape[-1] % groups:
        raise InputError(
            f"conv_transpose: kernel {kernel.shape} with groups={groups} takes {kernel.shape[-1]} "
            f"input channels, divisible by groups; got images {y.shape}"
        )
    dtype = y.dtype
    y, kernel = _wide_enough(y, kernel, padding_mode)
    batch, size = y.shape[: -rank - 1], y.shape[-rank - 1 : -1]
    window = Window.of(kernel.shape[:rank], stride, padding, dilation)
    chosen = window.transposed_size(size, output_padding, output_size)
    pad, geometry = _split_padding(window, chosen, padding_mode)
    y = y.reshape(math.prod(batch), *size, groups, y.shape[-1] // groups)
    x = primitives.conv_transpose(_split_groups(kernel, groups), y, geometry)
    if padding_mode != "zeros":
        # Made of x, so that it varies over the same devices under `shard_map`.
        unpadded = lax.full_like(x, 0, shape=(x.shape[0], *chosen, *x.shape[-2:]))
        (x,) = jax.vjp(pad, unpadded)[1](x)
    return x.reshape(*batch, *chosen, groups * kernel.shape[-2]).astype(dtype)


def conv_output_size(
    size: Sequence[int],
    kernel_size: Sequence[int],
    *,
    stride: OnePerAxis = 1,
    padding: Padding = "SAME",
    dilation: OnePerAxis = 1,
) -> Size:
    """Return the size of `conv`'s output for images of `size`, in pixels; arguments as for `conv`.

    It is `floor((size + padding - dilation * (kernel_size - 1) - 1) / stride) + 1` (relationship 6
    of arXiv:1603.07285, with dilation), which is `ceil(size / stride)` for "SAME".

    Raises:
      InputError: for a padded image smaller than the kernel, or invalid arguments.
    """
    return Window.of(kernel_size, stride, padding, dilation).output_size(size)


def conv_transpose_output_size(
    size: Sequence[int],
    kernel_size: Sequence[int],
    *,
    stride: OnePerAxis = 1,
    padding: Padding = "SAME",
    dilation: OnePerAxis = 1,
    output_padding: OnePerAxis | None = None,
    output_size: OnePerAxis | None = None,
) -> Size:
    """Return the size of `conv_transpose`'s output for images of `size`, in pixels.

    Arguments as for `conv_transpose`. It is one of the sizes that `conv` maps to `size`,

        (size - 1) * stride + dilation * (kernel_size - 1) + 1 - padding + a,  0 <= a < stride

    (relationship 14 of arXiv:1603.07285, with dilation): the one with `a = output_padding`, or
    `output_size` itself. Without either, padding in pixels takes a = 0 as in PyTorch. "SAME" takes
    `size * stride` as in Keras, and "VALID" the same, or the smallest size if that is larger.

    Raises:
      InputError: for a size that `conv` does not map to `size`, or invalid arguments.
    """
    window = Window.of(kernel_size, stride, padding, dilation)
    return window.transposed_size(size, output_padding, output_size)


def _split_padding(window: Window, size: Size, mode: PaddingMode):
    """Return (pad, geometry) of a `conv` of images of `size`; `pad` adds padding other than zeros."""
    output_size, pads = window.output_size(size), window.pads(size)
    geometry = Geometry(
        size,
        output_size,
        window.kernel_size,
        window.stride,
        window.dilation,
        tuple(before for before, _ in pads),
        jax.config.jax_default_matmul_precision,  # type: ignore[attr-defined]
    )
    if mode == "zeros":
        return (lambda x: x), geometry
    if mode not in _NUMPY_PAD_MODE:
        raise InputError(
            f"padding_mode is one of zeros, {', '.join(_NUMPY_PAD_MODE)}; got {mode!r}"
        )
    excluded = 1 if mode == "reflect" else 0
    for n, pad in zip(size, pads, strict=True):
        if mode != "edge" and max(pad) > n - excluded:
            raise InputError(
                f"padding_mode={mode!r} pads at most {n - excluded} pixels of an image of {size}; "
                f"got padding {pads}"
            )
    widths = ((0, 0), *pads, (0, 0), (0, 0))
    padded = tuple(n + sum(pad) for n, pad in zip(size, pads, strict=True))
    geometry = dataclasses.replace(geometry, input_size=padded, before=(0,) * len(size))
    return (lambda x: jnp.pad(x, widths, mode=_NUMPY_PAD_MODE[mode])), geometry


def _wide_enough(images: Array, kernel: Array, mode: PaddingMode) -> tuple[Array, Array]:
    """Cast to at least float32, so that padding is added back before the result is rounded."""
    if mode == "zeros":
        return images, kernel
    wide = jnp.promote_types(images.dtype, jnp.float32)
    return images.astype(wide), kernel.astype(wide)


def _split_groups(kernel: Array, groups: int) -> Array:
    return kernel.reshape(*kernel.shape[:-1], groups, kernel.shape[-1] // groups)


def _promote(name: str, images: Array, kernel: Array, groups: int) -> tuple[Array, Array, int]:
    """Return both in the wider of their types, and the number of spatial axes."""
    if (as_index(groups) or 0) < 1:
        raise InputError(f"groups is an int >= 1; got {groups!r}")
    rank = kernel.ndim - 2
    if not 1 <= rank <= 3 or images.ndim < rank + 1:
        raise InputError(
            f"{name}: a kernel has 1, 2 or 3 spatial axes and 2 of channels, and images have as many "
            f"spatial axes and channels; got kernel {kernel.shape} and images {images.shape}"
        )
    dtype = jnp.promote_types(images.dtype, kernel.dtype)
    if not jnp.issubdtype(dtype, jnp.inexact):
        raise InputError(
            f"{name}: images and kernel must hold floating-point numbers; got {images.dtype} and "
            f"{kernel.dtype}"
        )
    if 0 in (images.shape[-1], *kernel.shape):
        raise InputError(
            f"{name}: channels and kernel must not be empty; got kernel {kernel.shape} and images "
            f"{images.shape}"
        )
    return images.astype(dtype), kernel.astype(dtype), rank
