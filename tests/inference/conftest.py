"""Random variables and runs, without compiling an initialization and without training."""

import jax
import numpy as np
import pytest

from deconv_jax.data.source_configs import Stacked
from deconv_jax.experiment import Experiment
from deconv_jax.io import write_json
from deconv_jax.training.checkpoint import Checkpoints
from deconv_jax.training.parallel import Devices
from deconv_jax.workdir import CHECKPOINTS, CONFIG, INPUTS


@pytest.fixture(scope="session")
def random_variables():
    """Function that returns random parameters and running statistics of a model for an image shape."""

    def make(model, channels, seed=0, size=(64, 64)):
        image = jax.ShapeDtypeStruct((1, *size, channels), np.float32)
        variables = jax.eval_shape(model.init, jax.random.key(0), image)
        random = np.random.default_rng(seed)

        def parameter(leaf):
            fan_in = max(1, np.prod(leaf.shape[:-1]))
            return random.normal(0.0, fan_in**-0.5, leaf.shape).astype(leaf.dtype)

        def statistic(leaf):
            return random.uniform(0.5, 1.5, leaf.shape).astype(leaf.dtype)

        fill = {"params": parameter, "batch_stats": statistic}
        return {name: jax.tree.map(fill[name], tree) for name, tree in variables.items()}

    return make


@pytest.fixture(scope="session")
def draw():
    """Function that returns random images in [0, 1], different for every shape and seed."""

    def make(*shape, seed=0):
        return np.random.default_rng((seed, *shape)).uniform(size=shape).astype(np.float32)

    return make


@pytest.fixture(scope="session")
def write_run():
    """Function that writes the workdir of a run, with random instead of trained weights."""

    def write(workdir, task, data, image_shape=(32, 32, 1), **groups):
        training = {"num_steps": 2, "batch_size": 8, "eval_every": 2, "save_every": 2}
        values = {"task": task, "data": data, "training": training} | groups
        experiment = Experiment.from_dict(values)
        described = {
            "image": {"shape": list(image_shape), "dtype": "uint8"},
            "label": {"shape": [], "dtype": "int32"},
            "index": {"shape": [], "dtype": "int32"},
        }
        if isinstance(experiment.data.source, Stacked):
            described["digits"] = {"shape": [3], "dtype": "int32"}
        batch = {
            name: jax.ShapeDtypeStruct((1, *like["shape"]), like["dtype"])
            for name, like in described.items()
        }
        random = np.random.default_rng(0)

        def leaf(path, like):
            if not np.issubdtype(like.dtype, np.floating):
                return np.zeros(like.shape, like.dtype)
            fan_in = max(1, np.prod(like.shape[:-1]))
            values = random.normal(0.0, fan_in**-0.5, like.shape).astype(like.dtype)
            return np.abs(values) if "var" in jax.tree_util.keystr(path) else values

        like = jax.eval_shape(experiment.task.init, jax.random.key(0), batch)
        state = Devices.all().replicate(jax.tree_util.tree_map_with_path(leaf, like))
        write_json(workdir / CONFIG, experiment.to_dict())
        write_json(workdir / INPUTS, described)
        checkpoints = Checkpoints(workdir / CHECKPOINTS, monitor=experiment.task.monitor)
        checkpoints.save(state, {}, None)
        checkpoints.close()
        return workdir

    return write
