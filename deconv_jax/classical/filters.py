"""Linear restoration in one step: inverse filter, Wiener's filter, Tikhonov's regularisation.

The filters are those of `deconv_jax.ops.spectral`; here they learn from the forward model what to
divide by, and how much to trust it. What is unknown of image and noise is found by maximum
likelihood: as in Orieux, Giovannelli & Rodet (J. Opt. Soc. Am. A 27, 1593-1607, 2010), a frequency
of y is a Gaussian of variance s |H|^2 / R + sigma^2, with R the roughness of that frequency.

What a reader would get wrong: the filters take every blur for a circular one. With another boundary
y is first widened to the size of x (its border pixels repeated) and tapered (`edge_taper`), which
softens the ringing but leaves the border worse than the middle. `tikhonov` does neither: it solves
with the forward model as it is, in closed form where that is circular.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from deconv_jax.classical.iterative import least_squares
from deconv_jax.classical.problem import (
    Images,
    Observed,
    PerImageScalar,
    Problem,
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
from deconv_jax.data.degradations import Convolution, Degradation, Linear, noise_sigma
from deconv_jax.errors import InputError, did_you_mean
from deconv_jax.ops import spectral

Regularizer = Literal["laplacian", "identity"]

_LOG_RATIOS = -6.0, 10.0
"""Decimal logarithms of s / sigma^2 between which the likeliest is searched."""

_CANDIDATES = 17
_ROUNDS = 4

_LEAST_SIGMA = 1e-6

Filter = Callable[[Array, Array, Array], Array]


def inverse(
    y: Observed, forward_model: Degradation, *, threshold: PerImageScalar | None = None
) -> Images:
    """Divides by the blur's response H where |H| > threshold, `ops.inverse_filter`.

    Args:
      y: observed images.
      forward_model: a blur, or circular blurs one after another.
      threshold: at least 0. Unless given it is 1.6 sigma^0.6 for noise of standard deviation sigma
        in [0, 1] units, chosen on photographs, and 1e-3 for a model without noise.

    Returns:
      Restored images.

    Raises:
      InputError: for a forward model that is no blur.
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
    """The linear estimate of least expected squared error, `ops.wiener_filter`.

    Args:
      y: observed images.
      forward_model: a blur, or circular blurs one after another.
      noise_to_signal: power of the noise divided by power of the image: a number, one an image,
        one a frequency (in the layout of `ops.psf2otf`), or one for each frequency of each image.
        Unless given, the power of each image is taken to fall with the cube of frequency, which
        suits photographs, at the height that makes y likeliest.

    Returns:
      Restored images.

    Raises:
      InputError: for a forward model that is no blur, or one without Gaussian noise where
        noise_to_signal is not given.
    """
    y, model, size = _prepare("wiener", y, forward_model)
    if noise_to_signal is None:
        needed = "wiener takes noise_to_signal (unsupervised_wiener does without)"
        sigma = as_per_image(known_sigma(forward_model, needed), y)
        return _wiener(y, model, sigma.reshape(-1, 1, 1), size, 1.5)[0]
    ratio = jnp.asarray(noise_to_signal, y.dtype)
    frequencies = () if ratio.ndim < 2 else ratio.shape[-2:]
    ratio = jnp.broadcast_to(ratio, (y.shape[0], *frequencies))
    return _filtered(y, model, ratio, size, _wiener_filter)


def unsupervised_wiener(
    y: Observed, forward_model: Degradation, *, return_estimates: bool = False
) -> Any:
    """Wiener's filter with the power of the noise and of the image found from y alone.

    The image's power is taken to fall with the fourth power of frequency, its Laplacian to be white.
    That is the model of `skimage.restoration.unsupervised_wiener`, which averages samples of its
    posterior; here the two powers are the likeliest ones, found without chance.

    Args:
      y: observed images.
      forward_model: a blur, or circular blurs one after another; its noise is not looked at.
      return_estimates: whether to return what was found as well.

    Returns:
      Restored images; with a dict of "sigma", the standard deviation of the noise in [0, 1] units,
      and "noise_to_signal", its power divided by that of the image's Laplacian, both (batch,).

    Raises:
      InputError: for a forward model that is no blur.
    """
    y, model, size = _prepare("unsupervised_wiener", y, forward_model)
    x, sigma, ratio = _wiener(y, model, None, size, 2.0)
    return (x, {"sigma": sigma, "noise_to_signal": ratio}) if return_estimates else x


