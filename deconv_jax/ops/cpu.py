"""A convolution, its adjoint and its kernel gradient as XLA's CPU backend computes them fastest.

It has fast matrix products and fast convolutions with small windows. It has none over an image
spread with zeros; none in three dimensions; and the one with an image-sized window that a kernel
gradient is takes, for each image, the longer the more there are. Hence:

| what | how |
|---|---|
| conv | one `lax` convolution; in three dimensions a matrix product of patches |
| to few channels (*) | a matrix product, then the patches it gives are added where they overlap |
| conv_transpose, stride 1 | the convolution that it is, with the kernel turned round |
| conv_transpose, strided | a matrix product, then the patches it gives are added where they overlap |
| the same, much overlap | one convolution to all phases of the stride, interleaved ("sub-pixel") |
| the same, very many taps | likewise, and the kernel gradient as this convolution's |
| the same, strided and dilated | as elsewhere, over an image spread with zeros: slow, and rare |
| all three, of a kernel of two strides (**) | fewer products: `minimal_filtering` |
| kernel gradient | in one dimension the `lax` convolution that it is |
| in more, or grouped | a matrix product of patches, channels first |
| of large images (***) | the `lax` convolution, of a few images at a time |
| of few outputs (*) | the same of patches of y |

(*) In two dimensions, with stride 1, no dilation and no groups: what ends most networks of images.

(**) In two dimensions, strided, with no dilation and no groups, where inputs and outputs are many
(32 and 64 of conv, 32 of conv_transpose, 64 of the kernel gradient), y is little smaller than its
tiles of two by two (for the kernel gradient no smaller), and the batch has equal parts of many
tiles each: what halves and doubles images in a DCGAN.

(***) In two dimensions without groups, where the patches of one image leave the cache.

Patches, and what is filtered, are made for a part of the batch at a time, so that they take little
memory. All rules are of shapes alone; `experiments/benchmarks/operators.py` measures what they lead
to. Half precision is computed in float32 and rounded once. Arrays as in `formulations`.

Parts of a batch that is sharded over the devices of one program are gathered first: with several
CPU devices shard the batch by `shard_map`, as pmap does. That is for tests; GPUs never come here.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from deconv_jax.ops import minimal_filtering
from deconv_jax.ops.formulations import (
    Geometry,
    native_conv,
    native_conv_transpose,
    native_kernel_gradient,
    turned_geometry,
    turned_round,
)

_READ_AT_A_TIME = 8e6
"""Bytes of the patches that a matrix product reads: they are to stay in the cache."""

_IMAGES_AT_A_TIME = 4
"""Of a convolution with a window as large as the image: each takes the longer the more there are."""

_ADDED_AT_A_TIME = 32e6
"""Bytes of the patches that one writes: adding them up is slower in a loop, but not in pieces
that leave the cache."""

_FEW_TO_ADD, _FEW_TO_MATCH = 4, 16
"""Outputs up to which a plain convolution, and its kernel gradient, are products of matrices: XLA's
library of convolutions is slow at few outputs."""

_FILTERED_AT_A_TIME = 4e6
"""Elements of both images of a part of the batch, transformed for minimal filtering: they are to
stay in the cache, and a loop over many small parts takes longer than it saves."""

_TO_FILTER, _TO_FILTER_BACK, _TO_FILTER_MATCHES = (32, 64), (32, 32), (64, 64)
"""Inputs and outputs from which minimal filtering of a convolution, its adjoint and its kernel
gradient saves more in products than its transforms take."""

_MOST_EXCESS = 1.4
"""Outputs of its tiles as a multiple of those there are: at 16 / 9 no product would be saved."""

_MOST_TAPS = 256
"""Of a strided kernel that is taken tap by tap: each is an operation, and 4096 compile for minutes."""

_MOST_TO_ADD = 4
"""The size of patches that are added as a multiple of that of the image they come from."""


def _in_single_precision(function: Callable) -> Callable:
    @functools.wraps(function)
    def wrapped(a: Array, b: Array, geometry: Geometry) -> Array:
        wide = jnp.promote_types(a.dtype, jnp.float32)
        return function(a.astype(wide), b.astype(wide), geometry).astype(a.dtype)

    return wrapped


@_in_single_precision
def conv(x: Array, kernel: Array, geometry: Geometry) -> Array:
    """y."""
    written = math.prod(geometry.kernel_size) * kernel.shape[-1]
    few = _has_few_outputs(geometry, *kernel.shape[-3:], most=_FEW_TO_ADD)
    if few and written <= _MOST_TO_ADD * kernel.shape[-3]:
        # With stride 1 a convolution is the adjoint of one with its kernel turned round.
        return _adjoint_by_patches(*turned_round(kernel, geometry), x)
    if parts := _parts_to_filter(geometry, len(x), *kernel.shape[-3:], least=_TO_FILTER):
        weights = minimal_filtering.transform_kernel(kernel, geometry)
        filtered = functools.partial(minimal_filtering.conv, weights=weights, geometry=geometry)
        return _by_parts(filtered, x, parts)
    if len(geometry.kernel_size) < 3:
        return _small_window_conv(x, kernel, geometry)
    rows = kernel.reshape(-1, *kernel.shape[-2:])

    def part(x: Array) -> Array:
        return _product(_patches(x, geometry), rows, (-1, 0), geometry)

    return _by_parts(part, x, _patch_bytes(x, geometry) / _READ_AT_A_TIME)


@_in_single_precision
def conv_transpose(kernel: Array, y: Array, geometry: Geometry) -> Array:
    """x."""
    if max(geometry.stride) == 1:
        return conv(y, *turned_round(kernel, geometry))
    if max(geometry.dilation) > 1:
        return native_conv_transpose(kernel, y, geometry)
    if parts := _parts_to_filter(geometry, len(y), *kernel.shape[-3:], least=_TO_FILTER_BACK):
        weights = minimal_filtering.transform_kernel(kernel, geometry)
        filtered = functools.partial(minimal_filtering.conv_transpose, weights, geometry=geometry)
        return _by_parts(filtered, y, parts)
    if _has_many_taps(geometry) or _overlaps_much(kernel, geometry):
        return _conv_to_phases(kernel, y, geometry)
    return _adjoint_by_patches(kernel, geometry, y)


@_in_single_precision
def kernel_gradient(x: Array, y: Array, geometry: Geometry) -> Array:
    """The kernel's gradient."""
    if len(geometry.kernel_size) == 1 and x.shape[-2] == 1:
        return native_kernel_gradient(x, y, geometry)
    if _has_many_taps(geometry):
        zeros = jnp.zeros((*geometry.kernel_size, x.shape[-1], *y.shape[-2:]), x.dtype)
        return jax.vjp(lambda kernel: _conv_to_phases(kernel, y, geometry), zeros)[1](x)[0]
    even = not any(m % 2 for m in geometry.output_size)
    shapes = len(x), x.shape[-1], *y.shape[-2:]
    if even and (parts := _parts_to_filter(geometry, *shapes, least=_TO_FILTER_MATCHES, sums=2)):
        filtered = functools.partial(minimal_filtering.weights_gradient, geometry=geometry)
        gradient = _summed_over_parts(filtered, x, y, parts)
        return minimal_filtering.transpose_kernel(gradient, geometry)
    if _has_few_outputs(geometry, x.shape[-1], *y.shape[-2:], most=_FEW_TO_MATCH):
        # The taps meet the image where, turned round, they meet y.
        return lax.rev(_matched(y, x, turned_geometry(geometry)), (0, 1)).swapaxes(-3, -1)
    plain, overlap = len(geometry.kernel_size) == 2 and x.shape[-2] == 1, max(_blocks(geometry)) > 1
    if plain and overlap and _patch_bytes(x, geometry) > len(x) * _READ_AT_A_TIME:
        native = functools.partial(native_kernel_gradient, geometry=geometry)
        return _summed_over_parts(native, x, y, len(x) / _IMAGES_AT_A_TIME)
    return _matched(x, y, geometry)


