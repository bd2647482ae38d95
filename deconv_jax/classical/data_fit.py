"""The half of splitting methods that looks at y: argmin |A x - y|^2 + mu |x - v|^2, and a start."""

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

_FIRST_ESTIMATE_WEIGHT = 1e-3
_FIRST_ESTIMATE_ITERATIONS = 30


def closed_form_data_step(problem: Problem) -> Callable[[Array, Array], Array] | None:
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


def iterative_data_step(problem: Problem, iterations: int) -> Callable[[Array, Array], Array]:
    """As `closed_form_data_step`, by conjugate gradients from v."""

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
    """What iterations begin with: y where A is a circular blur, else a smooth image that A maps near to y."""
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
