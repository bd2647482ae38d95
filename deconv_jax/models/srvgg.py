"""SRVGGNet: super-resolution by plain convolutions at low resolution, as in Real-ESRGAN.

Wang et al., "Real-ESRGAN: training real-world blind super-resolution with pure synthetic data",
arXiv:2107.10833; the network is not in the paper but in its repository, as SRVGGNetCompact: 3x3
convolutions with a PReLU in each channel, a pixel shuffle, and a residual connection from the input,
enlarged to blocks of equal pixels. realesr-animevideov3 has 16 hidden convolutions,
realesr-general-x4v3 has 32.

The last layer is initialized near zero, unlike the repository's, so that the network starts near the
enlarged input.
"""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from deconv_jax import ops
from deconv_jax.errors import at_least
from deconv_jax.models.layers import PRELU_GAIN, RESIDUAL_GAIN, Conv, PReLU, take_image_channels
from deconv_jax.models.receptive_field import ReceptiveField, ReceptiveFieldTracker

_KERNEL_SIZE = 3


class SRVGGNet(nn.Module):
    """SRVGGNetCompact of Real-ESRGAN.

    Attributes:
      scale: Ratio of output to input height and width; 1 for restoration at the same size.
      channels: Number of image channels.
      depth: Number of convolutions between the first and the last one.
      features: Number of channels of the hidden layers.
    """

    scale: int = 4
    channels: int = 3
    depth: int = 16
    features: int = 64

    @nn.compact
    def __call__(
        self, images: Float[Array, "batch height width all_channels"], train: bool = False
    ) -> Float[Array, "batch out_height out_width channels"]:
        """Enlarge images, which may be followed along the channel axis by conditioning maps.

        The result has only the image's channels and is not clipped. `train` has no effect.

        Raises:
          InputError: Too few channels, or `scale` or `depth` is out of range.
        """
        del train
        self._check()
        image = take_image_channels(images, self.channels)
        x = images
        for i in range(self.depth + 1):
            conv = Conv(self.features, kernel_size=_KERNEL_SIZE, gain=PRELU_GAIN, name=f"conv_{i}")
            x = PReLU(name=f"prelu_{i}")(conv(x))
        outputs = self.channels * self.scale**2
        x = Conv(outputs, kernel_size=_KERNEL_SIZE, gain=RESIDUAL_GAIN, name="to_blocks")(x)
        # Added before the shuffle: each pixel of a block gets the pixel at its position.
        x = x + jnp.repeat(image, self.scale**2, axis=-1)
        return ops.depth_to_space(x, self.scale)

    @nn.nowrap
    def receptive_field(self) -> ReceptiveField:
        """Return the receptive field of an output pixel.

        Raises:
          InputError: `scale` or `depth` is out of range.
        """
        self._check()
        tracker = ReceptiveFieldTracker()
        for _ in range(self.depth + 2):
            tracker = tracker.conv(_KERNEL_SIZE)
        return tracker.enlarge(self.scale).receptive_field()

    @nn.nowrap
    def _check(self) -> None:
        at_least("scale", self.scale, 1)
        at_least("depth", self.depth, 0)
