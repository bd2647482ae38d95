"""Restoration with a prior that is not quadratic: total variation and sparsity.

Both minimise |A x - y|^2 / 2 + weight R(x) by splitting the two terms apart: `tv` after Chambolle &
Pock (J. Math. Imaging and Vision 40, 120-145, 2011), `wavelet` by the monotone FISTA of Beck &
Teboulle (IEEE Trans. Image Processing 18, 2419-2434, 2009).

What a reader would get wrong: the weight. It multiplies R in the sum above, with half of the squared
error and images in [0, 1]; the same prior with the whole squared error needs twice as much. Colour
channels are regularised one by one.
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
    PerImageScalar,
    Problem,
    SolverResult,
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
from deconv_jax.data.degradations import Degradation, Linear
from deconv_jax.errors import at_least
from deconv_jax.ops import wavelets

_GRADIENT_RATE = 10.0
"""Dual step along the gradient as a multiple of the weight, which bounds the dual variable."""

_UNKNOWN_BORDER_GRADIENT_RATE = 3.0
"""The same where a border is unknown: y says little of it, so it takes longer primal steps."""

_ITERATIONS, _UNKNOWN_BORDER_ITERATIONS = 100, 200

_IMAGE_RATE = 0.03
"""Dual step along A x - y."""


def tv(
    y: Observed,
    forward_model: Degradation,
    *,
    weight: PerImageScalar | None = None,
    iterations: int | None = None,
    size: Sequence[int] | None = None,
    return_objective: bool = False,
) -> SolverResult:
    """The x of least |A x - y|^2 / 2 + weight TV(x), TV the isotropic total variation.

    TV sums |gradient x| over pixels and channels, with differences to the next pixel down and to the
    right that are 0 at the last one (Rudin, Osher & Fatemi, Physica D 60, 259-268, 1992).

    Args:
      y: observed images.
      forward_model: any.
      weight: positive. Unless given it is 0.75 sigma^1.5 for noise of standard deviation sigma in
        [0, 1] units, and 1.2 sigma^1.25 for noise or masks alone, chosen on photographs.
      iterations: of the primal-dual algorithm. Unless given 100, and 200 for blurs of
        boundary="valid", as the pixels beyond the border of y converge slowly.
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
    if iterations is None:
        iterations = _UNKNOWN_BORDER_ITERATIONS if has_unknown_border(model) else _ITERATIONS
    at_least("iterations", iterations, 1)
    if weight is None:
        sigma = known_sigma(forward_model, "tv takes a weight")
        weight = _weight_for(sigma, model, blurred=0.75, sharp=1.2)
    x, objective = _tv(y, model, as_per_image(weight, y), size, iterations, return_objective)
    return (x, objective) if return_objective else x


@functools.partial(jit, static_argnums=(3, 4, 5))
def _tv(
    y: Array,
    model: Linear,
    weight: Array,
    size: tuple[int, int],
    iterations: int,
    return_objective: bool,
) -> tuple[Array, Any]:
    problem = Problem.of(y, model, size)
    closed = closed_form_data_step(problem)
    x = initial_estimate(problem)
    # The product of primal and dual rates is at most 1 over the squared norm of gradient (8) and A.
    unknown_border = has_unknown_border(model)
    gradient_rate = (_UNKNOWN_BORDER_GRADIENT_RATE if unknown_border else _GRADIENT_RATE) * weight
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
        return problem.fidelity(x) + squeeze_per_image(weight) * total_variation(x)

    zero = jnp.zeros_like(x)
    state: Any = x, x, (zero, zero), jnp.zeros_like(y)
    (x, *_), history = lax.scan(step, state, length=iterations)
    return x, history


def wavelet(
    y: Observed,
    forward_model: Degradation,
    *,
    weight: PerImageScalar | None = None,
    basis: str = "db4",
    levels: int = 4,
    iterations: int = 100,
    size: Sequence[int] | None = None,
    return_objective: bool = False,
) -> SolverResult:
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
    x, objective = _wavelet(y, model, as_per_image(weight, y), *options)
    return (x, objective) if return_objective else x


@functools.partial(jit, static_argnums=(3, 4, 5, 6, 7))
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
        return (best, least, ahead, following), squeeze_per_image(
            least
        ) if return_objective else None

    c = analyse(initial_estimate(problem))
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
        free = jnp.asarray(wavelets.coarse_mask((height, width), levels))

    def analyse(x: Array) -> Array:
        extra = ((0, 0), (0, height - size[0]), (0, width - size[1]), (0, 0))
        return forward(jnp.pad(x, extra))

    def synthesise(c: Array) -> Array:
        return backward(c)[:, : size[0], : size[1]]

    return analyse, synthesise, free


def _weight_for(sigma: Any, model: Linear, *, blurred: float, sharp: float) -> Array:
    """The weight that suits a noise level: a blur damps the noise that it lets a prior see."""
    level = jnp.asarray(sigma)
    return sharp * level**1.25 if is_diagonal(model) else blurred * level**1.5
