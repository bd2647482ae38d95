"""Linear degradations that lose detail: blur and downsampling.

A blur is a true convolution, which flips the point-spread function (PSF), with the center at index
`size // 2`, as in `deconv_jax.ops.spectral`. `method` chooses the Fourier transform or the spatial domain; it
changes only the speed. Choose "spatial" for small kernels.

Note:
  `Downsample` is MATLAB's antialiased bicubic `imresize`, the "bicubic degradation" of super-resolution
  papers. `Decimate` keeps every scale-th pixel without blur; put it after a blur in a `Chain`. Their outputs
  are shifted by (scale - 1) / 2 pixels of the large image relative to each other.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from deconv_jax import ops
from deconv_jax.data.forward_model import (
    Images,
    LinearDegradation,
    bounds,
    check_integer,
    check_numbers,
    frozen_array,
)
from deconv_jax.data.geometry import distance_to_segment
from deconv_jax.errors import InputError

Boundary = Literal["circular", "reflect", "zeros", "valid"]
"""Boundary condition: periodic; reflection without the border pixel (NumPy's "reflect"); zeros; or "valid",
which makes the result smaller by `size - 1` of the PSF.
"""

ConvolutionMethod = Literal["fft", "spatial"]

_NUMPY_PAD_MODE = {"circular": "wrap", "reflect": "reflect", "zeros": "constant"}


class Convolution(LinearDegradation):
    """The base class of blurs, with a point-spread function `psf`, a `boundary` and a `method`.

    `psf` is (height, width), or (batch, height, width) with one PSF per example; a batch of 1 is broadcast.
    """

    psf: Any
    boundary: Boundary
    method: ConvolutionMethod

    def forward(self, x: Images) -> Images:
        """Blur the images of a batch, of the size that `output_size` returns.

        Raises:
          InputError: The PSF is larger than the images, there are several PSFs but not one per image, or
            a parameter of the PSF is a range that was not sampled.
        """
        psf = jnp.asarray(self.psf, x.dtype)
        if psf.ndim == 2 or psf.shape[0] == 1:
            return self._blur(x, psf.reshape(psf.shape[-2:]))
        if psf.shape[0] != x.shape[0]:
            raise InputError(
                f"psf must be one, or one for each of {x.shape[0]} images; got {psf.shape}"
            )
        return jax.vmap(lambda image, own: self._blur(image[None], own)[0])(x, psf)

    @property
    def psf_size(self) -> tuple[int, int]:
        """Height and width of the point-spread function in pixels."""
        height, width = self.psf.shape[-2:]
        return height, width

    def output_size(self, size: Sequence[int]) -> tuple[int, int]:
        """Return the height and width in pixels of blurred images.

        These are `size`, or `size - psf_size + 1` if the boundary is "valid".
        """
        height, width = size
        if self.boundary != "valid":
            return height, width
        return height - self.psf_size[0] + 1, width - self.psf_size[1] + 1

    def _blur(self, x: Array, psf: Array) -> Array:
        if any(k > n for k, n in zip(psf.shape, x.shape[1:3], strict=True)):
            raise InputError(
                f"psf must not be larger than the images, {x.shape[1:3]} pixels; got psf {psf.shape}"
            )
        if self.method == "fft" and self.boundary == "circular":
            return ops.fft_conv(x, psf, boundary="circular")
        if self.method == "fft" and self.boundary == "zeros":
            return ops.fft_conv(x, psf, boundary="linear")
        if self.boundary != "valid":
            pads = [((k - 1) // 2, k // 2) for k in psf.shape]
            x = jnp.pad(x, ((0, 0), *pads, (0, 0)), mode=_NUMPY_PAD_MODE[self.boundary])
        return _valid_fft(x, psf) if self.method == "fft" else _valid_spatial(x, psf)


@dataclasses.dataclass(frozen=True, eq=False)
class Blur(Convolution):
    """Convolution with a point-spread function.

    Attributes:
      psf: Point-spread function (height, width), or one per example (batch, height, width), with the center at
        index `size // 2`. A sum of 1 preserves the brightness; it is not normalized.
      boundary: "circular", "reflect" (without the border pixel), "zeros", or "valid", which makes images smaller.
      method: "fft", or "spatial" for small kernels.
    """

    leaves = ("psf",)

    psf: np.ndarray | Array
    boundary: Boundary = "circular"
    method: ConvolutionMethod = "fft"

    def __post_init__(self) -> None:
        psf = frozen_array("psf", self.psf)
        if psf.ndim not in (2, 3) or 0 in psf.shape:
            raise InputError(
                f"psf must be (height, width) or (batch, height, width) and not empty; got shape "
                f"{psf.shape}"
            )
        object.__setattr__(self, "psf", psf)
        _check_blur(self)


class ParametricBlur(Convolution):
    """A blur whose point-spread function, `support` pixels wide and high, is computed from parameters."""

    support: int

    @property
    def psf(self) -> Float[Array, "*batch size size"]:  # type: ignore[override] # a field of `Blur`
        """Point-spread function (size, size), or (batch, size, size) if a parameter has one value per example.

        Raises:
          InputError: A parameter is a range that was not sampled.
        """
        return self._computed_psf()

    def _computed_psf(self) -> Float[Array, "*batch size size"]:
        raise NotImplementedError

    @property
    def psf_size(self) -> tuple[int, int]:
        """Height and width of the point-spread function in pixels, known before it is sampled."""
        return self.support, self.support


@dataclasses.dataclass(frozen=True, eq=False)
class GaussianBlur(ParametricBlur):
    """Convolution with a Gaussian, sampled at the pixels and normalized to sum 1.

    Attributes:
      sigma: Standard deviation in pixels, above 0, or a range.
      size: Side of the PSF in pixels, odd. The default truncates at 4 times the (largest) sigma, as
        `scipy.ndimage.gaussian_filter`. Required if sigma is an array.
      boundary, method: As in `Blur`.
    """

    leaves = ("sigma",)

    sigma: float | tuple[float, float]
    size: int | None = None
    boundary: Boundary = "circular"
    method: ConvolutionMethod = "fft"
    support: int = dataclasses.field(init=False, repr=False)

    def __post_init__(self) -> None:
        check_numbers("sigma", self.sigma, 0, exclude_least=True)
        if self.size is None and np.ndim(self.sigma) and not isinstance(self.sigma, tuple):
            raise InputError(
                f"an array of sigmas requires size, the side of the PSF in pixels; got {self.sigma!r} "
                "without size"
            )
        _, largest = bounds(self.sigma)
        size = 2 * int(4 * largest + 0.5) + 1 if self.size is None else self.size
        check_integer("size", size, 1)
        if size % 2 == 0:
            raise InputError(f"size must be odd; got {size}")
        object.__setattr__(self, "support", size)
        _check_blur(self)

    def _computed_psf(self) -> Float[Array, "*batch size size"]:
        def along_an_axis(sigma: Array) -> Array:
            places = jnp.arange(self.support, dtype=jnp.float32) - self.support // 2
            return jax.nn.softmax(-0.5 * jnp.square(places / sigma))

        def plane(sigma: Array) -> Array:
            weights = along_an_axis(sigma)
            return jnp.outer(weights, weights)

        return _each(plane, self._settled("sigma"))


@dataclasses.dataclass(frozen=True, eq=False)
class MotionBlur(ParametricBlur):
    """The blur of a camera that moves along a straight line at constant speed.

    The weight of a pixel falls linearly from 1 on the line to 0 at a distance of one pixel; weights are normalized
    to sum 1. A horizontal motion over an odd number of pixels is their mean.

    Attributes:
      length: Length of the motion in pixels, at least 1, or a range.
      angle: Angle in degrees, counter-clockwise from horizontal, or a range.
      boundary, method: As in `Blur`.
    """

    leaves = ("length", "angle")

    length: float | tuple[float, float]
    angle: float | tuple[float, float] = 0.0
    boundary: Boundary = "circular"
    method: ConvolutionMethod = "fft"
    support: int = dataclasses.field(init=False, repr=False)

    def __post_init__(self) -> None:
        check_numbers("length", self.length, 1)
        check_numbers("angle", self.angle, -math.inf)
        _, longest = bounds(self.length)
        object.__setattr__(self, "support", 2 * math.ceil((longest - 1) / 2) + 1)
        _check_blur(self)

    def _computed_psf(self) -> Float[Array, "*batch size size"]:
        def plane(length: Array, angle: Array) -> Array:
            n = self.support
            distance = distance_to_segment(n, n, (n // 2, n // 2), length - 1, angle)
            weights = jnp.maximum(1.0 - distance, 0.0)
            return weights / jnp.sum(weights)

        return _each(plane, self._settled("length"), self._settled("angle"))


@dataclasses.dataclass(frozen=True, eq=False)
class Downsample(LinearDegradation):
    """MATLAB's antialiased bicubic downsampling, `ops.imresize(x, 1 / scale)`.

    Attributes:
      scale: Factor, a positive integer, by which height and width are divided, rounded up. Papers crop images to
        multiples of it first.
    """

    scale: int

    def __post_init__(self) -> None:
        check_integer("scale", self.scale, 1)

    def forward(self, x: Images) -> Images:
        """Return the downsampled images."""
        return ops.imresize(x, 1 / self.scale)

    def output_size(self, size: Sequence[int]) -> tuple[int, int]:
        """Return the height and width of the downsampled images in pixels."""
        height, width = size
        one = jax.ShapeDtypeStruct((1, height, width, 1), jnp.float32)
        _, height, width, _ = jax.eval_shape(self.forward, one).shape
        return height, width


@dataclasses.dataclass(frozen=True, eq=False)
class Decimate(LinearDegradation):
    """Downsampling that keeps every scale-th pixel of every scale-th row, from the first.

    Attributes:
      scale: Factor, a positive integer, by which height and width are divided, rounded up.
    """

    scale: int

    def __post_init__(self) -> None:
        check_integer("scale", self.scale, 1)

    def forward(self, x: Images) -> Images:
        """Return the downsampled images."""
        return x[:, :: self.scale, :: self.scale]

    def output_size(self, size: Sequence[int]) -> tuple[int, int]:
        """Return the height and width of the downsampled images in pixels."""
        height, width = size
        return -(-height // self.scale), -(-width // self.scale)


def _check_blur(blur: Convolution) -> None:
    for name, choices in {"boundary": Boundary, "method": ConvolutionMethod}.items():
        if getattr(blur, name) not in get_args(choices):
            raise InputError(
                f"{name} must be one of {', '.join(get_args(choices))}; got {getattr(blur, name)!r}"
            )


def _each(plane: Callable[..., Array], *parameters: Any) -> Array:
    """Call `plane`, mapped over the batch if a parameter has one value per example."""
    arrays = [jnp.asarray(p, jnp.float32) for p in parameters]
    if all(a.ndim == 0 for a in arrays):
        return plane(*arrays)
    return jax.vmap(plane, [a.ndim - 1 if a.ndim else None for a in arrays])(*arrays)


def _valid_fft(x: Array, psf: Array) -> Array:
    """Blur by Fourier transform, and return the pixels that depend on no pixel outside the image."""
    blurred = ops.fft_conv(x, psf, boundary="linear")
    rows, columns = ((k - 1) // 2 for k in psf.shape)
    height, width = (n - k + 1 for n, k in zip(x.shape[1:3], psf.shape, strict=True))
    return blurred[:, rows : rows + height, columns : columns + width]


def _valid_spatial(x: Array, psf: Array) -> Array:
    """Same as `_valid_fft` in the spatial domain. Channels become images, because depthwise convolution is slow."""
    planes = jnp.moveaxis(x, -1, 1)[..., None]
    kernel = psf[::-1, ::-1, None, None]
    with jax.default_matmul_precision("highest"):
        return jnp.moveaxis(ops.conv(planes, kernel, padding="VALID")[..., 0], 1, -1)
