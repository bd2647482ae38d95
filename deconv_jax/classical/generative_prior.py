"""Restoration with a generator as the prior: the latent whose image explains the measurements.

Bora et al., "Compressed Sensing using Generative Models" (ICML 2017, arXiv:1703.03208), search the range of a GAN
or VAE by gradient descent on the latent. Yeh et al., "Semantic Image Inpainting with Deep Generative Models" (CVPR
2017, arXiv:1607.07539), weight the known pixels by their distance to the hole, add the discriminator's opinion,
and blend the generated pixels into the image.

Note: The result is an image of the generator, so its error does not vanish, however many measurements there are.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jaxtyping import Array, Float, Int32

from deconv_jax.classical.iterative import least_squares
from deconv_jax.classical.problem import (
    Images,
    SolverResult,
    as_pytree,
    gradient,
    gradient_adjoint,
    is_diagonal,
    prepare,
)
from deconv_jax.compilation import jit
from deconv_jax.data.degradations import Degradation, LinearDegradation, linear_part
from deconv_jax.errors import InputError, at_least, check_choice

Measured = Float[Array | np.ndarray, "batch *measurements"]
Misfit = Literal["squared", "absolute"]
Decode = Callable[[Array, Array | None], Array]
"""(latents (batch, latent_dim), labels (batch,) or None) -> images in [0, 1]."""
Critic = Callable[[Array, Array | None], Array]
"""(images, labels (batch,) or None) -> logits (batch,), higher for images that look real."""

_BLEND_TOLERANCE = 1e-5


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=("decode", "critic"),
    meta_fields=("latent_dim", "num_classes"),
)
@dataclasses.dataclass(frozen=True)
class LatentGenerator:
    """A generator of images from standard normal latents.

    Like the denoiser of `plug_and_play`, a plain function is a static argument of the compiled solver, and the
    leaves of a `jax.tree_util.Partial`, such as weights, are traced.

    Attributes:
      decode: Function (latents (batch, latent_dim), labels (batch,) or None) -> images in [0, 1].
      latent_dim: Length of a latent.
      num_classes: Number of classes of a conditional generator; 0 for none.
      critic: Function (images, labels or None) -> logits (batch,), such as a discriminator; None for none. The
        logit of an image must not depend on the other images.
    """

    decode: Decode
    latent_dim: int
    num_classes: int = 0
    critic: Critic | None = None


class LatentFit(NamedTuple):
    """The latents that explain measurements best.

    Attributes:
      latents: Latent of each image.
      labels: Class of each image; None for a generator without classes.
      objective: Objective of each image after each iteration, for the chosen start.
    """

    latents: Float[Array, "batch latent_dim"]
    labels: Int32[Array, " batch"] | None
    objective: Float[Array, "iterations batch"]


def generative_prior(
    y: Measured,
    forward_model: Degradation | Callable[[Array], Array],
    *,
    generator: LatentGenerator,
    weight: float = 0.1,
    misfit: Misfit = "squared",
    context_window: int = 0,
    critic_weight: float = 0.0,
    blend: bool = False,
    iterations: int = 500,
    restarts: int = 10,
    learning_rate: float = 0.05,
    seed: int = 0,
    return_objective: bool = False,
) -> SolverResult:
    """Return the generator's image G(z) that minimizes |A G(z) - y|^2 + weight |z|^2 over latents z.

    The search is that of `fit_latents`. With `blend`, known pixels keep their values and the gradients of G(z)
    fill the hole (Poisson blending, arXiv:1607.07539, section 3.4): the result minimizes
    |gradient x - gradient G(z)|^2 among the images that equal y where it is known.

    Args:
      y: Observed images, or what `forward_model` returns.
      forward_model: Any degradation with a linear part, or any differentiable function from images
        (batch, height, width, channels) to an array with a batch axis. Like the generator's functions, it is static
        unless it is a pytree.
      generator: The generator G. It determines the size of the images.
      weight: Weight of |z|^2, at least 0. 0.1 is that of the paper's VAE of MNIST, 0.001 that of its DCGAN.
      misfit: "squared" for |A G(z) - y|^2, or "absolute" for the sum of |A G(z) - y|, which arXiv:1607.07539 uses.
      context_window: Side in pixels, odd, of the window of the importance weights: a known pixel counts as much as
        the fraction of missing pixels in the window around it (arXiv:1607.07539, equation 4; 7 there). 0 for equal
        weights. It requires a mask as the forward model, as does `blend`.
      critic_weight: Weight, at least 0, of the prior loss log(1 - D(G(z))), where D is the logistic function of the
        critic's logit (arXiv:1607.07539, equation 6; 0.003 there). It requires a critic.
      blend: Whether to blend G(z) into the known pixels.
      iterations: Number of steps of Adam, at least 1.
      restarts: Number of random starts, at least 1; that with the smallest final objective is chosen. A
        conditional generator has class r mod num_classes in start r, so use at least as many as there are classes.
      learning_rate: Step size of Adam, above 0, which decays to 0 along a cosine.
      seed: Seed of the starts, at least 0, which are the same for all images.
      return_objective: Whether to return the objective after each iteration; it may increase in some.

    Returns:
      Restored images; with `return_objective` also the objective of the chosen starts, (iterations, batch).

    Raises:
      InputError: An option is out of range; `context_window` or `blend` has no mask; `critic_weight` has no critic;
        the forward model is a degradation that is not linear or has a range that was not sampled; or it does not
        map images of the generator to the shape of y.
    """
    if blend:
        _check_mask("blend", forward_model)
    fit = fit_latents(
        y,
        forward_model,
        generator=generator,
        weight=weight,
        misfit=misfit,
        context_window=context_window,
        critic_weight=critic_weight,
        iterations=iterations,
        restarts=restarts,
        learning_rate=learning_rate,
        seed=seed,
    )
    images = _decode(_with_pytrees(generator), fit.latents, fit.labels)
    if blend:
        assert isinstance(forward_model, Degradation)  # as checked above
        images = _blend(images, *prepare(y, forward_model, images.shape[1:3])[:2])
    return (images, fit.objective) if return_objective else images


def fit_latents(
    y: Measured,
    forward_model: Degradation | Callable[[Array], Array],
    *,
    generator: LatentGenerator,
    weight: float = 0.1,
    misfit: Misfit = "squared",
    context_window: int = 0,
    critic_weight: float = 0.0,
    iterations: int = 500,
    restarts: int = 10,
    learning_rate: float = 0.05,
    seed: int = 0,
) -> LatentFit:
    """Return the latents that minimize |A G(z) - y|^2 + weight |z|^2 + critic_weight log(1 - D(G(z))).

    All starts and images are optimized at once by Adam, and the result of an image does not depend on the batch.

    Args and errors are those of `generative_prior`.
    """
    check_choice("misfit", misfit, Misfit)
    at_least("iterations", iterations, 1)
    at_least("restarts", restarts, 1)
    at_least("weight", weight, 0)
    at_least("critic_weight", critic_weight, 0)
    at_least("seed", seed, 0)
    if not learning_rate > 0:
        raise InputError(f"learning_rate must be above 0; got {learning_rate}")
    if context_window and (context_window < 0 or context_window % 2 == 0):
        raise InputError(f"context_window must be odd, or 0 for none; got {context_window}")
    if context_window:
        _check_mask("context_window", forward_model)
    if critic_weight and generator.critic is None:
        raise InputError(f"critic_weight requires a critic; got critic_weight={critic_weight}")
    generator = _with_pytrees(generator)
    y = jnp.asarray(y)
    if y.ndim < 2 or not jnp.issubdtype(y.dtype, jnp.floating):
        raise InputError(f"y must hold floats with a batch axis; got {y.dtype} {y.shape}")
    images = jax.eval_shape(
        lambda: generator.decode(
            jnp.zeros((len(y), generator.latent_dim), y.dtype),
            jnp.zeros(len(y), jnp.int32) if generator.num_classes else None,
        )
    )
    model: Any
    if isinstance(forward_model, Degradation):
        y, model, _ = prepare(y, forward_model, images.shape[1:3])
    else:
        model = as_pytree(forward_model)
    measured = jax.eval_shape(_measure, model, images).shape
    if measured != y.shape:
        raise InputError(
            f"the forward model maps images {images.shape} of the generator to {measured}; got y of shape {y.shape}"
        )
    numbers = (weight, critic_weight, learning_rate, seed)
    return _fit(
        y,
        model,
        generator,
        numbers,
        misfit,
        context_window,
        bool(critic_weight),
        iterations,
        restarts,
    )


@functools.partial(jit, static_argnums=(4, 5, 6, 7, 8))
def _fit(
    y: Array,
    model: Any,
    generator: LatentGenerator,
    numbers: tuple[Any, Any, Any, Any],
    misfit: Misfit,
    context_window: int,
    criticize: bool,
    iterations: int,
    restarts: int,
) -> LatentFit:
    weight, critic_weight, learning_rate, seed = numbers
    batch, latent_dim = len(y), generator.latent_dim
    classes = jnp.arange(restarts, dtype=jnp.int32) % max(generator.num_classes, 1)
    labels = jnp.repeat(classes, batch) if generator.num_classes else None
    importance = (
        context_weights(y, model, context_window) if context_window else jnp.ones((), y.dtype)
    )

    def per_image(values: Array) -> Float[Array, "restarts batch"]:
        return jnp.sum(values.reshape(*values.shape[:2], -1), axis=-1)

    def objective(latents: Array) -> Float[Array, "restarts batch"]:
        images = generator.decode(latents.reshape(-1, latent_dim), labels)
        starts = images.reshape(restarts, batch, *images.shape[1:])
        residual = jax.vmap(lambda x: _measure(model, x) - y)(starts)
        size = jnp.square(residual) if misfit == "squared" else jnp.abs(residual)
        value = per_image(importance * size) + weight * per_image(jnp.square(latents))
        if criticize:
            assert generator.critic is not None  # as `fit_latents` checks
            logits = generator.critic(images, labels)
            value = value + critic_weight * jax.nn.log_sigmoid(-logits).reshape(restarts, batch)
        return value

    adam = optax.adam(optax.cosine_decay_schedule(learning_rate, iterations))

    def step(carry: Any, _: None) -> Any:
        latents, state = carry
        # The objective of each image and start depends on its own latent only.
        value, pull = jax.vjp(objective, latents)
        updates, state = adam.update(pull(jnp.ones_like(value))[0], state)
        return (latents + updates, state), value

    keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(seed), jnp.arange(restarts))
    start = jax.vmap(lambda key: jax.random.normal(key, (latent_dim,), y.dtype))(keys)
    latents = jnp.broadcast_to(start[:, None], (restarts, batch, latent_dim))
    (latents, _), history = lax.scan(step, (latents, adam.init(latents)), length=iterations)
    history = jnp.concatenate([history[1:], objective(latents)[None]])
    best, images = jnp.argmin(history[-1], axis=0), jnp.arange(batch)
    return LatentFit(
        latents[best, images],
        classes[best] if generator.num_classes else None,
        history[:, best, images],
    )


@jit
def _decode(generator: LatentGenerator, latents: Array, labels: Array | None) -> Images:
    return generator.decode(latents, labels)


def context_weights(y: Array, model: LinearDegradation, window: int) -> Images:
    """Return the importance weights of pixels under a mask (arXiv:1607.07539, equation 4).

    The weight of a known pixel is the fraction of missing pixels in the window around it, which is cut at the
    border of the image; that of a missing pixel is 0.

    Args:
      y: Masked images.
      model: The mask.
      window: Side of the window in pixels, odd.
    """
    known = (model.forward(jnp.ones_like(y)) != 0).astype(y.dtype)
    sides = (1, window, window, 1)

    def total(values: Array) -> Array:
        return lax.reduce_window(values, 0.0, lax.add, sides, (1, 1, 1, 1), "SAME")

    return known * total(1.0 - known) / total(jnp.ones_like(y))


@jit
def _blend(images: Images, y: Images, model: LinearDegradation) -> Images:
    """Return the images that equal y where it is known, with the gradients of the given images elsewhere."""
    mask = model.forward(jnp.ones_like(images))
    known = mask != 0
    kept = jnp.where(known, y / jnp.where(known, mask, 1.0), 0.0)
    # The difference to the image is smooth: it has the smallest gradients for its values at known pixels.
    offset = jnp.where(known, kept - images, 0.0)
    difference = least_squares(
        lambda d: gradient(jnp.where(known, 0.0, d)),
        lambda parts: jnp.where(known, 0.0, gradient_adjoint(*parts)),
        jax.tree.map(jnp.negative, gradient(offset)),
        jnp.zeros_like(images),
        # Enough for a hole as large as the image: the error shrinks by a factor per sum of the sides.
        iterations=8 * (images.shape[1] + images.shape[2]),
        tolerance=_BLEND_TOLERANCE,
    )
    return jnp.where(known, kept, images + difference)


def _measure(model: Any, images: Array) -> Array:
    """Return the measurements of images by a linear degradation or a function."""
    return model.forward(images) if isinstance(model, LinearDegradation) else model(images)


def _with_pytrees(generator: LatentGenerator) -> LatentGenerator:
    """Return the generator with functions that are pytrees of JAX arrays, which traced labels can index."""
    critic = None if generator.critic is None else as_pytree(generator.critic)
    wrapped = dataclasses.replace(generator, decode=as_pytree(generator.decode), critic=critic)
    return jax.tree.map(jnp.asarray, wrapped)


def _check_mask(option: str, forward_model: Any) -> None:
    """Raise InputError unless the forward model is a mask, or masks with noise."""
    if not isinstance(forward_model, Degradation) or not is_diagonal(linear_part(forward_model)):
        raise InputError(
            f"{option} requires a mask as the forward model; got {type(forward_model).__name__}"
        )