def _matched(x: Array, y: Array, geometry: Geometry) -> Array:
    """The kernel's gradient: what its taps meet times y, summed over batch and pixels.

    XLA's matrix product first turns an operand round whose summed axis comes first. So the channels
    of x are put before its pixels while x is small, not once it is patches.
    """
    rank, groups = len(geometry.kernel_size), x.shape[-2]

    def part(x: Array, y: Array) -> Array:
        x = x.transpose(rank + 2, rank + 1, *range(rank + 1))
        taps = jnp.stack(list(_taps(x, geometry, first_axis=3)))
        taps = taps.reshape(len(taps) * len(x), groups, math.prod(y.shape[:-2]))
        return _product(taps, y.reshape(-1, *y.shape[-2:]), (-1, 0), geometry)

    gradient = _summed_over_parts(part, x, y, _patch_bytes(x, geometry) / _READ_AT_A_TIME)
    return gradient.reshape(*geometry.kernel_size, x.shape[-1], *y.shape[-2:])


def _small_window_conv(x: Array, kernel: Array, geometry: Geometry) -> Array:
    rows, kept = geometry.input_size[0], geometry.output_size[0]
    extra = rows + 1 - kept
    if len(geometry.kernel_size) != 2 or max(geometry.stride) > 1 or not 0 < 8 * extra <= kept:
        return native_conv(x, kernel, geometry)
    # XLA hands a two-dimensional convolution to another library when its output is no larger than
    # its image, and that one takes longer: a few rows more, and it keeps it.
    taller = dataclasses.replace(geometry, output_size=(kept + extra, *geometry.output_size[1:]))
    return native_conv(x, kernel, taller)[:, :kept]


