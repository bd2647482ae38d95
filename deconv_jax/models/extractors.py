"""Named feature extractors for metrics of generated images.

- "mnist", "fashion" (Fashion-MNIST) and "digits" (the embedded digits) are small classifiers that
  come with the package. They were trained by configs of this project, and `pretrained/NAME.json`
  records their training. Their features are the 64 penultimate activations, divided by their root
  mean square on the training images.
- "inception" and "inception-clean" are the InceptionV3 of FID with two ways of resizing. Their
  weights are read from the file that $DECONV_JAX_INCEPTION names.
- "pixels" is the image at 8 x 8 pixels. It needs no weights, and distances of its features say
  little.

Note: Metrics computed with different extractors, or from different numbers of images, are not
comparable. Those of the small classifiers are not the FID of papers.
"""

import dataclasses
import functools
import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import safetensors.numpy
from flax.traverse_util import unflatten_dict
from jaxtyping import Array

from deconv_jax import ops
from deconv_jax.data.augment import center_resize
from deconv_jax.errors import InputError, did_you_mean
from deconv_jax.io import read_json
from deconv_jax.models.classifier import Classifier
from deconv_jax.models.inception import InceptionResize, load_inception, resize_for_inception

Tree = Any
BUNDLED_CLASSIFIERS = {"mnist": 28, "fashion": 28, "digits": 32}
"""Classifiers in the package, each with the side in pixels of its training images."""
INCEPTION_RESIZERS: dict[str, InceptionResize] = {"inception": "legacy", "inception-clean": "clean"}
"""Extractors that use InceptionV3, each with its image resizer."""
INCEPTION_WEIGHTS_ENV = "DECONV_JAX_INCEPTION"
"""Environment variable with the path of the Inception weights."""

PRETRAINED = Path(__file__).parent / "pretrained"
"""Folder of the classifiers' weights and records."""

_PIXELS = (8, 8)
FEATURE_SCALE = "feature_scale"
"""Name of the scale of the features in a file of weights."""


@dataclasses.dataclass(frozen=True, eq=False)
class Extractor:
    """A feature extractor.

    Attributes:
      name: Identifier in configs and result records.
      description: Description in result records.
      variables: Variables of the network, the first argument of `apply`.
      apply: Function (variables, images (batch, height, width, channels) in [0, 1]) -> (features
        (batch, dims), probabilities (batch, planes, classes)). It resizes the images itself.
        Classifiers of gray images treat every channel as a plane of its own, and concatenate the
        planes' features. Without a classifier, `planes` and `classes` are 0.
      resize: Function that resizes images for the network, as `apply` does. `apply` leaves resized
        images unchanged, so images of several sizes can share a batch.
    """

    name: str
    description: str
    variables: Tree
    apply: Callable[[Tree, Array], tuple[Array, Array]]
    resize: Callable[[Array], Array]


@functools.cache
def load_extractor(name: str) -> Extractor:
    """Return an extractor by name; the result is cached.

    Args:
      name: "mnist", "fashion" or "digits" for a classifier in the package; "inception" or
        "inception-clean" for InceptionV3 with weights from the file that $DECONV_JAX_INCEPTION
        names; "pixels" for the image at 8 x 8 pixels.

    Raises:
      InputError: Unknown name, or the weights of InceptionV3 are missing or damaged.
    """
    if name in INCEPTION_RESIZERS:
        return _inception(name)
    if name == "pixels":
        words = " x ".join(map(str, _PIXELS))
        return Extractor(name, f"pixels at {words}", {}, _pixels, _resize_to_pixels)
    if name not in BUNDLED_CLASSIFIERS:
        known = ("pixels", *BUNDLED_CLASSIFIERS, *INCEPTION_RESIZERS)
        raise InputError(f"no feature extractor {name!r}; {did_you_mean(name, known)}")
    record = read_json(PRETRAINED / f"{name}.json")
    fields: dict[str, Any] = dict(record["config"]["task"]["model"])
    del fields["name"]
    module = Classifier(**fields | {"features": tuple(fields["features"])})
    variables = unflatten_dict(
        safetensors.numpy.load((PRETRAINED / f"{name}.safetensors").read_bytes()), sep="/"
    )
    scale = float(variables.pop(FEATURE_SCALE))
    size = BUNDLED_CLASSIFIERS[name]
    accuracy = record["metrics"]["test"]["accuracy"]
    return Extractor(
        name,
        f"{name}, a classifier of this project of {100 * accuracy:.2f} % test accuracy, "
        f"{module.embedding_dim} penultimate activations over their root mean square",
        variables,
        functools.partial(_apply_classifier, module, size, scale),
        functools.partial(_resize_to_square, size),
    )


def _resize_to_pixels(images: Array) -> Array:
    return ops.resize(images, _PIXELS, method="bilinear", antialias=True)


def _pixels(variables: Tree, images: Array) -> tuple[Array, Array]:
    del variables
    small = _resize_to_pixels(images)
    return small.reshape(len(images), -1), jnp.zeros((len(images), 0, 0))


def _resize_to_square(size: int, images: Array) -> Array:
    return images if images.shape[1:3] == (size, size) else center_resize(images, (size, size))


def _apply_classifier(
    module: Classifier, size: int, scale: float, variables: Tree, images: Array
) -> tuple[Array, Array]:
    images = _resize_to_square(size, images)
    count, channels = len(images), images.shape[-1]
    planes = jnp.moveaxis(images, -1, 1).reshape(count * channels, size, size, 1)

    def embed_and_classify(module: Classifier, planes: Array) -> tuple[Array, Array]:
        features = module.embed(planes)
        return features, module.to_logits(features)

    features, logits = _apply(module, variables, planes, method=embed_and_classify)
    probabilities = jax.nn.softmax(logits)
    return features.reshape(count, -1) / scale, probabilities.reshape(count, channels, -1)


def _apply(module: nn.Module, variables: Tree, images: Array, **options: Any) -> Any:
    return module.apply(variables, images, **options)


def _inception(name: str) -> Extractor:
    path = Path(os.environ.get(INCEPTION_WEIGHTS_ENV, f"${INCEPTION_WEIGHTS_ENV}"))
    try:
        module, variables = load_inception(path)
    except InputError as error:
        raise InputError(f"${INCEPTION_WEIGHTS_ENV}: {error}") from error
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:16]

    def resize(images: Array) -> Array:
        return resize_for_inception(images, INCEPTION_RESIZERS[name])

    def apply(variables: Tree, images: Array) -> tuple[Array, Array]:
        features, _ = _apply(module, variables, resize(images))
        # The code of the Inception Score leaves out the bias of the logits.
        with jax.default_matmul_precision("highest"):
            logits = features @ variables["params"]["fc"]["kernel"]
        return features, jax.nn.softmax(logits)[:, None]

    description = f"InceptionV3, 2,048 features, {INCEPTION_RESIZERS[name]} resize, weights of SHA-256 {digest}..."
    return Extractor(name, description, jax.tree.map(jnp.asarray, variables), apply, resize)
