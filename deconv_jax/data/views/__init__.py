"""Views: what a batch of a data set becomes, on the device, before a network sees it.

A view gives float images in [0, 1] and what is known of them: the class of each pixel, boxes about
objects. `AnnotatedView` takes images and annotations as the data set has them, and moves them together in
training; `DigitScenes` draws both. What a reader would get wrong: a view is a function of keys and of
nothing else that is random, so in evaluation, where the keys are folded from the examples' places
alone, every pass sees the same images.
"""

from collections.abc import Mapping

import jax
from jaxtyping import Array

from deconv_jax.data.augment import example_keys
from deconv_jax.data.batch import IGNORED
from deconv_jax.data.views.annotated_view import AnnotatedView
from deconv_jax.data.views.digit_scenes import DigitScenes
from deconv_jax.data.views.view import AnnotatedBatch, View

__all__ = [
    "IGNORED",
    "VIEWS",
    "AnnotatedBatch",
    "AnnotatedView",
    "DigitScenes",
    "View",
    "evaluation_view",
    "training_view",
]

_EVALUATION_SEED = 0

VIEWS: dict[str, type] = {"annotated": AnnotatedView, "digit_scenes": DigitScenes}


def training_view(view: View, batch: Mapping[str, Array], seed: int, step: Array) -> AnnotatedBatch:
    """The view of a batch at a step, by keys folded from the seed, the step and the example's place."""
    keys = example_keys(jax.random.fold_in(jax.random.key(seed), step), batch["index"])
    return view(keys, batch, train=True)


def evaluation_view(view: View, batch: Mapping[str, Array]) -> AnnotatedBatch:
    """The view of a batch to be measured, the same at every step and in every run."""
    keys = example_keys(jax.random.key(_EVALUATION_SEED), batch["index"])
    return view(keys, batch, train=False)
