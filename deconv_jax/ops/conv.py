"""Convolution and its adjoint on NHWC arrays, after Dumoulin & Visin, arXiv:1603.07285.

One law holds for every combination of arguments:

    <conv(x, kernel), y> = <x, conv_transpose(y, kernel)>

`conv_transpose` takes the *same* kernel and the same arguments as the `conv` it transposes, so its
kernel is laid out (height, width, out / groups, in): the layout seen from the forward convolution,
which maps "out" to "in". That is what a reader would get wrong.

Both, and the gradient of the kernel, are the partial derivatives of a single trilinear form

    T(x, kernel, y) = <conv(x, kernel), y>
    dT/dy = conv(x, kernel)    dT/dx = conv_transpose(y, kernel)    dT/dkernel = kernel_gradient(x, y)

so each one's reverse-mode derivative is a pair of the other two. Written so, every gradient of
every order stays on the fast paths: the gradient of a transposed convolution with respect to its
kernel is the ordinary convolution's, with image and cotangent in exchanged roles, and never the
convolution over a zero-dilated image that automatic transposition yields (10 to 80 times slower on
a CPU). Differentiation is in reverse mode: `jax.jvp` and `jax.linear_transpose` of these refuse.
"""

import dataclasses
import functools
from typing import Literal

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from deconv_jax.errors import InputError

Pairs = tuple[tuple[int, int], tuple[int, int]]
Padding = Literal["SAME", "VALID"] | int | tuple[tuple[int, int], tuple[int, int]]
PaddingMode = Literal["zeros", "circular", "reflect", "edge"]
OnePerAxis = int | tuple[int, int]

_NUMPY_PAD_MODE = {"circular": "wrap", "reflect": "reflect", "edge": "edge"}


@dataclasses.dataclass(frozen=True)
class _Geometry:
    """What a zero-padded convolution needs beside its arrays; static under `jit`."""

    input_size: tuple[int, int]
    kernel_size: tuple[int, int]
    stride: tuple[int, int]
    padding: Pairs
    dilation: tuple[int, int]
    groups: int


def conv(
    x: Float[Array, "batch height width in_channels"],
    kernel: Float[Array, "kernel_height kernel_width in_channels_per_group out_channels"],
    *,
    stride: OnePerAxis = 1,
    padding: Padding = "SAME",
    padding_mode: PaddingMode = "zeros",
    dilation: OnePerAxis = 1,
    groups: int = 1,
) -> Float[Array, "batch out_height out_width out_channels"]:
    """Strided, dilated, grouped cross-correlation, the "convolution" of neural networks.

    Args:
      x: images.
      kernel: weights; its third axis holds `in_channels / groups`.
      stride: step between output positions, in pixels.
      padding: "SAME" (output size `ceil(size / stride)`, the odd pixel after the image), "VALID"
        (none), pixels on every side, or ((top, bottom), (left, right)).
      padding_mode: what the padding holds: zeros, the image wrapped around ("circular"), mirrored
        without its border pixel ("reflect"), or its border pixel repeated ("edge").
      dilation: distance between kernel taps, in pixels.
      groups: number of independent channel groups.

    Returns:
      Output of size `floor((size + padding - dilation * (kernel_size - 1) - 1) / stride) + 1`.

    Raises:
      InputError: for arguments that do not fit one another.
    """
    x, kernel = _promote(x, kernel, groups)
    if x.shape[-1] != kernel.shape[2] * groups or kernel.shape[3] % groups:
        raise InputError(
            f"conv: kernel {kernel.shape} with groups={groups} takes {kernel.shape[2] * groups} "
            f"input channels and out channels divisible by groups; got images {x.shape}"
        )
    geometry = _geometry(x.shape[1:3], kernel, stride, padding, dilation, groups)
    pad, geometry = _split_padding(geometry, padding_mode)
    return _conv(geometry, pad(x), kernel)


