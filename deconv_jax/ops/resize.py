"""Changes of resolution: resampling and blurred pooling.

`resize` follows PyTorch's `interpolate` (half-pixel centres), `imresize` MATLAB's function of that
name, by which super-resolution is measured, `blur_pool` Zhang, arXiv:1904.11486, and the pixel
shuffles PyTorch's or TensorFlow's. What a reader would get wrong: there is no such thing as "the"
bicubic. Keys' cubic has a parameter a, the kernel is widened for shrinking or not, and the border is
repeated, left out or mirrored; a figure obtained with one choice cannot be compared with another's.

    function                    a        shrinking       beyond the border
    resize                      -0.75    aliases         repeats the border pixel
    resize, antialias=True      -0.5     antialiased     left out, weights renormalised
    imresize                    -0.5     antialiased     mirrored with the border pixel

Each is a linear map along each axis, a sparse matrix known before any pixel is: a pixel costs as many
products as its row has weights. The adjoint gathers pixels by the transposed matrix, where automatic
transposition would scatter them, slowly, and on a GPU in an order that changes from run to run.
"""

import dataclasses
import functools
import math
import numbers
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jaxtyping import Array, Float

from deconv_jax.errors import InputError, at_least, check_choice
from deconv_jax.ops.conv import conv
from deconv_jax.ops.conv.primitives import run_compiled
from deconv_jax.ops.conv.window import broadcast_ints

ResizeMethod = Literal["nearest", "bilinear", "bicubic"]
ImresizeMethod = Literal["nearest", "box", "bilinear", "bicubic"]


def resize(
    x: Float[Array, "*batch height width channels"],
    size: Sequence[int],
    *,
    method: ResizeMethod = "bilinear",
    antialias: bool = False,
) -> Float[Array, "*batch out_height out_width channels"]:
    """Interpolates images to another size, as `torch.nn.functional.interpolate` does.

    That is with `align_corners=False`, where pixel i is the interval from i to i + 1, and "nearest"
    is what is called "nearest-exact" there. "bicubic" may leave the range of its input.

    Args:
      x: images.
      size: height and width to return, in pixels.
      method: "nearest", "bilinear" or "bicubic".
      antialias: average over all the pixels that a smaller image's pixel covers; not for "nearest".

    Returns:
      Images of x's type. Half precision is computed in float32 and rounded once.

    Raises:
      InputError: for a size that is not two positive ints, an unknown method, or "nearest" with
        `antialias`.
    """
    check_choice("method", method, ResizeMethod)
    check_images("resize", x)
    if antialias and method == "nearest":
        raise InputError("resize: antialias=True takes bilinear or bicubic; got 'nearest'")
    sizes = list(zip(x.shape[-3:-1], _checked_size(size), strict=True))
    matrices = [_resize_matrix(n, m, method, antialias) for n, m in sizes]
    return _resample(x, matrices, [m / n for n, m in sizes])


def imresize(
    x: Float[Array, "*batch height width channels"],
    scale: int | float | Sequence[int | float] | None = None,
    *,
    size: Sequence[int] | None = None,
    method: ImresizeMethod = "bicubic",
) -> Float[Array, "*batch out_height out_width channels"]:
    """Resizes images exactly as MATLAB's `imresize` does: by it papers make low-resolution images.

    Nothing is rounded or clipped, as in MATLAB for arrays of floats. Given uint8 MATLAB returns
    uint8: for images in [0, 255] `jnp.clip(jnp.floor(imresize(x, scale) + 0.5), 0, 255)` imitates
    that but for a gray level here and there, where MATLAB's rounding of one axis before it resizes
    the other shows.

    Args:
      x: images.
      scale: factor of the size, or one for height and one for width; the result has the size
        `ceil(size * scale)`.
      size: height and width to return, in pixels, instead of `scale`.
      method: "bicubic" (a = -0.5), "bilinear" and "box" are antialiased along an axis that shrinks;
        "nearest" is not.

    Returns:
      Images of x's type. Half precision is computed in float32 and rounded once.

    Raises:
      InputError: unless one of `scale` and `size` is given, or for values out of range.
    """
    check_choice("method", method, ImresizeMethod)
    check_images("imresize", x)
    if (scale is None) == (size is None):
        raise InputError(
            f"imresize: give one of scale and size; got scale={scale!r} and size={size!r}"
        )
    old = x.shape[-3:-1]
    if scale is None:
        new = list(_checked_size(size))
        scales = [m / n for n, m in zip(old, new, strict=True)]
    else:
        scales = _checked_scale(scale)
        new = [math.ceil(n * s) for n, s in zip(old, scales, strict=True)]
    axes = zip(old, new, scales, strict=True)
    return _resample(x, [_imresize_matrix(n, m, s, method) for n, m, s in axes], scales)


