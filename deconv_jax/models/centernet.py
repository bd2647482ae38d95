"""CenterNet: object detection by heat maps of object centers.

Zhou et al., "Objects as Points", arXiv:1904.07850. At a lower resolution than the image's, the
network predicts a heat map of object centers for each class. For each grid cell it also predicts
the object's size and the offset of its center within the cell.

The encoder has residual blocks (He et al., arXiv:1512.03385), with a strided convolution before
each level. The decoder is that of Xiao et al., "Simple baselines for human pose estimation and
tracking", arXiv:1804.06208: 4x4 transposed convolutions with stride 2, each with batch norm and a
ReLU. Optional skips add the encoder's feature maps (as in LinkNet, arXiv:1707.03718). The
deformable convolutions of the paper's best models are left out.

Note: The size map contains the logarithms of height and width in units of the output stride, where
the paper's contains the sizes. Logarithms train faster from an initialization near zero, and their
errors are relative to the object's size.
"""

from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from deconv_jax.errors import InputError, at_least
from deconv_jax.models.layers import (
    RELU_GAIN,
    RESIDUAL_GAIN,
    Activation,
    Conv,
    ConvTranspose,
    check_sides,
)
from deconv_jax.models.normalization import Norm, NormName

HEAT_BIAS = -2.19
"""Initial bias of the heat map's logits, a prior probability of 0.1 as in the authors' code."""


class CenterMaps(NamedTuple):
    """The predictions for each cell of a grid; a cell has a side of `output_stride` pixels.

    Attributes:
      heat: Logits of an object center in the cell, for each class.
      log_size: Logarithms of the object's height and width, in units of the output stride.
      offset: Offset (down, right) of the center from the cell's top left, in units of the output
        stride.
    """

    heat: Float[Array, "batch rows columns classes"]
    log_size: Float[Array, "batch rows columns 2"]
    offset: Float[Array, "batch rows columns 2"]


class CenterNet(nn.Module):
    """A detection network: residual encoder, decoder of transposed convolutions, three heads.

    Attributes:
      num_classes: Number of classes, each with a heat map.
      features: Number of channels of each encoder level, at least one, from half resolution down;
        each level halves it. The decoder has the same number at the same resolution.
      blocks: Number of residual blocks per level.
      output_stride: Side of a grid cell, in pixels: a power of two from 2 to the stride of the last
        level.
      head_features: Number of channels between the two convolutions of each head.
      skips: Whether to add the encoder's feature maps in the decoder.
      norm: Normalization before the activations: "batch", "group" (8 groups), "layer" (over the
        channels) or "none".
      activation: Activation function: "relu", "leaky_relu" (slope 0.2), "elu", "gelu", "silu" or
        "tanh".
    """

    num_classes: int
    features: tuple[int, ...] = (32, 64, 128, 256)
    blocks: int = 1
    output_stride: int = 4
    head_features: int = 64
    skips: bool = True
    norm: NormName = "batch"
    activation: str = "relu"

    @property
    def multiple(self) -> int:
        """Required divisor of the image's height and width."""
        return 2 ** len(self.features)

    @nn.compact
    def __call__(
        self, images: Float[Array, "batch height width channels"], train: bool = False
    ) -> CenterMaps:
        """Predict the center maps of images in [0, 1], at 1 / `output_stride` of the resolution.

        `train` makes batch norm use and update the statistics of the batch.

        Raises:
          InputError: A side is not a multiple of `multiple`, an attribute is out of range, or
            `norm` or `activation` is unknown.
        """
        self._check()
        check_sides("CenterNet", images, self.multiple)
        levels, x = [], images
        for features in self.features:
            x = self._norm_activation(
                Conv(features, stride=2, **self._conv_options(RELU_GAIN))(x), train
            )
            for _ in range(self.blocks):
                x = self._residual_block(x, train)
            levels.append(x)
        levels.pop()
        while self.multiple // 2 ** (len(self.features) - 1 - len(levels)) > self.output_stride:
            level = levels.pop()
            enlarge = ConvTranspose(level.shape[-1], stride=2, **self._conv_options(RELU_GAIN))
            x = self._norm_activation(enlarge(x), train)
            x = x + level if self.skips else x
        # The first convolutions of the three heads have the same input, so they are computed as
        # one.
        x = Conv(3 * self.head_features, gain=RELU_GAIN, name="heads")(x)
        heat, log_size, offset = jnp.split(Activation(self.activation)(x), 3, axis=-1)
        return CenterMaps(
            self._output_map("heat", self.num_classes, heat, HEAT_BIAS),
            self._output_map("log_size", 2, log_size),
            self._output_map("offset", 2, offset),
        )

    @nn.nowrap
    def _conv_options(self, gain: float) -> dict[str, Any]:
        """Return the options of a convolution before a normalization."""
        return {"gain": gain, "use_bias": self.norm == "none"}

    @nn.nowrap
    def _norm_activation(self, x: Array, train: bool) -> Array:
        return Activation(self.activation)(Norm(self.norm, train=train)(x))

    @nn.nowrap
    def _residual_block(self, x: Array, train: bool) -> Array:
        features = x.shape[-1]
        y = self._norm_activation(Conv(features, **self._conv_options(RELU_GAIN))(x), train)
        y = Norm(self.norm, train=train)(Conv(features, **self._conv_options(1.0))(y))
        return Activation(self.activation)(x + y)

    @nn.nowrap
    def _output_map(self, name: str, channels: int, x: Array, bias: float = 0.0) -> Array:
        """Apply the last convolution of a head, whose output is near `bias` at initialization."""
        return bias + Conv(channels, kernel_size=1, gain=RESIDUAL_GAIN, name=name)(x)

    @nn.nowrap
    def _check(self) -> None:
        if not self.features or min(self.features) < 1:
            raise InputError(f"features must be one or more positive numbers; got {self.features}")
        at_least("num_classes", self.num_classes, 1)
        at_least("blocks", self.blocks, 0)
        at_least("head_features", self.head_features, 1)
        strides = [2**level for level in range(1, len(self.features) + 1)]
        if self.output_stride not in strides:
            raise InputError(
                f"output_stride for {len(self.features)} levels must be one of "
                f"{', '.join(map(str, strides))}; got {self.output_stride}"
            )
