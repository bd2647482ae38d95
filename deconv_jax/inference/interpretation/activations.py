"""The layers inside a network, found by running it, and what each of their units sees.

Any module made of `models.layers` will do: the n-th convolution, transposed convolution or upsampling
layer to run is "convN", the n-th dense layer "denseN", and a layer's feature map is what the `Activation`
that follows it makes, or its own output where none follows before the next layer. "logits" is what the
module returns, where that is one array. What a reader would get wrong: layers are counted as they run,
not as parameters are named; and an activation that the module calls as a function, not as a layer,
cannot be found: its own gradient is used, and rules that need another refuse the network.

A feature map is an array (batch, *space, features); that of a dense layer has no space.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, get_args

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Literal as JaxprLiteral
from jaxtyping import Array, Bool, Float, Int

from deconv_jax import ops
from deconv_jax.compilation import jit
from deconv_jax.errors import InputError, did_you_mean
from deconv_jax.models.layers import Activation, Conv, ConvTranspose, Dense, PReLU, Unpool, Upsample
from deconv_jax.models.normalization import Norm

Tree = Any
Rule = Literal["gradient", "guided", "deconvnet"]
"""How a ReLU hands back what comes from above.

"gradient": where its input was positive. "deconvnet": where what comes is positive (Zeiler & Fergus,
arXiv:1311.2901, section 2.1: the signal is rectified on its way down). "guided": where both are
(Springenberg et al., arXiv:1412.6806, figure 1).
"""

LOGITS = "logits"
BATCH = 64
"""Images at a time, at most."""

_PIXELS = 2**20
"""Of the images at a time, if there is more than one."""
_SPATIAL = (Conv, ConvTranspose, Upsample)
_DENSE = (Dense, nn.Dense)
_LAYERS = _SPATIAL + _DENSE
_ACTIVATIONS = (Activation, PReLU)
_COLLECTION = "inside"
_RETURNED = -1
"""The call of the module itself."""
_FUNCTIONS = frozenset({"relu", "relu6", "leaky_relu", "elu", "gelu", "silu", "selu"})
_PRIMITIVES = frozenset({"tanh", "logistic", "erf"})
_LOOPS = frozenset({"scan", "while"})
_LEAST_MARK = 1e-3


@dataclasses.dataclass(frozen=True)
class Layer:
    """A layer, as a run of the network shows it.

    Attributes:
      shape: of an image's feature map, (*space, features).
      call: which of the calls that are listened to makes the feature map.
      before: kinds of the activations that run up to and with that call.
    """

    shape: tuple[int, ...]
    call: int
    before: tuple[str, ...]


def max_batch_size(size: Sequence[int]) -> int:
    """Images of a height and width that are looked at together."""
    return max(1, min(BATCH, _PIXELS // math.prod(size)))


def layer_shapes(model: nn.Module, variables: Tree, images: Any) -> dict[str, tuple[int, ...]]:
    """Names of a network's layers and the shapes of an image's feature maps, in the order they run.

    Args:
      model: called with images alone.
      variables: its "params" and what else it has.
      images: (batch, height, width, channels); only the shape matters.
    """
    return {name: layer.shape for name, layer in _layers(model, variables, images).items()}


def check_layer(model: nn.Module, variables: Tree, images: Any, layer: str) -> tuple[int, ...]:
    """The shape of an image's feature map of a layer; arguments as for `layer_shapes`.

    Raises:
      InputError: there is no such layer; those it has are named.
    """
    return _find(_layers(model, variables, images), layer).shape


def last_spatial_layer(model: nn.Module, variables: Tree, images: Any) -> str:
    """The last layer with height and width; arguments as for `layer_shapes`.

    Raises:
      InputError: there is none.
    """
    shapes = layer_shapes(model, variables, images)
    names = [name for name, shape in shapes.items() if len(shape) == 3 and name != LOGITS]
    if not names:
        raise InputError(f"this network has no convolution; its layers are {', '.join(shapes)}")
    return names[-1]


def feature_maps(
    model: nn.Module,
    variables: Tree,
    images: Float[Array, "batch height width channels"],
    *layers: str,
    rule: Rule = "gradient",
    shift: Mapping[str, Array] | None = None,
    before_activation: bool = False,
) -> tuple[Float[Array, "batch *space features"], ...]:
    """The feature maps of layers, to be differentiated by the images.

    Args:
      model, variables: as for `layer_shapes`.
      images: as the network takes them.
      layers: their names.
      rule: what the gradient of each ReLU up to the last of the layers is replaced by.
      shift: what is added to the feature map of a layer before the network goes on with it, so that
        what follows can be differentiated by it.
      before_activation: take what goes into the activation, where one makes the feature map.

    Raises:
      InputError: no such layer, no such rule, or a rule other than "gradient" and an activation that is
        no ReLU, or is a function and no layer.
    """
    if rule not in get_args(Rule):
        raise InputError(f"no rule {rule!r}; {did_you_mean(rule, get_args(Rule))}")
    known = _layers(model, variables, images)
    found = {name: _find(known, name) for name in layers}
    shifts = {_find(known, name).call: value for name, value in (shift or {}).items()}

    def change(call: int, module: nn.Module, args: Any, compute: Callable[..., Array]) -> Array:
        relu = isinstance(module, Activation) and module.kind == "relu"
        output = _RECTIFIERS[rule](*args) if relu and rule in _RECTIFIERS else compute(*args)
        return output + shifts[call] if call in shifts else output

    def run(images: Array) -> dict[str, Array]:
        return _run(model, variables, images, found, change, before_activation=before_activation)

    if rule != "gradient":
        _check_activations(found, rule)
        _check_functions(run, images, rule)
    maps = run(images)
    return tuple(maps[name] for name in layers)


def receptive_windows(
    model: nn.Module, variables: Tree, images: Any, layer: str
) -> tuple[Int[np.ndarray, "rows 2"], Int[np.ndarray, "columns 2"]]:
    """The pixels that units of a layer see: first and last row for each of its rows, and columns.

    A row of ones is followed through the network, with positive numbers for weights, without
    activations and normalisation, and anything that is not zero after a layer is one again: what is
    not zero in the end depends on that row. So windows are exact for any arrangement of layers, skips and
    branches included. They are cut off at the image's border; one that sees nothing is (0, -1). A
    layer without space has one row and one column.

    Args and errors as for `check_layer`.
    """
    size = images.shape[1:3]
    at_once = max_batch_size(size)
    wanted = {layer: _find(_layers(model, variables, images), layer)}
    weights = jax.tree_util.tree_map_with_path(_plain_weight, variables)

    @jit
    def marked(marks: Array) -> Array:
        output = _run(model, weights, marks, wanted, _marked)[layer]
        # Of a module's own output, what it makes of nothing may not be zero.
        return jnp.abs(output[1:] - output[:1]) > _LEAST_MARK

    def windows(axis: int) -> np.ndarray:
        found = []
        for start in range(0, size[axis], at_once):
            lines = np.arange(start, start + at_once)
            ones = lines[:, None] == np.arange(size[axis])
            ones = np.concatenate([np.zeros((1, size[axis]), bool), ones])
            spread = ones[:, :, None, None] if axis == 0 else ones[:, None, :, None]
            marks = np.broadcast_to(spread, (len(ones), *images.shape[1:]))
            outputs = np.asarray(marked(marks.astype(np.float32)))
            found.append(_of_lines(outputs, axis)[: size[axis] - start])
        return _extents(np.concatenate(found))

    return windows(0), windows(1)


def _of_lines(outputs: Bool[np.ndarray, "marked *map"], axis: int) -> Bool[np.ndarray, "marked n"]:
    """Whether any unit in each line of an axis is marked."""
    if outputs.ndim < 4:
        return outputs.reshape(len(outputs), -1).max(axis=1, keepdims=True)
    return outputs.max(axis=(2 - axis, 3))


def _extents(sees: Bool[np.ndarray, "pixels units"]) -> Int[np.ndarray, "units 2"]:
    first = sees.argmax(axis=0)
    last = len(sees) - 1 - sees[::-1].argmax(axis=0)
    return np.where(sees.max(axis=0)[:, None], np.stack([first, last], axis=-1), [[0, -1]])


Change = Callable[[int, nn.Module, Any, Callable[..., Array]], Array]
"""(number of the call, module, its arguments, what it would do with them) -> its output."""


def _heard(change: Change) -> Any:
    """A context in which `change` stands for what layers do."""
    count: Iterator[int] = itertools.count()

    def intercept(next_fun: Any, args: Any, kwargs: Any, context: Any) -> Any:
        kinds = (*_LAYERS, *_ACTIVATIONS, Norm, Unpool)
        if context.method_name != "__call__" or not isinstance(context.module, kinds):
            return next_fun(*args, **kwargs)
        compute = functools.partial(next_fun, **kwargs)
        return change(next(count), context.module, args, compute)

    return nn.intercept_methods(intercept)


def _layers(model: nn.Module, variables: Tree, images: Any) -> dict[str, Layer]:
    found: dict[str, Layer] = {}
    counts = {"conv": itertools.count(1), "dense": itertools.count(1)}
    kinds: list[str] = []
    waiting = ""

    def listen(call: int, module: nn.Module, args: Any, compute: Callable[..., Array]) -> Array:
        nonlocal waiting
        output = compute(*args)
        if isinstance(module, _LAYERS):
            word = "dense" if isinstance(module, _DENSE) else "conv"
            waiting = f"{word}{next(counts[word])}"
        elif isinstance(module, _ACTIVATIONS):
            kinds.append(module.kind if isinstance(module, Activation) else "prelu")
        else:
            return output
        if waiting:
            found[waiting] = Layer(output.shape[1:], call, tuple(kinds))
        if isinstance(module, _ACTIVATIONS):
            waiting = ""
        return output

    def run(variables: Tree, images: Array) -> Any:
        with _heard(listen):
            return model.apply(variables, images)

    output = jax.eval_shape(run, variables, jax.ShapeDtypeStruct(images.shape, jnp.float32))
    if isinstance(output, jax.ShapeDtypeStruct):
        found[LOGITS] = Layer(output.shape[1:], _RETURNED, tuple(kinds))
    return found


def _find(layers: Mapping[str, Layer], name: str) -> Layer:
    if name not in layers:
        raise InputError(f"this network has no layer {name!r}; it has {', '.join(layers)}")
    return layers[name]


def _run(
    model: nn.Module,
    variables: Tree,
    images: Array,
    layers: Mapping[str, Layer],
    change: Change,
    *,
    before_activation: bool = False,
) -> dict[str, Array]:
    """The feature maps of layers, with `change` in the place of what layers do."""
    wanted = {layer.call: name for name, layer in layers.items()}

    def keep(call: int, module: nn.Module, args: Any, compute: Callable[..., Array]) -> Array:
        output = change(call, module, args, compute)
        if call in wanted:
            taken = args[0] if before_activation and isinstance(module, _ACTIVATIONS) else output
            # As a variable, which also comes out of a module that is computed anew (`nn.remat`).
            module.sow(_COLLECTION, wanted[call], taken)
        return output

    with _heard(keep):
        output, kept = model.apply(variables, images, mutable=[_COLLECTION])
    maps: dict[str, Any] = {LOGITS: output}
    for path, value in jax.tree_util.tree_leaves_with_path(kept):
        maps[path[-2].key] = value  # A tuple of one under the name.
    return {name: maps[name] for name in layers}


def _check_activations(layers: Mapping[str, Layer], rule: Rule) -> None:
    for name, layer in layers.items():
        others = sorted(set(layer.before) - {"relu"})
        if others:
            raise InputError(
                f'rule "{rule}" is of networks of ReLUs; up to {name} this one has {others[0]!r}; '
                'take rule "gradient" (--method gradient)'
            )


def _check_functions(run: Callable[[Array], Any], images: Any, rule: Rule) -> None:
    """Raises InputError where what is computed has an activation that is no layer."""
    jaxpr = jax.make_jaxpr(run)(jax.ShapeDtypeStruct(images.shape, jnp.float32)).jaxpr
    names = _activation_functions(jaxpr, [True] * len(jaxpr.outvars))
    if names:
        raise InputError(
            f'rule "{rule}" needs every activation to be an `Activation` layer; this network calls '
            f'the function {names[0]}; take rule "gradient" (--method gradient)'
        )


def _activation_functions(jaxpr: Any, needed: Sequence[bool]) -> list[str]:
    """Return the activation functions on which the `needed` outputs of a jaxpr depend, in order."""
    outputs = zip(jaxpr.outvars, needed, strict=True)
    live = {v for v, is_needed in outputs if is_needed and not isinstance(v, JaxprLiteral)}
    found: list[str] = []
    for equation in reversed(jaxpr.eqns):
        needed = [v in live for v in equation.outvars]
        if not any(needed):
            continue
        live.update(v for v in equation.invars if not isinstance(v, JaxprLiteral))
        name = equation.primitive.name
        if name.startswith("custom_vjp"):
            continue  # a ReLU with the rule
        names = [*({name} & _PRIMITIVES), *({equation.params.get("name")} & _FUNCTIONS)]
        for parameter in equation.params.values():
            inner = getattr(parameter, "jaxpr", parameter)
            if hasattr(inner, "eqns"):
                count = len(inner.outvars)
                one_to_one = count == len(needed) and name not in _LOOPS
                names += _activation_functions(inner, needed if one_to_one else [True] * count)
        found = names + found
    return found


@jax.custom_vjp
def _deconvnet_relu(x: Array) -> Array:
    return jax.nn.relu(x)


_deconvnet_relu.defvjp(lambda x: (jax.nn.relu(x), None), lambda _, g: (jax.nn.relu(g),))


@jax.custom_vjp
def _guided_relu(x: Array) -> Array:
    return jax.nn.relu(x)


_guided_relu.defvjp(
    lambda x: (jax.nn.relu(x), x > 0), lambda on, g: (jnp.where(on, jax.nn.relu(g), 0),)
)

_RECTIFIERS: dict[str, Callable[[Array], Array]] = {
    "deconvnet": _deconvnet_relu,
    "guided": _guided_relu,
}


def _plain_weight(path: Sequence[Any], weight: Array) -> Array:
    """What stands for a weight to see what depends on what: a kernel's are positive, with no two equal.

    So neither their sums nor those of a kernel of which the mean is taken off are zero at the
    border of what they are summed over.
    """
    name = getattr(path[-1], "key", None)
    if name == "kernel":
        *taps, first, second = weight.shape
        ramp = 1 + np.arange(weight.size, dtype=np.float32) / weight.size
        # Sums stay near one, far from both `_LEAST_MARK` and rounding errors of large numbers.
        return jnp.asarray(ramp.reshape(weight.shape) / (math.prod(taps) * min(first, second)))
    return jnp.zeros_like(weight) if name == "bias" else weight


def _marked(call: int, module: Any, args: Any, compute: Callable[..., Array]) -> Array:
    """What a layer makes of marks, see `receptive_windows`."""
    del call
    x = args[0]
    if isinstance(module, _LAYERS):
        return (jnp.abs(compute(x)) > _LEAST_MARK).astype(x.dtype)
    if isinstance(module, Unpool):
        size = {"output_size": args[1]}
        # To anywhere in its window.
        return ops.avg_unpool(
            x, module.window, stride=module.stride, padding=module.padding, **size
        )
    if isinstance(module, Norm) and module.kind == "group":
        # It has statistics of the whole image.
        return jnp.broadcast_to(jnp.max(jnp.abs(x), range(1, x.ndim), keepdims=True), x.shape)
    return x
