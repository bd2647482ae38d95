"""Restoration step by step through A and its adjoint: Richardson-Lucy, Landweber, CGLS.

Richardson (J. Opt. Soc. Am. 62, 55-59, 1972) and Lucy (Astron. J. 79, 745-754, 1974) maximise the
likelihood of photon counts; Landweber (Amer. J. Math. 73, 615-624, 1951) and the conjugate
gradients of the normal equations (Hestenes & Stiefel 1952; CGLS in Björck's book of 1996) minimise
|A x - y|^2.

What a reader would get wrong: none of these should converge. The first steps restore what the noise
left intact, later ones fit the noise, so the number of steps is the regularisation. Landweber and
CGLS stop each image where the residual is as large as the noise (Morozov's discrepancy principle);
Richardson-Lucy stops at `iterations`, or is held back by its total-variation term.
"""

import functools
import numbers
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from deconv_jax.classical.problem import (
    Observed,
    PerImage,
    PerImageScalar,
    Problem,
    SolverResult,
    as_per_image,
    dot,
    gradient,
    gradient_adjoint,
    prepare,
    squeeze_per_image,
    tiny,
    total_variation,
)
from deconv_jax.compilation import jit
from deconv_jax.data.degradations import Degradation, Linear, noise_sigma
from deconv_jax.errors import InputError, at_least

_TV_SMOOTHING = 1e-3

_MOST_TV = 8**-0.5
"""The divergence of a field of length at most 1 is at most 2 sqrt(2)."""


def richardson_lucy(
    y: Observed,
    forward_model: Degradation,
    *,
    iterations: int = 30,
    tv_weight: PerImageScalar = 0.0,
    size: Sequence[int] | None = None,
    return_objective: bool = False,
) -> SolverResult:
    """Multiplies the estimate by A^T (y / A x) / (A^T 1), from a grey image of 0.5.

    It maximises the likelihood of y as photon counts of mean A x among images that are nowhere
    negative. With `tv_weight` the divisor is A^T 1 - tv_weight div(grad x / |grad x|), the
    total-variation term of Dey et al. (Microscopy Research and Technique 69, 260-266, 2006).

    For boundary="zeros" this is `skimage.restoration.richardson_lucy`, but for A^T 1: the pixels
    near a border send a part of their light out of the picture, and are divided by what stays.

    Args:
      y: observed images; what is negative counts as 0.
      forward_model: any whose A has no negative entries: blurs, `Decimate`, masks. Pixels that A
        does not see stay as they are.
      iterations: steps; more of them restore more detail and more noise.
      tv_weight: of the total variation, at least 0 and below 1 / sqrt(8), where the divisor might
        become negative; 0.002 is what the paper uses.
      size: (height, width) of the images to restore, where y's does not tell; see `prepare`.
      return_objective: whether to return the objective after each iteration as well: the sum over
        pixels of A x - y + y log(y / A x), plus tv_weight times the total variation. Without that
        it never grows.

    Returns:
      Restored images, at least 0; with the objective if asked for.

    Raises:
      InputError: for arguments outside of these bounds, or that do not fit one another.
    """
    y, model, size = prepare(y, forward_model, size)
    at_least("iterations", iterations, 1)
    if isinstance(tv_weight, numbers.Real) and not 0 <= tv_weight < _MOST_TV:
        raise InputError(f"tv_weight must be at least 0 and below {_MOST_TV:.4f}; got {tv_weight}")
    x, objective = _richardson_lucy(
        y, model, as_per_image(tv_weight, y), size, iterations, return_objective
    )
    return (x, objective) if return_objective else x


@functools.partial(jit, static_argnums=(3, 4, 5))
def _richardson_lucy(
    y: Array,
    model: Linear,
    tv_weight: PerImage,
    size: tuple[int, int],
    iterations: int,
    return_objective: bool,
) -> tuple[Array, Any]:
    y = jnp.maximum(y, 0.0)
    problem = Problem.of(y, model, size)
    epsilon = float(jnp.finfo(y.dtype).eps)
    sensitivity = problem.adjoint(jnp.ones_like(y))

    def step(x: Array, _: None) -> tuple[Array, Any]:
        correction = problem.adjoint(y / jnp.maximum(problem.forward(x), epsilon))
        down, right = gradient(x)
        length = jnp.sqrt(down**2 + right**2 + _TV_SMOOTHING**2)
        divisor = sensitivity + tv_weight * gradient_adjoint(down / length, right / length)
        factor = jnp.maximum(correction, 0.0) / jnp.maximum(divisor, epsilon)
        x = x * jnp.where(sensitivity > epsilon, factor, 1.0)
        return x, objective(x) if return_objective else None

    def objective(x: Array) -> Array:
        mean = jnp.maximum(problem.forward(x), epsilon)
        divergence = mean - y + jax.scipy.special.xlogy(y, y / mean)
        variation = total_variation(x, _TV_SMOOTHING)
        return jnp.sum(divergence, (1, 2, 3)) + squeeze_per_image(tv_weight) * variation

    return lax.scan(step, jnp.full(problem.shape, 0.5, y.dtype), length=iterations)


