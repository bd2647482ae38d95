"""Strided convolutions of images with 9 products in place of 16, by minimal filtering.

A kernel of twice the stride has two taps along an axis for each phase of the stride. Two neighbouring
outputs of two taps take three products, not four: F(2, 2) of Winograd, "Arithmetic Complexity of
Computations", 1980; for networks Lavin & Gray, arXiv:1509.09308.

    y0 = x0 w0 + x1 w1 = (x0 - x1) w0 + x1 (w0 + w1)
    y1 = x1 w0 + x2 w1 =                x1 (w0 + w1) + (x2 - x1) w1

That is a trilinear form of three arrays, each of them transformed by itself, and the derivatives of
the form are the three operators:

    T = <conv(x, w), y> = sum of (x0 - x1, x1, x2 - x1) * (w0, w0 + w1, w1) * (y0, y0 + y1, y1)

Each x is here a block of stride by stride pixels with all their inputs, as one vector; each w the
matrix that takes it to the outputs. Along both axes of space this makes nine matrix products with a
row for each tile of two by two outputs. Transforms only add and subtract: in float32 the error is
some 1e-6 of the largest element. `cpu` says where this is faster.

What a reader would get wrong: tiles are whole, so an odd output is one longer here, and the image
reaches as far as its tiles do, which is past what the convolution sees. Nothing is approximated by
that: the outputs too many are cut off, or are zeros where y is given, and no other meets those pixels.

Arrays as in `formulations`, of one group. Transformed ones are (9, rows, columns).
"""

import math

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from deconv_jax.ops.formulations import Geometry


def conv(x: Array, weights: Array, geometry: Geometry) -> Array:
    """y, of the transformed kernel."""
    products = _products(_transform_x(x, geometry), weights, (2, 1), geometry)
    return _transpose_y(products, geometry)


def conv_transpose(weights: Array, y: Array, geometry: Geometry) -> Array:
    """x, of the transformed kernel."""
    products = _products(_transform_y(y, geometry), weights, (2, 2), geometry)
    return _transpose_x(products, geometry)


def weights_gradient(x: Array, y: Array, geometry: Geometry) -> Array:
    """The gradient of the transformed kernel, with rows and columns exchanged."""
    y, x = _transform_y(y, geometry), _transform_x(x, geometry)
    # XLA turns the first operand round: it is to be the smaller one, most often y.
    return _products(y, x, (1, 1), geometry)


def transform_kernel(kernel: Array, geometry: Geometry) -> Array:
    """The weights: (9, stride * stride * inputs, outputs)."""
    (s, t), (inputs, _, outputs) = geometry.stride, kernel.shape[-3:]
    taps = kernel.reshape(2, s, 2, t * inputs * outputs)
    return _sums(_sums(taps, 2), 1).reshape(9, s * t * inputs, outputs)


def transpose_kernel(gradient: Array, geometry: Geometry) -> Array:
    """The kernel's gradient from that of the weights: (9, outputs, stride * stride * inputs)."""
    (s, t), outputs = geometry.stride, gradient.shape[1]
    triples = gradient.reshape(3, 3, -1)
    taps = _sums_transpose(_sums_transpose(triples, 1), 1)
    # Kept apart, as XLA would turn round the nine in place of these four.
    taps = lax.optimization_barrier(taps).reshape(2, 2, outputs, s, -1)
    return taps.transpose(0, 3, 1, 4, 2).reshape(2 * s, 2 * t, -1, 1, outputs)


def transformed_sizes(geometry: Geometry, inputs: int, outputs: int) -> tuple[int, int]:
    """Elements of the weights, and of both images of a batch of one, once they are transformed."""
    block = math.prod(geometry.stride) * inputs
    return 9 * block * outputs, 9 * math.prod(_tiles(geometry)) * (block + outputs)


def excess(geometry: Geometry) -> float:
    """Outputs of all tiles, as a multiple of those there are."""
    return math.prod(2 * t / m for t, m in zip(_tiles(geometry), geometry.output_size, strict=True))


