"""The networks of a training step, their layers, and the multiply-adds of each layer.

A step is traced with a `jax.named_scope` around every method of a Flax module, so the name stack of each
convolution and matrix product, also of its derivatives, ends in the module that it belongs to.
"""

import contextlib
import dataclasses
import math
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import flax
import flax.linen as nn
import jax

from deconv_jax.cost.multiply_adds import FLOPS_PER_MULTIPLY_ADD, products
from deconv_jax.errors import InputError
from deconv_jax.models.receptive_field import ReceptiveField
from deconv_jax.training.state import Tree

Path = tuple[str, ...]
_SCOPE = re.compile(r"layer<(\w+):([^<>]*)>")


@dataclasses.dataclass(frozen=True)
class Layer:
    """A module with parameters, convolutions or matrix products of its own.

    Attributes:
      name: Path of the module in the network, such as "layer_0/Conv_0"; "" for the network itself.
      output_shapes: Shapes of its outputs for one example, without the batch axis, over all its calls.
      parameters: Number of its parameters.
      forward_flops: FLOPs of the forward pass of one example.
      training_flops: FLOPs of a training step, divided by the batch size.
      activation_bytes: Size of its outputs for one example.
    """

    name: str
    output_shapes: tuple[tuple[int, ...], ...]
    parameters: int
    forward_flops: int
    training_flops: float
    activation_bytes: int


@dataclasses.dataclass(frozen=True)
class Network:
    """A network of a training step.

    Attributes:
      name: Name of its class.
      input_shapes: Shapes of its inputs for one example, without the batch axis.
      layers: Layers in the order of their first call.
      training_activation_bytes: Size of the outputs of all layers for one training example.
      training_product_bytes: The same, of the layers with FLOPs only.
      receptive_field: Receptive field of an output pixel; None if the network does not define it.
      apply: Function from variables and inputs for a batch to the output of the network in evaluation.
      arguments: Abstract arguments of `apply` for `examples`.
      examples: Smallest number of examples that the network accepts; 1 unless it compares examples.
    """

    name: str
    input_shapes: tuple[tuple[int, ...], ...]
    layers: tuple[Layer, ...]
    training_activation_bytes: int
    training_product_bytes: int
    receptive_field: ReceptiveField | None
    apply: Callable[..., Any]
    arguments: tuple[Any, ...]
    examples: int

    def total(self, field: str) -> Any:
        """Return the sum of a field of `Layer` over all layers."""
        return sum(getattr(layer, field) for layer in self.layers)


@dataclasses.dataclass(frozen=True)
class _Call:
    """The application of a network, outside of other modules."""

    module: nn.Module
    method: str
    variables: Tree
    inputs: tuple[Any, ...]
    options: Mapping[str, Any]


def trace_step(
    step: Callable[..., Any],
    state: Any,
    batch: Mapping[str, jax.ShapeDtypeStruct],
    size: tuple[int, int] | None = None,
) -> tuple[tuple[Network, ...], int]:
    """Trace a training step and the forward pass of each of its networks.

    Args:
      step: Training step, a function of state and batch.
      state: Abstract state.
      batch: Abstract batch, by name.
      size: Height and width of the images of the forward passes; None for those of the step. Networks without
        images, such as generators, keep their inputs.

    Returns:
      The networks, and the FLOPs of a step that belong to no network.

    Raises:
      InputError: No network takes images, or one does not accept images of `size`.
    """
    batch_size = next(iter(batch.values())).shape[0]
    calls: list[_Call] = []
    with _layer_scopes(calls=calls):
        jaxpr = jax.make_jaxpr(step)(state, batch)
    flops: dict[str, dict[Path, int]] = defaultdict(lambda: defaultdict(int))
    for scope, count in products(jaxpr):
        name, path = _layer_of(scope)
        flops[name][path] += FLOPS_PER_MULTIPLY_ADD * count

    first = {(type(call.module).__name__, call.method): call for call in reversed(calls)}
    merged: dict[str, list[_Call]] = defaultdict(list)
    for (name, _), call in reversed(first.items()):
        merged[name].append(call)
    if size is not None and not any(_takes_images(call) for call in first.values()):
        raise InputError(f"no network takes images, so their size is that of {', '.join(merged)}")
    networks = [_network(name, own, flops.pop(name), batch_size) for name, own in merged.items()]
    if size is not None:
        networks = [
            dataclasses.replace(network, **_resized(network, merged[network.name], size))
            for network in networks
        ]
    return tuple(networks), sum(count for paths in flops.values() for count in paths.values())


