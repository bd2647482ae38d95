"""Every test runs strictly: 8 host devices, no rank promotion, run-time shape checks.

If the environment variable DECONV_JAX_TEST_PLATFORM names another platform, such as "cuda", the tests run on its
devices, with full precision of float32. Tests of several devices need eight of them.
"""

import atexit
import gc
import os
import shutil
import tempfile

# This process and its children share a compilation cache. Each worker has its own folder, because JAX may
# read a program that another process is still writing.
CACHE = tempfile.mkdtemp(prefix="deconv_jax-tests-")
atexit.register(shutil.rmtree, CACHE, ignore_errors=True)
os.environ["JAX_COMPILATION_CACHE_DIR"] = CACHE
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
# Tests spend most of their time compiling. Level 0 makes compilation fast and programs slow. (Disabling
# fusion emitters is faster still, but the two flags together miscompile the digit scenes.)
PLATFORM = os.environ.get("DECONV_JAX_TEST_PLATFORM", "cpu")
if PLATFORM == "cpu":
    os.environ["XLA_FLAGS"] = (
        "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"
    )
os.environ["JAX_PLATFORMS"] = PLATFORM
# OpenBLAS computes the eigenvalues of a PCA faster with one thread than with two.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from jaxtyping import install_import_hook

SHAPED = ["deconv_jax.ops", "deconv_jax.models", "deconv_jax.metrics", "deconv_jax.data.augment"]
SHAPED += ["deconv_jax.data.differentiable_augment", "deconv_jax.data.warp", "deconv_jax.classical"]
install_import_hook(SHAPED, "beartype.beartype")

import jax

jax.config.update("jax_numpy_rank_promotion", "raise")
if PLATFORM != "cpu":
    jax.config.update("jax_default_matmul_precision", "highest")

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from deconv_jax.data.source_configs import Digits
from deconv_jax.experiment import Experiment
from deconv_jax.io import write_json
from deconv_jax.train import train
from deconv_jax.training.checkpoint import Checkpoints
from deconv_jax.training.parallel import Devices
from deconv_jax.training.run_log import METRICS, read_metrics
from deconv_jax.training.stopping import Interrupted, StopRequests
from deconv_jax.workdir import CHECKPOINTS, CONFIG, INPUTS, open_workdir


@pytest.fixture(scope="module", autouse=True)
def small_heap():
    """Hide the objects of earlier modules from the garbage collector.

    A full collection visits every object that JAX has cached, which takes seconds late in the suite.
    """
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(scope="session")
def digits_dir(tmp_path_factory):
    """A TFDS data directory with the embedded digits."""
    folder = tmp_path_factory.mktemp("tfds")
    Digits().prepare(str(folder))
    return str(folder)


@pytest.fixture
def small_config(digits_dir):
    """Return the config of an autoencoder that trains in seconds, with overrides such as data__cache="none"."""

    def config(**overrides):
        model = {"name": "autoencoder", "image_shape": (32, 32, 1), "features": (4, 8)}
        values = {
            "task": {"name": "autoencoding", "model": model | {"latent_dim": 6}},
            "data": {"source": {"name": "digits"}, "data_dir": digits_dir, "cache": "memory"},
            "optimizer": {"learning_rate": 3e-3},
            "training": {
                "num_steps": 8,
                "batch_size": 16,
                "eval_every": 4,
                "save_every": 4,
                "log_every": 2,
            },
        }
        for path, value in overrides.items():
            *groups, last = path.split("__")
            group = values
            for key in groups:
                group = group.setdefault(key, {})
            group[last] = value
        return values

    return config


@pytest.fixture(scope="session")
def command():
    """Start the command line in a new process, on one device; `optimized` programs take long to compile."""
    root = Path(__file__).parent.parent

    def start(*arguments, devices=1, optimized=False, **options):
        flags = f"--xla_force_host_platform_device_count={devices}"
        if not optimized:
            flags += " --xla_backend_optimization_level=0"
        words = [sys.executable, "-m", "deconv_jax.cli", *map(str, arguments)]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        environment = os.environ | {"XLA_FLAGS": flags}
        return subprocess.Popen(words, cwd=root, env=environment, **(pipes | options))

    return start


@pytest.fixture(scope="session")
def ended():
    """Wait for a process, and return its exit code, standard output and standard error."""

    def wait(process):
        output, errors = process.communicate(timeout=300)
        return process.returncode, output, errors

    return wait


@pytest.fixture(scope="session")
def finished_runs():
    """The runs that `finished` has trained."""
    return []


