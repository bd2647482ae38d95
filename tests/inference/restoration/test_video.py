"""Videos keep their timing, sound, color and rotation, and resume after an interruption."""

import dataclasses
import itertools
import resource
import sys
from fractions import Fraction

import av
import numpy as np
import pytest
from clips import damage, encode_tone, read_clip, write_clip
from PIL import Image

from deconv_jax.errors import InputError
from deconv_jax.inference.progress import SILENT, ProgressCallback
from deconv_jax.inference.restoration import video
from deconv_jax.inference.restoration.noise_level import estimate_noise_sigma
from deconv_jax.inference.restoration.restorer_by_channels import RestorerByChannels
from deconv_jax.inference.restoration.video import restore_video
from deconv_jax.inference.restoration.video_color import VideoColor
from deconv_jax.inference.restoration.video_parts import _decoding_times
from deconv_jax.inference.restoration.video_source import Timeline

UNEVEN = (0, 400, 900, 1000, 1700, 2100, 2450, 3000)


@dataclasses.dataclass
class Scaled:
    """A restorer that enlarges by repeating pixels and multiplies them by a factor."""

    scale: int = 1
    factor: float = 1.0
    calls: int = 0
    last_call: int | None = None

    def __call__(self, pixels, progress):
        self.calls += 1
        if self.calls == self.last_call:
            raise KeyboardInterrupt
        progress.on_progress(1.0)
        return np.float32(self.factor) * pixels.repeat(self.scale, 0).repeat(self.scale, 1)


class Blind(Scaled):
    """A restorer that estimates the noise level, and notes which one it gets."""

    estimates_noise = True

    def __call__(self, pixels, progress):
        del progress
        return pixels

    def restore_at(self, pixels, sigma, progress):
        self.sigmas = [*getattr(self, "sigmas", []), sigma]
        self.pixels = [*getattr(self, "pixels", []), pixels]
        return Scaled.__call__(self, pixels, progress)


@pytest.fixture
def two_frames_a_part(monkeypatch):
    monkeypatch.setattr(video, "FRAMES_PER_PART", 2)


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv"])
@pytest.mark.usefixtures("two_frames_a_part")
def test_timing_sound_rotation_and_tags_are_kept(tmp_path, suffix):
    source, output = tmp_path / f"a{suffix}", tmp_path / "new" / f"b{suffix}"
    # Matroska has timestamps in milliseconds.
    times = [round(time, -1) for time in UNEVEN]
    write_clip(source, times=times, rotation=90, tags={"title": "Waves"}, color=(1, 1, 1, 1))
    result = restore_video(Scaled(scale=2), source, output, SILENT)
    before, after = read_clip(source), read_clip(output)
    assert (result.size, result.frames, result.damage, result.notes) == ((32, 32), 8, (), ())
    assert after.times == before.times == [Fraction(time, 10_000) for time in times]
    assert after.sound == before.sound
    assert len(before.sound) > 10
    assert after.rotation == before.rotation == 90
    assert after.language == before.language == (None if suffix == ".mov" else "deu")
    assert after.tags["title"] == "Waves"
    for name in ("color_range", "colorspace", "color_primaries", "color_trc"):
        assert getattr(after.codec, name) == 1, name
    assert (after.codec.name, after.codec.pix_fmt) == ("h264", "yuv420p")
    assert [p.name for p in output.parent.iterdir()] == [output.name]


@pytest.mark.parametrize("color", [(1, 1), (1, 6), (2, 1), (2, 5), (0, 9), (0, 2)], ids=str)
def test_unchanged_frames_keep_their_luma(tmp_path, color):
    """A crf of 0 is lossless, so that conversion to RGB and back is the only change."""
    write_clip(tmp_path / "a.mkv", color=(*color, 2, 2), sound=None)
    restore_video(Scaled(), tmp_path / "a.mkv", tmp_path / "b.mkv", SILENT, crf=0)
    before, after = read_clip(tmp_path / "a.mkv"), read_clip(tmp_path / "b.mkv")
    np.testing.assert_array_equal(after.luma, before.luma)
    for name in ("color_range", "colorspace"):
        assert getattr(after.codec, name) == getattr(before.codec, name)
    assert after.codec.colorspace == color[1]


