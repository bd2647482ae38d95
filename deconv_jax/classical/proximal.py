"""Restoration with a prior that is not quadratic: total variation, sparsity, a denoiser.

All minimise |A x - y|^2 / 2 + weight R(x) by splitting the two terms apart: `tv` after Chambolle &
Pock (J. Math. Imaging and Vision 40, 120-145, 2011), `wavelet` by the monotone FISTA of Beck &
Teboulle (IEEE Trans. Image Processing 18, 2419-2434, 2009), `plug_and_play` by half-quadratic
splitting as Zhang et al. (DPIR, arXiv:2008.13751), or by ADMM (Venkatakrishnan et al., GlobalSIP
2013), with a denoiser in place of R.

What a reader would get wrong: the weight. It multiplies R in the sum above, with half of the squared
error and images in [0, 1]; the same prior with the whole squared error needs twice as much. Colour
channels are regularised one by one.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
from jax import lax
from jax.tree_util import Partial
from jaxtyping import Array, Float

from deconv_jax.classical.iterative import least_squares
from deconv_jax.classical.problem import (
    Images,
    Number,
    Observed,
    Problem,
    column,
    gradient,
    gradient_adjoint,
    is_circular,
    is_diagonal,
    known_sigma,
    laplacian,
    per_image,
    prepare,
    tiny,
    total_variation,
    transfer_function,
)
from deconv_jax.data.degradations import Degradation, Linear
from deconv_jax.errors import InputError, at_least, closest
from deconv_jax.ops import wavelets

Splitting = Literal["half_quadratic", "admm"]
Denoiser = Callable[[Array, Array], Array]
Returned = Images | tuple[Images, Float[Array, "iterations batch"]]

_GRADIENT_RATE = 10.0
"""Dual step along the gradient as a multiple of the weight, which bounds the dual variable."""

_IMAGE_RATE = 0.03
"""Dual step along A x - y."""

_LEAST_SIGMA = 0.1 / 255
_FIRST_ESTIMATE_WEIGHT = 1e-3
_FIRST_ESTIMATE_ITERATIONS = 30


def tv(
    y: Observed,
    forward_model: Degradation,
    *,
    weight: Number | None = None,
    iterations: int = 100,
    size: Sequence[int] | None = None,
    return_objective: bool = False,
) -> Returned:
    """The x of least |A x - y|^2 / 2 + weight TV(x), TV the isotropic total variation.

    TV sums |gradient x| over pixels and channels, with differences to the next pixel down and to the
    right that are 0 at the last one (Rudin, Osher & Fatemi, Physica D 60, 259-268, 1992).

    Args:
      y: observed images.
      forward_model: any.
      weight: positive. Unless given it is 0.75 sigma^1.5 for noise of standard deviation sigma in
        [0, 1] units, and 1.2 sigma^1.25 for noise or masks alone, chosen on photographs.
      iterations: of the primal-dual algorithm.
      size: (height, width) of the images to restore, where y's does not tell; see `prepare`.
      return_objective: whether to return the objective after each iteration as well. It need not
        fall at every one.

    Returns:
      Restored images; with the objective if asked for.

    Raises:
      InputError: without a weight for a model without Gaussian noise, or for arguments that do not
        fit one another.
    """
    y, model, size = prepare(y, forward_model, size)
    at_least("iterations", iterations, 1)
    if weight is None:
        sigma = known_sigma(forward_model, "tv takes a weight")
        weight = _weight_for(sigma, model, blurred=0.75, sharp=1.2)
    x, objective = _tv(y, model, column(weight, y), size, iterations, return_objective)
    return (x, objective) if return_objective else x


@functools.partial(jax.jit, static_argnums=(3, 4, 5))
def _tv(
    y: Array,
    model: Linear,
    weight: Array,
    size: tuple[int, int],
    iterations: int,
    return_objective: bool,
) -> tuple[Array, Any]:
    problem = Problem.of(y, model, size)
    closed = _closed_data_step(problem)
    x = _first_estimate(problem)
    # The product of primal and dual rates is at most 1 over the squared norm of gradient (8) and A.
    gradient_rate = _GRADIENT_RATE * weight
    inverse_rate = 8.0 * gradient_rate
    if closed is None:
        inverse_rate = inverse_rate + _IMAGE_RATE * problem.norm_squared()
    rate = 1.0 / inverse_rate

    def step(state: Any, _: Any) -> Any:
        x, ahead, (down, right), image = state
        ahead_down, ahead_right = gradient(ahead)
        down, right = down + gradient_rate * ahead_down, right + gradient_rate * ahead_right
        length = jnp.sqrt(down**2 + right**2)
        shrink = jnp.minimum(1.0, weight / jnp.maximum(length, tiny(x)))
        down, right = shrink * down, shrink * right
        before = x
        x = x - rate * gradient_adjoint(down, right)
        if closed is None:
            misfit = problem.forward(ahead) - y
            image = (image + _IMAGE_RATE * misfit) / (1.0 + _IMAGE_RATE)
            x = x - rate * problem.adjoint(image)
        else:
            x = closed(x, inverse_rate)
        return (x, 2.0 * x - before, (down, right), image), objective(x)

    def objective(x: Array) -> Array | None:
        if not return_objective:
            return None
        return problem.fidelity(x) + per_image(weight) * total_variation(x)

    zero = jnp.zeros_like(x)
    state: Any = x, x, (zero, zero), jnp.zeros_like(y)
    (x, *_), history = lax.scan(step, state, length=iterations)
    return x, history


def wavelet(
    y: Observed,
    forward_model: Degradation,
    *,
    weight: Number | None = None,
    basis: str = "db4",
    levels: int = 4,
    iterations: int = 100,
    size: Sequence[int] | None = None,
    return_objective: bool = False,
) -> Returned:
    """The x = W^T c of least |A W^T c - y|^2 / 2 + weight |c|_1, W an orthonormal wavelet transform.

    The coarse coefficients, or the mean of a block, are not in the sum of |c|. Images that cannot be
    halved so often are extended at the bottom and right by pixels that A does not see.

    Args:
      y: observed images.
      forward_model: any.
      weight: positive. Unless given it is 1.6 sigma^1.5 for noise of standard deviation sigma in
        [0, 1] units, and 2.2 sigma^1.25 for noise or masks alone, chosen on photographs.
      basis: of `ops.wavelets.scaling_filter`, or "dct": the cosine transform of blocks of
        `2**levels` pixels, 8 of them as in JPEG for 3 levels.
      levels: of the transform.
      iterations: of FISTA.
      size: (height, width) of the images to restore, where y's does not tell; see `prepare`.
      return_objective: whether to return the objective after each iteration as well. It never grows.

    Returns:
      Restored images; with the objective if asked for.

    Raises:
      InputError: for an unknown basis, without a weight for a model without Gaussian noise, or for
        arguments that do not fit one another.
    """
    y, model, size = prepare(y, forward_model, size)
    at_least("iterations", iterations, 1)
    at_least("levels", levels, 1)
    if basis != "dct":
        wavelets.scaling_filter(basis)
    if weight is None:
        sigma = known_sigma(forward_model, "wavelet takes a weight")
        weight = _weight_for(sigma, model, blurred=1.6, sharp=2.2)
    options = size, basis, levels, iterations, return_objective
    x, objective = _wavelet(y, model, column(weight, y), *options)
    return (x, objective) if return_objective else x


@functools.partial(jax.jit, static_argnums=(3, 4, 5, 6, 7))
def _wavelet(
    y: Array,
    model: Linear,
    weight: Array,
    size: tuple[int, int],
    basis: str,
    levels: int,
    iterations: int,
    return_objective: bool,
) -> tuple[Array, Any]:
    problem = Problem.of(y, model, size)
    analyse, synthesise, free = _frame(size, basis, levels)
    rate = 1.0 / jnp.maximum(problem.norm_squared(), tiny(y))
    threshold = jnp.where(free.reshape(1, *free.shape, 1), 0.0, weight)

    def cost(c: Array, image: Array) -> Array:
        penalty = jnp.sum(threshold * jnp.abs(c), (1, 2, 3), keepdims=True)
        return 0.5 * jnp.sum((image - y) ** 2, (1, 2, 3), keepdims=True) + penalty

    def shrink(c: Array, by: Array) -> Array:
        return jnp.sign(c) * jnp.maximum(jnp.abs(c) - by, 0.0)

    def step(state: Any, _: Any) -> Any:
        # Of everything in coefficients its image under A is carried along: A is linear.
        best, least, ahead, momentum = state
        slope = analyse(problem.adjoint(ahead[1] - y))
        c = shrink(ahead[0] - rate * slope, rate * threshold)
        trial = c, problem.forward(synthesise(c))
        value = cost(*trial)
        better = value <= least
        before, best = best, jax.tree.map(lambda t, b: jnp.where(better, t, b), trial, best)
        least = jnp.where(better, value, least)
        following = 0.5 * (1.0 + jnp.sqrt(1.0 + 4.0 * momentum**2))

        def extrapolate(new: Array, tried: Array, old: Array) -> Array:
            return (
                new
                + momentum / following * (tried - new)
                + (momentum - 1.0) / following * (new - old)
            )

        ahead = jax.tree.map(extrapolate, best, trial, before)
        return (best, least, ahead, following), per_image(least) if return_objective else None

    c = analyse(_first_estimate(problem))
    start = c, problem.forward(synthesise(c))
    state = start, cost(*start), start, jnp.ones((), y.dtype)
    (best, *_), history = lax.scan(step, state, length=iterations)
    return synthesise(best[0]), history


def _frame(size: tuple[int, int], basis: str, levels: int) -> tuple[Any, Any, Any]:
    """(images -> coefficients, coefficients -> images, which coefficients are free of a penalty).

    The second is the adjoint of the first, and its inverse from the left.
    """
    step = 2**levels
    height, width = (-(-n // step) * step for n in size)
    if basis == "dct":
        forward = functools.partial(wavelets.block_dct, block=step)
        backward = functools.partial(wavelets.inverse_block_dct, block=step)
        free = jnp.zeros((height, width), bool).at[::step, ::step].set(True)
    else:
        forward = functools.partial(wavelets.wavelet_transform, wavelet=basis, levels=levels)
        backward = functools.partial(
            wavelets.inverse_wavelet_transform, wavelet=basis, levels=levels
        )
        free = jnp.asarray(wavelets.coarse_coefficients((height, width), levels))

    def analyse(x: Array) -> Array:
        extra = ((0, 0), (0, height - size[0]), (0, width - size[1]), (0, 0))
        return forward(jnp.pad(x, extra))

    def synthesise(c: Array) -> Array:
        return backward(c)[:, : size[0], : size[1]]

    return analyse, synthesise, free


def plug_and_play(
    y: Observed,
    forward_model: Degradation,
    *,
    denoiser: Denoiser,
    sigma: Number | None = None,
    iterations: int = 8,
    first_sigma: float = 49 / 255,
    data_weight: float = 0.23,
    splitting: Splitting = "half_quadratic",
    data_iterations: int = 30,
    size: Sequence[int] | None = None,
    return_objective: bool = False,
) -> Returned:
    """Alternates between fitting y and denoising, at noise levels that fall to that of y.

    With sigma_k falling from `first_sigma` to sigma in equal ratios, and z = y before the first
    iteration, each is (Zhang et al., arXiv:2008.13751)

        x = argmin |A x - y|^2 + mu_k |x - z|^2,    mu_k = data_weight sigma^2 / sigma_k^2
        z = denoiser(x, sigma_k)

    and z is the result. "admm" gives the denoiser x + u and the fit z - u, where u sums what the two
    disagree by, scaled as mu_k changes. The fit is in closed form for circular blurs and for masks,
    else by conjugate gradients from z; then the first z is a smooth image that fits y.

    Args:
      y: observed images.
      forward_model: any.
      denoiser: `denoiser(x, sigma) -> x`, of images with white noise of standard deviation sigma in
        [0, 1] units, a traced number. It is a static argument, to be the same object from call to
        call, unless it is a `jax.tree_util.Partial` or another pytree: then its leaves, a network's
        weights, are arguments like y. `fixed_level_denoiser` makes one of networks that were
        trained for single noise levels.
      sigma: standard deviation of the noise in y, [0, 1] units, for the forward model's. At least
        0.1 / 255 is taken.
      iterations: 8 as in the paper; more are slower and little better.
      first_sigma: noise level of the first denoising.
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
        raise InputError(f"no splitting {splitting!r}; {closest(splitting, get_args(Splitting))}")
    y, model, size = prepare(y, forward_model, size)
    at_least("iterations", iterations, 1)
    if sigma is None:
        sigma = known_sigma(forward_model, "plug_and_play takes sigma")
    last = jnp.maximum(jnp.asarray(sigma, y.dtype), _LEAST_SIGMA)
    schedule = jnp.asarray([first_sigma, data_weight], y.dtype)
    options = size, iterations, splitting, data_iterations, return_objective
    x, objective = _plug_and_play(y, model, _as_pytree(denoiser), last, schedule, *options)
    return (x, objective) if return_objective else x