@pytest.fixture
def finished(finished_runs, tmp_path_factory, small_config):
    """Return the workdir and the result of a finished run. Tests must not change them."""
    if not finished_runs:
        workdir = tmp_path_factory.mktemp("finished")
        finished_runs += [workdir, train(Experiment.from_dict(small_config()), workdir)]
    return finished_runs


@pytest.fixture
def train_until(monkeypatch):
    """Train an experiment that is asked to stop at a step, and check that it does."""

    def run(experiment, workdir, step, *, since=0):
        calls = (step - since) // experiment.training.steps_per_call
        answers = iter([False] * (calls - 1) + [True])
        with monkeypatch.context() as patch:
            patch.setattr(StopRequests, "agreed", lambda _: next(answers))
            with pytest.raises(Interrupted, match=f"^{step}$"):
                train(experiment, workdir)

    return run


@pytest.fixture
def last_state():
    """Return the step and the state of a workdir's last checkpoint, on one device."""

    def read(workdir):
        experiment = open_workdir(workdir)
        example = {
            "image": jax.numpy.zeros((1, 32, 32, 1), "uint8"),
            "label": jax.numpy.zeros(1, int),
        }
        like = jax.eval_shape(lambda key: experiment.task.init(key, example), jax.random.key(0))
        checkpoints = Checkpoints(
            workdir / CHECKPOINTS, monitor=experiment.task.monitor, read_only=True
        )
        restored = checkpoints.restore(like, jax.sharding.SingleDeviceSharding(jax.devices()[0]))
        checkpoints.close()
        return restored.step, restored.state

    return read


@pytest.fixture
def saved_run(tmp_path):
    """Write the workdir of a run with random weights.

    Args:
      example: Shape, without the batch axis, and dtype of each array, by name.
    """

    def save(task, example, *, name="run", data=None, metrics=None):
        values = {"task": task, "data": {"source": {"name": "digits"}} | (data or {})}
        values["training"] = {"num_steps": 10, "batch_size": 8, "eval_every": 5, "save_every": 5}
        experiment = Experiment.from_dict(values)
        batch = {k: jax.ShapeDtypeStruct((1, *shape), t) for k, (shape, t) in example.items()}
        like = jax.eval_shape(experiment.task.init, jax.random.key(0), batch)
        random = np.random.default_rng(0)

        def leaf(path, a):
            if not np.issubdtype(a.dtype, np.floating):
                return np.zeros(a.shape, a.dtype)
            fan_in = max(1, np.prod(a.shape[:-1]))
            values = random.normal(0.0, fan_in**-0.5, a.shape).astype(a.dtype)
            return np.abs(values) if "var" in jax.tree_util.keystr(path) else values

        state = Devices.all().replicate(jax.tree_util.tree_map_with_path(leaf, like))
        workdir = tmp_path / name
        write_json(workdir / CONFIG, experiment.to_dict())
        described = {k: {"shape": list(shape), "dtype": t} for k, (shape, t) in example.items()}
        write_json(workdir / INPUTS, described)
        checkpoints = Checkpoints(workdir / CHECKPOINTS, monitor=experiment.task.monitor)
        checkpoints.save(state, {}, metrics)
        checkpoints.close()
        return workdir, state

    return save


@pytest.fixture(scope="session")
def logged():
    """Return the records of a workdir without times and speeds."""
    clocked = ("time", "images_per_second", "first_call_seconds")

    def read(workdir):
        records = read_metrics(workdir / METRICS)
        return [{k: v for k, v in r.items() if k not in clocked} for r in records]

    return read


@pytest.fixture(scope="module")
def browser():
    """Chromium, driven by Playwright. Tests are skipped where one of them is not installed."""
    names = ("chromium", "chromium-browser", "google-chrome")
    chromium = next(filter(None, map(shutil.which, names)), None)
    if chromium is None:
        pytest.skip("Chromium is not installed")
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def config_file(tmp_path):
    """Write a dict as a config file, and return its path."""

    def write(values, name="config.py"):
        path = tmp_path / name
        path.write_text(
            "import ml_collections\n\n\ndef get_config(arg=''):\n"
            f"    return ml_collections.ConfigDict({values!r})\n"
        )
        return path

    return write


@pytest.fixture
def assert_trees_equal():
    """Assert that two trees are equal bit for bit, or within a relative error of each leaf's norm."""

    def check(a, b, relative=0.0):
        assert jax.tree.structure(a) == jax.tree.structure(b)
        pairs = zip(jax.tree_util.tree_leaves_with_path(a), jax.tree.leaves(b), strict=True)
        for (path, x), y in pairs:
            x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
            error, size = np.linalg.norm(x - y), np.linalg.norm(y)
            assert error <= relative * size, f"{jax.tree_util.keystr(path)}: {error} of {size}"

    return check
