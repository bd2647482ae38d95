"""The protocol of views, which turn a batch into the images and annotations that a network sees."""

from typing import Protocol

from jaxtyping import Array, Key

from deconv_jax.data.batch import Batch

AnnotatedBatch = Batch
"""A batch as a view returns it.

"image" is float32 in [0, 1], "segments" int32, "boxes" and "box_class" are as in `Batch`; only "image" is
always there. Boxes are clipped to the image. Other features of the batch, such as "index", are left out."""


class View(Protocol):
    """A function from a batch to images with annotations. It is random only through its keys."""

    def __call__(self, keys: Key[Array, " batch"], batch: Batch, *, train: bool) -> AnnotatedBatch:
        """Return what the network sees.

        Args:
          keys: One key per example.
          batch: Images, and the annotations that the view requires.
          train: Whether to apply the random augmentation of training, if the view has any.

        Raises:
          InputError: The batch lacks a feature, or its shape is not valid.
        """
        ...
