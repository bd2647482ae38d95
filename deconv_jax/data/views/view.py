"""What is known of an image beside its pixels, and the protocol of what makes it of a batch.

A view is a function of keys and of nothing else that is random. The views themselves are named in
`views`.
"""

from collections.abc import Mapping
from typing import Any, Protocol

import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, Key

IGNORED = 255
"""The class of pixels that are neither learnt from nor measured."""
Annotated = Mapping[str, Array]
"""float32 "image" (batch, height, width, channels) in [0, 1] and, as there are, int32 "segments" (batch,
height, width) and float32 "boxes" (batch, most, 4) with int32 "box_class" (batch, most); the meaning is
that of `training.task.Batch`. Boxes are of whole objects as far as they lie in the image."""


class View(Protocol):
    """Images with annotations, of a batch."""

    def __call__(
        self, keys: Key[Array, " batch"], batch: Mapping[str, Array], *, train: bool
    ) -> Annotated:
        """What a network is to see.

        Args:
          keys: one an example.
          batch: see `training.task.Batch`.
          train: whether it is learnt from: images may then be moved, turned and changed.

        Raises:
          InputError: the batch lacks what the view is made of, or its shape does not fit.
        """
        ...


def true_sizes(batch: Mapping[str, Any]) -> Any:
    """Height and width of what is true of each image of a batch, (batch, 2); see `task.Batch`."""
    images = batch["image"]
    if "size" in batch:
        return batch["size"]
    return jnp.tile(jnp.array([images.shape[1:3]]), (len(images), 1))


def within(shape: tuple[int, int], size: Int[Array, " 2"]) -> Bool[Array, "height width"]:
    """Which pixels of an image of a shape are true, if its height and width are those of `size`."""
    rows, columns = (jnp.arange(n) for n in shape)
    return (rows < size[0])[:, None] & (columns < size[1])[None]