def _checked_size(size) -> tuple[int, int]:
    sides = broadcast_ints(size, 1)
    if len(sides) != 2 or min(sides) < 1:
        raise InputError(f"size is a height and a width, ints >= 1; got {size!r}")
    return sides[0], sides[1]


def _checked_scale(scale) -> list[float]:
    scales: Any = [scale, scale] if isinstance(scale, numbers.Real) else scale
    pair = isinstance(scales, tuple | list) and len(scales) == 2
    if not pair or not all(isinstance(s, numbers.Real) and 0 < float(s) < math.inf for s in scales):
        raise InputError(f"scale is a number > 0 or a pair of them; got {scale!r}")
    return [float(s) for s in scales]


@dataclasses.dataclass(frozen=True)
class _Kernel:
    """Weight of a pixel as a function of its distance from where the image is looked up."""

    radius: float
    weight: Callable[[np.ndarray], np.ndarray]


def _cubic(a: float) -> _Kernel:
    """Cubic convolution (Keys 1981); a is its slope at distance 1."""

    def weight(t):
        t = np.abs(t)
        near = ((a + 2) * t - (a + 3)) * t * t + 1
        far = a * (((t - 5) * t + 8) * t - 4)
        return np.where(t <= 1, near, np.where(t <= 2, far, 0.0))

    return _Kernel(2.0, weight)


_BOX = _Kernel(0.5, lambda t: np.where((t >= -0.5) & (t < 0.5), 1.0, 0.0))
_TRIANGLE = _Kernel(1.0, lambda t: np.maximum(1.0 - np.abs(t), 0.0))
_KERNELS = {"nearest": _BOX, "box": _BOX, "bilinear": _TRIANGLE, "bicubic": _cubic(-0.5)}
_ALIASING_KERNELS = _KERNELS | {"bicubic": _cubic(-0.75)}
"""PyTorch's where it does not antialias."""


@dataclasses.dataclass(frozen=True, eq=False)
class _Matrix:
    """A sparse matrix by its rows: y[i] = sum over k of weights[i, k] * x[indices[i, k]].

    Rows are filled up to one length with zero weights. Matrices compare by identity, which is what
    lets `jit` take one as static; the functions that make them are therefore cached.
    """

    indices: np.ndarray = dataclasses.field(repr=False)
    weights: np.ndarray = dataclasses.field(repr=False)
    columns: int

    @classmethod
    def of(cls, shape: tuple[int, int], row, column, weight) -> "_Matrix":
        """The matrix with these elements; those of the same row and column add up."""
        rows, columns = shape
        given = weight != 0
        place, element = np.unique(row[given] * columns + column[given], return_inverse=True)
        row, column = np.divmod(place, columns)
        weight = np.bincount(element, weight[given], len(place))
        start = np.searchsorted(row, np.arange(rows + 1))
        position = start[:-1, None] + np.arange(np.max(np.diff(start)))
        inside = position < start[1:, None]
        # Filled up from the next row, so that no weight of zero meets a pixel that is far away.
        position = np.minimum(position, len(place) - 1)
        return cls(column[position], np.where(inside, weight[position], 0.0), columns)

    @functools.cached_property
    def transposed(self) -> "_Matrix":
        """The matrix of the adjoint."""
        rows = len(self.indices)
        row = np.broadcast_to(np.arange(rows)[:, None], self.indices.shape)
        return _Matrix.of((self.columns, rows), self.indices, row, self.weights)


@functools.lru_cache
def _resize_matrix(old: int, new: int, method: str, antialias: bool) -> _Matrix:
    # In this order both products are exact: where two pixels are equally near, "nearest" sees it.
    centres = (np.arange(new) + 0.5) * old / new - 0.5
    if antialias:
        return _sampling_matrix(old, centres, _KERNELS[method], new / old, "left out")
    return _sampling_matrix(old, centres, _ALIASING_KERNELS[method], 1.0, "repeated")


@functools.lru_cache
def _imresize_matrix(old: int, new: int, scale: float, method: str) -> _Matrix:
    # MATLAB counts from 1; computed as there, ties and all.
    centres = np.arange(1, new + 1) / scale + 0.5 * (1 - 1 / scale) - 1
    shrinking = 1.0 if method == "nearest" else scale
    return _sampling_matrix(old, centres, _KERNELS[method], shrinking, "mirrored")


