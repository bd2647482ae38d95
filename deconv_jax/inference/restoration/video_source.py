"""Reading of video files with PyAV: frames with timestamps, and reports of damage."""

import contextlib
import dataclasses
import heapq
import os
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, Self

import numpy as np

from deconv_jax.errors import InputError
from deconv_jax.io import NOT_REGULAR, kind_of

VIDEO_SUFFIXES = (
    ".3gp",
    ".avi",
    ".flv",
    ".m2ts",
    ".m4v",
    ".mkv",
    ".mov",
    ".mp4",
    ".mpeg",
    ".mpg",
    ".mts",
    ".ogv",
    ".ts",
    ".webm",
    ".wmv",
)
"""Suffixes of files that are read as videos."""
_DEMUXERS = "3gp,asf,avi,flv,matroska,mov,mp4,mpeg,mpegts,mpegvideo,ogg,webm"
"""Formats of FFmpeg that are accepted; playlists, which name other files, are not among them."""
_DEFAULT_RATE = Fraction(25)
_MAX_TIMES = 5
"""Maximum number of times that a report of damage lists."""
_NEIGHBOR = Fraction(3, 5)
"""Distance of a lost frame from the others, in frame durations. The second field of an interlaced
frame, and the hidden frames of some codecs, are closer to another frame."""
_RESTART = Fraction(1, 5)
"""Time by which timestamps of frames go back where they start again, in seconds."""
_MISSING_END = 0.5
"""Duration that has to be missing at the end of a file that counts as truncated, in seconds."""


def is_video(path: Path) -> bool:
    """Return whether a file is read as a video, by its suffix."""
    return path.suffix.lower() in VIDEO_SUFFIXES


def import_av() -> Any:
    """Return the module `av`; raise InputError if PyAV is not installed."""
    try:
        import av
    except ImportError as error:
        raise InputError(
            "restoring videos requires PyAV: pip install 'deconv_jax[video]'"
        ) from error
    return av


@dataclasses.dataclass(frozen=True)
class TimedFrame:
    """A decoded frame.

    Attributes:
      pts: Time at which the frame is shown, in units of the stream's time base; increases from frame
        to frame.
      duration: Duration in the same unit; 0 if unknown.
      picture: Frame of PyAV.
    """

    pts: int
    duration: int
    picture: Any


@dataclasses.dataclass
class Damage:
    """Damaged parts of a video, as times in seconds.

    Attributes:
      lost: Times of frames that could not be decoded. The frame before is shown longer instead.
      damaged: Times of frames that were decoded with errors.
      moved: Times of frames whose timestamp is missing, or not later than the one before (`Timeline`).
      end: Description of what is missing at the end; None if nothing is.
    """

    lost: list[float] = dataclasses.field(default_factory=list)
    damaged: list[float] = dataclasses.field(default_factory=list)
    moved: list[float] = dataclasses.field(default_factory=list)
    end: str | None = None

    def __len__(self) -> int:
        return len(self.lost) + len(self.damaged) + len(self.moved) + (self.end is not None)

    def describe(self) -> list[str]:
        """Return a sentence for each kind of damage."""
        kinds = (
            (self.lost, "could not be decoded, and the one before is shown longer"),
            (self.damaged, "decoded with errors"),
            (
                self.moved,
                "moved, with a timestamp that is missing or not later than the one before",
            ),
        )
        sentences = []
        for times, what in kinds:
            if times:
                listed = ", ".join(f"{time:.3f}" for time in times[:_MAX_TIMES])
                more = ", ..." if len(times) > _MAX_TIMES else ""
                noun = "frame" if len(times) == 1 else "frames"
                sentences.append(f"{len(times)} {noun} {what} (at {listed}{more} s)")
        return sentences + ([self.end] if self.end else [])


class Timeline:
    """Increasing times for the frames or packets of a stream, equal to their timestamps if possible.

    A time that is not later than the one before is moved behind it. Where the timestamps start again, as
    in joined recordings, all later ones are shifted.

    Attributes:
      moved: Whether the last time was moved.
    """

    def __init__(self, restart: int):
        """Start a timeline.

        Args:
          restart: Time by which timestamps go back where they start again.
        """
        self._restart = restart
        self._shift = 0
        self._last: int | None = None
        self.moved = False

    def place(self, timestamp: int | None, step: int) -> int:
        """Return the time of the next frame or packet.

        Args:
          timestamp: Its timestamp; None if it has none.
          step: Distance from the time before where there is no timestamp, or a restart.
        """
        last = self._last
        time = None if timestamp is None else timestamp + self._shift
        self.moved = time is None or (last is not None and time <= last)
        if last is None:
            time = time or 0
        elif time is None:
            time = last + step
        elif last - time >= self._restart:
            self._shift += last + step - time
            time = last + step
        else:
            time = max(time, last + 1)
        self._last = time
        return time


