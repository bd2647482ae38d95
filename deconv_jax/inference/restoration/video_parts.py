"""Restored videos as parts: short runs of frames that are encoded one by one and joined at the end.

A part is complete or missing, so that an interrupted restoration continues after the last part. Parts
begin with a key frame and are cut at fixed frames; the joined video is therefore the same whether
or not the restoration was interrupted. Joining copies packets and does not encode again.
"""

import dataclasses
import io
import itertools
import math
import shutil
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

from deconv_jax.errors import InputError, did_you_mean
from deconv_jax.inference.restoration.video_source import Timeline, VideoSource, import_av
from deconv_jax.io import kind_of, list_names, read_json, write_atomically, write_json

CONTAINERS = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska"}
"""Formats of results by suffix."""
_ANY_CODEC = ".mkv"
"""Suffix of the format that holds sound of any codec."""
ENCODER = "libx264"
FRAMES_PER_PART = 100
_SETTINGS = "settings.json"
_PART_FORMAT = "nut"
_MAX_TIMESCALE = 10**8
"""Maximum time units per second of an MP4 file."""
_FILE_TAGS = ("major_brand", "minor_version", "compatible_brands", "encoder")
"""Metadata of a file that describe its format."""
_STREAM_TAGS = ("duration", "encoder", "vendor_id", "bps", "number_of_", "_statistics")
"""Beginnings of metadata of a stream that describe its encoding."""


@dataclasses.dataclass(frozen=True)
class Encoding:
    """Properties of a video that its encoder takes.

    Attributes:
      size: Height and width of the frames, both even.
      time_base: Unit of timestamps, in seconds.
      rate: Nominal number of frames per second.
      crf: Constant rate factor of x264; lower values keep more detail.
      color_tags: Color attributes of the encoder, by name.
      aspect_ratio: Width over height of a pixel; None if the source does not state it.
    """

    size: tuple[int, int]
    time_base: Fraction
    rate: Fraction
    crf: float
    color_tags: dict[str, int]
    aspect_ratio: Fraction | None

    def add_stream(self, container: Any) -> Any:
        """Add a video stream with this encoding to an output container of PyAV."""
        # MB-tree would lower the quality at the end of each part, and is not reproducible with AVX-512.
        options = {"crf": f"{self.crf:g}", "mbtree": "0"}
        stream = container.add_stream(ENCODER, rate=self.rate, options=options)
        stream.height, stream.width = self.size
        stream.pix_fmt = "yuv420p"
        context = stream.codec_context
        context.time_base = self.time_base
        for name, value in self.color_tags.items():
            setattr(context, name, value)
        if self.aspect_ratio:
            context.sample_aspect_ratio = self.aspect_ratio
        return stream


@dataclasses.dataclass(frozen=True)
class Part:
    """A finished part.

    Attributes:
      file: File with the encoded frames.
      packets: Timestamp and duration of each packet, in the order of decoding.
      state: State of the restoration after the part, for the next one.
    """

    file: Path
    packets: list[tuple[int, int]]
    state: dict[str, Any]


def parts_path(output: Path) -> Path:
    """Return the folder of the parts of a result, OUTPUT.parts."""
    return output.with_name(f"{output.name}.parts")


def open_parts(output: Path, settings: dict[str, Any], *, overwrite: bool) -> list[Part]:
    """Return the finished parts of a result, none if the restoration starts.

    Args:
      output: File of the result.
      settings: JSON values that determine the result. Floats may differ by 1e-3 from those of the run
        that started the restoration.
      overwrite: Whether to delete parts with other settings.

    Raises:
      InputError: There are parts with other settings and `overwrite` is False; the folder contains other
        files; or it cannot be read or written.
    """
    folder = parts_path(output)
    names = [name for name in list_names(folder) if not name.startswith(".")]
    if _SETTINGS in names:
        different = _differences(read_json(folder / _SETTINGS), settings)
        if not different:
            return list(_finished_parts(output))
        if not overwrite:
            raise InputError(
                f"{folder} contains parts of a video that were restored with another "
                f"{' and another '.join(different)}; give --overwrite to start again"
            )
        for name in names:
            (folder / name).unlink(missing_ok=True)
    elif names:
        raise InputError(f"{folder} exists and contains no parts of a video; remove it")
    write_json(folder / _SETTINGS, settings)
    return []


