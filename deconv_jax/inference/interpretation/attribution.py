"""What in an image a unit of a network answers to: gradients and what stands for them, occlusion, Grad-CAM.

Zeiler and Fergus's deconvnet (arXiv:1311.2901) rectifies, filters with the transposed kernels and puts
maxima back where the switches of the pooling say. The transposed convolution is the
vector-Jacobian product of the convolution, and unpooling that of max pooling; so the deconvnet of any
network is its own gradient with another rule at the ReLUs, and guided backpropagation a third one
(see `inside.Rule`). What a reader would get wrong: only the plain gradient says how the unit changes
with a pixel; the other two show what the unit is like, and barely depend on the layers above it.

Every function here is pure and takes a batch, each image for itself; compile them with
`jax.jit(..., static_argnums=0)`. Images are as the network takes them.
"""

import math
from typing import Any

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from deconv_jax import ops
from deconv_jax.errors import InputError, at_least
from deconv_jax.inference.interpretation.activations import LOGITS, Rule, feature_maps
from deconv_jax.ops.conv.window import per_axis

Tree = Any
Images = Float[Array, "batch height width channels"]

STEPS = 50
"""Of integrated gradients, as Captum's."""
_AT_ONCE = 64
"""Images that occlusion runs at a time, at most."""


@flax.struct.dataclass
class Target:
    """What is asked about: a unit, a feature map or a class of each image.

    Attributes:
      feature: which of the layer's feature maps, or the class; one for all images or one each, (batch,).
      position: of the unit in the map, one number an axis of space, or one row an image, (batch, axes);
        None for the sum of the whole map.
      layer: its name, see `inside`.
    """

    feature: ArrayLike
    position: Any = None
    layer: str = flax.struct.field(pytree_node=False, default=LOGITS)


def activation(
    target: Target, maps: Float[Array, "batch *space features"]
) -> Float[Array, " batch"]:
    """How strongly the target of each image is active, of its layer's feature maps."""
    return jnp.sum(_mask(target, maps) * maps, range(1, maps.ndim))


def backprojection(
    model: nn.Module,
    variables: Tree,
    images: Images,
    target: Target,
    rule: Rule = "gradient",
    *,
    scaled: bool = False,
) -> Images:
    """The target's gradient by the pixels, under a rule at the ReLUs.

    Args:
      model: called with images alone.
      variables: its "params" and what else it has.
      images: as the model takes them.
      target: of each image.
      rule: "gradient", "guided" or "deconvnet", see `inside.Rule`.
      scaled: begin with the activations themselves rather than with ones, as the deconvnet of
        arXiv:1311.2901 does. Of a unit it is a factor.

    Raises:
      InputError: as `inside.feature_maps`, or a target that is not in the layer.
    """

    def total(images: Array) -> Array:
        (maps,) = feature_maps(model, variables, images, target.layer, rule=rule)
        weights = _mask(target, maps)
        return jnp.sum((lax.stop_gradient(maps) * weights if scaled else weights) * maps)

    return jax.grad(total)(images)


def gradient(model: nn.Module, variables: Tree, images: Images, target: Target) -> Images:
    """How the target changes with each pixel (Simonyan et al., arXiv:1312.6034, section 3).

    Its magnitude is their saliency map. Args and errors as for `backprojection`.
    """
    return backprojection(model, variables, images, target)


def guided_backpropagation(
    model: nn.Module, variables: Tree, images: Images, target: Target
) -> Images:
    """Springenberg et al., arXiv:1412.6806, section 3.4. Args and errors as for `backprojection`."""
    return backprojection(model, variables, images, target, "guided")


def deconvnet(model: nn.Module, variables: Tree, images: Images, target: Target) -> Images:
    """Zeiler and Fergus, arXiv:1311.2901, section 2.1, begun with one at the target.

    Args and errors as for `backprojection`.
    """
    return backprojection(model, variables, images, target, "deconvnet")


def integrated_gradients(
    model: nn.Module,
    variables: Tree,
    images: Images,
    target: Target,
    *,
    baseline: ArrayLike = 0.0,
    steps: int = STEPS,
) -> Images:
    """The gradient's integral along the line from a baseline (Sundararajan et al., arXiv:1703.01365, eq. 1).

    Its sum over an image is the difference of the target between image and baseline, up to the error
    of the Gauss-Legendre rule, which is Captum's default too.

    Args:
      model, variables, images, target: as for `backprojection`.
      baseline: an image, one for each, or a number for all pixels.
      steps: points of the rule.

    Raises:
      InputError: as `backprojection`, or no step.
    """
    at_least("steps", steps, 1)
    points, weights = np.polynomial.legendre.leggauss(steps)
    start = _like(images, baseline)

    def add(total: Array, step: tuple[Array, Array]) -> tuple[Array, None]:
        place, weight = step
        there = start + place * (images - start)
        return total + weight * gradient(model, variables, there, target), None

    along = jnp.asarray((1 + points) / 2, images.dtype), jnp.asarray(weights / 2, images.dtype)
    total, _ = lax.scan(add, jnp.zeros_like(images), along)
    return (images - start) * total


