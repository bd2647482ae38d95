"""The bar that counts files on a terminal."""

import io

import pytest

from deconv_jax.inference.progress import Progress


@pytest.fixture
def screen(monkeypatch):
    """What is written to stderr."""

    def of(terminal):
        stream = io.StringIO()
        stream.isatty = lambda: terminal
        monkeypatch.setattr("sys.stderr", stream)
        return stream

    return of


def test_a_terminal_shows_the_count_and_the_time_that_is_left(screen, capsys):
    stream = screen(True)
    with Progress("restore", 24) as bar:
        bar.show(2, 0.5)
        bar.write("a line")
        bar.show(3)
    drawn = stream.getvalue()
    assert "restore 0/24" in drawn
    assert "restore 3/24  12%|" in drawn
    assert ", ETA " in drawn
    assert capsys.readouterr().out == "a line\n"


def test_nothing_but_the_lines_is_written_elsewhere(screen, capsys):
    stream = screen(False)
    with Progress("restore", 24) as bar:
        bar.show(3)
        bar.write("a line")
        bar.write("an error", file=stream)
    assert stream.getvalue() == "an error\n"
    assert capsys.readouterr().out == "a line\n"