def landweber(
    y: Observed,
    forward_model: Degradation,
    *,
    iterations: int = 500,
    relaxation: float = 1.8,
    tau: float = 1.0,
    size: Sequence[int] | None = None,
    return_objective: bool = False,
    return_iterations: bool = False,
) -> Any:
    """Gradient descent on |A x - y|^2 / 2 from a black image, stopped where the noise begins.

    x <- x + relaxation / |A|^2 A^T (y - A x), for each image until

        |A x - y| <= tau sigma sqrt(number of pixels of y).

    Args:
      y: observed images.
      forward_model: any; sigma is its Gaussian noise, without which no image stops early.
      iterations: steps at most.
      relaxation: above 0 and below 2, where descent ends.
      tau: factor of the residual at which to stop, about 1; larger stops earlier, and smoother.
      size: (height, width) of the images to restore, where y's does not tell; see `prepare`.
      return_objective: whether to return |A x - y|^2 / 2 after each iteration; that of an image
        that has stopped stays as it was.
      return_iterations: whether to return the number of iterations that each image took.

    Returns:
      Restored images, then the objective (iterations, batch) and the iterations (batch,) if asked
      for.

    Raises:
      InputError: for arguments outside of these bounds, or that do not fit one another.
    """
    if isinstance(relaxation, numbers.Real) and not 0 < relaxation < 2:
        raise InputError(f"relaxation must be above 0 and below 2; got {relaxation}")
    y, model, size = prepare(y, forward_model, size)
    at_least("iterations", iterations, 1)
    bound = _discrepancy(y, forward_model, tau)
    return _returned(
        _landweber(y, model, jnp.asarray(relaxation, y.dtype), bound, size, iterations),
        return_objective,
        return_iterations,
    )


@functools.partial(jit, static_argnums=(4, 5))
def _landweber(
    y: Array,
    model: Linear,
    relaxation: Array,
    bound: PerImage,
    size: tuple[int, int],
    iterations: int,
) -> tuple[Array, Array, Array]:
    problem = Problem.of(y, model, size)
    rate = relaxation / jnp.maximum(problem.norm_squared(), tiny(y))

    def step(state: tuple[Array, Array]) -> tuple[Array, Array]:
        x, residual = state
        x = x + rate * problem.adjoint(residual)
        return x, y - problem.forward(x)

    state = jnp.zeros(problem.shape, y.dtype), y
    (x, _), *report = iterate_until_done(
        step, state, _residual_below(bound), iterations, _half_square
    )
    return x, *report


def cgls(
    y: Observed,
    forward_model: Degradation,
    *,
    iterations: int = 50,
    tau: float = 1.0,
    size: Sequence[int] | None = None,
    return_objective: bool = False,
    return_iterations: bool = False,
) -> Any:
    """Conjugate gradients on the normal equations of |A x - y|^2 / 2, stopped where noise begins.

    Each image stops as in `landweber`, after far fewer steps: the estimate after k of them has the
    least residual of all in the span of (A^T A)^j A^T y, j < k.

    Args:
      y: observed images.
      forward_model: as for `landweber`.
      iterations: steps at most.
      tau: as for `landweber`.
      size: as for `landweber`.
      return_objective: as for `landweber`.
      return_iterations: as for `landweber`.

    Returns:
      As `landweber`.

    Raises:
      InputError: as `landweber`.
    """
    y, model, size = prepare(y, forward_model, size)
    at_least("iterations", iterations, 1)
    bound = _discrepancy(y, forward_model, tau)
    return _returned(_cgls(y, model, bound, size, iterations), return_objective, return_iterations)


@functools.partial(jit, static_argnums=(3, 4))
def _cgls(
    y: Array, model: Linear, bound: PerImage, size: tuple[int, int], iterations: int
) -> tuple[Array, Array, Array]:
    problem = Problem.of(y, model, size)
    start = jnp.zeros(problem.shape, y.dtype)
    step, state = conjugate_gradients(problem.forward, problem.adjoint, y, start)
    (x, *_), *report = iterate_until_done(
        step, state, _residual_below(bound), iterations, _half_square
    )
    return x, *report


