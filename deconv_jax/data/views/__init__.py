"""Views: what a batch of a data set becomes, on the device, before a network sees it.

A view gives float images in [0, 1] and what is known of them: the class of each pixel, boxes about
objects. `AnnotatedView` takes images and annotations as the data set has them, and moves them together in
training; `DigitScenes` draws both. What a reader would get wrong: a view is a function of keys and of
nothing else that is random, so in evaluation, where the keys are folded from the examples' places
alone, every pass sees the same images.
"""

from collections.abc import Mapping

from jaxtyping import Array

from deconv_jax.data.batch import IGNORED
from deconv_jax.data.random_keys import VIEW_EVALUATION_SEED, evaluation_keys, training_keys
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

VIEWS: dict[str, type] = {"annotated": AnnotatedView, "digit_scenes": DigitScenes}


def training_view(view: View, batch: Mapping[str, Array], seed: int, step: Array) -> AnnotatedBatch:
    """The view of a batch at a step, by keys folded from the seed, the step and the example's place."""
    keys = training_keys(seed, step, batch["index"])
    return view(keys, batch, train=True)


def evaluation_view(view: View, batch: Mapping[str, Array]) -> AnnotatedBatch:
    """The view of a batch to be measured, the same at every step and in every run."""
    keys = evaluation_keys(VIEW_EVALUATION_SEED, batch["index"])
    return view(keys, batch, train=False)
