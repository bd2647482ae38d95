"""What the units of a layer look for: the patches that excite them most, and images made to.

Of each feature map the images that excite it most, one place an image, cut to the pixels that the
unit there sees, beside the projection of its activation back to pixels: Zeiler and Fergus,
arXiv:1311.2901, figure 2. What a reader would get wrong: a projection is no average and nothing learnt
of its own; it is made for one image, by the switches of that image, and shows which of its pixels did it.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

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
    Rule,
    check_layer,
    feature_maps,
    max_batch_size,
    receptive_windows,
)
from deconv_jax.inference.interpretation.attribution import Target, activation, backprojection

Tree = Any
Prepare = Callable[[Array], Array]
"""Images in [0, 1] (batch, height, width, channels) -> as the network takes them, of the same size."""

COUNT = 9
"""Patches of a feature map, as in the paper's figure."""

_NOISE = 0.05
_TRUNCATE = 4.0
"""Standard deviations of a Gaussian at which it is cut."""


@dataclasses.dataclass(frozen=True, eq=False)
class Patches:
    """What excites feature maps most; each axis "count" by falling activation.

    Attributes:
      features: which of the layer's feature maps, the strongest first.
      activations: of the unit.
      examples: which of the images, counted from 0.
      positions: row and column of the unit in the feature map.
      patches: what the unit sees of the image, as it was given, in [0, 1]; 0 beyond the image.
      projections: of the unit's activation to those pixels; 0 beyond the image.
      inside: which pixels are of the image. One that the unit is at the border of ends within the patch.
    """

    features: Int[np.ndarray, " maps"]
    activations: Float[np.ndarray, "maps count"]
    examples: Int[np.ndarray, "maps count"]
    positions: Int[np.ndarray, "maps count 2"]
    patches: Float[np.ndarray, "maps count height width channels"]
    projections: Float[np.ndarray, "maps count height width channels"]
    inside: Bool[np.ndarray, "maps count height width"]


def top_patches(
    model: nn.Module,
    variables: Tree,
    images: Array | np.ndarray | Iterable[np.ndarray],
    layer: str,
    *,
    count: int = COUNT,
    maps: int | None = None,
    rule: Rule = "deconvnet",
    prepare: Prepare | None = None,
) -> Patches:
    """The images that excite each feature map of a layer most, and why.

    Args:
      model: called with images alone.
      variables: its "params" and what else it has.
      images: (images, height, width, channels) in [0, 1], or uint8; or batches of them one after the
        other, of which no more are kept than are among the strongest.
      layer: its name, see `inside`.
      count: patches of each feature map; as many as there are images if that is less.
      maps: how many feature maps, those with the largest activations; None for all.
      rule: of the projection.
      prepare: what images go through before the network.

    Raises:
      InputError: no image, or as `visualize.backprojection`.
    """
    at_least("count", count, 1)
    if maps is not None:
        at_least("maps", maps, 1)
    prepare = prepare or _as_they_are
    best, kept = _search(model, variables, _batches(images), layer, count, rule, prepare)
    order = np.argsort(-best.values[:, 0], kind="stable")[:maps]
    values, examples, positions = (array[order] for array in best)
    shown = np.stack([kept[number] for number in examples.ravel()])
    projected = _project(
        model,
        variables,
        shown,
        np.repeat(order, examples.shape[1]).astype(np.int32),
        positions.reshape(-1, 2),
        layer,
        rule,
        prepare,
    )
    windows = receptive_windows(model, variables, shown[:1], layer)
    corners, size = _corners(windows, positions.reshape(-1, 2), shown.shape[1:3])
    shape = (*examples.shape, *size)

    def cut(pixels: np.ndarray) -> np.ndarray:
        patches = [_patch(*pair, size) for pair in zip(pixels, corners, strict=True)]
        return np.stack(patches).reshape(*shape, *pixels.shape[3:])

    return Patches(
        order,
        values,
        examples,
        positions,
        patches=cut(shown),
        projections=cut(projected),
        inside=cut(np.ones(shown.shape[:3], bool)),
    )


