"""Restoration of videos, frame by frame, with the timing, sound and rotation of the source."""

import dataclasses
import itertools
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol, TypeGuard

import numpy as np

from deconv_jax.errors import InputError
from deconv_jax.inference.memory import catch_out_of_memory
from deconv_jax.inference.progress import ProgressCallback
from deconv_jax.inference.restoration.learned_restorer import ImageRestorer, Pixels
from deconv_jax.inference.restoration.noise_level import estimate_noise_sigma
from deconv_jax.inference.restoration.resizing import resize, result_size
from deconv_jax.inference.restoration.restorer_by_channels import RestorerByChannels
from deconv_jax.inference.restoration.video_color import VideoColor
from deconv_jax.inference.restoration.video_parts import (
    FRAMES_PER_PART,
    Encoding,
    join,
    open_parts,
    output_format,
    parts_path,
    remove_parts,
    split_streams,
    write_part,
)
from deconv_jax.inference.restoration.video_source import (
    TimedFrame,
    VideoSource,
    display_matrix,
    import_av,
)
from deconv_jax.inference.restoration.wrapping import Wrap
from deconv_jax.io import check_output_path
from deconv_jax.lock import locked

DEFAULT_CRF = 18.0
"""Constant rate factor of x264 at which losses are hard to see."""
_MAX_CRF = 51.0
_AVERAGED_FRAMES = 24
"""Number of frames over which the noise level is averaged, about a second."""
_PROBE_SAMPLES = 12
"""Number of rows and of columns of the restored test picture that are recorded."""


@dataclasses.dataclass(frozen=True)
class RestoredVideo:
    """Outcome of restoring a video.

    Attributes:
      size: Height and width of the frames of the result.
      frames: Number of frames in the result.
      seconds: Duration of the work, with reading and writing.
      frames_per_second: Speed, without the compilation; None if an earlier run had restored all frames.
      damage: A sentence for each kind of damage of the source; empty if it was read completely.
      notes: Conversions and losses, in words.
    """

    size: tuple[int, int]
    frames: int
    seconds: float
    frames_per_second: float | None
    damage: tuple[str, ...]
    notes: tuple[str, ...]


class _NoiseEstimatingRestorer(ImageRestorer, Protocol):
    """A restorer that estimates the noise level of each image."""

    estimates_noise: bool

    def restore_at(self, pixels: Pixels, sigma: float, progress: ProgressCallback) -> Pixels:
        """Return the restored image for a noise level in units of 1/255."""
        ...


