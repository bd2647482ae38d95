"""Convolution with a point-spread function (psf), and linear restoration, in the Fourier domain.

The Fourier transform turns a circular convolution y = A x into the product Y = H X, where H is the
optical transfer function (`psf2otf`). The adjoint therefore multiplies by conj(H), and a linear
restoration filter divides once per frequency: the inverse filter, the Wiener filter (Extrapolation,
Interpolation, and Smoothing of Stationary Time Series, 1949) and the constrained least squares
filter (Hunt, IEEE Trans. Computers C-22, 805-812, 1973). Source: Gonzalez & Woods, Digital Image
Processing, sections 5.7 to 5.9.

Images have the shape (*batch, *size, channels). A psf has 1, 2 or 3 spatial axes and no others, and
is applied to every channel. Its center is index `size // 2` of each axis, as in MATLAB and in
`scipy.ndimage.convolve`. Use `jax.vmap` for one psf per image. Images and psf are float32 or
float64: Fourier transforms do not support half precision.

Note: this is a true convolution, which flips the psf, while `deconv_jax.ops.conv` is the
cross-correlation of neural networks, which does not flip its kernel:

    fft_conv(x, psf) = conv(x, kernel, padding="SAME", padding_mode="circular", groups=channels)

where the kernel is the psf reversed along every axis and repeated for each channel. With
boundary="linear" the right-hand side has padding_mode="zeros". `fft_conv_transpose` is the
`conv_transpose` with the same arguments.
"""

import functools
import itertools
from typing import Literal

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Complex, Float

from deconv_jax.errors import InputError

Boundary = Literal["circular", "linear"]