class VideoSource:
    """The first video stream of a file that is no cover picture.

    Attributes:
      container: Open container of PyAV.
      stream: Stream of PyAV whose frames are read.
      size: Height and width of the frames, without rotation.
      time_base: Unit of timestamps, in seconds.
      rate: Nominal number of frames per second.
      display_matrix: Nine integers of the rotation that players apply; None without a rotation.
      damage: Damage found so far by `frames`.
    """

    def __init__(self, path: Path):
        """Open a file; close it with a `with` block.

        Raises:
          InputError: PyAV is missing, or the file is missing, not a video of a known format, without a
            video stream, or encoded by a codec that PyAV cannot decode.
        """
        av = import_av()
        kind = kind_of(path)
        if kind != "file":
            raise InputError(f"cannot read {path}: {NOT_REGULAR if kind else 'no such file'}")
        self.path = path
        options = {"format_whitelist": _DEMUXERS, "protocol_whitelist": "file"}
        try:
            # The prefix keeps names such as "concat:a" from being read as a protocol.
            self.container = av.open(f"file:{os.path.abspath(path)}", options=options)
        except (av.FFmpegError, OSError, ValueError) as error:
            raise InputError(f"cannot read {path} as a video: {_reason(error)}") from error
        try:
            self.stream = self._choose_stream()
        except InputError:
            self.container.close()
            raise
        context = self.stream.codec_context
        context.flags |= av.codec.context.Flags.output_corrupt
        self.time_base = self.stream.time_base
        self.rate = self.stream.guessed_rate or self.stream.average_rate or _DEFAULT_RATE
        self.size = (context.height, context.width)
        self.damage = Damage()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.container.close()

    @property
    def other_streams(self) -> list[Any]:
        """All streams but the one that `frames` reads, and those that encode the chapters."""
        return [
            stream
            for stream in self.container.streams
            if stream.index != self.stream.index and stream.discard != stream.discard.all
        ]

    @property
    def estimated_frames(self) -> int | None:
        """Number of frames that the file states, or else duration times rate; None if unknown."""
        if self.stream.frames:
            return self.stream.frames
        duration = self._duration()
        return None if duration is None else max(1, round(duration * self.rate))

    def frames(self) -> Iterator[TimedFrame]:
        """Yield the frames with increasing timestamps, and fill in `damage`."""
        period = 1 / (self.rate * self.time_base)
        pending: list[int] = []
        last: int | None = None
        timeline = Timeline(round(_RESTART / self.time_base))
        for frame in self._decode(pending):
            pts = timeline.place(frame.pts, max(1, round(period)))
            if timeline.moved:
                self.damage.moved.append(self._seconds(pts))
            if frame.pts is not None:
                self._pop_lost(pending, last, frame.pts, period)
                last = frame.pts
            if frame.is_corrupt:
                self.damage.damaged.append(self._seconds(pts))
            yield TimedFrame(pts, int(frame.duration or 0), frame)
        self._pop_lost(pending, last, None, period)

    def packets(self, *, flush: bool = False) -> Iterator[Any]:
        """Yield the packets of all streams in the order of the file, and note a missing end.

        Args:
          flush: Whether to yield an empty packet per stream at the end, for its decoder.
        """
        end = 0.0
        packets = self.container.demux()
        while True:
            try:
                packet = next(packets, None)
            except (import_av().FFmpegError, OSError) as error:
                self.damage.end = f"the file cannot be read beyond {end:.3f} s: {_reason(error)}"
                return
            if packet is None:
                break
            if packet.size and packet.pts is not None:
                last = packet.pts + (packet.duration or 0)
                end = max(end, float(last * packet.time_base))
            if packet.size or flush:
                yield packet
        duration, start = self.container.duration, self.container.start_time
        if duration is not None and start is not None:
            stated = (start + duration) / 1e6
            if stated - end > _MISSING_END:
                self.damage.end = f"the file ends after {end:.3f} of {stated:.3f} s"

    def _choose_stream(self) -> Any:
        streams = self.container.streams.video
        covers = [s for s in streams if s.disposition & s.disposition.attached_pic]
        streams = [s for s in streams if s not in covers]
        if not streams:
            what = "only a cover picture" if covers else "no video stream"
            raise InputError(f"cannot read {self.path}: it has {what}")
        if streams[0].codec_context is None:
            raise InputError(f"cannot read {self.path}: no decoder for its video codec")
        return streams[0]

    def _decode(self, pending: list[int]) -> Iterator[Any]:
        """Yield decoded frames; keep the timestamps of packets without a frame in a heap.

        Packets that raise an error are reported instead.
        """
        av = import_av()
        for packet in self.packets(flush=True):
            if packet.stream.index != self.stream.index:
                continue
            try:
                frames = packet.decode()
            except av.FFmpegError:
                self.damage.lost.append(self._seconds(packet.pts))
                continue
            if packet.pts is not None and packet.size and not packet.is_discard:
                heapq.heappush(pending, packet.pts)
            yield from frames

    def _pop_lost(
        self, pending: list[int], last: int | None, pts: int | None, period: Fraction
    ) -> None:
        """Remove pending timestamps up to `pts`, or all; report those far from other frames."""
        while pending and (pts is None or pending[0] <= pts):
            time = heapq.heappop(pending)
            before = last is None or time - last > _NEIGHBOR * period
            after = pts is None or pts - time > _NEIGHBOR * period
            if before and after:
                self.damage.lost.append(self._seconds(time))

    def _seconds(self, pts: int | None) -> float:
        return float((pts or 0) * self.time_base)

    def _duration(self) -> float | None:
        if self.stream.duration:
            return float(self.stream.duration * self.time_base)
        return self.container.duration / 1e6 if self.container.duration else None


def display_matrix(frame: Any) -> list[int] | None:
    """Return the nine integers of a frame's rotation for display; None without a rotation."""
    with contextlib.suppress(KeyError):
        return np.frombuffer(bytes(frame.side_data["DISPLAYMATRIX"]), np.int32).tolist()
    return None


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
