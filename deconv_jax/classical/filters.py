"""Linear restoration in one step: inverse filter, Wiener filter, Tikhonov regularization.

The filters are those of `deconv_jax.ops.spectral`, with the point-spread function and the noise
level of the forward model. Unknown powers of image and noise are estimated by maximum likelihood.
As in Orieux, Giovannelli & Rodet (J. Opt. Soc. Am. A 27, 1593-1607, 2010), each Fourier coefficient
of y is Gaussian with variance s |H|^2 / R + sigma^2, where H is the transfer function of the blur,
and R a power of that of the Laplacian.

Note: The filters assume circular blurs. For another boundary, y is first padded to the size of x by its border
pixels and tapered (`edge_taper`). This softens ringing, but the border is restored worse than the interior.
`tikhonov` does neither: it solves with the forward model itself, in closed form if that is circular.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from deconv_jax.classical.iterative import least_squares
from deconv_jax.classical.problem import (
    Images,
    Observed,
    Problem,
    ScalarOrPerImage,
    above_zero,
    as_per_image,
    circular_psf,
    is_circular,
    known_sigma,
    laplacian,
    linear_factors,
    prepare,
    squeeze_per_image,
)
from deconv_jax.compilation import jit
from deconv_jax.data.degradations import Convolution, Degradation, LinearDegradation, noise_sigma
from deconv_jax.errors import InputError, at_least, check_choice
from deconv_jax.ops import spectral

Regularizer = Literal["laplacian", "identity"]

_LOG_RATIOS = -6.0, 10.0
"""Range of log10(s / sigma^2) in which the maximum likelihood is searched."""

_CANDIDATES = 17
_ROUNDS = 4

_MIN_SIGMA = 1e-6

Filter = Callable[[Array, Array, Array], Array]


def inverse(
    y: Observed, forward_model: Degradation, *, threshold: ScalarOrPerImage | None = None
) -> Images:
    """Divide by the transfer function H of the blur where |H| > threshold; other frequencies become 0.

    Args:
      y: Observed images.
      forward_model: A blur or a chain of circular blurs, with or without noise. For another boundary than
        "circular", y is padded to the size before the blur and tapered, as the module describes.
      threshold: Threshold, at least 0 (not checked). The default, chosen on photographs, is 1.6 sigma^0.6 for noise of
        standard deviation sigma in [0, 1] units, and 1e-3 for a model without noise.

    Returns:
      Restored images.

    Raises:
      InputError: y is not a float array of four axes; the model is not a blur or a chain of circular blurs; or
        a boundary is not circular and the kernel is more than half as large as the result.
    """
    y, model, size = _prepare("inverse", y, forward_model)
    if threshold is None:
        sigma = noise_sigma(forward_model)
        threshold = 1e-3 if sigma is None else 1.6 * jnp.asarray(sigma) ** 0.6
    return _filtered(y, model, squeeze_per_image(as_per_image(threshold, y)), size, _inverse_filter)


def wiener(
    y: Observed,
    forward_model: Degradation,
    *,
    noise_to_signal: float | Float[Array | np.ndarray, "..."] | None = None,
) -> Images:
    """Return the linear estimate of least mean squared error.

    The spectrum of y is multiplied by conj(H) / (|H|^2 + noise_to_signal), with the transfer function H.

    Args:
      y: Observed images.
      forward_model: A blur or a chain of circular blurs, padded and tapered as for `inverse`. The noise matters
        only for the default of `noise_to_signal`.
      noise_to_signal: Power of the noise divided by that of the image: a number, (batch,), one per frequency
        (height, width // 2 + 1) in the layout of `ops.psf2otf`, or both, with the batch axis first. By default
        the image is assumed to have a power spectrum proportional to frequency^-3, which suits photographs, with the
        amplitude estimated by maximum likelihood for each image.

    Returns:
      Restored images.

    Raises:
      UnknownNoise: `noise_to_signal` is missing and the model has no Gaussian noise. It is an InputError.
      InputError: As for `inverse`.
    """
    y, model, size = _prepare("wiener", y, forward_model)
    if noise_to_signal is None:
        requirement = "wiener requires noise_to_signal (unsupervised_wiener does not)"
        sigma = as_per_image(known_sigma(forward_model, requirement), y)
        return _wiener(y, model, sigma.reshape(-1, 1, 1), size, 1.5)[0]
    ratio = jnp.asarray(noise_to_signal, y.dtype)
    frequencies = () if ratio.ndim < 2 else ratio.shape[-2:]
    ratio = jnp.broadcast_to(ratio, (y.shape[0], *frequencies))
    return _filtered(y, model, ratio, size, _wiener_filter)


def unsupervised_wiener(
    y: Observed, forward_model: Degradation, *, return_estimates: bool = False
) -> Any:
    """Apply a Wiener filter with the powers of noise and image estimated from y.

    The image is assumed to have a white Laplacian, that is, a power spectrum proportional to frequency^-4. This
    is the model of `skimage.restoration.unsupervised_wiener`, which averages samples of its posterior. Here the
    two powers are maximum likelihood estimates, which are deterministic.

    Args:
      y: Observed images.
      forward_model: A blur or a chain of circular blurs, padded and tapered as for `inverse`. Its noise is
        ignored.
      return_estimates: Whether to return the estimates.

    Returns:
      Restored images. If requested, also a dict of "sigma", the standard deviation of the noise in [0, 1]
      units, and "noise_to_signal", its power divided by that of the Laplacian of the image, both (batch,).

    Raises:
      InputError: y is not a float array of four axes; the model is not a blur or a chain of circular blurs; or
        a boundary is not circular and the kernel is more than half as large as the result.
    """
    y, model, size = _prepare("unsupervised_wiener", y, forward_model)
    x, sigma, ratio = _wiener(y, model, None, size, 2.0)
    return (x, {"sigma": sigma, "noise_to_signal": ratio}) if return_estimates else x


def tikhonov(
    y: Observed,
    forward_model: Degradation,
    *,
    weight: ScalarOrPerImage | None = None,
    regularizer: Regularizer = "laplacian",
    iterations: int = 200,
    tolerance: float = 1e-4,
    size: Sequence[int] | None = None,
) -> Images:
    """Minimize |A x - y|^2 + weight |L x|^2.

    Circular blurs have a closed form, with a circular L. Other models use conjugate gradients, with a Laplacian
    that has Neumann boundary.

    Args:
      y: Observed images.
      forward_model: Any forward model with a linear part.
      weight: Weight of the penalty, above 0. The default, chosen on blurred photographs, is 35 sigma^2 for the
        Laplacian and 1.3 sigma for the identity, for noise of standard deviation sigma in [0, 1] units, and
        1e-4 for a model without noise.
      regularizer: Operator L, "laplacian" (which penalizes roughness) or "identity".
      iterations: Maximum number of conjugate gradient steps, at least 1; not used for circular blurs.
      tolerance: Norm of the gradient, relative to that at x = 0, at which conjugate gradients stop an image.
      size: Height and width of x. The default is the size of y if the model keeps sizes, else the largest size
        that the model maps to that of y.

    Returns:
      Restored images.

    Raises:
      InputError: The regularizer is unknown; `weight` or `iterations` is out of range; y is not a float array of
        four axes; the model is not linear, has a range that was not sampled or more than one Gaussian noise; or
        it does not map `size` to the size of y.
    """
    check_choice("regularizer", regularizer, Regularizer)
    at_least("iterations", iterations, 1)
    if weight is not None:
        above_zero("weight", weight)
    y, model, size = prepare(y, forward_model, size)
    sigma = noise_sigma(forward_model)
    if weight is None and sigma is not None:
        level = jnp.asarray(sigma)
        weight = 35.0 * level**2 if regularizer == "laplacian" else 1.3 * level
    strength = as_per_image(1e-4 if weight is None else weight, y)
    if is_circular(model):
        closed = {"laplacian": _constrained_filter, "identity": _wiener_filter}[regularizer]
        return _filtered(y, model, squeeze_per_image(strength), size, closed)
    return _tikhonov(y, model, strength, tolerance, size, regularizer, iterations)


@functools.partial(jit, static_argnums=(4, 5, 6))
def _tikhonov(
    y: Array,
    model: LinearDegradation,
    weight: Array,
    tolerance: float | Array,
    size: tuple[int, int],
    regularizer: Regularizer,
    iterations: int,
) -> Array:
    problem = Problem.of(y, model, size)
    roughness = {"laplacian": laplacian, "identity": lambda x: x}[regularizer]
    root = jnp.sqrt(weight)
    start = jnp.zeros(problem.shape, y.dtype)
    return least_squares(
        lambda x: (problem.forward(x), root * roughness(x)),
        lambda parts: problem.adjoint(parts[0]) + roughness(root * parts[1]),
        (y, start),
        start,
        iterations=iterations,
        tolerance=tolerance,
    )


def _prepare(
    name: str, y: Observed, forward_model: Degradation
) -> tuple[Array, LinearDegradation, tuple[int, int]]:
    """Check the arguments as `problem.prepare` does, and that the model is a blur."""
    y, model, size = prepare(y, forward_model)
    parts = list(linear_factors(model))
    if not is_circular(model) and not (len(parts) == 1 and isinstance(parts[0], Convolution)):
        kinds = ", ".join(type(part).__name__ for part in parts)
        raise InputError(
            f"{name} requires a blur or a chain of circular blurs; got {kinds}; tikhonov, cgls, tv, "
            f"wavelet and plug_and_play accept any linear forward model"
        )
    return y, model, size


def _inverse_filter(y: Array, psf: Array, threshold: Array) -> Array:
    return spectral.inverse_filter(y, psf, threshold=threshold)


def _wiener_filter(y: Array, psf: Array, ratio: Array) -> Array:
    return spectral.wiener_filter(y, psf, noise_to_signal=ratio)


def _constrained_filter(y: Array, psf: Array, gamma: Array) -> Array:
    return spectral.constrained_least_squares_filter(y, psf, gamma=gamma)


@functools.partial(jit, static_argnums=(3, 4))
def _filtered(
    y: Array, model: LinearDegradation, strength: Array, size: tuple[int, int], apply: Filter
) -> Array:
    y, psf = _circular_form(y, model, size)
    return _for_each(apply)(y, psf, strength)


def _for_each(apply: Filter) -> Filter:
    """Map a filter of one image, its psf and its strength over a batch; the psf may be shared."""

    def batched(y: Array, psf: Array, strength: Array) -> Array:
        if psf.shape[0] == 1:
            return jax.vmap(apply, (0, None, 0))(y, psf[0], strength)
        return jax.vmap(apply)(y, psf, strength)

    return batched


def _circular_form(
    y: Array, model: LinearDegradation, size: tuple[int, int]
) -> tuple[Array, Array]:
    """Return y as if it came from a circular blur, padded and tapered if necessary, and the psf."""
    psf = circular_psf(model, (y.shape[0], *size, y.shape[-1]), y.dtype)
    if is_circular(model):
        return y, psf
    padding = [((k - 1) // 2, k // 2) if n != m else (0, 0) for k, n, m in _sizes(y, psf, size)]
    y = jnp.pad(y, ((0, 0), *padding, (0, 0)), mode="edge")
    return _for_each(lambda image, psf, _: spectral.edge_taper(image, psf))(y, psf, y[:, 0, 0]), psf


def _sizes(y: Array, psf: Array, size: tuple[int, int]) -> list[tuple[int, int, int]]:
    return list(zip(psf.shape[1:], y.shape[1:3], size, strict=True))


@functools.partial(jit, static_argnums=(3, 4))
def _wiener(
    y: Array,
    model: LinearDegradation,
    sigma: Array | None,
    size: tuple[int, int],
    exponent: float,
) -> tuple[Array, Array, Array]:
    """Apply the Wiener filter for images of power s / |L|^exponent.

    L is the transfer function of the Laplacian. s, and sigma if it is None, are maximum likelihood estimates.

    Returns:
      Images x, sigma and sigma^2 / s, the latter two (batch,).
    """
    y, psf = _circular_form(y, model, size)
    response = jax.vmap(lambda each: spectral.psf2otf(each, size))(psf)
    stencil = jnp.asarray([[0, -1, 0], [-1, 4, -1], [0, -1, 0]], y.dtype)
    roughness = jnp.abs(spectral.psf2otf(stencil, size)) ** exponent
    spectrum = jnp.fft.rfft2(y, axes=(1, 2), norm="ortho")
    power = jnp.mean(jnp.square(jnp.abs(spectrum)), -1)
    # Frequencies of the half spectrum stand for two, except in the first column and, for an even width, the
    # last one. The mean brightness carries no information about either power.
    count = jnp.full(power.shape[1:], 2.0, y.dtype).at[:, 0].set(1.0)
    count = count.at[:, -1].set(2.0 - (size[1] % 2 == 0)).at[0, 0].set(0.0)
    count = count.reshape(1, *count.shape)
    gain = jnp.square(jnp.abs(response)) / roughness.at[0, 0].set(1.0)[None]

    def noise_power(ratio: Array) -> Array:
        if sigma is not None:
            return jnp.square(jnp.maximum(sigma, _MIN_SIGMA))
        total = jnp.sum(count * power / (ratio * gain + 1.0), (1, 2), keepdims=True)
        return total / jnp.sum(count)

    def misfit(log_ratio: Array) -> Array:
        """Return -2 log-likelihood of y up to a constant."""
        ratio = (10.0**log_ratio).reshape(-1, 1, 1)
        variance = noise_power(ratio) * (ratio * gain + 1.0)
        return jnp.sum(count * (jnp.log(variance) + power / variance), (1, 2))

    low, high = (jnp.full(y.shape[0], end, y.dtype) for end in _LOG_RATIOS)
    ratio = 10.0 ** _minimize(misfit, low, high)
    sigma = jnp.sqrt(noise_power(ratio.reshape(-1, 1, 1))).reshape(-1)
    ratios = roughness[None] / ratio.reshape(-1, 1, 1)
    return _for_each(_wiener_filter)(y, psf, ratios), sigma, 1.0 / ratio


def _minimize(function: Callable[[Array], Array], low: Array, high: Array) -> Array:
    """Minimize a function of one number per image on a grid that is refined around the best point."""
    for _ in range(_ROUNDS):
        grid = jnp.linspace(low, high, _CANDIDATES)
        best = jnp.argmin(lax.map(function, grid), axis=0)
        step = (high - low) / (_CANDIDATES - 1)
        center = jnp.take_along_axis(grid, best.reshape(1, -1), axis=0)[0]
        low, high = center - step, center + step
    return 0.5 * (low + high)
