"""Attribution of a unit or class to pixels: gradients and their variants, occlusion, Grad-CAM.

The deconvnet of Zeiler and Fergus (arXiv:1311.2901) rectifies, filters with the transposed kernels, and
unpools with the switches of max pooling. Transposed convolution is the vector-Jacobian product of
convolution, and unpooling that of max pooling. The deconvnet of a network is therefore its gradient
with another backward rule at the ReLUs, and guided backpropagation is a third rule (`ReluRule`).

Note: Only the plain gradient says how the unit changes with a pixel. The other two rules show the
pattern that the unit prefers, and depend little on the layers above it.

Every function is pure, and treats the images of a batch separately. Compile it with
`jax.jit(..., static_argnums=0)`. Images are preprocessed, as the network takes them.
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
from deconv_jax.inference.interpretation.activations import LOGITS, feature_maps
from deconv_jax.inference.interpretation.relu_rules import ReluRule
from deconv_jax.ops.conv.window import per_axis
from deconv_jax.training.state import Tree

Images = Float[Array, "batch height width channels"]

STEPS = 50
"""Default number of steps of integrated gradients, as in Captum."""
_OCCLUSION_BATCH = 64
"""Maximum number of occluded images that run at once."""


@flax.struct.dataclass
class Target:
    """The unit, feature map or class of each image that is explained.

    Attributes:
      feature: Index of the feature map or class: one for all images, or one per image (batch,).
      position: Spatial position of the unit, one index per axis: one for all images, or one row per
        image (batch, axes). None for the sum over the whole map.
      layer: Name of the layer, such as "conv1"; by default "logits", the output of the network.
    """

    feature: ArrayLike
    position: Any = None
    layer: str = flax.struct.field(pytree_node=False, default=LOGITS)


def target_activation(
    target: Target, maps: Float[Array, "batch *space features"]
) -> Float[Array, " batch"]:
    """Return the activation of each image's target in the feature maps of its layer.

    Without a position, it is the sum over the whole feature map.

    Raises:
      InputError: The target is not in the feature maps.
    """
    return jnp.sum(_mask(target, maps) * maps, range(1, maps.ndim))


def backprojection(
    model: nn.Module,
    variables: Tree,
    images: Images,
    target: Target,
    rule: ReluRule = "gradient",
    *,
    start_from_activations: bool = False,
) -> Images:
    """Return the gradient of the target with respect to the pixels, with a backward rule at the ReLUs.

    Args:
      model: Network that takes only images.
      variables: Variables of the network.
      images: Preprocessed images.
      target: Target of each image.
      rule: Backward rule of the ReLUs.
      start_from_activations: Whether the backward signal starts with the activations of the target,
        as in the deconvnet of arXiv:1311.2901, rather than with ones. For a single unit, this only
        multiplies the result by its activation.

    Raises:
      InputError: There is no such layer or rule, the target is not in the layer, or the rule is not
        "gradient" and an activation up to the layer is not a ReLU or not an `Activation` layer.
    """

    def total(images: Array) -> Array:
        (maps,) = feature_maps(model, variables, images, target.layer, rule=rule)
        weights = _mask(target, maps)
        return jnp.sum(
            (lax.stop_gradient(maps) * weights if start_from_activations else weights) * maps
        )

    return jax.grad(total)(images)


def gradient(model: nn.Module, variables: Tree, images: Images, target: Target) -> Images:
    """Return the gradient of the target (Simonyan et al., arXiv:1312.6034, section 3).

    Its magnitude is their saliency map. It is `backprojection` with rule "gradient".
    """
    return backprojection(model, variables, images, target)


def guided_backpropagation(
    model: nn.Module, variables: Tree, images: Images, target: Target
) -> Images:
    """Return guided backpropagation (Springenberg et al., arXiv:1412.6806, section 3.4).

    It is `backprojection` with rule "guided": all activations up to the target must be ReLU layers.
    """
    return backprojection(model, variables, images, target, "guided")


def deconvnet(model: nn.Module, variables: Tree, images: Images, target: Target) -> Images:
    """Return the deconvnet projection (Zeiler & Fergus, arXiv:1311.2901, section 2.1).

    The projection starts from ones at the target.

    It is `backprojection` with rule "deconvnet": all activations up to the target must be ReLU layers.
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
    """Return integrated gradients (Sundararajan et al., arXiv:1703.01365, equation 1).

    Their sum over an image is the difference of the target between image and baseline, up to the
    error of Gauss-Legendre quadrature, which is also Captum's default.

    Args:
      model: Network that takes only images.
      variables: Variables of the network.
      images: Preprocessed images.
      target: Target of each image.
      baseline: Baseline, preprocessed like the images: an image, one per image, or a number for all
        pixels.
      steps: Number of quadrature points.

    Raises:
      InputError: There are no steps, there is no such layer, or the target is not in it.
    """
    at_least("steps", steps, 1)
    points, weights = np.polynomial.legendre.leggauss(steps)
    start = _broadcast_to_images(images, baseline)

    def add(total: Array, step: tuple[Array, Array]) -> tuple[Array, None]:
        place, weight = step
        between = start + place * (images - start)
        return total + weight * gradient(model, variables, between, target), None

    quadrature = jnp.asarray((1 + points) / 2, images.dtype), jnp.asarray(weights / 2, images.dtype)
    total, _ = lax.scan(add, jnp.zeros_like(images), quadrature)
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
    """Return the drop of the target when a window is occluded (arXiv:1311.2901, section 4.2).

    The value of a pixel is the mean over all windows that cover it, as in Captum's `Occlusion`. The
    last window of a row may extend beyond the image.

    Args:
      model: Network that takes only images.
      variables: Variables of the network.
      images: Preprocessed images.
      target: Target of each image.
      window: Side of the window in pixels, or its height and width.
      stride: Distance between windows in pixels, at most the window.
      fill: Content of the window, preprocessed like the images: an image or a number. The default is
        gray only if preprocessed images are in [0, 1].

    Raises:
      InputError: The window is larger than the image, the stride larger than the window, or either is
        below 1; there is no such layer; or the target is not in it.
    """
    count, *size, _ = images.shape
    sides, strides = (
        per_axis(name, n, 2, 1) for name, n in (("window", window), ("stride", stride))
    )
    for side, step, length in zip(sides, strides, size, strict=True):
        if not (side <= length and (step <= side or side == length)):
            raise InputError(
                f"window must be at most the image's {size} pixels, and stride at most the window; "
                f"got window={window} and stride={stride}"
            )
    rows, columns = (
        jnp.asarray(_coverage(*axis)) for axis in zip(size, sides, strides, strict=True)
    )  # (windows, pixels)
    windows = np.indices((len(rows), len(columns))).reshape(2, -1).T
    content = _broadcast_to_images(images, fill)

    def strength(images: Array) -> Array:
        (maps,) = feature_maps(model, variables, images, target.layer)
        return target_activation(target, maps)

    def drop(index: Array) -> Array:
        covered = rows[index[0]][:, None] & columns[index[1]][None]
        occluded = jnp.where(covered[None, :, :, None], content, images)
        return before - strength(occluded)

    before = strength(images)
    drops = lax.map(drop, jnp.asarray(windows), batch_size=max(1, _OCCLUSION_BATCH // count))
    drops = drops.reshape(len(rows), len(columns), count)
    rows, columns = rows.astype(images.dtype), columns.astype(images.dtype)
    total = jnp.einsum("ijb,ih,jw->bhw", drops, rows, columns)
    return total / (jnp.sum(rows, 0)[:, None] * jnp.sum(columns, 0)[None])[None]


def grad_cam(
    model: nn.Module, variables: Tree, images: Images, target: Target, *, layer: str
) -> Float[Array, "batch map_height map_width"]:
    """Return Grad-CAM of a layer (Selvaraju et al., arXiv:1610.02391, equations 1 and 2).

    Args:
      model: Network that takes only images.
      variables: Variables of the network.
      images: Preprocessed images.
      target: Target of each image.
      layer: Layer whose feature maps are weighted by their mean gradients.

    Returns:
      Non-negative maps with the size of the feature maps; `resize_to_images` enlarges them.

    Raises:
      InputError: There is no such layer, it has no height and width, or the target is not in its layer.
    """
    maps, gradients = _layer_gradient(model, variables, images, target, layer)
    if maps.ndim != 4:
        raise InputError(
            "Grad-CAM requires a layer with height and width; got "
            f"{layer}, whose feature map has shape {maps.shape[1:]}"
        )
    weights = jnp.mean(gradients, (1, 2), keepdims=True)
    return jax.nn.relu(jnp.sum(weights * maps, -1))


def resize_to_images(
    images: Images, maps: Float[Array, "batch map_height map_width"]
) -> Float[Array, "batch height width"]:
    """Resize maps of a layer bilinearly to the size of the images."""
    return ops.resize(maps[..., None], images.shape[1:3], method="bilinear")[..., 0]


def _layer_gradient(
    model: nn.Module, variables: Tree, images: Images, target: Target, layer: str
) -> tuple[Array, Array]:
    """Return the feature maps of a layer, and the gradient of the target with respect to them."""

    def total(shift: Array) -> tuple[Array, Array]:
        maps, layer_maps = feature_maps(
            model, variables, images, target.layer, layer, shift={layer: shift}
        )
        return jnp.sum(target_activation(target, maps)), layer_maps

    shape = jax.eval_shape(lambda: feature_maps(model, variables, images, layer)[0])
    gradients, maps = jax.grad(total, has_aux=True)(jnp.zeros(shape.shape, shape.dtype))
    return maps, gradients


def _mask(target: Target, maps: Array) -> Array:
    """Return ones at the target: (batch, *space, features), with spatial axes of 1 for a whole map."""
    count, *space, features = maps.shape
    mask = _one_hot("feature", target.feature, count, features)
    mask = mask.reshape(count, *(1 for _ in space), features)
    if target.position is None:
        return mask.astype(maps.dtype)
    position = jnp.asarray(target.position)
    if position.shape[-1:] != (len(space),):
        raise InputError(
            f"a position in layer {target.layer} must be {len(space)} indices, for maps of shape "
            f"{tuple(space)}; got {target.position}"
        )
    for axis, length in enumerate(space):
        line = _one_hot("position", position[..., axis], count, length)
        shape = [count, *(1 for _ in space), 1]
        shape[1 + axis] = length
        mask = mask & line.reshape(shape)
    return mask.astype(maps.dtype)


def _one_hot(name: str, index: ArrayLike, count: int, length: int) -> Array:
    """Return booleans (count, length) that are True at the index.

    Raises:
      InputError: The index is out of range and not traced.
    """
    try:
        known = np.asarray(index).ravel()
    except jax.errors.TracerArrayConversionError:
        known = np.array([])
    wrong = [int(n) for n in known if not 0 <= n < length]
    if wrong:
        raise InputError(f"{name} must be from 0 to {length - 1}; got {wrong[0]}")
    indices = jnp.broadcast_to(jnp.asarray(index, jnp.int32), (count,))
    return indices[:, None] == jnp.arange(length, dtype=jnp.int32)[None]


def _broadcast_to_images(images: Array, value: ArrayLike) -> Array:
    """Broadcast a number, an image or images to the shape of images."""
    value = jnp.asarray(value, images.dtype)
    return jnp.broadcast_to(
        value.reshape((1,) * (images.ndim - value.ndim) + value.shape), images.shape
    )


def _coverage(length: int, window: int, stride: int) -> np.ndarray:
    """Return booleans (windows, pixels) of which pixels of an axis each window covers."""
    starts = stride * np.arange(1 + math.ceil((length - window) / stride))
    offsets = np.arange(length)[None] - starts[:, None]
    return (offsets >= 0) & (offsets < window)
