"""Figures of feature visualization and attribution, computed in batches.

Results are computed from preprocessed images but drawn beside the images as people see them. Pixels of
a patch outside the image are drawn in the background color, which is neither black nor white.
"""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, cast, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt8
from PIL import Image

from deconv_jax.compilation import jit
from deconv_jax.data.sources import Source
from deconv_jax.errors import InputError, at_least
from deconv_jax.inference.interpretation.activations import LOGITS, max_batch_size
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
    maximize_activation,
    top_patches,
)
from deconv_jax.inference.interpretation.interpretable_model import InterpretableModel
from deconv_jax.inference.interpretation.relu_rules import ReluRule
from deconv_jax.training.state import Tree
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

Attribution = Literal[
    "gradient", "guided", "deconvnet", "integrated_gradients", "occlusion", "grad_cam"
]

DEFAULT_MAX_MAPS = 16
"""Default maximum number of feature maps of a layer."""

_PATCH_SIDE, _IMAGE_SIDE = 84, 160
"""Approximate longer side of a drawn patch and image, in pixels."""
_PROJECTION = "backprojection of the class score: positive (red) and negative (blue)"
_CAPTIONS: dict[Attribution, str] = {
    "gradient": "pixels that would make the class stronger (red) or weaker (blue) if lighter",
    "guided": _PROJECTION,
    "deconvnet": _PROJECTION,
    "integrated_gradients": "contribution of each pixel for the class (red) or against it (blue)",
    "occlusion": "regions whose occlusion makes the class weaker (red) or stronger (blue)",
    "grad_cam": "regions whose feature maps support the class (red)",
}
_GRAY = 0.5
_OCCLUSION_WINDOWS = 8
"""Number of adjacent occlusion windows along the shorter side of an image."""


def draw_top_patches(
    model: InterpretableModel,
    images: Float[np.ndarray, "count height width channels"] | Source | Sequence[Path],
    layers: Sequence[str],
    *,
    rule: ReluRule = "deconvnet",
    maps: int = DEFAULT_MAX_MAPS,
) -> Image.Image:
    """Draw the patches that activate each layer's feature maps most, beside their projections.

    As figure 2 of Zeiler and Fergus, arXiv:1311.2901. Each feature map has up to nine patches,
    whose projections share a scale. Feature maps and patches without activation are left out.

    Args:
      model: Network to interpret.
      images: Images in [0, 1], a split of the run's data, or image files.
      layers: Names of the layers, such as "conv1"; see `layer_shapes`.
      rule: Backward rule of the projections.
      maps: Maximum number of feature maps of a layer, those with the highest activations.

    Raises:
      InputError: There are no images, or a file cannot be read; there is no such layer, or no image
        activates it; `maps` is below 1; or the rule is not "gradient" and the network has other
        activations than ReLU layers.
    """
    for layer in layers:
        model.layer_shape(layer)
    sections = []
    for layer in layers:
        found = top_patches(
            model.model,
            model.variables,
            images if isinstance(images, np.ndarray) else model.iterate_images(images),
            layer,
            maps=maps,
            rule=rule,
            preprocess=model.preprocess,
        )
        active = [row for row, best in enumerate(found.activations[:, 0]) if best > 0]
        if not active:
            raise InputError(f"no image activates a feature map of {layer}")
        blocks = [_patch_block(found, row) for row in active]
        labels = [model.feature_map_name(layer, int(found.features[row])) for row in active]
        total = model.layer_shape(layer)[-1]
        caption = (
            f"{layer}, {len(active)} of {total} feature maps: patches that activate each most, and "
            f"their projections ({rule})"
        )
        sections.append(Section(caption, labels, blocks))
    return sheet(sections)


def draw_maximized_inputs(
    model: InterpretableModel, layers: Sequence[str], *, maps: int = DEFAULT_MAX_MAPS
) -> Image.Image:
    """Draw an image that maximizes each of a layer's first feature maps.

    Args:
      model: Network to interpret.
      layers: Names of the layers, such as "conv1"; see `layer_shapes`.
      maps: Maximum number of feature maps of a layer.

    Raises:
      InputError: `maps` is below 1, or there is no such layer.
    """
    at_least("maps", maps, 1)
    size = max_batch_size(model.image_shape[:2])
    sections = []
    for layer in layers:
        total = model.layer_shape(layer)[-1]
        features = np.arange(min(maps, total), dtype=np.int32)
        images = [
            maximize_activation(
                model.model,
                model.variables,
                Target(features[start : start + size], layer=layer),
                model.image_shape,
                preprocess=model.preprocess,
            )
            for start in range(0, len(features), size)
        ]
        blocks = [scale_to_side(image, _IMAGE_SIDE) for image in rgb_pixels(np.concatenate(images))]
        labels = [model.feature_map_name(layer, feature) for feature in features.tolist()]
        caption = f"{layer}, {len(features)} of {total} feature maps: images that maximize each"
        sections.append(Section(caption, labels, blocks))
    return sheet(sections)


