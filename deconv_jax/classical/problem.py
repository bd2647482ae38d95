"""A forward model as the solvers see it: y = A x with A, its adjoint, its norm, its spectrum.

Nothing here knows a particular degradation but for two kinds whose algebra is known in closed form:
a chain of circular blurs is diagonal in frequency, a chain of masks is diagonal in space. All else
goes through `forward` and `adjoint`.

What a reader would get wrong: every quantity is one an image. Sums run over the pixels and channels
of an image and stay (batch, 1, 1, 1), so an image is restored alike in any batch.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Complex, Float, Shaped

from deconv_jax.data.degradations import (
    Chain,
    Convolution,
    Degradation,
    Linear,
    Mask,
    linear_part,
    noise_sigma,
)
from deconv_jax.errors import InputError
from deconv_jax.ops.spectral import psf2otf

Images = Float[Array, "batch height width channels"]
Observed = Float[Array | np.ndarray, "batch observed_height observed_width channels"]
PerImage = Float[Array, "batch 1 1 1"]
PerImageScalar = float | Float[Array | np.ndarray, " batch"]
"""A parameter: one number for all images, or one an image."""
SolverResult = Images | tuple[Images, Float[Array, "iterations batch"]]
"""What iterations return: images, and their objectives if asked for."""

_POWER_ITERATIONS = 24
_NORM_MARGIN = 1.05


@dataclasses.dataclass(frozen=True)
class Problem:
    """y = A x, to be built inside `jax.jit`.

    What A computes of its parameters alone, the spectrum of a kernel say, is computed once and not
    at every step of a solver.

    Attributes:
      model: A as a forward model.
      y: observed images.
      shape: of x, (batch, height, width, channels).
      forward: x -> A x.
      adjoint: y -> A^T y.
    """

    model: Linear
    y: Float[Array, "batch observed_height observed_width channels"]
    shape: tuple[int, ...]
    forward: Callable[[Array], Array]
    adjoint: Callable[[Array], Array]

    @classmethod
    def of(cls, y: Array, model: Linear, size: tuple[int, int]) -> "Problem":
        """The problem of images of `size` that were observed as y; `model` has no noise."""
        shape = (y.shape[0], *size, y.shape[-1])
        zeros = jnp.zeros(shape, y.dtype)
        _, forward = jax.linearize(model.forward, zeros)
        transpose = jax.linear_transpose(forward, zeros)
        return cls(model, y, shape, forward, lambda residual: transpose(residual)[0])

    def fidelity(self, x: Images) -> Float[Array, " batch"]:
        """|A x - y|^2 / 2, an image."""
        misfit = self.forward(x) - self.y
        return 0.5 * squeeze_per_image(dot(misfit, misfit))

    def norm_squared(self) -> PerImage:
        """An upper bound of |A|^2, the largest eigenvalue of A^T A, close to it.

        Exact for circular blurs and masks; for other models power iteration from a bright image,
        which the dominant vector of an optical system resembles, and a margin of 5 percent.
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
) -> tuple[Array, Linear, tuple[int, int]]:
    """Checks what a method is given.

    Args:
      y: observed images.
      forward_model: of which they come.
      size: (height, width) of the images to restore. Unless given it is y's, or the largest that
        the model maps to y's.

    Returns:
      (y, the linear part of the model, size).

    Raises:
      InputError: for y that is no batch of float images, a model without a linear part, or a size
        that does not fit y.
    """
    y = jnp.asarray(y)
    if y.ndim != 4 or not jnp.issubdtype(y.dtype, jnp.floating):
        raise InputError(
            f"y holds float images (batch, height, width, channels); got {y.dtype} {y.shape}"
        )
    model = linear_part(forward_model)
    observed = y.shape[1], y.shape[2]
    found = _size_before(model, observed) if size is None else (int(size[0]), int(size[1]))
    if model.output_size(found) != observed:
        raise InputError(
            f"the forward model makes images of {model.output_size(found)} pixels of those of "
            f"{found}; got y of {observed}"
        )
    return y, model, found


def _size_before(model: Linear, observed: tuple[int, int]) -> tuple[int, int]:
    """The size that the model maps to `observed`: the same one, or the largest."""
    if model.output_size(observed) == observed:
        return observed
    # By bisection, of both axes at once, for no model mixes them.
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
    """A method has to know how noisy images are, and nothing says it."""


def known_sigma(forward_model: Degradation, needed_for: str) -> Any:
    """The standard deviation of the model's Gaussian noise, [0, 1] units.

    Raises:
      UnknownNoise: for a model without one, saying that it is `needed_for` something.
    """
    sigma = noise_sigma(forward_model)
    if sigma is None:
        raise UnknownNoise(
            f"{needed_for}, or a forward model whose GaussianNoise says how noisy y is; got "
            f"{type(forward_model).__name__} without Gaussian noise"
        )
    return sigma


