"""A classifier together with its deconvnet projections, as one function that is exported."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from deconv_jax.errors import InputError
from deconv_jax.export.functions import ModelFunction, Port
from deconv_jax.inference.interpretation.activations import LOGITS, feature_maps, layer_shapes
from deconv_jax.inference.interpretation.attribution import Target, deconvnet
from deconv_jax.inference.interpretation.interpretable_model import InterpretableModel

MAX_LAYERS = 3
"""Maximum number of layers whose strongest unit is projected."""


def inside_function(name: str, subject: InterpretableModel) -> ModelFunction:
    """Return a classifier as a function of an image and a class.

    Its outputs are the class probabilities, the deconvnet projection of the class, and for each of
    `projected_layers` the projection of the unit with the largest activation in the image. Equal largest units
    are projected together.

    Args:
      name: Name of the function.
      subject: Classifier.

    Raises:
      InputError: The images of the classifier do not have one channel.
    """
    if subject.image_shape[-1] != 1:
        raise InputError(
            f"the page draws gray images; the classifier expects {subject.image_shape[-1]} channels"
        )
    image = Port(
        "image", ("batch", *subject.image_shape), "image in [0, 1]", is_map=True, draw=_uniform
    )
    meaning = f"class to project, 0 to {subject.num_classes - 1}"
    draw = functools.partial(_integers, subject.num_classes)
    chosen = Port("class", ("batch",), meaning, dtype="int32", draw=draw)
    layers = projected_layers(subject)
    meanings = {
        "probabilities": "probability of each class",
        "projection": "deconvnet projection of the class, of any sign",
    } | {layer: f"projection of the strongest unit of {layer}, of any sign" for layer in layers}
    apply = functools.partial(_apply, subject, layers)
    return ModelFunction(name, "classification", (image, chosen), apply, meanings)


def projected_layers(subject: InterpretableModel) -> tuple[str, ...]:
    """Return the names of up to three layers with height and width, from the first to the last."""
    images = jax.ShapeDtypeStruct((1, *subject.image_shape), jnp.float32)
    shapes = layer_shapes(subject.model, subject.variables, images)
    names = [name for name, shape in shapes.items() if len(shape) == 3 and name != LOGITS]
    if not names:
        return ()
    places = np.linspace(0, len(names) - 1, min(len(names), MAX_LAYERS)).round().astype(int)
    return tuple(names[place] for place in places)


def _apply(
    subject: InterpretableModel, layers: tuple[str, ...], images: jax.Array, classes: jax.Array
) -> dict[str, jax.Array]:
    model, variables = subject.model, subject.variables
    x = subject.preprocess(images)
    (logits,) = feature_maps(model, variables, x, LOGITS)

    def strongest(layer: str, x: jax.Array) -> jax.Array:
        (maps,) = feature_maps(model, variables, x, layer, rule="deconvnet")
        peak = jnp.max(maps, axis=(1, 2, 3), keepdims=True)
        return jnp.sum(jnp.where(maps >= peak, maps, 0.0))

    projections: dict[str, Any] = {
        layer: jax.grad(functools.partial(strongest, layer))(x) for layer in layers
    }
    return {
        "probabilities": jax.nn.softmax(logits),
        "projection": deconvnet(model, variables, x, Target(classes)),
        **projections,
    }


def _uniform(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return rng.random(shape, np.float32)


def _integers(count: int, rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return rng.integers(count, size=shape, dtype=np.int32)
