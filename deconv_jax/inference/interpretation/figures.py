"""A trained network looked into: what its units look for, and what in an image speaks for a class.

What a reader would get wrong: maps are made of images as the network takes them and are shown beside
images as people see them; and what of a patch is beyond the image is no pixel, neither black nor white.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt8
from PIL import Image

from deconv_jax.compilation import jit
from deconv_jax.data.batch import Batch
from deconv_jax.data.images import Color, read_pixels
from deconv_jax.data.pipeline import evaluation_batches
from deconv_jax.data.sources import Source
from deconv_jax.errors import InputError, at_least
from deconv_jax.inference.interpretation.activations import (
    LOGITS,
    Rule,
    check_layer,
    last_spatial_layer,
    max_batch_size,
)
from deconv_jax.inference.interpretation.attribution import (
    Target,
    backprojection,
    grad_cam,
    integrated_gradients,
    occlusion,
    resize_to_images,
)
from deconv_jax.inference.interpretation.feature_visualization import (
    Patches,
    Prepare,
    maximise_activation,
    top_patches,
)
from deconv_jax.viz.overlays import class_name
from deconv_jax.viz.panels import (
    Section,
    blank_out,
    diverging_gray,
    hstack,
    red_blue_overlay,
    scale_to_side,
    sheet,
    square_grid,
)
from deconv_jax.viz.pixels import rgb_pixels

Tree = Any
Attribution = Literal[
    "gradient", "guided", "deconvnet", "integrated_gradients", "occlusion", "grad_cam"
]

MAPS = 16
"""Feature maps of a layer that are shown."""

_PATCH, _IMAGE = 84, 160
"""Pixels of the longer side of a patch and of an image, about."""
_PROJECTED = "the class projected to pixels, light (red) and dark (blue)"
_CAPTIONS: dict[Attribution, str] = {
    "gradient": "pixels that, were they lighter, would make the class stronger (red) or weaker (blue)",
    "guided": _PROJECTED,
    "deconvnet": _PROJECTED,
    "integrated_gradients": "how much of the class is by each pixel: for it (red), against it (blue)",
    "occlusion": "what, where it is covered, makes the class weaker (red) or stronger (blue)",
    "grad_cam": "where feature maps speak for the class (red)",
}
_GRAY = 0.5
_WINDOWS = 8
"""Squares of occlusion along the shorter side of an image, if they did not overlap."""


@dataclasses.dataclass(frozen=True, eq=False)
class InterpretableModel:
    """A network that is looked into.

    Attributes:
      model, variables: called with images alone.
      image_shape: height, width and channels of the images that it is shown.
      seen: makes images in [0, 1] of that shape of a batch of its data, as in evaluation.
      fitted: likewise of the pixels of an image file.
      color: what image files are read as.
      prepare: what images go through before the network.
      classes: that its logits are of, 0 for none.
      class_names: of them; () for their numbers.
    """

    model: nn.Module
    variables: Tree
    image_shape: tuple[int, int, int]
    seen: Callable[[Batch], Array]
    fitted: Callable[[UInt8[np.ndarray, "height width channels"]], np.ndarray]
    color: Color
    prepare: Prepare
    classes: int = 0
    class_names: tuple[str, ...] = ()

    def iterate_images(
        self, source: Source | Sequence[Path]
    ) -> Iterator[Float[np.ndarray, "batch height width channels"]]:
        """All images of a split or of files, in order; raises InputError for a file that cannot be."""
        size = max_batch_size(self.image_shape[:2])
        if isinstance(source, Sequence):
            for start in range(0, len(source), size):
                yield self.read_images(source[start : start + size])
            return
        # Those of the split may be larger than what is shown of them.
        first = source.gather(np.zeros(1, np.int32))["image"]
        for batch in evaluation_batches(
            source, batch_size=min(size, max_batch_size(first.shape[1:3]))
        ):
            real = batch["mask"] > 0
            yield np.asarray(self.seen(jax.tree.map(jnp.asarray, batch)))[real]

    def read_images(
        self, files: Sequence[Path]
    ) -> Float[np.ndarray, "count height width channels"]:
        """Image files as the network is shown them; raises InputError for one that cannot be."""
        images = []
        for file in files:
            pixels = read_pixels(file, self.color)
            try:
                images.append(self.fitted(pixels))
            except InputError as error:
                raise InputError(f"{file}: {error}") from error
        return np.stack(images)

    def check_layer(self, layer: str) -> tuple[int, ...]:
        """The shape of a layer's feature maps; raises InputError where there is no such layer."""
        return check_layer(self.model, self.variables, self._shape(), layer)

    def last_spatial_layer(self) -> str:
        """The last layer with height and width; raises InputError where there is none."""
        return last_spatial_layer(self.model, self.variables, self._shape())

    def map_name(self, layer: str, feature: int) -> str:
        """What a feature map is called."""
        if layer != LOGITS or not self.classes:
            return f"map {feature}"
        name = class_name(feature, self.class_names)
        return name if self.class_names else f"class {name}"

    def _shape(self) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((1, *self.image_shape), jnp.float32)


