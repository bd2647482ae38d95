"""A trained network with all that interpretation needs to know about its images and classes."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from deconv_jax.data.batch import Batch
from deconv_jax.data.images import Color, read_pixels
from deconv_jax.data.pipeline import evaluation_batches
from deconv_jax.data.sources import Source
from deconv_jax.errors import InputError
from deconv_jax.inference.interpretation.activations import (
    LOGITS,
    last_spatial_layer,
    layer_shape,
    max_batch_size,
)
from deconv_jax.inference.interpretation.feature_visualization import Preprocess
from deconv_jax.training.state import Tree
from deconv_jax.viz.overlays import class_name


@dataclasses.dataclass(frozen=True, eq=False)
class InterpretableModel:
    """A trained network, and how its images are read and preprocessed.

    Attributes:
      model: Network that takes only images.
      variables: Variables of the network.
      image_shape: Height, width and channels of the images.
      images_from_batch: Function from a batch of the network's data to images in [0, 1] of that shape, as in
        evaluation.
      image_from_pixels: Function from the pixels of an image file to an image in [0, 1] of that shape.
      color: Color mode in which to read image files.
      preprocess: Preprocessing of images for the network.
      num_classes: Number of classes of the logits; 0 if the network has no classes.
      class_names: Names of the classes; () if they have none.
    """

    model: nn.Module
    variables: Tree
    image_shape: tuple[int, int, int]
    images_from_batch: Callable[[Batch], Array]
    image_from_pixels: Callable[[UInt8[np.ndarray, "height width channels"]], np.ndarray]
    color: Color
    preprocess: Preprocess
    num_classes: int = 0
    class_names: tuple[str, ...] = ()

    def iterate_images(
        self, source: Source | Sequence[Path]
    ) -> Iterator[Float[np.ndarray, "batch height width channels"]]:
        """Yield batches of all images of a split or of files, in order, in [0, 1] as `image_shape`.

        Batches have at most 64 images, fewer if images are large.

        Raises:
          InputError: A file cannot be read.
        """
        size = max_batch_size(self.image_shape[:2])
        if isinstance(source, Sequence):
            for start in range(0, len(source), size):
                yield self.read_images(source[start : start + size])
            return
        # The images of a split may be larger than their views.
        first = source.gather(np.zeros(1, np.int32))["image"]
        size = min(size, max_batch_size(first.shape[1:3]))
        for batch in evaluation_batches(source, batch_size=size):
            real = batch["mask"] > 0
            yield np.asarray(self.images_from_batch(jax.tree.map(jnp.asarray, batch)))[real]

    def read_images(
        self, files: Sequence[Path]
    ) -> Float[np.ndarray, "count height width channels"]:
        """Return the images of files, in [0, 1] as `image_shape`.

        Args:
          files: Paths of at least one file.

        Raises:
          InputError: A file cannot be read, or `image_from_pixels` refuses it.
        """
        images = []
        for file in files:
            pixels = read_pixels(file, self.color)
            try:
                images.append(self.image_from_pixels(pixels))
            except InputError as error:
                raise InputError(f"{file}: {error}") from error
        return np.stack(images)

    def layer_shape(self, layer: str) -> tuple[int, ...]:
        """Return the shape of a layer's feature map for one image, (*space, features).

        Raises:
          InputError: There is no such layer.
        """
        return layer_shape(self.model, self.variables, self._images_like(), layer)

    def last_spatial_layer(self) -> str:
        """Return the name of the last layer with height and width, other than the output.

        Raises:
          InputError: There is no such layer.
        """
        return last_spatial_layer(self.model, self.variables, self._images_like())

    def feature_map_name(self, layer: str, feature: int) -> str:
        """Return the label of a feature map: the class for the logits, such as "cat" or "class 3".

        For another layer, or a network without classes, return the index, such as "map 3".
        """
        if layer != LOGITS or not self.num_classes:
            return f"map {feature}"
        name = class_name(feature, self.class_names)
        return name if self.class_names else f"class {name}"

    def _images_like(self) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((1, *self.image_shape), jnp.float32)
