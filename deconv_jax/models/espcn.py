"""ESPCN: super-resolution by convolutions at low resolution and a sub-pixel convolution.

Shi et al., "Real-time single image and video super-resolution using an efficient sub-pixel
convolutional neural network", arXiv:1609.05158, section 3.2: layers (f, n) = (5, 64), (3, 32) and f
= 3 to `channels * scale**2` channels, then a pixel shuffle. The activation is tanh, which the paper
found better than ReLU (section 3.2).

Note: The pixel shuffle uses PyTorch's channel order, "CRD" in `ops.depth_to_space`. For one
channel, as in the paper, it is that of equation 4. TensorFlow's order differs for several channels.
"""

from typing import Literal

import flax.linen as nn
from jaxtyping import Array, Float

from deconv_jax import ops
from deconv_jax.errors import InputError, at_least
from deconv_jax.models.layers import (
    RELU_GAIN,
    Activation,
    Conv,
    Upsample,
    add_bias,
    take_image_channels,
)
from deconv_jax.models.receptive_field import ReceptiveField, ReceptiveFieldTracker
from deconv_jax.ops.initializers import icnr, variance_scaling
from deconv_jax.ops.upsample import UpsampleMethod


class ESPCN(nn.Module):
    """ESPCN with a choice of upsampling layer.

    Attributes:
      scale: Ratio of output to input height and width.
      channels: Number of image channels; 1 (luma) in the paper.
      features: Number of channels of the hidden layers, of which the first is 5x5 and the others
        3x3; in the paper two.
      activation: "tanh" as in the paper, or "relu".
      upsampling: "subpixel" is the paper's 3x3 sub-pixel convolution, with a bias for each pixel of
        a block. "transposed" has kernel size `3 * scale` and computes the same map with its weights
        permuted, except that it has one bias per channel. "resize" is nearest-neighbor upsampling
        and a convolution of kernel size `3 * scale`. All three have the same number of weights.
    """

    scale: int = 3
    channels: int = 1
    features: tuple[int, ...] = (64, 32)
    activation: Literal["tanh", "relu"] = "tanh"
    upsampling: UpsampleMethod = "subpixel"

    @nn.compact
    def __call__(
        self, images: Float[Array, "batch height width all_channels"], train: bool = False
    ) -> Float[Array, "batch out_height out_width channels"]:
        """Enlarge images, which may be followed along the channel axis by conditioning maps.

        The result has only the image's channels and is not clipped. `train` has no effect.

        Raises:
          InputError: Too few channels, an unknown upsampling or activation, or an attribute is out
            of range.
        """
        del train
        take_image_channels(images, self.channels)
        act = Activation(self.activation)
        gain = RELU_GAIN if self.activation == "relu" else 1.0
        x = images
        for features, kernel_size in zip(self.features, self._kernel_sizes(), strict=True):
            x = act(Conv(features, kernel_size=kernel_size, gain=gain)(x))
        size = self._upsampling_kernel_size()
        if self.upsampling == "subpixel":
            return _SubpixelConv(self.channels, self.scale, size, name="upsample")(x)
        return Upsample(
            self.channels, self.scale, self.upsampling, kernel_size=size, name="upsample"
        )(x)

    @nn.nowrap
    def receptive_field(self) -> ReceptiveField:
        """Return the receptive field of an output pixel.

        Raises:
          InputError: The scale is below 1, or `upsampling` is unknown.
        """
        size = self._upsampling_kernel_size()
        tracker = ReceptiveFieldTracker()
        for kernel_size in self._kernel_sizes():
            tracker = tracker.conv(kernel_size)
        return tracker.upsample(self.scale, self.upsampling, size).receptive_field()

    @nn.nowrap
    def _kernel_sizes(self) -> tuple[int, ...]:
        if not self.features:
            raise InputError("features must have at least one number; got ()")
        return (5, *[3] * (len(self.features) - 1))

    @nn.nowrap
    def _upsampling_kernel_size(self) -> int:
        at_least("scale", self.scale, 1)
        return 3 if self.upsampling == "subpixel" else 3 * self.scale


class _SubpixelConv(nn.Module):
    """A sub-pixel convolution with a bias for each pixel of a block, not only for each channel."""

    features: int
    factor: int
    kernel_size: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        shape = ops.upsample_kernel_shape(
            "subpixel", self.kernel_size, x.shape[-1], self.features, self.factor
        )
        kernel = self.param("kernel", icnr(variance_scaling(), self.factor), shape)
        y = add_bias(ops.conv(x, kernel), self.param("bias", nn.initializers.zeros, shape[-1:]))
        return ops.depth_to_space(y, (self.factor, self.factor))
