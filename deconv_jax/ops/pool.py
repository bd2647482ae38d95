"""Max and average pooling and their adjoints, over 1, 2, 3 or more spatial axes, channels last.

Max pooling is linear once its *switches* are known, the places of the maxima, and `max_unpool` is
the adjoint of that linear map: what a deconvnet (Zeiler & Fergus, arXiv:1311.2901) needs to bring
an activation back to pixels. A reader would take it for PyTorch's `MaxUnpool`, which it is while
windows do not overlap; where they do, values sent to the same pixel add up here, and there one of
them, which one is not defined, overwrites the others.

A window's maximum is its first in row-major order, which alone receives the gradient, as in
PyTorch. Windows being boxes, every pooling is done one axis at a time, as a running comparison or
sum over what the windows hold at each place. These are elementwise operations: they differentiate
in both modes and to any order, and with the usual windows, 2x2 and 3x3 at stride 2, their gradient
is much faster on a CPU than that of `lax.reduce_window`.
"""

import dataclasses
import functools
import math
import operator
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int, Int32

from deconv_jax.compilation import jit
from deconv_jax.errors import InputError
from deconv_jax.ops.conv.window import OnePerAxis, Padding, Size, Window, per_axis


def max_pool(
    x: Float[Array, "*batch_and_size channels"],
    window: OnePerAxis,
    *,
    stride: OnePerAxis | None = None,
    padding: Padding = "VALID",
) -> Float[Array, "*batch_and_output_size channels"]:
    """The largest value in each window, of each channel; NaN where the window holds a NaN.

    Args:
      x: any number of batch axes, then the spatial axes, then channels.
      window: size along each spatial axis, in pixels; their number is the number of spatial axes.
        A single int is the size along all axes of an input with one batch axis.
      stride: step between windows, in pixels, along each axis or all; None is `window`.
      padding: "SAME" (output size `ceil(size / stride)`, the odd pixel after the image), "VALID"
        (none), pixels on every side, or one pair (before, after) a spatial axis; less than the
        window. Padding is never the maximum.

    Returns:
      Output of size `floor((size + padding - window) / stride) + 1`. Its gradient goes to the first
      maximum in row-major order.

    Raises:
      InputError: for arguments that do not fit one another.
    """
    return max_pool_with_switches(x, window, stride=stride, padding=padding)[0]


def max_pool_with_switches(
    x: Float[Array, "*batch_and_size channels"],
    window: OnePerAxis,
    *,
    stride: OnePerAxis | None = None,
    padding: Padding = "VALID",
) -> tuple[
    Float[Array, "*batch_and_output_size channels"], Int32[Array, "*batch_and_output_size channels"]
]:
    """`max_pool` and where its maxima were, for `max_unpool`.

    Args:
      x, window, stride, padding: as for `max_pool`.

    Returns:
      The output of `max_pool`, and for each of its values the place of the maximum in the image
      without padding, counted in row-major order over the spatial axes: PyTorch's
      `return_indices`. Among equal values it is the first, among several NaNs the last.

    Raises:
      InputError: for arguments that do not fit one another.
    """
    return _max_pool(x, _axes("x", x, window, stride, padding))


def max_unpool(
    y: Float[Array, "*batch_and_size channels"],
    switches: Int[Array, "*batch_and_size channels"],
    output_size: Sequence[int],
) -> Float[Array, "*batch_and_output_size channels"]:
    """Puts each value where its switch points; the adjoint of max pooling with those switches.

    With the switches of `max_pool_with_switches(x, ...)` this is the vector-Jacobian product of
    `max_pool` at x. Values that overlapping windows send to the same pixel add up, unlike those of
    PyTorch's `MaxUnpool`, of which one survives. Pixels to which no switch points are 0.

    Args:
      y: any number of batch axes, then the spatial axes, then channels.
      switches: for each value of y its place in the output, counted in row-major order over the
        spatial axes. Values whose switch lies beyond the output are dropped.
      output_size: spatial size to return, in pixels: that of the pooled image, as the switches
        count in it.

    Returns:
      Output of `output_size`, with the batch axes and channels of y.

    Raises:
      InputError: for arguments that do not fit one another.

    Source: Zeiler & Fergus, arXiv:1311.2901, section 2.1.
    """
    rank = _rank_of("output_size", output_size, "y", y)
    size = per_axis("output_size", tuple(output_size), rank, 1)
    if switches.shape != y.shape:
        raise InputError(
            f"switches must have the shape of y, {y.shape}; got an array of {switches.shape}"
        )
    batch, channels = y.shape[: -1 - rank], y.shape[-1]
    flat = (math.prod(batch), math.prod(y.shape[-1 - rank : -1]), channels)
    image, channel = (lax.broadcasted_iota(jnp.int32, flat, axis) for axis in (0, 2))
    count = math.prod(size)
    x = jnp.zeros((flat[0], count, channels), y.dtype)
    places = jnp.where(switches < 0, count, switches).reshape(
        flat
    )  # indexing counts -1 from the end
    x = x.at[image, places, channel].add(y.reshape(flat), mode="drop")
    return x.reshape(*batch, *size, channels)


