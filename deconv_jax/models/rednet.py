"""RED-Net: convolutions and transposed convolutions with symmetric skips.

Mao et al., "Image restoration using very deep convolutional encoder-decoder networks with symmetric
skip connections", arXiv:1603.09056, section 2: `depth / 2` convolutions and `depth / 2` transposed
convolutions, all 3x3 with 64 channels and a ReLU. The feature map after every second convolution is
added, before the ReLU, to the decoder feature map of the same depth. The input is added to the
output of the last layer. The paper's RED10, RED20 and RED30 differ in depth.

Note: All layers have stride 1 and work at full resolution, so the receptive field grows by one
pixel on each side per layer.

J. Yeo's implementation, from which weights are published, has stride 2 in the first and the last
layer and adds skips after the ReLU: `stride=2`, `add_after_relu=True`. It has a ReLU at the end, which
clipping to [0, 1] contains.

Unlike the paper's, the last layer has no ReLU, which would have no gradient for negative
corrections, and is initialized near zero, so that the network starts near the identity.
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
    check_sides,
    take_image_channels,
)
from deconv_jax.models.receptive_field import ReceptiveField, ReceptiveFieldTracker

_KERNEL_SIZE = 3


class REDNet(nn.Module):
    """A restoration network of constant resolution with symmetric skips.

    Attributes:
      channels: Number of image channels.
      depth: Number of layers, even; half of them are transposed. 10, 20 or 30 in the paper.
      features: Number of channels of the hidden layers.
      skip_every: Number of layers between skips. With `depth / 2` or more, only the image skip
        remains.
      stride: Stride of the first and the last layer, by which the image's sides must be divisible; 1
        or 2.
      add_after_relu: Whether the skips are added after the ReLU instead of before it.
    """

    channels: int = 1
    depth: int = 30
    features: int = 64
    skip_every: int = 2
    stride: int = 1
    add_after_relu: bool = False

    scale: ClassVar[int] = 1
    """Ratio of output to input height and width."""

    @nn.compact
    def __call__(
        self, images: Float[Array, "batch height width all_channels"], train: bool = False
    ) -> Float[Array, "batch height width channels"]:
        """Restore images, which may be followed along the channel axis by conditioning maps.

        The result is not clipped. `train` has no effect.

        Raises:
          InputError: Too few channels, sides that are not multiples of `stride`, or an attribute is
            out of range.
        """
        del train
        self._check()
        check_sides("RED-Net", images, self.stride)
        image = take_image_channels(images, self.channels)
        relu = Activation("relu")
        levels = [images]
        for i in range(self.depth // 2):
            conv = Conv(
                self.features,
                kernel_size=_KERNEL_SIZE,
                stride=1 if i else self.stride,
                padding=1,
                gain=RELU_GAIN,
                name=f"conv_{i + 1}",
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
            if level % self.skip_every:
                x = relu(x)
            else:
                x = relu(x) + skipped if self.add_after_relu else relu(x + skipped)
        deconv = ConvTranspose(
            self.channels,
            kernel_size=_KERNEL_SIZE,
            stride=self.stride,
            padding=1,
            output_padding=self.stride - 1,
            gain=RESIDUAL_GAIN,
            name="deconv_1",
        )
        return image + deconv(x)

    @nn.nowrap
    def receptive_field(self) -> ReceptiveField:
        """Return the receptive field of an output pixel.

        Raises:
          InputError: An attribute is out of range.
        """
        self._check()
        tracker = ReceptiveFieldTracker().conv(_KERNEL_SIZE, self.stride, padding=1)
        for _ in range(self.depth - 2):
            tracker = tracker.conv(_KERNEL_SIZE)
        return tracker.conv_transpose(_KERNEL_SIZE, self.stride, padding=1).receptive_field()

    @nn.nowrap
    def _check(self) -> None:
        at_least("skip_every", self.skip_every, 1)
        if self.stride not in (1, 2):
            raise InputError(f"stride must be 1 or 2; got {self.stride}")
        if self.depth < 2 or self.depth % 2:
            raise InputError(f"depth must be even and at least 2; got {self.depth}")
