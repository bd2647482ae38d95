"""PSNR, SSIM and MS-SSIM, one value per image.

SSIM is that of Wang et al. 2004, "Image quality assessment: from error visibility to structural
similarity", with the window and constants of the authors' `ssim_index.m`. MS-SSIM is that of Wang et al.
2003, "Multiscale structural similarity for image quality assessment".

Note: Default windows differ between libraries; scikit-image's is uniform, 7 x 7. The window here is
Gaussian, 11 x 11, and lies inside the image. Variances are computed as means of squared deviations,
because E[x^2] - E[x]^2 loses the significant digits of flat regions in float32.

Images of several sizes can share an array, each padded at the bottom and right. `size` is then the height
and width of each image in pixels, and padding values are ignored, NaN included.
"""

from collections.abc import Sequence
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
"""Exponents of MS-SSIM from the finest to the coarsest scale, fitted to human ratings."""

SSIM_MIN_SIZE = _WINDOW
"""Minimum side of an image in pixels for `ssim`."""

MS_SSIM_MIN_SIZE = _WINDOW * 2 ** (len(_SCALE_WEIGHTS) - 1)
"""Minimum side of an image in pixels for `ms_ssim` at all five scales."""


def mean_squared_error(
    prediction: Float[Array, "batch height width channels"],
    target: Float[Array, "batch height width channels"],
    size: Int[Array, "batch 2"] | None = None,
) -> Float[Array, " batch"]:
    """Return the mean squared difference over the pixels and channels of each image.

    Args:
      prediction: Float images of any range.
      target: Images to compare with.
      size: Height and width of each image in pixels, if images of several sizes share the array, padded at the
        bottom and right. Padding is ignored, NaN included.

    Raises:
      InputError: The shapes differ, or an image is not of floats.
    """
    _check("mean_squared_error", prediction, target)
    return _mean(jnp.square(prediction - target), size)


def psnr(
    prediction: Float[Array, "batch height width channels"],
    target: Float[Array, "batch height width channels"],
    size: Int[Array, "batch 2"] | None = None,
) -> Float[Array, " batch"]:
    """Return the peak signal-to-noise ratio of images in [0, 1] in dB, -10 log10(MSE), for each image.

    The PSNR of a set is by convention the mean over its images, not the PSNR of the mean error. Equal
    images give infinity. Nothing is clipped or rounded.

    Args:
      prediction: Float images in [0, 1].
      target: Images to compare with.
      size: Height and width of each image in pixels, if images of several sizes share the array, padded at the
        bottom and right. Padding is ignored, NaN included.

    Raises:
      InputError: The shapes differ, or an image is not of floats.
    """
    return -10.0 * jnp.log10(mean_squared_error(prediction, target, size))


def psnr_from_mse(errors: ArrayLike) -> Any:
    """Convert mean squared errors of images in [0, 1], a number or array, to PSNR in dB; 0 gives infinity."""
    with np.errstate(divide="ignore"):
        return -10.0 * np.log10(errors)


def ssim(
    prediction: Float[Array, "batch height width channels"],
    target: Float[Array, "batch height width channels"],
    size: Int[Array, "batch 2"] | None = None,
) -> Float[Array, " batch"]:
    """Return the structural similarity (SSIM) of images in [0, 1] for each image, from -1 to 1.

    SSIM is the mean over windows and channels of

        (2 mu_p mu_t + C1) (2 cov + C2) / ((mu_p^2 + mu_t^2 + C1) (var_p + var_t + C2))

    with the mean, variance and covariance in a Gaussian window of 11 x 11 pixels and sigma 1.5 inside the
    image, C1 = 0.01^2 and C2 = 0.03^2. It equals the authors' code without the optional downsampling. For
    RGB it is by convention the mean over the three channels.

    Args:
      prediction: Images.
      target: Images to compare with.
      size: Height and width of each image in pixels, if images of several sizes share the array, padded at the
        bottom and right. Padding is ignored, NaN included.
        An image with a side below 11 has no window and gives NaN.

    Raises:
      InputError: The shapes differ, an image is not of floats, or a side of the array is below 11.
    """
    _check("ssim", prediction, target, SSIM_MIN_SIZE)
    luminance, structure = _similarities(_planes(prediction), _planes(target))
    window_means = jnp.mean(luminance * structure, axis=1)[..., None]
    return _mean(window_means, None if size is None else size - (_WINDOW - 1))


