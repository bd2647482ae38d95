"""Patterns that feature maps respond to: top-activating patches, and activation maximization.

For each feature map, `top_patches` finds the images with the highest activation of any unit, crops
them to the receptive window of that unit, and projects its activation back to these pixels, as in
figure 2 of Zeiler and Fergus (arXiv:1311.2901).

Note: A projection is specific to one image and its pooling switches. It shows which of the image's
pixels activated the unit; it is neither an average nor a learned prototype.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int, Key

from deconv_jax import ops
from deconv_jax.compilation import jit
from deconv_jax.data.augment import example_keys
from deconv_jax.errors import InputError, at_least
from deconv_jax.inference.interpretation.activations import (
    feature_maps,
    layer_shape,
    max_batch_size,
)
from deconv_jax.inference.interpretation.attribution import (
    Target,
    backprojection,
    target_activation,
)
from deconv_jax.inference.interpretation.receptive_windows import receptive_windows
from deconv_jax.inference.interpretation.relu_rules import ReluRule
from deconv_jax.training.state import Tree

Preprocess = Callable[[Array], Array]
"""Function from images in [0, 1] to inputs of the network, of the same size."""

PATCHES_PER_MAP = 9
"""Default number of patches of a feature map, as in the paper's figure."""

_NOISE = 0.05
_GAUSSIAN_SUPPORT = 4.0
"""Half the width of a Gaussian kernel, in standard deviations."""


@dataclasses.dataclass(frozen=True, eq=False)
class Patches:
    """The patches that activate feature maps most; axis "count" is sorted by descending activation.

    Attributes:
      features: Indices of the feature maps, sorted by descending activation.
      activations: Activation of the unit.
      examples: Index of the image.
      positions: Row and column of the unit in the feature map.
      patches: Receptive window of the unit in the image as given, in [0, 1]; 0 outside the image.
      projections: Backprojection of the unit's activation to these pixels; 0 outside the image.
      valid: Whether a pixel is inside the image; windows at its border extend beyond it.
    """

    features: Int[np.ndarray, " maps"]
    activations: Float[np.ndarray, "maps count"]
    examples: Int[np.ndarray, "maps count"]
    positions: Int[np.ndarray, "maps count 2"]
    patches: Float[np.ndarray, "maps count height width channels"]
    projections: Float[np.ndarray, "maps count height width channels"]
    valid: Bool[np.ndarray, "maps count height width"]


def top_patches(
    model: nn.Module,
    variables: Tree,
    images: Array | np.ndarray | Iterable[np.ndarray],
    layer: str,
    *,
    count: int = PATCHES_PER_MAP,
    maps: int | None = None,
    rule: ReluRule = "deconvnet",
    preprocess: Preprocess | None = None,
) -> Patches:
    """Return the patches that activate each feature map of a layer most, and their projections.

    Args:
      model: Network that takes only images.
      variables: Variables of the network.
      images: Images (images, height, width, channels), float in [0, 1] or uint8; or an iterable of
        batches of them, of which only the current top images are kept in memory.
      layer: Name of the layer, such as "conv1"; see `activations.layer_shapes`.
      count: Number of patches per feature map, each from another image; fewer if there are fewer images.
      maps: Number of feature maps, those with the highest activations; None for all.
      rule: Backward rule of the projections.
      preprocess: Preprocessing of images for the network; None for none.

    Raises:
      InputError: There are no images, or no such layer or rule; `count` or `maps` is below 1; or the rule
        is not "gradient" and an activation up to the layer is not a ReLU or not an `Activation` layer.
    """
    at_least("count", count, 1)
    if maps is not None:
        at_least("maps", maps, 1)
    preprocess = preprocess or _identity
    best, kept = _search(model, variables, _batches(images), layer, count, rule, preprocess)
    order = np.argsort(-best.activations[:, 0], kind="stable")[:maps]
    activations = best.activations[order]
    examples, positions = best.examples[order], best.positions[order]
    top_images = np.stack([kept[number] for number in examples.ravel().tolist()])
    projections = _project(
        model,
        variables,
        top_images,
        np.repeat(order, examples.shape[1]).astype(np.int32),
        positions.reshape(-1, 2),
        layer,
        rule,
        preprocess,
    )
    windows = receptive_windows(model, variables, top_images[:1], layer)
    corners, size = _corners(windows, positions.reshape(-1, 2), top_images.shape[1:3])
    shape = (*examples.shape, *size)

    def crop(pixels: np.ndarray) -> np.ndarray:
        patches = [_crop(*pair, size) for pair in zip(pixels, corners, strict=True)]
        return np.stack(patches).reshape(*shape, *pixels.shape[3:])

    return Patches(
        order,
        activations,
        examples,
        positions,
        patches=crop(top_images),
        projections=crop(projections),
        valid=crop(np.ones(top_images.shape[:3], bool)),
    )


