"""Tests that the examples in the docstrings of the operators run and print what they say."""

import doctest
import inspect

import jax.numpy as jnp
import pytest

from deconv_jax import ops
from deconv_jax.ops import initializers, straight_through

DOCUMENTED = {
    f"{module.__name__}.{name}": function
    for module in (ops, initializers, straight_through)
    for name, function in vars(module).items()
    if callable(function) and ">>>" in (inspect.getdoc(function) or "")
}


@pytest.mark.slow
@pytest.mark.parametrize("function", DOCUMENTED.values(), ids=DOCUMENTED)
def test_docstring_example_prints_what_it_says(function):
    names = {**vars(ops), **vars(initializers), **vars(straight_through), "jnp": jnp}
    tests = doctest.DocTestFinder(recurse=False).find(function, function.__name__, globs=names)
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
    results = [runner.run(test) for test in tests]
    assert sum(result.attempted for result in results) > 0
    assert sum(result.failed for result in results) == 0


def test_both_convolutions_have_an_example():
    assert {"deconv_jax.ops.conv", "deconv_jax.ops.conv_transpose"} <= set(DOCUMENTED)
