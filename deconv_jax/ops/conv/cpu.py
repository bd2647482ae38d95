"""Formulations for XLA's CPU backend, for the cases where a `lax` convolution does far more work.

| operator | one `lax` convolution | here |
| --- | --- | --- |
| strided transposed convolution | multiplies by the zeros that dilate y | one convolution per phase of the stride |
| the same, with fewer output channels than phases | multiplies by the zeros that dilate y | one sub-pixel convolution |
| the same, dilated or with small patches | multiplies by the zeros that dilate y | a matrix product, then overlap-add |
| convolution with small patches | multiplies matrices with few columns | a matrix product, then overlap-add |
| depthwise convolution | multiplies matrices with one column | a sum of shifted products |
| kernel gradient, fewer channels in y than in x | copies patches of x | copies patches of y |
| kernel gradient with groups | multiplies each group by all others | `feature_group_count` |
| 3-d convolution and kernel gradient | runs a naive loop nest | 2-d, with the taps of the first axis as channels |

Everything else runs as the `lax` convolution. The choice depends on shapes alone; no threshold is
tuned. Half precision is computed in float32 and rounded once. Array shapes are those of `lax.py`.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax import lax
from jax.export import is_symbolic_dim
from jaxtyping import Array

from deconv_jax.ops.conv import lax as lax_conv
from deconv_jax.ops.conv.lax import Geometry, flatten_channels
from deconv_jax.ops.conv.window import Dimension


def _in_single_precision(function: Callable) -> Callable:
    @functools.wraps(function)
    def wrapped(a: Array, b: Array, geometry: Geometry) -> Array:
        wide = jnp.promote_types(a.dtype, jnp.float32)
        return function(a.astype(wide), b.astype(wide), geometry).astype(a.dtype)

    return wrapped


@_in_single_precision
def conv(x: Array, kernel: Array, geometry: Geometry) -> Array:
    """Compute y from x and the kernel; arguments and result as for `lax.conv`."""
    if _is_depthwise(kernel):
        axes = list(zip(geometry.stride, geometry.output_size, strict=True))
        spans, ones = tuple(s * (m - 1) + 1 for s, m in axes), (1,) * len(axes)
        dense = lax_conv.flip_geometry(
            dataclasses.replace(geometry, output_size=spans, stride=ones)
        )
        y = _overlap_add(lax_conv.flip_kernel(kernel), x, dense)
        return y[(slice(None), *(slice(None, None, s) for s in geometry.stride))]
    if max(geometry.stride) == 1:
        flipped = lax_conv.flip(kernel, geometry)
        if _has_small_patches(*flipped):
            return _overlap_add(flipped[0], x, flipped[1])
    if len(geometry.stride) < 3:
        return lax_conv.conv(x, kernel, geometry)
    taps, *size, inputs, groups, outputs = kernel.shape
    kernel = jnp.moveaxis(kernel, 0, -4).reshape(*size, taps * inputs, groups, outputs)
    folded, rest = _fold_first_axis(x, geometry)
    y = lax_conv.conv(folded, kernel, rest)
    return y.reshape(x.shape[0], *geometry.output_size, groups, outputs)


@_in_single_precision
def conv_transpose(kernel: Array, y: Array, geometry: Geometry) -> Array:
    """Compute x from y and the kernel; arguments and result as for `lax.conv_transpose`."""
    if max(geometry.stride) == 1:
        return conv(y, *lax_conv.flip(kernel, geometry))
    dilated = max(geometry.dilation) > 1
    if dilated or _is_depthwise(kernel) or _has_small_patches(kernel, geometry):
        return _overlap_add(kernel, y, geometry)
    overlapping = all(k >= s for k, s in zip(geometry.kernel_size, geometry.stride, strict=True))
    if overlapping and math.prod(geometry.stride) <= kernel.shape[-3]:
        return _conv_to_each_phase(kernel, y, geometry)
    return _subpixel_conv(kernel, y, geometry)


@_in_single_precision
def kernel_gradient(x: Array, y: Array, geometry: Geometry) -> Array:
    """Compute the gradient of the kernel, as `lax.kernel_gradient` does.

    Args:
      x: Images (batch, *input_size, groups, inputs).
      y: Gradient of the output (batch, *output_size, groups, outputs).
      geometry: Geometry of the convolution.

    Returns:
      Gradient (*kernel_size, inputs, groups, outputs).
    """
    inputs, (groups, outputs) = x.shape[-1], y.shape[-2:]
    if max(geometry.stride) == 1 and outputs < inputs:
        gradient = kernel_gradient(y, x, lax_conv.flip_geometry(geometry))
        return lax_conv.flip_kernel(gradient)
    image, rest = x, geometry
    if len(geometry.stride) == 3:
        image, rest = _fold_first_axis(x, geometry)
        y = y.reshape(-1, *y.shape[2:])
    gradient = lax_conv.canonical_conv(
        flatten_channels(image.swapaxes(0, -1)),
        flatten_channels(jnp.moveaxis(y, 0, -3)),
        rest,
        window_strides=rest.dilation,
        padding=rest.padding,
        rhs_dilation=rest.stride,
        feature_group_count=groups,
    )
    # Move the folded taps of the first axis in front of the other taps.
    gradient = jnp.moveaxis(gradient, 0, -2)
    gradient = gradient.reshape(*rest.kernel_size, -1, inputs, groups, outputs)
    return jnp.moveaxis(gradient, -4, 0).reshape(*geometry.kernel_size, inputs, groups, outputs)


def _is_depthwise(kernel: Array) -> bool:
    """Return whether each group has one input and one output channel."""
    return kernel.shape[-3] == kernel.shape[-1] == 1 < kernel.shape[-2]


def _has_small_patches(kernel: Array, geometry: Geometry) -> bool:
    """Return whether the patches to add take no more memory than y dilated by the stride."""
    patch = math.prod(geometry.kernel_size) * kernel.shape[-3]
    return patch <= math.prod(geometry.stride) * kernel.shape[-1]


def _fold_first_axis(x: Array, geometry: Geometry) -> tuple[Array, Geometry]:
    """Turn a 3-d convolution into a 2-d one.

    The first spatial axis is merged into the batch axis, and its taps into the input channels.

    Returns:
      Images (batch * first output size, *last two sizes, groups, taps * inputs), and the geometry
      of the last two axes.
    """
    (low, high), stride, taps = geometry.padding[0], geometry.stride[0], geometry.kernel_size[0]
    x = lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), (low, high, 0), *[(0, 0, 0)] * 4])
    span = stride * (geometry.output_size[0] - 1) + 1
    starts = [geometry.dilation[0] * tap for tap in range(taps)]
    slabs = [lax.slice_in_dim(x, start, start + span, stride, axis=1) for start in starts]
    x = jnp.concatenate(slabs, axis=-1)
    rest = {
        field.name: getattr(geometry, field.name)[1:]
        for field in dataclasses.fields(geometry)
        if field.name != "precision"
    }
    return x.reshape(-1, *x.shape[2:]), dataclasses.replace(geometry, **rest)


def _conv_to_each_phase(kernel: Array, y: Array, geometry: Geometry) -> Array:
    """Compute each phase of x (pixels of equal index modulo the stride) by a convolution of y."""
    axes = zip(geometry.input_size, geometry.stride, strict=True)
    blocks, ones = tuple(-(-n // s) for n, s in axes), (1,) * len(geometry.stride)

    def phase(offsets: tuple[int, ...]) -> Array:
        sums = zip(offsets, geometry.pad_before, geometry.stride, strict=True)
        above, first = zip(*(divmod(r + before, s) for r, before, s in sums), strict=True)
        taps = kernel[tuple(map(slice, first, geometry.kernel_size, geometry.stride))]
        size = taps.shape[: len(ones)]
        before = tuple(k - 1 - a for k, a in zip(size, above, strict=True))
        finer = Geometry(geometry.output_size, blocks, size, ones, ones, before, geometry.precision)
        return conv(y, lax_conv.flip_kernel(taps), finer)

    phases = jnp.stack(list(map(phase, itertools.product(*map(range, geometry.stride)))), -2)
    phases = phases.reshape(*phases.shape[:-2], *geometry.stride, phases.shape[-1])
    return _interleave(phases, (0,) * len(ones), geometry)


def _subpixel_conv(kernel: Array, y: Array, geometry: Geometry) -> Array:
    """Compute x by a sub-pixel convolution of y, whose channels are the pixels of a block of x.

    The blocks have `stride` pixels (Shi et al., arXiv:1609.07009). The kernel is padded with zeros
    to a multiple of the stride.
    """
    rank, (inputs, groups, outputs) = len(geometry.stride), kernel.shape[-3:]
    sizes = (geometry.input_size, geometry.kernel_size, geometry.stride, geometry.pad_before)
    axes = [_align(*axis) for axis in zip(*sizes, strict=True)]
    taps, blocks, above, cropped, sides = zip(*axes, strict=True)
    kernel = lax.pad(kernel, jnp.zeros((), kernel.dtype), [*sides, *[(0, 0, 0)] * 3])
    split = itertools.chain.from_iterable(zip(taps, geometry.stride, strict=True))
    kernel = kernel.reshape(*split, inputs, groups, outputs)
    kernel = lax.rev(kernel, range(0, 2 * rank, 2)).transpose(
        *range(0, 2 * rank, 2), 2 * rank + 2, 2 * rank + 1, *range(1, 2 * rank, 2), 2 * rank
    )
    ones = (1,) * rank
    finer = Geometry(geometry.output_size, blocks, taps, ones, ones, above, geometry.precision)
    phases = conv(y, kernel.reshape(*taps, outputs, groups, -1), finer)
    phases = phases.reshape(*phases.shape[:-1], *geometry.stride, inputs)
    return _interleave(phases, cropped, geometry)


def _align(size: Dimension, taps: int, stride: int, before: int) -> tuple:
    """Align the blocks of one axis of x with the kernel so that the fewest products are needed.

    Returns:
      (taps, outputs, leading padding) of the convolution of y, the number of pixels to crop from
      its first block, and the padding of the kernel as for `lax.pad`.
    """

    def aligned(lead: int) -> tuple:
        above, cropped = divmod(lead + before, stride)
        blocks, count = -(-(size + cropped) // stride), -(-(lead + taps) // stride)
        padding = (lead, count * stride - taps - lead, 0)
        return count, blocks, count - 1 - above, cropped, padding

    candidates = list(map(aligned, range(stride)))
    if is_symbolic_dim(size):  # An unknown size counts as large: taps first, then cropped pixels.
        return min(candidates, key=lambda axis: (axis[0], axis[3]))
    return min(candidates, key=lambda axis: axis[0] * axis[1])


def _overlap_add(kernel: Array, y: Array, geometry: Geometry) -> Array:
    """Compute x by overlap-add: multiply each pixel of y by the kernel, and add these patches."""
    rank = len(geometry.stride)
    rows = kernel.reshape(-1, *kernel.shape[-2:])
    product = functools.partial(
        lax.dot_general,
        dimension_numbers=(((rank + 1,), (1,)), ((), ())),
        precision=geometry.precision,
    )
    if kernel.shape[-2] == 1:  # avoid the copy that a batch axis of length 1 costs
        patches = jnp.expand_dims(product(y[..., 0, :], rows[:, 0]), -2)
    else:
        patches = jax.vmap(product, -2, -2)(y, rows)
    patches = patches.reshape(*patches.shape[:-1], *geometry.kernel_size, kernel.shape[-3])
    for axis in range(rank):
        patches = _overlap_add_axis(patches, axis, geometry)
    return _interleave(patches, geometry.pad_before, geometry)


def _overlap_add_axis(patches: Array, axis: int, geometry: Geometry) -> Array:
    """Overlap-add patches along one axis; the axis of taps becomes one of `stride` phases."""
    pixels, taps = 1 + axis, len(geometry.stride) + 2 + axis
    count, stride = geometry.kernel_size[axis], geometry.stride[axis]
    places = [divmod(geometry.dilation[axis] * tap, stride) for tap in range(count)]

    def shifted(tap: int) -> Array:
        part = lax.index_in_dim(patches, tap, taps, keepdims=False)
        sides = [(0, 0, 0)] * part.ndim
        sides[pixels] = (places[tap][0], places[-1][0] - places[tap][0], 0)
        return lax.pad(part, jnp.zeros((), part.dtype), sides)

    phases = [[tap for tap in range(count) if places[tap][1] == phase] for phase in range(stride)]
    added = [functools.reduce(jnp.add, map(shifted, of_phase)) for of_phase in phases if of_phase]
    empty = jnp.zeros_like(added[0])
    filled = iter(added)
    return jnp.stack([next(filled) if of_phase else empty for of_phase in phases], taps)


def _interleave(phases: Array, before: Sequence[int], geometry: Geometry) -> Array:
    """Interleave phases (batch, *blocks, groups, *stride, inputs), and crop `before` pixels."""
    rank = len(geometry.stride)
    within = [axis for i in range(rank) for axis in (1 + i, 2 + rank + i)]
    x = phases.transpose(0, *within, 1 + rank, 2 + 2 * rank)
    lengths = [b * s for b, s in zip(phases.shape[1:], geometry.stride, strict=False)]
    x = x.reshape(x.shape[0], *lengths, *x.shape[-2:])
    sides = [
        (-low, n + low - length, 0)
        for low, n, length in zip(before, geometry.input_size, lengths, strict=True)
    ]
    return lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *sides, (0, 0, 0), (0, 0, 0)])