def tikhonov(
    y: Observed,
    forward_model: Degradation,
    *,
    weight: PerImageScalar | None = None,
    regularizer: Regularizer = "laplacian",
    iterations: int = 200,
    tolerance: float = 1e-4,
    size: Sequence[int] | None = None,
) -> Images:
    """The x of least |A x - y|^2 + weight |L x|^2.

    In closed form for circular blurs, L wrapped around like them; for all other models by conjugate
    gradients, and the Laplacian stops at the border of the image.

    Args:
      y: observed images.
      forward_model: any.
      weight: of the penalty, positive. Unless given it is 35 sigma^2 for the Laplacian and
        1.3 sigma for the identity, for noise of standard deviation sigma in [0, 1] units, chosen on
        blurred photographs; 1e-4 for a model without noise.
      regularizer: L: "laplacian", of which smooth images have little, or "identity".
      iterations: of conjugate gradients, at most.
      tolerance: of conjugate gradients: length of the gradient, relative to that at x = 0.
      size: (height, width) of the images to restore, where y's does not tell; see `prepare`.

    Returns:
      Restored images.

    Raises:
      InputError: for an unknown regularizer, or arguments that do not fit one another.
    """
    if regularizer not in get_args(Regularizer):
        raise InputError(
            f"no regularizer {regularizer!r}; {did_you_mean(regularizer, get_args(Regularizer))}"
        )
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
    model: Linear,
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
) -> tuple[Array, Linear, tuple[int, int]]:
    """`problem.prepare`, and a check that the model is a blur."""
    y, model, size = prepare(y, forward_model)
    parts = list(linear_factors(model))
    if not is_circular(model) and not (len(parts) == 1 and isinstance(parts[0], Convolution)):
        kinds = ", ".join(type(part).__name__ for part in parts)
        raise InputError(
            f"{name} divides by the frequency response of one blur, or of circular ones; got "
            f"{kinds}; tikhonov, cgls, tv, wavelet and plug_and_play take any linear forward model"
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
    y: Array, model: Linear, strength: Array, size: tuple[int, int], apply: Filter
) -> Array:
    y, psf = _circular_form(y, model, size)
    return _for_each(apply)(y, psf, strength)


def _for_each(apply: Filter) -> Filter:
    """A filter of one image, its psf and its strength, for batches of them; a psf may be shared."""

    def of_batch(y: Array, psf: Array, strength: Array) -> Array:
        if psf.shape[0] == 1:
            return jax.vmap(apply, (0, None, 0))(y, psf[0], strength)
        return jax.vmap(apply)(y, psf, strength)

    return of_batch


def _circular_form(y: Array, model: Linear, size: tuple[int, int]) -> tuple[Array, Array]:
    """Images that a circular blur may be taken to have made, and its psf."""
    psf = circular_psf(model, (y.shape[0], *size, y.shape[-1]), y.dtype)
    if is_circular(model):
        return y, psf
    around = [((k - 1) // 2, k // 2) if n != m else (0, 0) for k, n, m in _sizes(y, psf, size)]
    y = jnp.pad(y, ((0, 0), *around, (0, 0)), mode="edge")
    return _for_each(lambda image, psf, _: spectral.edge_taper(image, psf))(y, psf, y[:, 0, 0]), psf


def _sizes(y: Array, psf: Array, size: tuple[int, int]) -> list[tuple[int, int, int]]:
    return list(zip(psf.shape[1:], y.shape[1:3], size, strict=True))


@functools.partial(jit, static_argnums=(3, 4))
def _wiener(
    y: Array,
    model: Linear,
    sigma: Array | None,
    size: tuple[int, int],
    exponent: float,
) -> tuple[Array, Array, Array]:
    """Wiener's filter for images of power s / |L|^exponent, L the Laplacian; s is found, and sigma.

    Returns:
      (x, sigma, sigma^2 / s), the latter two (batch,).
    """
    y, psf = _circular_form(y, model, size)
    response = jax.vmap(lambda each: spectral.psf2otf(each, size))(psf)
    stencil = jnp.asarray([[0, -1, 0], [-1, 4, -1], [0, -1, 0]], y.dtype)
    roughness = jnp.abs(spectral.psf2otf(stencil, size)) ** exponent
    spectrum = jnp.fft.rfft2(y, axes=(1, 2), norm="ortho")
    power = jnp.mean(jnp.square(jnp.abs(spectrum)), -1)
    # What the half spectrum leaves out is equal; the mean brightness says nothing of either power.
    count = jnp.full(power.shape[1:], 2.0, y.dtype).at[:, 0].set(1.0)
    count = count.at[:, -1].set(2.0 - (size[1] % 2 == 0)).at[0, 0].set(0.0)
    count = count.reshape(1, *count.shape)
    gain = jnp.square(jnp.abs(response)) / roughness.at[0, 0].set(1.0)[None]

    def noise_power(ratio: Array) -> Array:
        if sigma is not None:
            return jnp.square(jnp.maximum(sigma, _LEAST_SIGMA))
        share = jnp.sum(count * power / (ratio * gain + 1.0), (1, 2), keepdims=True)
        return share / jnp.sum(count)

    def misfit(log_ratio: Array) -> Array:
        """Minus the logarithm of the likelihood of y, twice and but for a constant."""
        ratio = (10.0**log_ratio).reshape(-1, 1, 1)
        variance = noise_power(ratio) * (ratio * gain + 1.0)
        return jnp.sum(count * (jnp.log(variance) + power / variance), (1, 2))

    low, high = (jnp.full(y.shape[0], end, y.dtype) for end in _LOG_RATIOS)
    ratio = 10.0 ** _least(misfit, low, high)
    sigma = jnp.sqrt(noise_power(ratio.reshape(-1, 1, 1))).reshape(-1)
    ratios = roughness[None] / ratio.reshape(-1, 1, 1)
    return _for_each(_wiener_filter)(y, psf, ratios), sigma, 1.0 / ratio


def _least(function: Callable[[Array], Array], low: Array, high: Array) -> Array:
    """Where a function of one number an image is least: a grid, then finer ones around the best."""
    for _ in range(_ROUNDS):
        grid = jnp.linspace(low, high, _CANDIDATES)
        best = jnp.argmin(lax.map(function, grid), axis=0)
        step = (high - low) / (_CANDIDATES - 1)
        centre = jnp.take_along_axis(grid, best.reshape(1, -1), axis=0)[0]
        low, high = centre - step, centre + step
    return 0.5 * (low + high)
