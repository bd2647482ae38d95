"""Named feature extractors: what a measure of generated images looks at them with.

A Fréchet distance is a figure only together with the network whose features it compares. Three small
classifiers come with the package, trained by configs of this project, each with the record of its
training (`pretrained/NAME.json`): "mnist", "fashion" (Fashion-MNIST) and "digits" (the embedded
ones). Their features are the 64 penultimate activations, over a constant that makes their mean
square 1 on the images that they were trained on. "inception" and "inception-clean" are the network of
the field's FID, with two ways to resize; the user's copy of its weights is the file that
$DECONV_JAX_INCEPTION names. "pixels" needs no weights and means little: the image at 8 x 8 pixels.

What a reader would get wrong: figures of different extractors, or of different numbers of images,
cannot be compared, and those of the small classifiers are not the FID of papers.
"""

import dataclasses
import functools
import hashlib
import json
import os
from collections.abc import Callable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import Array

from deconv_jax import ops
from deconv_jax.data.augment import center_resize
from deconv_jax.errors import InputError, did_you_mean
from deconv_jax.io import write_atomically
from deconv_jax.models.classifier import Classifier
from deconv_jax.models.inception import InceptionResize, load_inception, resize_for_inception

Tree = Any
BUNDLED_CLASSIFIERS = {"mnist": 28, "fashion": 28, "digits": 32}
"""Classifiers in the package, and the sides in pixels of the images that they were trained on."""
INCEPTION: dict[str, InceptionResize] = {"inception": "legacy", "inception-clean": "clean"}
INCEPTION_WEIGHTS_ENV = "DECONV_JAX_INCEPTION"
"""The environment variable that names the file of the Inception weights."""

_PIXELS = (8, 8)
_SCALE = "feature_scale"


@dataclasses.dataclass(frozen=True, eq=False)
class Extractor:
    """A network as a measure's eye.

    Attributes:
      name: as a record gives it.
      description: what a record's protocol says of it.
      variables: of the network, to be handed to `apply`.
      apply: (variables, images (batch, height, width, channels) in [0, 1]) ->
        (features (batch, dims), probabilities (batch, planes, classes)). Classifiers of gray images
        look at each channel by itself, a plane; `planes` and `classes` are 0 where there are none.
    """

    name: str
    description: str
    variables: Tree
    apply: Callable[[Tree, Array], tuple[Array, Array]]


@functools.cache
def load_extractor(name: str) -> Extractor:
    """The extractor called `name`, see the module.

    Raises:
      InputError: no such extractor, or the file of its weights is missing or damaged.
    """
    if name in INCEPTION:
        return _inception(name)
    if name == "pixels":
        size = " x ".join(map(str, _PIXELS))
        return Extractor(name, f"pixels at {size}", {}, _pixels)
    if name not in BUNDLED_CLASSIFIERS:
        raise InputError(
            f"no feature extractor {name!r}; {did_you_mean(name, ('pixels', *BUNDLED_CLASSIFIERS, *INCEPTION))}"
        )
    folder = resources.files("deconv_jax.models") / "pretrained"
    record = json.loads((folder / f"{name}.json").read_text())
    fields: dict[str, Any] = dict(record["config"]["task"]["model"])
    del fields["name"]
    module = Classifier(**fields | {"features": tuple(fields["features"])})
    variables = unflatten_dict(
        safetensors.numpy.load((folder / f"{name}.safetensors").read_bytes()), sep="/"
    )
    scale = float(variables.pop(_SCALE))
    accuracy = record["metrics"]["test"]["accuracy"]
    return Extractor(
        name,
        f"{name}, a classifier of this project of {100 * accuracy:.2f} % test accuracy, "
        f"{module.embedding_dim} penultimate activations over their root mean square",
        variables,
        functools.partial(
            _classified, module, (BUNDLED_CLASSIFIERS[name], BUNDLED_CLASSIFIERS[name]), scale
        ),
    )


def save_extractor(path: Path, variables: Mapping[str, Any], scale: float) -> None:
    """Writes a classifier as a safetensors file that `load_extractor` reads.

    Args:
      path: of the file.
      variables: of the classifier.
      scale: root mean square of its penultimate activations.
    """
    flat = flatten_dict({**variables, _SCALE: scale}, sep="/")
    data = safetensors.numpy.save({k: np.asarray(v, np.float32) for k, v in flat.items()})
    write_atomically(path, lambda file: file.write(data))


def _pixels(variables: Tree, images: Array) -> tuple[Array, Array]:
    del variables
    small = ops.resize(images, _PIXELS, method="bilinear", antialias=True)
    return small.reshape(len(images), -1), jnp.zeros((len(images), 0, 0))


def _classified(
    module: Classifier, size: tuple[int, int], scale: float, variables: Tree, images: Array
) -> tuple[Array, Array]:
    if images.shape[1:3] != size:
        images = center_resize(images, size)
    count, channels = len(images), images.shape[-1]
    planes = jnp.moveaxis(images, -1, 1).reshape(count * channels, *size, 1)

    def embed_and_classify(module: Classifier, planes: Array) -> tuple[Array, Array]:
        features = module.embed(planes)
        return features, module.to_logits(features)

    features, logits = _apply(module, variables, planes, method=embed_and_classify)
    probabilities = jax.nn.softmax(logits)
    return features.reshape(count, -1) / scale, probabilities.reshape(count, channels, -1)


def _apply(
    module: nn.Module, variables: Tree, images: Array, **options: Any
) -> tuple[Array, Array]:
    return module.apply(variables, images, **options)  # type: ignore[return-value]


def _inception(name: str) -> Extractor:
    path = Path(os.environ.get(INCEPTION_WEIGHTS_ENV, f"${INCEPTION_WEIGHTS_ENV}"))
    try:
        module, variables = load_inception(path)
    except InputError as error:
        raise InputError(f"${INCEPTION_WEIGHTS_ENV}: {error}") from error
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:16]

    def apply(variables: Tree, images: Array) -> tuple[Array, Array]:
        features, _ = _apply(module, variables, resize_for_inception(images, INCEPTION[name]))
        # The Inception Score's code leaves the bias of the logits out.
        with jax.default_matmul_precision("highest"):
            logits = features @ variables["params"]["fc"]["kernel"]
        return features, jax.nn.softmax(logits)[:, None]

    description = (
        f"InceptionV3, 2,048 features, {INCEPTION[name]} resize, weights of SHA-256 {digest}..."
    )
    return Extractor(name, description, jax.tree.map(jnp.asarray, variables), apply)
