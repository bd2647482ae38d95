"""The log of a run: metrics.jsonl and TensorBoard events."""

import errno
import struct

import pytest
from PIL import Image
from tensorboardX.proto.event_pb2 import Event

from deconv_jax.errors import InputError
from deconv_jax.training.run_log import EVENTS, METRICS, RunLog, read_metrics


def test_truncated_last_line_is_ignored(tmp_path):
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
def test_damaged_line_is_named(tmp_path, line, said, after):
    path = tmp_path / METRICS
    path.write_text('{"step": 1}\n' + line + after)
    with pytest.raises(InputError, match=f"{METRICS}, line 2: {said}") as raised:
        read_metrics(path)
    assert len(str(raised.value).splitlines()) == 1


def events_in(path):
    """Yield the events of a file: length (8 bytes), checksum (4), event, checksum (4)."""
    content = path.read_bytes()
    while content:
        (size,) = struct.unpack("<Q", content[:8])
        yield Event.FromString(content[12 : 12 + size])
        content = content[16 + size :]


def test_unterminated_line_that_is_no_record_is_named(tmp_path):
    (tmp_path / METRICS).write_text('{"step": 1}\nnull')
    with pytest.raises(InputError, match="line 2: not a record"):
        read_metrics(tmp_path / METRICS)


def open_log(workdir, resumed_at):
    return RunLog(workdir, resumed_at=resumed_at, last_step=8, batch_size=1, writes=True)


@pytest.mark.parametrize(("resumed_at", "kept"), [(None, 0), (0, 1), (4, 3), (8, 4)])
def test_resuming_drops_the_records_that_are_written_again(tmp_path, resumed_at, kept):
    """The test split is evaluated after the last checkpoint, and step 0 before the first."""
    records = [(0, "validation"), (4, "train"), (4, "validation"), (8, "train"), (8, "test")]
    with open_log(tmp_path, None) as log:
        for step, split in records:
            log.evaluation(step, split, {"psnr": 20.0 + step})
    with open_log(tmp_path, resumed_at):
        pass
    seen = [(r["step"], r["split"]) for r in read_metrics(tmp_path / METRICS)]
    assert seen == records[:kept]


def test_events_hold_finite_scalars_and_pictures(tmp_path):
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


def test_full_disk_is_an_input_error(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    def fill():
        with open_log(tmp_path, None) as log:
            monkeypatch.setattr(log._events._writer, "write_event", full)
            for step in range(100):
                log.evaluation(step, "validation", {"psnr": 20.0})

    with pytest.raises(InputError, match=r"cannot write .*tensorboard: .*No space left"):
        fill()
