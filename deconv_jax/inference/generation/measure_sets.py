"""Two sets of image files compared by the features of an extractor."""

import functools
from collections.abc import Callable, Iterable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from deconv_jax.compilation import jit
from deconv_jax.data.images import Color, read_pixels
from deconv_jax.errors import InputError
from deconv_jax.metrics.sample_quality import (
    PROTOCOL,
    ImageSetFeatures,
    concatenate_batches,
    sample_quality,
)
from deconv_jax.models.extractors import BUNDLED_CLASSIFIERS, INCEPTION_RESIZERS, Extractor
from deconv_jax.tasks.gan_evaluation import feature_rows

_BATCH = 64


def compare_sets(
    extractor: Extractor, images: ImageSetFeatures, reference: ImageSetFeatures
) -> dict[str, float]:
    """Return the metrics of `sample_quality` of a set of images, with the reference as the real images.

    Raises:
      InputError: A set is too small.
    """
    return sample_quality(reference, images, inception=extractor.name in INCEPTION_RESIZERS)


def describe_protocol(extractor: Extractor) -> str:
    """Return the protocol of `compare_sets` in words."""
    converted = "gray" if _color(extractor) == "gray" else "RGB"
    return (
        f"features of {extractor.description}; images converted to 8-bit {converted}; the second set is the "
        f"real one; {PROTOCOL}"
    )


def extract_features(
    extractor: Extractor,
    paths: Iterable[Path],
    on_image: Callable[[], None],
    on_error: Callable[[str], None],
) -> ImageSetFeatures:
    """Return the features of image files of any sizes, without those that cannot be read.

    Args:
      extractor: Feature extractor. Classifiers of gray images get the luma of color images.
      paths: Image files.
      on_image: Function that is called after each file.
      on_error: Function that is called with the message about a file that cannot be read.

    Raises:
      InputError: No file can be read.
    """
    batches: list[tuple[dict[str, np.ndarray], np.ndarray]] = []
    waiting: list[np.ndarray] = []

    def extract() -> None:
        mask = np.arange(_BATCH) < len(waiting)
        # Padded, so that the network is compiled once.
        padded = np.stack([*waiting, *[waiting[0]] * (_BATCH - len(waiting))])
        rows = _extract(extractor.apply, extractor.variables, padded)
        batches.append((jax.device_get(rows), mask))
        waiting.clear()

    for path in paths:
        try:
            pixels = read_pixels(path, _color(extractor))
        except InputError as error:
            on_error(str(error))
        else:
            waiting.append(np.asarray(_resize(extractor.resize, pixels)))
        if len(waiting) == _BATCH:
            extract()
        on_image()
    if waiting:
        extract()
    if not batches:
        raise InputError("none of the images can be read")
    return concatenate_batches(batches)


def _color(extractor: Extractor) -> Color:
    return "gray" if extractor.name in BUNDLED_CLASSIFIERS else "rgb"


@functools.partial(jit, static_argnums=0)
def _resize(resize: Callable[[Array], Array], pixels: Array) -> Array:
    return resize(jnp.asarray(pixels[None], jnp.float32) / 255.0)[0]


@functools.partial(jit, static_argnums=0)
def _extract(apply: Callable, variables: dict, images: Array) -> dict[str, Array]:
    return feature_rows(apply, variables, images)
