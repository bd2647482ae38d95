"""Symmetric convolutional autoencoder: encode with strided convolutions, decode with their adjoints.

Each encoder stage halves the image with `Conv`, each decoder stage doubles it with `ConvTranspose`
of the same kernel size and stride, so the decoder's layers are the transposes of the encoder's in
reverse order (with weights of their own). After Masci et al., "Stacked convolutional auto-encoders
for hierarchical feature extraction", ICANN 2011, with strides in place of pooling as in
arXiv:1412.6806. The decoder ends in a sigmoid: images are in [0, 1] on both sides.
"""

import math
from typing import ClassVar, Literal

import flax.linen as nn
import jax
from jaxtyping import Array, Float

from deconv_jax.errors import InputError, at_least
from deconv_jax.models.layers import RELU_GAIN, RESIDUAL_GAIN, Activation, Conv, ConvTranspose
from deconv_jax.models.normalization import Norm, NormName


class EncoderDecoder(nn.Module):
    """What plain, variational and vector-quantised autoencoders share: everything but the code.

    Attributes:
      image_shape: (height, width, channels) of the images; both sizes divisible by the total
        stride, `stride ** len(features)`.
      features: channels of each encoder stage; the decoder mirrors them.
      latent: "vector" (a dense layer to `latent_dim` numbers an image) or "map" (a 1x1
        convolution to `latent_dim` channels at 1 / total stride of the resolution; any image size
        divisible by it is accepted then).
      latent_dim: numbers in the code vector, or channels of the code map.
      kernel_size, stride: of every stage, pixels.
      residual_blocks: after every stage but the last of the decoder, so many of two 3x3
        convolutions whose sum with their input goes on.
      norm, activation: by name, see `layers`.
      remat: recompute each stage in the backward pass instead of storing its activations.
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
    """Numbers that the encoder gives for each of the code's."""

    def setup(self) -> None:
        """Lays out the stages; raises InputError for an `image_shape` that does not fit them."""
        for name in ("stride", "kernel_size", "latent_dim"):
            at_least(name, getattr(self, name), 1)
        at_least("residual_blocks", self.residual_blocks, 0)
        if not self.features or min(self.features) < 1:
            raise InputError(f"features must be one or more positive numbers; got {self.features}")
        total = self.stride ** len(self.features)
        height, width, channels = self.image_shape
        if height % total or width % total:
            raise InputError(
                f"images of {height}x{width} pixels do not fit this autoencoder: both sides must "
                f"be divisible by its total stride {total} ({self.stride}^{len(self.features)})"
            )
        self.down = [self._stage(_Down, f) for f in self.features]
        self.to_code: nn.Module
        self.from_code: nn.Module
        if self.latent == "vector":
            self.base = (height // total, width // total, self.features[-1])
            self.to_code = nn.Dense(self.outputs_per_latent * self.latent_dim)
            self.from_code = nn.Dense(math.prod(self.base))
        else:
            self.to_code = Conv(self.outputs_per_latent * self.latent_dim, kernel_size=1)
            self.from_code = Conv(self.features[-1], kernel_size=1)
        self.activate = Activation(self.activation)
        self.up = [self._stage(_Up, f) for f in self.features[-2::-1]]
        self.to_image = ConvTranspose(channels, kernel_size=self.kernel_size, stride=self.stride)

    def _stage(self, kind: "type[_Stage]", features: int) -> nn.Module:
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
        self, images: Float[Array, "batch height width channels"], train: bool
    ) -> Float[Array, "batch *code"]:
        """Images in [0, 1] to `outputs_per_latent` times as many numbers as a code has."""
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
                + (f" or other sizes divisible by {total}" if self.latent == "map" else "")
                + f"; got {images.shape[1:]} (set task.model.image_shape)"
            )
        x = images
        for stage in self.down:
            x = stage(x, train)
        return self.to_code(x.reshape(x.shape[0], -1) if self.latent == "vector" else x)

    def _logits(
        self, code: Float[Array, "batch *code"], train: bool
    ) -> Float[Array, "batch height width channels"]:
        """Codes to what a sigmoid makes images in [0, 1] of."""
        x = self.from_code(code)
        if self.latent == "vector":
            x = x.reshape(x.shape[0], *self.base)
        x = self.activate(x)
        for stage in self.up:
            x = stage(x, train)
        return self.to_image(x)


class Autoencoder(EncoderDecoder):
    """Convolutional autoencoder with a vector or a map for a code; attributes: see `EncoderDecoder`."""

    def encode(
        self, images: Float[Array, "batch height width channels"], train: bool = False
    ) -> Float[Array, "batch *code"]:
        """Images in [0, 1] to codes: (batch, latent_dim), or a map with `latent_dim` channels."""
        return self._encoded(images, train)

    def decode(
        self, code: Float[Array, "batch *code"], train: bool = False
    ) -> Float[Array, "batch height width channels"]:
        """Codes to images in [0, 1]."""
        return jax.nn.sigmoid(self._logits(code, train))

    def reconstruct_with_code(
        self, images: Float[Array, "batch height width channels"], train: bool = False
    ) -> tuple[Float[Array, "batch height width channels"], Float[Array, "batch *code"]]:
        """Images in [0, 1] to their reconstructions in [0, 1], and the codes between."""
        logits, code = self.logits_and_code(images, train)
        return jax.nn.sigmoid(logits), code

    def logits_and_code(
        self, images: Float[Array, "batch height width channels"], train: bool = False
    ) -> tuple[Float[Array, "batch height width channels"], Float[Array, "batch *code"]]:
        """Images in [0, 1] to what a sigmoid makes their reconstructions of, and the codes between."""
        code = self.encode(images, train)
        return self._logits(code, train), code

    def __call__(
        self, images: Float[Array, "batch height width channels"], train: bool = False
    ) -> Float[Array, "batch height width channels"]:
        """Images in [0, 1] to their reconstructions in [0, 1]."""
        return self.reconstruct_with_code(images, train)[0]


class _Stage(nn.Module):
    """A strided layer, its normalisation and activation; the subclass says which layer."""

    features: int
    kernel_size: int
    stride: int
    residual_blocks: int
    norm: NormName
    activation: str

    layer: ClassVar[type[Conv] | type[ConvTranspose]]

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        x = self.layer(
            self.features,
            kernel_size=self.kernel_size,
            stride=self.stride,
            use_bias=self.norm == "none",
            gain=RELU_GAIN,
        )(x)
        x = Activation(self.activation)(Norm(self.norm, train=train)(x))
        for _ in range(self.residual_blocks):
            x = x + self._change(x, train)
        return x

    def _change(self, x: Array, train: bool) -> Array:
        """What a residual block adds: nothing at first (He et al., arXiv:1603.05027, order of layers)."""
        for gain in (RELU_GAIN, RESIDUAL_GAIN):
            x = Activation(self.activation)(Norm(self.norm, train=train)(x))
            x = Conv(self.features, kernel_size=3, gain=gain)(x)
        return x


class _Down(_Stage):
    layer = Conv


class _Up(_Stage):
    layer = ConvTranspose