def _parts_to_filter(
    geometry: Geometry,
    batch: int,
    inputs: int,
    groups: int,
    outputs: int,
    *,
    least: tuple[int, int],
    sums: int = 1,
) -> float:
    """In how many parts minimal filtering takes a batch; 0 where it gains nothing.

    A part stays in the cache, but it is as large as its weights: they are read for each part, and a
    gradient's are read and written (`sums` is 2). Parts of less than half that size gain nothing.
    """
    plain = len(geometry.kernel_size) == 2 and groups == 1 and max(geometry.dilation) == 1
    enough = inputs >= least[0] and outputs >= least[1]
    if not plain or not enough or min(geometry.stride) == 1:
        return 0.0
    if any(k != 2 * s for k, s in zip(geometry.kernel_size, geometry.stride, strict=True)):
        return 0.0
    if minimal_filtering.excess(geometry) > _MOST_EXCESS:
        return 0.0
    weights, image = minimal_filtering.transformed_sizes(geometry, inputs, outputs)
    parts = _parts(batch, batch * image / max(_FILTERED_AT_A_TIME, sums * weights))
    return float(parts) if 2 * batch * image >= sums * weights * parts else 0.0


def _has_few_outputs(
    geometry: Geometry, inputs: int, groups: int, outputs: int, *, most: int
) -> bool:
    """Whether a convolution is plain and of outputs that are few, by number and beside its inputs."""
    plain = len(geometry.kernel_size) == 2 and groups == 1
    plain = plain and max(*geometry.stride, *geometry.dilation) == 1
    return plain and outputs <= most and 2 * outputs <= inputs


def _has_many_taps(geometry: Geometry) -> bool:
    strided = max(geometry.stride) > 1 and max(geometry.dilation) == 1
    return strided and math.prod(geometry.kernel_size) > _MOST_TAPS


def _overlaps_much(kernel: Array, geometry: Geometry) -> bool:
    """Whether a strided transposed convolution is better done by phases.

    The matrix product writes every product of an output pixel to memory, `blocks` to the power of
    the rank of them; the phases none, but they multiply borders and taps that are then cut off.
    """
    blocks = _blocks(geometry)
    axes = zip(blocks, geometry.stride, geometry.kernel_size, geometry.output_size, strict=True)
    wasted = math.prod((m + q - 1) * q * s / (m * k) for q, s, k, m in axes)
    features = math.prod(geometry.stride) * kernel.shape[-3]
    return math.prod(blocks) >= 4 and wasted <= 1.2 and features >= 64