def conv_transpose(
    y: Float[Array, "batch height width in_channels"],
    kernel: Float[Array, "kernel_height kernel_width out_channels_per_group in_channels"],
    *,
    stride: OnePerAxis = 1,
    padding: Padding = "SAME",
    padding_mode: PaddingMode = "zeros",
    dilation: OnePerAxis = 1,
    groups: int = 1,
    output_padding: OnePerAxis = 0,
) -> Float[Array, "batch out_height out_width out_channels"]:
    """The adjoint of `conv` with the same arguments: the "deconvolution layer".

    Args:
      y: images, of the size and channels that the transposed `conv` puts out.
      kernel: the kernel of that `conv`; its third axis holds `out_channels / groups`.
      stride: distance between input pixels in the output, in pixels.
      padding: as for `conv`: what it added there is cut off here. "SAME" gives `size * stride`.
      padding_mode: as for `conv`; its transpose adds the padding back onto the pixels it came from.
      dilation: distance between kernel taps, in pixels.
      groups: number of independent channel groups.
      output_padding: which of the `stride` sizes that `conv` maps to y's size to return: 0 for the
        smallest, `stride - 1` for the largest. "SAME" has already chosen, and takes 0 alone.

    Returns:
      Output of size `(size - 1) * stride + dilation * (kernel_size - 1) + 1 - padding +
      output_padding` (relationship 14 of arXiv:1603.07285).

    Raises:
      InputError: for arguments that do not fit one another.
    """
    y, kernel = _promote(y, kernel, groups)
    if y.shape[-1] != kernel.shape[3] or y.shape[-1] % groups:
        raise InputError(
            f"conv_transpose: kernel {kernel.shape} with groups={groups} takes {kernel.shape[3]} "
            f"input channels, divisible by groups; got images {y.shape}"
        )
    size = _transposed_size(y.shape[1:3], kernel, stride, padding, dilation, output_padding)
    geometry = _geometry(size, kernel, stride, padding, dilation, groups)
    pad, geometry = _split_padding(geometry, padding_mode)
    x = _conv_transpose(geometry, y, kernel)
    if padding_mode == "zeros":
        return x
    unpadded = jax.ShapeDtypeStruct((y.shape[0], *size, x.shape[-1]), x.dtype)
    return jax.linear_transpose(pad, unpadded)(x)[0]


