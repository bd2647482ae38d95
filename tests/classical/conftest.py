"""Fixtures of the tests of classical restoration."""

import jax
import pytest
from jaxtyping import config as jaxtyping_config


@pytest.fixture
def without_type_checks(monkeypatch):
    """Disable the run-time type checks of the tests, so that the functions' own errors show."""
    monkeypatch.setattr(jaxtyping_config, "jaxtyping_disable", True)


@pytest.fixture
def double_precision():
    """Compute in float64."""
    with jax.enable_x64(True):
        yield
