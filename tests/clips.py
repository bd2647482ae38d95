"""Tiny video files with sound, and what is in a video file."""

import dataclasses
from fractions import Fraction

import av
import numpy as np

SOUND_RATE = 48_000
_LEVELS = ((60, 180), (120, 136), (120, 136))
"""Levels of Y, Cb and Cr whose colors are all in the range of RGB."""


@dataclasses.dataclass(frozen=True)
class Clip:
    """The content of a video file.

    Attributes:
      times: Time of each frame, in seconds.
      luma: Luma of each frame.
      sound: Timestamp, duration and bytes of each audio packet.
      codec: Codec context of the video stream.
      rotation: Rotation for display, in degrees.
      tags: Metadata of the file.
      language: Language of the sound.
    """

    times: list[Fraction]
    luma: list[np.ndarray]
    sound: list[tuple[int, int, bytes]]
    codec: av.VideoCodecContext
    rotation: int
    tags: dict[str, str]
    language: str | None


def write_clip(
    path,
    *,
    times=tuple(range(0, 3200, 400)),
    size=(16, 16),
    codec="libx264",
    pixel_format="yuv420p",
    sound="aac",
    rotation=0,
    tags=(),
    color=(0, 2, 2, 2),
):
    """Write a clip of noise, with a tone and the time base 1/10000 (1/1000 in Matroska).

    Args:
      path: File to write.
      times: Timestamp of each frame, in 1/10000 s.
      size: Height and width.
      codec: Encoder of the video; x264 is lossless.
      pixel_format: Pixel format of the video.
      sound: Encoder of the sound; None for a silent clip.
      rotation: Rotation for display, in degrees.
      tags: Metadata of the file.
      color: Color range, matrix, primaries and transfer characteristics by ITU-T H.273.
    """
    unit = Fraction(1, 10_000)
    random = np.random.default_rng(0)
    packets = []
    with av.open(str(path), "w") as container:
        container.metadata.update(tags)
        options = {"qp": "0"} if codec == "libx264" else {}
        video = container.add_stream(codec, rate=25, options=options)
        video.height, video.width = size
        video.pix_fmt = pixel_format
        context = video.codec_context
        context.time_base = unit
        names = ("color_range", "colorspace", "color_primaries", "color_trc")
        for name, value in zip(names, color, strict=True):
            setattr(context, name, value)
        if rotation:
            video.set_display_rotation(rotation)
        for time in times:
            frame = av.VideoFrame(*size[::-1], pixel_format)
            for plane, (low, high) in zip(frame.planes, _LEVELS, strict=True):
                noise = random.integers(low, high, plane.buffer_size, dtype=np.uint8)
                np.frombuffer(plane, np.uint8)[:] = noise
            frame.pts, frame.time_base = time, unit
            packets += video.encode(frame)
        packets += video.encode()
        if sound:
            packets += encode_tone(container, sound, float((max(times) + 400) * unit))
        for packet in sorted(packets, key=lambda packet: packet.dts * packet.time_base):
            container.mux(packet)


def encode_tone(container, codec, seconds):
    """Yield the packets of a new audio stream."""
    stream = container.add_stream(codec, rate=SOUND_RATE, layout="mono")
    stream.metadata["language"] = "deu"
    container.start_encoding()
    length = stream.codec_context.frame_size or 1024
    for start in range(0, round(seconds * SOUND_RATE), length):
        wave = np.sin(0.05 * np.arange(start, start + length), dtype=np.float32)
        frame = av.AudioFrame.from_ndarray(wave[None], format="fltp", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = SOUND_RATE, start, Fraction(1, SOUND_RATE)
        yield from stream.encode(frame)
    yield from stream.encode()


def read_clip(path):
    """Return the content of a video file."""
    with av.open(str(path)) as container:
        streams = container.streams.audio
        packets = [p for p in container.demux(streams[0]) if p.size] if streams else []
        sound = [(p.pts, p.duration, bytes(p)) for p in packets]
        language = streams[0].metadata.get("language") if streams else None
    with av.open(str(path)) as container:
        video = container.streams.video[0]
        frames = list(container.decode(video))
        luma = [np.frombuffer(f.planes[0], np.uint8).reshape(f.height, -1) for f in frames]
        return Clip(
            times=[frame.pts * video.time_base for frame in frames],
            luma=[plane[:, : frames[0].width].copy() for plane in luma],
            sound=sound,
            codec=video.codec_context,
            rotation=frames[0].rotation,
            tags=dict(container.metadata),
            language=language,
        )


def damage(path, index, length=None):
    """Overwrite a packet of a video file by zeros, or cut the file off there.

    Args:
      path: File to change.
      index: Number of the packet, in the order of the file.
      length: None to overwrite the packet; 0 to cut the file off before it.

    Returns:
      Time of the packet, in seconds.
    """
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        packet = [p for p in container.demux(stream) if p.size][index]
        start, size, time = packet.pos, packet.size, packet.pts * stream.time_base
    data = bytearray(path.read_bytes())
    if length is None:
        data[start : start + size] = bytes(size)
    else:
        del data[start + length :]
    path.write_bytes(data)
    return time
