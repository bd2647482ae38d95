"""CenterNet: objects as the points at their centres, found as peaks of a heat map a class.

Zhou et al., "Objects as Points", arXiv:1904.07850: a network gives, at a coarser resolution than the
image's, how likely each place is an object's centre, and for each place the object's size and what the
coarse grid rounds off its centre. The way back from the coarsest level is that of Xiao et al., "Simple
baselines for human pose estimation and tracking", arXiv:1804.06208: transposed convolutions of 4x4 taps at
stride 2, each with batch norm and a rectifier, without the deformable convolutions of the paper's best
models. The encoder is of residual blocks (He et al., arXiv:1512.03385), each level after a strided
convolution; what each level gave may be added on the way back (as in LinkNet, arXiv:1707.03718).

What a reader would get wrong: the size map holds the *logarithm* of height and width in units of the
output stride. The paper's head gives the numbers themselves, which a head that starts at zero takes long
to reach; as logarithms all sizes are near at the start, and an error is one relative to the object.
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
"""Of the heat map's logits at the start: about one place in ten an object, as in the authors' code."""


class CenterMaps(NamedTuple):
    """What the network says of each place of its grid, whose cells are `output_stride` pixels a side.

    Attributes:
      heat: logits of an object of each class having its centre there.
      log_size: of its height and width, the logarithm in units of the output stride.
      offset: of its centre from the top left of the cell, down and right, in units of the stride.
    """

    heat: Float[Array, "batch rows columns classes"]
    log_size: Float[Array, "batch rows columns 2"]
    offset: Float[Array, "batch rows columns 2"]


class CenterNet(nn.Module):
    """An encoder of halving resolutions, transposed convolutions back, and three heads.

    Attributes:
      num_classes: heat maps.
      features: channels of each level of the encoder, the first at half the resolution; each
        further one halves it. The way back has as many at the same resolution.
      blocks: residual blocks of two convolutions a level.
      output_stride: pixels a side of a cell of the maps, a power of two from 2 to that of the
        coarsest level.
      head_features: channels between the two convolutions of each head.
      skips: whether the encoder's levels are added on the way back.
      norm, activation: by name, see `layers`.
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
        """Of the image's sides."""
        return 2 ** len(self.features)

    @nn.compact
    def __call__(
        self, images: Float[Array, "batch height width channels"], train: bool = False
    ) -> CenterMaps:
        """Images in [0, 1] to maps of height and width over `output_stride`.

        Raises:
          InputError: a side that is no multiple of `multiple`, an attribute out of range, or an
            unknown name.
        """
        self._check()
        check_sides("CenterNet", images, self.multiple)
        levels, x = [], images
        for features in self.features:
            x = self._rectified(Conv(features, stride=2, **self._plain(RELU_GAIN))(x), train)
            for _ in range(self.blocks):
                x = self._residual_block(x, train)
            levels.append(x)
        levels.pop()
        while self.multiple // 2 ** (len(self.features) - 1 - len(levels)) > self.output_stride:
            level = levels.pop()
            enlarge = ConvTranspose(level.shape[-1], stride=2, **self._plain(RELU_GAIN))
            x = self._rectified(enlarge(x), train)
            x = x + level if self.skips else x
        # The heads' first convolutions see the same, so that they are made as one.
        x = Conv(3 * self.head_features, gain=RELU_GAIN, name="heads")(x)
        heat, log_size, offset = jnp.split(Activation(self.activation)(x), 3, axis=-1)
        return CenterMaps(
            self._map("heat", self.num_classes, heat, HEAT_BIAS),
            self._map("log_size", 2, log_size),
            self._map("offset", 2, offset),
        )

    @nn.nowrap
    def _plain(self, gain: float) -> dict[str, Any]:
        """Settings of a convolution before a normalisation."""
        return {"gain": gain, "use_bias": self.norm == "none"}

    @nn.nowrap
    def _rectified(self, x: Array, train: bool) -> Array:
        return Activation(self.activation)(Norm(self.norm, train=train)(x))

    @nn.nowrap
    def _residual_block(self, x: Array, train: bool) -> Array:
        features = x.shape[-1]
        y = self._rectified(Conv(features, **self._plain(RELU_GAIN))(x), train)
        y = Norm(self.norm, train=train)(Conv(features, **self._plain(1.0))(y))
        return Activation(self.activation)(x + y)

    @nn.nowrap
    def _map(self, name: str, channels: int, x: Array, bias: float = 0.0) -> Array:
        """A head's last convolution; near `bias` at the start."""
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
                f"output_stride of {len(self.features)} levels must be one of "
                f"{', '.join(map(str, strides))}; got {self.output_stride}"
            )