def conjugate_gradients(
    forward: Callable[[Array], Any], adjoint: Callable[[Any], Array], target: Any, start: Array
) -> tuple[Callable[[Any], Any], Any]:
    """CGLS for the x of least |forward(x) - target|^2, each image of a batch by itself.

    Args:
      forward: linear map of images to a pytree of images, so that penalties can be stacked under A.
      adjoint: its adjoint.
      target: as `forward` puts out.
      start: images to start from.

    Returns:
      A function from state to next state and the first state (x, residual, direction, squared
      length of the gradient).
    """

    def step(state: Any) -> Any:
        x, residual, direction, slope = state
        image = forward(direction)
        rate = slope / jnp.maximum(_square(image), tiny(x))
        x = x + rate * direction
        residual = jax.tree.map(lambda r, i: r - rate * i, residual, image)
        descent = adjoint(residual)
        next_slope = dot(descent, descent)
        direction = descent + next_slope / jnp.maximum(slope, tiny(x)) * direction
        return x, residual, direction, next_slope

    residual = jax.tree.map(lambda t, i: t - i, target, forward(start))
    descent = adjoint(residual)
    return step, (start, residual, descent, dot(descent, descent))


def least_squares(
    forward: Callable[[Array], Any],
    adjoint: Callable[[Any], Array],
    target: Any,
    start: Array,
    *,
    iterations: int,
    tolerance: float | Array,
) -> Array:
    """The x of least |forward(x) - target|^2, by `conjugate_gradients`.

    Args:
      forward, adjoint, target, start: as there.
      iterations: steps at most.
      tolerance: an image is done where the length of its gradient is this fraction of that at 0.
    """
    step, state = conjugate_gradients(forward, adjoint, target, start)
    at_zero = adjoint(target)
    enough = tolerance**2 * dot(at_zero, at_zero)

    def done(state: Any) -> Array:
        return squeeze_per_image(state[3] <= enough)

    (x, *_), _, _ = iterate_until_done(
        step, state, done, iterations, lambda state: squeeze_per_image(state[3])
    )
    return x


def iterate_until_done(
    step: Callable[[Any], Any],
    state: Any,
    done: Callable[[Any], Array],
    iterations: int,
    objective: Callable[[Any], Array],
) -> tuple[Any, Float[Array, "iterations batch"], Int[Array, " batch"]]:
    """Repeats a step, for each image until it is done, for all until none is left.

    Args:
      step: from state to next state, a pytree whose leaves begin with the batch.
      state: the first one.
      done: which images of a state need no more steps, (batch,).
      iterations: steps at most.
      objective: a number an image of a state, (batch,).

    Returns:
      (last state, objective after each step, number of steps that each image took).
    """

    def go_on(carry: Any) -> Array:
        taken, _, finished, *_ = carry
        return (taken < iterations) & ~jnp.all(finished)

    def body(carry: Any) -> Any:
        taken, state, finished, counts, history = carry

        def keep_finished(old: Array, new: Array) -> Array:
            return jnp.where(finished.reshape(-1, *[1] * (new.ndim - 1)), old, new)

        state = jax.tree.map(keep_finished, state, step(state))
        history = history.at[taken].set(objective(state))
        counts = counts + ~finished
        return taken + 1, state, finished | done(state), counts, history

    finished, value = done(state), objective(state)
    carry = (
        jnp.asarray(0),
        state,
        finished,
        jnp.zeros(finished.shape, int),
        jnp.zeros((iterations, *value.shape), value.dtype),
    )
    taken, state, _, counts, history = lax.while_loop(go_on, body, carry)
    later = jnp.arange(iterations).reshape(-1, 1) >= taken
    return state, jnp.where(later, objective(state).reshape(1, -1), history), counts


def _discrepancy(y: Array, forward_model: Degradation, tau: float) -> PerImage:
    """The squared residual at which to stop; below 0, which none is, without a noise level."""
    sigma = noise_sigma(forward_model)
    if sigma is None:
        return as_per_image(-1.0, y)
    return (tau * as_per_image(sigma, y)) ** 2 * (y.size // y.shape[0])


def _residual_below(bound: PerImage) -> Callable[[Any], Array]:
    return lambda state: squeeze_per_image(_square(state[1]) <= bound)


def _half_square(state: Any) -> Array:
    return 0.5 * squeeze_per_image(_square(state[1]))


def _square(images: Any) -> PerImage:
    """The squared length of each image of a pytree."""
    return sum(dot(leaf, leaf) for leaf in jax.tree.leaves(images))  # type: ignore[return-value]


def _returned(found: tuple[Array, Array, Array], objective: bool, iterations: bool) -> Any:
    x, history, counts = found
    asked = (x, *[history] * objective, *[counts] * iterations)
    return asked if len(asked) > 1 else x
