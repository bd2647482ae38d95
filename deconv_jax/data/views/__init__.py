"""Views: how the device turns a batch into the images and annotations that a network sees.

`AnnotatedView` takes the annotations of the data set, and augments images and annotations together in training.
`DigitScenes` draws scenes with exact annotations.

Note:
  A view is random only through its keys. Evaluation keys depend only on the examples' indices, so every
  evaluation sees the same images.
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
    """Return the view of a training batch, with keys folded from the seed, the step and the batch's "index".

    It has "image", and "segments", "boxes" and "box_class" if the view provides them, but not "index" or "label".

    Raises:
      InputError: The batch lacks a feature that the view requires, or its shape is not valid.
    """
    keys = training_keys(seed, step, batch["index"])
    return view(keys, batch, train=True)


def evaluation_view(view: View, batch: Mapping[str, Array]) -> AnnotatedBatch:
    """Return the view of an evaluation batch, without augmentation, the same in every step and run.

    Keys depend only on the batch's "index". The features are those of `training_view`, and so are the errors.
    """
    keys = evaluation_keys(VIEW_EVALUATION_SEED, batch["index"])
    return view(keys, batch, train=False)