@pytest.mark.parametrize(("full", "matrix"), [(False, 1), (True, 1), (False, 6), (True, 6)])
def test_colors_follow_the_recommendations(full, matrix):
    luma = np.array([0.2126, 0.7152, 0.0722] if matrix == 1 else [0.299, 0.587, 0.114])
    colors = np.array([[0, 0, 0], [1, 1, 1], [1, 0, 0], [0, 0, 1], [0.2, 0.5, 0.3]])
    y = colors @ luma
    blue = (colors[:, 2] - y) / (2 - 2 * luma[2])
    red = (colors[:, 0] - y) / (2 - 2 * luma[0])
    unit, black, chroma = (255, 0, 255) if full else (219, 16, 224)
    levels = np.stack([black + unit * y, 128 + chroma * blue, 128 + chroma * red]).round()
    frame = av.VideoFrame(16, 16, "yuv420p")
    frame.color_range, frame.colorspace = 2 if full else 1, matrix
    color = VideoColor.of(frame, resized=False)
    for index, expected in enumerate(colors):
        for plane, values in zip(frame.planes, np.clip(levels, 0, 255), strict=True):
            np.frombuffer(plane, np.uint8)[:] = values[index]
        pixels = color.to_rgb(frame, (16, 16))
        np.testing.assert_allclose(pixels, np.broadcast_to(expected, (16, 16, 3)), atol=0.006)


def test_untagged_video_states_its_matrix_if_enlarged():
    """Players guess BT.601 for 480 rows and BT.709 for 960."""
    frame = av.VideoFrame(16, 480, "yuv420p")
    frame.colorspace = 2
    assert [VideoColor.of(frame, resized=r).tags["colorspace"] for r in (False, True)] == [2, 6]
    frame.colorspace = 8
    with pytest.raises(InputError, match=r"color matrix 8 of ITU-T H.273 is not supported"):
        VideoColor.of(frame, resized=False)


@pytest.mark.usefixtures("two_frames_a_part")
def test_an_interrupted_restoration_continues(tmp_path):
    source, output, whole = (tmp_path / name for name in ("a.mp4", "b.mp4", "c.mp4"))
    write_clip(source, times=UNEVEN)
    # A run restores a test picture first.
    restorer = Scaled(last_call=1 + 6)
    messages = []
    progress = ProgressCallback(lambda _: None, messages.append)
    with pytest.raises(KeyboardInterrupt):
        restore_video(restorer, source, output, progress)
    assert messages == ["4 restored frames are kept; the same command continues"]
    folder = tmp_path / "b.mp4.parts"
    assert sorted(p.name for p in folder.iterdir()) == [
        *(f"{part:06d}.{kind}" for part in (0, 1) for kind in ("json", "nut")),
        "settings.json",
    ]
    assert not output.exists()
    statuses = []
    progress = ProgressCallback(lambda _: None, print, on_status=statuses.append)
    restorer = Scaled()
    assert restore_video(restorer, source, output, progress).frames == 8
    assert restorer.calls == 1 + 4
    assert statuses[-1].startswith("frame 8 of 8, ")
    restore_video(Scaled(), source, whole, SILENT)
    assert output.read_bytes() == whole.read_bytes()
    assert not folder.exists()


@pytest.mark.usefixtures("two_frames_a_part")
def test_parts_with_other_settings_are_not_used(tmp_path):
    source, output = tmp_path / "a.mp4", tmp_path / "b.mp4"
    write_clip(source)
    with pytest.raises(KeyboardInterrupt):
        restore_video(Scaled(last_call=6), source, output, SILENT)
    for restorer, crf, what in (
        (Scaled(factor=0.9), video.DEFAULT_CRF, "network or method"),
        (Scaled(), 30, "crf"),
    ):
        with pytest.raises(
            InputError, match=f"b.mp4.parts contains .* another {what}; give --over"
        ):
            restore_video(restorer, source, output, SILENT, crf=crf)
    restorer = Scaled(factor=0.9)
    assert restore_video(restorer, source, output, SILENT, overwrite=True).frames == 8
    assert restorer.calls == 1 + 8


@pytest.mark.parametrize("order", [[5], [0, 7, 9], [0, 30, 10, 20, 31, 50, 40], [9, 2, 3, 4, 5]])
def test_packets_are_decoded_in_order_before_they_are_shown(order):
    times = list(_decoding_times(order))
    assert all(early < late for early, late in itertools.pairwise(times))
    assert all(decoded <= shown for decoded, shown in zip(times, order, strict=True))
    # Packets that are shown in the order of decoding are decoded when they are shown.
    assert order != sorted(order) or times == order


def test_the_restorer_for_color_is_used(tmp_path):
    restorer = Blind()
    write_clip(tmp_path / "a.mkv", sound=None)
    chosen = RestorerByChannels(lambda channels: restorer if channels == 3 else None)
    result = restore_video(chosen, tmp_path / "a.mkv", tmp_path / "b.mkv", SILENT)
    assert len(restorer.sigmas) == 8
    lowest, highest = min(restorer.sigmas), max(restorer.sigmas)
    assert result.notes == (f"sigma {lowest:.1f} to {highest:.1f} estimated",)


