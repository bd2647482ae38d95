"""Files are whole or not there, and an error says which file and why."""

import errno
import json
import os
from pathlib import Path

import pytest

from deconv_jax.errors import InputError
from deconv_jax.files import (
    cannot_write,
    kind_of,
    names_in,
    read_json,
    write_atomically,
    write_json,
)


def test_json_survives_a_round_trip(tmp_path):
    value = {"a": [1, 2.5, None, True, "é"], "b": {"c": {}}}
    write_json(tmp_path / "new" / "folder" / "x.json", value)
    assert read_json(tmp_path / "new" / "folder" / "x.json") == value


def test_json_is_text_that_a_person_can_read(tmp_path):
    write_json(tmp_path / "x.json", {"a": 1})
    assert (tmp_path / "x.json").read_text() == '{\n  "a": 1\n}\n'


def half(error):
    """A writer that fails half-way."""

    def write(file):
        file.write(b"half of the")
        file.flush()
        raise error

    return write


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), InputError),
        (RuntimeError("a defect"), RuntimeError),
        (KeyboardInterrupt(), KeyboardInterrupt),
    ],
)
@pytest.mark.parametrize("before", [b"old content", None])
def test_a_failed_write_leaves_what_was_there_and_nothing_else(tmp_path, before, error, raised):
    path = tmp_path / "x.bin"
    if before is not None:
        path.write_bytes(before)
    with pytest.raises(raised):
        write_atomically(path, half(error))
    assert [p.name for p in tmp_path.iterdir()] == ([] if before is None else ["x.bin"])
    assert before is None or path.read_bytes() == before


def test_the_file_is_not_seen_before_it_is_whole(tmp_path):
    path = tmp_path / "x.bin"
    path.write_bytes(b"old")
    seen = []

    def write(file):
        file.write(b"new")
        file.flush()
        seen.append(path.read_bytes())

    write_atomically(path, write)
    assert (seen, path.read_bytes()) == ([b"old"], b"new")


def test_numbers_that_json_has_no_word_for_become_null(tmp_path):
    inf = float("inf")
    write_json(tmp_path / "x.json", {"psnr": inf, "losses": [1.0, float("nan"), (-inf, 2)]})
    assert read_json(tmp_path / "x.json") == {"psnr": None, "losses": [1.0, None, [None, 2]]}


def test_what_is_no_json_is_refused_and_the_old_file_stays(tmp_path):
    path = tmp_path / "x.json"
    write_json(path, 1)
    with pytest.raises(TypeError):
        write_json(path, {"a": object()})
    assert json.loads(path.read_text()) == 1


def test_a_folder_that_is_a_file_is_an_input_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"cannot write .*file/x\.json"):
        write_json(tmp_path / "file" / "x.json", 1)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_says_what_to_do(tmp_path, number):
    message = str(cannot_write(tmp_path / "x", OSError(number, "reason")))
    assert message.startswith(f"cannot write {tmp_path / 'x'}: ")
    assert message.endswith("(free some space and run the same command again)")


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError(errno.EACCES, "Permission denied"), "[Errno 13] Permission denied"),
        (ValueError("first line\nsecond line"), "first line"),
        (ValueError(), "ValueError"),
    ],
)
def test_other_reasons_are_one_line(tmp_path, error, reason):
    assert str(cannot_write(tmp_path, error)) == f"cannot write {tmp_path}: {reason}"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "No such file"),
        (b"", "Expecting value"),
        (b"{", "Expecting property name"),
        (b"\xff\xfe", "can't decode byte"),
        (b"null", "it holds null; a JSON object is required"),
        (b"[1]", "it holds an array"),
        (b"7", "it holds a number"),
        (b'"{}"', "it holds a string"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"a":' * 100_000, "nested too deeply"),
        (b'{"step": ' + b"9" * 5000 + b"}", "5000 digits"),
    ],
    ids=lambda value: repr(value)[:12],
)
def test_reading_what_is_no_json_object_is_an_input_error_naming_the_file(tmp_path, content, said):
    path = tmp_path / "x.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=rf"cannot read .*x\.json: .*{said}") as raised:
        read_json(path)
    assert len(str(raised.value).splitlines()) == 1


def test_a_pipe_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "x.json")
    with pytest.raises(InputError, match="it is not a regular file"):
        read_json(tmp_path / "x.json")


def test_the_kind_of_a_path_is_told_or_why_not(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "dangling").symlink_to("nothing")
    kinds = {".": "folder", "file": "file", "nothing": None, "dangling": None, "file/in": None}
    assert {name: kind_of(tmp_path / name) for name in kinds} == kinds
    assert kind_of(Path("/dev/null")) == "special"
    with pytest.raises(InputError, match=r"cannot access .*loop: Too many levels"):
        kind_of(tmp_path / "loop")

    def forbidden(*_, **__):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "stat", forbidden)
    with pytest.raises(InputError, match=r"cannot access .*file: Permission denied"):
        kind_of(tmp_path / "file")


def test_names_in_a_folder_are_sorted_and_none_where_it_is_missing(tmp_path):
    for name in "cab":
        (tmp_path / name).touch()
    assert names_in(tmp_path) == ["a", "b", "c"]
    assert names_in(tmp_path / "missing") == []
    with pytest.raises(InputError, match=r"cannot read .*a: Not a directory"):
        names_in(tmp_path / "a")