def ms_ssim(
    prediction: Float[Array, "batch height width channels"],
    target: Float[Array, "batch height width channels"],
    scales: int = len(_SCALE_WEIGHTS),
) -> Float[Array, " batch"]:
    """Return the multi-scale structural similarity (MS-SSIM) of images in [0, 1] for each image, from 0 to 1.

    MS-SSIM is a product over `scales` scales, averaged over channels. Each scale contributes the
    mean of SSIM's contrast-structure factor, the coarsest the mean of the full SSIM, raised to the
    weight of the scale. Each scale is the previous one after 2 x 2 average pooling; the last row or
    column of an odd size is repeated, as in the authors' code. A scale with a negative mean counts
    as 0 and has gradient 0.

    The five weights are used as published, although they sum to 1.0001. With fewer scales, the finest ones
    are used and their weights normalized. Values for different numbers of scales are not comparable.

    Args:
      prediction: Images.
      target: Images to compare with.
      scales: Number of scales, from 1 to 5. `max_ms_ssim_scales` returns the largest number for a size.

    Raises:
      InputError: The shapes differ, an image is not of floats, a side is below 11 * 2^(scales - 1) (176 for
        five scales), or `scales` is out of range.
    """
    if scales not in range(1, len(_SCALE_WEIGHTS) + 1):
        raise InputError(f"scales must be from 1 to {len(_SCALE_WEIGHTS)}; got {scales}")
    _check("ms_ssim", prediction, target, _WINDOW * 2 ** (scales - 1))
    prediction, target = _planes(prediction), _planes(target)
    means = []
    for scale in range(scales):
        if scale:
            prediction, target = _halve(prediction), _halve(target)
        luminance, structure = _similarities(prediction, target)
        last = scale == scales - 1
        means.append(jnp.mean(luminance * structure if last else structure, axis=(2, 3)))
    return combine_scales(means)


def combine_scales(means: Sequence[Float[Array, "batch channels"]]) -> Float[Array, " batch"]:
    """Return MS-SSIM from the means over the windows of each scale, the finest first; see `ms_ssim`.

    Args:
      means: Mean of the contrast-structure factor at all scales but the last, and of SSIM at the last.
    """
    weights = _SCALE_WEIGHTS[: len(means)]
    if len(means) < len(_SCALE_WEIGHTS):
        weights = tuple(weight / sum(weights) for weight in weights)
    product = jnp.ones_like(means[0])
    for mean, weight in zip(means, weights, strict=True):
        # The inner `where` keeps the derivative of the discarded power finite. NaN stays NaN.
        power = jnp.where(mean <= 0, 1.0, mean) ** weight
        product = product * jnp.where(mean <= 0, 0.0, power)
    return jnp.mean(product, axis=1)


def ssim_sums(
    prediction: Float[Array, "batch height width channels"],
    target: Float[Array, "batch height width channels"],
    size: Int[Array, "batch 2"],
) -> tuple[Float[Array, "batch channels"], Float[Array, "batch channels"]]:
    """Return the sums over the windows of SSIM and of its contrast-structure factor, for each channel.

    The sums of an image are those of its parts, if the parts overlap by 10 pixels.

    Args:
      prediction: Images.
      target: Images to compare with.
      size: Height and width of each image in pixels, each padded at the bottom and right.

    Raises:
      InputError: The shapes differ, an image is not of floats, or a side of the array is below 11.
    """
    _check("ssim_sums", prediction, target, SSIM_MIN_SIZE)
    luminance, structure = _similarities(_planes(prediction), _planes(target))
    inside = _inside(luminance.shape[2:], size - (_WINDOW - 1))
    sums = (
        jnp.sum(jnp.where(inside[:, None], values, 0.0), axis=(2, 3))
        for values in (luminance * structure, structure)
    )
    full, contrast = sums
    return full, contrast