def avg_pool(
    x: Float[Array, "*batch_and_size channels"],
    window: OnePerAxis,
    *,
    stride: OnePerAxis | None = None,
    padding: Padding = "VALID",
    count_include_pad: bool = True,
) -> Float[Array, "*batch_and_output_size channels"]:
    """The mean over each window, of each channel, accumulated in float32 or wider.

    Args:
      x, window, stride, padding: as for `max_pool`; the padding holds zeros.
      count_include_pad: divide by the area of the window (True), or by the number of its pixels
        that lie in the image (False), which leaves a constant image constant to its border.

    Returns:
      Output of the size of `max_pool`'s.

    Raises:
      InputError: for arguments that do not fit one another.
    """
    axes = _axes("x", x, window, stride, padding)
    wide = x.astype(_accumulator(x))
    total = _sum_pool(wide, axes)
    if count_include_pad:
        return (total / math.prod(axis.window for axis in axes)).astype(x.dtype)
    sizes = {axis.index: axis.size for axis in axes}
    one_image = jnp.ones([sizes.get(index, 1) for index in range(x.ndim)], wide.dtype)
    return (total / _sum_pool(one_image, axes)).astype(x.dtype)


def avg_unpool(
    y: Float[Array, "*batch_and_size channels"],
    window: OnePerAxis,
    *,
    stride: OnePerAxis | None = None,
    padding: Padding = "VALID",
    output_size: OnePerAxis | None = None,
) -> Float[Array, "*batch_and_output_size channels"]:
    """Copies each value to every pixel of its window: the adjoint of `avg_pool` times its area.

    Where windows overlap the copies add up; what fell on padding is cut off. `avg_pool` with the
    same arguments undoes it where windows neither overlap nor reach into padding.

    Args:
      y: any number of batch axes, then the spatial axes, then channels: the size that `avg_pool`
        puts out.
      window, stride, padding: those of the `avg_pool`, which counts padding.
      output_size: spatial size to return, in pixels, along each axis or all; one that `avg_pool`
        maps to the size of y. None chooses as `conv_transpose_output_size` does.

    Returns:
      Output of `output_size`, with the batch axes and channels of y.

    Raises:
      InputError: for arguments that do not fit one another.
    """
    rank = _rank_of("window", window, "y", y)
    pooled_size = y.shape[-1 - rank : -1]
    size = _window(window, stride, padding, rank).transposed_size(pooled_size, None, output_size)
    dtype = _accumulator(y)
    # Made of y, so that it varies over the same devices under `shard_map`.
    unpooled = lax.full_like(y, 0, dtype, (*y.shape[: -1 - rank], *size, y.shape[-1]))
    axes = _axes("the output", unpooled, window, stride, padding)
    _, transpose = jax.vjp(functools.partial(_sum_pool, axes=axes), unpooled)
    return transpose(y.astype(dtype))[0].astype(y.dtype)


def global_max_pool(
    x: Float[Array, "*batch_and_size channels"], *, rank: int | None = None
) -> Float[Array, "*batch channels"]:
    """The largest value of each channel over all pixels; NaN where there is a NaN.

    Args:
      x: any number of batch axes, then `rank` spatial axes, then channels.
      rank: number of spatial axes; None is all but one batch axis.

    Returns:
      One value a channel, without spatial axes. Its gradient goes to the first maximum.

    Raises:
      InputError: for a rank that x does not have, or images without pixels.
    """
    pixels = _pixels(x, rank)
    best = jnp.max(lax.stop_gradient(pixels), axis=-2, keepdims=True)
    # Faster on a CPU than `argmax`.
    places = lax.broadcasted_iota(jnp.int32, pixels.shape, pixels.ndim - 2)
    is_best = (pixels == best) | jnp.isnan(pixels)
    first = jnp.min(jnp.where(is_best, places, pixels.shape[-2]), axis=-2, keepdims=True)
    return jnp.take_along_axis(pixels, first, axis=-2)[..., 0, :]


def global_avg_pool(
    x: Float[Array, "*batch_and_size channels"], *, rank: int | None = None
) -> Float[Array, "*batch channels"]:
    """The mean of each channel over all pixels, accumulated in float32 or wider.

    Args:
      x, rank: as for `global_max_pool`.

    Returns:
      One value a channel, without spatial axes.

    Raises:
      InputError: for a rank that x does not have, or images without pixels.
    """
    return jnp.mean(_pixels(x, rank), axis=-2, dtype=_accumulator(x)).astype(x.dtype)


@dataclasses.dataclass(frozen=True)
class _Axis:
    """One spatial axis of a pooling; sizes in pixels."""

    index: int
    size: int
    window: int
    stride: int
    before: int
    after: int

    @property
    def output_size(self) -> int:
        return (self.size + self.before + self.after - self.window) // self.stride + 1


