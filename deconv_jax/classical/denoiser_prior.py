"""Plug-and-play restoration, with a denoiser such as a network as the prior.

Half-quadratic splitting after Zhang et al. (DPIR, arXiv:2008.13751), or ADMM (Venkatakrishnan et al.,
GlobalSIP 2013), alternates between a data step and a denoising step.

Note: The denoiser is called at decreasing noise levels, down to that of y or `last_sigma`. Adapt a network
that was trained for single levels with `any_level_denoiser` and `any_level_options`.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.tree_util import Partial
from jaxtyping import Array

from deconv_jax.classical.data_fit import (
    closed_form_data_step,
    initial_estimate,
    iterative_data_step,
)
from deconv_jax.classical.problem import (
    Observed,
    Problem,
    ScalarOrPerImage,
    SolverResult,
    as_per_image,
    as_pytree,
    has_unknown_border,
    known_sigma,
    prepare,
)
from deconv_jax.classical.proximal import tv
from deconv_jax.compilation import jit
from deconv_jax.data.degradations import Chain, Degradation, GaussianNoise, LinearDegradation
from deconv_jax.errors import InputError, at_least, check_choice

Splitting = Literal["half_quadratic", "admm"]
Denoiser = Callable[[Array, Array], Array]

_MIN_SIGMA = 0.1 / 255


def plug_and_play(
    y: Observed,
    forward_model: Degradation,
    *,
    denoiser: Denoiser,
    sigma: ScalarOrPerImage | None = None,
    iterations: int = 8,
    first_sigma: float = 49 / 255,
    last_sigma: ScalarOrPerImage | None = None,
    data_weight: float = 0.23,
    splitting: Splitting = "half_quadratic",
    data_iterations: int = 30,
    size: Sequence[int] | None = None,
    return_objective: bool = False,
) -> SolverResult:
    """Alternate between fitting y and denoising, at decreasing noise levels.

    sigma_k falls geometrically from `first_sigma` to `last_sigma`. Starting with z = y, iteration k is
    (Zhang et al., arXiv:2008.13751)

        x = argmin |A x - y|^2 + mu_k |x - z|^2,    mu_k = data_weight sigma^2 / sigma_k^2
        z = denoiser(x, sigma_k)

    and the result is z. With "admm", the denoiser receives x + u and the data step z - u, where the scaled
    dual variable u accumulates x - z and is rescaled as mu_k changes. The data step has a closed form for
    circular blurs and masks; otherwise it uses conjugate gradients from z, and the first z is a smooth image
    that fits y. For blurs with boundary="valid" the first z is the restoration by `tv`, because a few
    iterations do not restore the pixels beyond the border of y.

    Args:
      y: Observed images.
      forward_model: Any forward model with a linear part.
      denoiser: Function (x, sigma) -> x that removes white noise of standard deviation sigma, a traced number
        in [0, 1] units. A plain function is a static argument, so pass the same object in every call. The
        leaves of a `jax.tree_util.Partial` or another pytree, such as weights, are traced like y.
      sigma: Standard deviation of the noise in y in [0, 1] units, by default that of the forward model. It is
        raised to at least 0.1 / 255. If it or `last_sigma` is one per image, the denoiser is mapped over the
        images, so that it always receives a scalar.
      iterations: Number of iterations, at least 1; 8 in the paper; more are slower and hardly better.
      first_sigma: Noise level of the first denoising, raised to at least the last level.
      last_sigma: Noise level of the last denoising, by default sigma and raised to at least that. The data
        step uses sigma in any case.
      data_weight: lambda of the paper, above 0 (not checked); one value for all noise levels.
      splitting: "half_quadratic" or "admm".
      data_iterations: Maximum number of conjugate gradient steps in a data step without closed form.
      size: Height and width of x. The default is the size of y if the model keeps sizes, else the largest size
        that the model maps to that of y.
      return_objective: Whether to return |A z - y|^2 / 2 after each iteration. A denoiser in
        general minimizes no objective, so the returned value may increase.

    Returns:
      Restored images; with `return_objective` also the objective, (iterations, batch).

    Raises:
      UnknownNoise: `sigma` is missing and the model has no Gaussian noise. It is an InputError.
      InputError: The splitting is unknown; `iterations` is below 1; y is not a float array of four axes; the
        model is not linear or has a range that was not sampled; or it does not map `size` to the size of y.
    """
    check_choice("splitting", splitting, Splitting)
    y, model, size = prepare(y, forward_model, size)
    at_least("iterations", iterations, 1)
    if sigma is None:
        sigma = known_sigma(forward_model, "plug_and_play requires sigma")
    noise: Any = jnp.maximum(jnp.asarray(sigma, y.dtype), _MIN_SIGMA)
    last = noise if last_sigma is None else jnp.maximum(noise, jnp.asarray(last_sigma, y.dtype))
    schedule = (jnp.maximum(first_sigma, last), last, data_weight * noise**2)
    start = None
    if has_unknown_border(model):
        start = tv(y, Chain((model, GaussianNoise(255.0 * noise))), size=size)
    options = size, iterations, splitting, data_iterations, return_objective
    x, objective = _plug_and_play(y, model, as_pytree(denoiser), schedule, start, *options)
    return (x, objective) if return_objective else x


@functools.partial(jit, static_argnums=(5, 6, 7, 8, 9))
def _plug_and_play(
    y: Array,
    model: LinearDegradation,
    denoiser: Denoiser,
    schedule: tuple[Array, Array, Array],
    start: Array | None,
    size: tuple[int, int],
    iterations: int,
    splitting: Splitting,
    data_iterations: int,
    return_objective: bool,
) -> tuple[Array, Any]:
    first, last, fit_weight = schedule
    problem = Problem.of(y, model, size)
    fit = closed_form_data_step(problem) or iterative_data_step(problem, data_iterations)

    def denoise(images: Array, sigma: Array) -> Array:
        if sigma.ndim:
            return jax.vmap(lambda image, own: denoiser(image[None], own)[0])(images, sigma)
        return denoiser(images, sigma)

    # Exponents from 1 to 0; a single iteration has 0, the last level.
    exponents = jnp.arange(iterations, dtype=y.dtype)[::-1] / max(iterations - 1, 1)
    exponents = exponents.reshape(-1, *[1] * last.ndim)
    ratio = (first / last).reshape(1, *last.shape)
    sigmas = last.reshape(1, *last.shape) * ratio**exponents

    def step(state: Any, sigma: Array) -> Any:
        z, dual, previous_sigma = state
        dual = dual * as_per_image((sigma / previous_sigma) ** 2, y)
        mu = as_per_image(fit_weight / sigma**2, y)
        x = fit(z - dual, mu)
        z = denoise(x + dual, sigma)
        if splitting == "admm":
            dual = dual + x - z
        return (z, dual, sigma), problem.fidelity(z) if return_objective else None

    z = initial_estimate(problem) if start is None else start
    state: Any = z, jnp.zeros_like(z), sigmas[0]
    (z, *_), history = lax.scan(step, state, sigmas)
    return z, history


def any_level_denoiser(
    denoise: Callable[[Array], Array] | Sequence[Callable[[Array], Array]],
    trained_sigma: float | Sequence[float],
) -> Denoiser:
    """Make a denoiser for any noise level from denoisers for fixed levels, for `plug_and_play`.

    For noise of standard deviation sigma it uses the largest trained level t <= sigma and scales the image so
    that its noise has that level: (sigma / t) denoise(t / sigma x). Below the smallest level t, scaling would
    produce values far above 1, which networks have not seen; there it scales the correction instead,
    x + sigma / t (denoise(x) - x).

    Args:
      denoise: Function from images with noise of its level to denoised images, or several functions. Like the
        denoiser of `plug_and_play`, each is static unless it is a pytree.
      trained_sigma: Noise level of each function in [0, 1] units, such as 25 / 255 for "sigma = 25".

    Returns:
      A denoiser (x, sigma) -> x, a `jax.tree_util.Partial` whose leaves are the levels and the leaves of the
      functions.

    Raises:
      InputError: A level is not positive, or the numbers of levels and functions differ.
    """
    functions = [denoise] if callable(denoise) else list(denoise)
    given = _levels(trained_sigma)
    if len(given) != len(functions):
        raise InputError(
            f"trained_sigma requires a positive number for each of {len(functions)} denoisers; got "
            f"{trained_sigma}"
        )
    order = sorted(range(len(given)), key=lambda i: given[i])
    levels = jnp.asarray([given[i] for i in order], jnp.float32)
    return Partial(_denoise_at_levels, tuple(as_pytree(functions[i]) for i in order), levels)


def any_level_options(trained_sigma: float | Sequence[float]) -> dict[str, Any]:
    """Return options of `plug_and_play` that suit an `any_level_denoiser`.

    They are {"splitting": "admm", "last_sigma": lowest trained level, "data_weight": 0.7}: no network was trained
    for lower levels, and the data weight was chosen on photographs.

    Args:
      trained_sigma: Noise levels in [0, 1] units, as for `any_level_denoiser`.

    Raises:
      InputError: There is no level, or a level is not positive.
    """
    return {"splitting": "admm", "last_sigma": min(_levels(trained_sigma)), "data_weight": 0.7}


def _levels(trained_sigma: float | Sequence[float]) -> tuple[float, ...]:
    levels = tuple(float(level) for level in np.atleast_1d(trained_sigma))
    if not levels or not all(level > 0 for level in levels):
        raise InputError(
            f"trained_sigma requires one or more positive numbers; got {trained_sigma}"
        )
    return levels


def _denoise_at_levels(
    functions: tuple[Callable[[Array], Array], ...], levels: Array, x: Array, sigma: float | Array
) -> Array:
    # The margin allows for rounding of the last level.
    chosen = jnp.maximum(jnp.sum(levels <= 1.001 * sigma) - 1, 0)
    ratio = (levels[chosen] / sigma).astype(x.dtype)
    scale = jnp.minimum(ratio, 1.0)
    scaled = scale * x
    correction = lax.switch(chosen, functions, scaled) - scaled
    return x + correction / (scale * jnp.maximum(ratio, 1.0))
