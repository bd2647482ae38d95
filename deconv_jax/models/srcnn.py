"""SRCNN: bicubic upsampling followed by three convolutions.

Dong et al., "Image super-resolution using deep convolutional networks", arXiv:1501.00092, section
3.1: patch extraction, non-linear mapping and reconstruction, "9-1-5" or "9-5-5" with 64 and 32
channels.

Note: The input is the low-resolution image. The network upsamples it by `ops.imresize`, so that it
has the same interface as networks that work at low resolution.

Unlike the paper's, the convolutions pad with zeros to keep the size, and the initialization
preserves the variance of activations instead of using a standard deviation of 0.001.
"""

import flax.linen as nn
from jaxtyping import Array, Float

from deconv_jax import ops
from deconv_jax.models.layers import RELU_GAIN, Activation, Conv, take_image_channels
from deconv_jax.models.receptive_field import ReceptiveField, ReceptiveFieldTracker


class SRCNN(nn.Module):
    """Three convolutions of the bicubically upsampled image.

    Attributes:
      scale: Ratio of output to input height and width; 1 for restoration at the same size.
      channels: Number of image channels; 1 (luma) in the paper.
      features: Number of channels of the first two layers.
      kernel_sizes: Kernel sizes of the three layers, in pixels of the output: (9, 1, 5), or (9, 5,
        5) for the paper's largest network.
    """

    scale: int = 3
    channels: int = 1
    features: tuple[int, int] = (64, 32)
    kernel_sizes: tuple[int, int, int] = (9, 1, 5)

    @nn.compact
    def __call__(
        self, images: Float[Array, "batch height width all_channels"], train: bool = False
    ) -> Float[Array, "batch out_height out_width channels"]:
        """Enlarge images, which may be followed along the channel axis by conditioning maps.

        The result has only the image's channels and is not clipped. `train` has no effect.

        Raises:
          InputError: Too few channels, or the scale or a kernel size is below 1.
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
        """Return the receptive field of an output pixel.

        Raises:
          InputError: The scale or a kernel size is below 1.
        """
        tracker = ReceptiveFieldTracker().bicubic(self.scale)
        for kernel_size in self.kernel_sizes:
            tracker = tracker.conv(kernel_size)
        return tracker.receptive_field()
