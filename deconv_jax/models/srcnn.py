"""SRCNN: bicubic enlargement, then three convolutions that sharpen it.

Dong et al., "Image super-resolution using deep convolutional networks", arXiv:1501.00092, section
3.1: patch extraction, non-linear mapping and reconstruction, "9-1-5" or "9-5-5" with 64 and 32
channels. What a reader would get wrong: the network takes the *small* image and enlarges it itself,
by the `imresize` that made it small, so that it is used like the networks that work at low
resolution. It pads with zeros to keep the size, where the paper's training leaves the border out;
and it starts from weights that keep the variance of activations, not from a deviation of 0.001.
"""

import flax.linen as nn
from jaxtyping import Array, Float

from deconv_jax import ops
from deconv_jax.models.layers import RELU_GAIN, Activation, Conv, take_image_channels
from deconv_jax.models.receptive_field import ReceptiveField, ReceptiveFieldTracker


class SRCNN(nn.Module):
    """Three convolutions on the image enlarged bicubically.

    Attributes:
      scale: of height and width; 1 restores images that have their size already.
      channels: of the image; the paper restores luma alone.
      features: channels of the first two layers.
      kernel_sizes: of the three layers, pixels of the large image: (9, 1, 5), or (9, 5, 5) for the
        paper's largest.
    """

    scale: int = 3
    channels: int = 1
    features: tuple[int, int] = (64, 32)
    kernel_sizes: tuple[int, int, int] = (9, 1, 5)

    @nn.compact
    def __call__(
        self, images: Float[Array, "batch height width all_channels"], train: bool = False
    ) -> Float[Array, "batch out_height out_width channels"]:
        """Images to images `scale` times their size.

        Raises:
          InputError: too few channels, or a field out of range.
        """
        del train
        take_image_channels(images, self.channels)
        *hidden, last = self.kernel_sizes
        x = ops.imresize(images, self.scale)
        for features, kernel_size in zip(self.features, hidden, strict=True):
            x = Activation("relu")(Conv(features, kernel_size=kernel_size, gain=RELU_GAIN)(x))
        return Conv(self.channels, kernel_size=last)(x)

    @nn.nowrap
    def receptive_field(self) -> ReceptiveField:
        """Of an output pixel; raises InputError for a field out of range."""
        tracker = ReceptiveFieldTracker().bicubic(self.scale)
        for kernel_size in self.kernel_sizes:
            tracker = tracker.conv(kernel_size)
        return tracker.receptive_field()
