"""Distances and likenesses of images, one number an image.

PSNR; SSIM of Wang et al. 2004, "Image quality assessment: from error visibility to structural
similarity", with the window and constants of the authors' `ssim_index.m`; and MS-SSIM of Wang et
al. 2003, "Multiscale structural similarity for image quality assessment". The trap is SSIM's
variances: the textbook's E[x^2] - E[x]^2 loses the digits that matter in flat regions in float32,
and default windows differ between libraries (7 x 7 uniform in scikit-image). A window here is
Gaussian, lies wholly inside the image, and its variances are sums of squares.

`size` says how much of each image counts where images of several sizes were extended at the right
and the bottom to share an array: (height, width) in pixels, from the upper left corner. What lies
outside may be anything, NaN included.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int
from numpy.typing import ArrayLike

from deconv_jax.errors import InputError

_WINDOW = 11
_GAUSSIAN = np.exp(-np.square(np.arange(_WINDOW) - _WINDOW // 2) / (2 * 1.5**2))
_TAPS = (_GAUSSIAN / np.sum(_GAUSSIAN)).tolist()
_C1 = 0.01**2
_C2 = 0.03**2

_SCALE_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
"""Exponents of MS-SSIM from the finest scale to the coarsest, which observers' answers gave."""

SSIM_LEAST_SIZE = _WINDOW
"""Pixels that the shorter side of an image needs for `ssim`."""

MS_SSIM_LEAST_SIZE = _WINDOW * 2 ** (len(_SCALE_WEIGHTS) - 1)
"""Pixels that the shorter side of an image needs for `ms_ssim`."""


def mean_squared_error(
    prediction: Float[Array, "batch height width channels"],
    target: Float[Array, "batch height width channels"],
    size: Int[Array, "batch 2"] | None = None,
) -> Float[Array, " batch"]:
    """Mean over pixels and channels of the squared difference, an image.

    Raises:
      InputError: for images of different shapes, or not of floats.
    """
    _check("mean_squared_error", prediction, target)
    return _mean(jnp.square(prediction - target), size)


def psnr(
    prediction: Float[Array, "batch height width channels"],
    target: Float[Array, "batch height width channels"],
    size: Int[Array, "batch 2"] | None = None,
) -> Float[Array, " batch"]:
    """Peak signal-to-noise ratio of images in [0, 1], dB: -10 log10(MSE), an image.

    The field's figure for a set is the mean of this over its images, not the PSNR of the mean
    error. Equal images give infinity.

    Raises:
      InputError: for images of different shapes, or not of floats.
    """
    return -10.0 * jnp.log10(mean_squared_error(prediction, target, size))


def psnr_from_mse(errors: ArrayLike) -> Any:
    """PSNR of mean squared errors of images in [0, 1], dB, a number or an array; of no error infinity."""
    with np.errstate(divide="ignore"):
        return -10.0 * np.log10(errors)


def ssim(
    prediction: Float[Array, "batch height width channels"],
    target: Float[Array, "batch height width channels"],
    size: Int[Array, "batch 2"] | None = None,
) -> Float[Array, " batch"]:
    """Structural similarity of images in [0, 1], at most 1: the mean over windows and channels of

        (2 mu_p mu_t + C1) (2 cov + C2) / ((mu_p^2 + mu_t^2 + C1) (var_p + var_t + C2))

    with mean, variance and covariance in a Gaussian window of 11 x 11 pixels and sigma 1.5 that
    lies wholly inside the image, C1 = 0.01^2 and C2 = 0.03^2. This is the authors' value without
    their optional downsampling; of RGB it is the mean of three, as is the field's custom.

    Args:
      prediction: images.
      target: images.
      size: see the module; images of less than 11 pixels have no window, and give NaN.

    Raises:
      InputError: for images of different shapes, not of floats, or of less than 11 pixels a side.
    """
    _check("ssim", prediction, target, SSIM_LEAST_SIZE)
    luminance, structure = _similarities(_planes(prediction), _planes(target))
    of_windows = jnp.mean(luminance * structure, axis=1)[..., None]
    return _mean(of_windows, None if size is None else size - (_WINDOW - 1))


