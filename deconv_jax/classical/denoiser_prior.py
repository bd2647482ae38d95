"""Restoration with a denoiser as its prior, a network's or any other.

Half-quadratic splitting as Zhang et al. (DPIR, arXiv:2008.13751), or ADMM (Venkatakrishnan et al.,
GlobalSIP 2013): what fits y and what looks like an image take turns.

What a reader would get wrong: the noise levels. A denoiser is asked for many of them, falling to
that of y or to `last_sigma`; a network that was trained for one level takes part through
`any_level_denoiser`, with `any_level_options`.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

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
    PerImageScalar,
    Problem,
    SolverResult,
    as_per_image,
    has_unknown_border,
    known_sigma,
    prepare,
)
from deconv_jax.classical.proximal import tv
from deconv_jax.compilation import jit
from deconv_jax.data.degradations import Chain, Degradation, GaussianNoise, Linear
from deconv_jax.errors import InputError, at_least, did_you_mean

Splitting = Literal["half_quadratic", "admm"]
Denoiser = Callable[[Array, Array], Array]

_LEAST_SIGMA = 0.1 / 255


def plug_and_play(
    y: Observed,
    forward_model: Degradation,
    *,
    denoiser: Denoiser,
    sigma: PerImageScalar | None = None,
    iterations: int = 8,
    first_sigma: float = 49 / 255,
    last_sigma: PerImageScalar | None = None,
    data_weight: float = 0.23,
    splitting: Splitting = "half_quadratic",
    data_iterations: int = 30,
    size: Sequence[int] | None = None,
    return_objective: bool = False,
) -> SolverResult:
    """Alternates between fitting y and denoising, at noise levels that fall.

    With sigma_k falling from `first_sigma` to `last_sigma` in equal ratios, and z = y before the first
    iteration, each is (Zhang et al., arXiv:2008.13751)

        x = argmin |A x - y|^2 + mu_k |x - z|^2,    mu_k = data_weight sigma^2 / sigma_k^2
        z = denoiser(x, sigma_k)

    and z is the result. "admm" gives the denoiser x + u and the fit z - u, where u sums what the two
    disagree by, scaled as mu_k changes. The fit is in closed form for circular blurs and for masks,
    else by conjugate gradients from z; then the first z is a smooth image that fits y. For blurs of
    boundary="valid" it is the restoration by `tv`: a few iterations do not fill in what lies beyond
    the border of y.

    Args:
      y: observed images.
      forward_model: any.
      denoiser: `denoiser(x, sigma) -> x`, of images with white noise of standard deviation sigma in
        [0, 1] units, a traced number. It is a static argument, to be the same object from call to
        call, unless it is a `jax.tree_util.Partial` or another pytree: then its leaves, a network's
        weights, are arguments like y. `any_level_denoiser` makes one of networks that were
        trained for single noise levels.
      sigma: standard deviation of the noise in y, [0, 1] units, for the forward model's. At least
        0.1 / 255 is taken.
      iterations: 8 as in the paper; more are slower and little better.
      first_sigma: noise level of the first denoising; at least the last one is taken.
      last_sigma: noise level of the last denoising, at least sigma; None for sigma. What y is
        fitted by stays the sigma of y.
      data_weight: lambda in the paper, which tunes it once for all noise levels.
      splitting: "half_quadratic" or "admm".
      data_iterations: of conjugate gradients in each fit, at most.
      size: (height, width) of the images to restore, where y's does not tell; see `prepare`.
      return_objective: whether to return |A z - y|^2 / 2 after each iteration as well; a denoiser
        in general minimises nothing.

    Returns:
      Restored images; with the objective if asked for.

    Raises:
      InputError: for an unknown splitting, without sigma for a model without Gaussian noise, or for
        arguments that do not fit one another.
    """
    if splitting not in get_args(Splitting):
        raise InputError(
            f"no splitting {splitting!r}; {did_you_mean(splitting, get_args(Splitting))}"
        )
    y, model, size = prepare(y, forward_model, size)
    at_least("iterations", iterations, 1)
    if sigma is None:
        sigma = known_sigma(forward_model, "plug_and_play takes sigma")
    noise: Any = jnp.maximum(jnp.asarray(sigma, y.dtype), _LEAST_SIGMA)
    last = noise if last_sigma is None else jnp.maximum(noise, jnp.asarray(last_sigma, y.dtype))
    schedule = (jnp.maximum(first_sigma, last), last, data_weight * noise**2)
    start = None
    if has_unknown_border(model):
        start = tv(y, Chain((model, GaussianNoise(255.0 * noise))), size=size)
    options = size, iterations, splitting, data_iterations, return_objective
    x, objective = _plug_and_play(y, model, _as_pytree(denoiser), schedule, start, *options)
    return (x, objective) if return_objective else x


@functools.partial(jit, static_argnums=(5, 6, 7, 8, 9))
def _plug_and_play(
    y: Array,
    model: Linear,
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

    # From the end, so that a single iteration is at the noise level of y.
    places = jnp.arange(iterations, dtype=y.dtype)[::-1] / max(iterations - 1, 1)
    places = places.reshape(-1, *[1] * last.ndim)
    ratio = (first / last).reshape(1, *last.shape)
    sigmas = last.reshape(1, *last.shape) * ratio**places

    def step(state: Any, sigma: Array) -> Any:
        z, disagreement, before = state
        disagreement = disagreement * as_per_image((sigma / before) ** 2, y)
        mu = as_per_image(fit_weight / sigma**2, y)
        x = fit(z - disagreement, mu)
        z = denoise(x + disagreement, sigma)
        if splitting == "admm":
            disagreement = disagreement + x - z
        return (z, disagreement, sigma), problem.fidelity(z) if return_objective else None

    z = initial_estimate(problem) if start is None else start
    state: Any = z, jnp.zeros_like(z), sigmas[0]
    (z, *_), history = lax.scan(step, state, sigmas)
    return z, history


def any_level_denoiser(
    denoise: Callable[[Array], Array] | Sequence[Callable[[Array], Array]],
    trained_sigma: float | Sequence[float],
) -> Denoiser:
    """A denoiser of any noise level made of denoisers of single ones, for `plug_and_play`.

    For noise of standard deviation sigma the largest trained level t <= sigma is taken, and the
    image darkened until its noise has that level: (sigma / t) denoise(t / sigma x). An image must
    not be brightened so, as networks know no values far above 1; below the smallest level t, the
    part of its correction is taken that has the size of the noise, x + sigma / t (denoise(x) - x).

    Args:
      denoise: images with noise of its level -> denoised images; or several of them. Like the
        denoiser of `plug_and_play` each is a static argument of it, unless it is a pytree.
      trained_sigma: their levels in the same order, [0, 1] units: 25 / 255 for "sigma = 25".

    Returns:
      `denoiser(x, sigma)`, a `jax.tree_util.Partial` whose leaves are the levels and those of the
      given denoisers.

    Raises:
      InputError: for levels that are not positive, or not as many as denoisers.
    """
    functions = [denoise] if callable(denoise) else list(denoise)
    given = _levels(trained_sigma)
    if len(given) != len(functions):
        raise InputError(
            f"trained_sigma is a positive number for each denoiser; got {trained_sigma} for "
            f"{len(functions)} denoisers"
        )
    order = sorted(range(len(given)), key=lambda i: given[i])
    levels = jnp.asarray([given[i] for i in order], jnp.float32)
    return Partial(_denoise_at_levels, tuple(_as_pytree(functions[i]) for i in order), levels)


def any_level_options(trained_sigma: float | Sequence[float]) -> dict[str, Any]:
    """The options of `plug_and_play` that suit a `any_level_denoiser`.

    ADMM that ends at the lowest trained level instead of asking for levels below, which no network
    was trained for; with a weight that was chosen on photographs.

    Args:
      trained_sigma: the levels, as there.

    Raises:
      InputError: for no level, or one that is not positive.
    """
    return {"splitting": "admm", "last_sigma": min(_levels(trained_sigma)), "data_weight": 0.7}


def _levels(trained_sigma: float | Sequence[float]) -> tuple[float, ...]:
    levels = tuple(float(level) for level in np.atleast_1d(trained_sigma))
    if not levels or not all(level > 0 for level in levels):
        raise InputError(f"trained_sigma is one positive number or more; got {trained_sigma}")
    return levels


def _denoise_at_levels(
    functions: tuple[Callable[[Array], Array], ...], levels: Array, x: Array, sigma: float | Array
) -> Array:
    # A little room, as the level of the last iteration is rounded.
    chosen = jnp.maximum(jnp.sum(levels <= 1.001 * sigma) - 1, 0)
    ratio = (levels[chosen] / sigma).astype(x.dtype)
    scale = jnp.minimum(ratio, 1.0)
    scaled = scale * x
    correction = lax.switch(chosen, functions, scaled) - scaled
    return x + correction / (scale * jnp.maximum(ratio, 1.0))


def _as_pytree(function: Callable[..., Array]) -> Callable[..., Array]:
    """A function that may be an argument of a jitted one: itself, or a pytree without leaves."""
    return Partial(function) if jax.tree_util.all_leaves([function]) else function