def draw_top_patches(
    subject: InterpretableModel,
    images: Float[np.ndarray, "count height width channels"] | Source | Sequence[Path],
    layers: Sequence[str],
    *,
    rule: Rule = "deconvnet",
    maps: int = MAPS,
) -> Image.Image:
    """Of each layer's strongest feature maps the patches that excite them, beside their projections.

    As figure 2 of Zeiler and Fergus, arXiv:1311.2901. The projections of a feature map are on one scale.

    Args:
      subject: the network.
      images: in [0, 1], a split of the run's data, or image files.
      layers: their names, see `inside`.
      rule: of the projection.
      maps: feature maps of a layer, at most.

    Raises:
      InputError: as `units.top_patches`, or no image excites any unit of a layer.
    """
    for layer in layers:
        subject.check_layer(layer)
    sections = []
    for layer in layers:
        found = top_patches(
            subject.model,
            subject.variables,
            images if isinstance(images, np.ndarray) else subject.iterate_images(images),
            layer,
            maps=maps,
            rule=rule,
            prepare=subject.prepare,
        )
        active = [row for row, best in enumerate(found.activations[:, 0]) if best > 0]
        if not active:
            raise InputError(f"no image excites a feature map of {layer}")
        blocks = [_patch_block(found, row) for row in active]
        labels = [subject.map_name(layer, int(found.features[row])) for row in active]
        total = subject.check_layer(layer)[-1]
        caption = (
            f"{layer}, {len(active)} of {total} feature maps: patches that excite each most, and "
            f"projections ({rule})"
        )
        sections.append(Section(caption, labels, blocks))
    return sheet(sections)


def draw_maximised_inputs(
    subject: InterpretableModel, layers: Sequence[str], *, maps: int = MAPS
) -> Image.Image:
    """Images made to excite each of a layer's first feature maps, see `units.maximise_activation`.

    Raises:
      InputError: as `units.maximise_activation`, or no feature map is asked for.
    """
    at_least("maps", maps, 1)
    size = max_batch_size(subject.image_shape[:2])
    sections = []
    for layer in layers:
        total = subject.check_layer(layer)[-1]
        features = np.arange(min(maps, total), dtype=np.int32)
        made = [
            maximise_activation(
                subject.model,
                subject.variables,
                Target(features[start : start + size], layer=layer),
                subject.image_shape,
                prepare=subject.prepare,
            )
            for start in range(0, len(features), size)
        ]
        blocks = [scale_to_side(image, _IMAGE) for image in rgb_pixels(np.concatenate(made))]
        labels = [subject.map_name(layer, feature) for feature in features.tolist()]
        caption = f"{layer}, {len(features)} of {total} feature maps: images made to excite each"
        sections.append(Section(caption, labels, blocks))
    return sheet(sections)


def draw_attributions(
    subject: InterpretableModel,
    images: Float[np.ndarray, "count height width channels"],
    names: Sequence[str],
    method: Attribution,
    *,
    layers: Sequence[str] = (),
    class_number: int | None = None,
) -> Image.Image:
    """Images beside maps of what in them speaks for a class, in red, and against it, in blue.

    Args:
      subject: the network.
      images: in [0, 1].
      names: of the images.
      method: see `visualize`. Of colours the sum is shown.
      layers: of Grad-CAM, a map for each; () for the last one with height and width.
      class_number: which class; None for the one that is predicted for each image.

    Raises:
      InputError: the network has no classes or not this one, or it has one for each pixel and
        `class_number` is None; or as the method does.
    """
    classes, probabilities = _classes(subject, images, class_number)
    wanted: Sequence[str | None] = [None]
    if method == "grad_cam":
        wanted = layers or [subject.last_spatial_layer()]
    columns = [_attributed(subject, images, classes, method, layer) for layer in wanted]
    blocks, labels = [], []
    for place, pixels in enumerate(rgb_pixels(images)):
        maps = [red_blue_overlay(column[place], pixels) for column in columns]
        blocks.append(hstack([scale_to_side(tile, _IMAGE) for tile in (pixels, *maps)]))
        label = f"{names[place]}: {class_name(int(classes[place]), subject.class_names)}"
        if probabilities is not None:
            label += f" {probabilities[place]:.3f}"
        labels.append(label)
    named = " of " + ", ".join(map(str, wanted)) if method == "grad_cam" else ""
    caption = f"{method}{named}: {_CAPTIONS[method]}"
    return sheet([Section(caption, labels, blocks)])