def draw_attributions(
    model: InterpretableModel,
    images: Float[np.ndarray, "count height width channels"],
    names: Sequence[str],
    method: Attribution,
    *,
    layers: Sequence[str] = (),
    class_number: int | None = None,
) -> Image.Image:
    """Draw images beside maps of the evidence for a class, in red, and against it, in blue.

    Args:
      model: Network to interpret.
      images: Images in [0, 1], at least one.
      names: Names of the images.
      method: Attribution method; its values are summed over channels.
      layers: Layers of Grad-CAM, each with a map; () for the last one with height and width. Other
        methods ignore them.
      class_number: Class to explain; None for the predicted class of each image.

    Raises:
      InputError: The network has no classes, or not this class; it predicts a class per pixel and
        `class_number` is None; there is no such layer; or the method is "guided" or "deconvnet" and the
        network has other activations than ReLU layers.
    """
    classes, probabilities = _explained_classes(model, images, class_number)
    columns: Sequence[str | None] = [None]
    if method == "grad_cam":
        columns = layers or [model.last_spatial_layer()]
    attributions = [_attribute(model, images, classes, method, layer) for layer in columns]
    blocks, labels = [], []
    for index, pixels in enumerate(rgb_pixels(images)):
        maps = [red_blue_overlay(column[index], pixels) for column in attributions]
        blocks.append(hstack([scale_to_side(tile, _IMAGE_SIDE) for tile in (pixels, *maps)]))
        label = f"{names[index]}: {class_name(int(classes[index]), model.class_names)}"
        if probabilities is not None:
            label += f" {probabilities[index]:.3f}"
        labels.append(label)
    suffix = " of " + ", ".join(map(str, columns)) if method == "grad_cam" else ""
    caption = f"{method}{suffix}: {_CAPTIONS[method]}"
    return sheet([Section(caption, labels, blocks)])


def _patch_block(found: Patches, row: int) -> UInt8[np.ndarray, "height width 3"]:
    """Return the patches of a feature map beside their projections, without inactive ones."""
    largest = float(np.abs(found.projections[row]).max())
    blank = ~found.valid[row] | (found.activations[row] <= 0)[:, None, None]

    def grid(pixels: np.ndarray) -> np.ndarray:
        pairs = zip(pixels, blank, strict=True)
        tiles = [scale_to_side(blank_out(*pair), _PATCH_SIDE) for pair in pairs]
        return square_grid(np.stack(tiles))

    return hstack(
        [
            grid(rgb_pixels(found.patches[row])),
            grid(diverging_gray(found.projections[row], largest)),
        ]
    )


def _explained_classes(
    model: InterpretableModel, images: np.ndarray, class_number: int | None
) -> tuple[Int[np.ndarray, " count"], Float[np.ndarray, " count"] | None]:
    """Return the class of each image to explain, and its probability if images have classes."""
    if not model.num_classes:
        raise InputError(
            f"{type(model.model).__name__} does not predict classes; give a layer to show its "
            "feature maps"
        )
    if class_number is not None and not 0 <= class_number < model.num_classes:
        raise InputError(f"class must be from 0 to {model.num_classes - 1}; got {class_number}")
    if len(model.layer_shape(LOGITS)) != 1:
        if class_number is None:
            raise InputError("this network predicts a class per pixel; give the class (--class)")
        return np.full(len(images), class_number, np.int32), None

    @jit
    def predict(variables: Tree, images: Array) -> Array:
        logits = cast(Array, model.model.apply(variables, model.preprocess(images)))
        return jax.nn.softmax(logits)

    size = max_batch_size(images.shape[1:3])
    parts = [np.asarray(predict(model.variables, part)) for part in _split(images, size)]
    probabilities = np.concatenate(parts)
    classes = probabilities.argmax(axis=-1).astype(np.int32)
    if class_number is not None:
        classes = np.full_like(classes, class_number)
    return classes, np.take_along_axis(probabilities, classes[:, None], axis=1)[:, 0]


def _attribute(
    model: InterpretableModel,
    images: np.ndarray,
    classes: np.ndarray,
    method: Attribution,
    layer: str | None,
) -> Float[np.ndarray, "count height width"]:
    """Return the attribution maps of images, computed in batches."""
    attribute = jit(functools.partial(_attribute_batch, model, method, layer))
    size = max_batch_size(images.shape[1:3])
    parts = zip(_split(images, size), _split(classes, size), strict=True)
    return np.concatenate([np.asarray(attribute(model.variables, *part)) for part in parts])


def _attribute_batch(
    model: InterpretableModel,
    method: Attribution,
    layer: str | None,
    variables: Tree,
    images: Array,
    classes: Array,
) -> Float[Array, "batch height width"]:
    arguments = model.model, variables, model.preprocess(images), Target(classes)
    if method == "grad_cam":
        assert layer is not None
        return resize_to_images(images, grad_cam(*arguments, layer=layer))
    if method == "occlusion":
        window = max(2, min(images.shape[1:3]) // _OCCLUSION_WINDOWS)
        gray = model.preprocess(jnp.full_like(images, _GRAY))
        return occlusion(*arguments, window=window, stride=max(1, window // 4), fill=gray)
    if method == "integrated_gradients":
        black = model.preprocess(jnp.zeros_like(images))
        return jnp.sum(integrated_gradients(*arguments, baseline=black), -1)
    assert method in get_args(ReluRule)
    return jnp.sum(backprojection(*arguments, method), -1)


def _split(array: np.ndarray, size: int) -> list[np.ndarray]:
    return [array[start : start + size] for start in range(0, len(array), size)]