def _network(
    name: str, calls: Sequence[_Call], training: Mapping[Path, int], batch_size: int
) -> Network:
    """Return a network with its layers at the size of training."""
    forward = _Forward.trace(calls, None)
    parameters = _parameters(calls[0].variables["params"], forward.outputs)
    layers = []
    for path in [*forward.outputs, *(path for path in training if path not in forward.outputs)]:
        flops = training.get(path, 0)
        if parameters[path] or forward.flops[path] or flops:
            of_forward = forward.layer(path)
            layers.append(
                Layer(
                    "/".join(path),
                    parameters=parameters[path],
                    training_flops=flops / batch_size,
                    **of_forward,
                )
            )
    sizes = [(layer.activation_bytes, layer.forward_flops) for layer in layers]
    return Network(
        name,
        forward.input_shapes,
        tuple(layers),
        sum(size for size, _ in sizes),
        sum(size for size, flops in sizes if flops),
        _receptive_field(calls[0].module),
        forward.apply,
        forward.arguments,
        forward.examples,
    )


def _resized(network: Network, calls: Sequence[_Call], size: tuple[int, int]) -> dict[str, Any]:
    """Return the fields of a network that depend on the size of the forward pass, for another size."""
    with _size_errors(network.name, size):
        forward = _Forward.trace(calls, size)
    layers = [
        dataclasses.replace(layer, **forward.layer(tuple(filter(None, layer.name.split("/")))))
        for layer in network.layers
    ]
    return {
        "input_shapes": forward.input_shapes,
        "layers": tuple(layers),
        "apply": forward.apply,
        "arguments": forward.arguments,
    }


@dataclasses.dataclass(frozen=True)
class _Forward:
    """The traced forward pass of a network.

    Attributes:
      apply, arguments: The traced function and its abstract arguments.
      examples: Number of examples in the arguments.
      outputs: Shapes of what each module has returned, in the order of the first calls.
      flops: FLOPs of each module for all examples.
    """

    apply: Callable[..., Any]
    arguments: tuple[Any, ...]
    examples: int
    outputs: Mapping[Path, list[Any]]
    flops: Mapping[Path, int]

    @classmethod
    def trace(cls, calls: Sequence[_Call], size: tuple[int, int] | None) -> "_Forward":
        """Trace the calls of a network, one after the other, for few examples with images of `size`."""
        # A minibatch standard deviation compares the examples of a group.
        examples = max(1, getattr(calls[0].module, "minibatch_std_group", 0))

        def apply(variables: Tree, *inputs: tuple[Any, ...]) -> list[Any]:
            return [
                call.module.apply(variables, *values, method=call.method, **call.options)
                for call, values in zip(calls, inputs, strict=True)
            ]

        outputs: dict[Path, list[Any]] = defaultdict(list)
        arguments = (calls[0].variables, *(_inputs(call, examples, size) for call in calls))
        with _layer_scopes(outputs=outputs):
            jaxpr = jax.make_jaxpr(apply)(*arguments)
        flops: dict[Path, int] = defaultdict(int)
        for scope, count in products(jaxpr):
            flops[_layer_of(scope)[1]] += FLOPS_PER_MULTIPLY_ADD * count
        return cls(apply, arguments, examples, outputs, flops)

    @property
    def input_shapes(self) -> tuple[tuple[int, ...], ...]:
        """Shapes of the inputs, without the batch axis."""
        values = [value for inputs in self.arguments[1:] for value in inputs]
        return tuple(value.shape[1:] for value in values if hasattr(value, "shape"))

    def layer(self, path: Path) -> dict[str, Any]:
        """Return the fields of `Layer` that depend on the forward pass alone."""
        # Without products of its own, a network returns what another layer has computed.
        arrays = jax.tree.leaves(self.outputs[path]) if path or self.flops[path] else []
        return {
            "output_shapes": tuple(a.shape[1:] for a in arrays),
            "forward_flops": self.flops[path] // self.examples,
            "activation_bytes": sum(math.prod(a.shape[1:]) * a.dtype.itemsize for a in arrays),
        }