def _sampling_matrix(
    size: int,
    centres: np.ndarray,
    kernel: _Kernel,
    scale: float,
    border: Literal["repeated", "left out", "mirrored"],
) -> _Matrix:
    """Looks an axis of `size` pixels up at `centres`, by a kernel widened by 1 / scale if below 1."""
    scale = min(scale, 1.0)
    radius = kernel.radius / scale
    taps = np.floor(centres - radius)[:, None] + np.arange(math.ceil(2 * radius) + 2)
    weights = kernel.weight(scale * (centres[:, None] - taps))
    pixels = taps.astype(np.int64)
    if border == "left out":
        weights = np.where((pixels >= 0) & (pixels < size), weights, 0.0)
    if border == "mirrored":
        pixels = pixels % (2 * size)
        pixels = np.minimum(pixels, 2 * size - 1 - pixels)
    weights = weights / weights.sum(axis=1, keepdims=True)
    pixels = np.clip(pixels, 0, size - 1)
    row = np.broadcast_to(np.arange(len(centres))[:, None], pixels.shape)
    return _Matrix.of((len(centres), size), row, pixels, weights)


def _resample(x: Array, matrices: Sequence[_Matrix], scales: Sequence[float]) -> Array:
    """Applies a matrix each to height and width: first to the one that shrinks more, as MATLAB."""
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise InputError(f"images are resampled as floats; got {x.dtype}: convert them first")
    y = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    for axis in sorted((0, 1), key=lambda axis: scales[axis]):
        y = _resample_p.bind(y, matrix=matrices[axis], axis=x.ndim - 3 + axis)
    return y.astype(x.dtype)


def _gather(x: Array, *, matrix: _Matrix, axis: int) -> Array:
    """The product of a matrix with every vector along an axis of x."""
    shape = [-1 if a == axis else 1 for a in range(x.ndim)]
    y = jnp.zeros((), x.dtype)
    # One gather a tap: XLA fuses them into the loop over the output, and stores none.
    for indices, weights in zip(matrix.indices.T, matrix.weights.T, strict=True):
        pixels = x.at[(slice(None),) * axis + (indices,)].get(mode="promise_in_bounds")
        y = y + pixels * weights.astype(x.dtype).reshape(shape)
    return y


def _abstract(x, *, matrix: _Matrix, axis: int):
    return x.update(shape=(*x.shape[:axis], len(matrix.indices), *x.shape[axis + 1 :]))


def _transpose_rule(cotangent, _, *, matrix: _Matrix, axis: int):
    return [_resample_p.bind(cotangent, matrix=matrix.transposed, axis=axis)]


def _batching_rule(operands, dimensions, *, matrix: _Matrix, axis: int):
    x = jnp.moveaxis(operands[0], dimensions[0], 0)
    return _resample_p.bind(x, matrix=matrix, axis=axis + 1), 0


_resample_p = Primitive("resample")
_resample_p.def_abstract_eval(_abstract)
_resample_p.def_impl(run_compiled(_resample_p, ("matrix", "axis")))
mlir.register_lowering(_resample_p, mlir.lower_fun(_gather, multiple_results=False))
ad.deflinear2(_resample_p, _transpose_rule)
batching.primitive_batchers[_resample_p] = _batching_rule


def blur_pool(
    x: Float[Array, "*batch height width channels"], stride: int, *, filter_size: int = 3
) -> Float[Array, "*batch out_height out_width channels"]:
    """Keeps every `stride`-th pixel of a blurred image: shift-robust pooling, arXiv:1904.11486.

    The filter is binomial, (1, 2, 1) / 4 along each axis by default; the border is mirrored without
    its pixel.

    Args:
      x: images, larger than `filter_size / 2` pixels.
      stride: distance between the pixels kept.
      filter_size: taps of the filter along an axis, 1 for none.

    Returns:
      Images of size `ceil(size / stride)`.

    Raises:
      InputError: for a stride or filter size below 1, or an image too small to be mirrored.
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


def check_images(name: str, x: Array) -> None:
    """Raise InputError unless x has the axes (..., height, width, channels) and a pixel."""
    if x.ndim < 3 or 0 in x.shape[-3:-1]:
        raise InputError(
            f"{name}: images have the axes (..., height, width, channels) and at least one pixel; "
            f"got {x.shape}"
        )
