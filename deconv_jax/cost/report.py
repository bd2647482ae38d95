"""The cost of an experiment: layers, totals, checkpoint, and bounds on accelerators."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax

from deconv_jax.cost.accelerators import ACCELERATORS, Bound
from deconv_jax.cost.measure import Measured
from deconv_jax.cost.networks import Network, trace_step
from deconv_jax.experiment import Experiment
from deconv_jax.training.loop_data import first_example
from deconv_jax.training.state import Precision

STATE_PARTS = ("params", "batch_stats", "opt_state", "ema")
"""Parts of the training state that have a size."""


@dataclasses.dataclass(frozen=True)
class Cost:
    """The cost of an experiment.

    FLOPs are those of convolutions and matrix products, counted as in `multiply_adds`.

    Attributes:
      name: Name of the model or the config.
      precision: Precision of the computation.
      batch_size: Number of examples of a training step.
      networks: Networks of the training step.
      other_flops: FLOPs of a training step outside of the networks.
      state_bytes: Bytes of the training state by its parts, `STATE_PARTS`; the content of a checkpoint.
      batch_bytes: Bytes of a training batch.
      measured: Times on this device, or None.
    """

    name: str
    precision: Precision
    batch_size: int
    networks: tuple[Network, ...]
    other_flops: int
    state_bytes: Mapping[str, int]
    batch_bytes: int
    measured: Measured | None = None

    @property
    def forward_flops(self) -> int:
        """FLOPs of one forward pass of every network for one example."""
        return sum(network.total("forward_flops") for network in self.networks)

    @property
    def step_flops(self) -> int:
        """FLOPs of a training step."""
        per_example = sum(network.total("training_flops") for network in self.networks)
        return round(per_example * self.batch_size) + self.other_flops

    @property
    def activation_bytes(self) -> int:
        """Bytes of the outputs of all layers in the forward pass of one example."""
        return sum(network.total("activation_bytes") for network in self.networks)

    @property
    def step_activation_bytes(self) -> int:
        """Bytes of the outputs of all layers in the forward pass of a training batch."""
        return self.batch_size * sum(n.training_activation_bytes for n in self.networks)

    @property
    def parameters(self) -> int:
        """Number of parameters."""
        return sum(network.total("parameters") for network in self.networks)

    def forward_bounds(self) -> dict[str, Bound]:
        """Return a bound on the forward pass of every network for one example, by accelerator.

        Its memory traffic: the parameters are read, and the output of every layer with FLOPs is written and
        read once; all other operations are fused into these layers.
        """
        layers = [layer for network in self.networks for layer in network.layers]
        outputs = sum(layer.activation_bytes for layer in layers if layer.forward_flops)
        moved = self.state_bytes["params"] + 2 * outputs
        return {a.name: a.bound(self.forward_flops, moved, self.precision) for a in ACCELERATORS}

    def step_bounds(self) -> dict[str, Bound]:
        """Return a bound on a training step on one chip, by accelerator.

        Its memory traffic: the batch is read; the state is read and written; the output of every layer with
        FLOPs is written, read by the next layer and read again in the backward pass; and its gradient is
        written and read. All other operations are fused into these layers.
        """
        moved = 2 * sum(self.state_bytes.values()) + self.batch_bytes
        moved += 5 * self.batch_size * sum(n.training_product_bytes for n in self.networks)
        return {a.name: a.bound(self.step_flops, moved, self.precision) for a in ACCELERATORS}


def cost_of(
    name: str,
    experiment: Experiment,
    shapes: Mapping[str, jax.ShapeDtypeStruct],
    size: tuple[int, int] | None = None,
) -> Cost:
    """Return the cost of an experiment, whose training step is only traced.

    Args:
      name: Name for the report.
      experiment: Experiment.
      shapes: Shapes and dtypes of a batch of one training example, as from `workdir.read_input_shapes`.
      size: Height and width of the images of the forward pass; None for those of training.

    Raises:
      InputError: The data does not fit the task, or a network does not accept images of `size`.
    """
    task, batch_size = experiment.task, experiment.training.batch_size
    key = jax.eval_shape(lambda: jax.random.key(0))
    state = jax.eval_shape(task.init, key, shapes)
    batch = training_batch(shapes, batch_size)
    networks, other = trace_step(task.train_step, state, batch, size)
    state_bytes = {part: tree_bytes(getattr(state, part)) for part in STATE_PARTS}
    return Cost(
        name, experiment.precision, batch_size, networks, other, state_bytes, tree_bytes(batch)
    )


def training_batch(
    shapes: Mapping[str, jax.ShapeDtypeStruct], batch_size: int
) -> dict[str, jax.ShapeDtypeStruct]:
    """Return the shapes of a training batch from those of one example."""
    return {
        name: jax.ShapeDtypeStruct((batch_size, *like.shape[1:]), like.dtype)
        for name, like in shapes.items()
    }


def tree_bytes(tree: Any) -> int:
    """Return the bytes of the arrays of a tree, which may be abstract."""
    return sum(math.prod(a.shape) * a.dtype.itemsize for a in jax.tree.leaves(tree))


def example_shapes(experiment: Experiment) -> dict[str, jax.ShapeDtypeStruct]:
    """Return the shapes and dtypes of a batch of one training example, which is read from the data.

    Raises:
      InputError: The data cannot be opened, or the training split is empty.
    """
    # Only one example is needed, so no split is decoded into memory.
    data = dataclasses.replace(experiment.data, cache="none").with_splits()
    example = first_example(data.open("train"))
    return {name: jax.ShapeDtypeStruct(a.shape, a.dtype) for name, a in example.items()}