def _conv_to_phases(kernel: Array, y: Array, geometry: Geometry) -> Array:
    """The sub-pixel convolution: output phases are channels of a convolution with stride 1."""
    rank, blocks = len(geometry.stride), _blocks(geometry)
    inputs, groups, outputs = kernel.shape[-3:]
    spread = [
        (0, q * s - k, 0)
        for q, s, k in zip(blocks, geometry.stride, geometry.kernel_size, strict=True)
    ]
    kernel = lax.pad(kernel, jnp.zeros((), kernel.dtype), [*spread, *[(0, 0, 0)] * 3])
    split = itertools.chain.from_iterable(zip(blocks, geometry.stride, strict=True))
    kernel = kernel.reshape(*split, inputs, groups, outputs)
    kernel = lax.rev(kernel, range(0, 2 * rank, 2)).transpose(
        *range(0, 2 * rank, 2), 2 * rank + 2, 2 * rank + 1, *range(1, 2 * rank, 2), 2 * rank
    )
    lengths = tuple(m + q - 1 for m, q in zip(geometry.output_size, blocks, strict=True))
    phases = native_conv(
        y,
        kernel.reshape(*blocks, outputs, groups, -1),
        Geometry(
            input_size=geometry.output_size,
            output_size=lengths,
            kernel_size=blocks,
            stride=(1,) * rank,
            dilation=(1,) * rank,
            before=tuple(q - 1 for q in blocks),
            precision=geometry.precision,
        ),
    )
    return _interleaved(phases.reshape(*phases.shape[:-1], *geometry.stride, inputs), geometry)


def _adjoint_by_patches(kernel: Array, geometry: Geometry, y: Array) -> Array:
    part = functools.partial(_added_patches, kernel, geometry=geometry)
    patch_bytes = y.nbytes // y.shape[-1] * math.prod(kernel.shape[:-2])
    return _by_parts(part, y, patch_bytes / _ADDED_AT_A_TIME)


def _added_patches(kernel: Array, y: Array, geometry: Geometry) -> Array:
    """Each pixel of y times the kernel, added up where these patches of the output overlap."""
    inputs, groups, outputs = kernel.shape[-3:]
    blocks = _blocks(geometry)
    rows = kernel.reshape(-1, groups, outputs)
    patches = _product(y, rows, (-1, -1), geometry)
    patches = patches.reshape(*patches.shape[:-1], *geometry.kernel_size, inputs)
    zero = jnp.zeros((), y.dtype)
    lengths = [m + q - 1 for m, q in zip(geometry.output_size, blocks, strict=True)]
    shape = (len(y), *lengths, groups, inputs)

    def phase(offsets: tuple[int, ...]) -> Array:
        shifted = []
        for block in itertools.product(*map(range, blocks)):
            tap = tuple(b * s + r for b, s, r in zip(block, geometry.stride, offsets, strict=True))
            if all(t < k for t, k in zip(tap, geometry.kernel_size, strict=True)):
                sides = [(b, q - 1 - b, 0) for b, q in zip(block, blocks, strict=True)]
                sides = [(0, 0, 0), *sides, (0, 0, 0), (0, 0, 0)]
                shifted.append(lax.pad(patches[(..., *tap, slice(None))], zero, sides))
        return functools.reduce(jnp.add, shifted) if shifted else jnp.zeros(shape, y.dtype)

    phases = jnp.stack([phase(r) for r in itertools.product(*map(range, geometry.stride))], -2)
    return _interleaved(phases.reshape(*phases.shape[:-2], *geometry.stride, inputs), geometry)


