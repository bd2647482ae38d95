"""The parts of `check.py`. Each runs in a process of its own and writes a JSON file."""

import json
import os
import signal
import socket
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any
from xml.etree import ElementTree

import jax
import jax.numpy as jnp
import numpy as np

from deconv_jax.cli import load_config
from deconv_jax.cost.measure import compiled_step
from deconv_jax.cost.report import cost_of
from deconv_jax.experiment import Experiment
from deconv_jax.io import read_json, write_json
from deconv_jax.models import Autoencoder
from deconv_jax.tasks import Autoencoding
from deconv_jax.training.optimizer import Optimizer
from deconv_jax.training.parallel import Devices, initialize_processes
from deconv_jax.training.run_log import METRICS, read_metrics
from deconv_jax.workdir import RESULT, provenance

ROOT = Path(__file__).parents[2]
CHECK = Path(__file__).with_name("check.py")
TESTS = (
    "tests/models/test_layers.py",
    "tests/training/test_step.py",
    "tests/ops/conv",
    "tests/ops/test_upsample.py",
)
SMALL_TESTS = ("tests/ops/conv/test_window.py",)
CONFIG = ROOT / "experiments" / "restoration" / "dncnn.py"
PUBLISHED_PSNR = 30.43
"""Set12 at sigma 25 (arXiv:1608.03981, table IV)."""
RATES = {"f32": jnp.float32, "bf16": jnp.bfloat16}
WORKERS = "worker"


def run(part: str, output: Path, seconds: float, small: bool) -> int:
    """Run a part, and return its exit code; 0 if it passed.

    Args:
      part: Name of the part, or "worker:COORDINATOR" for a process of the part "processes".
      output: Folder of the results.
      seconds: Time for this part.
      small: Whether to use tiny sizes.
    """
    if part.startswith(WORKERS):
        return _worker(part.partition(":")[2])
    problems = PARTS[part](output / f"{part}.json", seconds, small)
    for problem in problems:
        print(problem)
    return int(bool(problems))


def device(output: Path, seconds: float, small: bool) -> list[str]:
    """Describe the device; without an accelerator, only tiny sizes make sense."""
    del seconds
    write_json(output, provenance() | {"backend": jax.default_backend()})
    if jax.default_backend() == "cpu" and not small:
        return ["JAX sees no accelerator; install jax[cuda13] or jax[tpu], or give --small"]
    return []


def tests(output: Path, seconds: float, small: bool) -> list[str]:
    """Run the quick tests of `TESTS` on the device, as far as the time allows."""
    backend = jax.default_backend()
    platform = {"gpu": "cuda"}.get(backend, backend)
    report = output.with_suffix(".xml")
    report.unlink(missing_ok=True)
    command = [sys.executable, "-m", "pytest", "-q", "-m", "not slow", "-p", "no:cacheprovider"]
    command += [f"--junitxml={report.absolute()}", *(SMALL_TESTS if small else TESTS)]
    if backend == "gpu":  # Processes can share a GPU, but not a TPU.
        command += ["-n", "8"]
    environment = os.environ | {"DECONV_JAX_TEST_PLATFORM": platform}
    process = subprocess.Popen(command, cwd=ROOT, env=environment)
    try:
        process.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGINT)  # Writes the report of the tests that have run.
        process.wait()
    outcomes: dict[str, list[str]] = {"passed": [], "failed": [], "error": [], "skipped": []}
    for case in ElementTree.parse(report).iter("testcase"):
        kinds = [child.tag.replace("failure", "failed") for child in case] or ["passed"]
        name = f"{case.get('classname')}::{case.get('name')}"
        for kind in set(kinds) & set(outcomes) or {"passed"}:
            outcomes[kind].append(name)
    failed = outcomes["failed"] + outcomes["error"]
    finished = process.returncode in (0, 1)
    write_json(
        output,
        {
            "command": command[1:],
            "passed": len(outcomes["passed"]),
            "skipped": len(outcomes["skipped"]),
            "failed": failed,
            "finished": finished,
            **provenance(),
        },
    )
    problems = [f"{len(failed)} tests failed, the first is {failed[0]}"] if failed else []
    if not finished:
        print(f"note: the time was too short for all tests; {len(outcomes['passed'])} passed")
    if not outcomes["passed"]:
        problems.append("no test passed")
    return problems


