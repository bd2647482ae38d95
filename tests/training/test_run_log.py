"""The log of a run, and what is drawn of images: every pixel in its place."""

import errno
import struct

import pytest
from PIL import Image
from tensorboardX.proto.event_pb2 import Event

from deconv_jax.errors import InputError
from deconv_jax.training.run_log import EVENTS, METRICS, RunLog, read_metrics


def test_a_log_cut_off_by_a_crash_is_read_up_to_there(tmp_path):
    path = tmp_path / METRICS
    for rest in ('{"st', "\0\0\0"):
        path.write_text('{"step": 1}\n{"step": 2}\n' + rest)
        assert read_metrics(path) == [{"step": 1}, {"step": 2}]
    path.write_text('{"step": 1}\n{"step": 2}')
    assert read_metrics(path) == [{"step": 1}, {"step": 2}]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"st', "not a record"),
        ("7", "not a record .it holds a number"),
        ("null", "not a record .it holds null"),
        ("[" * 100_000, "not a record .it is nested too deeply"),
        ('{"step": ' + "9" * 5000 + "}", "not a record .*5000 digits"),
        ('{"step": "7"}', '"step" must be an integer'),
        ('{"loss": 7}', '"step" must be an integer'),
        ("", "not a record"),
    ],
    ids=lambda value: value[:12],
)
@pytest.mark.parametrize("after", ["\n", '\n{"step": 2}\n'])
def test_a_damaged_line_of_a_log_is_named(tmp_path, line, said, after):
    path = tmp_path / METRICS
    path.write_text('{"step": 1}\n' + line + after)
    with pytest.raises(InputError, match=f"{METRICS}, line 2: {said}") as raised:
        read_metrics(path)
    assert len(str(raised.value).splitlines()) == 1


def events_in(path):
    """The events of a file: each has its length, two checksums of four bytes and its bytes."""
    content = path.read_bytes()
    while content:
        (size,) = struct.unpack("<Q", content[:8])
        yield Event.FromString(content[12 : 12 + size])
        content = content[16 + size :]


def test_an_unended_line_that_begins_no_record_is_named(tmp_path):
    (tmp_path / METRICS).write_text('{"step": 1}\nnull')
    with pytest.raises(InputError, match="line 2: not a record"):
        read_metrics(tmp_path / METRICS)


def open_log(workdir, resumed_at):
    return RunLog(workdir, resumed_at=resumed_at, last_step=8, batch_size=1, writes=True)


@pytest.mark.parametrize(("resumed_at", "kept"), [(None, 0), (0, 1), (4, 3), (8, 4)])
def test_a_log_keeps_only_what_a_run_does_not_record_again(tmp_path, resumed_at, kept):
    """The test set is measured after the last checkpoint, and step 0 before the first."""
    records = [(0, "validation"), (4, "train"), (4, "validation"), (8, "train"), (8, "test")]
    with open_log(tmp_path, None) as log:
        for step, split in records:
            log.evaluation(step, split, {"psnr": 20.0 + step})
    with open_log(tmp_path, resumed_at):
        pass
    seen = [(r["step"], r["split"]) for r in read_metrics(tmp_path / METRICS)]
    assert seen == records[:kept]


def test_tensorboard_reads_the_scalars_and_pictures(tmp_path):
    with open_log(tmp_path, 4) as log:
        log.evaluation(6, "validation", {"psnr": 21.0, "bad": float("inf")})
        log.pictures(6, {"grid": Image.new("RGB", (3, 2))})
    (path,) = (tmp_path / EVENTS).iterdir()
    first, _, *events = events_in(path)
    assert first.file_version == "brain.Event:2"
    values = [(e.step, v.tag, v.simple_value) for e in events for v in e.summary.value]
    assert values == [(6, "validation/psnr", 21.0), (6, "grid", 0.0)]
    image = events[-1].summary.value[0].image
    assert (image.width, image.height) == (3, 2)


def test_events_on_a_full_disk_are_an_input_error_and_no_wait(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    def fill():
        with open_log(tmp_path, None) as log:
            monkeypatch.setattr(log._events._writer, "write_event", full)
            for step in range(100):
                log.evaluation(step, "validation", {"psnr": 20.0})

    with pytest.raises(InputError, match=r"cannot write .*tensorboard: .*No space left"):
        fill()
