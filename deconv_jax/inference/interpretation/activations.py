"""Layers of a network and their feature maps, found by intercepting a forward pass.

This works for any module made of `models.layers`. Layers are numbered in the order in which they run,
not in the order of their parameters:

    convN    n-th convolution, transposed convolution or upsampling layer
    denseN   n-th dense layer
    logits   output of the module, if it is a single array

A layer's feature map is the output of the `Activation` that follows it before the next layer, or else
its own output. It has shape (batch, *space, features), where dense layers have no spatial axes.

Note: An activation that the module calls as a function (`jax.nn.relu`) rather than as an `Activation`
layer cannot be intercepted. Rules other than "gradient" refuse such a network.
"""

import contextlib
import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from deconv_jax.errors import InputError, check_choice
from deconv_jax.inference.interpretation.relu_rules import (
    RELU_RULES,
    ReluRule,
    check_no_activation_functions,
    check_only_relus,
)
from deconv_jax.models.layers import Activation, Conv, ConvTranspose, Dense, PReLU, Unpool, Upsample
from deconv_jax.models.normalization import Norm
from deconv_jax.training.state import Tree

LOGITS = "logits"
MAX_BATCH = 64
"""Maximum number of images per batch."""
SPATIAL_LAYERS = (Conv, ConvTranspose, Upsample)
DENSE_LAYERS = (Dense, nn.Dense)

_MAX_PIXELS = 2**20
"""Maximum number of pixels of a batch of several images."""
_ACTIVATIONS = (Activation, PReLU)
_INTERCEPTED = (*SPATIAL_LAYERS, *DENSE_LAYERS, *_ACTIVATIONS, Norm, Unpool)
_COLLECTION = "feature_maps"
_OUTPUT = -1
"""Index that stands for the output of the module itself."""

Replacement = Callable[[int, nn.Module, Any, Callable[..., Array]], Array]
"""(index of the call, layer, its arguments, its computation) -> output to use instead."""


class HasShape(Protocol):
    """Images, or a description of their shape."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape (batch, height, width, channels)."""
        ...


@dataclasses.dataclass(frozen=True)
class Layer:
    """A layer, as found in a forward pass.

    Attributes:
      shape: Shape of its feature map for one image, (*space, features).
      call_index: Index of the intercepted call that returns the feature map.
      activations: Kinds of the activations that run up to and including that call.
    """

    shape: tuple[int, ...]
    call_index: int
    activations: tuple[str, ...]


