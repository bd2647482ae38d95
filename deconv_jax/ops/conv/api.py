"""Convolution and its adjoint in 1, 2 or 3 dimensions.

The adjoint identity holds for every combination of arguments:

    <conv(x, kernel), y> = <x, conv_transpose(y, kernel)>

Size arithmetic follows Dumoulin & Visin, arXiv:1603.07285. A `conv` maps `stride` consecutive image
sizes to the same output size, so `conv_transpose` has to choose one of them:

    padding             default output size      to choose another
    pixels              the smallest             output_padding (as PyTorch), output_size
    "SAME", "VALID"     that of Keras            output_size

Note: `conv_transpose` takes the kernel and the arguments of the `conv` it transposes. Its kernel
therefore has the shape (*kernel_size, out_channels / groups, in_channels).
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Literal

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from deconv_jax.errors import InputError, as_int
from deconv_jax.ops.conv import primitives
from deconv_jax.ops.conv.lax import Geometry
from deconv_jax.ops.conv.window import IntOrPerAxis, Padding, Size, Window

PaddingMode = Literal["zeros", "circular", "reflect", "edge"]

_NUMPY_PAD_MODE = {"circular": "wrap", "reflect": "reflect", "edge": "edge"}


def conv(
    x: Float[Array, "*batch_and_size in_channels"],
    kernel: Float[Array, "*kernel_size in_channels_per_group out_channels"],
    *,
    stride: IntOrPerAxis = 1,
    padding: Padding = "SAME",
    padding_mode: PaddingMode = "zeros",
    dilation: IntOrPerAxis = 1,
    groups: int = 1,
) -> Float[Array, "*batch_and_output_size out_channels"]:
    """Compute a strided, dilated, grouped cross-correlation: the "convolution" of neural networks.

    Args:
      x: Images: any number of batch axes, then 1, 2 or 3 spatial axes, then channels.
      kernel: Weights of shape (*kernel_size, in_channels / groups, out_channels), with as many
        spatial axes as the images.
      stride: Step between output positions, in pixels: an int, or one per spatial axis.
      padding: "SAME" for an output of size `ceil(size / stride)`, "VALID" for no padding, the
        number of pixels on every side, or a pair (before, after) per spatial axis. If "SAME" needs
        an odd number of pixels, the extra one goes at the end.
      padding_mode: Values of the padding: "zeros"; "circular" for the image wrapped around;
        "reflect" for the image mirrored without repeating its border pixel; "edge" for the border
        pixel repeated.
      dilation: Distance between neighboring kernel taps, in pixels: an int, or one per spatial
        axis.
      groups: Number of channel groups, each convolved on its own. `groups=in_channels` makes the
        convolution depthwise.

    Returns:
      Images of the size that `conv_output_size` returns: `ceil(size / stride)` for "SAME". Their
      type is the wider one of x and kernel.
      Products of half-precision inputs are summed in float32, and the sum is rounded once.

    Raises:
      InputError: x or the kernel has another number of axes or channels, or does not hold floats;
        `groups` does not divide the channels; the padded images are smaller than the dilated
        kernel; the padding mode cannot pad that far ("reflect" adds at most size - 1 pixels,
        "circular" at most size); or an argument has another form or is out of range.

    Example:
      >>> x = jnp.ones((1, 32, 32, 3))
      >>> kernel = jnp.ones((3, 3, 3, 16))
      >>> conv(x, kernel, stride=2).shape
      (1, 16, 16, 16)
    """
    x, kernel, rank = _promote("conv", x, kernel, groups)
    if x.shape[-1] != kernel.shape[-2] * groups:
        raise InputError(
            f"conv: kernel {kernel.shape} with groups={groups} requires images with "
            f"{kernel.shape[-2] * groups} channels; got images {x.shape}"
        )
    if kernel.shape[-1] % groups:
        raise InputError(
            f"conv: output channels must be divisible by groups={groups}; got kernel {kernel.shape}"
        )
    dtype = x.dtype
    x, kernel = _widen_for_padding(x, kernel, padding_mode)
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
    stride: IntOrPerAxis = 1,
    padding: Padding = "SAME",
    padding_mode: PaddingMode = "zeros",
    dilation: IntOrPerAxis = 1,
    groups: int = 1,
    output_padding: IntOrPerAxis | None = None,
    output_size: IntOrPerAxis | None = None,
) -> Float[Array, "*batch_and_output_size out_channels"]:
    """Compute a transposed convolution ("deconvolution"): the adjoint of `conv`.

    It is the linear map Aᵀ where A is `conv` with the same kernel and arguments.

    Args:
      y: Images of the shape that `conv` returns: any number of batch axes, then 1, 2 or 3 spatial
        axes, then channels.
      kernel: Weights of shape (*kernel_size, out_channels / groups, in_channels): the kernel of the
        `conv` being transposed.
      stride: Distance in the output between neighboring input pixels, in pixels: an int, or one
        per spatial axis.
      padding: Padding of the `conv` being transposed, as for `conv`. The output is cropped by it.
      padding_mode: Values of the padding of the `conv` being transposed. Unless "zeros", the
        cropped pixels are added to the pixels that `conv` would have copied into the padding.
      dilation: Distance between neighboring kernel taps, in pixels: an int, or one per spatial
        axis.
      groups: Number of channel groups, each convolved on its own.
      output_padding: Pixels to add to the smallest possible output size, from 0 to `stride - 1`: an
        int, or one per spatial axis. With "SAME", or together with `output_size`, it is an error.
      output_size: Spatial size of the output, in pixels: an int, or one per spatial axis. It must
        be a size that `conv` maps to the size of y.

    Returns:
      Images of the size that `conv_transpose_output_size` returns: by default `size * stride` for
      "SAME", and the smallest possible size for padding in pixels. Their type is the wider one of y
      and kernel. Products of half-precision inputs are summed in float32, and the sum is rounded
      once.

    Raises:
      InputError: y or the kernel has another number of axes or channels, or does not hold floats;
        `groups` does not divide the channels; `conv` does not map `output_size` to the size of y;
        the padding mode cannot pad that far ("reflect" adds at most size - 1 pixels, "circular" at
        most size); or an argument has another form or is out of range.

    Example:
      >>> y = jnp.ones((1, 16, 16, 16))
      >>> kernel = jnp.ones((4, 4, 3, 16))
      >>> x = conv_transpose(y, kernel, stride=2)
      >>> x.shape
      (1, 32, 32, 3)
      >>> conv(x, kernel, stride=2).shape == y.shape
      True
    """
    y, kernel, rank = _promote("conv_transpose", y, kernel, groups)
    if y.shape[-1] != kernel.shape[-1]:
        raise InputError(
            f"conv_transpose: kernel {kernel.shape} requires images with {kernel.shape[-1]} "
            f"channels; got images {y.shape}"
        )
    if y.shape[-1] % groups:
        raise InputError(
            f"conv_transpose: input channels must be divisible by groups={groups}; got images "
            f"{y.shape}"
        )
    dtype = y.dtype
    y, kernel = _widen_for_padding(y, kernel, padding_mode)
    batch, size = y.shape[: -rank - 1], y.shape[-rank - 1 : -1]
    window = Window.of(kernel.shape[:rank], stride, padding, dilation)
    chosen = window.transposed_size(size, output_padding, output_size)
    pad, geometry = _split_padding(window, chosen, padding_mode)
    y = y.reshape(math.prod(batch), *size, groups, y.shape[-1] // groups)
    x = primitives.conv_transpose(_split_groups(kernel, groups), y, geometry)
    if padding_mode != "zeros":
        # `full_like` inherits the `shard_map` axes over which x varies.
        unpadded = lax.full_like(x, 0, shape=(x.shape[0], *chosen, *x.shape[-2:]))
        (x,) = jax.vjp(pad, unpadded)[1](x)
    return x.reshape(*batch, *chosen, groups * kernel.shape[-2]).astype(dtype)


def conv_output_size(
    size: Sequence[int],
    kernel_size: Sequence[int],
    *,
    stride: IntOrPerAxis = 1,
    padding: Padding = "SAME",
    dilation: IntOrPerAxis = 1,
) -> Size:
    """Return the spatial size of the output of `conv`.

    It is `floor((size + padding - dilation * (kernel_size - 1) - 1) / stride) + 1`
    (arXiv:1603.07285, relationship 6, with dilation), which is `ceil(size / stride)` for "SAME".

    Args:
      size: Spatial size of the images, in pixels.
      kernel_size: Number of kernel taps along each spatial axis.
      stride: As for `conv`.
      padding: As for `conv`.
      dilation: As for `conv`.

    Returns:
      Spatial size of the output, in pixels.

    Raises:
      InputError: The padded image is smaller than the kernel, or an argument is invalid.

    Example:
      >>> conv_output_size((32, 32), (3, 3), stride=2)
      (16, 16)
    """
    return Window.of(kernel_size, stride, padding, dilation).output_size(size)


def conv_transpose_output_size(
    size: Sequence[int],
    kernel_size: Sequence[int],
    *,
    stride: IntOrPerAxis = 1,
    padding: Padding = "SAME",
    dilation: IntOrPerAxis = 1,
    output_padding: IntOrPerAxis | None = None,
    output_size: IntOrPerAxis | None = None,
) -> Size:
    """Return the spatial size of the output of `conv_transpose`.

    The sizes that `conv` maps to `size` are (arXiv:1603.07285, relationship 14, with dilation)

        (size - 1) * stride + dilation * (kernel_size - 1) + 1 - padding + a,  0 <= a < stride

    `output_padding` gives `a`, and `output_size` gives the size itself. Without either, padding in
    pixels means a = 0, as in PyTorch; "SAME" means `size * stride`, and "VALID" the larger of
    `size * stride` and the size for a = 0, as in Keras.

    Args:
      size: Spatial size of the images that `conv_transpose` takes, in pixels.
      kernel_size: Number of kernel taps along each spatial axis.
      stride: As for `conv_transpose`.
      padding: As for `conv_transpose`.
      dilation: As for `conv_transpose`.
      output_padding: As for `conv_transpose`.
      output_size: As for `conv_transpose`.

    Returns:
      Spatial size of the output, in pixels.

    Raises:
      InputError: `conv` does not map `output_size` to `size`, or an argument is invalid.

    Example:
      >>> conv_transpose_output_size((16, 16), (4, 4), stride=2)
      (32, 32)
    """
    window = Window.of(kernel_size, stride, padding, dilation)
    return window.transposed_size(size, output_padding, output_size)


def _split_padding(window: Window, size: Size, mode: PaddingMode):
    """Split the padding of a `conv` into a function and a geometry.

    Returns:
      (pad, geometry). `pad` adds padding other than zeros to images of `size`; the geometry is that
      of a convolution of the padded images.
    """
    output_size, pads = window.output_size(size), window.pads(size)
    geometry = Geometry(
        size,
        output_size,
        window.kernel_size,
        window.stride,
        window.dilation,
        tuple(before for before, _ in pads),
        jax.config.jax_default_matmul_precision,  # type: ignore[attr-defined]  # set at run time
    )
    if mode == "zeros":
        return (lambda x: x), geometry
    if mode not in _NUMPY_PAD_MODE:
        raise InputError(
            f"padding_mode must be one of zeros, {', '.join(_NUMPY_PAD_MODE)}; got {mode!r}"
        )
    excluded = 1 if mode == "reflect" else 0
    for n, pad in zip(size, pads, strict=True):
        if mode != "edge" and max(pad) > n - excluded:
            raise InputError(
                f"padding_mode={mode!r} adds at most {n - excluded} pixels to an image of size "
                f"{size}; got padding {pads}"
            )
    widths = ((0, 0), *pads, (0, 0), (0, 0))
    padded = tuple(n + sum(pad) for n, pad in zip(size, pads, strict=True))
    geometry = dataclasses.replace(geometry, input_size=padded, pad_before=(0,) * len(size))
    return (lambda x: jnp.pad(x, widths, mode=_NUMPY_PAD_MODE[mode])), geometry


def _widen_for_padding(images: Array, kernel: Array, mode: PaddingMode) -> tuple[Array, Array]:
    """Cast to at least float32 for padding other than zeros.

    The adjoint of such padding sums pixels, and so rounds only once.
    """
    if mode == "zeros":
        return images, kernel
    wide = jnp.promote_types(images.dtype, jnp.float32)
    return images.astype(wide), kernel.astype(wide)


def _split_groups(kernel: Array, groups: int) -> Array:
    return kernel.reshape(*kernel.shape[:-1], groups, kernel.shape[-1] // groups)


def _promote(name: str, images: Array, kernel: Array, groups: int) -> tuple[Array, Array, int]:
    """Check images and kernel, and cast both to the wider type.

    Returns:
      (images, kernel, number of spatial axes).
    """
    if (as_int(groups) or 0) < 1:
        raise InputError(f"groups must be an int >= 1; got {groups!r}")
    rank = kernel.ndim - 2
    if not 1 <= rank <= 3 or images.ndim < rank + 1:
        raise InputError(
            f"{name}: a kernel must have 1, 2 or 3 spatial axes and two channel axes; images must "
            f"have the same number of spatial axes and one channel axis; got kernel {kernel.shape} "
            f"and images {images.shape}"
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
