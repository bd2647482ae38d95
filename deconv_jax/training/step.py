"""The parts of a training step that tasks share: initialization, model application, gradient descent.

`gradient_step` is a pure function, compiled by `Devices.compile`. It works on the global batch under `jit`, and
on the device's part of the batch under `pmap`, where it averages gradients over devices.
"""

from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from deconv_jax.errors import InputError
from deconv_jax.ops.collectives import mean_over_devices
from deconv_jax.training.optimizer import Optimizer
from deconv_jax.training.state import Precision, Scalars, TrainState, Tree

LossFunction = Callable[[Tree, Mapping[str, jax.Array]], tuple[jax.Array, tuple[Scalars, Tree]]]
"""(variables, batch) -> (loss, (scalars to log, updated batch statistics))"""


def init_state(
    model: nn.Module,
    optimizer: Optimizer,
    key: jax.Array,
    image: jax.Array,
    *inputs: jax.Array,
    method: str | None = None,
) -> TrainState:
    """Return the state of a module and its optimizer at step 0.

    Args:
      model: Module to initialize. Its collections other than "params" and "batch_stats" are dropped.
      optimizer: Optimizer of its parameters.
      key: Key of the initial parameters.
      image: Batch of images; only the shape of one image matters.
      inputs: Further inputs of the method.
      method: Method that uses all parameters; None means `__call__`.
    """
    variables = model.init(key, images_in_unit_range(image[:1]), *inputs, method=method)
    params = variables["params"]
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        batch_stats=variables.get("batch_stats", {}),
        opt_state=optimizer.transform().init(params),
        # Copied, because the state is donated to the step and no buffer may be donated twice.
        ema={} if optimizer.ema_decay is None else jax.tree.map(jnp.copy, params),
    )


def images_in_unit_range(images: jax.Array) -> jax.Array:
    """Convert uint8 images to float32 in [0, 1]."""
    return jnp.asarray(images, jnp.float32) / 255.0


def apply_model(
    model: nn.Module,
    variables: Tree,
    *inputs: jax.Array | None,
    train: bool,
    precision: Precision,
    method: str | None = None,
) -> tuple[Any, Tree]:
    """Apply a module to images in [0, 1] and further inputs, and return the output and batch statistics.

    With "bf16", the computation uses bfloat16 weights and activations. Parameters, their gradients and the
    output stay float32.

    Args:
      model: Module to apply.
      variables: Its "params" and "batch_stats", the latter {} without batch norm.
      inputs: Inputs of the method; those that are None, such as missing labels, are omitted.
      train: Whether to use the statistics of the batch, and to update the running ones.
      precision: Precision of the computation.
      method: Method of the module; None means `__call__`.

    Returns:
      The output, a tree of arrays with float32 for floats, and the batch statistics, updated if `train`.
    """
    params, stats = variables["params"], variables["batch_stats"]
    given_inputs = [x for x in inputs if x is not None]
    if precision == "bf16":
        params, given_inputs = jax.tree.map(_floats_as(jnp.bfloat16), (params, given_inputs))
    given = {"params": params, "batch_stats": stats}
    if train:
        output, mutated = model.apply(
            given, *given_inputs, train=True, mutable=["batch_stats"], method=method
        )
        stats = mutated.get("batch_stats", {})
    else:
        output = model.apply(given, *given_inputs, method=method)
    return jax.tree.map(_floats_as(jnp.float32), output), stats


def _floats_as(dtype: Any) -> Callable[[jax.Array], jax.Array]:
    """Return a function that casts float arrays and leaves others unchanged."""
    return lambda a: a.astype(dtype) if jnp.issubdtype(a.dtype, jnp.floating) else a


def gradient_step(
    state: TrainState,
    batch: Mapping[str, jax.Array],
    loss_function: LossFunction,
    optimizer: Optimizer,
) -> tuple[TrainState, Scalars]:
    """Apply one gradient-descent update.

    Args:
      state: State before the update.
      batch: Batch of examples.
      loss_function: Loss to minimize, a mean over the examples of a batch.
      optimizer: Optimizer of the update.

    Returns:
      The new state, and the scalars of the loss function with "loss", "grad_norm" (before clipping) and
      "learning_rate".

    Raises:
      InputError: The size of the batch is not divisible by `optimizer.accumulate_steps`.
    """
    loss, scalars, batch_stats, gradients = _accumulated(
        state, batch, loss_function, optimizer.accumulate_steps
    )
    scalars, gradients, loss = mean_over_devices((scalars, gradients, loss))
    updates, opt_state = optimizer.transform().update(gradients, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    ema = optimizer.update_ema(state.ema, params, state.step)
    scalars = scalars | {
        "loss": loss,
        "grad_norm": optax.tree.norm(gradients),
        "learning_rate": jnp.asarray(optimizer.rate()(state.step), jnp.float32),
    }
    return TrainState(state.step + 1, params, batch_stats, opt_state, ema), scalars


def _accumulated(state, batch, loss_function, parts):
    """Return loss, scalars, batch statistics and gradients, averaged over `parts` parts of the batch."""
    differentiate = jax.value_and_grad(
        lambda params, stats, part: loss_function({"params": params, "batch_stats": stats}, part),
        has_aux=True,
    )

    def take(stats, part):
        (loss, (scalars, stats)), gradients = differentiate(state.params, stats, part)
        return stats, (loss, scalars, gradients)

    if parts == 1:
        batch_stats, (loss, scalars, gradients) = take(state.batch_stats, batch)
        return loss, scalars, batch_stats, gradients

    split = split_batch(batch, parts, "optimizer.accumulate_steps")

    def add(carry, part):
        stats, total = carry
        stats, values = take(stats, part)
        return (stats, jax.tree.map(jnp.add, total, values)), None

    first = {name: array[0] for name, array in split.items()}
    shapes = jax.eval_shape(take, state.batch_stats, first)[1]
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
    (batch_stats, total), _ = jax.lax.scan(add, (state.batch_stats, zeros), split)
    loss, scalars, gradients = jax.tree.map(lambda a: a / parts, total)
    return loss, scalars, batch_stats, gradients


def split_batch(batch: Mapping[str, jax.Array], parts: int, field: str) -> dict[str, jax.Array]:
    """Return a batch as equal parts, stacked along a new first axis.

    Part i takes rows i, i + parts, ..., which are rows of every device, so no row moves between devices.

    Args:
      batch: Arrays with the same batch axis, among them "index".
      parts: Number of parts.
      field: Config key of `parts`, for the error message.

    Returns:
      Arrays (parts, batch / parts, ...) by name.

    Raises:
      InputError: The size of the batch is not divisible by `parts`.
    """
    size = batch["index"].shape[0]
    if size % parts:
        raise InputError(
            f"the batch size must be divisible by {field}={parts}; got a batch of {size}"
        )
    return {
        name: jnp.moveaxis(array.reshape(size // parts, parts, *array.shape[1:]), 1, 0)
        for name, array in batch.items()
    }
