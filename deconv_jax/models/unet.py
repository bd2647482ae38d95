"""U-Net: an encoder-decoder with skips at every resolution.

Ronneberger et al., "U-Net: convolutional networks for biomedical image segmentation",
arXiv:1505.04597, section 2: two 3x3 convolutions per level, max pooling in the encoder, upsampling
and concatenation in the decoder, and a final 1x1 convolution.

It differs from the paper for restoration. The convolutions are zero-padded and keep the size; the
paper's are valid, with cropped skips. The output is added to the image unless `residual` is off.
The upsampling layer is a choice, with 4x4 kernels for "transposed" (2x2 in the paper) and 3x3
kernels for the others. For segmentation use `UNet(channels=classes, residual=False, norm="batch")`.

Note: The image's sides must be multiples of `multiple`. The network does not pad internally,
because padding inside a tile would cause seams.
"""

from typing import ClassVar

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from deconv_jax import ops
from deconv_jax.errors import InputError
from deconv_jax.models.layers import (
    RELU_GAIN,
    RESIDUAL_GAIN,
    Activation,
    Conv,
    Upsample,
    check_sides,
    take_image_channels,
)
from deconv_jax.models.normalization import Norm, NormName
from deconv_jax.models.receptive_field import ReceptiveField, ReceptiveFieldTracker
from deconv_jax.ops.upsample import UpsampleMethod

_CONVS_PER_LEVEL = 2


class UNet(nn.Module):
    """An encoder-decoder with skips, for restoration or segmentation.

    Attributes:
      channels: Number of output channels: those of the image, or one per class for segmentation.
      features: Number of channels of each level, from full resolution down; each level halves it.
      upsampling: Upsampling layer: "transposed" (4x4 transposed convolution), "subpixel" (3x3
        sub-pixel convolution) or "resize" (nearest-neighbor upsampling and a 3x3 convolution).
      residual: Whether to add the image to the output.
      norm: Normalization: "batch", "group" (8 groups), "layer" (over the channels) or "none". With
        "group", whose statistics cover the whole image, the receptive field is unbounded.
      activation: Activation function: "relu", "leaky_relu" (slope 0.2), "elu", "gelu", "silu" or
        "tanh".
    """

    channels: int = 1
    features: tuple[int, ...] = (32, 64, 128)
    upsampling: UpsampleMethod = "transposed"
    residual: bool = True
    norm: NormName = "none"
    activation: str = "relu"

    scale: ClassVar[int] = 1
    """Ratio of output to input height and width."""

    @property
    def multiple(self) -> int:
        """Required divisor of the image's height and width.

        Raises:
          InputError: `features` is empty or has a number below 1.
        """
        return 2 ** (len(self._levels()) - 1)

    @nn.compact
    def __call__(
        self, images: Float[Array, "batch height width all_channels"], train: bool = False
    ) -> Float[Array, "batch height width channels"]:
        """Restore or segment images, which may be followed along the channel axis by conditioning maps.

        The result is not clipped. `train` makes batch norm use and update the statistics of the
        batch.

        Raises:
          InputError: The sides are not multiples of `multiple`, too few channels for `residual`,
            `features` is out of range, or `upsampling`, `norm` or `activation` is unknown.
        """
        check_sides("U-Net", images, self.multiple)
        *upper, lowest = self._levels()
        x, skipped = images, []
        for features in upper:
            x = self._level(x, features, train)
            skipped.append(x)
            x = ops.max_pool(x, 2)
        x = self._level(x, lowest, train)
        for features in reversed(upper):
            enlarge = Upsample(
                features, method=self.upsampling, kernel_size=self._upsampling_kernel_size()
            )
            x = jnp.concatenate([skipped.pop(), enlarge(x)], axis=-1)
            x = self._level(x, features, train)
        gain = RESIDUAL_GAIN if self.residual else 1.0
        x = Conv(self.channels, kernel_size=1, gain=gain, name="to_image")(x)
        return take_image_channels(images, self.channels) + x if self.residual else x

    @nn.nowrap
    def receptive_field(self) -> ReceptiveField:
        """Return the receptive field of an output pixel.

        Raises:
          InputError: `features` is out of range, `upsampling` is unknown, or the norm is "group".
        """
        if self.norm == "group":
            raise InputError(
                "a bounded receptive field requires norm 'batch', 'layer' or 'none'; got norm='group', "
                "whose statistics cover the whole image"
            )
        *upper, _ = self._levels()
        tracker, skipped = ReceptiveFieldTracker(), []
        for _ in upper:
            tracker = _level_trace(tracker)
            skipped.append(tracker)
            tracker = tracker.conv(2, stride=2)
        tracker = _level_trace(tracker)
        for _ in upper:
            enlarged = tracker.upsample(2, self.upsampling, self._upsampling_kernel_size())
            tracker = _level_trace(skipped.pop().join(enlarged))
        return tracker.receptive_field()

    @nn.nowrap
    def _level(self, x: Array, features: int, train: bool) -> Array:
        for _ in range(_CONVS_PER_LEVEL):
            x = _ConvBlock(features, self.norm, self.activation)(x, train)
        return x

    @nn.nowrap
    def _levels(self) -> tuple[int, ...]:
        if not self.features or min(self.features) < 1:
            raise InputError(f"features must be one or more positive numbers; got {self.features}")
        return self.features

    @nn.nowrap
    def _upsampling_kernel_size(self) -> int:
        return 4 if self.upsampling == "transposed" else 3


def _level_trace(tracker: ReceptiveFieldTracker) -> ReceptiveFieldTracker:
    for _ in range(_CONVS_PER_LEVEL):
        tracker = tracker.conv(3)
    return tracker


class _ConvBlock(nn.Module):
    features: int
    norm: NormName
    activation: str

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        x = Conv(self.features, use_bias=self.norm == "none", gain=RELU_GAIN)(x)
        return Activation(self.activation)(Norm(self.norm, train=train)(x))
