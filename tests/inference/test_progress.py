"""The progress bar on a terminal, and its absence elsewhere."""

import io

import pytest

from deconv_jax.inference.progress import ProgressBar


@pytest.fixture
def screen(monkeypatch):
    """Replace stderr by a stream that is, or is not, a terminal."""

    def make(terminal):
        stream = io.StringIO()
        stream.isatty = lambda: terminal
        monkeypatch.setattr("sys.stderr", stream)
        return stream

    return make


def test_a_terminal_shows_the_count_and_the_remaining_time(screen, capsys):
    stream = screen(True)
    with ProgressBar("restore", 24) as bar:
        bar.set_status("frame 7 of 9")
        bar.show(2, 0.5)
        bar.write("a line")
        bar.set_status("")
        bar.show(3)
    drawn = stream.getvalue()
    assert "restore 0/24" in drawn
    assert "restore 2/24, frame 7 of 9  10%|" in drawn
    assert "restore 3/24  12%|" in drawn
    assert ", ETA " in drawn
    assert capsys.readouterr().out == "a line\n"


def test_only_lines_are_written_without_a_terminal(screen, capsys):
    stream = screen(False)
    with ProgressBar("restore", 24) as bar:
        bar.show(3)
        bar.write("a line")
        bar.write("an error", file=stream)
    assert stream.getvalue() == "an error\n"
    assert capsys.readouterr().out == "a line\n"
