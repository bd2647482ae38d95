"""Pooling and its adjoints, channels last.

`max_pool` and `avg_pool`, their global versions and the unpooling functions work over any number of
spatial axes; `blur_pool` works over two.

Max pooling is linear once the positions of the maxima, the *switches*, are fixed. `max_unpool` is
the adjoint of this linear map, with which a deconvnet (Zeiler & Fergus, arXiv:1311.2901) projects
an activation back to pixels. The maximum is the first of equal values in row-major order, and it
alone receives the gradient, as in PyTorch.

Note: `max_unpool` equals PyTorch's `MaxUnpool` if windows do not overlap. If they do, values sent
to the same pixel are summed here, while PyTorch keeps an arbitrary one of them.

Pooling is separable, so it runs one axis at a time, as comparisons or sums of shifted slices. These
elementwise operations have derivatives of every order in both modes. With the usual windows, 2x2
and 3x3 at stride 2, their gradient is much faster on a CPU than that of `lax.reduce_window`.
"""

import dataclasses
import functools
import math
import operator
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int, Int32

from deconv_jax.compilation import jit
from deconv_jax.errors import InputError, at_least
from deconv_jax.ops.conv import conv
from deconv_jax.ops.conv.window import Dimension, IntOrPerAxis, Padding, Size, Window, per_axis


def max_pool(
    x: Float[Array, "*batch_and_size channels"],
    window: IntOrPerAxis,
    *,
    stride: IntOrPerAxis | None = None,
    padding: Padding = "VALID",
) -> Float[Array, "*batch_and_output_size channels"]:
    """Return the maximum of each window, per channel; NaN if the window contains a NaN.

    Args:
      x: Images: any number of batch axes, then spatial axes, then channels.
      window: Size of the window, in pixels: a sequence with one int per spatial axis; or an int for
        all spatial axes, which requires that x has exactly one batch axis.
      stride: Step between windows, in pixels: an int, or one per spatial axis. None means `window`.
      padding: "SAME" for an output of size `ceil(size / stride)`, "VALID" for no padding, the
        number of pixels on every side, or a pair (before, after) per spatial axis; smaller than the
        window. If "SAME" needs an odd number of pixels, the extra one goes at the end. Padding is
        never the maximum.

    Returns:
      Images of size `floor((size + padding - window) / stride) + 1`, of the type of x.

    Raises:
      InputError: x does not hold floats or lacks spatial axes; the padded images are smaller than
        the window; padding reaches the size of the window; or an argument has another form or is
        out of range.

    Example:
      >>> max_pool(jnp.ones((1, 32, 32, 3)), 3, stride=2, padding="SAME").shape
      (1, 16, 16, 3)
    """
    return max_pool_with_switches(x, window, stride=stride, padding=padding)[0]


def max_pool_with_switches(
    x: Float[Array, "*batch_and_size channels"],
    window: IntOrPerAxis,
    *,
    stride: IntOrPerAxis | None = None,
    padding: Padding = "VALID",
) -> tuple[
    Float[Array, "*batch_and_output_size channels"], Int32[Array, "*batch_and_output_size channels"]
]:
    """Return the maximum of each window and its position, for `max_unpool`.

    Args:
      x: Images: any number of batch axes, then spatial axes, then channels.
      window: Size of the window, in pixels: a sequence with one int per spatial axis; or an int for
        all spatial axes, which requires that x has exactly one batch axis.
      stride: Step between windows, in pixels: an int, or one per spatial axis. None means `window`.
      padding: "SAME", "VALID", pixels on every side, or pairs (before, after), as for `max_pool`.

    Returns:
      The output of `max_pool`, and the switches: the position of each maximum in the image without
      padding, in row-major order over the spatial axes (PyTorch's `return_indices`). It is the
      first of equal values, and the last of several NaNs.

    Raises:
      InputError: As for `max_pool`.

    Example:
      >>> x = jnp.array([1.0, 4.0, 2.0, 3.0]).reshape(1, 4, 1)
      >>> y, switches = max_pool_with_switches(x, (2,))
      >>> y.ravel(), switches.ravel()
      (Array([4., 3.], dtype=float32), Array([1, 3], dtype=int32))
    """
    return _max_pool(x, _axes("x", x, window, stride, padding))