def restore_video(
    restorer: ImageRestorer,
    source: Path,
    output: Path,
    progress: ProgressCallback,
    *,
    outscale: float | None = None,
    crf: float = DEFAULT_CRF,
    overwrite: bool = False,
    wrap: Wrap = "none",
) -> RestoredVideo:
    """Restore a video frame by frame; the result is written completely or not at all.

    Each frame keeps its timestamp. Other streams, such as sound and subtitles, are copied without
    encoding them again. Rotation, chapters, metadata, color encoding and the shape of pixels are
    kept. The result is H.264 with 8 bits per sample in yuv420p.

    A restorer that estimates the noise level gets the average of the estimates over about a second
    (the exponential average; at the beginning, the mean), so that the result does not flicker.

    Finished parts of 100 frames are kept in the folder OUTPUT.parts until the video is complete. An
    interrupted call continues after the last part, with the same result.

    Args:
      restorer: Restorer of images.
      source: Video file that PyAV can read.
      output: File to write, with a suffix of `video_parts.CONTAINERS`.
      progress: Callbacks: the completed fraction, messages, and the frame and speed as the status.
      outscale: Ratio of the result's to the source's size, rounded to pixels, to which restored frames
        are resized bicubically; None for the restorer's scale.
      crf: Constant rate factor of x264, in [0, 51].
      overwrite: Whether to replace an existing result, and parts that were made with other settings.
      wrap: Axes along which frames are periodic when they are resized; a restorer has its own.

    Raises:
      InputError: PyAV is missing; the source is not a video that can be read, or has no frames; the
        output exists and `overwrite` is False, has an unknown suffix, cannot hold the sound or cannot be
        written; its parts have other settings; a frame cannot be restored; or there is too little
        memory. Damaged frames are no error, but reported in `RestoredVideo.damage`.
    """
    started = time.perf_counter()
    import_av()
    output_format(output)
    if isinstance(restorer, RestorerByChannels):
        restorer = restorer.for_channels(3)
    if not 0.0 <= crf <= _MAX_CRF:
        raise InputError(f"crf must be in [0, {_MAX_CRF:g}]; got {crf:g}")
    check_output_path(output, overwrite=overwrite)
    with (
        VideoSource(source) as video,
        catch_out_of_memory(
            f"{source}: not enough memory; a network needs less with a smaller tile"
        ),
    ):
        frames = video.frames()
        first = next(frames, None)
        if first is None:
            raise InputError(f"cannot read {source}: none of its frames can be decoded")
        copied, lost = split_streams(video, output)
        size = result_size(video.size, restorer.scale if outscale is None else outscale)
        color = VideoColor.of(first.picture, resized=size != video.size)
        with locked(parts_path(output)):
            probe = _probe(restorer, video.size, progress)
            encoding = Encoding(
                (size[0] + size[0] % 2, size[1] + size[1] % 2),
                video.time_base,
                video.rate,
                crf,
                color.tags,
                video.stream.codec_context.sample_aspect_ratio,
            )
            status = source.stat()
            settings = {
                "source": [status.st_size, status.st_mtime_ns],
                "size": list(size),
                "crf": crf,
                "PyAV": import_av().__version__,
                "network or method": probe,
            }
            parts = open_parts(output, settings, overwrite=overwrite)
            state = parts[-1].state if parts else {}
            work = _Work(restorer, color, video, size, progress, state, wrap)
            frames = itertools.chain([first], frames)
            work.skip(frames, sum(len(part.packets) for part in parts))
            try:
                while (head := next(frames, None)) is not None:
                    part = itertools.chain([head], itertools.islice(frames, FRAMES_PER_PART - 1))
                    parts.append(
                        write_part(output, len(parts), work.restore(part), encoding, work.state)
                    )
            except KeyboardInterrupt:
                kept = sum(len(part.packets) for part in parts)
                progress.on_message(f"{kept} restored frames are kept; the same command continues")
                raise
            with VideoSource(source) as again:
                join(parts, again, copied, output, display_matrix(first.picture))
            remove_parts(output)
    return RestoredVideo(
        size=encoding.size,
        frames=work.done,
        seconds=time.perf_counter() - started,
        frames_per_second=work.speed,
        damage=tuple(video.damage.describe()),
        notes=(*work.notes(), *lost, *_conversions(first.picture, size)),
    )