def maximize_activation(
    model: nn.Module,
    variables: Tree,
    target: Target,
    image_shape: Sequence[int],
    *,
    steps: int = 200,
    rate: float = 0.05,
    jitter: int = 2,
    decay: float = 0.01,
    blur: float = 0.5,
    blur_every: int = 4,
    seed: int = 0,
    preprocess: Preprocess | None = None,
) -> Float[Array, "batch height width channels"]:
    """Return images that maximize the activation of a target, by gradient ascent from gray noise.

    After Yosinski et al. (arXiv:1506.06579, section 3), with the jitter of Mordvintsev et al.
    ("Inceptionism", 2015). Each step shifts the image randomly, adds the gradient divided by its root
    mean square, decays the image toward gray and, every few steps, blurs it. The objective is the
    pre-activation, because an inactive ReLU has no gradient.

    Args:
      model: Network that takes only images.
      variables: Variables of the network.
      target: Target of each image. There are as many images as elements of `target.feature`.
      image_shape: Height, width and channels of the images.
      steps: Number of steps.
      rate: Step size, in units of the pixels.
      jitter: Maximum shift along each axis, in pixels.
      decay: Fraction of the difference to gray that is removed in each step.
      blur: Standard deviation of the Gaussian blur, in pixels; 0 for none.
      blur_every: Number of steps between blurs.
      seed: Seed of noise and jitter.
      preprocess: Preprocessing of images for the network; None for none.

    Returns:
      Images in [0, 1].

    Raises:
      InputError: An argument is out of range, there is no such layer, or the target is not in it.
    """
    for name, value, least in (("steps", steps, 1), ("blur_every", blur_every, 1)):
        at_least(name, value, least)
    for name, number in (("jitter", jitter), ("decay", decay), ("blur", blur), ("seed", seed)):
        at_least(name, number, 0)
    preprocess = preprocess or _identity
    indices = jnp.arange(np.size(target.feature))
    shape = (len(indices), *image_shape)

    def objective(images: Array) -> Array:
        inputs = preprocess(images)
        (maps,) = feature_maps(model, variables, inputs, target.layer, before_activation=True)
        return jnp.sum(target_activation(target, maps))

    def ascend(images: Array, step: Array) -> tuple[Array, None]:
        keys = example_keys(jax.random.fold_in(jax.random.key(seed), step), indices)
        shifts = jax.vmap(lambda key: jax.random.randint(key, (2,), -jitter, jitter + 1))(keys)
        shifted = _roll(images, shifts)
        slope = jax.grad(objective)(shifted)
        size = jnp.sqrt(jnp.mean(slope**2, (1, 2, 3), keepdims=True))
        shifted = shifted + rate * slope / jnp.maximum(size, jnp.finfo(size.dtype).tiny)
        images = 0.5 + (1 - decay) * (_roll(shifted, -shifts) - 0.5)
        if blur:
            is_due = (step + 1) % blur_every == 0
            images = lax.cond(is_due, functools.partial(_blur, sigma=blur), _identity, images)
        return jnp.clip(images, 0.0, 1.0), None

    keys = example_keys(jax.random.fold_in(jax.random.key(seed), steps), indices)
    start = 0.5 + _NOISE * _normal(keys, shape[1:])
    return lax.scan(ascend, start, jnp.arange(steps))[0]


