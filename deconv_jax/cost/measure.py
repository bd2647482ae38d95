"""Times of a forward pass and of a training step on this device."""

import dataclasses
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from deconv_jax.compilation import jit
from deconv_jax.cost.networks import Network
from deconv_jax.experiment import Experiment
from deconv_jax.training.parallel import Devices

ROUNDS = 5
SECONDS_PER_ROUND = 0.2


@dataclasses.dataclass(frozen=True)
class Measured:
    """Times on the devices of this process.

    Attributes:
      device: Number and kind of the devices.
      forward_s: Seconds of the forward pass of every network for one example.
      step_s: Seconds of a training step.
      step_memory_bytes: Bytes per device of arguments, temporaries and outputs of the compiled step; 0 if
        the backend does not tell.
    """

    device: str
    forward_s: float
    step_s: float
    step_memory_bytes: int


def measure(
    experiment: Experiment,
    shapes: Mapping[str, jax.ShapeDtypeStruct],
    networks: tuple[Network, ...],
) -> Measured:
    """Measure the forward pass of one example and a training step, on random images.

    Each is the median over 5 rounds of the mean of calls of 0.2 s, after one call that is not timed.

    Args:
      experiment: Experiment.
      shapes: Shapes and dtypes of a batch of one training example.
      networks: Networks of the training step.

    Raises:
      InputError: The batch size is not a multiple of the number of devices.
    """
    training = experiment.training
    devices = Devices.all(training.compiler, shard_optimizer=training.shard_optimizer)
    devices.check_batch_size(experiment.training.batch_size)
    forward_s = sum(_forward_seconds(network) for network in networks)
    call, state, batches = compiled_step(experiment, shapes, devices)
    box = [state]

    def step() -> Any:
        box[0], scalars = call(box[0], batches, {})
        return scalars

    kinds = jax.devices()[0].device_kind
    memory = step_memory(call)
    return Measured(f"{jax.device_count()} {kinds}", forward_s, _seconds(step), memory)


def compiled_step(
    experiment: Experiment, shapes: Mapping[str, jax.ShapeDtypeStruct], devices: Devices
) -> tuple[Callable[..., Any], Any, dict[str, jax.Array]]:
    """Return the compiled training step, an initial state, and a batch of random images for it."""
    task, training = experiment.task, experiment.training
    example = {name: jnp.zeros(like.shape, like.dtype) for name, like in shapes.items()}
    state = devices.init(lambda key: task.init(key, example), jax.random.key(experiment.seed))
    rows = training.batch_size // jax.process_count()
    batches = devices.put_batches([random_batch(shapes, rows)])
    call = devices.compile(task.train_step)
    if hasattr(call, "lower"):
        call = call.lower(state, batches, {}).compile()
    return call, state, batches


def step_memory(call: Any) -> int:
    """Return the bytes per device that a compiled program needs; 0 if the backend does not tell."""
    memory = call.memory_analysis() if hasattr(call, "memory_analysis") else None
    if memory is None:
        return 0
    shared = memory.alias_size_in_bytes  # donated arguments, which hold outputs
    own = memory.argument_size_in_bytes + memory.output_size_in_bytes - shared
    return own + memory.temp_size_in_bytes


def random_batch(
    shapes: Mapping[str, jax.ShapeDtypeStruct], batch_size: int
) -> dict[str, np.ndarray]:
    """Return a batch of random images; "size" is that of the images, and other arrays are zero."""
    random = np.random.default_rng(0)
    batch = {}
    for name, like in shapes.items():
        shape, dtype = (batch_size, *like.shape[1:]), np.dtype(like.dtype)
        batch[name] = np.zeros(shape, dtype)
        if dtype == np.uint8 and len(shape) == 4:
            batch[name] = random.integers(0, 256, shape, dtype)
    batch["index"] = np.arange(batch_size, dtype=np.int32)
    if "size" in batch:
        batch["size"][:] = shapes["image"].shape[1:3]
    return batch


def _forward_seconds(network: Network) -> float:
    """Measure the forward pass of a network for one example."""
    random = np.random.default_rng(0)

    def value(like: Any) -> Any:
        if not hasattr(like, "dtype"):
            return like
        if jnp.issubdtype(like.dtype, jax.dtypes.prng_key):
            return jnp.broadcast_to(jax.random.key(0), like.shape)
        if jnp.issubdtype(like.dtype, jnp.floating):
            return jnp.asarray(random.uniform(0.01, 1.0, like.shape), like.dtype)
        return jnp.zeros(like.shape, like.dtype)

    arguments = jax.tree.map(value, network.arguments)
    call = jit(network.apply)
    return _seconds(lambda: call(*arguments)) / network.examples


def _seconds(call: Callable[[], Any]) -> float:
    """Return the median time of a call."""
    jax.block_until_ready(call())
    started = time.perf_counter()
    jax.block_until_ready(call())
    count = max(1, round(SECONDS_PER_ROUND / max(time.perf_counter() - started, 1e-6)))
    times = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        for _ in range(count):
            result = call()
        jax.block_until_ready(result)
        times.append((time.perf_counter() - started) / count)
    return statistics.median(times)
