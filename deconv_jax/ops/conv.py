"""Convolution and its adjoint in any number of dimensions, after Dumoulin & Visin, arXiv:1603.07285.

One law holds for every combination of arguments:

    <conv(x, kernel), y> = <x, conv_transpose(y, kernel)>

`conv_transpose` takes the *same* kernel and the same arguments as the `conv` it transposes, so its
kernel is laid out (*kernel size, out / groups, in): the layout seen from the forward convolution,
which maps "out" to "in". That is what a reader would get wrong.

A `conv` maps `stride` neighbouring image sizes to one output size; its adjoint has to be told which
of them to return. A number as padding leaves it to `output_padding`, as in PyTorch; "SAME" and
"VALID" choose as Keras does; `output_size` names it.
"""

import dataclasses
from collections.abc import Sequence
from typing import Literal

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from deconv_jax.errors import InputError
from deconv_jax.ops import trilinear
from deconv_jax.ops.formulations import Geometry
from deconv_jax.ops.window import OnePerAxis, Padding, Size, Window

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
    """Strided, dilated, grouped cross-correlation, the "convolution" of neural networks.

    Args:
      x: images with 1, 2 or 3 axes of space, as many as the kernel has; any number of batch axes
        before them, or none.
      kernel: weights; its last axis but one holds `in_channels / groups`.
      stride: step between output positions, in pixels.
      padding: "SAME" (output size `ceil(size / stride)`, the odd pixel after the image), "VALID"
        (none), pixels on every side, or pixels (before, after) for each axis of space.
      padding_mode: what the padding holds: zeros, the image wrapped around ("circular"), mirrored
        without its border pixel ("reflect"), or its border pixel repeated ("edge").
      dilation: distance between kernel taps, in pixels.
      groups: number of independent channel groups; `in_channels` of them for a depthwise one.

    Returns:
      Images of the size that `conv_output_size` gives. Half-precision products are summed in
      float32 and the sum is rounded once.

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
    x = pad(x.reshape(-1, *size, groups, kernel.shape[-2]))
    y = trilinear.conv(x, _split_groups(kernel, groups), geometry)
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
    """The adjoint of `conv` with the same arguments: the "deconvolution layer".

    Args:
      y: images, of the size and channels that the transposed `conv` puts out.
      kernel: the kernel of that `conv`; its last axis but one holds `out_channels / groups`.
      stride: distance between input pixels in the output, in pixels.
      padding: as for `conv`: what it added there is cut off here.
      padding_mode: as for `conv`; its transpose adds the padding back onto the pixels it came from.
      dilation: distance between kernel taps, in pixels.
      groups: number of independent channel groups.
      output_padding: which of the `stride` sizes that `conv` maps to y's size to return, counted
        from the smallest; not with "SAME".
      output_size: that size itself, instead.

    Returns:
      Images of the size that `conv_transpose_output_size` gives. Half-precision products are
      summed in float32 and the sum is rounded once.

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
    y = y.reshape(-1, *size, groups, y.shape[-1] // groups)
    x = trilinear.conv_transpose(_split_groups(kernel, groups), y, geometry)
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
    """The size of `conv`'s output for images of `size`.

    It is `floor((size + padding - dilation * (kernel_size - 1) - 1) / stride) + 1` (relationship 6
    of arXiv:1603.07285, with dilation), which is `ceil(size / stride)` for "SAME".

    Args:
      size: of the image, in pixels, an axis of space each.
      kernel_size: taps, an axis each.
      stride: as for `conv`.
      padding: as for `conv`.
      dilation: as for `conv`.

    Returns:
      Pixels, an axis each.

    Raises:
      InputError: for a padded image smaller than the kernel, or wrong arguments.
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
    """The size of `conv_transpose`'s output for images of `size`.

    One of those that `conv` maps to `size`, which are

        (size - 1) * stride + dilation * (kernel_size - 1) + 1 - padding + a,  0 <= a < stride

    (relationship 14 of arXiv:1603.07285, with dilation): the one with `a = output_padding`, or
    `output_size` itself. Where neither is given, padding in pixels takes a = 0 as in PyTorch, and
    the words choose as in Keras: "SAME" `size * stride`, "VALID" as much, or the smallest if that
    is larger.

    Args:
      size: of the image, in pixels, an axis of space each.
      kernel_size: taps, an axis each.
      stride: as for `conv_transpose`.
      padding: as for `conv_transpose`.
      dilation: as for `conv_transpose`.
      output_padding: as for `conv_transpose`.
      output_size: as for `conv_transpose`.

    Returns:
      Pixels, an axis each.

    Raises:
      InputError: for a size that `conv` does not map to `size`, or wrong arguments.
    """
    window = Window.of(kernel_size, stride, padding, dilation)
    return window.transposed_size(size, output_padding, output_size)


def _split_padding(window: Window, size: Size, mode: PaddingMode):
    """(pad, geometry) of a `conv` of images of `size`: zeros stay in it, other modes come first."""
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
    spare = 1 if mode == "reflect" else 0
    for n, pad in zip(size, pads, strict=True):
        if mode != "edge" and max(pad) > n - spare:
            raise InputError(
                f"padding_mode={mode!r} pads at most {n - spare} pixels of an image of {size}; "
                f"got padding {pads}"
            )
    widths = ((0, 0), *pads, (0, 0), (0, 0))
    padded = tuple(n + sum(pad) for n, pad in zip(size, pads, strict=True))
    geometry = dataclasses.replace(geometry, input_size=padded, before=(0,) * len(size))
    return (lambda x: jnp.pad(x, widths, mode=_NUMPY_PAD_MODE[mode])), geometry


def _wide_enough(images: Array, kernel: Array, mode: PaddingMode) -> tuple[Array, Array]:
    """In a type in which padding can be added back before the result is rounded."""
    if mode == "zeros":
        return images, kernel
    wide = jnp.promote_types(images.dtype, jnp.float32)
    return images.astype(wide), kernel.astype(wide)


def _split_groups(kernel: Array, groups: int) -> Array:
    return kernel.reshape(*kernel.shape[:-1], groups, kernel.shape[-1] // groups)


def _promote(name: str, images: Array, kernel: Array, groups: int) -> tuple[Array, Array, int]:
    """Both in the wider of their types, and the number of axes of space."""
    if not isinstance(groups, int) or groups < 1:
        raise InputError(f"groups is an int >= 1; got {groups!r}")
    rank = kernel.ndim - 2
    if not 1 <= rank <= 3 or images.ndim < rank + 1:
        raise InputError(
            f"{name}: a kernel has 3, 4 or 5 axes (1, 2 or 3 of space), images at least as many of "
            f"space and channels; got kernel {kernel.shape} and images {images.shape}"
        )
    dtype = jnp.promote_types(images.dtype, kernel.dtype)
    if not jnp.issubdtype(dtype, jnp.inexact):
        raise InputError(
            f"{name}: images or kernel hold floating-point numbers; got {images.dtype} and "
            f"{kernel.dtype}"
        )
    if 0 in (images.shape[-1], *kernel.shape):
        raise InputError(
            f"{name}: neither channels nor kernel are empty; got kernel {kernel.shape} and images "
            f"{images.shape}"
        )
    return images.astype(dtype), kernel.astype(dtype), rank
