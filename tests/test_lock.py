"""Tests of the exclusive lock on a folder."""

import os
import signal
import subprocess
import sys

import pytest

from deconv_jax import lock
from deconv_jax.errors import InputError
from deconv_jax.lock import LOCK, locked

HOLD = """
import sys, time
from pathlib import Path
from deconv_jax.lock import locked

with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_holder_is_named_and_killing_it_releases_the_lock(tmp_path):
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(InputError, match=f"{tmp_path} is in use by process {holder.pid} on "):
            locked(tmp_path).__enter__()
        holder.send_signal(signal.SIGKILL)
    assert (tmp_path / LOCK).exists()
    with locked(tmp_path):
        assert f"process {os.getpid()} on " in (tmp_path / LOCK).read_text()
    assert list(tmp_path.iterdir()) == []


def test_created_folders_that_stay_empty_are_removed(tmp_path):
    with locked(tmp_path / "a" / "b"):
        assert (tmp_path / "a" / "b" / LOCK).exists()
    assert list(tmp_path.iterdir()) == []
    with locked(tmp_path / "a" / "b"):
        (tmp_path / "a" / "b" / "file").touch()
    assert (tmp_path / "a" / "b" / "file").exists()


def test_lock_on_a_removed_file_is_retried(tmp_path, monkeypatch):
    """The previous holder removes the file between opening and locking it here."""
    flock, removed = lock.fcntl.flock, []

    def late(file, flags):
        if not removed:
            removed.append((tmp_path / LOCK).unlink())
        flock(file, flags)

    monkeypatch.setattr(lock.fcntl, "flock", late)
    with locked(tmp_path):
        monkeypatch.undo()
        with pytest.raises(InputError, match="is in use"):
            locked(tmp_path).__enter__()


def test_file_system_without_locks_is_used_with_a_warning(tmp_path, monkeypatch, capsys):
    def unsupported(*_):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(lock.fcntl, "flock", unsupported)
    with locked(tmp_path):
        pass
    assert (
        capsys.readouterr().err == f"warning: {tmp_path} is not locked: Operation not supported\n"
    )


def test_folder_that_cannot_be_written_is_an_input_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"cannot write .*file"):
        locked(tmp_path / "file" / "in").__enter__()


def test_lock_file_that_cannot_be_opened_is_an_input_error(tmp_path):
    (tmp_path / LOCK).symlink_to(tmp_path / "missing" / "file")
    with pytest.raises(InputError, match="cannot write"), locked(tmp_path):
        pass
