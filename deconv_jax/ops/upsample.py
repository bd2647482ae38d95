"""Pixel shuffles, and convolutions that enlarge an image."""

import itertools
import math
from collections.abc import Sequence
from typing import Literal

import jax.numpy as jnp
import numpy as np
from jax import export
from jaxtyping import Array, Float, Shaped

from deconv_jax.errors import InputError, at_least, check_choice
from deconv_jax.ops.conv import conv, conv_transpose
from deconv_jax.ops.conv.window import broadcast_ints
from deconv_jax.ops.resize import check_images, resize

ChannelOrder = Literal["CRD", "DCR"]
UpsampleMethod = Literal["transposed", "subpixel", "resize"]


def depth_to_space(
    x: Shaped[Array, "*batch_size_and_channels"],
    factor: int | Sequence[int],
    *,
    channel_order: ChannelOrder = "CRD",
) -> Shaped[Array, "*batch_new_size_and_channels"]:
    """Rearrange the channels of each pixel into a block of pixels ("pixel shuffle").

    "CRD" is PyTorch's `pixel_shuffle`, and "DCR" is TensorFlow's `depth_to_space`; the names are
    ONNX's. For one output channel, both are equation 4 of Shi et al., arXiv:1609.05158.

    Args:
      x: Images of shape (*batch, *size, channels), whose number of channels is divisible by the
        number of pixels of a block.
      factor: Size of a block along each spatial axis, in pixels. An int applies to every axis
        except the first (batch) and the last (channels).
      channel_order: Which input channels form an output channel: consecutive ones ("CRD"), or every
        n-th one for n output channels ("DCR").

    Returns:
      Images of shape (*batch, *(size * factor), channels / pixels per block).

    Raises:
      InputError: The block's pixels do not divide the channels, `factor` does not match the axes of
        x or is below 1, or the order is unknown.

    Example:
      >>> depth_to_space(jnp.ones((1, 8, 8, 12)), 2).shape
      (1, 16, 16, 3)
    """
    check_choice("channel_order", channel_order, ChannelOrder)
    factors, batch, size = _blocks(x, factor)
    channels, rest = divmod(x.shape[-1], math.prod(factors))
    if rest:
        raise InputError(
            f"depth_to_space: factor {factor!r} requires channels divisible by "
            f"{math.prod(factors)}; got images {x.shape}"
        )
    split = (channels, *factors) if channel_order == "CRD" else (*factors, channels)
    order = _interleaving(len(batch), len(size), channel_order)
    x = x.reshape(*batch, *size, *split).transpose(order)
    return x.reshape(*batch, *(n * f for n, f in zip(size, factors, strict=True)), channels)


