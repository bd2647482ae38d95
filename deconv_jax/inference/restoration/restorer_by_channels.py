"""Restorers that are chosen by the number of channels of each image."""

import dataclasses
from collections.abc import Callable

import numpy as np
from jaxtyping import Float

from deconv_jax.inference.progress import ProgressCallback
from deconv_jax.inference.restoration.learned_restorer import ImageRestorer, Pixels


@dataclasses.dataclass(frozen=True, eq=False)
class RestorerByChannels:
    """A restorer for gray images and one for color images, both of the same scale.

    Attributes:
      make: Function from a number of channels, 1 or 3, to the restorer. It is called for color images
        at once, which raises its errors, and for gray images when the first one is restored.
    """

    make: Callable[[int], ImageRestorer]
    _made: dict[int, ImageRestorer] = dataclasses.field(
        default_factory=dict, init=False, repr=False
    )

    def __post_init__(self) -> None:
        self._made[3] = self.make(3)

    @property
    def scale(self) -> int:
        """Height of the restored image over height of the input."""
        return self._made[3].scale

    def __call__(
        self,
        pixels: Pixels,
        progress: ProgressCallback,
        jpeg_table: Float[np.ndarray, "8 8"] | None = None,
    ) -> Pixels:
        """Return the restored image; arguments and errors are those of the restorer."""
        return self.for_channels(pixels.shape[-1])(pixels, progress, jpeg_table)

    def for_channels(self, channels: int) -> ImageRestorer:
        """Return the restorer for images with a number of channels."""
        if channels not in self._made:
            self._made[channels] = self.make(channels)
        return self._made[channels]