def operators(output: Path, seconds: float, small: bool) -> list[str]:
    """Time the operators beside PyTorch."""
    from speed import Setup, measure_operators

    return measure_operators(output, Setup.of(small, 0.8 * seconds))


def steps(output: Path, seconds: float, small: bool) -> list[str]:
    """Time training steps beside PyTorch."""
    from speed import Setup, measure_steps

    return measure_steps(output, Setup.of(small, 0.8 * seconds))


def processes(output: Path, seconds: float, small: bool) -> list[str]:
    """Compare training steps of joined processes with those of one process.

    Two processes cannot share a device. With one device, a single process joins a run on it, and two join on the CPU.
    """
    accelerated = jax.default_backend() != "cpu"
    several = jax.default_backend() == "gpu" and jax.local_device_count() > 1
    on_cpu = {"JAX_PLATFORMS": "cpu"}
    groups: dict[str, list[Mapping[str, str]]] = {
        "two processes, two GPUs" if several else "two processes, CPU": [
            {"CUDA_VISIBLE_DEVICES": str(i)} if several else on_cpu for i in range(2)
        ]
    }
    if accelerated and not small:
        groups["one process that joins a run, device"] = [{}]
    results, problems = {}, []
    for name, environments in groups.items():
        alone = _losses([on_cpu if "CPU" in name else {}], seconds, joined=False)
        together = _losses(environments, seconds, joined=True)
        agree = bool(np.allclose(together, alone[0], rtol=1e-3))
        results[name] = {"losses": together, "losses_of_one_process": alone[0], "agree": agree}
        if not agree:
            problems.append(f"{name}: losses {together} differ from {alone[0]} of one process")
        write_json(output, {"groups": results, **provenance()})
    return problems


def _losses(
    environments: Sequence[Mapping[str, str]], seconds: float, *, joined: bool
) -> list[list[float]]:
    """Return the losses that each of some processes prints."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        address = f"localhost:{probe.getsockname()[1]}"
    started = []
    for index, environment in enumerate(environments):
        where = f"{address},{index},{len(environments)}" if joined else ""
        command = [sys.executable, str(CHECK), "--part", f"{WORKERS}:{where}"]
        started.append(
            subprocess.Popen(
                command, env=os.environ | environment, stdout=subprocess.PIPE, text=True
            )
        )
    return [json.loads(p.communicate(timeout=seconds)[0].splitlines()[-1]) for p in started]


def _worker(coordinator: str) -> int:
    """Train a small network for three steps, and print the losses."""
    if coordinator:
        initialize_processes(coordinator)
    devices = Devices.all()
    task = Autoencoding(
        Autoencoder((16, 16, 1), features=(4,), latent_dim=6),
        Optimizer(name="sgd", learning_rate=0.1),
    )
    images = np.random.default_rng(0).integers(0, 256, (48, 16, 16, 1), dtype=np.uint8)
    rows = np.split(np.arange(48, dtype=np.int32), jax.process_count())[jax.process_index()]
    state = devices.init(lambda key: task.init(key, {"image": images[:1]}), jax.random.key(0))
    batch = {"image": images[rows], "index": rows}
    _, scalars = devices.compile(task.train_step)(state, devices.put_batches([batch] * 3), {})
    print(json.dumps(np.asarray(scalars["loss"]).tolist()))
    return 0


def training(output: Path, seconds: float, small: bool) -> list[str]:
    """Train DnCNN for the remaining time, after measuring the speed of a step."""
    ends = perf_counter() + seconds
    size = {"depth": 3, "features": 4, "batch": 8} if small else {}
    overrides, missing = _data(small)
    record: dict[str, Any] = {"small": small, "data": "train400 and set12", **provenance()}
    if missing:
        record["data"] = f"embedded photographs, because {missing}"
    record["speed"] = {name: _step_speed(size, name, overrides, small) for name in RATES}
    write_json(output, record)

    # The rest of the time, without that of compiling, evaluating and the test.
    rate = record["speed"]["f32"]["steps_per_second"]
    left = ends - perf_counter() - 60
    num_steps = 20 if small else max(500, int(0.8 * rate * left) // 10 * 10)
    workdir = output.with_name("dncnn")
    arguments = ",".join(f"{k}={v}" for k, v in (size | {"steps": num_steps}).items())
    command = [sys.executable, "-m", "deconv_jax.cli", "train", "--config", f"{CONFIG}:{arguments}"]
    every = 20 if small else num_steps // 5 // 10 * 10
    for key in ("eval_every", "save_every"):
        overrides = [*overrides, f"--config.training.{key}={every}"]
    process = subprocess.Popen([*command, *overrides, "--workdir", str(workdir)])
    try:
        process.wait(timeout=max(1.0, ends - perf_counter()))
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGTERM)  # Saves the state.
        process.wait()
    logged = [
        r["images_per_second"] for r in read_metrics(workdir / METRICS) if "images_per_second" in r
    ]
    record["steps"] = num_steps
    record["images_per_second_in_training"] = statistics.median(logged) if logged else None
    finished = (workdir / RESULT).exists()
    if finished:
        result = read_json(workdir / RESULT)
        record |= {
            name: result[name] for name in ("metrics", "baseline", "protocol", "wall_time_s")
        }
        record["published_psnr"] = None if missing else PUBLISHED_PSNR
    write_json(output, record)
    return [] if finished else [f"training ended before step {num_steps}"]


def _data(small: bool) -> tuple[list[str], str]:
    """Return overrides that choose the data, and what is missing of the paper's, or ""."""
    folder = os.environ.get("DECONV_JAX_DATA")
    needed = ("train400", "bsd68", "set12")
    if folder and not small and all((Path(folder) / name).is_dir() for name in needed):
        return [], ""
    splits = {
        "train": "train",
        "validation": "validation[:1]",
        "test": "test[:1]" if small else "test",
    }
    overrides = [f"--config.data.{name}_split={split}" for name, split in splits.items()]
    missing = "--small" if small else "$DECONV_JAX_DATA has no train400/, bsd68/ and set12/"
    return ["--config.data.source=photographs", *overrides], missing


