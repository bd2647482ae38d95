"""Resizing of images by interpolation.

Note: "bicubic" alone does not define an interpolation. Implementations differ in the parameter a of
Keys' cubic kernel, in whether they widen the kernel when shrinking (antialiasing), and in how they
continue the image beyond its border. Numbers obtained with different choices are not comparable.

    function                  follows                    a        antialiasing    border
    resize                    PyTorch's `interpolate`    -0.75    no              repeated pixel
    resize, antialias=True    PyTorch's `interpolate`    -0.5     yes             omitted
    imresize                  MATLAB's `imresize`        -0.5     yes             mirrored

Interpolation is linear and separable. The sparse matrix of each axis is computed in advance from
the sizes, and applied by gathering pixels. The adjoint gathers pixels by the transposed matrix:
automatic transposition would scatter them, which is slow, and not deterministic on a GPU.
"""

import dataclasses
import functools
import math
import numbers
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from deconv_jax.errors import InputError, check_choice
from deconv_jax.ops.conv.primitives import LinearMap, apply_linear_map
from deconv_jax.ops.conv.window import Size, broadcast_ints

ResizeMethod = Literal["nearest", "bilinear", "bicubic"]
ImresizeMethod = Literal["nearest", "box", "bilinear", "bicubic"]


def resize(
    x: Float[Array, "*batch height width channels"],
    size: Sequence[int],
    *,
    method: ResizeMethod = "bilinear",
    antialias: bool = False,
) -> Float[Array, "*batch out_height out_width channels"]:
    """Interpolate images to another size, as PyTorch's `interpolate` does.

    Equal to `torch.nn.functional.interpolate` with `align_corners=False`; "nearest" is PyTorch's
    "nearest-exact". The result of "bicubic" may leave the range of the input.

    Args:
      x: Images.
      size: Height and width of the output, in pixels.
      method: "nearest", "bilinear" or "bicubic".
      antialias: Whether to average over all input pixels that an output pixel covers when
        shrinking. Not available with "nearest".

    Returns:
      Images of the type of x. Half precision is computed in float32 and rounded once.

    Raises:
      InputError: x does not hold floats, has fewer than three axes or no pixels; the size is not a
        pair of ints >= 1; the method is unknown; or antialias=True with "nearest".

    Example:
      >>> resize(jnp.ones((1, 64, 64, 3)), (128, 96)).shape
      (1, 128, 96, 3)
    """
    check_choice("method", method, ResizeMethod)
    check_images("resize", x)
    if antialias and method == "nearest":
        raise InputError("resize: antialias=True requires bilinear or bicubic; got 'nearest'")
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
    """Resize images exactly as MATLAB's `imresize` resizes arrays of floats.

    Papers on super-resolution make their low-resolution images this way. Nothing is rounded or
    clipped.

    Note: MATLAB resizes uint8 images to uint8. For images in [0, 255],
    `jnp.clip(jnp.floor(imresize(x, scale) + 0.5), 0, 255)` reproduces that up to one gray level,
    since MATLAB also rounds between the two axes.

    Args:
      x: Images.
      scale: Ratio of output to input size, or one for height and one for width. The output has size
        `ceil(size * scale)`.
      size: Height and width of the output, in pixels, instead of `scale`.
      method: "bicubic", "bilinear", "box" or "nearest". All but "nearest" are antialiased along an
        axis that shrinks.

    Returns:
      Images of the type of x. Half precision is computed in float32 and rounded once.

    Raises:
      InputError: Both or neither of `scale` and `size` are given, or one of them is not positive; x
        does not hold floats, has fewer than three axes or no pixels; or the method is unknown.

    Example:
      >>> imresize(jnp.ones((1, 64, 96, 3)), 1 / 4).shape
      (1, 16, 24, 3)
    """
    check_choice("method", method, ImresizeMethod)
    check_images("imresize", x)
    if (scale is None) == (size is None):
        raise InputError(
            f"imresize: give exactly one of scale and size; got scale={scale!r} and size={size!r}"
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


def check_images(name: str, x: Array) -> None:
    """Raise InputError unless x has shape (..., height, width, channels) and at least one pixel."""
    if x.ndim < 3 or 0 in x.shape[-3:-1]:
        raise InputError(
            f"{name}: images must have the axes (..., height, width, channels) and at least one "
            f"pixel; got shape {x.shape}"
        )


def _checked_size(size) -> tuple[int, int]:
    sides = broadcast_ints(size, 1)
    if len(sides) != 2 or min(sides) < 1:
        raise InputError(f"size must be a height and a width, ints >= 1; got {size!r}")
    return sides[0], sides[1]


def _checked_scale(scale) -> list[float]:
    scales: Any = [scale, scale] if isinstance(scale, numbers.Real) else scale
    pair = isinstance(scales, tuple | list) and len(scales) == 2
    if not pair or not all(isinstance(s, numbers.Real) and 0 < float(s) < math.inf for s in scales):
        raise InputError(f"scale must be a number > 0 or a pair of them; got {scale!r}")
    return [float(s) for s in scales]


@dataclasses.dataclass(frozen=True)
class _Kernel:
    """An interpolation kernel.

    Attributes:
      radius: Distance beyond which the weight is zero, in pixels.
      weight: Weight as a function of the signed distance, in pixels.
    """

    radius: float
    weight: Callable[[np.ndarray], np.ndarray]


def _cubic(a: float) -> _Kernel:
    """Return the kernel of cubic convolution (Keys 1981) with slope a at distance 1."""

    def weight(t):
        t = np.abs(t)
        near = ((a + 2) * t - (a + 3)) * t * t + 1
        far = a * (((t - 5) * t + 8) * t - 4)
        return np.where(t <= 1, near, np.where(t <= 2, far, 0.0))

    return _Kernel(2.0, weight)


_BOX = _Kernel(0.5, lambda t: np.where((t >= -0.5) & (t < 0.5), 1.0, 0.0))
_TRIANGLE = _Kernel(1.0, lambda t: np.maximum(1.0 - np.abs(t), 0.0))
_KERNELS = {"nearest": _BOX, "box": _BOX, "bilinear": _TRIANGLE, "bicubic": _cubic(-0.5)}
_PYTORCH_ALIASED_KERNELS = _KERNELS | {"bicubic": _cubic(-0.75)}
"""The kernels that PyTorch uses with `antialias=False`."""


@dataclasses.dataclass(frozen=True, eq=False)
class _SparseMatrix:
    """A sparse matrix by rows: y[i] = sum over k of weights[i, k] * x[indices[i, k]].

    All rows are padded with zero weights to the same length. Matrices compare by identity, so that
    they are hashable; the functions that make them are cached.

    Attributes:
      indices: Column of each weight, shape (rows, weights per row).
      weights: Weights, shape (rows, weights per row).
      columns: Number of columns.
    """

    indices: np.ndarray = dataclasses.field(repr=False)
    weights: np.ndarray = dataclasses.field(repr=False)
    columns: int

    @classmethod
    def from_elements(cls, shape: tuple[int, int], row, column, weight) -> "_SparseMatrix":
        """Return the matrix with these elements; elements of equal row and column are summed."""
        rows, columns = shape
        given = weight != 0
        position, element = np.unique(row[given] * columns + column[given], return_inverse=True)
        row, column = np.divmod(position, columns)
        weight = np.bincount(element, weight[given], len(position))
        start = np.searchsorted(row, np.arange(rows + 1))
        index = start[:-1, None] + np.arange(np.max(np.diff(start)))
        inside = index < start[1:, None]
        # Pad with columns of the next row: reading pixels nearby is cheap.
        index = np.minimum(index, len(position) - 1)
        return cls(column[index], np.where(inside, weight[index], 0.0), columns)

    @functools.cached_property
    def transposed(self) -> "_SparseMatrix":
        """The transposed matrix."""
        rows = len(self.indices)
        row = np.broadcast_to(np.arange(rows)[:, None], self.indices.shape)
        return _SparseMatrix.from_elements((self.columns, rows), self.indices, row, self.weights)


@functools.lru_cache
def _resize_matrix(old: int, new: int, method: str, antialias: bool) -> _SparseMatrix:
    # Multiplying before dividing keeps half-way centers exact, so that "nearest" breaks ties right.
    centers = (np.arange(new) + 0.5) * old / new - 0.5
    if antialias:
        return _sampling_matrix(old, centers, _KERNELS[method], new / old, "omit")
    return _sampling_matrix(old, centers, _PYTORCH_ALIASED_KERNELS[method], 1.0, "repeat")


@functools.lru_cache
def _imresize_matrix(old: int, new: int, scale: float, method: str) -> _SparseMatrix:
    # Count from 1 as MATLAB does, to break ties in the same way.
    centers = np.arange(1, new + 1) / scale + 0.5 * (1 - 1 / scale) - 1
    kernel_scale = 1.0 if method == "nearest" else scale
    return _sampling_matrix(old, centers, _KERNELS[method], kernel_scale, "mirror")


def _sampling_matrix(
    size: int,
    centers: np.ndarray,
    kernel: _Kernel,
    scale: float,
    border: Literal["repeat", "omit", "mirror"],
) -> _SparseMatrix:
    """Return the matrix that samples an axis of `size` pixels at `centers`.

    Args:
      size: Number of pixels of the axis.
      centers: Positions to sample, in pixels; pixel i is at position i.
      kernel: Interpolation kernel.
      scale: Ratio of output to input size. Below 1, the kernel is widened by `1 / scale`.
      border: Treatment of taps outside of the image: repeat the border pixel, omit them and
        renormalize the weights, or mirror the image including its border pixel.
    """
    scale = min(scale, 1.0)
    radius = kernel.radius / scale
    taps = np.floor(centers - radius)[:, None] + np.arange(math.ceil(2 * radius) + 2)
    weights = kernel.weight(scale * (centers[:, None] - taps))
    pixels = taps.astype(np.int64)
    if border == "omit":
        weights = np.where((pixels >= 0) & (pixels < size), weights, 0.0)
    if border == "mirror":
        pixels = pixels % (2 * size)
        pixels = np.minimum(pixels, 2 * size - 1 - pixels)
    weights = weights / weights.sum(axis=1, keepdims=True)
    pixels = np.clip(pixels, 0, size - 1)
    row = np.broadcast_to(np.arange(len(centers))[:, None], pixels.shape)
    return _SparseMatrix.from_elements((len(centers), size), row, pixels, weights)


@dataclasses.dataclass(frozen=True)
class _AlongAxis(LinearMap):
    """The product of a matrix with every vector along an axis.

    Attributes:
      matrix: Matrix.
      axis: Axis, counted from the end; negative.
    """

    matrix: _SparseMatrix
    axis: int

    def __call__(self, x: Array) -> Array:
        axis = x.ndim + self.axis
        shape = [-1 if a == axis else 1 for a in range(x.ndim)]
        y = jnp.zeros((), x.dtype)
        # XLA fuses these gathers, one per tap, into the loop over the output, and stores none.
        for indices, weights in zip(self.matrix.indices.T, self.matrix.weights.T, strict=True):
            pixels = x.at[(slice(None),) * axis + (indices,)].get(mode="promise_in_bounds")
            y = y + pixels * weights.astype(x.dtype).reshape(shape)
        return y

    def output_shape(self, shape: Size) -> Size:
        axis = len(shape) + self.axis
        return (*shape[:axis], len(self.matrix.indices), *shape[axis + 1 :])

    @property
    def adjoint(self) -> "_AlongAxis":
        return _AlongAxis(self.matrix.transposed, self.axis)


def _resample(x: Array, matrices: Sequence[_SparseMatrix], scales: Sequence[float]) -> Array:
    """Apply one matrix along the height and one along the width.

    As in MATLAB, the axis that shrinks more comes first.
    """
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise InputError(f"images must hold floats to be resized; got {x.dtype}")
    y = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    for axis in sorted((0, 1), key=lambda axis: scales[axis]):
        y = apply_linear_map(_AlongAxis(matrices[axis], axis - 3), y)
    return y.astype(x.dtype)