def maximise_activation(
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
    prepare: Prepare | None = None,
) -> Float[Array, "batch height width channels"]:
    """Images made to excite a target, by gradient ascent from gray noise.

    After Yosinski et al., arXiv:1506.06579, section 3, with the jitter of Mordvintsev et al.
    ("Inceptionism", 2015): each step moves the image at random, climbs by its gradient over the
    gradient's root mean square, takes a part of the difference to gray away and, every few
    steps, blurs. What is climbed is the target's layer before its activation, for a ReLU that is off
    has no gradient.

    Args:
      model, variables: as for `top_patches`.
      target: of each image; as many images as it has features.
      image_shape: height, width and channels.
      steps: of the ascent.
      rate: of a step, in the units of the image.
      jitter: pixels, at most, along each axis.
      decay: part of the difference to gray that goes in a step.
      blur: standard deviation of the Gaussian, pixels; 0 for none.
      blur_every: steps.
      seed: the same gives the same images.
      prepare: what images go through before the network.

    Returns:
      In [0, 1].

    Raises:
      InputError: an argument out of range, or as `visualize.backprojection`.
    """
    for name, value, least in (("steps", steps, 1), ("blur_every", blur_every, 1)):
        at_least(name, value, least)
    for name, number in (("jitter", jitter), ("decay", decay), ("blur", blur), ("seed", seed)):
        at_least(name, number, 0)
    prepare = prepare or _as_they_are
    numbers = jnp.arange(np.size(target.feature))
    shape = (len(numbers), *image_shape)

    def strength(images: Array) -> Array:
        prepared = prepare(images)
        (maps,) = feature_maps(model, variables, prepared, target.layer, before_activation=True)
        return jnp.sum(activation(target, maps))

    def climb(images: Array, step: Array) -> tuple[Array, None]:
        keys = example_keys(jax.random.fold_in(jax.random.key(seed), step), numbers)
        shifts = jax.vmap(lambda key: jax.random.randint(key, (2,), -jitter, jitter + 1))(keys)
        moved = _rolled(images, shifts)
        slope = jax.grad(strength)(moved)
        size = jnp.sqrt(jnp.mean(slope**2, (1, 2, 3), keepdims=True))
        moved = moved + rate * slope / jnp.maximum(size, jnp.finfo(size.dtype).tiny)
        images = 0.5 + (1 - decay) * (_rolled(moved, -shifts) - 0.5)
        if blur:
            blurs = (step + 1) % blur_every == 0
            images = lax.cond(blurs, functools.partial(_blurred, sigma=blur), _as_they_are, images)
        return jnp.clip(images, 0.0, 1.0), None

    first = example_keys(jax.random.fold_in(jax.random.key(seed), steps), numbers)
    start = 0.5 + _NOISE * _normal(first, shape[1:])
    return lax.scan(climb, start, jnp.arange(steps))[0]


def _as_they_are(images: Array) -> Array:
    return images


def _batches(images: Any) -> Iterator[np.ndarray]:
    if not hasattr(images, "shape"):
        yield from images
        return
    size = max_batch_size(images.shape[1:3])
    for start in range(0, len(images), size):
        yield np.asarray(images[start : start + size])


class _Best:
    """The strongest places of each feature map so far: a row a map, by falling activation."""

    def __init__(self, maps: int):
        self.values = np.zeros((maps, 0), np.float32)
        self.examples = np.zeros((maps, 0), np.int64)
        self.positions = np.zeros((maps, 0, 2), np.int64)

    def __iter__(self) -> Iterator[np.ndarray]:
        yield from (self.values, self.examples, self.positions)

    def add(self, values: np.ndarray, positions: np.ndarray, first: int, count: int) -> None:
        """Takes in a batch, (images, maps) and (images, maps, 2), whose first image has this number."""
        numbers = np.broadcast_to(np.arange(first, first + len(values)), values.T.shape)
        values = np.concatenate([self.values, values.T], axis=1)
        examples = np.concatenate([self.examples, numbers], axis=1)
        places = np.concatenate([self.positions, positions.swapaxes(0, 1)], axis=1)
        # Of equal ones the first found stays first.
        order = np.argsort(-values, axis=1, kind="stable")[:, :count]
        self.values = np.take_along_axis(values, order, axis=1)
        self.examples = np.take_along_axis(examples, order, axis=1)
        self.positions = np.take_along_axis(places, order[..., None], axis=1)


def _search(
    model: nn.Module,
    variables: Tree,
    batches: Iterator[np.ndarray],
    layer: str,
    count: int,
    rule: Rule,
    prepare: Prepare,
) -> tuple[_Best, dict[int, np.ndarray]]:
    """The strongest places, and the images that they are in."""
    best: _Best | None = None
    kept: dict[int, np.ndarray] = {}
    seen = size = 0
    for batch in batches:
        images = _in_unit_range(batch)
        size = max(size, len(images))
        if best is None:
            *_, features = check_layer(model, variables, images, layer)
            best = _Best(features)
            # A rule that does not fit is refused now, and not after the search.
            jax.eval_shape(lambda x: feature_maps(model, variables, x, layer, rule=rule), images)
        values, positions = _strongest(model, variables, _filled(images, size), layer, prepare)
        values, positions = (np.asarray(a)[: len(images)] for a in (values, positions))
        best.add(values, positions, seen, count)
        wanted = set(best.examples.ravel().tolist())
        # Copies, for a part of a batch would keep the whole of it.
        kept |= {seen + i: image.copy() for i, image in enumerate(images) if seen + i in wanted}
        kept = {number: image for number, image in kept.items() if number in wanted}
        seen += len(images)
    if best is None or not seen:
        raise InputError("there are no images to look for patches in")
    return best, kept


