"""Kernel initializers with the correct fan-in and fan-out of transposed convolutions.

Initializers that derive the fans from the kernel's shape alone are wrong for transposed
convolutions. With stride 2, an output pixel sums over only every second tap of each axis, a quarter
of a 2-D kernel, and the kernel has the layout of the convolution being transposed. The initializers
here are functions `init(key, shape, dtype) -> kernel`, as in Flax.
"""

import math
from collections.abc import Callable, Sequence
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from deconv_jax.errors import InputError, check_choice
from deconv_jax.ops.conv.window import broadcast_ints

Initializer = Callable[..., Array]
Distribution = Literal["truncated_normal", "normal", "uniform"]
FanMode = Literal["fan_in", "fan_out", "fan_avg"]


def fans(
    shape: Sequence[int],
    *,
    transposed: bool = False,
    stride: int | Sequence[int] = 1,
    groups: int = 1,
) -> tuple[float, float]:
    """Return fan-in and fan-out of a convolution or a transposed convolution.

    Fan-in is the number of weights that an output pixel sums over, and fan-out the number of
    weights that multiply an input pixel, away from the border. If the stride does not divide the
    kernel size, these numbers are means over the phases of the stride.

    Args:
      shape: Shape of the kernel: (*kernel_size, in_channels / groups, out_channels) of a
        convolution, (*kernel_size, out_channels / groups, in_channels) of a transposed convolution.
      transposed: Whether the kernel is that of a transposed convolution.
      stride: Stride: an int, or one per spatial axis.
      groups: Number of channel groups.

    Returns:
      (fan_in, fan_out).

    Raises:
      InputError: The shape does not have 3 to 5 axes, `groups` does not divide the last one,
        `stride` does not match, or a number is below 1.

    Example:
      >>> fans((4, 4, 32, 64), transposed=True, stride=2)  # 2 * 2 * 64, 4 * 4 * 32
      (256.0, 512.0)
    """
    rank = len(shape) - 2
    strides = broadcast_ints(stride, rank)
    if (
        not 1 <= rank <= 3
        or len(strides) != rank
        or min(*shape, *strides, groups) < 1
        or shape[-1] % groups
    ):
        raise InputError(
            "a kernel must have 3, 4 or 5 axes, the last divisible by groups, and stride must be an "
            f"int or one per spatial axis, all at least 1; got shape {tuple(shape)}, "
            f"stride={stride!r} and groups={groups}"
        )
    *kernel_size, first, second = shape
    taps = math.prod(kernel_size)
    # Fans of the convolution: a larger stride reduces the outputs of each input pixel.
    fan_in, fan_out = float(taps * first), taps * (second // groups) / math.prod(strides)
    return (fan_out, fan_in) if transposed else (fan_in, fan_out)


def variance_scaling(
    gain: float = 1.0,
    mode: FanMode = "fan_in",
    distribution: Distribution = "truncated_normal",
    *,
    transposed: bool = False,
    stride: int | Sequence[int] = 1,
    groups: int = 1,
) -> Initializer:
    """Return an initializer of random weights with mean zero and variance `gain / fan`.

    `gain=2` with "fan_in" is He initialization (arXiv:1502.01852), and `gain=1` with "fan_avg" is
    Glorot initialization.

    Args:
      gain: Factor of the variance, above 0; 2 for a layer followed by a ReLU.
      mode: Fan to divide by: "fan_in", "fan_out", or "fan_avg" for their mean.
      distribution: Distribution of the weights: "truncated_normal" (at two standard deviations),
        "normal" or "uniform".
      transposed: Whether the kernel is that of a transposed convolution.
      stride: Stride: an int, or one per spatial axis.
      groups: Number of channel groups.

    Returns:
      Initializer `init(key, shape, dtype)`. It raises InputError as `fans` does.

    Raises:
      InputError: The mode or the distribution is unknown.
    """
    check_choice("mode", mode, FanMode)
    check_choice("distribution", distribution, Distribution)

    def init(key, shape, dtype=jnp.float32):
        fan_in, fan_out = fans(shape, transposed=transposed, stride=stride, groups=groups)
        fan = {"fan_in": fan_in, "fan_out": fan_out, "fan_avg": (fan_in + fan_out) / 2}[mode]
        fan_in_of_shape = math.prod(shape[:-1])  # the fan-in that JAX derives from the shape
        scale = gain * fan_in_of_shape / fan
        return jax.nn.initializers.variance_scaling(scale, "fan_in", distribution)(
            key, shape, dtype
        )

    return init


def bilinear(stride: int, *, groups: int = 1) -> Initializer:
    """Return an initializer of a transposed convolution that interpolates linearly.

    The transposed convolution enlarges each channel by `stride`: linearly in 1-d, bilinearly in 2-d
    and trilinearly in 3-d (Long et al., arXiv:1411.4038, section 3.3). It is exact away from the
    border, with padding "SAME". The kernel size must be `2 * stride - stride % 2`.

    Args:
      stride: Stride of the transposed convolution.
      groups: Number of channel groups; the number of channels for a depthwise one.

    Returns:
      Initializer of a kernel of shape (*kernel_size, out_channels / groups, in_channels), which
      ignores its key. It raises InputError for another kernel size, or if the numbers of input and
      output channels differ.
    """

    def init(key, shape, dtype=jnp.float32):
        del key
        *kernel_size, outputs, inputs = shape
        taps = 2 * stride - stride % 2
        if any(k != taps for k in kernel_size) or outputs * groups != inputs:
            raise InputError(
                f"bilinear interpolation with stride {stride} requires {taps} taps per axis and "
                f"equal numbers of input and output channels; got a kernel of shape {tuple(shape)} "
                f"with groups={groups}"
            )
        tent = 1 - np.abs(np.arange(taps) - (taps - 1) / 2) / stride
        window = np.ones(())
        for _ in kernel_size:
            window = np.multiply.outer(window, tent)
        same = np.arange(inputs) % outputs == np.arange(outputs)[:, None]
        return jnp.asarray(window[..., None, None] * same, dtype)

    return init


def icnr(init: Initializer, factor: int) -> Initializer:
    """Return an initializer of a sub-pixel convolution without checkerboard artifacts (ICNR).

    The convolution starts equal to a smaller one followed by nearest-neighbor interpolation: the
    kernels of the `factor**rank` pixels of each block are copies (Aitken et al., arXiv:1707.02937).

    Args:
      init: Initializer of the smaller kernel, of shape (*kernel_size, in_channels, out_channels).
      factor: Ratio of output to input size along each spatial axis, at least 1.

    Returns:
      Initializer of a kernel of shape (*kernel_size, in_channels, out_channels * factor**rank),
      with outputs in the order of `upsample(..., method="subpixel")`. It raises InputError if
      `factor**rank` does not divide the number of outputs.
    """

    def repeated(key, shape, dtype=jnp.float32):
        count = factor ** (len(shape) - 2)
        if shape[-1] % count:
            raise InputError(
                f"the output channels of a sub-pixel convolution with factor {factor} must be a "
                f"multiple of {count}; got a kernel of shape {tuple(shape)}"
            )
        return jnp.repeat(init(key, (*shape[:-1], shape[-1] // count), dtype), count, axis=-1)

    return repeated