def _step_speed(
    size: Mapping[str, int], precision: str, overrides: Sequence[str], small: bool
) -> dict[str, float]:
    """Measure a training step on random images, and the rate of matrix products."""
    arguments = ",".join(f"{k}={v}" for k, v in (size | {"precision": precision}).items())
    experiment = Experiment.from_dict(load_config(f"{CONFIG}:{arguments}", list(overrides)))
    shapes = {
        "image": jax.ShapeDtypeStruct((1, 180, 180, 1), jnp.uint8),
        "index": jax.ShapeDtypeStruct((1,), jnp.int32),
    }
    flops = cost_of("DnCNN", experiment, shapes).step_flops
    call, state, batches = compiled_step(experiment, shapes, Devices.all())
    box = [state]

    def step() -> Any:
        box[0], scalars = call(box[0], batches, {})
        return scalars["loss"]

    per_second = 1 / _seconds_per_call(step, 2 if small else 100)
    products = _matrix_rate(RATES[precision], 256 if small else 8192, 2 if small else 20)
    rate = products * jax.device_count()
    return {
        "steps_per_second": per_second,
        "images_per_second": per_second * experiment.training.batch_size,
        "step_flops": flops,
        "matrix_product_flops_per_second": rate,
        "fraction_of_matrix_product_rate": per_second * flops / rate,
    }


def _matrix_rate(dtype: Any, n: int, calls: int) -> float:
    """Return the FLOPs per second of one device for products of n x n matrices."""
    a, b = (jax.random.normal(jax.random.key(i), (n, n), dtype) / n**0.5 for i in range(2))
    product = jax.jit(jnp.matmul)
    box = [a]

    def multiply() -> Any:
        box[0] = product(box[0], b)
        return box[0]

    return 2 * n**3 / _seconds_per_call(multiply, calls)


def _seconds_per_call(call: Any, calls: int) -> float:
    """Return the mean time of calls that are dispatched one after the other, after a warm-up call."""
    jax.block_until_ready(call())
    started = perf_counter()
    for _ in range(calls):
        result = call()
    jax.block_until_ready(result)
    return (perf_counter() - started) / calls


PARTS = {part.__name__: part for part in (device, tests, operators, steps, processes, training)}
