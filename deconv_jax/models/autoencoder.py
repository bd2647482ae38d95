"""Convolutional autoencoder with a symmetric decoder of transposed convolutions.

Each encoder stage downsamples by a strided `Conv`, and each decoder stage upsamples by a
`ConvTranspose` of the same kernel size and stride. The decoder's layers are the transposes of the
encoder's in reverse order, with weights of their own. After Masci et al., "Stacked convolutional
auto-encoders for hierarchical feature extraction", ICANN 2011, with strides in place of pooling as
in arXiv:1412.6806. Images are in [0, 1]; the decoder ends in a sigmoid.
"""

import math
from typing import ClassVar, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from deconv_jax.errors import InputError, at_least
from deconv_jax.models.layers import (
    RELU_GAIN,
    RESIDUAL_GAIN,
    Activation,
    Conv,
    ConvTranspose,
    Dense,
)
from deconv_jax.models.normalization import Norm, NormName


class EncoderDecoder(nn.Module):
    """Base class of the plain, variational and vector-quantized autoencoders.

    In every method, `train` makes batch normalization use and update the statistics of the batch.

    Attributes:
      image_shape: Shape (height, width, channels) of the images. Height and width must be multiples
        of the total stride, `stride ** len(features)`.
      features: Number of channels of each encoder stage; the decoder mirrors them.
      latent: "vector" is a dense layer to `latent_dim` numbers. "map" is a 1x1 convolution to a
        feature map with `latent_dim` channels at the lowest resolution; images may then have any
        size that is a multiple of the total stride.
      latent_dim: Length of the latent vector, or number of channels of the latent map.
      kernel_size: Kernel size of every stage, in pixels.
      stride: Stride of every stage.
      residual_blocks: Number of residual blocks of two 3x3 convolutions after each stage, except
        the last of the decoder.
      norm: Normalization before the activations: "batch", "group" (8 groups), "layer" (over the
        channels) or "none".
      activation: Activation function: "relu", "leaky_relu" (slope 0.2), "elu", "gelu", "silu" or
        "tanh".
      remat: Whether to recompute each stage in the backward pass instead of storing its
        activations.
    """

    image_shape: tuple[int, int, int] = (28, 28, 1)
    features: tuple[int, ...] = (32, 64)
    latent: Literal["vector", "map"] = "vector"
    latent_dim: int = 32
    kernel_size: int = 4
    stride: int = 2
    residual_blocks: int = 0
    norm: NormName = "batch"
    activation: str = "relu"
    remat: bool = False

    outputs_per_latent: ClassVar[int] = 1
    """Number of encoder outputs for each latent dimension."""

    def setup(self) -> None:
        """Define the stages.

        Raises:
          InputError: An attribute is out of range, or the total stride does not divide
            `image_shape`.
        """
        for name in ("stride", "kernel_size", "latent_dim"):
            at_least(name, getattr(self, name), 1)
        at_least("residual_blocks", self.residual_blocks, 0)
        if not self.features or min(self.features) < 1:
            raise InputError(f"features must be one or more positive numbers; got {self.features}")
        total = self.stride ** len(self.features)
        height, width, channels = self.image_shape
        if height % total or width % total:
            raise InputError(
                f"images of {height}x{width} pixels do not fit this autoencoder: both sides must be "
                f"multiples of its total stride {total} ({self.stride}^{len(self.features)})"
            )
        self.down = [self._stage(Down, f) for f in self.features]
        self.to_code: nn.Module
        self.from_code: nn.Module
        if self.latent == "vector":
            self.base_shape = (height // total, width // total, self.features[-1])
            self.to_code = Dense(self.outputs_per_latent * self.latent_dim)
            self.from_code = Dense(math.prod(self.base_shape))
        else:
            self.to_code = Conv(self.outputs_per_latent * self.latent_dim, kernel_size=1)
            self.from_code = Conv(self.features[-1], kernel_size=1)
        self.activate = Activation(self.activation)
        self.up = [self._stage(Up, f) for f in self.features[-2::-1]]
        self.to_image = ConvTranspose(channels, kernel_size=self.kernel_size, stride=self.stride)

    def _stage(self, kind: "type[Stage]", features: int) -> nn.Module:
        stage = nn.remat(kind, static_argnums=(2,)) if self.remat else kind
        return stage(
            features,
            self.kernel_size,
            self.stride,
            self.residual_blocks,
            self.norm,
            self.activation,
        )

    def _encoded(
        self,
        images: Float[Array, "batch height width channels"],
        train: bool,
        condition: Float[Array, "batch height width channels"] | None = None,
    ) -> Float[Array, "batch *code"]:
        """Return the encoder's raw outputs, `outputs_per_latent` for each latent dimension.

        The condition, if any, follows the images along the channel axis.
        """
        total = self.stride ** len(self.features)
        expected = self.image_shape
        fits = images.shape[1:] == expected
        if self.latent == "map":
            fits = images.shape[-1] == expected[-1] and not any(
                n % total for n in images.shape[1:3]
            )
        if not fits:
            raise InputError(
                f"this autoencoder takes images of shape {expected}"
                + (f" or other sizes that are multiples of {total}" if self.latent == "map" else "")
                + f"; got {images.shape[1:]} (set task.model.image_shape)"
            )
        x = images if condition is None else jnp.concatenate([images, condition], axis=-1)
        for stage in self.down:
            x = stage(x, train)
        return self.to_code(x.reshape(x.shape[0], -1) if self.latent == "vector" else x)

    def _logits(
        self, code: Float[Array, "batch *code"], train: bool
    ) -> Float[Array, "batch height width channels"]:
        """Decode latents to logits of images in [0, 1]."""
        x = self.from_code(code)
        if self.latent == "vector":
            x = x.reshape(x.shape[0], *self.base_shape)
        x = self.activate(x)
        for stage in self.up:
            x = stage(x, train)
        return self.to_image(x)


class Autoencoder(EncoderDecoder):
    """A convolutional autoencoder with a latent vector or map.

    A latent vector has shape (batch, latent_dim), and a latent map (batch, height / total stride,
    width / total stride, latent_dim). The methods that take images raise InputError for images of
    another shape than `image_shape`; with latent "map", other multiples of the total stride are
    allowed.

    Attributes:
      Others: See `EncoderDecoder` (image_shape, features, latent, latent_dim, kernel_size, stride,
        residual_blocks, norm, activation and remat).
    """

    def encode(
        self, images: Float[Array, "batch height width channels"], train: bool = False
    ) -> Float[Array, "batch *code"]:
        """Encode images in [0, 1] to latent vectors or maps."""
        return self._encoded(images, train)

    def decode(
        self, code: Float[Array, "batch *code"], train: bool = False
    ) -> Float[Array, "batch height width channels"]:
        """Decode latents to images in [0, 1]."""
        return jax.nn.sigmoid(self._logits(code, train))

    def reconstruct_with_code(
        self, images: Float[Array, "batch height width channels"], train: bool = False
    ) -> tuple[Float[Array, "batch height width channels"], Float[Array, "batch *code"]]:
        """Return the reconstructions in [0, 1] of images in [0, 1], and their latents."""
        logits, code = self.logits_and_code(images, train)
        return jax.nn.sigmoid(logits), code

    def logits_and_code(
        self, images: Float[Array, "batch height width channels"], train: bool = False
    ) -> tuple[Float[Array, "batch height width channels"], Float[Array, "batch *code"]]:
        """Return the logits of the reconstructions of images in [0, 1], and their latents."""
        code = self.encode(images, train)
        return self._logits(code, train), code

    def __call__(
        self, images: Float[Array, "batch height width channels"], train: bool = False
    ) -> Float[Array, "batch height width channels"]:
        """Reconstruct images in [0, 1]."""
        return self.reconstruct_with_code(images, train)[0]


class Stage(nn.Module):
    """A strided layer, its normalization and activation, and residual blocks."""

    features: int
    kernel_size: int
    stride: int
    residual_blocks: int
    norm: NormName
    activation: str

    layer: ClassVar[type[Conv] | type[ConvTranspose]]

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        """Apply the stage to a feature map (batch, height, width, channels)."""
        x = self.layer(
            self.features,
            kernel_size=self.kernel_size,
            stride=self.stride,
            use_bias=self.norm == "none",
            gain=RELU_GAIN,
        )(x)
        x = Activation(self.activation)(Norm(self.norm, train=train)(x))
        for _ in range(self.residual_blocks):
            x = x + self._residual_branch(x, train)
        return x

    def _residual_branch(self, x: Array, train: bool) -> Array:
        """Apply a pre-activation residual branch (He et al., arXiv:1603.05027), initially near zero."""
        for gain in (RELU_GAIN, RESIDUAL_GAIN):
            x = Activation(self.activation)(Norm(self.norm, train=train)(x))
            x = Conv(self.features, kernel_size=3, gain=gain)(x)
        return x


class Down(Stage):
    """A stage of the encoder."""

    layer = Conv


class Up(Stage):
    """A stage of the decoder."""

    layer = ConvTranspose