def _patch_block(found: Patches, row: int) -> UInt8[np.ndarray, "height width 3"]:
    """Patches of a feature map beside their projections; those that excite nothing are left out."""
    largest = float(np.abs(found.projections[row]).max())
    blank = ~found.inside[row] | (found.activations[row] <= 0)[:, None, None]

    def tiles(pixels: np.ndarray) -> np.ndarray:
        pairs = zip(pixels, blank, strict=True)
        return square_grid(np.stack([scale_to_side(blank_out(*pair), _PATCH) for pair in pairs]))

    return hstack(
        [
            tiles(rgb_pixels(found.patches[row])),
            tiles(diverging_gray(found.projections[row], largest)),
        ]
    )


def _classes(
    subject: InterpretableModel, images: np.ndarray, wanted: int | None
) -> tuple[Int[np.ndarray, " count"], Float[np.ndarray, " count"] | None]:
    """The class of each image that is asked about, and its probability where the image has one."""
    if not subject.classes:
        raise InputError(
            f"{type(subject.model).__name__} does not say the class of an image; give a layer to see "
            "what its units look for"
        )
    if wanted is not None and not 0 <= wanted < subject.classes:
        raise InputError(f"a class is from 0 to {subject.classes - 1}; got {wanted}")
    if len(subject.check_layer(LOGITS)) != 1:
        if wanted is None:
            raise InputError(
                "this network says the class of each pixel; give the class to look for (--class)"
            )
        return np.full(len(images), wanted, np.int32), None

    @jit
    def predicted(variables: Tree, images: Array) -> Array:
        logits: Any = subject.model.apply(variables, subject.prepare(images))
        return jax.nn.softmax(logits)

    parts = [np.asarray(predicted(subject.variables, part)) for part in _parts(images)]
    probabilities = np.concatenate(parts)
    classes = probabilities.argmax(axis=-1).astype(np.int32)
    if wanted is not None:
        classes = np.full_like(classes, wanted)
    return classes, np.take_along_axis(probabilities, classes[:, None], axis=1)[:, 0]


def _attributed(
    subject: InterpretableModel,
    images: np.ndarray,
    classes: np.ndarray,
    method: Attribution,
    layer: str | None,
) -> Float[np.ndarray, "count height width"]:
    explain = jit(functools.partial(_explain, subject, method, layer))
    parts = zip(_parts(images), _parts(classes, images), strict=True)
    return np.concatenate([np.asarray(explain(subject.variables, *part)) for part in parts])


def _explain(
    subject: InterpretableModel,
    method: Attribution,
    layer: str | None,
    variables: Tree,
    images: Array,
    classes: Array,
) -> Float[Array, "batch height width"]:
    seen = subject.prepare(images), Target(classes)
    network = subject.model, variables
    if method == "grad_cam":
        assert layer is not None
        return resize_to_images(images, grad_cam(*network, *seen, layer=layer))
    if method == "occlusion":
        window = max(2, min(images.shape[1:3]) // _WINDOWS)
        gray = subject.prepare(jnp.full_like(images, _GRAY))
        return occlusion(*network, *seen, window=window, stride=max(1, window // 4), fill=gray)
    if method == "integrated_gradients":
        black = subject.prepare(jnp.zeros_like(images))
        return jnp.sum(integrated_gradients(*network, *seen, baseline=black), -1)
    assert method in get_args(Rule)
    return jnp.sum(backprojection(*network, *seen, method), -1)


def _parts(array: np.ndarray, images: np.ndarray | None = None) -> list[np.ndarray]:
    """Rows of an array for as many images as are looked at together."""
    size = max_batch_size((array if images is None else images).shape[1:3])
    return [array[start : start + size] for start in range(0, len(array), size)]
