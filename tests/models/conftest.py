"""Random variables of a model, without compiling its initialization, which is slower than using them."""

import jax
import numpy as np
import pytest


@pytest.fixture
def random_variables():
    """Makes random parameters and running statistics with the shapes of `model.init`."""

    def make(model, x):
        variables = jax.eval_shape(model.init, jax.random.key(0), x)
        random = np.random.default_rng(0)

        def parameter(leaf):
            fan_in = max(1, np.prod(leaf.shape[:-1]))
            return random.normal(0.0, fan_in**-0.5, leaf.shape).astype(leaf.dtype)

        def statistic(leaf):
            return random.uniform(0.5, 1.5, leaf.shape).astype(leaf.dtype)

        fill = {"params": parameter, "batch_stats": statistic}
        return {name: jax.tree.map(fill[name], tree) for name, tree in variables.items()}

    return make


@pytest.fixture
def apply():
    """Calls `model.apply`, or another method, under `jit`."""

    def call(model, variables, *inputs, method=None):
        return jax.jit(lambda v, x: model.apply(v, *x, method=method))(variables, inputs)

    return call
