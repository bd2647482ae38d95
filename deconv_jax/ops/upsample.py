"""Pixel shuffles and learned upsampling."""

import itertools
import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
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
    """Deals the channels of each pixel out to a block of pixels.

    In order "CRD" it is PyTorch's `PixelShuffle`, and for blocks of a single channel, where both
    orders are one, equation 4 of Shi et al., arXiv:1609.05158.

    Args:
      x: images (*batch, *size, channels), channels divisible by the pixels of a block.
      factor: pixels of a block along each axis of space; an int for all axes but the first, the
        batch, and the last, the channels.
      channel_order: which of an input's channels share an output channel, in ONNX's names: "CRD"
        neighbours (PyTorch's `pixel_shuffle`), "DCR" those that are an output's number of channels
        apart (TensorFlow's `depth_to_space`).

    Returns:
      Images (*batch, *(size * factor), channels / pixels of a block).

    Raises:
      InputError: for arguments that do not fit one another.
    """
    check_choice("channel_order", channel_order, ChannelOrder)
    factors, batch, size = _blocks(x, factor)
    channels, rest = divmod(x.shape[-1], math.prod(factors))
    if rest:
        raise InputError(
            f"depth_to_space: factor {factor!r} takes channels divisible by {math.prod(factors)}; "
            f"got images {x.shape}"
        )
    shares = (channels, *factors) if channel_order == "CRD" else (*factors, channels)
    order = _interleaving(len(batch), len(size), channel_order)
    x = x.reshape(*batch, *size, *shares).transpose(order)
    return x.reshape(*batch, *(n * f for n, f in zip(size, factors, strict=True)), channels)


def space_to_depth(
    x: Shaped[Array, "*batch_size_and_channels"],
    factor: int | Sequence[int],
    *,
    channel_order: ChannelOrder = "CRD",
) -> Shaped[Array, "*batch_new_size_and_channels"]:
    """Collects each block of pixels into the channels of one: the inverse of `depth_to_space`.

    Args:
      x: images (*batch, *size, channels), of a size divisible by `factor`.
      factor: as for `depth_to_space`.
      channel_order: as for `depth_to_space`; "CRD" is PyTorch's `pixel_unshuffle`, "DCR"
        TensorFlow's `space_to_depth`.

    Returns:
      Images (*batch, *(size / factor), channels * pixels of a block).

    Raises:
      InputError: for arguments that do not fit one another.
    """
    check_choice("channel_order", channel_order, ChannelOrder)
    factors, batch, size = _blocks(x, factor)
    if any(n % f for n, f in zip(size, factors, strict=True)):
        raise InputError(
            f"space_to_depth: factor {factor!r} takes images of a size divisible by it; got images "
            f"{x.shape}"
        )
    coarse = tuple(n // f for n, f in zip(size, factors, strict=True))
    pairs = itertools.chain(*zip(coarse, factors, strict=True))
    order = _interleaving(len(batch), len(size), channel_order)
    channels = math.prod(factors) * x.shape[-1]
    x = x.reshape(*batch, *pairs, x.shape[-1]).transpose(np.argsort(order))
    return x.reshape(*batch, *coarse, channels)


def _blocks(x: Array, factor: int | Sequence[int]):
    """The factors, an axis of space each, and the batch and size of x."""
    factors = broadcast_ints(factor, x.ndim - 2)
    if not factors or len(factors) >= x.ndim or min(factors) < 1:
        raise InputError(
            "factor is an int >= 1 for images (batch, *size, channels), or one for each axis of "
            f"space; got {factor!r} and images {x.shape}"
        )
    return factors, x.shape[: -len(factors) - 1], x.shape[-len(factors) - 1 : -1]


def _interleaving(batch: int, rank: int, channel_order: ChannelOrder) -> list[int]:
    """Brings the axes (*batch, *size, *shares of the channels) into (*batch, *pairs, channels)."""
    space = batch + rank
    channels, first = (space, space + 1) if channel_order == "CRD" else (space + rank, space)
    pairs = zip(range(batch, space), range(first, first + rank), strict=True)
    return [*range(batch), *itertools.chain(*pairs), channels]


def upsample(
    x: Float[Array, "*batch height width in_channels"],
    kernel: Float[Array, "kernel_height kernel_width _ _"],
    factor: int,
    *,
    method: UpsampleMethod,
) -> Float[Array, "*batch out_height out_width out_channels"]:
    """Convolution to `factor` times the size, in one of the three ways that networks do it.

    Args:
      x: images.
      kernel: weights, of the shape that `upsample_kernel_shape` gives for `method`.
      factor: of height and width.
      method: "transposed", the adjoint of a convolution with stride `factor`; "subpixel", a
        convolution to `factor**2` times the channels, then `depth_to_space` in order "CRD", so that
        kernels whose neighbouring `factor**2` output channels are equal (ICNR, arXiv:1707.02937)
        give what the small kernel would, enlarged to the nearest pixel; "resize", a convolution of
        the image enlarged to the nearest pixel. All pad with "SAME".

    Returns:
      Images of size `factor * size`.

    Raises:
      InputError: for a factor below 1, an unknown method, or a kernel that does not fit.
    """
    check_choice("method", method, UpsampleMethod)
    check_images("upsample", x)
    at_least("factor", factor, 1)
    if kernel.ndim != 4:
        raise InputError(
            f"upsample: kernel has 4 axes, two of space and two of channels; got {kernel.shape}"
        )
    if method == "transposed":
        return conv_transpose(x, kernel, stride=factor)
    if method == "subpixel":
        return depth_to_space(conv(x, kernel), (factor, factor))
    size = [factor * n for n in x.shape[-3:-1]]
    return conv(resize(x, size, method="nearest"), kernel)


def upsample_kernel_shape(
    method: UpsampleMethod, kernel_size: int, in_channels: int, out_channels: int, factor: int
) -> tuple[int, int, int, int]:
    """The shape of the kernel that `upsample` takes.

    Args:
      method: as for `upsample`.
      kernel_size: height and width: pixels of the output for "transposed" and "resize", of the
        input for "subpixel".
      in_channels: of the images that `upsample` takes.
      out_channels: of those it returns.
      factor: of height and width.

    Returns:
      (kernel_size, kernel_size, then out and in for "transposed", in and out for "resize", in and
      `factor**2` times out for "subpixel").

    Raises:
      InputError: for an unknown method or a figure below 1.
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
