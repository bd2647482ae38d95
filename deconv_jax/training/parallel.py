"""The only file that knows about devices: start-up, mesh, placement, compilation of a step.

The state is replicated and the batch is split along one mesh axis, "data". A step is compiled by
`jax.jit` over that mesh in the global view: batch norm sees the whole batch and gradients average
themselves. `jax.pmap` compiles the same step once a device; both give the same numbers.
"""

import dataclasses
import hashlib
from collections.abc import Callable, Mapping
from typing import Any, Literal

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from deconv_jax.compilation import jit
from deconv_jax.data.batch import HostBatch
from deconv_jax.errors import InputError
from deconv_jax.ops.collectives import DATA_AXIS
from deconv_jax.training.state import Scalars, TrainState

Tree = Any
StepFunction = Callable[[TrainState, Mapping[str, jax.Array]], tuple[TrainState, Scalars]]
Compiler = Literal["jit", "pmap"]


def initialize_processes(where: str) -> None:
    """Joins this process to the others of a run; call before anything else touches a device.

    Args:
      where: "auto" where SLURM, Open MPI, Kubernetes or a TPU pod says who the others are, or
        "HOST:PORT,INDEX,COUNT" for a coordinator's address and this process's number of how many.
    """
    if where == "auto":
        jax.distributed.initialize()
        return
    try:
        address, index, count = where.split(",")
        process, processes = int(index), int(count)
    except ValueError:
        raise InputError(
            f"--distributed takes no value or HOST:PORT,INDEX,COUNT; got {where!r}"
        ) from None
    jax.distributed.initialize(address, num_processes=processes, process_id=process)


@dataclasses.dataclass(frozen=True)
class Devices:
    """Every device of every process, as one mesh axis.

    Attributes:
      mesh: its only axis is "data".
      compiler: what `compile` compiles steps with; "pmap" is for one process.
    """

    mesh: jax.sharding.Mesh
    compiler: Compiler = "jit"

    @classmethod
    def all(cls, compiler: Compiler = "jit") -> "Devices":
        """All devices there are."""
        if compiler == "pmap" and jax.process_count() > 1:
            raise InputError(
                f"training.compiler='pmap' runs in one process, this run has "
                f"{jax.process_count()}; use 'jit'"
            )
        mesh = jax.make_mesh((jax.device_count(),), (DATA_AXIS,), axis_types=(AxisType.Auto,))
        return cls(mesh, compiler)

    @property
    def replicated(self) -> NamedSharding:
        """The placement of what every device holds whole."""
        return NamedSharding(self.mesh, PartitionSpec())

    def check_batch_size(self, batch_size: int) -> None:
        """Raises InputError unless a global batch divides over the devices."""
        if batch_size < 1 or batch_size % self.mesh.size:
            raise InputError(
                f"training.batch_size={batch_size} does not divide over {self.mesh.size} devices"
            )

    def replicate(self, tree: Tree) -> Tree:
        """Puts a host tree, the same in every process, whole on every device."""
        return jax.tree.map(
            lambda a: jax.make_array_from_callback(
                np.shape(a), self.replicated, lambda place: np.asarray(a)[place]
            ),
            tree,
        )

    def put_batch(self, batch: HostBatch) -> dict[str, jax.Array]:
        """Puts this process's rows of a global batch, split over the devices."""
        return self._put(batch, PartitionSpec(DATA_AXIS))

    def put_batches(self, batches: list[HostBatch]) -> dict[str, jax.Array]:
        """Puts several batches, stacked along a new first axis, for one call of a compiled step."""
        stacked = {name: np.stack([b[name] for b in batches]) for name in batches[0]}
        if self.compiler == "jit":
            return self._put(stacked, PartitionSpec(None, DATA_AXIS))
        split = {
            name: np.moveaxis(a.reshape(len(a), self.mesh.size, -1, *a.shape[2:]), 1, 0)
            for name, a in stacked.items()
        }
        return self._put(split, PartitionSpec(DATA_AXIS))

    def _put(self, tree: HostBatch, spec: PartitionSpec) -> dict[str, jax.Array]:
        sharding = NamedSharding(self.mesh, spec)
        return {
            name: jax.make_array_from_process_local_data(sharding, array)
            for name, array in tree.items()
        }

    def init(self, function: Callable[..., TrainState], *args: Tree) -> TrainState:
        """Calls a jitted `function`, leaving its result whole on every device."""
        return jit(function, out_shardings=self.replicated)(*args)

    def compile(self, step: StepFunction) -> Callable[[TrainState, Tree, Tree], Any]:
        """Compiles `step` to run once for each batch of a `put_batches`, all in one dispatch.

        Returns:
          call(state, batches, cached) -> (state, scalars), the scalars (steps,) each. `cached`
          holds whole data set arrays, which batches then name by "index" alone; {} if the batches
          bring their examples. The state passed in must not be used again.
        """

        def call(state, batches, cached):
            def one(state, batch):
                examples = {name: array[batch["index"]] for name, array in cached.items()}
                return step(state, examples | batch)

            return jax.lax.scan(one, state, batches)

        if self.compiler == "jit":
            return jit(call, donate_argnums=0, out_shardings=self.replicated)
        return jax.pmap(call, axis_name=DATA_AXIS, in_axes=(None, 0, None), out_axes=None)


def gather_to_host(array: jax.Array) -> np.ndarray:
    """All of an array, also where other processes hold parts of it; all must ask at the same place."""
    if array.is_fully_addressable:
        return np.asarray(array)
    return np.asarray(multihost_utils.process_allgather(array, tiled=True))


def any_process(flag: bool) -> bool:
    """Whether any process says so; every process must ask at the same place."""
    if jax.process_count() == 1:
        return flag
    return bool(np.any(multihost_utils.process_allgather(np.asarray(flag))))


def same_on_all_processes(text: str) -> bool:
    """Whether every process has the same text; every process must ask at the same place."""
    if jax.process_count() == 1:
        return True
    digest = np.frombuffer(hashlib.sha256(text.encode()).digest(), np.uint8)
    return bool(np.all(multihost_utils.process_allgather(digest) == digest))


def wait_for_all(name: str) -> None:
    """Returns once every process has come here."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)