def max_unpool(
    y: Float[Array, "*batch_and_size channels"],
    switches: Int[Array, "*batch_and_size channels"],
    output_size: Sequence[Dimension],
) -> Float[Array, "*batch_and_output_size channels"]:
    """Add each value to the pixel at its switch: the adjoint of max pooling with these switches.

    With the switches of `max_pool_with_switches(x, ...)` it is the vector-Jacobian product of
    `max_pool` at x. Pixels without a switch are 0. Source: Zeiler & Fergus, arXiv:1311.2901,
    section 2.1.

    Args:
      y: Images: any number of batch axes, then spatial axes, then channels.
      switches: Position of each value of y in the output, in row-major order over the spatial axes.
        Values whose position is outside of the output are dropped.
      output_size: Spatial size of the output, in pixels: the size of the images before pooling.

    Returns:
      Images of size `output_size`, of the type of y.

    Raises:
      InputError: y and switches differ in shape, `output_size` does not have one entry per spatial
        axis of y, or an entry is below 1.

    Example:
      >>> y, switches = jnp.array([4.0, 3.0]).reshape(1, 2, 1), jnp.array([1, 3]).reshape(1, 2, 1)
      >>> max_unpool(y, switches, (4,)).ravel()
      Array([0., 4., 0., 3.], dtype=float32)
    """
    rank = _rank_of("output_size", output_size, "y", y)
    size = per_axis("output_size", tuple(output_size), rank, 1)
    if switches.shape != y.shape:
        raise InputError(
            f"switches must have the shape of y, {y.shape}; got shape {switches.shape}"
        )
    batch, channels = y.shape[: -1 - rank], y.shape[-1]
    flat = (math.prod(batch), math.prod(y.shape[-1 - rank : -1]), channels)
    image, channel = (lax.broadcasted_iota(jnp.int32, flat, axis) for axis in (0, 2))
    count = math.prod(size)
    x = jnp.zeros((flat[0], count, channels), y.dtype)
    # Move negative positions out of bounds: indexing would count them from the end.
    position = jnp.where(switches < 0, count, switches).reshape(flat)
    x = x.at[image, position, channel].add(y.reshape(flat), mode="drop")
    return x.reshape(*batch, *size, channels)


