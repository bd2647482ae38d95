"""Fixtures of the tests of training."""

import gc

import pytest


@pytest.fixture(scope="module", autouse=True)
def small_heap():
    """Hides what earlier modules left from the garbage collector.

    A full collection visits every object that JAX has cached, which takes seconds late in the suite,
    and reading a damaged checkpoint collects several times.
    """
    gc.freeze()
    yield
    gc.unfreeze()