def write_part(
    output: Path,
    index: int,
    frames: Iterable[tuple[Any, int]],
    encoding: Encoding,
    state: dict[str, Any],
) -> Part:
    """Encode a part of a result.

    Args:
      output: File of the result.
      index: Number of the part.
      frames: Frames of PyAV with timestamps, and their durations.
      encoding: Encoding of the video.
      state: State of the restoration, which iterating over `frames` may change.

    Raises:
      InputError: The part cannot be encoded or written.
    """
    file, record = _part_files(output, index)
    order: list[int] = []
    durations: dict[int, int] = {}

    def encode(path: Path) -> None:
        with import_av().open(str(path), "w", format=_PART_FORMAT) as container:
            stream = encoding.add_stream(container)
            for frame, duration in frames:
                durations[frame.pts] = duration
                mux(container, stream.encode(frame))
            mux(container, stream.encode(None))

    def mux(container: Any, packets: Iterable[Any]) -> None:
        for packet in packets:
            order.append(packet.pts)
            container.mux(packet)

    _write_container(file, encode)
    part = Part(file, [(pts, durations[pts]) for pts in order], dict(state))
    write_json(record, {"packets": part.packets, "state": part.state})
    return part


def remove_parts(output: Path) -> None:
    """Delete the folder of the parts of a result."""
    shutil.rmtree(parts_path(output), ignore_errors=True)


def _finished_parts(output: Path) -> Iterator[Part]:
    for index in itertools.count():
        file, record = _part_files(output, index)
        if kind_of(file) is None or kind_of(record) is None:
            return
        values = read_json(record)
        yield Part(file, [(pts, duration) for pts, duration in values["packets"]], values["state"])


def _part_files(output: Path, index: int) -> tuple[Path, Path]:
    folder = parts_path(output)
    return folder / f"{index:06d}.{_PART_FORMAT}", folder / f"{index:06d}.json"


def result_suffix(suffix: str) -> str:
    """Return the suffix of the result of a video: its own if it is in `CONTAINERS`, or else .mkv."""
    return suffix if suffix.lower() in CONTAINERS else _ANY_CODEC


def output_format(output: Path) -> str:
    """Return FFmpeg's name of the format of a result; raise InputError if there is none."""
    suffix = output.suffix.lower()
    if suffix not in CONTAINERS:
        raise InputError(f"no video format for {output}; {did_you_mean(suffix, CONTAINERS)}")
    return CONTAINERS[suffix]


def split_streams(source: VideoSource, output: Path) -> tuple[list[int], list[str]]:
    """Return the indices of the other streams of a source that a result can hold, and what is lost.

    Returns:
      Indices of streams, and a sentence for each stream that the result cannot hold.

    Raises:
      InputError: The result cannot hold an audio stream of the source.
    """
    copied, lost = [], []
    for stream in source.other_streams:
        codec = stream.codec_context.name if stream.codec_context else "no codec"
        what = f"{stream.type} stream {stream.index} ({codec})"
        if stream.disposition & stream.disposition.attached_pic:
            what, possible = "the cover picture", output_format(output) == "mp4"
        else:
            possible = _can_hold(output, stream)
        if possible:
            copied.append(stream.index)
        elif stream.type == "audio":
            raise InputError(
                f"{output.suffix} files cannot hold {what}; choose an output with suffix {_ANY_CODEC}"
            )
        else:
            lost.append(f"{what} is left out: {output.suffix} files cannot hold it")
    return copied, lost


def _can_hold(output: Path, stream: Any) -> bool:
    av = import_av()
    try:
        with av.open(io.BytesIO(), "w", format=output_format(output)) as container:
            _add_copy(container, stream)
            container.start_encoding()
    except (av.FFmpegError, OSError, ValueError):
        return False
    return True


