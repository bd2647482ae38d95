"""The shapes on which tests compare exported files."""

import pytest

from deconv_jax.export import parity


@pytest.fixture
def one_shape(monkeypatch):
    """Compare on one shape, because each is compiled."""
    monkeypatch.setattr(parity, "_PIXELS", ((2, 12, 20),))
