"""The training state, and the update that every gradient-trained task shares.

`gradient_step` is the middle of the system: pure, and compiled elsewhere. It works on the global
batch under `jit` and on one device's share under `pmap`, where gradients are averaged explicitly.
"""

from collections.abc import Callable, Mapping
from typing import Any, Literal

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from deconv_jax.errors import InputError
from deconv_jax.ops.collectives import mean_over_devices
from deconv_jax.training.optimizer import Optimizer

Tree = Any
Scalars = dict[str, jax.Array]
Precision = Literal["f32", "bf16"]
LossFunction = Callable[[Tree, Mapping[str, jax.Array]], tuple[jax.Array, tuple[Scalars, Tree]]]
"""(variables, batch) -> (loss, (scalars to log, updated batch statistics))."""


@flax.struct.dataclass
class TrainState:
    """Everything a run's future depends on beside its config and the data's place.

    Attributes:
      step: updates done, int32.
      params: the module's "params", float32.
      batch_stats: the module's "batch_stats", {} where it has none.
      opt_state: the optimizer's.
      ema: running average of `params`, {} where none is kept; of adversarial training that of the
        generator's variables.
    """

    step: jax.Array
    params: Tree
    batch_stats: Tree
    opt_state: Tree
    ema: Tree

    def inference_variables(self) -> dict[str, Tree]:
        """The variables to evaluate with: averaged weights where they are kept."""
        return {"params": self.ema or self.params, "batch_stats": self.batch_stats}


def init_state(
    model: nn.Module,
    optimizer: Optimizer,
    key: jax.Array,
    image: jax.Array,
    *inputs: jax.Array,
    method: str | None = None,
) -> TrainState:
    """Initialises a module on one image of `image`'s shape, and its optimizer.

    Args:
      model, optimizer, key: as named.
      image: the first of a batch.
      inputs: what else the method takes.
      method: that all parameters take part in, `__call__` unless given.
    """
    variables = model.init(key, images_in_unit_range(image[:1]), *inputs, method=method)
    params = variables["params"]
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        batch_stats=variables.get("batch_stats", {}),
        opt_state=optimizer.transform().init(params),
        # A copy: the state is donated to the step, and no buffer may be donated twice.
        ema={} if optimizer.ema_decay is None else jax.tree.map(jnp.copy, params),
    )


def images_in_unit_range(images: jax.Array) -> jax.Array:
    """uint8 images to float32 in [0, 1]."""
    return jnp.asarray(images, jnp.float32) / 255.0


def apply_model(
    model: nn.Module,
    variables: Tree,
    *inputs: jax.Array | None,
    train: bool,
    precision: Precision,
    method: str | None = None,
) -> tuple[Any, Tree]:
    """Runs a module on images in [0, 1] and what else it takes; None, such as for labels, is left out.

    With "bf16", weights and activations are bfloat16 and so is the computation; parameters,
    their gradients and the output stay float32.

    Args:
      model: the module.
      variables: its "params" and "batch_stats".
      inputs: of the method, without `train`.
      train: whether batch statistics are of the batch, and updated.
      precision: of the computation.
      method: of the module, its `__call__` unless given.

    Returns:
      The output, an array or a tree of them, float32 where it is of floats; and the batch
      statistics, updated if `train`.
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
    """Converts arrays of floats and leaves others."""
    return lambda a: a.astype(dtype) if jnp.issubdtype(a.dtype, jnp.floating) else a


def gradient_step(
    state: TrainState,
    batch: Mapping[str, jax.Array],
    loss_function: LossFunction,
    optimizer: Optimizer,
) -> tuple[TrainState, Scalars]:
    """One descent of `loss_function`, a mean over the batch's examples.

    Returns:
      The new state and the loss function's scalars with "loss", "grad_norm" (before clipping) and
      "learning_rate".
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
    """Loss, scalars, batch statistics and gradients, averaged over `parts` parts of the batch."""
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
    """A batch in equal parts, stacked along a new first axis.

    Part i takes rows i, i + parts, ...: some of every device's rows, so that none is moved.

    Raises:
      InputError: the parts, which config calls `field`, do not divide the batch.
    """
    size = batch["index"].shape[0]
    if size % parts:
        raise InputError(f"a batch of {size} examples does not divide into {field}={parts}")
    return {
        name: jnp.moveaxis(array.reshape(size // parts, parts, *array.shape[1:]), 1, 0)
        for name, array in batch.items()
    }