def _transform_x(x: Array, geometry: Geometry) -> Array:
    blocks = _to_blocks(x, geometry)
    batch, m, n, length = blocks.shape
    pairs = blocks.reshape(batch, m // 2, 2, n // 2, 2, length)
    return _differences(_differences(pairs, 4), 3).reshape(9, -1, length)


def _transpose_x(products: Array, geometry: Geometry) -> Array:
    m, n = _tiles(geometry)
    triples = products.reshape(3, 3, -1, m, n, products.shape[-1])
    pairs = _differences_transpose(_differences_transpose(triples, 3), 4)
    return _from_blocks(pairs.reshape(-1, 2 * m + 2, 2 * n + 2, pairs.shape[-1]), geometry)


def _transform_y(y: Array, geometry: Geometry) -> Array:
    m, n = _tiles(geometry)
    pairs = _resized(y, (2 * m, 2 * n)).reshape(-1, m, 2, n, 2, y.shape[-1])
    return _sums(_sums(pairs, 4), 3).reshape(9, -1, y.shape[-1])


def _transpose_y(products: Array, geometry: Geometry) -> Array:
    m, n = _tiles(geometry)
    triples = products.reshape(3, 3, -1, m, n, products.shape[-1])
    pairs = _sums_transpose(_sums_transpose(triples, 3), 4)
    return _resized(pairs.reshape(-1, 2 * m, 2 * n, 1, pairs.shape[-1]), geometry.output_size)


def _sums(pairs: Array, axis: int) -> Array:
    """(..., 2, ...) to (3, ...)."""
    first, second = _split(pairs, axis)
    return jnp.stack([first, first + second, second])


def _sums_transpose(triples: Array, axis: int) -> Array:
    """(3, ...) to (..., 2, ...)."""
    first, both, second = triples
    return jnp.stack([first + both, both + second], axis)


def _differences(pairs: Array, axis: int) -> Array:
    """(..., tiles + 1, 2, ...), of which the last pair starts a tile that is none, to (3, ...)."""
    even, odd = _split(pairs, axis)
    before, after = (lax.slice_in_dim(even, i, i - 1 or None, axis=axis - 1) for i in (0, 1))
    odd = lax.slice_in_dim(odd, 0, -1, axis=axis - 1)
    return jnp.stack([before - odd, odd, after - odd])


def _differences_transpose(triples: Array, axis: int) -> Array:
    """(3, ..., tiles, ...) to (..., tiles + 1, 2, ...)."""
    before, both, after = triples
    even = _longer(before, axis - 1, 0) + _longer(after, axis - 1, 1)
    return jnp.stack([even, _longer(both - before - after, axis - 1, 0)], axis)


def _to_blocks(x: Array, geometry: Geometry) -> Array:
    """(batch, 2 * tiles + 2, 2 * tiles + 2, pixels of a block * inputs): strides side by side."""
    (s, t), (top, left) = geometry.stride, geometry.before
    m, n = (2 * tiles + 2 for tiles in _tiles(geometry))
    batch, height, width, _, inputs = x.shape
    x = x.reshape(batch, height, width * inputs)
    sides = (left * inputs, (t * n - left - width) * inputs, 0)
    phases = []
    for phase in range(s):
        # The first row of this phase, and how many blocks lie above it.
        first = (phase - top) % s
        rows, above = x[:, first::s], (first + top - phase) // s
        ends = (above, m - above - rows.shape[1], 0)
        rows = lax.pad(rows, jnp.zeros((), x.dtype), [(0, 0, 0), ends, sides])
        phases.append(rows.reshape(batch, m, n, t * inputs))
    return jnp.concatenate(phases, -1)


def _from_blocks(blocks: Array, geometry: Geometry) -> Array:
    """The transpose of `_to_blocks`."""
    (s, t), (batch, m, n, _) = geometry.stride, blocks.shape
    x = blocks.reshape(batch, m, n, s, -1).swapaxes(2, 3)
    x = x.reshape(batch, s * m, t * n, 1, -1)
    top, left = geometry.before
    return _resized(x, geometry.input_size, (-top, -left))


def _resized(images: Array, size: tuple[int, ...], before: tuple[int, ...] = (0, 0)) -> Array:
    """Padded with zeros, or cropped, by so many pixels before and what the size asks for after."""
    lengths = zip(before, size, images.shape[1:3], strict=True)
    sides = [(low, new - low - old, 0) for low, new, old in lengths]
    sides = [(0, 0, 0), *sides, (0, 0, 0), (0, 0, 0)]
    return lax.pad(images, jnp.zeros((), images.dtype), sides)


def _tiles(geometry: Geometry) -> tuple[int, ...]:
    """How many tiles of two outputs there are along each axis."""
    return tuple(-(-m // 2) for m in geometry.output_size)


def _split(pairs: Array, axis: int) -> tuple[Array, Array]:
    first, second = (lax.index_in_dim(pairs, i, axis, keepdims=False) for i in range(2))
    return first, second


def _longer(array: Array, axis: int, before: int) -> Array:
    """By one zero, before or after."""
    sides = [(0, 0, 0)] * array.ndim
    sides[axis] = (before, 1 - before, 0)
    return lax.pad(array, jnp.zeros((), array.dtype), sides)


def _products(a: Array, b: Array, contracted: tuple[int, int], geometry: Geometry) -> Array:
    axes = (((contracted[0],), (contracted[1],)), ((0,), (0,)))
    return lax.dot_general(a, b, axes, precision=geometry.precision)
