"""Devices: start-up, mesh, placement and compilation of a step. No other file knows about devices.

The state is replicated, and the batch is split along the mesh axis "data"; the optimizer state may be split
too. `jax.jit` compiles a step over this mesh in the global view: batch norm sees the whole batch, and gradients
are averaged implicitly. `jax.pmap` compiles the same step per device. Both give the same numbers.
"""

import dataclasses
import hashlib
import itertools
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from deconv_jax.compilation import jit
from deconv_jax.data.batch import HostBatch
from deconv_jax.errors import InputError
from deconv_jax.io import list_names
from deconv_jax.ops.collectives import DATA_AXIS
from deconv_jax.training.state import Scalars, TrainState

Tree = Any
StepFunction = Callable[[TrainState, Mapping[str, jax.Array]], tuple[TrainState, Scalars]]
Compiler = Literal["jit", "pmap"]


def initialize_processes(coordinator: str) -> None:
    """Connect this process to the other processes of a run, before anything else uses a device.

    Under Slurm and Open MPI, the tasks of a node share its visible GPUs equally; a single task uses all of
    them. Elsewhere, a process uses all visible devices, or those of the variable JAX_LOCAL_DEVICE_IDS.

    Args:
      coordinator: "auto" to detect Slurm, Open MPI 4, a TPU pod or Kubernetes, or "HOST:PORT,INDEX,COUNT": the
        address of the coordinator, the index of this process and the number of processes.

    Raises:
      InputError: `coordinator` is malformed, nothing is detected, or the tasks of a node cannot share its
        GPUs.
    """
    # The preemption service of JAX would swallow a SIGTERM that arrives before training starts.
    jax.config.update("jax_enable_preemption_service", False)
    if coordinator == "auto":
        gpus = local_gpus(os.environ)
        try:
            jax.distributed.initialize(local_device_ids=gpus)
        except ValueError as error:
            raise InputError(
                "--distributed found neither a Slurm step (srun), Open MPI 4 (mpirun), a TPU pod nor, with the "
                "extra kubernetes, a Kubernetes job; give HOST:PORT,INDEX,COUNT or use `deconv-jax launch`"
            ) from error
        return
    try:
        address, index, count = coordinator.split(",")
        process, processes = int(index), int(count)
    except ValueError:
        raise InputError(
            f"--distributed must have no value or HOST:PORT,INDEX,COUNT; got {coordinator!r}"
        ) from None
    # Without "deactivate", JAX would still take one GPU per process from Slurm.
    jax.distributed.initialize(address, processes, process, cluster_detection_method="deactivate")


def local_gpus(environment: Mapping[str, str]) -> list[int] | None:
    """Return the indices, among the visible GPUs, of those that this task of Slurm or Open MPI uses.

    JAX by itself would use the GPU with the index of the task on its node: one GPU of all if there is a single
    task, and none if the task sees only its own GPU.

    Args:
      environment: Environment variables.

    Returns:
      Indices; an empty list for all visible devices; None outside of Slurm and Open MPI.

    Raises:
      InputError: The number of visible GPUs is not a multiple of the number of tasks on the node, or Slurm shows
        none of the job's GPUs to this task.
    """
    if "OMPI_COMM_WORLD_LOCAL_RANK" in environment:
        task = int(environment["OMPI_COMM_WORLD_LOCAL_RANK"])
        tasks = int(environment["OMPI_COMM_WORLD_LOCAL_SIZE"])
    elif "SLURM_LOCALID" in environment and "SLURM_STEP_TASKS_PER_NODE" in environment:
        task = int(environment["SLURM_LOCALID"])
        tasks = _tasks_on_node(environment)
    else:
        return None
    gpus = _visible_gpus(environment)
    if tasks == 1 or gpus == 0:
        return []
    if gpus % tasks:
        raise InputError(
            f"--distributed: the number of GPUs that each task sees must be a multiple of the {tasks} tasks on "
            f"this node; got {gpus}. Start one task per GPU, or one per node, without --gpus-per-task and "
            "--gpu-bind, so that every task sees all GPUs of the node"
        )
    each = gpus // tasks
    return list(range(task * each, (task + 1) * each))


def _tasks_on_node(environment: Mapping[str, str]) -> int:
    """Return the number of tasks on this node of a Slurm step, from a list such as "4(x2),3"."""
    counts: list[int] = []
    for part in environment["SLURM_STEP_TASKS_PER_NODE"].split(","):
        count, _, repeats = part.partition("(x")
        counts += [int(count)] * int(repeats.rstrip(")") or 1)
    return counts[int(environment["SLURM_NODEID"])]