def _product(a: Array, b: Array, contracted: tuple[int, int], geometry: Geometry) -> Array:
    """Matrix products over an axis of each, which are then without groups, the last axis but one."""

    def product(a: Array, b: Array) -> Array:
        of_a, of_b = contracted[0] % a.ndim, contracted[1] % b.ndim
        axes = (((of_a,), (of_b,)), ((), ()))
        return lax.dot_general(a, b, axes, precision=geometry.precision)

    if a.shape[-2] > 1:
        return jax.vmap(product, -2, -2)(a, b)
    # A batch axis of length 1 costs a copy.
    return jnp.expand_dims(product(a[..., 0, :], b[..., 0, :]), -2)


def _interleaved(phases: Array, geometry: Geometry) -> Array:
    """(batch, *blocks, groups, *stride, inputs) to the pixels of x."""
    rank = len(geometry.stride)
    within = [axis for i in range(rank) for axis in (1 + i, 2 + rank + i)]
    x = phases.transpose(0, *within, 1 + rank, 2 + 2 * rank)
    lengths = [b * s for b, s in zip(phases.shape[1:], geometry.stride, strict=False)]
    x = x.reshape(len(x), *lengths, *x.shape[-2:])
    crop = [
        (-before, n + before - length, 0)
        for before, n, length in zip(geometry.before, geometry.input_size, lengths, strict=True)
    ]
    return lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *crop, (0, 0, 0), (0, 0, 0)])


def _blocks(geometry: Geometry) -> tuple[int, ...]:
    """How many strides, begun ones included, the kernel reaches over along each axis."""
    return tuple(-(-k // s) for k, s in zip(geometry.kernel_size, geometry.stride, strict=True))


def _taps(x: Array, geometry: Geometry, first_axis: int = 1) -> Iterator[Array]:
    """What each tap of the kernel meets, of images whose first axis of space is `first_axis`."""
    space = range(first_axis, first_axis + len(geometry.kernel_size))
    sides = [(0, 0, 0)] * x.ndim
    sides[space.start : space.stop] = [(low, high, 0) for low, high in geometry.padding]
    x = lax.pad(x, jnp.zeros((), x.dtype), sides)
    for tap in itertools.product(*map(range, geometry.kernel_size)):
        starts, ends, strides = [0] * x.ndim, list(x.shape), [1] * x.ndim
        for i, axis in enumerate(space):
            stride = geometry.stride[i]
            starts[axis] = geometry.dilation[i] * tap[i]
            ends[axis] = starts[axis] + stride * (geometry.output_size[i] - 1) + 1
            strides[axis] = stride
        yield lax.slice(x, starts, ends, strides)


def _patches(x: Array, geometry: Geometry) -> Array:
    """What the kernel meets at each output pixel: (batch, *output size, groups, taps * inputs)."""
    return jnp.concatenate(list(_taps(x, geometry)), axis=-1)


def _patch_bytes(x: Array, geometry: Geometry) -> int:
    pixels = len(x) * math.prod(geometry.output_size) * math.prod(geometry.kernel_size)
    return pixels * math.prod(x.shape[-2:]) * x.dtype.itemsize


def _by_parts(function: Callable, images: Array, least: float) -> Array:
    """`function` of a part of the batch at a time, in at least so many parts."""
    parts = lax.map(function, _divided(images, _parts(len(images), least)))
    return parts.reshape(-1, *parts.shape[2:])


def _summed_over_parts(function: Callable, x: Array, y: Array, least: float) -> Array:
    """The sum of `function` of a part of both batches at a time, in at least so many parts."""
    count = _parts(len(x), least)
    shape = jax.eval_shape(function, x, y).shape
    total, _ = lax.scan(
        lambda total, arrays: (total + function(*arrays), None),
        lax.full_like(x, 0, shape=shape),
        (_divided(x, count), _divided(y, count)),
    )
    return total


def _parts(batch: int, least: float) -> int:
    """The smallest number of equal parts of a batch that is not below `least`; else one each."""
    return next((n for n in range(1, batch) if batch % n == 0 and n >= least), max(batch, 1))


def _divided(images: Array, parts: int) -> Array:
    return images.reshape(parts, len(images) // parts, *images.shape[1:])