def _taps(x: Array, axis: _Axis, fill: int | float) -> list[Array]:
    """For each place in the window along one axis, what the windows hold there.

    The axis is split into its `stride` phases, each read without stride: the gradient then joins
    the phases again, where that of a strided slice would add up images dilated with zeros.
    """
    blocks = axis.output_size + (axis.window - 1) // axis.stride
    padding = [(0, 0, 0)] * x.ndim
    padding[axis.index] = (axis.before, blocks * axis.stride - axis.size - axis.before, 0)
    x = lax.pad(x, jnp.array(fill, x.dtype), padding)
    x = x.reshape(*x.shape[: axis.index], blocks, axis.stride, *x.shape[axis.index + 1 :])
    within = axis.index + 1
    phases = [lax.squeeze(phase, (within,)) for phase in lax.split(x, (1,) * axis.stride, within)]
    taps = []
    for place in range(axis.window):
        block, phase = divmod(place, axis.stride)
        taps.append(
            lax.slice_in_dim(phases[phase], block, block + axis.output_size, axis=axis.index)
        )
    return taps


def _window_starts(axis: _Axis, shape: Size) -> Array:
    """Where along the axis each window begins: negative in the padding before the image."""
    return lax.broadcasted_iota(jnp.int32, shape, axis.index) * axis.stride - axis.before


# Compiled, as each tap would otherwise be compiled and run by itself outside of `jit`.
@functools.partial(jit, static_argnames="axes")
def _max_pool(x: Array, axes: tuple[_Axis, ...]) -> tuple[Array, Array]:
    best, switches = x, jnp.zeros(x.shape, jnp.int32)
    pitch = 1
    # From the last axis to the first: the first of equal rows, at its first column, is the first
    # in row-major order.
    for axis in reversed(axes):
        taps = zip(_taps(best, axis, -math.inf), _taps(switches, axis, 0), strict=True)
        best, switches = next(taps)
        position = _window_starts(axis, best.shape)
        switches += pitch * position
        for tap, place in taps:
            position += 1
            # At position 0 the image begins, and what went before was padding: it must not keep the
            # place when the image itself is -inf.
            better = (tap > best) | jnp.isnan(tap) | (position == 0)
            best = jnp.where(better, tap, best)
            switches = jnp.where(better, place + pitch * position, switches)
        pitch *= axis.size
    return best, switches


@functools.partial(jit, static_argnames="axes")
def _sum_pool(x: Array, axes: tuple[_Axis, ...]) -> Array:
    for axis in axes:
        x = functools.reduce(operator.add, _taps(x, axis, 0.0))
    return x


def _accumulator(x: Array) -> jnp.dtype:
    return jnp.promote_types(x.dtype, jnp.float32)


def _pixels(x: Array, rank: int | None) -> Array:
    """`x` with its spatial axes made one."""
    _check_floating("x", x)
    rank = x.ndim - 2 if rank is None else rank
    if not 1 <= rank < x.ndim:
        raise InputError(
            f"rank must be from 1 to {x.ndim - 1} for x of shape {x.shape} (None is one batch "
            f"axis, the spatial axes, then channels); got {rank}"
        )
    count = math.prod(x.shape[-1 - rank : -1])
    if not count:
        raise InputError(f"x must have at least one pixel; got shape {x.shape}")
    return x.reshape(*x.shape[: -1 - rank], count, x.shape[-1])


def _check_floating(name: str, x) -> None:
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise InputError(f"{name} must hold floating-point numbers; got {x.dtype}")


def _rank_of(name: str, per_axis: object, array_name: str, x) -> int:
    """The number of spatial axes: of a tuple its length, of an int all but one batch axis."""
    rank = len(per_axis) if isinstance(per_axis, tuple | list) else x.ndim - 2
    if rank < 1 or x.ndim <= rank:
        raise InputError(
            f"{name}={per_axis!r} needs {array_name} with as many spatial axes, then channels, and "
            f"one batch axis before them where it is an int; got shape {x.shape}"
        )
    return rank


def _axes(name: str, x, window, stride, padding) -> tuple[_Axis, ...]:
    """The spatial axes of a pooling of `x`, which messages call `name`."""
    rank = _rank_of("window", window, name, x)
    _check_floating(name, x)
    size = x.shape[-1 - rank : -1]
    slides = _window(window, stride, padding, rank)
    slides.output_size(size)  # raises where the window does not fit into the image
    pads = slides.pads(size)
    if any(max(pad) >= w for pad, w in zip(pads, slides.kernel_size, strict=True)):
        raise InputError(
            f"padding must be smaller than the window {slides.kernel_size}, or a window could lie "
            f"in it entirely; got {padding!r}"
        )
    axes = zip(size, slides.kernel_size, slides.stride, pads, strict=True)
    return tuple(
        _Axis(index, n, w, s, *pad) for index, (n, w, s, pad) in enumerate(axes, x.ndim - 1 - rank)
    )


def _window(window: OnePerAxis, stride: OnePerAxis | None, padding: Padding, rank: int) -> Window:
    sizes = per_axis("window", window, rank, 1)
    return Window.of(sizes, sizes if stride is None else stride, padding)
