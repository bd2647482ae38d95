"""The data step of splitting methods, argmin |A x - y|^2 + mu |x - v|^2, and an initial estimate."""

import math
from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array

from deconv_jax.classical.iterative import least_squares
from deconv_jax.classical.problem import (
    Problem,
    is_circular,
    is_diagonal,
    laplacian,
    transfer_function,
)

_INITIAL_WEIGHT = 1e-3
_INITIAL_ITERATIONS = 30


def closed_form_data_step(problem: Problem) -> Callable[[Array, Array], Array] | None:
    """Return the data step (v, mu) -> argmin |A x - y|^2 + mu |x - v|^2 in closed form.

    It exists if A is diagonal in space or in frequency (a product of masks or of circular blurs); otherwise the
    result is None. v has the shape of x, and mu has shape (batch, 1, 1, 1) or is a positive number.
    """
    y, model = problem.y, problem.model
    if is_diagonal(model):
        back = problem.adjoint(y)
        diagonal = problem.adjoint(problem.forward(jnp.ones(problem.shape, y.dtype)))
        return lambda v, mu: (back + mu * v) / (diagonal + mu)
    if not is_circular(model):
        return None
    response = transfer_function(model, problem.shape, y.dtype)
    power = jnp.square(jnp.abs(response))
    back_spectrum = jnp.conj(response) * jnp.fft.rfft2(y, axes=(1, 2))

    def fit(v: Array, mu: Array) -> Array:
        spectrum = back_spectrum + mu * jnp.fft.rfft2(v, axes=(1, 2))
        return jnp.fft.irfft2(spectrum / (power + mu), v.shape[1:3], axes=(1, 2))

    return fit


def iterative_data_step(problem: Problem, iterations: int) -> Callable[[Array, Array], Array]:
    """Return the data step of `closed_form_data_step` for any A, by conjugate gradients that start at v.

    Each image stops after `iterations` steps, or when its gradient is 1e-5 of that at x = 0.
    """

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


def initial_estimate(problem: Problem) -> Array:
    """Return an initial estimate of x: y if A is a circular blur, else a smooth image that fits y.

    The latter minimizes |A x - y|^2 + 0.001 |L x|^2 approximately, by up to 30 conjugate gradient steps, with
    the Laplacian L. The identity counts as a circular blur.
    """
    if is_circular(problem.model):
        return problem.y
    root = math.sqrt(_INITIAL_WEIGHT)
    start = jnp.zeros(problem.shape, problem.y.dtype)
    return least_squares(
        lambda x: (problem.forward(x), root * laplacian(x)),
        lambda parts: problem.adjoint(parts[0]) + root * laplacian(parts[1]),
        (problem.y, start),
        start,
        iterations=_INITIAL_ITERATIONS,
        tolerance=1e-4,
    )
