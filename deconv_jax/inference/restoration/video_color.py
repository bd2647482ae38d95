"""Frames of a video as RGB images in [0, 1], and back.

A frame is converted to planes of 16 bits per sample at full resolution by swscale, which only
resamples the chroma. The matrix between YCbCr and RGB is applied here, in float32: swscale rounds
full-range white to 0.996. The restored image is rounded once, to 8 bits with an ordered dither.
"""

import dataclasses
from typing import Any, Self

import numpy as np
from jaxtyping import Float

from deconv_jax.errors import InputError
from deconv_jax.inference.restoration.learned_restorer import Pixels

_LUMA = {
    1: (0.2126, 0.0722),
    4: (0.30, 0.11),
    5: (0.299, 0.114),
    6: (0.299, 0.114),
    7: (0.212, 0.087),
    9: (0.2627, 0.0593),
}
"""Weights of red and blue in luma by the matrix coefficients of ITU-T H.273."""
BT709, BT601 = 1, 6
_UNKNOWN = 2
_LIMITED, _FULL = 1, 2
_HD_HEIGHT = 720
"""Height from which players assume BT.709 in a video that does not state its matrix."""
_PLANES = "yuv444p16le"
_STORED = "yuv420p"
_UNIT = 256.0
"""Value of one 8-bit level in a plane of 16 bits."""


@dataclasses.dataclass(frozen=True)
class VideoColor:
    """Color encoding of a video: the numbers of ITU-T H.273, with 0 or 2 for unspecified ones.

    Attributes:
      matrix: Matrix coefficients that relate RGB to YCbCr; 1 is BT.709, 5 and 6 are BT.601.
      full_range: Whether luma uses the levels 0 to 255 instead of 16 to 235.
      tags: Values of "color_range", "colorspace", "color_primaries" and "color_trc" for the encoder.
    """

    matrix: int
    full_range: bool
    tags: dict[str, int]

    @classmethod
    def of(cls, frame: Any, *, resized: bool) -> Self:
        """Return the color encoding of a frame.

        A video that does not state its matrix has BT.709 from 720 rows, and BT.601 below. A result of
        another size states it, since players may guess another one for that size.

        Args:
          frame: Frame of PyAV.
          resized: Whether the result has another size than the frame.

        Raises:
          InputError: The matrix is not supported.
        """
        pixel_format = frame.format
        rgb = pixel_format.is_rgb or pixel_format.has_palette
        matrix = _UNKNOWN if rgb else int(frame.colorspace)
        guess = BT709 if frame.height >= _HD_HEIGHT else BT601
        stated = guess if rgb or (matrix == _UNKNOWN and resized) else matrix
        if matrix == _UNKNOWN:
            matrix = guess
        if matrix not in _LUMA:
            raise InputError(
                f"color matrix {matrix} of ITU-T H.273 is not supported; supported are: "
                f"{', '.join(map(str, _LUMA))}"
            )
        full_range = not rgb and (
            frame.color_range == _FULL or pixel_format.name.startswith("yuvj")
        )
        tags = {
            "color_range": _FULL if full_range else _LIMITED if rgb else int(frame.color_range),
            "colorspace": stated,
            "color_primaries": int(frame.color_primaries),
            "color_trc": int(frame.color_trc),
        }
        return cls(matrix, full_range, tags)

    def to_rgb(self, frame: Any, size: tuple[int, int]) -> Pixels:
        """Return a frame as an RGB image in [0, 1].

        Args:
          frame: Frame of PyAV in any pixel format; transparency is ignored.
          size: Height and width of the image; a frame of another size is resized bicubically.
        """
        height, width = size
        planar = self._convert(frame, _PLANES, height=height, width=width)
        samples = np.stack([_samples(plane) for plane in planar.planes], axis=-1)
        matrix, offset = self._decoding()
        return np.clip(samples.astype(np.float32) @ matrix + offset, 0.0, 1.0)

    def to_frame(self, pixels: Pixels) -> Any:
        """Return an RGB image, which is clipped to [0, 1], as a frame of PyAV in yuv420p.

        An odd height or width is made even by repeating the last row or column.
        """
        import av

        height, width, _ = pixels.shape
        if height % 2 or width % 2:
            pixels = np.pad(pixels, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
            height, width, _ = pixels.shape
        matrix, offset = self._decoding()
        samples = (np.clip(pixels, 0.0, 1.0) - offset) @ np.linalg.inv(matrix)
        planar = av.VideoFrame(width, height, _PLANES)
        rounded = np.rint(np.clip(samples, 0.0, 255.0 * _UNIT)).astype(np.uint16)
        for channel, plane in enumerate(planar.planes):
            _samples(plane)[:] = rounded[..., channel]
        return self._convert(planar, _STORED)

    def _decoding(
        self,
    ) -> tuple[Float[np.ndarray, "3 3"], Float[np.ndarray, "3"]]:
        """Return the matrix that maps rows of samples to RGB, and the offset to add."""
        red, blue = _LUMA[self.matrix]
        green = 1.0 - red - blue
        luma, chroma, black = (255.0, 255.0, 0.0) if self.full_range else (219.0, 224.0, 16.0)
        to_rgb = np.array(
            [
                [1.0, 0.0, 2.0 * (1.0 - red)],
                [
                    1.0,
                    -2.0 * blue * (1.0 - blue) / green,
                    -2.0 * red * (1.0 - red) / green,
                ],
                [1.0, 2.0 * (1.0 - blue), 0.0],
            ]
        ) / (_UNIT * np.array([luma, chroma, chroma]))
        offset = -to_rgb @ (_UNIT * np.array([black, 128.0, 128.0]))
        return to_rgb.T.astype(np.float32), offset.astype(np.float32)

    def _convert(self, frame: Any, pixel_format: str, **size: int) -> Any:
        """Return a frame in another pixel format, with the matrix and range of this encoding."""
        from av.video.reformatter import Interpolation

        value = _FULL if self.full_range else _LIMITED
        rgb = frame.format.is_rgb or frame.format.has_palette
        # swscale numbers the matrices as H.273 does, but for BT.601.
        swscale = {6: 5}.get(self.matrix, self.matrix)
        return frame.reformat(
            **size,
            format=pixel_format,
            src_colorspace=swscale,
            dst_colorspace=swscale,
            src_color_range=_FULL if rgb else value,
            dst_color_range=value,
            interpolation=Interpolation.BICUBIC
            | Interpolation.ACCURATE_RND
            | Interpolation.FULL_CHR_H_INT
            | Interpolation.FULL_CHR_H_INP,
        )


def _samples(plane: Any) -> np.ndarray:
    """Return the samples of a plane of 16 bits as an array that shares its memory."""
    rows = np.frombuffer(plane, np.uint16).reshape(plane.height, plane.line_size // 2)
    return rows[:, : plane.width]