def psf2otf(
    psf: Float[Array, "*psf_size"], size: tuple[int, ...]
) -> Complex[Array, "*frequencies"]:
    """Return the optical transfer function H of a point-spread function.

    Like `numpy.fft.rfftn`, it keeps half of the spectrum: the other half is the complex conjugate.
    A psf that sums to 1 has H = 1 at frequency 0, which is index 0.

    Args:
      psf: Point-spread function, with its center at index `size // 2` of each axis.
      size: Spatial size of the images, in pixels.

    Returns:
      Spectrum of shape (*size[:-1], size[-1] // 2 + 1).

    Raises:
      InputError: The psf is not float32 or float64, does not have 1, 2 or 3 axes, has another rank
        than `size`, or is larger.
    """
    _check_fit(psf, size)
    padded = jnp.pad(psf, [(0, n - k) for n, k in zip(size, psf.shape, strict=True)])
    return jnp.fft.rfftn(jnp.roll(padded, [-(k // 2) for k in psf.shape], range(psf.ndim)))


def fft_conv(
    x: Float[Array, "*batch_and_space channels"],
    psf: Float[Array, "*psf_size"],
    *,
    boundary: Boundary = "circular",
) -> Float[Array, "*batch_and_space channels"]:
    """Convolve images with a point-spread function: y = A x.

    Equal to `scipy.ndimage.convolve` with mode="wrap" ("circular") or mode="constant" ("linear").
    For a psf of odd size, "linear" also equals `scipy.signal.fftconvolve` with mode="same". For an
    even size, that function uses the center `size // 2 - 1`.

    Args:
      x: Images.
      psf: Point-spread function, no larger than the images.
      boundary: Continuation of the image beyond its border: "circular" for the image wrapped
        around, "linear" for zeros.

    Returns:
      Images of the shape of x.

    Raises:
      InputError: The images or the psf are not float32 or float64; the psf does not have 1, 2 or 3
        axes, or is larger than the images; or the boundary is unknown.
    """
    size = _fft_size(x, psf, boundary)
    return _multiply_spectrum(x, psf2otf(psf, size), size)


def fft_conv_transpose(
    y: Float[Array, "*batch_and_space channels"],
    psf: Float[Array, "*psf_size"],
    *,
    boundary: Boundary = "circular",
) -> Float[Array, "*batch_and_space channels"]:
    """Correlate images with a point-spread function: the adjoint of `fft_conv`.

    <fft_conv(x, psf), y> = <x, fft_conv_transpose(y, psf)> holds for both boundaries.

    Args:
      y: Images.
      psf: Point-spread function, no larger than the images.
      boundary: "circular" or "linear", as for `fft_conv`.

    Returns:
      Images of the shape of y.

    Raises:
      InputError: The images or the psf are not float32 or float64; the psf does not have 1, 2 or 3
        axes, or is larger than the images; or the boundary is unknown.
    """
    size = _fft_size(y, psf, boundary)
    return _multiply_spectrum(y, jnp.conj(psf2otf(psf, size)), size)


def inverse_filter(
    y: Float[Array, "*batch_and_space channels"],
    psf: Float[Array, "*psf_size"],
    *,
    threshold: float | Float[Array, ""],
) -> Float[Array, "*batch_and_space channels"]:
    """Restore images by dividing the spectrum by H where |H| > threshold, and zeroing it elsewhere.

    This is the pseudo-inverse of the circular convolution with singular values up to `threshold`
    set to zero. It amplifies noise by at most 1 / threshold.

    Args:
      y: Blurred images.
      psf: Point-spread function, no larger than the images.
      threshold: Magnitude of H up to which a frequency is discarded, at least 0 (not checked). For
        a psf that sums to 1, H is 1 at frequency 0.

    Returns:
      Restored images of the shape of y.

    Raises:
      InputError: The images or the psf are not float32 or float64; the psf does not have 1, 2 or 3
        axes, or is larger than the images.
    """
    size = _size(y, psf)
    otf = psf2otf(psf, size)
    kept = jnp.abs(otf) > threshold
    # The inner `where` keeps the derivative of the discarded quotient finite.
    inverse = jnp.where(kept, 1.0 / jnp.where(kept, otf, 1.0), 0.0)
    return _multiply_spectrum(y, inverse, size)


def wiener_filter(
    y: Float[Array, "*batch_and_space channels"],
    psf: Float[Array, "*psf_size"],
    *,
    noise_to_signal: float | Float[Array, "*frequencies"],
) -> Float[Array, "*batch_and_space channels"]:
    """Restore images by multiplying the spectrum by conj(H) / (|H|^2 + noise_to_signal).

    For circularly blurred stationary images, the ratio of the power spectra of noise and image
    gives the linear minimum mean squared error estimate. A scalar gives Tikhonov regularization:
    the minimizer of |A x - y|^2 + noise_to_signal |x|^2. Photographs do not wrap around at their
    borders: see `edge_taper`.

    Args:
      y: Blurred, noisy images.
      psf: Point-spread function, no larger than the images.
      noise_to_signal: Power of the noise divided by the power of the image, at least 0: a scalar,
        or one value per frequency in the layout of `psf2otf`. It must be positive wherever H is
        zero; neither is checked.

    Returns:
      Restored images of the shape of y.

    Raises:
      InputError: The images or the psf are not float32 or float64; the psf does not have 1, 2 or 3
        axes, or is larger than the images; or `noise_to_signal` has another
        shape.
    """
    size = _size(y, psf)
    otf = psf2otf(psf, size)
    ratio = jnp.asarray(noise_to_signal)
    if ratio.shape not in ((), otf.shape):
        raise InputError(
            f"noise_to_signal must be a scalar or, for images of {size} pixels, have the shape "
            f"{otf.shape} of their half spectrum; got shape {ratio.shape}"
        )
    power = jnp.square(otf.real) + jnp.square(otf.imag)
    return _multiply_spectrum(y, jnp.conj(otf) / (power + ratio), size)


def constrained_least_squares_filter(
    y: Float[Array, "*batch_and_space channels"],
    psf: Float[Array, "*psf_size"],
    *,
    gamma: float | Float[Array, ""],
) -> Float[Array, "*batch_and_space channels"]:
    """Restore images by multiplying the spectrum by conj(H) / (|H|^2 + gamma |L|^2).

    L is the transfer function of the Laplacian: the sum over the spatial axes of the stencil
    (-1, 2, -1), wrapped around. The result minimizes |A x - y|^2 + gamma |L x|^2 (Hunt 1973), which
    prefers smooth images. It is the Wiener filter for images whose power falls with the fourth
    power of frequency.

    Args:
      y: Blurred, noisy images.
      psf: Point-spread function, no larger than the images. Its sum must not be zero.
      gamma: Weight of the penalty, at least 0; positive if H has zeros.

    Returns:
      Restored images of the shape of y.

    Raises:
      InputError: The images or the psf are not float32 or float64; the psf does not have 1, 2 or 3
        axes, or is larger than the images.
    """
    size = _size(y, psf)
    dtype = jnp.result_type(y, psf)
    frequencies = [jnp.fft.fftfreq(n, dtype=dtype) for n in size[:-1]]
    frequencies.append(jnp.fft.rfftfreq(size[-1], dtype=dtype))
    # 2 - 2 cos(2 pi f), the spectrum of [-1, 2, -1], without cancellation at small f.
    stencils = [4.0 * jnp.square(jnp.sin(jnp.pi * f)) for f in frequencies]
    laplacian = functools.reduce(jnp.add, jnp.meshgrid(*stencils, indexing="ij"))
    return wiener_filter(y, psf, noise_to_signal=gamma * jnp.square(laplacian))


def edge_taper(
    x: Float[Array, "*batch_and_space channels"], psf: Float[Array, "*psf_size"]
) -> Float[Array, "*batch_and_space channels"]:
    """Blur images toward their borders so that they wrap around smoothly (MATLAB's `edgetaper`).

    The restoration filters assume a circular blur. On a photograph, the jump between opposite
    borders causes ringing, which tapering reduces. The result is

        w x + (1 - w) fft_conv(x, psf / sum(psf)),    w = product over axes of (1 - r)

    where r is the autocorrelation of the projection of the psf onto the axis: 1 at the first and
    last pixel, and 0 at pixels farther from the border than the size of the psf. Those pixels do
    not change.

    Args:
      x: Images.
      psf: Point-spread function, at most half as large as the images. Its sum must not be zero.
        Axes along which it has one pixel are not tapered.

    Returns:
      Images of the shape of x.

    Raises:
      InputError: The images or the psf are not float32 or float64; the psf does not have 1, 2 or 3
        axes, or is larger than the images; or an axis of the psf has more
        than one pixel and more than half the size of the images.
    """
    size = _size(x, psf)
    if any(2 * k > n for n, k in zip(size, psf.shape, strict=True) if k > 1):
        raise InputError(
            f"edge_taper: psf must be at most half as large as the images of {size} pixels; got psf "
            f"{psf.shape}"
        )
    ramps = [_interior_weights(psf, axis, n) for axis, n in enumerate(size)]
    weights = functools.reduce(jnp.multiply, jnp.meshgrid(*ramps, indexing="ij"))
    weights = _over_images(weights, x)
    return weights * x + (1.0 - weights) * fft_conv(x, psf / jnp.sum(psf))


def _interior_weights(psf: Array, axis: int, n: int) -> Array:
    """Return the weights 1 - r of `edge_taper` along an axis of n pixels."""
    k = psf.shape[axis]
    if k == 1:
        return jnp.ones(n, psf.dtype)
    projection = jnp.sum(psf, axis=[other for other in range(psf.ndim) if other != axis])
    lags = jnp.correlate(projection, projection, "full", precision=lax.Precision.HIGHEST)[k - 1 :]
    fall = jnp.pad(lags / lags[0], (0, n - k))
    return 1.0 - fall - fall[::-1]


def _size(images: Array, psf: Array) -> tuple[int, ...]:
    """Return the size of images along the axes of the psf; raise InputError if it does not fit."""
    if images.dtype not in (jnp.float32, jnp.float64):
        raise InputError(f"images must be float32 or float64; got {images.dtype}")
    size = images.shape[-1 - psf.ndim : -1]
    _check_fit(psf, size)
    return size


def _check_fit(psf: Array, size: tuple[int, ...]) -> None:
    if psf.dtype not in (jnp.float32, jnp.float64):
        raise InputError(f"psf must be float32 or float64; got {psf.dtype}")
    if psf.ndim not in (1, 2, 3):
        raise InputError(f"psf must have 1, 2 or 3 spatial axes and no others; got psf {psf.shape}")
    if len(size) != psf.ndim:
        raise InputError(
            f"psf {psf.shape} requires images with {psf.ndim} spatial axes and a channel axis; got "
            f"spatial size {tuple(size)}"
        )
    if any(k > n for n, k in zip(size, psf.shape, strict=True)):
        raise InputError(
            f"psf must be no larger than the images of {tuple(size)} pixels; got psf {psf.shape}"
        )


def _fft_size(images: Array, psf: Array, boundary: Boundary) -> tuple[int, ...]:
    """Return the size to zero-pad images to, so that a circular convolution has this boundary."""
    size = _size(images, psf)
    if boundary == "circular":
        return size
    if boundary == "linear":
        # Taps are at most k // 2 pixels from the center, so pixels that wrap around are cropped.
        return tuple(_fast_length(n + k // 2) for n, k in zip(size, psf.shape, strict=True))
    raise InputError(f"boundary must be 'circular' or 'linear'; got {boundary!r}")


def _fast_length(least: int) -> int:
    """Return the first length >= `least` that is fast to transform: prime factors up to 7."""
    return next(n for n in itertools.count(least) if pow(2 * 3 * 5 * 7, n.bit_length(), n) == 0)


def _multiply_spectrum(images: Array, response: Array, size: tuple[int, ...]) -> Array:
    """Zero-pad images to `size`, multiply their half spectrum by `response`, and crop them."""
    axes = tuple(range(-1 - len(size), -1))
    spectrum = jnp.fft.rfftn(images, size, axes) * _over_images(response, images)
    restored = jnp.fft.irfftn(spectrum, size, axes)
    return lax.slice(restored, (0,) * images.ndim, images.shape)


def _over_images(a: Array, images: Array) -> Array:
    """Add batch and channel axes to an array of spatial positions or frequencies."""
    return a.reshape((1,) * (images.ndim - 1 - a.ndim) + (*a.shape, 1))
