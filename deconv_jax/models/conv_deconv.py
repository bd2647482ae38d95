"""ConvDeconv: a small restoration network of convolutions and transposed convolutions.

Two convolutions are followed by the two transposed convolutions that mirror them. This is the
smallest encoder-decoder of Mao et al., "Image restoration using very deep convolutional
encoder-decoder networks with symmetric skip connections", arXiv:1603.09056, section 2.1, for
experiments that take a minute. With `residual` the network predicts the correction to the image, as
DnCNN does (arXiv:1608.03981, section III-B).

Note: Kernels are odd and padded by half their size. "SAME" would pad a strided layer differently
for odd and even image sizes. With symmetric padding the network accepts any size and is equivariant
to shifts by the stride.
"""

import functools
from typing import ClassVar, Literal

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


class ConvDeconv(nn.Module):
    """Convolution, convolution, transposed convolution, transposed convolution.

    Attributes:
      channels: Number of image channels.
      features: Number of channels after the first and the second convolution.
      kernel_size: Size of all kernels, in pixels; odd.
      stride: Stride of the second convolution and its transpose.
      residual: Whether to add the image to the output.
      activation: Activation after every layer but the last: "relu", "leaky_relu" (slope 0.2),
        "elu", "gelu", "silu" or "tanh".
    """

    channels: int = 1
    features: tuple[int, int] = (32, 32)
    kernel_size: int = 5
    stride: Literal[1, 2] = 1
    residual: bool = True
    activation: str = "relu"

    scale: ClassVar[int] = 1
    """Ratio of output to input height and width."""

    @nn.compact
    def __call__(
        self, images: Float[Array, "batch height width all_channels"], train: bool = False
    ) -> Float[Array, "batch height width channels"]:
        """Restore images, which may be followed along the channel axis by conditioning maps.

        `train` has no effect.

        Raises:
          InputError: Too few channels, an attribute is out of range, or `activation` is unknown.
        """
        del train
        image = take_image_channels(images, self.channels)
        half = self._half_kernel()
        first, second = self.features
        act = Activation(self.activation)
        conv = functools.partial(Conv, kernel_size=self.kernel_size, padding=half)
        deconv = functools.partial(ConvTranspose, kernel_size=self.kernel_size, padding=half)
        x = act(conv(first, gain=RELU_GAIN)(images))
        x = act(conv(second, stride=self.stride, gain=RELU_GAIN)(x))
        size = image.shape[1:3]
        x = act(deconv(first, stride=self.stride, output_size=size, gain=RELU_GAIN)(x))
        x = deconv(self.channels, gain=RESIDUAL_GAIN if self.residual else 1.0)(x)
        return image + x if self.residual else x

    @nn.nowrap
    def receptive_field(self) -> ReceptiveField:
        """Return the receptive field of an output pixel.

        Raises:
          InputError: An attribute is out of range.
        """
        size, half = self.kernel_size, self._half_kernel()
        tracker = ReceptiveFieldTracker().conv(size).conv(size, self.stride, padding=half)
        return (
            tracker.conv_transpose(size, self.stride, half).conv_transpose(size).receptive_field()
        )

    @nn.nowrap
    def _half_kernel(self) -> int:
        at_least("kernel_size", self.kernel_size, 1)
        if self.kernel_size % 2 == 0:
            raise InputError(f"kernel_size must be odd; got {self.kernel_size}")
        if self.stride not in (1, 2):
            raise InputError(f"stride must be 1 or 2; got {self.stride}")
        return self.kernel_size // 2
