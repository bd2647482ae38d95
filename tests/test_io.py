"""Tests of reading and atomic writing of files, and of their error messages."""

import errno
import json
import os
import re
from pathlib import Path

import pytest

from deconv_jax.errors import InputError, escape_unprintable
from deconv_jax.io import (
    check_output_path,
    check_regular,
    kind_of,
    list_names,
    make_folder,
    open_regular,
    read_json,
    write_atomically,
    write_error,
    write_json,
    write_together,
)


def test_json_round_trip_is_exact(tmp_path):
    value = {"a": [1, 2.5, None, True, "é"], "b": {"c": {}}}
    write_json(tmp_path / "new" / "folder" / "x.json", value)
    assert read_json(tmp_path / "new" / "folder" / "x.json") == value


def test_json_is_indented(tmp_path):
    write_json(tmp_path / "x.json", {"a": 1})
    assert (tmp_path / "x.json").read_text() == '{\n  "a": 1\n}\n'


def half(error):
    """Return a writer that fails half-way."""

    def write(file):
        file.write(b"half of the")
        file.flush()
        raise error

    return write


@pytest.mark.parametrize("url", ["gs://bucket/run", "s3://bucket", "file+x://a/b"])
def test_url_is_not_taken_for_a_local_folder(tmp_path, monkeypatch, url):
    monkeypatch.chdir(tmp_path)
    for use in (kind_of, make_folder, lambda path: write_json(path / "x.json", {})):
        with pytest.raises(InputError, match=rf"{re.escape(url)}.* gcsfuse .* mountpoint-s3 "):
            use(Path(url))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("path", ["gs:", "a/gs:/b", "x:/y", "/gs://b", "a:b"])
def test_path_with_a_colon_is_local(tmp_path, monkeypatch, path):
    monkeypatch.chdir(tmp_path)
    assert kind_of(Path(path)) is None


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), InputError),
        (RuntimeError("a defect"), RuntimeError),
        (KeyboardInterrupt(), KeyboardInterrupt),
    ],
)
@pytest.mark.parametrize("before", [b"old content", None])
def test_failed_write_leaves_the_folder_unchanged(tmp_path, before, error, raised):
    path = tmp_path / "x.bin"
    if before is not None:
        path.write_bytes(before)
    with pytest.raises(raised):
        write_atomically(path, half(error))
    assert [p.name for p in tmp_path.iterdir()] == ([] if before is None else ["x.bin"])
    assert before is None or path.read_bytes() == before


@pytest.mark.parametrize("failing", ["a", "b", "c"])
def test_files_are_written_together_or_not_at_all(tmp_path, failing):
    (tmp_path / "b").write_bytes(b"old")
    files = {tmp_path / name: lambda file: file.write(b"new") for name in "abc"}
    broken = OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(InputError, match=f"cannot write .*{failing}: No space"):
        write_together(files | {tmp_path / failing: half(broken)})
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"b": b"old"}
    write_together(files)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == dict.fromkeys(
        "abc", b"new"
    )


def test_file_is_replaced_only_when_it_is_complete(tmp_path):
    path = tmp_path / "x.bin"
    path.write_bytes(b"old")
    seen = []

    def write(file):
        file.write(b"new")
        file.flush()
        seen.append(path.read_bytes())

    write_atomically(path, write)
    assert (seen, path.read_bytes()) == ([b"old"], b"new")


def test_infinity_and_nan_become_null(tmp_path):
    inf = float("inf")
    write_json(tmp_path / "x.json", {"psnr": inf, "losses": [1.0, float("nan"), (-inf, 2)]})
    assert read_json(tmp_path / "x.json") == {"psnr": None, "losses": [1.0, None, [None, 2]]}


def test_values_that_json_cannot_represent_leave_the_old_file(tmp_path):
    path = tmp_path / "x.json"
    write_json(path, 1)
    with pytest.raises(TypeError):
        write_json(path, {"a": object()})
    assert json.loads(path.read_text()) == 1