def max_batch_size(size: Sequence[int]) -> int:
    """Return the number of images of this height and width to process at once.

    It is at most 64 (`MAX_BATCH`) and keeps a batch below 2^20 pixels, but is at least 1.
    """
    return max(1, min(MAX_BATCH, _MAX_PIXELS // math.prod(size)))


def layer_shapes(model: nn.Module, variables: Tree, images: HasShape) -> dict[str, tuple[int, ...]]:
    """Return the shape of each layer's feature map for one image, by name.

    Layers are in the order in which they run: "conv1", "dense1" and so on. The last is "logits", the output
    of the module, if it is a single array.

    Args:
      model: Network that takes only images.
      variables: Variables of the network.
      images: Images (batch, height, width, channels); only their shape matters.
    """
    layers = find_layers(model, variables, images)
    return {name: layer.shape for name, layer in layers.items()}


def layer_shape(model: nn.Module, variables: Tree, images: HasShape, layer: str) -> tuple[int, ...]:
    """Return the shape of a layer's feature map for one image, (*space, features).

    Args:
      model: Network that takes only images.
      variables: Variables of the network.
      images: Images (batch, height, width, channels); only their shape matters.
      layer: Name of the layer.

    Raises:
      InputError: There is no such layer.
    """
    return get_layer(find_layers(model, variables, images), layer).shape


def last_spatial_layer(model: nn.Module, variables: Tree, images: HasShape) -> str:
    """Return the name of the last layer with height and width, other than the output.

    Args:
      model: Network that takes only images.
      variables: Variables of the network.
      images: Images (batch, height, width, channels); only their shape matters.

    Raises:
      InputError: There is no such layer.
    """
    shapes = layer_shapes(model, variables, images)
    names = [name for name, shape in shapes.items() if len(shape) == 3 and name != LOGITS]
    if not names:
        raise InputError(f"this network has no spatial layer; its layers are {', '.join(shapes)}")
    return names[-1]


def feature_maps(
    model: nn.Module,
    variables: Tree,
    images: Float[Array, "batch height width channels"],
    *layers: str,
    rule: ReluRule = "gradient",
    shift: Mapping[str, Array] | None = None,
    before_activation: bool = False,
) -> tuple[Float[Array, "batch *space features"], ...]:
    """Return the feature maps of layers, in their given order, as differentiable functions of the images.

    A feature map is the output of the activation after the layer, or of a layer without one.

    Args:
      model: Network that takes only images.
      variables: Variables of the network.
      images: Preprocessed images.
      layers: Names of the layers, such as "conv1", "dense1" or "logits"; see `layer_shapes`.
      rule: Backward rule of every ReLU.
      shift: Array to add to the feature map of a layer, by name. Differentiating with respect to it
        gives the gradient with respect to the feature map.
      before_activation: Whether to return the input of the activation, if there is one, instead of its
        output.

    Raises:
      InputError: There is no such layer or rule, or the rule is not "gradient" and the network has an
        activation up to these layers that is not a ReLU or not an `Activation` layer.
    """
    check_choice("rule", rule, ReluRule)
    known = find_layers(model, variables, images)
    found = {name: get_layer(known, name) for name in layers}
    shifts = {get_layer(known, name).call_index: value for name, value in (shift or {}).items()}

    def replace(call: int, module: nn.Module, args: Any, compute: Callable[..., Array]) -> Array:
        is_relu = isinstance(module, Activation) and module.kind == "relu"
        output = RELU_RULES[rule](*args) if is_relu and rule in RELU_RULES else compute(*args)
        return output + shifts[call] if call in shifts else output

    def run(images: Array) -> dict[str, Array]:
        return run_with_replacements(
            model, variables, images, found, replace, before_activation=before_activation
        )

    if rule != "gradient":
        check_only_relus({name: layer.activations for name, layer in found.items()}, rule)
        check_no_activation_functions(run, images.shape, rule)
    maps = run(images)
    return tuple(maps[name] for name in layers)


def find_layers(model: nn.Module, variables: Tree, images: HasShape) -> dict[str, Layer]:
    """Return the layers of a network by name, in the order in which they run.

    Args:
      model: Network that takes only images.
      variables: Variables of the network.
      images: Images (batch, height, width, channels); only their shape matters.
    """
    found: dict[str, Layer] = {}
    counts = {"conv": itertools.count(1), "dense": itertools.count(1)}
    activations: list[str] = []
    current = ""

    def record(call: int, module: nn.Module, args: Any, compute: Callable[..., Array]) -> Array:
        nonlocal current
        output = compute(*args)
        if isinstance(module, SPATIAL_LAYERS + DENSE_LAYERS):
            kind = "dense" if isinstance(module, DENSE_LAYERS) else "conv"
            current = f"{kind}{next(counts[kind])}"
        elif isinstance(module, _ACTIVATIONS):
            activations.append(module.kind if isinstance(module, Activation) else "prelu")
        else:
            return output
        if current:
            found[current] = Layer(output.shape[1:], call, tuple(activations))
        if isinstance(module, _ACTIVATIONS):
            current = ""
        return output

    def run(variables: Tree, images: Array) -> Any:
        with _intercept(record):
            return model.apply(variables, images)

    output = jax.eval_shape(run, variables, jax.ShapeDtypeStruct(images.shape, jnp.float32))
    if isinstance(output, jax.ShapeDtypeStruct):
        found[LOGITS] = Layer(output.shape[1:], _OUTPUT, tuple(activations))
    return found


def get_layer(layers: Mapping[str, Layer], name: str) -> Layer:
    """Return a layer by name.

    Raises:
      InputError: There is no such layer.
    """
    if name not in layers:
        raise InputError(f"this network has no layer {name!r}; it has {', '.join(layers)}")
    return layers[name]


def run_with_replacements(
    model: nn.Module,
    variables: Tree,
    images: Array,
    layers: Mapping[str, Layer],
    replace: Replacement,
    *,
    before_activation: bool = False,
) -> dict[str, Array]:
    """Run a network with the computation of its layers replaced, and return feature maps by name.

    Args:
      model: Network that takes only images.
      variables: Variables of the network.
      images: Preprocessed images.
      layers: Layers whose feature maps are returned, by name.
      replace: Function that computes the output of each layer.
      before_activation: Whether to return the input of an activation instead of its output.
    """
    names = {layer.call_index: name for name, layer in layers.items()}

    def keep(call: int, module: nn.Module, args: Any, compute: Callable[..., Array]) -> Array:
        output = replace(call, module, args, compute)
        if call in names:
            is_activation = isinstance(module, _ACTIVATIONS)
            value = args[0] if before_activation and is_activation else output
            # `sow` also works inside `nn.remat`, where a Python side effect would leak tracers.
            module.sow(_COLLECTION, names[call], value)
        return output

    with _intercept(keep):
        output, kept = model.apply(variables, images, mutable=[_COLLECTION])
    maps: dict[str, Any] = {LOGITS: output}
    for path, value in jax.tree_util.tree_leaves_with_path(kept):
        maps[path[-2].key] = value  # `sow` stores a tuple with one element under the name.
    return {name: maps[name] for name in layers}


def _intercept(replace: Replacement) -> contextlib.AbstractContextManager[Any]:
    """Return a context in which `replace` computes the outputs of layers."""
    count: Iterator[int] = itertools.count()

    def intercept(next_fun: Any, args: Any, kwargs: Any, context: Any) -> Any:
        if context.method_name != "__call__" or not isinstance(context.module, _INTERCEPTED):
            return next_fun(*args, **kwargs)
        compute = functools.partial(next_fun, **kwargs)
        return replace(next(count), context.module, args, compute)

    return nn.intercept_methods(intercept)
