"""A view of annotated images, augmented together with their annotations in training.

One random warp per example maps the image, the classes of its pixels and its boxes. It is centered on the valid
region.

Note:
  A warped box is the axis-aligned bounds of the box, not of the object, whose outline is unknown. Rotation
  therefore makes boxes looser.
"""

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key

from deconv_jax.data.augment import random_brightness_contrast
from deconv_jax.data.batch import IGNORED, valid_mask, valid_sizes
from deconv_jax.data.views.view import AnnotatedBatch
from deconv_jax.data.warp import RandomWarp
from deconv_jax.errors import InputError


@dataclasses.dataclass(frozen=True)
class AnnotatedView(RandomWarp):
    """A `View` of "image" with the "segments" and "boxes" of the batch.

    Evaluation has no augmentation, crop included. Pixels outside the valid region have class `IGNORED`. Fields
    not listed here are the geometric augmentation of `RandomWarp`.

    Attributes:
      brightness: Maximum change of brightness, in units of [0, 1], below 1.
      contrast: Maximum deviation of the contrast factor from 1, below 1.
    """

    brightness: float = 0.0
    contrast: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("brightness", "contrast"):
            if not 0 <= getattr(self, name) < 1:
                raise InputError(
                    f"{name} must be at least 0 and below 1; got {getattr(self, name)}"
                )

    def __call__(
        self, keys: Key[Array, " batch"], batch: Mapping[str, Array], *, train: bool
    ) -> AnnotatedBatch:
        """Return "image" in [0, 1], and "segments", "boxes" and "box_class" if the batch has them.

        In training, rows of boxes that lose more than 70% of their area become 0, with class -1.

        Raises:
          InputError: In training, the images are smaller than the crop, or not square for `dihedral` without
            crop.
        """
        images = batch["image"].astype(jnp.float32) / 255.0
        sizes = valid_sizes(batch)
        seen = {"image": images}
        if "segments" in batch:
            _, height, width, _ = images.shape
            inside = jax.vmap(lambda size: valid_mask((height, width), size))(sizes)
            seen["segments"] = jnp.where(inside, batch["segments"].astype(jnp.int32), IGNORED)
        if "boxes" in batch:
            seen["boxes"] = batch["boxes"].astype(jnp.float32)
            seen["box_class"] = batch["box_class"].astype(jnp.int32)
        if not train:
            return seen
        self.check(images.shape[1:3])
        return jax.vmap(self._augment)(keys, sizes, seen)

    def _augment(
        self, key: Key[Array, ""], size: Array, seen: dict[str, Array]
    ) -> dict[str, Array]:
        place, light = jax.random.split(key)
        image = seen["image"]
        if self.brightness or self.contrast:
            image = random_brightness_contrast(light, image, size, self.brightness, self.contrast)
        if not self.is_active:
            return seen | {"image": image}
        warp = self.draw(place, (image.shape[0], image.shape[1]), size)
        changed = {"image": warp.image(image)}
        if "segments" in seen:
            changed["segments"] = warp.segments(seen["segments"], IGNORED)
        if "boxes" in seen:
            boxes, kept = warp.boxes(seen["boxes"])
            kept &= seen["box_class"] >= 0
            changed["boxes"] = jnp.where(kept[:, None], boxes, 0.0)
            changed["box_class"] = jnp.where(kept, seen["box_class"], -1)
        return changed
