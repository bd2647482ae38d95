"""FSRCNN: super-resolution that works at low resolution and ends in a deconvolution layer.

Dong et al., "Accelerating the super-resolution convolutional neural network", arXiv:1608.00367,
section 3: feature extraction, shrinking, m mappings, expanding and deconvolution, Conv(5, d, 1) -
Conv(1, s, d) - m x Conv(3, s, s) - Conv(1, d, s) - DeConv(9, 1, d), with a PReLU after every
convolution. FSRCNN-s is (d, s, m) = (32, 5, 1).

Note: The deconvolution has padding 4 and output padding scale - 1, as in the widely used PyTorch
implementation. The kernel of input pixel i is then centered at output pixel `scale * i`, the first
pixel of its block. "SAME" would center it in the block.

The deconvolution is initialized with gain 0.01, because Adam learns much slower from gain 1. The
paper uses Gaussian weights of standard deviation 0.001 and a tenth of the learning rate for this
layer; here all layers have the same rate.
"""

import flax.linen as nn
from jaxtyping import Array, Float

from deconv_jax.errors import at_least
from deconv_jax.models.layers import (
    PRELU_GAIN,
    Conv,
    ConvTranspose,
    PReLU,
    Upsample,
    take_image_channels,
)
from deconv_jax.models.receptive_field import ReceptiveField, ReceptiveFieldTracker
from deconv_jax.ops.upsample import UpsampleMethod

_UPSAMPLING_GAIN = 1e-2


class FSRCNN(nn.Module):
    """FSRCNN(d, s, m), with a choice of upsampling layer.

    Attributes:
      scale: Ratio of output to input height and width.
      channels: Number of image channels; 1 (luma) in the paper.
      d: Number of channels of the features.
      s: Number of channels after shrinking.
      m: Number of mapping layers; 0 is allowed.
      upsampling: "transposed" is the paper's 9x9 deconvolution. "resize" is nearest-neighbor
        upsampling and a 9x9 convolution, with equally many weights. The kernel size of "subpixel"
        is the smallest odd number that is at least `ceil(9 / scale)`, so an output pixel depends on
        at least as many input pixels along each axis as with the deconvolution. It has equally many
        weights for scale 3, 100 / 81 times as many for scale 2, and 144 / 81 times for scale 4.
    """

    scale: int = 3
    channels: int = 1
    d: int = 56
    s: int = 12
    m: int = 4
    upsampling: UpsampleMethod = "transposed"

    @nn.compact
    def __call__(
        self, images: Float[Array, "batch height width all_channels"], train: bool = False
    ) -> Float[Array, "batch out_height out_width channels"]:
        """Enlarge images, which may be followed along the channel axis by conditioning maps.

        The result has only the image's channels and is not clipped. `train` has no effect.

        Raises:
          InputError: Too few channels, an unknown upsampling, or an attribute is out of range.
        """
        del train
        take_image_channels(images, self.channels)
        self._check()
        x = _conv_prelu(images, self.d, 5, "extract")
        x = _conv_prelu(x, self.s, 1, "shrink")
        for i in range(self.m):
            x = _conv_prelu(x, self.s, 3, f"map_{i}")
        x = _conv_prelu(x, self.d, 1, "expand")
        if self.upsampling != "transposed":
            size = self._upsampling_kernel_size()
            return Upsample(
                self.channels,
                self.scale,
                self.upsampling,
                kernel_size=size,
                gain=_UPSAMPLING_GAIN,
                name="upsample",
            )(x)
        return ConvTranspose(
            self.channels,
            kernel_size=9,
            stride=self.scale,
            padding=4,
            output_padding=self.scale - 1,
            gain=_UPSAMPLING_GAIN,
            name="upsample",
        )(x)

    @nn.nowrap
    def receptive_field(self) -> ReceptiveField:
        """Return the receptive field of an output pixel.

        Raises:
          InputError: `scale` or `m` is out of range, or `upsampling` is unknown.
        """
        self._check()
        tracker = ReceptiveFieldTracker().conv(5)
        for _ in range(self.m):
            tracker = tracker.conv(3)
        if self.upsampling == "transposed":
            tracker = tracker.conv_transpose(9, self.scale, padding=4)
        else:
            size = self._upsampling_kernel_size()
            tracker = tracker.upsample(self.scale, self.upsampling, size)
        return tracker.receptive_field()

    @nn.nowrap
    def _check(self) -> None:
        at_least("scale", self.scale, 1)
        at_least("m", self.m, 0)

    @nn.nowrap
    def _upsampling_kernel_size(self) -> int:
        return 9 if self.upsampling == "resize" else -(-9 // self.scale) // 2 * 2 + 1


def _conv_prelu(x: Array, features: int, kernel_size: int, name: str) -> Array:
    x = Conv(features, kernel_size=kernel_size, gain=PRELU_GAIN, name=name)(x)
    return PReLU(name=f"{name}_prelu")(x)