@pytest.mark.usefixtures("two_frames_a_part")
def test_noise_level_is_averaged_over_time(tmp_path, monkeypatch):
    monkeypatch.setattr(video, "_AVERAGED_FRAMES", 3)
    source = tmp_path / "a.mkv"
    write_clip(source, sound=None)
    restorer = Blind()
    restore_video(restorer, source, tmp_path / "b.mkv", SILENT)
    estimates = [estimate_noise_sigma(pixels) for pixels in restorer.pixels]
    expected = [estimates[0], np.mean(estimates[:2]), np.mean(estimates[:3])]
    for estimate in estimates[3:]:
        expected.append(expected[-1] + (estimate - expected[-1]) / 3)
    np.testing.assert_allclose(restorer.sigmas, expected, rtol=1e-6)
    interrupted, continued = Blind(last_call=5), Blind()
    with pytest.raises(KeyboardInterrupt):
        restore_video(interrupted, source, tmp_path / "c.mkv", SILENT)
    restore_video(continued, source, tmp_path / "c.mkv", SILENT)
    np.testing.assert_allclose(continued.sigmas, restorer.sigmas[4:], rtol=1e-9)


def test_a_corrupt_frame_is_reported_and_the_others_keep_their_times(tmp_path):
    source, output = tmp_path / "a.mp4", tmp_path / "b.mp4"
    write_clip(source, times=UNEVEN)
    expected = read_clip(source)
    # The last packet is a frame that no other refers to.
    lost = damage(source, -1)
    result = restore_video(Scaled(), source, output, SILENT)
    assert result.damage == (
        "1 frame could not be decoded, and the one before is shown longer "
        f"(at {float(lost):.3f} s)",
    )
    assert read_clip(output).times == [time for time in expected.times if time != lost]
    assert read_clip(output).sound == expected.sound


def test_a_missing_end_is_reported(tmp_path):
    source, output = tmp_path / "a.mkv", tmp_path / "b.mkv"
    write_clip(source, times=range(0, 16000, 2000))
    damage(source, 4, length=0)
    result = restore_video(Scaled(), source, output, SILENT)
    assert len(result.damage) == 1
    assert result.damage[0].startswith("the file ends after 0.")
    assert 0 < result.frames < 8


def test_joined_recordings_follow_one_another(tmp_path):
    """Their timestamps start again, and the size of the frames changes."""
    for name, size in (("a.ts", (16, 16)), ("b.ts", (32, 48))):
        write_clip(tmp_path / name, size=size, codec="mpeg4")
    joined, output = tmp_path / "joined.ts", tmp_path / "c.mp4"
    joined.write_bytes((tmp_path / "a.ts").read_bytes() + (tmp_path / "b.ts").read_bytes())
    result = restore_video(Scaled(), joined, output, SILENT)
    after = read_clip(output)
    assert (result.frames, result.size) == (16, (16, 16))
    assert [late - early for early, late in itertools.pairwise(after.times)] == 15 * [
        Fraction(1, 25)
    ]
    assert len(result.damage) == 1
    assert "1 frame moved, with a timestamp that is missing or not later" in result.damage[0]
    assert len(after.sound) == 2 * len(read_clip(tmp_path / "a.ts").sound)


def test_times_increase_and_are_timestamps_if_possible():
    timeline = Timeline(100)
    stamps = [None, 10, 20, 20, 15, 30, None, 50, 20, -60, -40, None]
    times = [timeline.place(stamp, 10) for stamp in stamps]
    assert times == [0, 10, 20, 21, 22, 30, 40, 50, 51, 61, 81, 91]


def test_odd_sizes_and_deep_samples_are_noted(tmp_path):
    source, output = tmp_path / "a.mkv", tmp_path / "b.mkv"
    write_clip(source, codec="ffv1", pixel_format="yuv444p10le", size=(17, 16), sound=None)
    result = restore_video(Scaled(), source, output, SILENT)
    assert result.size == (18, 16)
    assert result.notes == (
        "10 bits per sample were reduced to 8",
        "the last row was repeated to make the size even",
    )
    assert read_clip(output).luma[0].shape == (18, 16)