@contextlib.contextmanager
def _layer_scopes(
    *, calls: list[_Call] | None = None, outputs: dict[Path, list[Any]] | None = None
) -> Iterator[None]:
    """Open a scope for each method of a module, which `_layer_of` finds in a name stack.

    Args:
      calls: Receives the application of each network.
      outputs: Receives the shapes of what each module's `__call__` returns, or the method for a network.
    """
    roots: list[str] = []

    def intercept(function: Any, args: Any, kwargs: Any, context: Any) -> Any:
        module, method = context.module, context.method_name
        outermost = not roots and method != "setup"
        if outermost and calls is not None:
            options = {key: value for key, value in kwargs.items() if key != "train"}
            shapes = jax.tree.map(_abstract, module.variables), tuple(map(_abstract, args))
            calls.append(_Call(module.clone(parent=None), method, *shapes, options))
        roots.append(roots[0] if roots else type(module).__name__)
        if outputs is not None and method != "setup":
            outputs[module.path]  # an empty entry, in the order of the calls
        try:
            with jax.named_scope(f"layer<{roots[0]}:{'/'.join(module.path)}>"):
                result = function(*args, **kwargs)
        finally:
            roots.pop()
        if outputs is not None and (outermost or (module.path and method == "__call__")):
            outputs[module.path].append(jax.tree.map(_abstract, result))
        return result

    with nn.intercept_methods(intercept):
        yield


def _layer_of(scope: str) -> tuple[str, Path]:
    """Return the network and the path of the innermost module in a name stack; ("", ()) outside of all."""
    found = _SCOPE.findall(scope)
    name, path = found[-1] if found else ("", "")
    return name, tuple(filter(None, path.split("/")))


def _abstract(value: Any) -> Any:
    """Return the shape and dtype of an array; other values are returned unchanged."""
    if not hasattr(value, "shape") or not hasattr(value, "dtype"):
        return value
    return jax.ShapeDtypeStruct(value.shape, value.dtype)


def _takes_images(call: _Call) -> bool:
    return any(len(getattr(value, "shape", ())) == 4 for value in call.inputs)


def _inputs(call: _Call, examples: int, size: tuple[int, int] | None) -> tuple[Any, ...]:
    """Return the inputs of a call for a number of examples, with images of `size` if it is not None."""

    def resized(value: Any) -> Any:
        if not hasattr(value, "shape") or not value.shape:
            return value
        shape = (examples, *value.shape[1:])
        if size is not None and len(shape) == 4:
            shape = (examples, *size, shape[-1])
        return jax.ShapeDtypeStruct(shape, value.dtype)

    return tuple(map(resized, call.inputs))


@contextlib.contextmanager
def _size_errors(name: str, size: tuple[int, int]) -> Iterator[None]:
    """Turn the errors of a network that does not accept images of `size` into an InputError."""
    refusal = f"{name} does not accept images of {size[0]}x{size[1]} pixels"
    try:
        yield
    except InputError as error:
        raise InputError(f"{refusal}: {error}") from error
    except (TypeError, ValueError, flax.errors.FlaxError) as error:
        raise InputError(f"{refusal}, only those of its training") from error


def _parameters(params: Tree, paths: Mapping[Path, Any]) -> dict[Path, int]:
    """Return the number of parameters by path of the innermost module that holds them."""
    counts: dict[Path, int] = defaultdict(int)
    for keys, leaf in flax.traverse_util.flatten_dict(params).items():
        owner = keys[:-1]
        while owner and owner not in paths:
            owner = owner[:-1]
        counts[owner] += math.prod(leaf.shape)
    return counts


def _receptive_field(module: Any) -> ReceptiveField | None:
    """Return the receptive field that a module defines; None without, or if it is unbounded."""
    try:
        return module.receptive_field() if hasattr(module, "receptive_field") else None
    except InputError:
        return None