def avg_pool(
    x: Float[Array, "*batch_and_size channels"],
    window: IntOrPerAxis,
    *,
    stride: IntOrPerAxis | None = None,
    padding: Padding = "VALID",
    count_include_pad: bool = True,
) -> Float[Array, "*batch_and_output_size channels"]:
    """Return the mean of each window, per channel, accumulated in float32 or wider.

    Args:
      x: Images: any number of batch axes, then spatial axes, then channels.
      window: Size of the window, in pixels: a sequence with one int per spatial axis; or an int for
        all spatial axes, which requires that x has exactly one batch axis.
      stride: Step between windows, in pixels: an int, or one per spatial axis. None means `window`.
      padding: "SAME", "VALID", pixels on every side, or pairs (before, after), as for `max_pool`.
        Padding is zeros.
      count_include_pad: Whether to divide by the area of the window, rather than by the number of
        its pixels inside the image. False keeps a constant image constant up to its border.

    Returns:
      Images of the size that `max_pool` returns, of the type of x.

    Raises:
      InputError: As for `max_pool`.
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
    window: IntOrPerAxis,
    *,
    stride: IntOrPerAxis | None = None,
    padding: Padding = "VALID",
    output_size: IntOrPerAxis | None = None,
) -> Float[Array, "*batch_and_output_size channels"]:
    """Add each value to every pixel of its window: the adjoint of `avg_pool` times the window area.

    Values of overlapping windows are summed, and padding is cropped. `avg_pool` with the same
    arguments inverts it if windows neither overlap nor reach into padding.

    Args:
      y: Images of the shape that `avg_pool` returns.
      window: Size of the window of the `avg_pool` being transposed, which has
        `count_include_pad=True`.
      stride: Its step between windows. None means `window`.
      padding: Its padding, as for `max_pool`.
      output_size: Spatial size of the output, in pixels: an int, or one per spatial axis. It must
        be a size that `avg_pool` maps to the size of y. None means the smallest such size for
        padding in pixels, `size * stride` for "SAME", and the larger of the two for "VALID".

    Returns:
      Images of size `output_size`, of the type of y.

    Raises:
      InputError: `avg_pool` does not map `output_size` to the size of y, padding reaches the size
        of the window, y does not hold floats, or an argument has another form or is out of range.

    Example:
      >>> avg_unpool(jnp.array([4.0, 3.0]).reshape(1, 2, 1), (2,)).ravel()
      Array([4., 4., 3., 3.], dtype=float32)
    """
    rank = _rank_of("window", window, "y", y)
    pooled_size = y.shape[-1 - rank : -1]
    size = _window(window, stride, padding, rank).transposed_size(pooled_size, None, output_size)
    dtype = _accumulator(y)
    # `full_like` inherits the `shard_map` axes over which y varies.
    unpooled = lax.full_like(y, 0, dtype, (*y.shape[: -1 - rank], *size, y.shape[-1]))
    axes = _axes("the output", unpooled, window, stride, padding)
    _, transpose = jax.vjp(functools.partial(_sum_pool, axes=axes), unpooled)
    return transpose(y.astype(dtype))[0].astype(y.dtype)


def global_max_pool(
    x: Float[Array, "*batch_and_size channels"], *, rank: int | None = None
) -> Float[Array, "*batch channels"]:
    """Return the maximum of each channel over all pixels; NaN if there is a NaN.

    Args:
      x: Images: any number of batch axes, then `rank` spatial axes, then channels.
      rank: Number of spatial axes. None means that there is one batch axis.

    Returns:
      Array of shape (*batch, channels). The first of equal maxima receives the gradient.

    Raises:
      InputError: x does not have `rank` spatial axes, has no pixels, or does not hold floats.
    """
    pixels = _pixels(x, rank)
    best = jnp.max(lax.stop_gradient(pixels), axis=-2, keepdims=True)
    # This is faster on a CPU than `argmax`.
    position = lax.broadcasted_iota(jnp.int32, pixels.shape, pixels.ndim - 2)
    is_best = (pixels == best) | jnp.isnan(pixels)
    first = jnp.min(jnp.where(is_best, position, pixels.shape[-2]), axis=-2, keepdims=True)
    return jnp.take_along_axis(pixels, first, axis=-2)[..., 0, :]


def global_avg_pool(
    x: Float[Array, "*batch_and_size channels"], *, rank: int | None = None
) -> Float[Array, "*batch channels"]:
    """Return the mean of each channel over all pixels, accumulated in float32 or wider.

    Args:
      x: Images: any number of batch axes, then `rank` spatial axes, then channels.
      rank: Number of spatial axes. None means that there is one batch axis.

    Returns:
      Array of shape (*batch, channels).

    Raises:
      InputError: x does not have `rank` spatial axes, has no pixels, or does not hold floats.
    """
    return jnp.mean(_pixels(x, rank), axis=-2, dtype=_accumulator(x)).astype(x.dtype)


def blur_pool(
    x: Float[Array, "*batch height width channels"], stride: int, *, filter_size: int = 3
) -> Float[Array, "*batch out_height out_width channels"]:
    """Blur images, and keep every `stride`-th pixel (Zhang, arXiv:1904.11486).

    The blur is a binomial filter, by default (1, 2, 1) / 4 along each axis. The border is mirrored
    without repeating the border pixel.

    Args:
      x: Images, larger than `filter_size / 2` pixels.
      stride: Distance between the pixels to keep, in pixels.
      filter_size: Number of filter taps along each axis; 1 for no blur.

    Returns:
      Images of size `ceil(size / stride)`.

    Raises:
      InputError: `stride` or `filter_size` is below 1, or the images are too small or do not hold
        floats.
    """
    at_least("stride", stride, 1)
    at_least("filter_size", filter_size, 1)
    row = np.array(
        [math.comb(filter_size - 1, k) / 2 ** (filter_size - 1) for k in range(filter_size)]
    )
    kernel = np.repeat(np.outer(row, row)[:, :, None, None], x.shape[-1], axis=-1)
    side = ((filter_size - 1) // 2, filter_size // 2)
    return conv(
        x,
        jnp.asarray(kernel, x.dtype),
        stride=stride,
        padding=(side, side),
        padding_mode="reflect",
        groups=x.shape[-1],
    )


@dataclasses.dataclass(frozen=True)
class _Axis:
    """One spatial axis of a pooling.

    Attributes:
      index: Position of the axis in the array.
      size: Size of the image, in pixels.
      window: Size of the window, in pixels.
      stride: Step between windows, in pixels.
      pad_before: Padding before the image, in pixels.
      pad_after: Padding after the image, in pixels.
    """

    index: int
    size: Dimension
    window: int
    stride: int
    pad_before: int
    pad_after: int

    @property
    def output_size(self) -> Dimension:
        """Number of windows."""
        return (self.size + self.pad_before + self.pad_after - self.window) // self.stride + 1


def _taps(x: Array, axis: _Axis, fill: int | float) -> list[Array]:
    """Return, for each offset in the window along one axis, the slice of x at that offset.

    The axis is split into its `stride` phases, which are then sliced without stride. The gradient
    interleaves the phases; that of a strided slice would add images dilated with zeros.
    """
    blocks = axis.output_size + (axis.window - 1) // axis.stride
    padding = [(0, 0, 0)] * x.ndim
    padding[axis.index] = (axis.pad_before, blocks * axis.stride - axis.size - axis.pad_before, 0)
    x = lax.pad(x, jnp.array(fill, x.dtype), padding)
    x = x.reshape(*x.shape[: axis.index], blocks, axis.stride, *x.shape[axis.index + 1 :])
    within = axis.index + 1
    phases = [lax.squeeze(phase, (within,)) for phase in lax.split(x, (1,) * axis.stride, within)]
    taps = []
    for offset in range(axis.window):
        block, phase = divmod(offset, axis.stride)
        taps.append(
            lax.slice_in_dim(phases[phase], block, block + axis.output_size, axis=axis.index)
        )
    return taps


def _window_starts(axis: _Axis, shape: Size) -> Array:
    """Return the first position of each window along an axis; negative in the padding."""
    return lax.broadcasted_iota(jnp.int32, shape, axis.index) * axis.stride - axis.pad_before


# Without compilation, each tap would be dispatched on its own outside of `jit`.
@functools.partial(jit, static_argnames="axes")
def _max_pool(x: Array, axes: tuple[_Axis, ...]) -> tuple[Array, Array]:
    best, switches = x, jnp.zeros(x.shape, jnp.int32)
    pitch = 1
    # Reducing the last axis first makes the first of equal values in row-major order win.
    for axis in reversed(axes):
        taps = zip(_taps(best, axis, -math.inf), _taps(switches, axis, 0), strict=True)
        best, switches = next(taps)
        position = _window_starts(axis, best.shape)
        switches += pitch * position
        for tap, switch in taps:
            position += 1
            # The image begins at position 0. Its first value replaces padding even if it is -inf.
            better = (tap > best) | jnp.isnan(tap) | (position == 0)
            best = jnp.where(better, tap, best)
            switches = jnp.where(better, switch + pitch * position, switches)
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
    """Flatten the spatial axes of x."""
    _check_floating("x", x)
    rank = x.ndim - 2 if rank is None else rank
    if not 1 <= rank < x.ndim:
        raise InputError(
            f"rank must be from 1 to {x.ndim - 1} for x of shape {x.shape} (None means one batch "
            f"axis); got {rank}"
        )
    count = math.prod(x.shape[-1 - rank : -1])
    if not count:
        raise InputError(f"x must have at least one pixel; got shape {x.shape}")
    return x.reshape(*x.shape[: -1 - rank], count, x.shape[-1])


def _check_floating(name: str, x) -> None:
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise InputError(f"{name} must hold floating-point numbers; got {x.dtype}")


def _rank_of(name: str, per_axis: object, array_name: str, x) -> int:
    """Return the number of spatial axes: the length of a tuple, or `x.ndim - 2` for an int."""
    rank = len(per_axis) if isinstance(per_axis, tuple | list) else x.ndim - 2
    if rank < 1 or x.ndim <= rank:
        raise InputError(
            f"{name}={per_axis!r} does not match {array_name}: a tuple must have one entry per "
            f"spatial axis, and an int requires one batch axis; got shape {x.shape}"
        )
    return rank


def _axes(name: str, x, window, stride, padding) -> tuple[_Axis, ...]:
    """Validate the arguments of a pooling of `x`, called `name` in messages; return its axes."""
    rank = _rank_of("window", window, name, x)
    _check_floating(name, x)
    size = x.shape[-1 - rank : -1]
    slides = _window(window, stride, padding, rank)
    slides.output_size(size)  # raises if the window does not fit into the image
    pads = slides.pads(size)
    if any(max(pad) >= w for pad, w in zip(pads, slides.kernel_size, strict=True)):
        raise InputError(
            f"padding must be smaller than the window {slides.kernel_size}; got {padding!r}"
        )
    axes = zip(size, slides.kernel_size, slides.stride, pads, strict=True)
    return tuple(
        _Axis(index, n, w, s, *pad) for index, (n, w, s, pad) in enumerate(axes, x.ndim - 1 - rank)
    )


def _window(
    window: IntOrPerAxis, stride: IntOrPerAxis | None, padding: Padding, rank: int
) -> Window:
    sizes = per_axis("window", window, rank, 1)
    return Window.of(sizes, sizes if stride is None else stride, padding)
