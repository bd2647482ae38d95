"""Networks of random weights, without compiling their initialisation."""

import jax
import numpy as np
import pytest


@pytest.fixture(scope="session")
def random_variables():
    """Random parameters, and running statistics, for images of so many channels, and height and width."""

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
    """Images in [0, 1], different for every shape and seed."""

    def make(*shape, seed=0):
        return np.random.default_rng((seed, *shape)).uniform(size=shape).astype(np.float32)

    return make