def _identity(images: Array) -> Array:
    return images


def _batches(images: Array | np.ndarray | Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    if not isinstance(images, Array | np.ndarray):
        yield from images
        return
    size = max_batch_size(images.shape[1:3])
    for start in range(0, len(images), size):
        yield np.asarray(images[start : start + size])


class _TopUnits:
    """The units with the highest activation so far: a row per feature map, in descending order."""

    def __init__(self, maps: int):
        self.activations = np.zeros((maps, 0), np.float32)
        self.examples = np.zeros((maps, 0), np.int64)
        self.positions = np.zeros((maps, 0, 2), np.int64)

    def add(self, activations: np.ndarray, positions: np.ndarray, first: int, count: int) -> None:
        """Add a batch of images and keep the best.

        Args:
          activations: Highest activation of each image and feature map (images, maps).
          positions: Positions of these units (images, maps, 2).
          first: Index of the first image.
          count: Number of units to keep per feature map.
        """
        numbers = np.arange(first, first + len(activations))
        numbers = np.broadcast_to(numbers, activations.T.shape)
        activations = np.concatenate([self.activations, activations.T], axis=1)
        examples = np.concatenate([self.examples, numbers], axis=1)
        places = np.concatenate([self.positions, positions.swapaxes(0, 1)], axis=1)
        # The stable sort keeps the first of equal activations first.
        order = np.argsort(-activations, axis=1, kind="stable")[:, :count]
        self.activations = np.take_along_axis(activations, order, axis=1)
        self.examples = np.take_along_axis(examples, order, axis=1)
        self.positions = np.take_along_axis(places, order[..., None], axis=1)


def _search(
    model: nn.Module,
    variables: Tree,
    batches: Iterator[np.ndarray],
    layer: str,
    count: int,
    rule: ReluRule,
    preprocess: Preprocess,
) -> tuple[_TopUnits, dict[int, np.ndarray]]:
    """Return the units with the highest activations, and the images that they are in by index."""
    best: _TopUnits | None = None
    kept: dict[int, np.ndarray] = {}
    seen = size = 0
    for batch in batches:
        images = _to_unit_range(batch)
        size = max(size, len(images))
        if best is None:
            *_, features = layer_shape(model, variables, images, layer)
            best = _TopUnits(features)
            # Raises the errors of the rule before the search.
            jax.eval_shape(lambda x: feature_maps(model, variables, x, layer, rule=rule), images)
        padded = _pad_rows(images, size)
        found = _strongest(model, variables, padded, layer, preprocess)
        activations, positions = (np.asarray(a)[: len(images)] for a in found)
        best.add(activations, positions, seen, count)
        wanted = set(best.examples.ravel().tolist())
        # Copies, because a view would keep the whole batch in memory.
        kept |= {seen + i: image.copy() for i, image in enumerate(images) if seen + i in wanted}
        kept = {number: image for number, image in kept.items() if number in wanted}
        seen += len(images)
    if best is None or not seen:
        raise InputError("there are no images to search for patches")
    return best, kept


@functools.partial(jit, static_argnums=(0, 3, 4))
def _strongest(
    model: nn.Module, variables: Tree, images: Array, layer: str, preprocess: Preprocess
) -> tuple[Array, Array]:
    """Return the highest activation of each feature map (images, maps) and its position (..., 2)."""
    (maps,) = feature_maps(model, variables, preprocess(images), layer)
    count, *space, features = maps.shape
    rows, columns = space if len(space) == 2 else (1, 1)
    flat = maps.reshape(count, rows * columns, features)
    places = jnp.argmax(flat, 1)
    return jnp.max(flat, 1), jnp.stack([places // columns, places % columns], axis=-1)


def _project(
    model: nn.Module,
    variables: Tree,
    images: np.ndarray,
    features: np.ndarray,
    positions: np.ndarray,
    layer: str,
    rule: ReluRule,
    preprocess: Preprocess,
) -> np.ndarray:
    """Return the backprojection of one unit of each image, computed in batches."""
    projections = []
    size = min(max_batch_size(images.shape[1:3]), len(images))
    for start in range(0, len(images), size):
        rows = slice(start, start + size)
        parts = [_pad_rows(array[rows], size) for array in (images, features, positions)]
        projection = _project_batch(model, variables, *parts, layer, rule, preprocess)
        projections.append(np.asarray(projection))
    return np.concatenate(projections)[: len(images)]


@functools.partial(jit, static_argnums=(0, 5, 6, 7))
def _project_batch(
    model: nn.Module,
    variables: Tree,
    images: Array,
    features: Array,
    positions: Array,
    layer: str,
    rule: ReluRule,
    preprocess: Preprocess,
) -> Array:
    is_spatial = len(layer_shape(model, variables, images, layer)) == 3
    target = Target(features, positions if is_spatial else None, layer)
    return backprojection(
        model, variables, preprocess(images), target, rule, start_from_activations=True
    )


def _corners(
    windows: Sequence[Int[np.ndarray, "units 2"]],
    positions: Int[np.ndarray, "count 2"],
    size: Sequence[int],
) -> tuple[Int[np.ndarray, "count 2"], tuple[int, int]]:
    """Return the top left corner of each unit's patch, which may be outside, and their common size."""
    corners, sides = [], []
    for window, places, length in zip(windows, positions.T, size, strict=True):
        first, last = window.T
        side = max(int((last - first).max()) + 1, 1)
        # If the top or left border clips a window, its last pixel stays in place.
        starts = np.where((first > 0) | (last == length - 1), first, last - side + 1)
        corners.append(starts[places])
        sides.append(side)
    return np.stack(corners, axis=-1), (sides[0], sides[1])


def _crop(pixels: np.ndarray, corner: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return a part of an array (height, width, ...), with zeros outside it."""
    patch = np.zeros((*size, *pixels.shape[2:]), pixels.dtype)
    starts = np.maximum(corner, 0)
    stops = np.minimum(corner + size, pixels.shape[:2])
    (top, left), (bottom, right) = starts - corner, stops - corner
    patch[top:bottom, left:right] = pixels[starts[0] : stops[0], starts[1] : stops[1]]
    return patch


def _pad_rows(rows: np.ndarray, size: int) -> np.ndarray:
    """Append copies of the first row up to `size` rows."""
    return np.concatenate([rows, np.repeat(rows[:1], size - len(rows), axis=0)])


def _to_unit_range(images: np.ndarray) -> np.ndarray:
    images = np.asarray(images)
    return images.astype(np.float32) / (255.0 if images.dtype == np.uint8 else 1.0)


def _roll(images: Array, shifts: Int[Array, "batch 2"]) -> Array:
    return jax.vmap(lambda image, shift: jnp.roll(image, shift, (0, 1)))(images, shifts)


def _normal(keys: Key[Array, " batch"], shape: tuple[int, ...]) -> Array:
    return jax.vmap(lambda key: jax.random.normal(key, shape))(keys)


def _blur(images: Array, sigma: float) -> Array:
    """Apply a separable Gaussian blur with edge padding."""
    radius = min(round(_GAUSSIAN_SUPPORT * sigma), *(n for n in images.shape[1:3]))
    taps = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    channels = images.shape[-1]
    for shape in ((-1, 1, 1, 1), (1, -1, 1, 1)):
        kernel = jnp.asarray(taps / taps.sum(), images.dtype).reshape(shape)
        images = ops.conv(images, jnp.tile(kernel, channels), padding_mode="edge", groups=channels)
    return images
