"""RRDBNet: the super-resolution network of ESRGAN and Real-ESRGAN.

Wang et al., "ESRGAN: enhanced super-resolution generative adversarial networks", arXiv:1809.00219,
section 3.1: residual-in-residual dense blocks at low resolution, without batch normalization and
with residuals scaled by 0.2; then, for each doubling of the size, nearest-neighbor enlargement and a
convolution; then two convolutions at the output's size. The slope of the leaky ReLU is 0.2. ESRGAN
has 23 blocks, and Real-ESRGAN's network for anime 6.

Real-ESRGAN (arXiv:2107.10833, section 3.4) keeps the network and two doublings for scales 2 and 1:
its input is the image after a pixel unshuffle by 2 or 4.

The convolutions of the dense blocks are initialized with a tenth of the standard deviation of He et
al., as in the paper's repository.
"""

import dataclasses
import math

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from deconv_jax import ops
from deconv_jax.errors import InputError, at_least
from deconv_jax.models.layers import (
    RELU_GAIN,
    Activation,
    Conv,
    check_sides,
    take_image_channels,
)
from deconv_jax.models.receptive_field import ReceptiveField, ReceptiveFieldTracker

TILE_OVERLAP = 80
"""Largest extent of `RRDBNet.receptive_field` before and after a pixel, in pixels of the features.

Largest difference between the output of a tile and that of the whole image, and RMS difference at the
seam, in units of 1/255, with the weights of Real-ESRGAN on four photographs:

    overlap                     10          32          64           80
    x4plus (23 blocks)          80, 5.7     19, 1.5     1.6, 0.10    0.17, 0.01
    x4plus_anime (6 blocks)     30, 3.3     8.7, 0.6    0.01, 0.00   0.00, 0.00

The overlap of Real-ESRGAN's own tiles is 10 by default.
"""

_KERNEL_SIZE = 3
_DENSE_BLOCKS, _DENSE_CONVS = 3, 5
_RESIDUAL_SCALE = 0.2
_DENSE_GAIN = 0.1**2 * RELU_GAIN


class RRDBNet(nn.Module):
    """RRDBNet of ESRGAN and Real-ESRGAN.

    Attributes:
      scale: Ratio of output to input height and width. `scale * unshuffle` is a power of two, with one
        enlarging convolution for each doubling.
      channels: Number of image channels.
      blocks: Number of residual-in-residual dense blocks.
      features: Number of channels of the feature map between the blocks.
      growth: Number of channels that each convolution of a dense block adds.
      unshuffle: Side in pixels of the blocks of the image that become channels of the input. For
        Real-ESRGAN 2 if the scale is 2 and 4 if it is 1.
    """

    scale: int = 4
    channels: int = 3
    blocks: int = 23
    features: int = 64
    growth: int = 32
    unshuffle: int = 1

    @nn.compact
    def __call__(
        self, images: Float[Array, "batch height width all_channels"], train: bool = False
    ) -> Float[Array, "batch out_height out_width channels"]:
        """Enlarge images, which may be followed along the channel axis by conditioning maps.

        The result has only the image's channels and is not clipped. `train` has no effect.

        Raises:
          InputError: Too few channels, sides that are not multiples of `unshuffle`, or an attribute
            is out of range.
        """
        del train
        doublings = self._doublings()
        take_image_channels(images, self.channels)
        check_sides("RRDBNet", images, self.unshuffle)
        x = ops.space_to_depth(images, self.unshuffle)
        first = x = _conv(self.features, 1.0, "conv_first")(x)
        for i in range(self.blocks):
            x = _Block(self.features, self.growth, name=f"block_{i}")(x)
        x = first + _conv(self.features, 1.0, "conv_body")(x)
        relu = Activation("leaky_relu")
        for i in range(doublings):
            x = jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)
            x = relu(_conv(self.features, RELU_GAIN, f"upsample_{i}")(x))
        x = relu(_conv(self.features, RELU_GAIN, "conv_hr")(x))
        return _conv(self.channels, 1.0, "conv_last")(x)

    @nn.nowrap
    def receptive_field(self) -> ReceptiveField:
        """Return the overlap that tiles need, which is less than the receptive field.

        The receptive field of 23 blocks extends to 349 pixels of the features on each side, but
        distant pixels have little effect. The extent is limited to `TILE_OVERLAP` pixels of the
        features, times `unshuffle` for pixels of the image. In tiles, the output of a trained network
        differs by less than 0.2 / 255 from that of the whole image.

        Raises:
          InputError: An attribute is out of range.
        """
        tracker = ReceptiveFieldTracker().conv(self.unshuffle, self.unshuffle, padding=0)
        for _ in range(2 + self.blocks * _DENSE_BLOCKS * _DENSE_CONVS):
            tracker = tracker.conv(_KERNEL_SIZE)
        for _ in range(self._doublings()):
            tracker = tracker.enlarge(2).conv(_KERNEL_SIZE)
        field = tracker.conv(_KERNEL_SIZE).conv(_KERNEL_SIZE).receptive_field()
        overlap = TILE_OVERLAP * self.unshuffle
        return dataclasses.replace(
            field, before=min(field.before, overlap), after=min(field.after, overlap)
        )

    @nn.nowrap
    def _doublings(self) -> int:
        at_least("scale", self.scale, 1)
        at_least("unshuffle", self.unshuffle, 1)
        at_least("blocks", self.blocks, 1)
        doublings = int(math.log2(self.scale * self.unshuffle))
        if 2**doublings != self.scale * self.unshuffle:
            raise InputError(
                "scale * unshuffle must be a power of two; got "
                f"scale={self.scale} and unshuffle={self.unshuffle}"
            )
        return doublings


class _Block(nn.Module):
    """A residual-in-residual dense block."""

    features: int
    growth: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        y = x
        for i in range(_DENSE_BLOCKS):
            y = _DenseBlock(self.features, self.growth, name=f"dense_{i}")(y)
        return x + _RESIDUAL_SCALE * y


class _DenseBlock(nn.Module):
    """Convolutions that each take the input and the outputs of those before, with a residual."""

    features: int
    growth: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        maps = [x]
        for i in range(_DENSE_CONVS - 1):
            y = _conv(self.growth, _DENSE_GAIN, f"conv_{i}")(jnp.concatenate(maps, axis=-1))
            maps.append(Activation("leaky_relu")(y))
        last = _conv(self.features, _DENSE_GAIN, f"conv_{_DENSE_CONVS - 1}")
        return x + _RESIDUAL_SCALE * last(jnp.concatenate(maps, axis=-1))


def _conv(features: int, gain: float, name: str) -> Conv:
    return Conv(features, kernel_size=_KERNEL_SIZE, gain=gain, name=name)
