"""U-Net: convolutions at halving resolutions, and the way back with skips.

Ronneberger et al., "U-Net: convolutional networks for biomedical image segmentation",
arXiv:1505.04597, section 2: two 3x3 convolutions a level, max pooling to the next, upsampling and
concatenation on the way back, a 1x1 convolution at the end. It differs in what restoration needs:
the size is kept (zero padding, where the paper's convolutions are valid and its skips cropped), the
output is added to the image unless `residual` is off, and there are three ways to enlarge, of 4x4
("transposed", 2x2 in the paper) or 3x3 taps. A segmenter is `UNet(channels=classes, residual=False,
norm="batch")`.

What a reader would get wrong: sizes have to be multiples of `2**levels`. The network does not pad
by itself: a tile padded inside would no longer be a crop of the whole, and tiles would show seams.
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
    """An encoder-decoder of halving resolutions with skips.

    Attributes:
      channels: of the output: those of the image, or the number of classes of a segmenter's logits.
      features: channels of each level, the full resolution first; each further one halves it.
      upsampling: see `layers.Upsample`.
      residual: adds the image to the output.
      norm, activation: by name, see `layers`; "group" takes statistics of the whole image, so that
        there is no receptive field.
    """

    channels: int = 1
    features: tuple[int, ...] = (32, 64, 128)
    upsampling: UpsampleMethod = "transposed"
    residual: bool = True
    norm: NormName = "none"
    activation: str = "relu"

    scale: ClassVar[int] = 1

    @property
    def multiple(self) -> int:
        """Of the image's sides; raises InputError for a field out of range."""
        return 2 ** (len(self._levels()) - 1)

    @nn.compact
    def __call__(
        self, images: Float[Array, "batch height width all_channels"], train: bool = False
    ) -> Float[Array, "batch height width channels"]:
        """Degraded images, and maps after their channels if any, to restored images; or to logits.

        Raises:
          InputError: a size that the poolings do not divide, too few channels for a residual, or an
            unknown name.
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
        """Of an output pixel; raises InputError for a field out of range, or norm "group"."""
        if self.norm == "group":
            raise InputError(
                'norm "group" averages over the whole image: there is no receptive field; take '
                '"batch", "layer" or "none"'
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
