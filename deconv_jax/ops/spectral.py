"""Blur and its undoing in the frequency domain, where a circular convolution is a product.

The Fourier transform turns y = A x, circular convolution with a point-spread function, into
Y = H X with the optical transfer function H of `psf2otf`. So the adjoint multiplies by conj(H), and
every linear inverse is one quotient a frequency: the inverse filter, Wiener's (Extrapolation,
Interpolation, and Smoothing of Stationary Time Series, 1949) and Hunt's (IEEE Trans. Computers
C-22, 805-812, 1973), all after Gonzalez & Woods, Digital Image Processing, sections 5.7 to 5.9.

What a reader would get wrong: this is convolution proper, which *flips* the point-spread function,
while `deconv_jax.ops.conv.conv` is the cross-correlation of neural networks, which does not:

    fft_conv(x, psf) = conv(x, kernel, padding="SAME", padding_mode="circular", groups=channels)

where kernel is the psf reversed along every axis, once a channel; boundary="linear" is the same
with padding_mode="zeros", and `fft_conv_transpose` is `conv_transpose` of those arguments.

Images are (..., *space, channels), with any number of axes before space; a psf has the axes of
space alone, 1, 2 or 3 of them, and is applied to every channel. Its centre, the tap that leaves an
image where it is, lies at index `size // 2` of each axis, as in MATLAB and in
`scipy.ndimage.convolve`. A point-spread function of each image's own is a `jax.vmap` away. Images
and psf are float32 or float64; Fourier transforms take no shorter numbers.
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
    """The optical transfer function H of a point-spread function on images of `size`.

    It is the half of the spectrum that `numpy.fft.rfftn` keeps; the other half of a real psf's
    spectrum is its complex conjugate. A psf that sums to 1 has H = 1 at frequency 0, index 0.

    Args:
      psf: point-spread function, centre at index `size // 2` of each axis.
      size: of the images in pixels, along each axis of the psf.

    Returns:
      Spectrum of shape (*size[:-1], size[-1] // 2 + 1).

    Raises:
      InputError: for a psf of another rank than `size`, or larger.
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
    """Convolution with a point-spread function, y = A x: the blur of a linear, shift-invariant lens.

    Args:
      x: images.
      psf: point-spread function, no larger than the images.
      boundary: what lies outside the image: the image again ("circular") or zeros ("linear").

    Returns:
      Images of x's size: `scipy.ndimage.convolve` with mode="wrap" or mode="constant". For a psf of
      odd size "linear" is also `scipy.signal.fftconvolve` with mode="same"; along an axis of even
      size that function takes index `size // 2 - 1` for the centre, one pixel away.

    Raises:
      InputError: for arguments that do not fit one another.
    """
    size = _fft_size(x, psf, boundary)
    return _multiply_spectrum(x, psf2otf(psf, size), size)


def fft_conv_transpose(
    y: Float[Array, "*batch_and_space channels"],
    psf: Float[Array, "*psf_size"],
    *,
    boundary: Boundary = "circular",
) -> Float[Array, "*batch_and_space channels"]:
    """The adjoint of `fft_conv` with the same arguments: correlation with the point-spread function.

    <fft_conv(x, psf), y> = <x, fft_conv_transpose(y, psf)>, for either boundary: zero padding and
    cropping, around the product of the spectra, are each other's adjoint.

    Args:
      y: images.
      psf: point-spread function, no larger than the images.
      boundary: as for `fft_conv`.

    Returns:
      Images of y's size.

    Raises:
      InputError: for arguments that do not fit one another.
    """
    size = _fft_size(y, psf, boundary)
    return _multiply_spectrum(y, jnp.conj(psf2otf(psf, size)), size)


def inverse_filter(
    y: Float[Array, "*batch_and_space channels"],
    psf: Float[Array, "*psf_size"],
    *,
    threshold: float | Float[Array, ""],
) -> Float[Array, "*batch_and_space channels"]:
    """Divides the spectrum by H where |H| > threshold, and sets it to zero elsewhere.

    This is the pseudo-inverse of the circular blur with its singular values up to `threshold`
    counted as zero. What it keeps of the noise grows by up to 1 / threshold.

    Args:
      y: blurred images.
      psf: point-spread function, no larger than the images.
      threshold: least magnitude of H that is trusted, at least 0; absolute, so for a psf that sums
        to 1 it is a fraction of what the blur leaves of a constant image.

    Returns:
      Restored images of y's size.

    Raises:
      InputError: for arguments that do not fit one another.
    """
    size = _size(y, psf)
    otf = psf2otf(psf, size)
    trusted = jnp.abs(otf) > threshold
    # The inner choice keeps the derivative of the discarded quotient finite.
    inverse = jnp.where(trusted, 1.0 / jnp.where(trusted, otf, 1.0), 0.0)
    return _multiply_spectrum(y, inverse, size)


def wiener_filter(
    y: Float[Array, "*batch_and_space channels"],
    psf: Float[Array, "*psf_size"],
    *,
    noise_to_signal: float | Float[Array, "*frequencies"],
) -> Float[Array, "*batch_and_space channels"]:
    """Multiplies the spectrum by conj(H) / (|H|^2 + noise_to_signal).

    With the ratio of the noise's power spectrum to the image's this is the linear estimate of least
    expected squared error, for stationary images blurred circularly. With one number it is Tikhonov
    regularisation, the x of least |A x - y|^2 + noise_to_signal |x|^2. The borders of a photograph
    do not wrap around: see `edge_taper`.

    Args:
      y: blurred, noisy images.
      psf: point-spread function, no larger than the images.
      noise_to_signal: power of the noise divided by power of the image, at least 0: one number, or
        one a frequency in the layout of `psf2otf`. It must be positive wherever H is zero.

    Returns:
      Restored images of y's size.

    Raises:
      InputError: for arguments that do not fit one another.
    """
    size = _size(y, psf)
    otf = psf2otf(psf, size)
    ratio = jnp.asarray(noise_to_signal)
    if ratio.shape not in ((), otf.shape):
        raise InputError(
            f"noise_to_signal is one number or, for images of {size} pixels, an array of the shape "
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
    """Multiplies the spectrum by conj(H) / (|H|^2 + gamma |L|^2), L the Laplacian's transfer function.

    The x of least |A x - y|^2 + gamma |L x|^2: of the images that explain y equally well, the
    smoothest (Hunt 1973). It is the Wiener filter of images whose power falls with the fourth power
    of frequency. L sums, over the axes of space, the stencil [-1, 2, -1], wrapped around.

    Args:
      y: blurred, noisy images.
      psf: point-spread function, no larger than the images, whose sum is not zero.
      gamma: weight of the roughness; positive where H has zeros.

    Returns:
      Restored images of y's size.

    Raises:
      InputError: for arguments that do not fit one another.
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
    """Blurs images towards their borders so that they wrap around smoothly, as MATLAB's edgetaper.

    A photograph's blur reaches beyond its borders; the filters here take it for a circular one, and
    answer the jump from each border to the opposite one with ringing. Tapered images have no jump:

        w x + (1 - w) fft_conv(x, psf / sum(psf)),    w = product over axes of (1 - r)

    where r is the autocorrelation of the psf's projection onto the axis, 1 at the first and last
    pixel and 0 from the psf's size inwards. Pixels that far from every border stay as they are.

    Args:
      x: images.
      psf: point-spread function, at most half as large as the images; its sum is not zero. An axis
        along which it has one pixel, and so no blur, is not tapered.

    Returns:
      Images of x's size.

    Raises:
      InputError: for arguments that do not fit one another.
    """
    size = _size(x, psf)
    if any(2 * k > n for n, k in zip(size, psf.shape, strict=True) if k > 1):
        raise InputError(
            f"edge_taper: psf is at most half as large as the images, {size} pixels; got psf "
            f"{psf.shape}"
        )
    ramps = [_interior_weights(psf, axis, n) for axis, n in enumerate(size)]
    weights = functools.reduce(jnp.multiply, jnp.meshgrid(*ramps, indexing="ij"))
    weights = _over_images(weights, x)
    return weights * x + (1.0 - weights) * fft_conv(x, psf / jnp.sum(psf))


def _interior_weights(psf: Array, axis: int, n: int) -> Array:
    """The weights 1 - r of `edge_taper` along an axis of n pixels."""
    k = psf.shape[axis]
    if k == 1:
        return jnp.ones(n, psf.dtype)
    projection = jnp.sum(psf, axis=[other for other in range(psf.ndim) if other != axis])
    lags = jnp.correlate(projection, projection, "full", precision=lax.Precision.HIGHEST)[k - 1 :]
    fall = jnp.pad(lags / lags[0], (0, n - k))
    return 1.0 - fall - fall[::-1]


def _size(images: Array, psf: Array) -> tuple[int, ...]:
    """The images' size along the axes of the psf."""
    size = images.shape[-1 - psf.ndim : -1]
    _check_fit(psf, size)
    return size


def _check_fit(psf: Array, size: tuple[int, ...]) -> None:
    if psf.dtype not in (jnp.float32, jnp.float64):
        raise InputError(f"the Fourier transform takes float32 or float64; got psf of {psf.dtype}")
    if psf.ndim not in (1, 2, 3):
        raise InputError(f"psf has 1, 2 or 3 axes, those of space; got psf {psf.shape}")
    if len(size) != psf.ndim:
        raise InputError(
            f"psf {psf.shape} takes images with as many axes of space, then one of channels; got "
            f"the size {tuple(size)} of {len(size)} axes"
        )
    if any(k > n for n, k in zip(size, psf.shape, strict=True)):
        raise InputError(
            f"psf is no larger than the images, {tuple(size)} pixels; got psf {psf.shape}"
        )


def _fft_size(images: Array, psf: Array, boundary: Boundary) -> tuple[int, ...]:
    """The size to zero-pad images to, so that the circular convolution is that of `boundary`."""
    size = _size(images, psf)
    if boundary == "circular":
        return size
    if boundary == "linear":
        # No tap is further than k // 2 pixels from the centre: what wraps around is cropped.
        return tuple(_fast_length(n + k // 2) for n, k in zip(size, psf.shape, strict=True))
    raise InputError(f"boundary is 'circular' or 'linear'; got {boundary!r}")


def _fast_length(least: int) -> int:
    """The first length from `least` on without prime factors above 7; others are slow to transform."""
    return next(n for n in itertools.count(least) if pow(2 * 3 * 5 * 7, n.bit_length(), n) == 0)


def _multiply_spectrum(images: Array, response: Array, size: tuple[int, ...]) -> Array:
    """Multiplies the half spectrum of images, zero-padded to `size`, by `response`; crops back."""
    axes = tuple(range(-1 - len(size), -1))
    spectrum = jnp.fft.rfftn(images, size, axes) * _over_images(response, images)
    restored = jnp.fft.irfftn(spectrum, size, axes)
    return lax.slice(restored, (0,) * images.ndim, images.shape)


def _over_images(a: Array, images: Array) -> Array:
    """An array over space, or over its frequencies, with axes for batch and channels of images."""
    return a.reshape((1,) * (images.ndim - 1 - a.ndim) + (*a.shape, 1))