def space_to_depth(
    x: Shaped[Array, "*batch_size_and_channels"],
    factor: int | Sequence[int],
    *,
    channel_order: ChannelOrder = "CRD",
) -> Shaped[Array, "*batch_new_size_and_channels"]:
    """Rearrange each block of pixels into the channels of one pixel: invert `depth_to_space`.

    Args:
      x: Images of shape (*batch, *size, channels), with a size divisible by `factor`.
      factor: Size of a block along each spatial axis, as for `depth_to_space`.
      channel_order: Order of the output channels, as for `depth_to_space`. "CRD" is PyTorch's
        `pixel_unshuffle`, "DCR" TensorFlow's `space_to_depth`.

    Returns:
      Images of shape (*batch, *(size / factor), channels * pixels per block).

    Raises:
      InputError: `factor` does not divide the size, does not match the axes of x or is below 1, or
        the order is unknown.

    Example:
      >>> space_to_depth(jnp.ones((1, 16, 16, 3)), 2).shape
      (1, 8, 8, 12)
    """
    check_choice("channel_order", channel_order, ChannelOrder)
    factors, batch, size = _blocks(x, factor)
    if any(n % f for n, f in zip(size, factors, strict=True)):
        raise InputError(
            f"space_to_depth: factor {factor!r} requires a size divisible by it; got images {x.shape}"
        )
    coarse = tuple(n // f for n, f in zip(size, factors, strict=True))
    pairs = itertools.chain(*zip(coarse, factors, strict=True))
    order = _interleaving(len(batch), len(size), channel_order)
    channels = math.prod(factors) * x.shape[-1]
    x = x.reshape(*batch, *pairs, x.shape[-1]).transpose(np.argsort(order))
    return x.reshape(*batch, *coarse, channels)


def upsample(
    x: Float[Array, "*batch height width in_channels"],
    kernel: Float[Array, "kernel_height kernel_width _ _"],
    factor: int,
    *,
    method: UpsampleMethod,
) -> Float[Array, "*batch out_height out_width out_channels"]:
    """Enlarge images by a convolution, with "SAME" padding.

    The methods are

        "transposed"   a transposed convolution with stride `factor`
        "subpixel"     a convolution to `factor**2` times the channels, then `depth_to_space`
        "resize"       nearest-neighbor interpolation, then a convolution

    Note: a "subpixel" kernel whose groups of `factor**2` adjacent output channels are equal gives
    the result of a convolution followed by nearest-neighbor interpolation (ICNR,
    arXiv:1707.02937).

    Args:
      x: Images.
      kernel: Weights of the shape that `upsample_kernel_shape` returns.
      factor: Ratio of output to input size, for both height and width.
      method: "transposed", "subpixel" or "resize".

    Returns:
      Images of size `factor * size`.

    Raises:
      InputError: The method is unknown, `factor` is below 1, the images have no pixels, or the
        kernel does not have four axes or does not match the channels of x.

    Example:
      >>> kernel = jnp.ones(upsample_kernel_shape("subpixel", 3, 16, 8, factor=2))
      >>> upsample(jnp.ones((1, 32, 32, 16)), kernel, 2, method="subpixel").shape
      (1, 64, 64, 8)
    """
    check_choice("method", method, UpsampleMethod)
    check_images("upsample", x)
    at_least("factor", factor, 1)
    if kernel.ndim != 4:
        raise InputError(
            "upsample: kernel must have 4 axes, two spatial ones and two of channels; got shape "
            f"{kernel.shape}"
        )
    if method == "transposed":
        return conv_transpose(x, kernel, stride=factor)
    if method == "subpixel":
        return depth_to_space(conv(x, kernel), (factor, factor))
    if any(map(export.is_symbolic_dim, x.shape[-3:-1])):
        return conv(_repeated_pixels(x, factor), kernel)
    size = [factor * n for n in x.shape[-3:-1]]
    return conv(resize(x, size, method="nearest"), kernel)


def upsample_kernel_shape(
    method: UpsampleMethod, kernel_size: int, in_channels: int, out_channels: int, factor: int
) -> tuple[int, int, int, int]:
    """Return the shape of the kernel that `upsample` takes.

    Args:
      method: As for `upsample`.
      kernel_size: Height and width of the kernel, in output pixels for "transposed" and "resize",
        in input pixels for "subpixel".
      in_channels: Number of channels of the images that `upsample` takes.
      out_channels: Number of channels of the images that `upsample` returns.
      factor: Ratio of output to input size.

    Returns:
      (kernel_size, kernel_size, a, b), where (a, b) is (out_channels, in_channels) for
      "transposed", (in_channels, out_channels) for "resize" and (in_channels, out_channels *
      factor**2) for "subpixel".

    Raises:
      InputError: The method is unknown, or `kernel_size` or `factor` is below 1.
    """
    check_choice("method", method, UpsampleMethod)
    at_least("kernel_size", kernel_size, 1)
    at_least("factor", factor, 1)
    channels = {
        "transposed": (out_channels, in_channels),
        "subpixel": (in_channels, out_channels * factor**2),
        "resize": (in_channels, out_channels),
    }
    return kernel_size, kernel_size, *channels[method]


def _repeated_pixels(x: Array, factor: int) -> Array:
    """Interpolate images of symbolic size, for which `resize` cannot compute positions in advance."""
    *batch, height, width, channels = x.shape
    blocks = jnp.broadcast_to(
        jnp.expand_dims(x, (-2, -4)), (*batch, height, factor, width, factor, channels)
    )
    return blocks.reshape(*batch, factor * height, factor * width, channels)


def _blocks(x: Array, factor: int | Sequence[int]):
    """Validate `factor`, and return it per spatial axis, with the batch shape and size of x."""
    factors = broadcast_ints(factor, x.ndim - 2)
    if not factors or len(factors) >= x.ndim or min(factors) < 1:
        raise InputError(
            "factor must be an int >= 1 for images (batch, *size, channels), or one per spatial "
            f"axis; got {factor!r} and images {x.shape}"
        )
    return factors, x.shape[: -len(factors) - 1], x.shape[-len(factors) - 1 : -1]


def _interleaving(batch: int, rank: int, channel_order: ChannelOrder) -> list[int]:
    """Return the permutation from (*batch, *size, *split channels) to (*batch, *pairs, channels).

    Each pair consists of a spatial axis and the axis of the block's pixels along it.
    """
    space = batch + rank
    channels, first = (space, space + 1) if channel_order == "CRD" else (space + rank, space)
    pairs = zip(range(batch, space), range(first, first + rank), strict=True)
    return [*range(batch), *itertools.chain(*pairs), channels]