def _visible_gpus(environment: Mapping[str, str]) -> int:
    """Return the number of visible NVIDIA GPUs, without starting a backend.

    Raises:
      InputError: Slurm gave GPUs to the job but not to this task, as with --gpu-bind=none.
    """
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    if visible is None and "SLURM_JOB_GPUS" in environment:
        raise InputError(
            "--distributed: the job has GPUs, but Slurm shows none to this task (CUDA_VISIBLE_DEVICES is not "
            "set); start the tasks without --gpu-bind"
        )
    if visible is None:
        return len(list_names(Path("/proc/driver/nvidia/gpus")))
    # CUDA ignores what follows the first invalid index; Slurm writes "NoDevFiles" for none.
    words = itertools.takewhile(
        lambda word: word not in ("", "-1", "NoDevFiles"), visible.split(",")
    )
    return len(list(words))


@dataclasses.dataclass(frozen=True)
class Devices:
    """All devices of all processes, as one mesh axis.

    Attributes:
      mesh: Mesh whose only axis is "data".
      compiler: Compiler of steps; "pmap" supports only one process.
      shard_optimizer: Whether the optimizer state is split over the devices (ZeRO-1, arXiv:1910.02054); only
        with "jit".
    """

    mesh: jax.sharding.Mesh
    compiler: Compiler = "jit"
    shard_optimizer: bool = False

    @classmethod
    def all(cls, compiler: Compiler = "jit", *, shard_optimizer: bool = False) -> "Devices":
        """Return all devices of all processes.

        Raises:
          InputError: The compiler is "pmap" and there are several processes.
        """
        if compiler == "pmap" and jax.process_count() > 1:
            raise InputError(
                "training.compiler must be 'jit' for more than one process; got 'pmap' and "
                f"{jax.process_count()} processes"
            )
        mesh = jax.make_mesh((jax.device_count(),), (DATA_AXIS,), axis_types=(AxisType.Auto,))
        return cls(mesh, compiler, shard_optimizer)

    @property
    def replicated(self) -> NamedSharding:
        """Sharding of arrays that every device holds in full."""
        return NamedSharding(self.mesh, PartitionSpec())

    def state_shardings(self, state: TrainState) -> TrainState:
        """Return the sharding of each array of a state, which may be abstract.

        All are replicated, except that `shard_optimizer` splits those of the optimizer state along the longest
        axis whose length is a multiple of the number of devices, if there is one.
        """
        shardings = jax.tree.map(lambda _: self.replicated, state)
        if not self.shard_optimizer:
            return shardings
        return dataclasses.replace(shardings, opt_state=jax.tree.map(self._split, state.opt_state))

    def _split(self, array: Any) -> NamedSharding:
        divisible = [n if n % self.mesh.size == 0 else 0 for n in array.shape]
        if not any(divisible):
            return self.replicated
        before = [None] * divisible.index(max(divisible))
        return NamedSharding(self.mesh, PartitionSpec(*before, DATA_AXIS))

    def check_batch_size(self, batch_size: int) -> None:
        """Raise InputError unless a global batch size is a positive multiple of the number of devices."""
        if batch_size < 1 or batch_size % self.mesh.size:
            raise InputError(
                f"training.batch_size must be divisible by the number of devices, {self.mesh.size}; "
                f"got {batch_size}"
            )

    def replicate(self, tree: Tree) -> Tree:
        """Replicate a tree of host arrays, equal in all processes, over all devices."""
        return jax.tree.map(
            lambda a: jax.make_array_from_callback(
                np.shape(a), self.replicated, lambda place: np.asarray(a)[place]
            ),
            tree,
        )

    def put_batch(self, batch: HostBatch) -> dict[str, jax.Array]:
        """Place this process's rows of a global batch on the devices, split along the batch axis."""
        return self._put(batch, PartitionSpec(DATA_AXIS))

    def put_batches(self, batches: list[HostBatch]) -> dict[str, jax.Array]:
        """Place one or more batches of equal size, stacked, for one call of a compiled step.

        Returns:
          Arrays (steps, batch, ...) split along the batch axis; with "pmap", (devices, steps, batch / devices,
          ...).
        """
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
        """Return `function(*args)`, compiled, with the shardings of `state_shardings`."""
        shardings: Any = self.replicated
        if self.shard_optimizer:
            shardings = self.state_shardings(jax.eval_shape(function, *args))
        return jit(function, out_shardings=shardings)(*args)

    def compile(self, step: StepFunction) -> Callable[[TrainState, Tree, Tree], Any]:
        """Compile a function that runs `step` for each batch of a `put_batches`, in one dispatch.

        Returns:
          call(state, batches, cached) -> (state, scalars), with scalars of shape (steps,). `cached` holds
          the arrays of the whole data set if the batches hold only "index", and is {} if they hold the
          examples. With "jit", the state argument is donated.
        """

        def call(state, batches, cached):
            def one(state, batch):
                examples = {name: array[batch["index"]] for name, array in cached.items()}
                state, scalars = step(state, examples | batch)
                if self.shard_optimizer:
                    state = jax.lax.with_sharding_constraint(state, self.state_shardings(state))
                return state, scalars

            return jax.lax.scan(one, state, batches)

        if self.compiler == "jit":
            # The shardings of a split state are those of the constraint above.
            shardings = (None, self.replicated) if self.shard_optimizer else self.replicated
            return jit(call, donate_argnums=0, out_shardings=shardings)
        return jax.pmap(call, axis_name=DATA_AXIS, in_axes=(None, 0, None), out_axes=None)

    def lower(
        self, step: StepFunction, state: TrainState, example: Tree, shape: tuple[int, int]
    ) -> jax.stages.Lowered:
        """Lower the "jit" of `compile(step)` for batches of examples, without allocating any array.

        Args:
          step: Training step.
          state: State, which may be abstract.
          example: Batch of one example, which may be abstract.
          shape: Number of steps, and global batch size.
        """

        def abstract(sharding: NamedSharding, *axes: int) -> Callable[[Any], Any]:
            return lambda a: jax.ShapeDtypeStruct(
                (*axes, *a.shape[1 if axes else 0 :]), a.dtype, sharding=sharding
            )

        split = NamedSharding(self.mesh, PartitionSpec(None, DATA_AXIS))
        state = jax.tree.map(lambda a, s: abstract(s)(a), state, self.state_shardings(state))
        batches = jax.tree.map(abstract(split, *shape), dict(example))
        compiled: Any = dataclasses.replace(self, compiler="jit").compile(step)
        return compiled.lower(state, batches, {})


