"""FSRCNN: super-resolution that works at low resolution and ends in a deconvolution layer.

Dong et al., "Accelerating the super-resolution convolutional neural network", arXiv:1608.00367,
section 3: feature extraction, shrinking, m mappings, expanding and deconvolution,
Conv(5, d, 1) - Conv(1, s, d) - m x Conv(3, s, s) - Conv(1, d, s) - DeConv(9, 1, d), with a PReLU
after every convolution. FSRCNN-s is (d, s, m) = (32, 5, 1).

What a reader would get wrong: where the output lies. The deconvolution layer has padding 4 and as
much output padding as makes the size `scale` times the input's (output padding scale - 1), so input
pixel i is the centre of the kernel that lies about output pixel `scale * i`, the first of its
block, as in the widely used PyTorch implementation; "SAME" would put it about the block's middle.
The paper starts the deconvolution from Gaussian weights of deviation 0.001 and gives it a tenth of
the learning rate. Here it starts small too, from a hundredth of the variance that would keep that of
the activations: with all of it Adam is much slower to learn. It has no rate of its own.
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
    """FSRCNN(d, s, m), with a choice of the layer that enlarges.

    Attributes:
      scale: of height and width.
      channels: of the image; the paper restores luma alone.
      d: channels of the features.
      s: channels after shrinking.
      m: mapping layers.
      upsampling: "transposed" is the paper's 9x9 deconvolution. "resize" enlarges to the nearest
        pixel and has a 9x9 convolution, as many weights. "subpixel" has a convolution of the
        smallest odd size in which an output pixel depends on as many input pixels as through the
        deconvolution, `ceil(9 / scale)` an axis: as many weights for scale 3, 100 / 81 of them for
        2 and 144 / 81 for 4.
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
        """Images to images `scale` times their size.

        Raises:
          InputError: too few channels, an unknown upsampling, or a field out of range.
        """
        del train
        take_image_channels(images, self.channels)
        self._check()
        x = _convolved(images, self.d, 5, "extract")
        x = _convolved(x, self.s, 1, "shrink")
        for i in range(self.m):
            x = _convolved(x, self.s, 3, f"map_{i}")
        x = _convolved(x, self.d, 1, "expand")
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
        """Of an output pixel; raises InputError for a field out of range."""
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


def _convolved(x: Array, features: int, kernel_size: int, name: str) -> Array:
    x = Conv(features, kernel_size=kernel_size, gain=PRELU_GAIN, name=name)(x)
    return PReLU(name=f"{name}_prelu")(x)
