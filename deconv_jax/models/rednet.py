"""RED-Net: convolutions, as many transposed convolutions, and skips between those that mirror.

Mao et al., "Image restoration using very deep convolutional encoder-decoder networks with symmetric
skip connections", arXiv:1603.09056, section 2: `depth / 2` convolutions and `depth / 2` transposed
convolutions, all 3x3 with 64 channels and a ReLU; every second convolution's output is added to
that of the transposed convolution which mirrors the next one, before its ReLU, and the input to the
last one's. RED10, RED20 and RED30 are its depths.

What a reader would get wrong: nothing is strided, so every layer sees the whole image and the field
grows by a pixel a layer; the transposed convolutions are there to undo, not to enlarge. The last
layer has no ReLU here, which would stop the gradient of what comes out negative, and starts near
zero, so that the network starts as the identity.
"""

from typing import ClassVar

import flax.linen as nn
from jaxtyping import Array, Float

from deconv_jax.errors import InputError, at_least
from deconv_jax.models.layers import (
    RELU_GAIN,
    RESIDUAL_GAIN,
    Activation,
    Conv,
    ConvTranspose,
    take_image_channels,
)
from deconv_jax.models.receptive_field import ReceptiveField, ReceptiveFieldTracker

_KERNEL_SIZE = 3


class REDNet(nn.Module):
    """An encoder-decoder of constant size with symmetric skips.

    Attributes:
      channels: of the image.
      depth: layers, half of them transposed: even; 10, 20 or 30 in the paper.
      features: channels of the layers between.
      skip_every: layers from one skip to the next; `depth / 2` or more for that of the image alone.
    """

    channels: int = 1
    depth: int = 30
    features: int = 64
    skip_every: int = 2

    scale: ClassVar[int] = 1

    @nn.compact
    def __call__(
        self, images: Float[Array, "batch height width all_channels"], train: bool = False
    ) -> Float[Array, "batch height width channels"]:
        """Degraded images, and maps after their channels if any, to restored images.

        Raises:
          InputError: too few channels, or a field out of range.
        """
        del train
        self._check()
        image = take_image_channels(images, self.channels)
        relu = Activation("relu")
        levels = [images]
        for i in range(self.depth // 2):
            conv = Conv(
                self.features, kernel_size=_KERNEL_SIZE, gain=RELU_GAIN, name=f"conv_{i + 1}"
            )
            levels.append(relu(conv(levels[-1])))
        x = levels.pop()
        while len(levels) > 1:
            level = len(levels) - 1
            deconv = ConvTranspose(
                self.features,
                kernel_size=_KERNEL_SIZE,
                gain=RELU_GAIN,
                name=f"deconv_{level + 1}",
            )
            x, skipped = deconv(x), levels.pop()
            x = relu(x if level % self.skip_every else x + skipped)
        deconv = ConvTranspose(
            self.channels, kernel_size=_KERNEL_SIZE, gain=RESIDUAL_GAIN, name="deconv_1"
        )
        return image + deconv(x)

    @nn.nowrap
    def receptive_field(self) -> ReceptiveField:
        """Of an output pixel; raises InputError for a field out of range."""
        self._check()
        tracker = ReceptiveFieldTracker()
        for _ in range(self.depth):
            tracker = tracker.conv(_KERNEL_SIZE)
        return tracker.receptive_field()

    @nn.nowrap
    def _check(self) -> None:
        at_least("skip_every", self.skip_every, 1)
        if self.depth < 2 or self.depth % 2:
            raise InputError(f"depth must be even and at least 2; got {self.depth}")
