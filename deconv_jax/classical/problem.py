"""A forward model as seen by the solvers: y = A x with A, its adjoint, its norm and its spectrum.

Two kinds of models have closed forms: a chain of circular blurs is diagonal in frequency, a chain of masks is
diagonal in space. All others are used only through `forward` and `adjoint`.

Note: Scalars are per image. Sums run over the pixels and channels of an image and have shape (batch, 1, 1, 1),
so the restoration of an image does not depend on the rest of the batch.
"""

import dataclasses
import numbers
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from jaxtyping import Array, Complex, Float, Shaped

from deconv_jax.data.degradations import (
    Chain,
    Convolution,
    Degradation,
    LinearDegradation,
    Mask,
    RandomProjection,
    linear_part,
    noise_sigma,
)
from deconv_jax.errors import InputError
from deconv_jax.ops.spectral import psf2otf

Images = Float[Array, "batch height width channels"]
Observed = Float[Array | np.ndarray, "batch observed_height observed_width channels"]
PerImage = Float[Array, "batch 1 1 1"]
ScalarOrPerImage = float | Float[Array | np.ndarray, " batch"]
"""A parameter: one number for all images, or one per image."""
SolverResult = Images | tuple[Images, Float[Array, "iterations batch"]]
"""Return type of iterative methods: images, and the objective after each iteration if requested."""

_POWER_ITERATIONS = 24
_NORM_MARGIN = 1.05


@dataclasses.dataclass(frozen=True)
class Problem:
    """The linear problem y = A x, to be built inside `jax.jit`.

    Computations of A that depend only on its parameters, such as the spectrum of a kernel, are done once and
    not in every step of a solver.

    Attributes:
      model: A as a forward model.
      y: Observed images.
      shape: Shape of x, (batch, height, width, channels).
      forward: Function x -> A x.
      adjoint: Function y -> A^T y.
    """

    model: LinearDegradation
    y: Float[Array, "batch observed_height observed_width channels"]
    shape: tuple[int, ...]
    forward: Callable[[Array], Array]
    adjoint: Callable[[Array], Array]

    @classmethod
    def of(cls, y: Array, model: LinearDegradation, size: tuple[int, int]) -> "Problem":
        """Build the problem for x of height and width `size`; `model` has no noise."""
        shape = (y.shape[0], *size, y.shape[-1])
        zeros = jnp.zeros(shape, y.dtype)
        _, forward = jax.linearize(model.forward, zeros)
        transpose = jax.linear_transpose(forward, zeros)
        return cls(model, y, shape, forward, lambda residual: transpose(residual)[0])

    def fidelity(self, x: Images) -> Float[Array, " batch"]:
        """Return |A x - y|^2 / 2 for each image."""
        misfit = self.forward(x) - self.y
        return 0.5 * squeeze_per_image(dot(misfit, misfit))

    def norm_squared(self) -> PerImage:
        """Return a close upper bound of |A|^2, the largest eigenvalue of A^T A.

        It is exact for circular blurs and masks. Other models use power iteration with a margin of 5 percent,
        starting from a bright image, which resembles the dominant eigenvector of an optical system.
        """
        if is_circular(self.model):
            power = jnp.square(jnp.abs(transfer_function(self.model, self.shape, self.y.dtype)))
            largest = jnp.max(power, (1, 2, 3), keepdims=True)
            return jnp.broadcast_to(largest, (self.shape[0], 1, 1, 1))
        ones = jnp.ones(self.shape, self.y.dtype)
        if is_diagonal(self.model):
            return jnp.max(self.adjoint(self.forward(ones)), (1, 2, 3), keepdims=True)

        def multiply(_, x):
            product = self.adjoint(self.forward(x))
            return product / jnp.sqrt(jnp.maximum(dot(product, product), tiny(x)))

        noise = jax.random.normal(jax.random.key(0), (1, *self.shape[1:]), self.y.dtype)
        x = jax.lax.fori_loop(0, _POWER_ITERATIONS, multiply, ones + 0.1 * noise)
        image = self.forward(x)
        norm = dot(image, image) / jnp.maximum(dot(x, x), tiny(x))
        return _NORM_MARGIN * norm