def max_ms_ssim_scales(height: int, width: int) -> int:
    """Return the largest number of scales, 0 to 5, of `ms_ssim` for images of `height` x `width` pixels."""
    return min((min(height, width) // _WINDOW).bit_length(), len(_SCALE_WEIGHTS))


def _planes(images: Array) -> Array:
    """Move channels before the spatial axes, so that rows are contiguous and window sums vectorize on a CPU."""
    return jnp.moveaxis(images, -1, 1)


def _similarities(prediction: Array, target: Array) -> tuple[Array, Array]:
    """Return SSIM's luminance factor and contrast-structure factor in every window.

    Both use (2 a b + C) / (a^2 + b^2 + C) = 1 - (a - b)^2 / (a^2 + b^2 + C), for means and for variances.
    The moments of the difference replace the covariance, which avoids cancellation near SSIM = 1.
    """
    mean, variance = _moments(jnp.stack([prediction, target, prediction - target]))
    (mean_p, mean_t, mean_d), (variance_p, variance_t, variance_d) = mean, variance
    luminance = 1.0 - jnp.square(mean_d) / (jnp.square(mean_p) + jnp.square(mean_t) + _C1)
    structure = 1.0 - variance_d / (variance_p + variance_t + _C2)
    return luminance, structure


def _moments(planes: Array) -> tuple[Array, Array]:
    """Return the mean and variance in every window over the last two axes.

    The variance of a window is the mean of its columns' variances plus the variance of their means.
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
    """Return the pixels below each tap of the window."""
    count = planes.shape[axis] - (_WINDOW - 1)
    return [lax.slice_in_dim(planes, k, k + count, axis=axis) for k in range(_WINDOW)]


def _halve(planes: Array) -> Array:
    *batch, height, width = planes.shape
    even = jnp.pad(planes, ((0, 0), (0, 0), (0, height % 2), (0, width % 2)), mode="edge")
    blocks = even.reshape(*batch, (height + 1) // 2, 2, (width + 1) // 2, 2)
    return jnp.mean(blocks, axis=(-3, -1))


def _mean(values: Array, size: Array | None) -> Array:
    """Return the mean over channels and the pixels inside `size`, by default all."""
    if size is None:
        return jnp.mean(values, axis=(1, 2, 3))
    channels = values.shape[-1]
    inside = _inside(values.shape[1:3], size)[..., None]
    total = jnp.sum(jnp.where(inside, values, 0.0), axis=(1, 2, 3))
    return total / (channels * jnp.sum(inside, axis=(1, 2, 3)))


def _inside(shape: tuple[int, ...], size: Array) -> Array:
    """Return (batch, height, width), True inside the size of each image."""
    height, width = shape
    rows, columns = (size[:, axis].reshape(-1, 1, 1) for axis in (0, 1))
    return (jnp.arange(height).reshape(1, -1, 1) < rows) & (
        jnp.arange(width).reshape(1, 1, -1) < columns
    )


def _check(name: str, prediction: Array, target: Array, min_size: int = 1) -> None:
    if prediction.shape != target.shape:
        raise InputError(
            f"{name} requires images of equal shape; got prediction {prediction.shape} and target "
            f"{target.shape}"
        )
    if not all(jnp.issubdtype(images.dtype, jnp.floating) for images in (prediction, target)):
        raise InputError(
            f"{name} requires floats in [0, 1]; got {prediction.dtype} and {target.dtype}"
        )
    height, width = prediction.shape[1:3]
    if min(height, width) < min_size:
        raise InputError(
            f"{name} requires images of at least {min_size} x {min_size} pixels; got {height} x "
            f"{width}"
        )
