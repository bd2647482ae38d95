"""Initial states, training steps on several devices, and a check of the metrics that tasks declare."""

import dataclasses
import fnmatch
import functools

import jax
import numpy as np
import pytest

from deconv_jax.tasks import TASKS
from deconv_jax.training.parallel import Devices


@pytest.fixture(autouse=True)
def metrics_are_declared(monkeypatch):
    """Check that `metric_names` covers every metric that a task emits."""
    for task in TASKS.values():

        def evaluate(self, *arguments, original=task.evaluate, **options):
            metrics = original(self, *arguments, **options)
            for name in metrics:
                assert any(fnmatch.fnmatchcase(name, pattern) for pattern in self.metric_names)
            return metrics

        monkeypatch.setattr(task, "evaluate", evaluate)


@pytest.fixture(scope="session")
def drawn_state():
    """Return a function that makes an initial state with weights drawn by NumPy.

    This avoids compiling `task.init`, which takes as long as a training step.
    """

    def make(task, batch, seed=0):
        like = jax.eval_shape(task.init, jax.random.key(0), batch)
        random = np.random.default_rng(seed)

        def leaf(path, a):
            name = path[-1].key
            if name in ("scale", "var"):
                return np.ones(a.shape, a.dtype)
            if name in ("bias", "mean"):
                return np.zeros(a.shape, a.dtype)
            fan_in = max(1, np.prod(a.shape[:-1]))
            deviation = 1.0 if name == "u" else (2.0 / fan_in) ** 0.5
            values = random.normal(0.0, deviation, a.shape).astype(a.dtype)
            return values / np.linalg.norm(values) if name == "u" else values

        def drawn(tree):
            return jax.tree_util.tree_map_with_path(leaf, tree)

        params, stats = drawn(like.params), drawn(like.batch_stats)
        average = {}
        if like.ema:
            average = params
            if "generator" in params:
                average = {"params": params["generator"], "batch_stats": stats["generator"]}
        return dataclasses.replace(
            like,
            step=np.zeros((), np.int32),
            params=params,
            batch_stats=stats,
            opt_state=jax.tree.map(lambda a: np.zeros(a.shape, a.dtype), like.opt_state),
            ema=jax.tree.map(np.copy, average),
        )

    return make


@pytest.fixture(scope="session")
def run_steps():
    """Return a function that takes training steps on the first devices.

    It returns the state after one step per batch, and every step's scalars.
    """

    @functools.cache
    def compiled(task, count, compiler):
        mesh = jax.sharding.Mesh(
            jax.devices()[:count], ("data",), axis_types=(jax.sharding.AxisType.Auto,)
        )
        devices = Devices(mesh, compiler)
        return devices, devices.compile(task.train_step)

    def run(task, state, batches, *, count=8, compiler="jit"):
        devices, step = compiled(task, count, compiler)
        state = devices.replicate(jax.device_get(state))
        return jax.device_get(step(state, devices.put_batches(batches), {}))

    return run
