"""Initialisers of kernels that know what a kernel's pixels are connected to.

The trap they avoid: an initialiser that reads the fans off a kernel's shape is wrong for every
transposed convolution. An output pixel of one with stride 2 meets only every second tap of an axis,
a quarter of a 2-D kernel; and its kernel is stored in the layout of the convolution it transposes.
Each function here returns an initialiser of Flax's kind, `init(key, shape, dtype) -> kernel`.
"""

import math
from collections.abc import Callable, Sequence
from typing import Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from deconv_jax.errors import InputError, did_you_mean
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
    """The weights that an output pixel sums over, and those that an input pixel goes through.

    Exact in the interior where the stride divides the kernel size, the mean over the phases of the
    stride elsewhere.

    Args:
      shape: of the kernel: (*kernel size, in / groups, out), or (*kernel size, out / groups, in) of
        a transposed convolution.
      transposed: whether it is one.
      stride: of every axis of space, or one each.
      groups: number of channel groups.

    Returns:
      (fan in, fan out).

    Raises:
      InputError: a shape without 3, 4 or 5 axes, channels that the groups do not divide, or a
        length, stride or number of groups below 1.
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
            "a kernel has 3, 4 or 5 axes, the last divisible by groups, and a stride or one for "
            f"each axis of space, all at least 1; got shape {tuple(shape)}, stride={stride!r} and "
            f"groups={groups}"
        )
    *kernel_size, first, second = shape
    taps = math.prod(kernel_size)
    # Of the convolution: its outputs are `stride` pixels apart, so an input pixel meets the fewer.
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
    """Weights of variance gain / fan: `gain=2` is He's (arXiv:1502.01852), "fan_avg" Glorot's.

    Args:
      gain: of the variance; 2 before a ReLU, which zeroes half of what it gets.
      mode: the fan, or the mean of both.
      distribution: of the weights, with mean zero; the normal one is cut at two deviations in
        "truncated_normal".
      transposed: as for `fans`.
      stride: as for `fans`.
      groups: as for `fans`.

    Raises:
      InputError: for an unknown mode or distribution; from the initialiser, as `fans`.
    """
    for name, value, known in (
        ("mode", mode, get_args(FanMode)),
        ("distribution", distribution, get_args(Distribution)),
    ):
        if value not in known:
            raise InputError(f"no {name} {value!r}; {did_you_mean(value, known)}")

    def init(key, shape, dtype=jnp.float32):
        fan_in, fan_out = fans(shape, transposed=transposed, stride=stride, groups=groups)
        fan = {"fan_in": fan_in, "fan_out": fan_out, "fan_avg": (fan_in + fan_out) / 2}[mode]
        as_read = math.prod(shape[:-1])
        scale = gain * as_read / fan
        return jax.nn.initializers.variance_scaling(scale, "fan_in", distribution)(
            key, shape, dtype
        )

    return init


def bilinear(stride: int, *, groups: int = 1) -> Initializer:
    """The transposed convolution that enlarges each channel `stride` times by linear interpolation.

    After Long et al., arXiv:1411.4038, section 3.3; in one dimension linear, in three trilinear. It
    is exact in the interior, with padding "SAME"; channel i of the input goes to channel i of the
    output. Kernel size: `2 * stride - stride % 2`.

    Args:
      stride: of the transposed convolution.
      groups: its channel groups; as many as channels for a depthwise one.

    Raises:
      InputError: from the initialiser, for another kernel size or unequal channels.
    """

    def init(key, shape, dtype=jnp.float32):
        del key
        *kernel_size, outputs, inputs = shape
        taps = 2 * stride - stride % 2
        if any(k != taps for k in kernel_size) or outputs * groups != inputs:
            raise InputError(
                f"bilinear interpolation of stride {stride} has {taps} taps an axis, and as many "
                f"outputs as inputs; got a kernel of shape {tuple(shape)} with groups={groups}"
            )
        tent = 1 - np.abs(np.arange(taps) - (taps - 1) / 2) / stride
        window = np.ones(())
        for _ in kernel_size:
            window = np.multiply.outer(window, tent)
        same = np.arange(inputs) % outputs == np.arange(outputs)[:, None]
        return jnp.asarray(window[..., None, None] * same, dtype)

    return init


def icnr(init: Initializer, factor: int) -> Initializer:
    """A sub-pixel convolution that starts as one followed by nearest-neighbour resizing.

    After Aitken et al., arXiv:1707.02937: the kernels of the `factor**rank` pixels that a channel
    is rearranged into start equal, so that no checkerboard is there to be unlearnt.

    Args:
      init: of the kernel (*kernel size, in, out) of that convolution, its fans as if alone.
      factor: of the enlargement, each axis.

    Returns:
      Initialiser of a kernel (*kernel size, in, out * factor**rank), its outputs in the order of
      `upsample(..., method="subpixel")`.

    Raises:
      InputError: from the initialiser, for outputs that `factor**rank` does not divide.
    """

    def copies(key, shape, dtype=jnp.float32):
        count = factor ** (len(shape) - 2)
        if shape[-1] % count:
            raise InputError(
                f"the outputs of a sub-pixel convolution of factor {factor} are a multiple of "
                f"{count}; got a kernel of shape {tuple(shape)}"
            )
        return jnp.repeat(init(key, (*shape[:-1], shape[-1] // count), dtype), count, axis=-1)

    return copies