def occlusion(
    model: nn.Module,
    variables: Tree,
    images: Images,
    target: Target,
    *,
    window: int | tuple[int, int],
    stride: int | tuple[int, int] = 1,
    fill: ArrayLike = 0.5,
) -> Float[Array, "batch height width"]:
    """How much weaker the target is with a square over each place (arXiv:1311.2901, section 4.2).

    A pixel is given the mean over all squares that cover it, as by Captum's `Occlusion`; the last
    square of a row may reach beyond the image.

    Args:
      model, variables, images, target: as for `backprojection`.
      window: pixels a side of the square, or its height and width.
      stride: from a square to the next, pixels, at most the window.
      fill: what the square holds, gray unless given; an image or a number.

    Raises:
      InputError: as `backprojection`, or a window or stride that does not fit.
    """
    count, *size, _ = images.shape
    sides, strides = (
        per_axis(name, n, 2, 1) for name, n in (("window", window), ("stride", stride))
    )
    for side, step, length in zip(sides, strides, size, strict=True):
        if not (side <= length and (step <= side or side == length)):
            raise InputError(
                f"a window of occlusion is at most the image's {size} pixels, and its stride at most "
                f"the window; got window={window} and stride={stride}"
            )
    down, across = (
        jnp.asarray(_covered(*axis)) for axis in zip(size, sides, strides, strict=True)
    )  # (places, pixels)
    places = np.indices((len(down), len(across))).reshape(2, -1).T
    filling = _like(images, fill)

    def strength(images: Array) -> Array:
        (maps,) = feature_maps(model, variables, images, target.layer)
        return activation(target, maps)

    def weaker(place: Array) -> Array:
        covered = down[place[0]][:, None] & across[place[1]][None]
        hidden = jnp.where(covered[None, :, :, None], filling, images)
        return before - strength(hidden)

    before = strength(images)
    falls = lax.map(weaker, jnp.asarray(places), batch_size=max(1, _AT_ONCE // count))
    falls = falls.reshape(len(down), len(across), count)
    down, across = down.astype(images.dtype), across.astype(images.dtype)
    total = jnp.einsum("ijb,ih,jw->bhw", falls, down, across)
    return total / (jnp.sum(down, 0)[:, None] * jnp.sum(across, 0)[None])[None]


def grad_cam(
    model: nn.Module, variables: Tree, images: Images, target: Target, *, layer: str
) -> Float[Array, "batch map_height map_width"]:
    """Where a layer speaks for the target: Selvaraju et al., arXiv:1610.02391, equations 1 and 2.

    Args:
      model, variables, images, target: as for `backprojection`.
      layer: whose feature maps are weighted by the mean gradient of each.

    Returns:
      At the size of the feature maps, not negative; see `resize_to_images`.

    Raises:
      InputError: as `backprojection`, or the layer has no height and width.
    """
    maps, toward = _layer_gradient(model, variables, images, target, layer)
    if maps.ndim != 4:
        raise InputError(
            f"Grad-CAM takes a layer with height and width; {layer} has an image's map {maps.shape[1:]}"
        )
    weights = jnp.mean(toward, (1, 2), keepdims=True)
    return jax.nn.relu(jnp.sum(weights * maps, -1))


def resize_to_images(
    images: Images, maps: Float[Array, "batch map_height map_width"]
) -> Float[Array, "batch height width"]:
    """Maps of a layer enlarged bilinearly to the size of the images."""
    return ops.resize(maps[..., None], images.shape[1:3], method="bilinear")[..., 0]


def _layer_gradient(
    model: nn.Module, variables: Tree, images: Images, target: Target, layer: str
) -> tuple[Array, Array]:
    """The feature maps of a layer, and how the target changes with each unit of them."""

    def total(shift: Array) -> tuple[Array, Array]:
        maps, own = feature_maps(
            model, variables, images, target.layer, layer, shift={layer: shift}
        )
        return jnp.sum(activation(target, maps)), own

    shape = jax.eval_shape(lambda: feature_maps(model, variables, images, layer)[0])
    toward, maps = jax.grad(total, has_aux=True)(jnp.zeros(shape.shape, shape.dtype))
    return maps, toward


def _mask(target: Target, maps: Array) -> Array:
    """Ones at the target, (batch, *space, features), or with axes of length one for the whole map."""
    count, *space, features = maps.shape
    mask = _one_hot("feature", target.feature, count, features)
    mask = mask.reshape(count, *(1 for _ in space), features)
    if target.position is None:
        return mask.astype(maps.dtype)
    position = jnp.asarray(target.position)
    if position.shape[-1:] != (len(space),):
        raise InputError(
            f"a position in layer {target.layer} is {len(space)} numbers, of maps {tuple(space)}; got "
            f"{target.position}"
        )
    for axis, length in enumerate(space):
        along = _one_hot("position", position[..., axis], count, length)
        shape = [count, *(1 for _ in space), 1]
        shape[1 + axis] = length
        mask = mask & along.reshape(shape)
    return mask.astype(maps.dtype)


def _one_hot(name: str, place: ArrayLike, count: int, length: int) -> Array:
    """(count, length) booleans; InputError for a known place that is not there."""
    try:
        known = np.asarray(place).ravel()
    except jax.errors.TracerArrayConversionError:
        known = np.array([])
    wrong = [int(n) for n in known if not 0 <= n < length]
    if wrong:
        raise InputError(f"{name} is from 0 to {length - 1}; got {wrong[0]}")
    places = jnp.broadcast_to(jnp.asarray(place, jnp.int32), (count,))
    return places[:, None] == jnp.arange(length, dtype=jnp.int32)[None]


def _like(images: Array, value: ArrayLike) -> Array:
    """A number, an image or images in the shape of images."""
    value = jnp.asarray(value, images.dtype)
    return jnp.broadcast_to(
        value.reshape((1,) * (images.ndim - value.ndim) + value.shape), images.shape
    )


def _covered(length: int, window: int, stride: int) -> np.ndarray:
    """Which pixels of an axis each place of a window covers."""
    starts = stride * np.arange(1 + math.ceil((length - window) / stride))
    after = np.arange(length)[None] - starts[:, None]
    return (after >= 0) & (after < window)
