"""Checks of a machine before a run: processes, devices, disk, checkpoints, compilation cache and memory.

Every process runs the same checks in the same order, because most of them are collective. A check that fails
adds a problem and the next one runs. Nothing stays on disk.
"""

import contextlib
import dataclasses
import importlib.metadata
import os
import platform
import secrets
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp

from deconv_jax.compilation import jit
from deconv_jax.cost.measure import step_memory
from deconv_jax.cost.report import tree_bytes
from deconv_jax.cost.text import duration, short
from deconv_jax.errors import InputError
from deconv_jax.experiment import Experiment
from deconv_jax.inference.memory import free_memory
from deconv_jax.initial_weights import read_initial_weights
from deconv_jax.io import check_local, kind_of, list_names
from deconv_jax.training.checkpoint import KEEP_LATEST, Checkpoints
from deconv_jax.training.loop_data import first_example, open_splits
from deconv_jax.training.parallel import (
    Devices,
    all_reduce_is_right,
    any_process,
    of_first_process,
    same_on_all_processes,
    wait_for_all,
)
from deconv_jax.training.state import TrainState
from deconv_jax.workdir import check_workdir

_PACKAGES = ("deconv_jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
_PLUGINS = ("jax-cuda13-plugin", "jax-cuda12-plugin", "libtpu")
_COUNTED_PROCESSES = {"SLURM_STEP_NUM_TASKS": "Slurm", "OMPI_COMM_WORLD_SIZE": "Open MPI"}
"""Environment variables with the number of processes, and what sets them."""
_NVIDIA_GPUS = Path("/proc/driver/nvidia/gpus")
_PCI_DEVICES = Path("/sys/bus/pci/devices")
_TPU_IDS = ("0x0027", "0x0056", "0x005e", "0x0062", "0x0063", "0x006f", "0x0076")
"""PCI identifiers of TPU v3 to v7x, of the vendor 0x1ae0."""
_CHECKPOINTS_ON_DISK = KEEP_LATEST + 2
"""The latest ones, the best one, and one that is being written."""
_VISIBLE_AFTER_S = 10.0
"""Seconds after which a file must be visible to the other processes; NFS caches folders."""


@dataclasses.dataclass
class Examination:
    """Results of the checks of this process.

    Attributes:
      facts: Name and text of each finding, in order.
      problems: What is wrong, one line each.
    """

    facts: list[tuple[str, str]] = dataclasses.field(default_factory=list)
    problems: list[str] = dataclasses.field(default_factory=list)

    def say(self, name: str, text: str) -> None:
        """Add a finding."""
        self.facts.append((name, text))

    @contextlib.contextmanager
    def problem_if_it_fails(self, what: str) -> Iterator[None]:
        """Turn an error of the `with` block into a problem."""
        try:
            yield
        except (InputError, OSError, RuntimeError) as error:
            reason = error.strerror if isinstance(error, OSError) else " ".join(str(error).split())
            self.problems.append(f"{what}: {reason or type(error).__name__}")


def examine(experiment: Experiment | None = None, workdir: Path | None = None) -> Examination:
    """Check this process, its machine and, with several processes, how they work together.

    All processes must call this.

    Args:
      experiment: Experiment to check the data, the memory and the checkpoints of, or None.
      workdir: Folder that the run would be written to; None checks the current folder's disk only.

    Returns:
      The findings and problems of this process.
    """
    found = Examination()
    _versions(found)
    with found.problem_if_it_fails("JAX cannot start"):
        _devices(found)
    if found.problems and not any(name == "devices" for name, _ in found.facts):
        return found
    _collective(found)
    _compilation_cache(found)
    state = None
    if experiment is None:
        found.say("memory", f"{short(_free_bytes_per_device())}B free per device")
    else:
        state = _memory(found, experiment)
    _folder(found, experiment, workdir, state)
    return found


def _versions(found: Examination) -> None:
    versions = [f"{name} {importlib.metadata.version(name)}" for name in _PACKAGES]
    for name in _PLUGINS:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions.append(f"{name} {importlib.metadata.version(name)}")
    found.say("versions", ", ".join([f"python {platform.python_version()}", *versions]))


def _devices(found: Examination) -> None:
    """Report the process and its devices, and accelerators and processes that JAX does not use."""
    local = jax.local_devices()
    kinds = sorted({device.device_kind for device in local})
    found.say("process", f"{jax.process_index()} of {jax.process_count()}, {platform.node()}")
    total = f", {jax.device_count()} in all processes" if jax.process_count() > 1 else ""
    found.say("devices", f"{len(local)} {', '.join(kinds)}{total}")
    if jax.default_backend() == "cpu" and "cpu" not in os.environ.get("JAX_PLATFORMS", ""):
        for name, extra in _accelerators():
            found.problems.append(
                f"this machine has {name}, but JAX uses the CPU; install the extra {extra}, or set "
                "JAX_PLATFORMS=cpu"
            )
    for variable, launcher in _COUNTED_PROCESSES.items():
        count = os.environ.get(variable)
        if count is not None and count != str(jax.process_count()):
            found.problems.append(
                f"{launcher} started {count} processes, and this one is in a group of "
                f"{jax.process_count()}; give --distributed"
            )


def _accelerators() -> Iterator[tuple[str, str]]:
    """Yield the kinds of accelerators of this machine, each with the extra that has its libraries."""
    if list_names(_NVIDIA_GPUS):
        yield "an NVIDIA GPU", "cuda"

    def identifier(device: Path, name: str) -> str:
        with contextlib.suppress(OSError):
            return (device / name).read_text().strip()
        return ""

    for device in _PCI_DEVICES.glob("*"):
        if identifier(device, "vendor") == "0x1ae0" and identifier(device, "device") in _TPU_IDS:
            yield "a TPU", "tpu"
            return


def _collective(found: Examination) -> None:
    """Sum over all devices, and compare what must be equal in all processes."""
    with found.problem_if_it_fails("a sum over all devices fails"):
        right = all_reduce_is_right()  # compiles
        started = time.perf_counter()
        right = all_reduce_is_right() and right
        found.say(
            "collective", f"sum over all devices in {duration(time.perf_counter() - started)}"
        )
        if not right:
            found.problems.append("a sum over all devices is wrong")
    for name, text in found.facts:
        compared = text.split(",")[0] if name == "devices" else text
        if name in ("versions", "devices") and not same_on_all_processes(compared):
            found.problems.append(f"processes differ in their {name}; this one has {text}")


def _compilation_cache(found: Examination) -> None:
    """Compile a new program twice; the second time it must come from the cache."""
    folder = jax.config.jax_compilation_cache_dir  # type: ignore[attr-defined]
    if not folder or not jax.config.jax_enable_compilation_cache:  # type: ignore[attr-defined]
        found.say("compilation cache", "off")
        return
    if jax.process_index() > 0:
        found.say("compilation cache", f"{folder}, written by process 0")
        return
    token = secrets.token_hex(8)
    hits: list[str] = []

    def listen(event: str, **_: object) -> None:
        if event == "/jax/compilation_cache/cache_hits":
            hits.append(event)

    def program(x: jax.Array) -> jax.Array:
        return x + 1.0

    program.__name__ = f"doctor_{token}"
    least = "jax_persistent_cache_min_compile_time_secs"
    before = getattr(jax.config, least)
    jax.config.update(least, 0.0)
    jax.monitoring.register_event_listener(listen)
    try:
        for _ in range(2):
            jit(program).lower(jax.ShapeDtypeStruct((), jnp.float32)).compile()
            jax.clear_caches()
    finally:
        jax.monitoring.unregister_event_listener(listen)
        jax.config.update(least, before)
        for file in Path(folder).glob(f"*doctor_{token}*"):
            with contextlib.suppress(OSError):
                file.unlink()
    found.say("compilation cache", f"{folder}, {'works' if hits else 'does not work'}")
    if not hits:
        found.problems.append(
            f"the compilation cache {folder} does not keep programs; make it writable or set "
            "JAX_COMPILATION_CACHE_DIR"
        )


def _free_bytes_per_device() -> int:
    """Return the free memory of a local device; devices of a CPU share that of the host."""
    devices = jax.local_devices()
    return free_memory() // (len(devices) if devices[0].platform == "cpu" else 1)


def _memory(found: Examination, experiment: Experiment) -> TrainState | None:
    """Compile the training step; return the abstract state, or None after a problem in any process."""
    free, training = _free_bytes_per_device(), experiment.training
    devices, data = None, experiment.data
    with found.problem_if_it_fails("the config cannot be trained here"):
        Devices.all(training.compiler).check_batch_size(training.batch_size)
        if experiment.init_from is not None:
            read_initial_weights(experiment.init_from, experiment.task)
        # Only one example is needed, so no split is decoded into memory.
        data = dataclasses.replace(data, cache="none").with_splits()
        devices = Devices.all(shard_optimizer=training.shard_optimizer)
    state = None
    if any_process(devices is None):
        return None
    assert devices is not None
    with found.problem_if_it_fails("the config cannot be trained here"):
        splits = open_splits(data)
        counts = ", ".join(f"{name} {len(source):,}" for name, source in splits.items())
        found.say("data", f"{data.source}: {counts}")
        example = first_example(splits["train"])
        state = jax.eval_shape(
            lambda key: experiment.task.init(key, example), jax.random.key(experiment.seed)
        )
        started = time.perf_counter()
        shape = (training.steps_per_call, training.batch_size)
        lowered = devices.lower(experiment.task.train_step, state, example, shape)
        needed = step_memory(lowered.compile())
        found.say("compilation", f"training step in {duration(time.perf_counter() - started)}")
        if experiment.data.cache == "device":
            needed += tree_bytes(example) * len(splits["train"])
        found.say(
            "memory", f"{short(needed)}B of {short(free)}B free per device for a training step"
        )
        if needed > free:
            found.problems.append(
                f"a training step needs {short(needed)}B per device, and {short(free)}B are free; reduce "
                "training.batch_size or set optimizer.accumulate_steps"
            )
    return None if any_process(state is None) else state


def _folder(
    found: Examination,
    experiment: Experiment | None,
    workdir: Path | None,
    state: TrainState | None,
) -> None:
    """Check the disk of the workdir, and whether all processes see it."""
    if workdir is not None and experiment is not None:
        with found.problem_if_it_fails("the workdir cannot be used"):
            check_workdir(workdir, experiment)
    folder, saves = None, experiment is not None and state is not None
    with found.problem_if_it_fails("the workdir cannot be used"):
        check_local(workdir or ".")
        wanted = (workdir or Path()).absolute()
        folder = next(path for path in (wanted, *wanted.parents) if kind_of(path) is not None)
        free = shutil.disk_usage(folder).free
        found.say("disk", f"{short(free)}B free in {folder}")
        if state is not None and free < _CHECKPOINTS_ON_DISK * tree_bytes(state):
            found.problems.append(
                f"a run keeps up to {_CHECKPOINTS_ON_DISK} checkpoints of {short(tree_bytes(state))}B, and "
                f"{short(free)}B are free in {folder}"
            )
            saves = False
    if any_process(folder is None) or workdir is None:
        return
    assert folder is not None
    probe = folder / f".deconv_jax-doctor-{of_first_process(secrets.randbits(31)):x}"
    try:
        shared = _is_shared(found, probe)
        if shared and not any_process(not saves):
            assert experiment is not None
            assert state is not None
            _checkpoint(found, experiment, state, probe / "checkpoints")
    finally:
        wait_for_all("doctor finished")
        shutil.rmtree(probe, ignore_errors=True)


def _is_shared(found: Examination, probe: Path) -> bool:
    """Return whether all processes can write to a folder and see the files of the others."""
    count, written = jax.process_count(), False
    with found.problem_if_it_fails(f"cannot write to {probe.parent}"):
        probe.mkdir(exist_ok=True)
        (probe / f"process-{jax.process_index()}").write_text(str(jax.process_index()))
        written = True
    if any_process(not written):
        return False
    wait_for_all("doctor wrote")
    expected = {f"process-{index}" for index in range(count)}
    deadline = time.monotonic() + _VISIBLE_AFTER_S
    while missing := expected.difference(list_names(probe)):
        if time.monotonic() > deadline:
            break
        time.sleep(0.1)
    if count > 1:
        found.say("workdir", "written by all processes" if not missing else "not shared")
    if missing:
        others = ", ".join(sorted(name.removeprefix("process-") for name in missing))
        found.problems.append(
            f"{probe.parent} is not shared: process {jax.process_index()} does not see the files of "
            f"process {others}; use a folder that all machines mount"
        )
    return not any_process(bool(missing))


def _checkpoint(found: Examination, experiment: Experiment, like: TrainState, folder: Path) -> None:
    """Save and restore a checkpoint of random numbers with the shapes of the config's state."""
    devices = Devices.all()

    def random(key: jax.Array) -> TrainState:
        def leaf(a: jax.ShapeDtypeStruct) -> jax.Array:
            if jnp.issubdtype(a.dtype, jnp.floating):
                return jax.random.normal(key, a.shape, a.dtype)
            return jnp.zeros(a.shape, a.dtype)

        return jax.tree.map(leaf, like)

    with found.problem_if_it_fails("a checkpoint cannot be saved and restored"):
        state = jax.block_until_ready(devices.init(random, jax.random.key(0)))
        with Checkpoints(
            folder, monitor=experiment.task.monitor, config=experiment.to_dict()
        ) as checkpoints:
            started = time.perf_counter()
            checkpoints.save(state, None, None)
            returned = time.perf_counter()
            checkpoints.wait()
            saved = time.perf_counter()
            checkpoints.restore(like, devices.replicated)
            restored = time.perf_counter()
        found.say(
            "checkpoint",
            f"{short(tree_bytes(like))}B, saved in {duration(saved - started)} (the step waits for "
            f"{duration(returned - started)}), restored in {duration(restored - saved)}",
        )


def to_text(found: Examination, prefix: str = "") -> str:
    """Return the findings as one line each, with columns of equal width, after a prefix."""
    width = max(len(name) for name, _ in found.facts)
    return "\n".join(f"{prefix}{name:<{width}}  {text}" for name, text in found.facts)