@functools.partial(jit, static_argnums=(0, 3, 4))
def _strongest(
    model: nn.Module, variables: Tree, images: Array, layer: str, prepare: Prepare
) -> tuple[Array, Array]:
    """The largest activation of each image's feature maps, (images, maps), and where, with (2,)."""
    (maps,) = feature_maps(model, variables, prepare(images), layer)
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
    rule: Rule,
    prepare: Prepare,
) -> np.ndarray:
    """The projection of a unit of each image."""
    projected = []
    size = min(max_batch_size(images.shape[1:3]), len(images))
    for start in range(0, len(images), size):
        rows = slice(start, start + size)
        parts = [_filled(array[rows], size) for array in (images, features, positions)]
        projected.append(np.asarray(_projected(model, variables, *parts, layer, rule, prepare)))
    return np.concatenate(projected)[: len(images)]


@functools.partial(jit, static_argnums=(0, 5, 6, 7))
def _projected(
    model: nn.Module,
    variables: Tree,
    images: Array,
    features: Array,
    positions: Array,
    layer: str,
    rule: Rule,
    prepare: Prepare,
) -> Array:
    has_space = len(check_layer(model, variables, images, layer)) == 3
    target = Target(features, positions if has_space else None, layer)
    return backprojection(model, variables, prepare(images), target, rule, scaled=True)


def _corners(
    windows: Sequence[Int[np.ndarray, "units 2"]],
    positions: Int[np.ndarray, "count 2"],
    size: Sequence[int],
) -> tuple[Int[np.ndarray, "count 2"], tuple[int, int]]:
    """Where the patches of units begin, before the image or in it, and the height and width of all."""
    corners, sides = [], []
    for window, places, length in zip(windows, positions.T, size, strict=True):
        first, last = window.T
        side = max(int((last - first).max()) + 1, 1)
        # A window that the image's beginning cuts off is placed by its end.
        starts = np.where((first > 0) | (last == length - 1), first, last - side + 1)
        corners.append(starts[places])
        sides.append(side)
    return np.stack(corners, axis=-1), (sides[0], sides[1])


def _patch(pixels: np.ndarray, corner: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A part of an array (height, width, ...), zero beyond it."""
    patch = np.zeros((*size, *pixels.shape[2:]), pixels.dtype)
    starts = np.maximum(corner, 0)
    stops = np.minimum(corner + size, pixels.shape[:2])
    (top, left), (bottom, right) = starts - corner, stops - corner
    patch[top:bottom, left:right] = pixels[starts[0] : stops[0], starts[1] : stops[1]]
    return patch


def _filled(rows: np.ndarray, size: int) -> np.ndarray:
    """Rows, and as many copies of the first as `size` asks for."""
    return np.concatenate([rows, np.repeat(rows[:1], size - len(rows), axis=0)])


def _in_unit_range(images: np.ndarray) -> np.ndarray:
    images = np.asarray(images)
    return images.astype(np.float32) / (255.0 if images.dtype == np.uint8 else 1.0)


def _rolled(images: Array, shifts: Int[Array, "batch 2"]) -> Array:
    return jax.vmap(lambda image, shift: jnp.roll(image, shift, (0, 1)))(images, shifts)


def _normal(keys: Key[Array, " batch"], shape: tuple[int, ...]) -> Array:
    return jax.vmap(lambda key: jax.random.normal(key, shape))(keys)


def _blurred(images: Array, sigma: float) -> Array:
    """By a Gaussian, an axis at a time, the border's pixels repeated beyond it."""
    radius = min(round(_TRUNCATE * sigma), *(n for n in images.shape[1:3]))
    taps = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    channels = images.shape[-1]
    for shape in ((-1, 1, 1, 1), (1, -1, 1, 1)):
        kernel = jnp.asarray(taps / taps.sum(), images.dtype).reshape(shape)
        images = ops.conv(images, jnp.tile(kernel, channels), padding_mode="edge", groups=channels)
    return images