def test_file_in_place_of_a_folder_is_an_input_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"cannot write .*file/x\.json"):
        write_json(tmp_path / "file" / "x.json", 1)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_message_for_a_full_disk_suggests_what_to_do(tmp_path, number):
    message = str(write_error(tmp_path / "x", OSError(number, "reason")))
    assert message.startswith(f"cannot write {tmp_path / 'x'}: ")
    assert message.endswith("(free some space and run the same command again)")


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError(errno.EACCES, "Permission denied"), "Permission denied"),
        (ValueError("first line\nsecond line"), "first line"),
        (ValueError(), "ValueError"),
    ],
)
def test_other_messages_have_one_line(tmp_path, error, reason):
    assert str(write_error(tmp_path, error)) == f"cannot write {tmp_path}: {reason}"


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
def test_message_for_invalid_json_names_the_file(tmp_path, content, said):
    path = tmp_path / "x.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=rf"cannot read .*x\.json: .*{said}") as raised:
        read_json(path)
    assert len(str(raised.value).splitlines()) == 1


def test_reading_a_pipe_is_refused_without_blocking(tmp_path):
    os.mkfifo(tmp_path / "x.json")
    with pytest.raises(InputError, match="not a regular file"):
        read_json(tmp_path / "x.json")


def test_list_names_is_sorted_and_empty_for_a_missing_folder(tmp_path):
    for name in "cab":
        (tmp_path / name).touch()
    assert list_names(tmp_path) == ["a", "b", "c"]
    assert list_names(tmp_path / "missing") == []
    with pytest.raises(InputError, match=r"cannot read .*a: Not a directory"):
        list_names(tmp_path / "a")


@pytest.fixture
def kinds(tmp_path):
    """Create a file, a folder, a pipe, links to them, a broken link and a loop."""
    (tmp_path / "file").write_bytes(b"content")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    for target in ("file", "folder", "pipe", "nothing"):
        (tmp_path / f"to_{target}").symlink_to(target)
    (tmp_path / "loop").symlink_to("loop")
    return tmp_path


def test_kind_of_follows_links(kinds):
    for name, kind in (("file", "file"), ("folder", "folder"), ("pipe", "other")):
        assert kind_of(kinds / name) == kind_of(kinds / f"to_{name}") == kind
    for name in ("nothing", "to_nothing", "file/below"):
        assert kind_of(kinds / name) is None
    for name, reason in (("loop", "Too many levels"), ("x" * 300, "File name too long")):
        with pytest.raises(InputError, match=f"cannot access .*{name}: {reason}"):
            kind_of(kinds / name)


def test_inaccessible_file_is_an_input_error(kinds, monkeypatch):
    def denied(*_, **__):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "stat", denied)
    for look in (kind_of, check_regular):
        with pytest.raises(InputError, match=r"cannot access .*file: Permission denied"):
            look(kinds / "file")
    with pytest.raises(InputError, match=r"cannot access .*file: Permission denied"):
        check_output_path(kinds / "file", overwrite=True)


def test_only_regular_files_are_opened(kinds):
    with open_regular(kinds / "to_file") as file:
        assert file.read() == b"content"
    for name, reason in (("pipe", "not a regular file"), ("folder", "Is a directory")):
        with pytest.raises(OSError, match=reason):
            open_regular(kinds / name)
    check_regular(kinds / "nothing")
    with pytest.raises(InputError, match=r"cannot read .*pipe: not a regular file"):
        check_regular(kinds / "pipe")


def test_only_regular_files_are_replaced(kinds):
    for name in ("pipe", "to_pipe"):
        with pytest.raises(InputError, match=f"cannot write .*{name}: .*not a regular file"):
            write_atomically(kinds / name, lambda file: file.write(b"new"))
        with pytest.raises(InputError, match="not a regular file"):
            check_output_path(kinds / name, overwrite=True)
    check_output_path(kinds / "nothing", overwrite=False)
    check_output_path(kinds / "file", overwrite=True)
    with pytest.raises(InputError, match="exists; give --overwrite"):
        check_output_path(kinds / "file", overwrite=False)


def test_file_names_may_have_the_maximal_length(tmp_path):
    path = tmp_path / ("a" * 251 + ".png")
    write_atomically(path, lambda file: file.write(b"content"))
    assert path.read_bytes() == b"content"
    with pytest.raises(InputError, match="File name too long"):
        write_atomically(tmp_path / ("a" * 256), lambda file: file.write(b""))
    assert len(list(tmp_path.iterdir())) == 1


def test_control_characters_are_escaped():
    assert escape_unprintable("photo ä.png") == "photo ä.png"
    assert escape_unprintable("a\nb\x1b[31m\u202e\x7f") == r"a\nb\x1b[31m\u202e\x7f"
    assert escape_unprintable(os.fsdecode(b"a\xff.png")) == r"a\xff.png"