def prepare(
    y: Observed, forward_model: Degradation, size: Sequence[int] | None = None
) -> tuple[Array, LinearDegradation, tuple[int, int]]:
    """Check the arguments of a method.

    Args:
      y: Observed images.
      forward_model: Degradation that produced y.
      size: Height and width of x. The default is that of y if the model keeps it, else the largest size that
        the model maps to that of y.

    Returns:
      y as a JAX array, the linear part of the model, and the height and width of x.

    Raises:
      InputError: y is not a float array of four axes; the model is not linear or has a range that was not
        sampled; the model does not map `size` to the size of y; or `size` is missing and y does not determine it.
    """
    y = jnp.asarray(y)
    if y.ndim != 4 or not jnp.issubdtype(y.dtype, jnp.floating):
        raise InputError(
            f"y must hold float images (batch, height, width, channels); got {y.dtype} {y.shape}"
        )
    model = linear_part(forward_model)
    observed = y.shape[1], y.shape[2]
    found = _size_before(model, observed) if size is None else (int(size[0]), int(size[1]))
    if model.output_size(found) != observed:
        raise InputError(
            f"the forward model maps images of size {found} to size {model.output_size(found)}; got "
            f"y of size {observed}"
        )
    return y, model, found


def _size_before(model: LinearDegradation, observed: tuple[int, int]) -> tuple[int, int]:
    """Return the size that the model maps to `observed`: the same one if possible, else the largest."""
    if any(isinstance(step, RandomProjection) for step in linear_factors(model)):
        raise InputError(
            "size is required: the measurements of RandomProjection do not determine it"
        )
    if model.output_size(observed) == observed:
        return observed
    # Bisection along both axes at once, because no model mixes them.
    low, high = observed, observed
    while any(n <= m for n, m in zip(model.output_size(high), observed, strict=True)):
        high = 2 * high[0], 2 * high[1]
    while max(high[0] - low[0], high[1] - low[1]) > 1:
        middle = (low[0] + high[0]) // 2, (low[1] + high[1]) // 2
        down, right = (n <= m for n, m in zip(model.output_size(middle), observed, strict=True))
        low = middle[0] if down else low[0], middle[1] if right else low[1]
        high = high[0] if down else middle[0], high[1] if right else middle[1]
    return low


class UnknownNoise(InputError):
    """A method requires a noise level that is neither given nor part of the forward model."""


def known_sigma(forward_model: Degradation, requirement: str) -> Any:
    """Return the standard deviation of the model's Gaussian noise in [0, 1] units.

    Args:
      forward_model: Forward model.
      requirement: Start of the error message, such as "tv requires a weight".

    Raises:
      UnknownNoise: The model has no Gaussian noise.
      InputError: The noise is a range that was not sampled, or a chain has more than one Gaussian noise.
    """
    sigma = noise_sigma(forward_model)
    if sigma is None:
        raise UnknownNoise(
            f"{requirement}, or a forward model with GaussianNoise; got "
            f"{type(forward_model).__name__} without Gaussian noise"
        )
    return sigma


def above_zero(name: str, value: Any) -> None:
    """Raise InputError unless a number is positive; arrays, which may be traced, are not checked."""
    if isinstance(value, numbers.Real) and not float(value) > 0:
        raise InputError(f"{name} must be above 0; got {value}")


def as_per_image(value: Any, y: Array) -> PerImage:
    """Convert a number, or an array of one number per image, to (batch, 1, 1, 1) with the dtype of y."""
    return jnp.broadcast_to(jnp.asarray(value, y.dtype), y.shape[:1]).reshape(-1, 1, 1, 1)


def as_pytree(function: Callable[..., Array]) -> Callable[..., Array]:
    """Return the function itself if it is a pytree, else wrapped as one without leaves."""
    return Partial(function) if jax.tree_util.all_leaves([function]) else function


def squeeze_per_image(values: Shaped[Array, "batch 1 1 1"]) -> Shaped[Array, " batch"]:
    """Reshape (batch, 1, 1, 1) to (batch,)."""
    return values.reshape(-1)


def dot(a: Images, b: Images) -> PerImage:
    """Return the inner product of each image of a with that of b."""
    return jnp.sum(a * b, (1, 2, 3), keepdims=True)