def gather_to_host(array: jax.Array) -> np.ndarray:
    """Return a whole array on the host, gathered from all processes, which must all call this."""
    if array.is_fully_addressable or array.is_fully_replicated:
        return np.asarray(array)
    return np.asarray(multihost_utils.process_allgather(array, tiled=True))


def any_process(flag: bool) -> bool:
    """Return whether the flag is set in any process. All processes must call this."""
    if jax.process_count() == 1:
        return flag
    return bool(np.any(multihost_utils.process_allgather(np.asarray(flag))))


class PeriodicAgreement:
    """Whether a flag is set in any process, found every few seconds, because asking delays the devices.

    The number of calls between two agreements follows from the time per call of the slowest process, which all
    processes know from the agreement before. It at most doubles, because the first calls may be faster than the
    later ones.
    """

    def __init__(self, seconds: float = 2.0):
        """Make the first call an agreement.

        Args:
          seconds: Time between agreements.
        """
        self._seconds, self._period = seconds, 1
        self._calls, self._since = 0, time.perf_counter()

    def any(self, flag: bool) -> bool:
        """Return whether the flag is set in any process, or False between two agreements.

        All processes must call this equally often. With one process, return the flag.
        """
        if jax.process_count() == 1:
            return flag
        self._calls += 1
        if self._calls < self._period:
            return False
        own = np.array([flag, (time.perf_counter() - self._since) / self._calls], np.float32)
        flags, seconds_per_call = multihost_utils.process_allgather(own).T
        calls = round(self._seconds / float(seconds_per_call.max()))
        self._period = max(1, min(calls, 2 * self._period))
        self._calls, self._since = 0, time.perf_counter()
        return bool(flags.any())


def same_on_all_processes(text: str) -> bool:
    """Return whether all processes have the same text. All processes must call this."""
    if jax.process_count() == 1:
        return True
    digest = np.frombuffer(hashlib.sha256(text.encode()).digest(), np.uint8)
    return bool(np.all(multihost_utils.process_allgather(digest) == digest))


def of_first_process(number: int) -> int:
    """Return the number, below 2^31, that the first process has given. All processes must call this."""
    if jax.process_count() == 1:
        return number
    return int(multihost_utils.broadcast_one_to_all(np.int32(number)))


def all_reduce_is_right() -> bool:
    """Return whether a sum over all devices of all processes is right here. All processes must call this."""
    devices = Devices.all()
    count = devices.mesh.size
    split = NamedSharding(devices.mesh, PartitionSpec(DATA_AXIS))
    numbers = jax.make_array_from_callback(
        (count,), split, lambda place: np.arange(count, dtype=np.int32)[place]
    )
    total = jit(jnp.sum, out_shardings=devices.replicated)(numbers)
    return int(total) == count * (count - 1) // 2


def wait_for_all(name: str) -> None:
    """Wait until all processes have called this with the same name; with one process, do nothing."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)
