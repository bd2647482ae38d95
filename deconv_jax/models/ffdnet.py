"""FFDNet: a fast denoiser for every noise level, controlled by a noise-level map.

Zhang et al., "FFDNet: toward a fast and flexible solution for CNN-based image denoising",
arXiv:1710.04026, section III: the image is rearranged into four sub-images at half the resolution
(`space_to_depth`), the noise-level map is appended, and stacked 3x3 convolutions with ReLU return
the sub-images of the clean image. The gray network has 15 convolutions of 64 channels, the color
network 12 of 96.

The initialization is not the paper's: the network starts near the identity. In every layer the
first channels copy the sub-images, and the last layer adds the other channels with small weights.
Training is then as fast as with a residual connection. The parameters are those of the paper, so
published weights fit.

Note: Images with an odd side are padded by their last row or column, and the output is cropped.
"""

from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from deconv_jax import ops
from deconv_jax.errors import InputError, at_least
from deconv_jax.models.layers import (
    RELU_GAIN,
    RESIDUAL_GAIN,
    Activation,
    Conv,
    Initializer,
    take_image_channels,
)
from deconv_jax.models.receptive_field import ReceptiveField, ReceptiveFieldTracker
from deconv_jax.ops.initializers import variance_scaling

FACTOR = 2
"""Side in pixels of the blocks that become channels."""

_KERNEL_SIZE = 3
_OFFSET = 1.0
"""Added to the sub-images in the hidden layers, so that ReLU passes noisy pixels below zero."""


class FFDNet(nn.Module):
    """A denoiser of images followed along the channel axis by a noise-level map.

    Without the map the network is blind, as for the removal of JPEG artifacts.

    Attributes:
      channels: Number of image channels.
      depth: Number of convolutions, at least 2; in the paper 15 for gray images and 12 for color.
      features: Number of channels of the hidden layers, at least `4 * channels`; in the paper 64
        for gray images and 96 for color.
    """

    channels: int = 1
    depth: int = 15
    features: int = 64

    scale: ClassVar[int] = 1
    """Ratio of output to input height and width."""

    @nn.compact
    def __call__(
        self, images: Float[Array, "batch height width all_channels"], train: bool = False
    ) -> Float[Array, "batch height width channels"]:
        """Denoise images, which are followed along the channel axis by any conditioning maps.

        The maps are read at the first pixel of each block. The result is not clipped. `train` has
        no effect.

        Raises:
          InputError: Too few channels, or `depth` or `features` is out of range.
        """
        del train
        at_least("depth", self.depth, 2)
        height, width = images.shape[1:3]
        missing = (height % FACTOR, width % FACTOR)
        if any(missing):
            images = jnp.pad(images, ((0, 0), *((0, n) for n in missing), (0, 0)), mode="edge")
        image = take_image_channels(images, self.channels)
        carried = FACTOR**2 * self.channels
        if self.features < carried:
            raise InputError(
                f"features must be at least {carried}, {FACTOR**2} for each image channel; got "
                f"{self.features}"
            )
        # Indexing would write a gather if the size is symbolic.
        maps = jax.lax.slice(images, (0, 0, 0, self.channels), images.shape, (1, FACTOR, FACTOR, 1))
        x = jnp.concatenate([ops.space_to_depth(image, FACTOR), maps], axis=-1)
        for i in range(self.depth - 1):
            first = i == 0
            x = Conv(
                self.features,
                kernel_size=_KERNEL_SIZE,
                kernel_init=_carry(carried, RELU_GAIN),
                bias_init=_offset(carried, _OFFSET) if first else nn.initializers.zeros,
                name=f"layer_{i}",
            )(x)
            x = Activation("relu")(x)
        x = Conv(
            carried,
            kernel_size=_KERNEL_SIZE,
            kernel_init=_carry(carried, RESIDUAL_GAIN),
            bias_init=nn.initializers.constant(-_OFFSET),
            name="to_image",
        )(x)
        return ops.depth_to_space(x, FACTOR)[:, :height, :width]

    @nn.nowrap
    def receptive_field(self) -> ReceptiveField:
        """Return the receptive field of an output pixel.

        Raises:
          InputError: `depth` is below 2.
        """
        at_least("depth", self.depth, 2)
        tracker = ReceptiveFieldTracker().conv(FACTOR, FACTOR, padding=0)
        for _ in range(self.depth):
            tracker = tracker.conv(_KERNEL_SIZE)
        return tracker.conv_transpose(FACTOR, FACTOR, 0).receptive_field()


def _carry(channels: int, gain: float) -> Initializer:
    """Return an initializer of kernels whose first outputs copy the first `channels` inputs.

    Other outputs are random. A layer without other outputs adds its other inputs to the copies with
    random weights.
    """
    scaled = variance_scaling(gain)

    def init(key: Array, shape: tuple[int, ...], dtype: jnp.dtype = jnp.float32) -> Array:
        random = scaled(key, shape, dtype)
        last = shape[-1] == channels
        copies = jnp.zeros((*shape[:-1], channels), dtype)
        if last:
            copies = copies.at[:, :, channels:].set(random[:, :, channels:])
        middle = tuple(n // 2 for n in shape[:2])
        diagonal = jnp.arange(channels)
        copies = copies.at[(*middle, diagonal, diagonal)].set(1.0)
        return jnp.concatenate([copies, random[..., channels:]], axis=-1)

    return init


def _offset(channels: int, value: float) -> Initializer:
    """Return an initializer of biases: `value` for the first channels, 0 for the others."""

    def init(key: Array, shape: tuple[int, ...], dtype: jnp.dtype = jnp.float32) -> Array:
        del key
        return jnp.where(jnp.arange(shape[0]) < channels, value, 0.0).astype(dtype)

    return init