def as_per_image(value: Any, y: Array) -> PerImage:
    """A number, or an array of one an image, as (batch, 1, 1, 1) of y's dtype."""
    return jnp.broadcast_to(jnp.asarray(value, y.dtype), y.shape[:1]).reshape(-1, 1, 1, 1)


def squeeze_per_image(values: Shaped[Array, "batch 1 1 1"]) -> Shaped[Array, " batch"]:
    """(batch, 1, 1, 1) as (batch,)."""
    return values.reshape(-1)


def dot(a: Images, b: Images) -> PerImage:
    """The inner product of each image of a with that of b."""
    return jnp.sum(a * b, (1, 2, 3), keepdims=True)


def tiny(x: Array) -> float:
    """A positive number of x's dtype to keep a quotient finite."""
    return float(jnp.finfo(x.dtype).tiny)


def linear_factors(model: Linear) -> Iterator[Linear]:
    """The linear maps that a model is the product of; none for the identity."""
    if isinstance(model, Chain):
        for step in model.steps:
            yield from linear_factors(linear_part(step))
    else:
        yield model


def is_circular(model: Linear) -> bool:
    """Whether A is diagonal in frequency: circular blurs alone."""
    return all(
        isinstance(s, Convolution) and s.boundary == "circular" for s in linear_factors(model)
    )


def is_diagonal(model: Linear) -> bool:
    """Whether A is diagonal in space: masks alone."""
    return all(isinstance(s, Mask) for s in linear_factors(model))


def has_unknown_border(model: Linear) -> bool:
    """Whether y depends on pixels beyond its own frame, which are restored too: "valid" blurs."""
    return any(isinstance(s, Convolution) and s.boundary == "valid" for s in linear_factors(model))


def circular_psf(
    model: Linear, shape: tuple[int, ...], dtype: Any
) -> Float[Array, "batch_or_1 psf_height psf_width"]:
    """The point-spread function of a blur, or the one that circular blurs have together."""
    parts = list(linear_factors(model))
    if len(parts) == 1:
        psf = jnp.asarray(parts[0].psf, dtype)  # type: ignore[attr-defined]
        return psf.reshape(-1, *psf.shape[-2:])
    point = jnp.zeros((shape[0], *shape[1:3], 1), dtype)
    return model.forward(point.at[:, shape[1] // 2, shape[2] // 2].set(1.0))[..., 0]


def transfer_function(
    model: Linear, shape: tuple[int, ...], dtype: Any
) -> Complex[Array, "batch_or_1 height frequencies 1"]:
    """H of circular blurs on images of `shape`, as `psf2otf` lays it out, with an axis of channels."""
    size = shape[1], shape[2]
    psf = circular_psf(model, shape, dtype)
    return jax.vmap(lambda each: psf2otf(each, size))(psf)[..., None]


def gradient(x: Images) -> tuple[Images, Images]:
    """The differences to the next pixel down and to the right, 0 at the last one."""
    down = jnp.pad(x[:, 1:] - x[:, :-1], ((0, 0), (0, 1), (0, 0), (0, 0)))
    right = jnp.pad(x[:, :, 1:] - x[:, :, :-1], ((0, 0), (0, 0), (0, 1), (0, 0)))
    return down, right


def gradient_adjoint(down: Images, right: Images) -> Images:
    """The adjoint of `gradient`, minus the divergence."""
    down, right = down[:, :-1], right[:, :, :-1]
    rows = ((0, 0), (1, 0), (0, 0), (0, 0)), ((0, 0), (0, 1), (0, 0), (0, 0))
    columns = ((0, 0), (0, 0), (1, 0), (0, 0)), ((0, 0), (0, 0), (0, 1), (0, 0))
    return (jnp.pad(down, rows[0]) - jnp.pad(down, rows[1])) + (
        jnp.pad(right, columns[0]) - jnp.pad(right, columns[1])
    )


def total_variation(x: Images, smoothing: float = 0.0) -> Float[Array, " batch"]:
    """Sum over pixels and channels of sqrt(|gradient|^2 + smoothing^2): isotropic, channels alone."""
    down, right = gradient(x)
    return jnp.sum(jnp.sqrt(down**2 + right**2 + smoothing**2), (1, 2, 3))


def laplacian(x: Images) -> Images:
    """The stencil of -1 at each neighbour and their count in the centre: `gradient_adjoint` of it."""
    return gradient_adjoint(*gradient(x))