def join(
    parts: Sequence[Part],
    source: VideoSource,
    copied: Sequence[int],
    output: Path,
    display_matrix: Sequence[int] | None,
) -> None:
    """Write the restored frames of all parts and the other streams of the source to a file.

    Args:
      parts: All parts of the video, at least one.
      source: Source, read from its beginning.
      copied: Indices of the streams of the source whose packets are copied.
      output: File to write, completely or not at all.
      display_matrix: Rotation for display.

    Raises:
      InputError: The file cannot be written.
    """

    def write(path: Path) -> None:
        av = import_av()
        with (
            av.open(str(parts[0].file)) as first,
            av.open(
                str(path),
                "w",
                format=output_format(output),
                container_options=_container_options(source, copied, output),
            ) as container,
        ):
            video = container.add_stream_from_template(first.streams.video[0], opaque=True)
            video.time_base = source.time_base
            video.set_display_matrix(display_matrix)
            _copy_tags(source.stream, video)
            streams = {i: _add_copy(container, source.container.streams[i]) for i in copied}
            tags = {
                k: v for k, v in source.container.metadata.items() if k.lower() not in _FILE_TAGS
            }
            container.metadata.update(tags)
            container.set_chapters(source.container.chapters())
            timelines = {index: Timeline(0) for index in copied}
            restored = _restored_packets(parts, source.time_base, video)
            for packet in source.packets():
                if packet.stream.index == source.stream.index:
                    # The order of the source's packets interleaves the streams.
                    container.mux(list(itertools.islice(restored, 1)))
                elif packet.stream.index in streams:
                    index = packet.stream.index
                    if packet.dts is not None:
                        time = timelines[index].place(packet.dts, packet.duration or 1)
                        shift = time - packet.dts
                        packet.dts += shift
                        packet.pts = None if packet.pts is None else packet.pts + shift
                    packet.stream = streams[index]
                    container.mux(packet)
            for packet in restored:
                container.mux(packet)

    _write_container(output, write)


def _container_options(source: VideoSource, copied: Sequence[int], output: Path) -> dict[str, str]:
    """Return options of the muxer."""
    if output_format(output) == "matroska":
        return {}
    # Streams that start late would otherwise be shifted to a whole millisecond.
    streams = [source.stream, *(source.container.streams[index] for index in copied)]
    unit = math.lcm(*(stream.time_base.denominator for stream in streams if stream.time_base))
    return {"movie_timescale": str(unit)} if unit <= _MAX_TIMESCALE else {}


def _restored_packets(parts: Sequence[Part], time_base: Fraction, stream: Any) -> Iterator[Any]:
    """Yield the packets of all parts with the timestamps of the source, in the order of decoding."""
    order = [pts for part in parts for pts, _ in part.packets]
    times = iter(_decoding_times(order))
    for part in parts:
        with import_av().open(str(part.file)) as container:
            packets = (packet for packet in container.demux() if packet.size)
            for packet, (pts, duration) in zip(packets, part.packets, strict=True):
                packet.time_base = time_base
                packet.pts, packet.dts, packet.duration = pts, next(times), duration
                packet.stream = stream
                yield packet


def _decoding_times(order: Sequence[int]) -> Iterator[int]:
    """Yield increasing times at which packets are decoded, none later than the packet is shown.

    Args:
      order: Times at which packets are shown, distinct, in the order of decoding.
    """
    shown = sorted(order)
    place = {pts: index for index, pts in enumerate(shown)}
    delay = max(index - place[pts] for index, pts in enumerate(order))
    lead = shown[min(delay, len(shown) - 1)] - shown[0]
    for index in range(len(order)):
        yield shown[index] - lead if index < delay else shown[index - delay]


def _add_copy(container: Any, stream: Any) -> Any:
    copy = container.add_stream_from_template(stream, opaque=True)
    _copy_tags(stream, copy)
    return copy


def _copy_tags(stream: Any, copy: Any) -> None:
    tags = stream.metadata.items()
    copy.metadata.update({k: v for k, v in tags if not k.lower().startswith(_STREAM_TAGS)})
    copy.disposition = stream.disposition


def _differences(recorded: dict[str, Any], settings: dict[str, Any]) -> list[str]:
    """Return the names of settings that differ."""

    def equal(a: Any, b: Any) -> bool:
        if isinstance(a, list) and isinstance(b, list):
            return len(a) == len(b) and all(map(equal, a, b))
        if isinstance(a, float) and isinstance(b, float):
            return abs(a - b) <= 1e-3
        return a == b

    return [key for key in settings if not equal(recorded.get(key), settings[key])]


def _write_container(path: Path, write: Any) -> None:
    """Call a function that writes a container to a path; errors as for `write_atomically`."""

    def write_named(file: Any) -> None:
        try:
            write(Path(file.name))
        except import_av().FFmpegError as error:
            if isinstance(error, OSError):
                raise
            raise InputError(f"cannot write {path}: {error.strerror}") from error

    write_atomically(path, write_named)