# Every convolution is handed to XLA in this one layout. Within a loop its CPU backend brings none
# other into it, and runs what is not on a plain loop nest, up to fifty times slower.
_canonical_conv = functools.partial(
    lax.conv_general_dilated, dimension_numbers=("NHWC", "HWIO", "NHWC")
)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _conv(geometry: _Geometry, x: Array, kernel: Array) -> Array:
    return _canonical_conv(
        x,
        kernel,
        geometry.stride,
        geometry.padding,
        rhs_dilation=geometry.dilation,
        feature_group_count=geometry.groups,
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _conv_transpose(geometry: _Geometry, y: Array, kernel: Array) -> Array:
    height, width, channels, features = kernel.shape
    groups = geometry.groups
    # Flipped, with "in" and "out" exchanged within each group.
    kernel = kernel[::-1, ::-1].reshape(height, width, channels, groups, features // groups)
    kernel = kernel.transpose(0, 1, 4, 3, 2).reshape(height, width, -1, groups * channels)
    padding = []
    for n, m, k, s, d, (before, _) in _axes(geometry, y):
        extent = d * (k - 1) + 1
        low = extent - 1 - before
        padding.append((low, n + extent - 1 - low - (s * (m - 1) + 1)))
    return _canonical_conv(
        y,
        kernel,
        (1, 1),
        padding,
        lhs_dilation=geometry.stride,
        rhs_dilation=geometry.dilation,
        feature_group_count=groups,
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _kernel_gradient(geometry: _Geometry, x: Array, y: Array) -> Array:
    padding = [
        (before, d * (k - 1) + s * (m - 1) + 1 - n - before)
        for n, m, k, s, d, (before, _) in _axes(geometry, y)
    ]
    # The sum runs over the batch, so channels of x take the place of the batch and y's images that
    # of the kernel.
    gradient = _canonical_conv(
        x.transpose(3, 1, 2, 0),
        y.transpose(1, 2, 0, 3),
        geometry.dilation,
        padding,
        rhs_dilation=geometry.stride,
        batch_group_count=geometry.groups,
    )
    return gradient.transpose(1, 2, 0, 3)


def _axes(geometry: _Geometry, y: Array):
    """Per spatial axis: sizes of image, output and kernel; stride, dilation, padding."""
    sizes = geometry.input_size, y.shape[1:3], geometry.kernel_size
    return zip(*sizes, geometry.stride, geometry.dilation, geometry.padding, strict=True)


def _with_residuals(function):
    return lambda geometry, a, b: (function(geometry, a, b), (a, b))


def _conv_backward(geometry, residuals, y):
    x, kernel = residuals
    return _conv_transpose(geometry, y, kernel), _kernel_gradient(geometry, x, y)


def _conv_transpose_backward(geometry, residuals, x):
    y, kernel = residuals
    return _conv(geometry, x, kernel), _kernel_gradient(geometry, x, y)


def _kernel_gradient_backward(geometry, residuals, kernel):
    x, y = residuals
    return _conv_transpose(geometry, y, kernel), _conv(geometry, x, kernel)


_conv.defvjp(_with_residuals(_conv), _conv_backward)
_conv_transpose.defvjp(_with_residuals(_conv_transpose), _conv_transpose_backward)
_kernel_gradient.defvjp(_with_residuals(_kernel_gradient), _kernel_gradient_backward)


def _promote(x: Array, kernel: Array, groups: int) -> tuple[Array, Array]:
    if groups < 1:
        raise InputError(f"groups must be at least 1; got {groups}")
    if x.ndim != 4 or kernel.ndim != 4:
        raise InputError(
            f"images and kernel have 4 axes each (NHWC, HWIO); got {x.shape} and {kernel.shape}"
        )
    dtype = jnp.promote_types(x.dtype, kernel.dtype)
    return x.astype(dtype), kernel.astype(dtype)


def _pair(name: str, value: int | tuple[int, ...], least: int) -> tuple[int, int]:
    pair = (value, value) if isinstance(value, int) else value
    if not _is_pair(pair) or any(not isinstance(v, int) or v < least for v in pair):
        raise InputError(f"{name} is an int >= {least} or a pair of them; got {value!r}")
    return pair[0], pair[1]


def _is_pair(value: object) -> bool:
    return isinstance(value, tuple | list) and len(value) == 2


def _extents(kernel: Array, dilation: tuple[int, int]) -> tuple[int, int]:
    """Pixels between the first and the last tap of the dilated kernel, both included."""
    height, width = (d * (k - 1) + 1 for k, d in zip(kernel.shape[:2], dilation, strict=True))
    return height, width


def _pads(size, extents, stride, padding: Padding) -> Pairs:
    """Resolves `padding` to pixels (before, after) per axis for a `conv` of images of `size`."""
    if padding == "SAME":
        totals = [
            max((-(-n // s) - 1) * s + extent - n, 0)
            for n, extent, s in zip(size, extents, stride, strict=True)
        ]
        (top, left) = (total // 2 for total in totals)
        return (top, totals[0] - top), (left, totals[1] - left)
    if padding == "VALID":
        return (0, 0), (0, 0)
    if isinstance(padding, int):
        padding = ((padding, padding), (padding, padding))
    if not _is_pair(padding) or not all(map(_is_pair, padding)):
        raise InputError(
            f'padding is "SAME", "VALID", an int or ((top, bottom), (left, right)); got {padding!r}'
        )
    vertical, horizontal = (_pair("padding", side, 0) for side in padding)
    return vertical, horizontal


def _geometry(size, kernel, stride, padding, dilation, groups) -> _Geometry:
    stride, dilation = _pair("stride", stride, 1), _pair("dilation", dilation, 1)
    extents = _extents(kernel, dilation)
    pads = _pads(size, extents, stride, padding)
    for n, extent, pad in zip(size, extents, pads, strict=True):
        if n + sum(pad) < extent:
            raise InputError(
                f"an image of {tuple(size)} pixels padded by {pads} is smaller than the dilated "
                f"kernel, {extents} pixels"
            )
    return _Geometry(tuple(size), kernel.shape[:2], stride, pads, dilation, groups)


def _transposed_size(size, kernel, stride, padding, dilation, output_padding) -> tuple[int, int]:
    """The image size that `conv` maps to `size`, chosen among `stride` by `output_padding`."""
    stride, dilation = _pair("stride", stride, 1), _pair("dilation", dilation, 1)
    extra = _pair("output_padding", output_padding, 0)
    if padding == "SAME":
        if extra != (0, 0):
            raise InputError(
                'padding="SAME" fixes the output size to size * stride, so output_padding must be '
                f"0; got {output_padding!r} (give the padding in pixels to choose another size)"
            )
        return size[0] * stride[0], size[1] * stride[1]
    if any(e >= s for e, s in zip(extra, stride, strict=True)):
        raise InputError(
            f"output_padding must be smaller than the stride {stride}; got {output_padding!r}"
        )
    extents = _extents(kernel, dilation)
    pads = _pads(size, extents, stride, padding)
    height, width = (
        (n - 1) * s + extent - sum(pad) + e
        for n, s, extent, pad, e in zip(size, stride, extents, pads, extra, strict=True)
    )
    if min(height, width) < 1:
        raise InputError(
            f"padding {padding!r} leaves nothing of the output of a {tuple(size)} image with "
            f"kernel {kernel.shape[:2]} and stride {stride}"
        )
    return height, width


def _split_padding(geometry: _Geometry, mode: PaddingMode):
    """Splits a convolution into (pad, convolution): zeros stay inside it, other modes come first."""
    if mode == "zeros":
        return (lambda x: x), geometry
    if mode not in _NUMPY_PAD_MODE:
        raise InputError(
            f"padding_mode is one of zeros, {', '.join(_NUMPY_PAD_MODE)}; got {mode!r}"
        )
    most = 1 if mode == "reflect" else 0
    for n, pad in zip(geometry.input_size, geometry.padding, strict=True):
        if mode != "edge" and max(pad) > n - most:
            raise InputError(
                f"padding_mode={mode!r} pads at most {n - most} pixels of an image of "
                f"{geometry.input_size}; got padding {geometry.padding}"
            )
    widths = ((0, 0), *geometry.padding, (0, 0))
    height, width = (
        n + sum(pad) for n, pad in zip(geometry.input_size, geometry.padding, strict=True)
    )
    padded = dataclasses.replace(geometry, input_size=(height, width), padding=((0, 0), (0, 0)))
    return (lambda x: jnp.pad(x, widths, mode=_NUMPY_PAD_MODE[mode])), padded
