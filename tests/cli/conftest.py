"""Fixtures of the tests of the command line."""

import pytest

from deconv_jax.cli import main


@pytest.fixture(autouse=True)
def private_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def error_of(capsys):
    """Run a command that must fail with exit code 2 and print `lines` lines; return the message."""

    def run(*arguments, lines=1):
        assert main([str(a) for a in arguments]) == 2
        error = capsys.readouterr().err.strip()
        assert error.startswith("deconv-jax: error: ")
        assert len(error.splitlines()) == lines, error
        return error

    return run
