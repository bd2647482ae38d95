"""Views: what a batch of a data set becomes, on the device, before a network sees it.

A view gives float images in [0, 1] and what is known of them: the class of each pixel, boxes about
objects. `Recorded` takes images and annotations as the data set has them, and moves them together in
training; `DigitScenes` draws both. What a reader would get wrong: a view is a function of keys and of
nothing else that is random, so in evaluation, where the keys are folded from the examples' places
alone, every pass sees the same images.
"""

from collections.abc import Mapping
from typing import Protocol

import jax
from jaxtyping import Array, Key

from deconv_jax.data.augment import example_keys

IGNORED = 255
"""The class of pixels that are neither learnt from nor measured."""
Annotated = Mapping[str, Array]
"""float32 "image" (batch, height, width, channels) in [0, 1] and, as there are, int32 "segments" (batch,
height, width) and float32 "boxes" (batch, most, 4) with int32 "box_class" (batch, most); the meaning is
that of `training.task.Batch`. Boxes are of whole objects as far as they lie in the image."""

_EVALUATION_SEED = 0


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


def training_view(view: View, batch: Mapping[str, Array], seed: int, step: Array) -> Annotated:
    """The view of a batch at a step, by keys folded from the seed, the step and the example's place."""
    keys = example_keys(jax.random.fold_in(jax.random.key(seed), step), batch["index"])
    return view(keys, batch, train=True)


def evaluation_view(view: View, batch: Mapping[str, Array]) -> Annotated:
    """The view of a batch to be measured, the same at every step and in every run."""
    keys = example_keys(jax.random.key(_EVALUATION_SEED), batch["index"])
    return view(keys, batch, train=False)


VIEWS: dict[str, type] = {}