class _Work:
    """The frames of a video on their way through a restorer, and what is reported of them.

    Attributes:
      done: Number of frames that are restored, those of earlier runs included.
      state: The averaged noise level, and the number of frames in the average.
    """

    def __init__(
        self,
        restorer: ImageRestorer,
        color: VideoColor,
        video: VideoSource,
        size: tuple[int, int],
        progress: ProgressCallback,
        state: dict[str, Any],
        wrap: Wrap,
    ):
        self._wrap: Wrap = wrap
        self._restorer = restorer
        self._color = color
        self._path = video.path
        self._source_size = video.size
        self._size = size
        self._time_base = video.time_base
        self._total = video.estimated_frames
        self._progress = progress
        self._messages: set[str] = set()
        self._sigmas: list[float] = []
        self._skipped = 0
        self._started = time.perf_counter()
        self.done = 0
        self.state = dict(state)

    @property
    def speed(self) -> float | None:
        """Frames per second of this run; None if it has not restored any."""
        restored = self.done - self._skipped
        return restored / (time.perf_counter() - self._started) if restored else None

    def skip(self, frames: Iterator[TimedFrame], number: int) -> None:
        """Take frames that an earlier run has restored."""
        self.done = self._skipped = sum(1 for _ in itertools.islice(frames, number))
        self._started = time.perf_counter()

    def restore(self, frames: Iterator[TimedFrame]) -> Iterator[tuple[Any, int]]:
        """Yield restored frames for the encoder, and their durations."""
        for frame in frames:
            pixels = self._color.to_rgb(frame.picture, self._source_size)
            try:
                restored = resize(self._restore_frame(pixels), self._size, self._wrap)
            except InputError as error:
                seconds = float(frame.pts * self._time_base)
                raise InputError(f"{self._path}: frame at {seconds:.3f} s: {error}") from error
            picture = self._color.to_frame(restored)
            picture.pts, picture.time_base = frame.pts, self._time_base
            yield picture, frame.duration
            self.done += 1
            self._report(0.0)

    def notes(self) -> Iterator[str]:
        """Yield the name of the network and the range of estimated noise levels."""
        name = getattr(self._restorer, "name", "")
        if name:
            yield name
        if self._sigmas:
            yield "sigma {:.1f} to {:.1f} estimated".format(*self._sigmas)

    def _restore_frame(self, pixels: Pixels) -> Pixels:
        progress = ProgressCallback(on_progress=self._report, on_message=self._report_once)
        restorer = self._restorer
        if not _estimates_noise(restorer):
            return restorer(pixels, progress)
        count = min(self.state.get("averaged_frames", 0) + 1, _AVERAGED_FRAMES)
        average = self.state.get("noise_sigma", 0.0)
        average += (estimate_noise_sigma(pixels) - average) / count
        self.state.update(averaged_frames=count, noise_sigma=average)
        self._sigmas = [min([average, *self._sigmas]), max([average, *self._sigmas])]
        return restorer.restore_at(pixels, average, progress)

    def _report(self, fraction: float) -> None:
        total = "" if self._total is None else f" of {self._total}"
        speed = "" if self.speed is None else f", {self.speed:.3g} frames/s"
        self._progress.on_status(f"frame {self.done}{total}{speed}")
        done = self.done + fraction
        self._progress.on_progress(min(done / (self._total or done + 1), 1.0))

    def _report_once(self, message: str) -> None:
        if message not in self._messages:
            self._messages.add(message)
            self._progress.on_message(message)


def _estimates_noise(restorer: ImageRestorer) -> TypeGuard[_NoiseEstimatingRestorer]:
    return getattr(restorer, "estimates_noise", False)


def _probe(
    restorer: ImageRestorer, size: tuple[int, int], progress: ProgressCallback
) -> list[float]:
    """Return samples of a restored test picture, which identify the restorer and its settings.

    The picture has the size of the frames, so that nothing is compiled twice.
    """
    rows, columns = (np.linspace(0.0, 20.0, n) for n in size)
    waves = 0.5 + 0.25 * np.sin(rows)[:, None, None] * np.cos(columns)[:, None]
    noise = np.random.default_rng(0).normal(0.0, 0.1, (*size, 3))
    picture = np.clip(waves + noise, 0.0, 1.0).astype(np.float32)
    restored = restorer(picture, dataclasses.replace(progress, on_progress=lambda _: None))
    steps = [math.ceil(n / _PROBE_SAMPLES) for n in restored.shape[:2]]
    return [round(float(x), 6) for x in restored[:: steps[0], :: steps[1]].ravel()]


def _conversions(frame: Any, size: tuple[int, int]) -> Iterator[str]:
    """Yield a sentence for each property of the source that the result does not have."""
    bits = max(component.bits for component in frame.format.components)
    if bits > 8:
        yield f"{bits} bits per sample were reduced to 8"
    if any(component.is_alpha for component in frame.format.components):
        yield "transparency was dropped"
    if frame.interlaced_frame:
        yield "the video is interlaced, and its frames were restored as if it were not"
    for n, what in zip(size, ("row", "column"), strict=True):
        if n % 2:
            yield f"the last {what} was repeated to make the size even"