@functools.partial(jax.jit, static_argnums=(5, 6, 7, 8, 9))
def _plug_and_play(
    y: Array,
    model: Linear,
    denoiser: Denoiser,
    last: Array,
    schedule: Array,
    size: tuple[int, int],
    iterations: int,
    splitting: Splitting,
    data_iterations: int,
    return_objective: bool,
) -> tuple[Array, Any]:
    first, data_weight = schedule
    problem = Problem.of(y, model, size)
    fit = _closed_data_step(problem) or _iterative_data_step(problem, data_iterations)

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
        disagreement = disagreement * column((sigma / before) ** 2, y)
        mu = column(data_weight * (last / sigma) ** 2, y)
        x = fit(z - disagreement, mu)
        z = denoise(x + disagreement, sigma)
        if splitting == "admm":
            disagreement = disagreement + x - z
        return (z, disagreement, sigma), problem.fidelity(z) if return_objective else None

    z = _first_estimate(problem)
    state: Any = z, jnp.zeros_like(z), sigmas[0]
    (z, *_), history = lax.scan(step, state, sigmas)
    return z, history


def fixed_level_denoiser(
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
    given = (trained_sigma,) if isinstance(trained_sigma, int | float) else tuple(trained_sigma)
    if len(given) != len(functions) or not given or not all(level > 0 for level in given):
        raise InputError(
            f"trained_sigma is a positive number for each denoiser; got {trained_sigma} for "
            f"{len(functions)} denoisers"
        )
    order = sorted(range(len(given)), key=lambda i: given[i])
    levels = jnp.asarray([given[i] for i in order], jnp.float32)
    return Partial(_denoise_at_levels, tuple(_as_pytree(functions[i]) for i in order), levels)


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


def _weight_for(sigma: Any, model: Linear, *, blurred: float, sharp: float) -> Array:
    """The weight that suits a noise level: a blur damps the noise that it lets a prior see."""
    level = jnp.asarray(sigma)
    return sharp * level**1.25 if is_diagonal(model) else blurred * level**1.5


def _closed_data_step(problem: Problem) -> Callable[[Array, Array], Array] | None:
    """(v, mu) -> argmin |A x - y|^2 + mu |x - v|^2 where it is a quotient, None where it is not."""
    y, model = problem.y, problem.model
    if is_diagonal(model):
        back = problem.adjoint(y)
        square = problem.adjoint(problem.forward(jnp.ones(problem.shape, y.dtype)))
        return lambda v, mu: (back + mu * v) / (square + mu)
    if not is_circular(model):
        return None
    response = transfer_function(model, problem.shape, y.dtype)
    power = jnp.square(jnp.abs(response))
    back_spectrum = jnp.conj(response) * jnp.fft.rfft2(y, axes=(1, 2))

    def fit(v: Array, mu: Array) -> Array:
        spectrum = back_spectrum + mu * jnp.fft.rfft2(v, axes=(1, 2))
        return jnp.fft.irfft2(spectrum / (power + mu), v.shape[1:3], axes=(1, 2))

    return fit


def _iterative_data_step(problem: Problem, iterations: int) -> Callable[[Array, Array], Array]:
    """As `_closed_data_step`, by conjugate gradients from v."""

    def fit(v: Array, mu: Array) -> Array:
        root = jnp.sqrt(mu)
        return least_squares(
            lambda x: (problem.forward(x), root * x),
            lambda parts: problem.adjoint(parts[0]) + root * parts[1],
            (problem.y, root * v),
            v,
            iterations=iterations,
            tolerance=1e-5,
        )

    return fit


def _first_estimate(problem: Problem) -> Array:
    """y where A is a circular blur, else a smooth image that A maps near to y."""
    if is_circular(problem.model):
        return problem.y
    root = math.sqrt(_FIRST_ESTIMATE_WEIGHT)
    start = jnp.zeros(problem.shape, problem.y.dtype)
    return least_squares(
        lambda x: (problem.forward(x), root * laplacian(x)),
        lambda parts: problem.adjoint(parts[0]) + root * laplacian(parts[1]),
        (problem.y, start),
        start,
        iterations=_FIRST_ESTIMATE_ITERATIONS,
        tolerance=1e-4,
    )
