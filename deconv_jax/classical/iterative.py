"""Iterative restoration through A and its adjoint: Richardson-Lucy, Landweber, CGLS.

Richardson (J. Opt. Soc. Am. 62, 55-59, 1972) and Lucy (Astron. J. 79, 745-754, 1974) maximize the likelihood of
photon counts. Landweber (Amer. J. Math. 73, 615-624, 1951) and conjugate gradients on the normal equations
(Hestenes & Stiefel 1952; CGLS in Björck's book of 1996) minimize |A x - y|^2.

Note: Early stopping is the regularization, so these methods should not be run to convergence. Early steps
restore detail, later ones fit the noise. Landweber and CGLS stop for each image when the residual is as large as
the noise (Morozov's discrepancy principle). Richardson-Lucy stops after `iterations`, or is regularized by its
total-variation term.
"""

import functools
import numbers
import operator
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from deconv_jax.classical.problem import (
    Observed,
    PerImage,
    Problem,
    ScalarOrPerImage,
    SolverResult,
    above_zero,
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
from deconv_jax.data.degradations import Degradation, LinearDegradation, noise_sigma
from deconv_jax.errors import InputError, at_least

_TV_SMOOTHING = 1e-3

_MAX_TV_WEIGHT = 8**-0.5
"""Inverse of the largest divergence, 2 sqrt(2), of a field of length at most 1."""


def richardson_lucy(
    y: Observed,
    forward_model: Degradation,
    *,
    iterations: int = 30,
    tv_weight: ScalarOrPerImage = 0.0,
    size: Sequence[int] | None = None,
    return_objective: bool = False,
) -> SolverResult:
    """Multiply the estimate repeatedly by A^T (y / A x) / (A^T 1), starting from gray 0.5.

    This maximizes the likelihood of y as photon counts with mean A x over nonnegative images. With `tv_weight`
    the divisor is A^T 1 - tv_weight div(grad x / |grad x|), the total-variation term of Dey et al. (Microscopy
    Research and Technique 69, 260-266, 2006).

    For boundary="zeros" it equals `skimage.restoration.richardson_lucy`, except that it divides by A^T 1. This
    corrects pixels near the border, part of whose light falls outside the image.

    Args:
      y: Observed images; negative values count as 0.
      forward_model: A forward model whose A has no negative entries (not checked): blurs, `Decimate`, masks. Its
        noise is ignored. Pixels that do not influence y stay at 0.5.
      iterations: Number of steps, at least 1; more steps restore more detail and more noise.
      tv_weight: Weight of the total variation, in [0, 1 / sqrt(8)); larger values could make the
        divisor negative. The paper uses 0.002. Arrays are not checked.
      size: Height and width of x. The default is the size of y if the model keeps sizes, else the largest size
        that the model maps to that of y.
      return_objective: Whether to return the objective after each iteration: the sum over pixels of
        A x - y + y log(y / A x), plus tv_weight times the total variation. For tv_weight=0 it never grows.

    Returns:
      Restored images, at least 0; with `return_objective` also the objective, (iterations, batch).

    Raises:
      InputError: `iterations` or `tv_weight` is out of range; y is not a float array of four axes; the model is
        not linear or has a range that was not sampled; or it does not map `size` to the size of y.
    """
    y, model, size = prepare(y, forward_model, size)
    at_least("iterations", iterations, 1)
    if isinstance(tv_weight, numbers.Real) and not 0 <= tv_weight < _MAX_TV_WEIGHT:
        raise InputError(
            f"tv_weight must be at least 0 and below {_MAX_TV_WEIGHT:.4f}; got {tv_weight}"
        )
    x, objective = _richardson_lucy(
        y, model, as_per_image(tv_weight, y), size, iterations, return_objective
    )
    return (x, objective) if return_objective else x


@functools.partial(jit, static_argnums=(3, 4, 5))
def _richardson_lucy(
    y: Array,
    model: LinearDegradation,
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
    """Run gradient descent on |A x - y|^2 / 2 from a black image, stopped at the noise level.

    x <- x + relaxation / |A|^2 A^T (y - A x), for each image until

        |A x - y| <= tau sigma sqrt(number of values in y).

    Args:
      y: Observed images.
      forward_model: Any forward model with a linear part. sigma is that of its Gaussian noise; without it no
        image stops early.
      iterations: Maximum number of steps, at least 1.
      relaxation: Relaxation factor in (0, 2); from 2 on, the iteration diverges.
      tau: Factor of the noise level at which to stop, above 0 and about 1. Larger values stop earlier, with
        smoother images.
      size: Height and width of x. The default is the size of y if the model keeps sizes, else the largest size
        that the model maps to that of y.
      return_objective: Whether to return |A x - y|^2 / 2 after each iteration. It stays constant for an image
        that has stopped.
      return_iterations: Whether to return the number of iterations of each image, 0 if |y| is below the noise
        level already.

    Returns:
      Restored images; or a tuple of the images, the objective (iterations, batch) if requested, and the number
      of iterations (batch,) if requested.

    Raises:
      InputError: `iterations`, `relaxation` or `tau` is out of range; y is not a float array of four axes; the
        model is not linear, has a range that was not sampled or more than one Gaussian noise; or it does not
        map `size` to the size of y.
    """
    if isinstance(relaxation, numbers.Real) and not 0 < relaxation < 2:
        raise InputError(f"relaxation must be above 0 and below 2; got {relaxation}")
    y, model, size = prepare(y, forward_model, size)
    at_least("iterations", iterations, 1)
    above_zero("tau", tau)
    bound = _discrepancy(y, forward_model, tau)
    return _select(
        _landweber(y, model, jnp.asarray(relaxation, y.dtype), bound, size, iterations),
        return_objective,
        return_iterations,
    )


@functools.partial(jit, static_argnums=(4, 5))
def _landweber(
    y: Array,
    model: LinearDegradation,
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
    """Run conjugate gradients on the normal equations of |A x - y|^2 / 2, stopped at the noise level.

    The iteration starts from a black image. As in `landweber`, but after far fewer steps, an image stops when
    |A x - y| <= tau sigma sqrt(number of values in y), with the sigma of the model's Gaussian noise. Without
    Gaussian noise all iterations run. Among all images in the span of (A^T A)^j A^T y for j < k, the estimate
    after k steps has the smallest residual.

    Args:
      y: Observed images.
      forward_model, iterations, tau, size, return_objective, return_iterations: As for `landweber`.

    Returns:
      Restored images; or a tuple of the images, the objective |A x - y|^2 / 2 (iterations, batch) if requested,
      and the number of iterations (batch,) if requested.

    Raises:
      InputError: As for `landweber`.
    """
    y, model, size = prepare(y, forward_model, size)
    at_least("iterations", iterations, 1)
    above_zero("tau", tau)
    bound = _discrepancy(y, forward_model, tau)
    return _select(_cgls(y, model, bound, size, iterations), return_objective, return_iterations)


@functools.partial(jit, static_argnums=(3, 4))
def _cgls(
    y: Array, model: LinearDegradation, bound: PerImage, size: tuple[int, int], iterations: int
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
    """Set up CGLS, which minimizes |forward(x) - target|^2 for each image of a batch.

    Args:
      forward: Linear map from images to a pytree of images; a pytree can hold A x and penalty
        terms.
      adjoint: Adjoint of `forward`.
      target: Pytree like the output of `forward`.
      start: Initial images.

    Returns:
      The step, a function from state to next state, and the first state: x, residual target - forward(x),
      direction, and squared norm of the gradient, (batch, 1, 1, 1).
    """

    def step(state: Any) -> Any:
        x, residual, direction, squared_norm = state
        image = forward(direction)
        rate = squared_norm / jnp.maximum(_square(image), tiny(x))
        x = x + rate * direction
        residual = jax.tree.map(lambda r, i: r - rate * i, residual, image)
        descent = adjoint(residual)
        next_squared_norm = dot(descent, descent)
        ratio = next_squared_norm / jnp.maximum(squared_norm, tiny(x))
        direction = descent + ratio * direction
        return x, residual, direction, next_squared_norm

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
    """Minimize |forward(x) - target|^2 by `conjugate_gradients`.

    Args:
      forward, adjoint, target, start: As for `conjugate_gradients`.
      iterations: Maximum number of steps.
      tolerance: Norm of the gradient, relative to that at x = 0, at which an image is done.

    Returns:
      Images x. Images that are done do not change while others continue.
    """
    step, state = conjugate_gradients(forward, adjoint, target, start)
    at_zero = adjoint(target)
    bound = tolerance**2 * dot(at_zero, at_zero)

    def done(state: Any) -> Array:
        return squeeze_per_image(state[3] <= bound)

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
    """Repeat a step until all images are done; the state of a finished image does not change.

    Args:
      step: Function from state to next state, pytrees whose leaves have a leading batch axis.
      state: First state.
      done: Function from state to whether each image is done, (batch,).
      iterations: Maximum number of steps.
      objective: Function from state to one number per image, (batch,).

    Returns:
      The last state; the objective after each step, which is repeated once all images are done; and the number
      of steps of each image, 0 if it is done in the first state.
    """

    def proceed(carry: Any) -> Array:
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
    taken, state, _, counts, history = lax.while_loop(proceed, body, carry)
    later = jnp.arange(iterations).reshape(-1, 1) >= taken
    return state, jnp.where(later, objective(state).reshape(1, -1), history), counts


def _discrepancy(y: Array, forward_model: Degradation, tau: float) -> PerImage:
    """Return the squared residual at which to stop; -1, which is never reached, without a noise level."""
    sigma = noise_sigma(forward_model)
    if sigma is None:
        return as_per_image(-1.0, y)
    return (tau * as_per_image(sigma, y)) ** 2 * (y.size // y.shape[0])


def _residual_below(bound: PerImage) -> Callable[[Any], Array]:
    return lambda state: squeeze_per_image(_square(state[1]) <= bound)


def _half_square(state: Any) -> Array:
    return 0.5 * squeeze_per_image(_square(state[1]))


def _square(images: Any) -> PerImage:
    """Return the squared norm of each image of a pytree, summed over its leaves."""
    return functools.reduce(operator.add, (dot(leaf, leaf) for leaf in jax.tree.leaves(images)))


def _select(result: tuple[Array, Array, Array], objective: bool, iterations: bool) -> Any:
    """Return the images alone, or with the results that were requested."""
    x, history, counts = result
    selected = (x, *[history] * objective, *[counts] * iterations)
    return selected if len(selected) > 1 else x