def ms_ssim(
    prediction: Float[Array, "batch height width channels"],
    target: Float[Array, "batch height width channels"],
    scales: int = len(_SCALE_WEIGHTS),
) -> Float[Array, " batch"]:
    """Multi-scale structural similarity of images in [0, 1], in [0, 1], the mean over channels.

    The product over five scales of the mean of SSIM's second factor, and at the coarsest of all of
    SSIM, each to the power of its weight. A scale halves the one before by means of 2 x 2 pixels;
    the last row or column of an odd size counts twice, as in the authors' code. A scale whose mean
    is negative, which has no real power, counts as 0, and its gradient is 0.

    Small images have room for fewer scales: the finest, each weight over the sum of theirs. Figures
    of different numbers of scales do not compare. All five weights are used as published, though
    they sum to 1.0001.

    Args:
      prediction: images.
      target: images.
      scales: 1 to 5; `ms_ssim_scales` says how many an image has room for.

    Raises:
      InputError: for images of different shapes, not of floats, or of less than 11 * 2^(scales - 1)
        pixels a side, 176 for five scales; for other numbers of scales.
    """
    if scales not in range(1, len(_SCALE_WEIGHTS) + 1):
        raise InputError(f"scales must be from 1 to {len(_SCALE_WEIGHTS)}; got {scales}")
    _check("ms_ssim", prediction, target, _WINDOW * 2 ** (scales - 1))
    weights = _SCALE_WEIGHTS[:scales]
    if scales < len(_SCALE_WEIGHTS):
        weights = tuple(weight / sum(weights) for weight in weights)
    prediction, target = _planes(prediction), _planes(target)
    product = jnp.ones(prediction.shape[:2], prediction.dtype)
    for scale, weight in enumerate(weights):
        if scale:
            prediction, target = _halve(prediction), _halve(target)
        luminance, structure = _similarities(prediction, target)
        last = scale == scales - 1
        mean = jnp.mean(luminance * structure if last else structure, axis=(2, 3))
        # The inner choice keeps the derivative of the discarded power finite. NaN stays NaN.
        power = jnp.where(mean <= 0, 1.0, mean) ** weight
        product = product * jnp.where(mean <= 0, 0.0, power)
    return jnp.mean(product, axis=1)


def ms_ssim_scales(height: int, width: int) -> int:
    """The most scales, 0 to 5, that `ms_ssim` takes for images of `height` x `width` pixels."""
    return min((min(height, width) // _WINDOW).bit_length(), len(_SCALE_WEIGHTS))


def _planes(images: Array) -> Array:
    """Channels before space: on rows without gaps, the CPU's vector units do the windows' sums."""
    return jnp.moveaxis(images, -1, 1)


def _similarities(prediction: Array, target: Array) -> tuple[Array, Array]:
    """SSIM's two factors, luminance and contrast times structure, in every window.

    (2 a b + C) / (a^2 + b^2 + C) = 1 - (a - b)^2 / (a^2 + b^2 + C), of means and of variances
    alike: the moments of the difference take the place of the covariance, and like images differ
    from 1 by a small number with all its digits.
    """
    mean, variance = _moments(jnp.stack([prediction, target, prediction - target]))
    (mean_p, mean_t, mean_d), (variance_p, variance_t, variance_d) = mean, variance
    luminance = 1.0 - jnp.square(mean_d) / (jnp.square(mean_p) + jnp.square(mean_t) + _C1)
    structure = 1.0 - variance_d / (variance_p + variance_t + _C2)
    return luminance, structure


def _moments(planes: Array) -> tuple[Array, Array]:
    """Mean and variance in every window over the last two axes.

    The variance of a window is the mean of its columns' variances and the variance of their means.
    """
    mean, variance = planes, jnp.zeros_like(planes)
    for axis in (-2, -1):
        means, variances = _shifted(mean, axis), _shifted(variance, axis)
        mean = sum(w * m for w, m in zip(_TAPS, means, strict=True))
        variance = sum(
            w * (v + jnp.square(m - mean)) for w, v, m in zip(_TAPS, variances, means, strict=True)
        )
    return mean, variance


def _shifted(planes: Array, axis: int) -> list[Array]:
    """For each tap of the window, the pixels that it falls on."""
    count = planes.shape[axis] - (_WINDOW - 1)
    return [lax.slice_in_dim(planes, k, k + count, axis=axis) for k in range(_WINDOW)]


def _halve(planes: Array) -> Array:
    *batch, height, width = planes.shape
    even = jnp.pad(planes, ((0, 0), (0, 0), (0, height % 2), (0, width % 2)), mode="edge")
    blocks = even.reshape(*batch, (height + 1) // 2, 2, (width + 1) // 2, 2)
    return jnp.mean(blocks, axis=(-3, -1))


def _mean(values: Array, size: Array | None) -> Array:
    """Mean over the pixels inside `size`, by default all, and over channels."""
    if size is None:
        return jnp.mean(values, axis=(1, 2, 3))
    _, height, width, channels = values.shape
    rows, columns = (size[:, axis].reshape(-1, 1, 1, 1) for axis in (0, 1))
    inside = (jnp.arange(height).reshape(1, -1, 1, 1) < rows) & (
        jnp.arange(width).reshape(1, 1, -1, 1) < columns
    )
    total = jnp.sum(jnp.where(inside, values, 0.0), axis=(1, 2, 3))
    return total / (channels * jnp.sum(inside, axis=(1, 2, 3)))


def _check(name: str, prediction: Array, target: Array, least_size: int = 1) -> None:
    if prediction.shape != target.shape:
        raise InputError(
            f"{name} compares images of one shape; got prediction {prediction.shape} and target "
            f"{target.shape}"
        )
    if not all(jnp.issubdtype(images.dtype, jnp.floating) for images in (prediction, target)):
        raise InputError(
            f"{name} takes floats in [0, 1]; got {prediction.dtype} and {target.dtype}"
        )
    height, width = prediction.shape[1:3]
    if min(height, width) < least_size:
        raise InputError(
            f"{name} needs images of at least {least_size} x {least_size} pixels; got {height} x "
            f"{width}"
        )
