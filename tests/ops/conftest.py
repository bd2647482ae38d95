"""Fixtures of the tests of operators."""

import jax
import pytest
from jaxtyping import config


@pytest.fixture
def float64():
    """Enable float64 arrays."""
    with jax.enable_x64(True):
        yield


@pytest.fixture
def no_type_checks(monkeypatch):
    """Disable run-time shape checks, so that the errors that a user sees are raised."""
    monkeypatch.setattr(config, "jaxtyping_disable", True)
