"""Restoration with non-quadratic priors: total variation and wavelet sparsity.

Both minimize |A x - y|^2 / 2 + weight R(x) by proximal splitting. `tv` uses the primal-dual algorithm of
Chambolle & Pock (J. Math. Imaging and Vision 40, 120-145, 2011), `wavelet` the monotone FISTA of Beck &
Teboulle (IEEE Trans. Image Processing 18, 2419-2434, 2009).

Note: The weight refers to half the squared error and images in [0, 1]; with the whole squared error the same
prior needs twice the weight. Color channels are regularized separately.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from deconv_jax.classical.data_fit import closed_form_data_step, initial_estimate
from deconv_jax.classical.problem import (
    Observed,
    Problem,
    ScalarOrPerImage,
    SolverResult,
    above_zero,
    as_per_image,
    gradient,
    gradient_adjoint,
    has_unknown_border,
    is_diagonal,
    known_sigma,
    prepare,
    squeeze_per_image,
    tiny,
    total_variation,
)
from deconv_jax.compilation import jit
from deconv_jax.data.degradations import Degradation, LinearDegradation
from deconv_jax.errors import at_least
from deconv_jax.ops import wavelets

_GRADIENT_RATE = 10.0
"""Dual step size for the gradient, as a multiple of the weight, which bounds the dual variable."""

_UNKNOWN_BORDER_GRADIENT_RATE = 3.0
"""The same for blurs with boundary="valid", where longer primal steps help to restore the border."""

_ITERATIONS, _UNKNOWN_BORDER_ITERATIONS = 100, 200

_DATA_RATE = 0.03
"""Dual step size for A x - y."""


def tv(
    y: Observed,
    forward_model: Degradation,
    *,
    weight: ScalarOrPerImage | None = None,
    iterations: int | None = None,
    size: Sequence[int] | None = None,
    return_objective: bool = False,
) -> SolverResult:
    """Minimize |A x - y|^2 / 2 + weight TV(x), with the isotropic total variation TV.

    TV is the sum of |gradient x| over pixels and channels, with forward differences that are 0 at the last row
    and column (Rudin, Osher & Fatemi, Physica D 60, 259-268, 1992).

    Args:
      y: Observed images.
      forward_model: Any forward model with a linear part.
      weight: Weight, above 0, or one per image; an image with an array entry of 0 or less has an undefined
        result. The default, chosen on photographs, is 0.75 sigma^1.5 for noise of standard
        deviation sigma in [0, 1] units, and 1.2 sigma^1.25 if the model is noise or a mask.
      iterations: Number of primal-dual iterations, at least 1. The default is 100, and 200 for blurs with
        boundary="valid", because the pixels beyond the border of y converge slowly.
      size: Height and width of x. The default is the size of y if the model keeps sizes, else the largest size
        that the model maps to that of y.
      return_objective: Whether to return the objective after each iteration. It may increase in
        some iterations.

    Returns:
      Restored images; with `return_objective` also the objective, (iterations, batch).

    Raises:
      UnknownNoise: The weight is missing and the model has no Gaussian noise. It is an InputError.
      InputError: `weight` or `iterations` is out of range; the noise level is 0 and the weight missing; y is not a
        float array of four axes; the model is not linear or has a range that was not sampled; or it does not map `size`
        to the size of y.
    """
    y, model, size = prepare(y, forward_model, size)
    if iterations is None:
        iterations = _UNKNOWN_BORDER_ITERATIONS if has_unknown_border(model) else _ITERATIONS
    at_least("iterations", iterations, 1)
    if weight is None:
        sigma = known_sigma(forward_model, "tv requires a weight")
        above_zero("the standard deviation of the noise without a weight", sigma)
        weight = _weight_for(sigma, model, blurred=0.75, sharp=1.2)
    above_zero("weight", weight)
    x, objective = _tv(y, model, as_per_image(weight, y), size, iterations, return_objective)
    return (x, objective) if return_objective else x


@functools.partial(jit, static_argnums=(3, 4, 5))
def _tv(
    y: Array,
    model: LinearDegradation,
    weight: Array,
    size: tuple[int, int],
    iterations: int,
    return_objective: bool,
) -> tuple[Array, Any]:
    problem = Problem.of(y, model, size)
    closed = closed_form_data_step(problem)
    x = initial_estimate(problem)
    # Primal step size: 1 / sum(dual step size * |K|^2) over the operators K; |gradient|^2 <= 8.
    unknown_border = has_unknown_border(model)
    gradient_rate = (_UNKNOWN_BORDER_GRADIENT_RATE if unknown_border else _GRADIENT_RATE) * weight
    inverse_rate = 8.0 * gradient_rate
    if closed is None:
        inverse_rate = inverse_rate + _DATA_RATE * problem.norm_squared()
    rate = 1.0 / inverse_rate

    def step(state: Any, _: Any) -> Any:
        x, extrapolated, (down, right), residual = state
        ahead_down, ahead_right = gradient(extrapolated)
        down, right = down + gradient_rate * ahead_down, right + gradient_rate * ahead_right
        length = jnp.sqrt(down**2 + right**2)
        shrink = jnp.minimum(1.0, weight / jnp.maximum(length, tiny(x)))
        down, right = shrink * down, shrink * right
        previous = x
        x = x - rate * gradient_adjoint(down, right)
        if closed is None:
            misfit = problem.forward(extrapolated) - y
            residual = (residual + _DATA_RATE * misfit) / (1.0 + _DATA_RATE)
            x = x - rate * problem.adjoint(residual)
        else:
            x = closed(x, inverse_rate)
        return (x, 2.0 * x - previous, (down, right), residual), objective(x)

    def objective(x: Array) -> Array | None:
        if not return_objective:
            return None
        return problem.fidelity(x) + squeeze_per_image(weight) * total_variation(x)

    zero = jnp.zeros_like(x)
    state: Any = x, x, (zero, zero), jnp.zeros_like(y)
    (x, *_), history = lax.scan(step, state, length=iterations)
    return x, history


def wavelet(
    y: Observed,
    forward_model: Degradation,
    *,
    weight: ScalarOrPerImage | None = None,
    basis: str = "db4",
    levels: int = 4,
    iterations: int = 100,
    size: Sequence[int] | None = None,
    return_objective: bool = False,
) -> SolverResult:
    """Minimize |A W^T c - y|^2 / 2 + weight |c|_1 over c, with an orthonormal wavelet transform W.

    The result is x = W^T c. The coarse coefficients, or the mean of each DCT block, are not penalized. Images
    whose size is not divisible by `2**levels` are padded at the bottom and right by pixels that A ignores.

    Args:
      y: Observed images.
      forward_model: Any forward model with a linear part.
      weight: Weight, above 0. The default, chosen on photographs, is 1.6 sigma^1.5 for noise of standard
        deviation sigma in [0, 1] units, and 2.2 sigma^1.25 if the model is noise or a mask.
      basis: A wavelet of `ops.wavelets.scaling_filter`, or "dct" for the cosine transform of blocks of
        `2**levels` pixels per side; 3 levels give the 8 x 8 blocks of JPEG. "pixel" is the pixels themselves, all
        penalized: the Lasso.
      levels: Number of levels of the transform, at least 1; of no effect with "pixel".
      iterations: Number of FISTA iterations, at least 1.
      size: Height and width of x. The default is the size of y if the model keeps sizes, else the largest size
        that the model maps to that of y.
      return_objective: Whether to return the objective after each iteration. It never grows.

    Returns:
      Restored images; with `return_objective` also the objective, (iterations, batch).

    Raises:
      UnknownNoise: The weight is missing and the model has no Gaussian noise. It is an InputError.
      InputError: The basis is unknown; `weight`, `levels` or `iterations` is out of range; y is not a float array
        of four axes; the model is not linear or has a range that was not sampled; or it does not map `size` to
        the size of y.
    """
    y, model, size = prepare(y, forward_model, size)
    at_least("iterations", iterations, 1)
    at_least("levels", levels, 1)
    if basis not in ("dct", "pixel"):
        wavelets.scaling_filter(basis)
    if weight is None:
        sigma = known_sigma(forward_model, "wavelet requires a weight")
        weight = _weight_for(sigma, model, blurred=1.6, sharp=2.2)
    above_zero("weight", weight)
    options = size, basis, levels, iterations, return_objective
    x, objective = _wavelet(y, model, as_per_image(weight, y), *options)
    return (x, objective) if return_objective else x


@functools.partial(jit, static_argnums=(3, 4, 5, 6, 7))
def _wavelet(
    y: Array,
    model: LinearDegradation,
    weight: Array,
    size: tuple[int, int],
    basis: str,
    levels: int,
    iterations: int,
    return_objective: bool,
) -> tuple[Array, Any]:
    problem = Problem.of(y, model, size)
    analyze, synthesize, free = _frame(size, basis, levels)
    rate = 1.0 / jnp.maximum(problem.norm_squared(), tiny(y))
    threshold = jnp.where(free.reshape(1, *free.shape, 1), 0.0, weight)

    def cost(c: Array, image: Array) -> Array:
        penalty = jnp.sum(threshold * jnp.abs(c), (1, 2, 3), keepdims=True)
        return 0.5 * jnp.sum((image - y) ** 2, (1, 2, 3), keepdims=True) + penalty

    def shrink(c: Array, by: Array) -> Array:
        return jnp.sign(c) * jnp.maximum(jnp.abs(c) - by, 0.0)

    def step(state: Any, _: Any) -> Any:
        # Store pairs (c, A W^T c). A W^T is linear, so the second entry can be extrapolated like c.
        best, least, ahead, momentum = state
        slope = analyze(problem.adjoint(ahead[1] - y))
        c = shrink(ahead[0] - rate * slope, rate * threshold)
        trial = c, problem.forward(synthesize(c))
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
        return (best, least, ahead, following), squeeze_per_image(
            least
        ) if return_objective else None

    c = analyze(initial_estimate(problem))
    start = c, problem.forward(synthesize(c))
    state = start, cost(*start), start, jnp.ones((), y.dtype)
    (best, *_), history = lax.scan(step, state, length=iterations)
    return synthesize(best[0]), history


def _frame(size: tuple[int, int], basis: str, levels: int) -> tuple[Any, Any, Any]:
    """Return analysis, synthesis, and a mask of the coefficients that are not penalized.

    Synthesis maps coefficients to images; it is the adjoint and a left inverse of analysis.
    """
    if basis == "pixel":
        return (lambda x: x), (lambda c: c), jnp.zeros(size, bool)
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
        free = jnp.asarray(wavelets.coarse_mask((height, width), levels))

    def analyze(x: Array) -> Array:
        extra = ((0, 0), (0, height - size[0]), (0, width - size[1]), (0, 0))
        return forward(jnp.pad(x, extra))

    def synthesize(c: Array) -> Array:
        return backward(c)[:, : size[0], : size[1]]

    return analyze, synthesize, free


def _weight_for(sigma: Any, model: LinearDegradation, *, blurred: float, sharp: float) -> Array:
    """Return the default weight for a noise level; it differs for blurs and for masks or noise only."""
    level = jnp.asarray(sigma)
    return sharp * level**1.25 if is_diagonal(model) else blurred * level**1.5