def tiny(x: Array) -> float:
    """Return the smallest positive normal number of the dtype of x, to keep quotients finite."""
    return float(jnp.finfo(x.dtype).tiny)


def linear_factors(model: LinearDegradation) -> Iterator[LinearDegradation]:
    """Yield the linear maps whose product is the model; none for the identity."""
    if isinstance(model, Chain):
        for step in model.steps:
            yield from linear_factors(linear_part(step))
    else:
        yield model


def is_circular(model: LinearDegradation) -> bool:
    """Return whether A is diagonal in frequency: a product of circular blurs, or the identity."""
    return all(
        isinstance(s, Convolution) and s.boundary == "circular" for s in linear_factors(model)
    )


def is_diagonal(model: LinearDegradation) -> bool:
    """Return whether A is diagonal in space: a product of masks, or the identity."""
    return all(isinstance(s, Mask) for s in linear_factors(model))


def has_unknown_border(model: LinearDegradation) -> bool:
    """Return whether x has pixels beyond the border of y: for blurs with boundary="valid"."""
    return any(isinstance(s, Convolution) and s.boundary == "valid" for s in linear_factors(model))


def circular_psf(
    model: LinearDegradation, shape: tuple[int, ...], dtype: Any
) -> Float[Array, "batch_or_1 psf_height psf_width"]:
    """Return the point-spread function of a blur, or that of the product of circular blurs.

    The former has the size of the blur's kernel, and the batch axis has length 1 unless there is a kernel per
    image. The latter has the size of the images: it is the response to a pixel in the
    middle. Whether the model is a blur is not checked.
    """
    factors = list(linear_factors(model))
    if len(factors) == 1 and isinstance(factors[0], Convolution):
        psf = jnp.asarray(factors[0].psf, dtype)
        return psf.reshape(-1, *psf.shape[-2:])
    point = jnp.zeros((shape[0], *shape[1:3], 1), dtype)
    return model.forward(point.at[:, shape[1] // 2, shape[2] // 2].set(1.0))[..., 0]


def transfer_function(
    model: LinearDegradation, shape: tuple[int, ...], dtype: Any
) -> Complex[Array, "batch_or_1 height frequencies 1"]:
    """Return the transfer function of circular blurs on images of `shape`, as `psf2otf` with a channel axis."""
    size = shape[1], shape[2]
    psf = circular_psf(model, shape, dtype)
    return jax.vmap(lambda each: psf2otf(each, size))(psf)[..., None]


def gradient(x: Images) -> tuple[Images, Images]:
    """Return the differences to the next pixel below and to the right, 0 at the last row and column."""
    down = jnp.pad(x[:, 1:] - x[:, :-1], ((0, 0), (0, 1), (0, 0), (0, 0)))
    right = jnp.pad(x[:, :, 1:] - x[:, :, :-1], ((0, 0), (0, 0), (0, 1), (0, 0)))
    return down, right


def gradient_adjoint(down: Images, right: Images) -> Images:
    """Apply the adjoint of `gradient`, the negative divergence."""
    down, right = down[:, :-1], right[:, :, :-1]
    rows = ((0, 0), (1, 0), (0, 0), (0, 0)), ((0, 0), (0, 1), (0, 0), (0, 0))
    columns = ((0, 0), (0, 0), (1, 0), (0, 0)), ((0, 0), (0, 0), (0, 1), (0, 0))
    return (jnp.pad(down, rows[0]) - jnp.pad(down, rows[1])) + (
        jnp.pad(right, columns[0]) - jnp.pad(right, columns[1])
    )


def total_variation(x: Images, smoothing: float = 0.0) -> Float[Array, " batch"]:
    """Return the isotropic total variation of each image.

    It is the sum of sqrt(|gradient|^2 + smoothing^2) over pixels and channels.
    """
    down, right = gradient(x)
    return jnp.sum(jnp.sqrt(down**2 + right**2 + smoothing**2), (1, 2, 3))


def laplacian(x: Images) -> Images:
    """Apply the negative Laplacian with Neumann boundary, `gradient_adjoint` of `gradient`."""
    return gradient_adjoint(*gradient(x))