def test_cover_pictures_are_not_restored(tmp_path):
    plain, source = tmp_path / "plain.mp4", tmp_path / "a.mp4"
    write_clip(plain)
    for name, streams in (("only.mp4", "audio"), ("a.mp4", "all")):
        with av.open(str(plain)) as read, av.open(str(tmp_path / name), "w") as written:
            kept = read.streams.audio if streams == "audio" else read.streams
            copies = {s.index: written.add_stream_from_template(s, opaque=True) for s in kept}
            cover = written.add_stream("mjpeg", rate=1)
            cover.width = cover.height = 8
            cover.pix_fmt = "yuvj420p"
            cover.disposition = av.stream.Disposition.attached_pic
            picture = av.VideoFrame.from_image(Image.new("RGB", (8, 8), "red"))
            picture.pts = 0
            written.mux([*cover.encode(picture.reformat(format="yuvj420p")), *cover.encode()])
            for packet in read.demux():
                if packet.size and packet.stream.index in copies:
                    packet.stream = copies[packet.stream.index]
                    written.mux(packet)
    assert restore_video(Scaled(), source, tmp_path / "b.mp4", SILENT).frames == 8
    with av.open(str(tmp_path / "b.mp4")) as container:
        names = [stream.codec_context.name for stream in container.streams]
    assert names == ["h264", "aac", "mjpeg"]
    result = restore_video(Scaled(), source, tmp_path / "b.mkv", SILENT)
    assert result.notes == ("the cover picture is left out: .mkv files cannot hold it",)
    with pytest.raises(InputError, match=r"only.mp4: it has only a cover picture"):
        restore_video(Scaled(), tmp_path / "only.mp4", tmp_path / "c.mp4", SILENT)


def test_unusable_videos_and_outputs_are_errors(tmp_path):
    write_clip(tmp_path / "a.mp4")
    write_clip(tmp_path / "tta.mkv", sound="tta")
    (tmp_path / "text.mp4").write_text("#EXTM3U\nother.mp4\n")
    (tmp_path / "codec.mp4").write_bytes(
        (tmp_path / "a.mp4").read_bytes().replace(b"avc1", b"zzzz")
    )
    (tmp_path / "cut.mp4").write_bytes((tmp_path / "a.mp4").read_bytes()[:2000])
    (tmp_path / "exists.mp4").touch()
    (tmp_path / "full.mp4.parts").mkdir()
    (tmp_path / "full.mp4.parts" / "mine").touch()
    with av.open(str(tmp_path / "sound.mp4"), "w") as container:
        container.mux(list(encode_tone(container, "aac", 0.1)))
    before = sorted(tmp_path.rglob("*"))
    for source, output, message in (
        ("missing.mp4", "b.mp4", "missing.mp4: no such file"),
        (".", "b.mp4", "not a regular file"),
        ("text.mp4", "b.mp4", "text.mp4 as a video: Invalid data"),
        ("cut.mp4", "b.mp4", "cut.mp4 as a video: Invalid data"),
        ("codec.mp4", "b.mp4", "codec.mp4: no decoder for its video codec"),
        ("sound.mp4", "b.mp4", "sound.mp4: it has no video stream"),
        ("tta.mkv", "b.mp4", r".mp4 files cannot hold audio stream 1 \(tta\); .* suffix .mkv"),
        ("a.mp4", "b.avi", "no video format for .*b.avi; known are: .m4v, .mkv, .mov, .mp4"),
        ("a.mp4", "exists.mp4", "exists.mp4 exists; give --overwrite"),
        ("a.mp4", "full.mp4", "full.mp4.parts exists and contains no parts of a video"),
        ("a.mp4", "a.mp4/b.mp4", "cannot write .*a.mp4/b.mp4.parts"),
    ):
        with pytest.raises(InputError, match=message):
            restore_video(Scaled(), tmp_path / source, tmp_path / output, SILENT)
    with pytest.raises(InputError, match=r"crf must be in \[0, 51\]; got 52"):
        restore_video(Scaled(), tmp_path / "a.mp4", tmp_path / "b.mp4", SILENT, crf=52)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.usefixtures("two_frames_a_part")
def test_a_full_disk_is_one_error_and_the_work_is_kept(tmp_path):
    source, output = tmp_path / "a.mkv", tmp_path / "b.mkv"
    write_clip(source, size=(64, 64))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (24_000, hard))
    try:
        with pytest.raises(InputError, match=r"cannot write .*b.mkv: File too large \(free some"):
            restore_video(Scaled(), source, output, SILENT, crf=10)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.mkv", "b.mkv.parts"]
    restorer = Scaled()
    restore_video(restorer, source, output, SILENT, crf=10)
    assert restorer.calls == 1


def test_a_frame_that_cannot_be_restored_is_named(tmp_path):
    class Fails(Scaled):
        def __call__(self, pixels, progress):
            if self.calls == 3:
                raise InputError("the output is not finite")
            return super().__call__(pixels, progress)

    write_clip(tmp_path / "a.mp4", times=UNEVEN)
    with pytest.raises(InputError, match=r"a.mp4: frame at 0.090 s: the output is not finite"):
        restore_video(Fails(), tmp_path / "a.mp4", tmp_path / "b.mp4", SILENT)


def test_missing_pyav_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(InputError, match=r"requires PyAV: pip install 'deconv_jax\[video\]'"):
        restore_video(Scaled(), tmp_path / "a.mp4", tmp_path / "b.mp4", SILENT)
