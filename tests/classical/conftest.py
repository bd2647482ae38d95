"""What the tests of the solvers share."""

import pytest
from jaxtyping import config as jaxtyping_config


@pytest.fixture
def without_type_checks(monkeypatch):
    """A user has no run-time type checker in front of the functions, and sees their own errors."""
    monkeypatch.setattr(jaxtyping_config, "jaxtyping_disable", True)
