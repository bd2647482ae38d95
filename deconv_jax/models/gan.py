"""Generators and discriminators: DCGAN, the SNGAN networks, and their class-conditional forms.

A generator maps latents, standard normal vectors, to images by enlarging a small map; what enlarges
is a choice, and `transposed` is the classic one. A discriminator maps images to one logit each.
DCGAN is Radford et al., arXiv:1511.06434 (there with uniform latents and 5x5 kernels); the
convolutional and residual networks with spectral normalisation are tables 3 and 4 of Miyato et al.,
arXiv:1802.05957, at any width.

Given classes, a generator normalises by the class (conditional batch norm) and a discriminator adds
the projection of its features on the class's vector (Miyato & Koyama, arXiv:1802.05637, equation 3).

What a reader would get wrong: images are in [0, 1] on the outside, as everywhere here; both kinds
convert to and from [-1, 1] at their own door. And with batch norm a discriminator has to be shown
real and generated images in batches of their own.
"""

from collections.abc import Sequence
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int32

from deconv_jax import ops
from deconv_jax.errors import InputError, at_least
from deconv_jax.models.layers import RELU_GAIN, Conv, Dense, Upsample
from deconv_jax.models.normalization import ConditionalNorm, Norm, NormName, check_labels
from deconv_jax.ops.upsample import UpsampleMethod

_SMALLEST = 7
"""Pixels: the largest side of the map that a generator starts from."""
_SMALLEST_RESIDUAL = 8
"""The same of the map that a residual discriminator ends with."""


class DCGANGenerator(nn.Module):
    """Enlarges a map of at most 7 x 7 to an image, doubling its sides and halving its channels.

    Attributes:
      image_shape: (height, width, channels); each side at most 7 times a power of two, the same
        for both: 28, 32, 64, 96 x 80, ...
      latent_dim: numbers in a latent.
      width: channels of the largest hidden map; every smaller one has twice as many.
      num_classes: of a conditional generator; 0 for none.
      upsampling: what doubles the sides, see `layers.Upsample`.
      kernel_size: of what doubles them; None for its default.
      norm: of the hidden maps, conditional if there are classes.
      final_conv: end with a 3x3 convolution at full size, as the SNGAN generator does, instead of with
        the last enlargement.
    """

    image_shape: tuple[int, int, int] = (28, 28, 1)
    latent_dim: int = 64
    width: int = 64
    num_classes: int = 0
    upsampling: UpsampleMethod = "transposed"
    kernel_size: int | None = None
    norm: NormName = "batch"
    final_conv: bool = False

    role: ClassVar[str] = "generator"

    @nn.compact
    def __call__(
        self,
        latents: Float[Array, "batch latent_dim"],
        labels: Int32[Array, " batch"] | None = None,
        train: bool = False,
    ) -> Float[Array, "batch height width channels"]:
        """Latents to images in [0, 1]; raises InputError for shapes or labels that do not fit."""
        stages = _halvings(self.image_shape, _SMALLEST)
        channels = self.image_shape[-1]
        widths = [self.width * 2**i for i in reversed(range(stages))]
        if self.final_conv:
            widths = [2 * widths[0], *widths]
        # A norm has an offset of its own, here and below.
        plain = self.norm == "none"
        x = _first_map(latents, self.latent_dim, self.image_shape, stages, widths[0], plain)
        x = self._hidden(x, labels, train)
        for features in widths[1:]:
            x = self._enlarge(features, gain=RELU_GAIN, use_bias=plain)(x)
            x = self._hidden(x, labels, train)
        return _to_unit_range((Conv(channels) if self.final_conv else self._enlarge(channels))(x))

    def _enlarge(self, features: int, gain: float = 1.0, use_bias: bool = True) -> Upsample:
        return Upsample(
            features,
            method=self.upsampling,
            kernel_size=self.kernel_size,
            use_bias=use_bias,
            gain=gain,
        )

    def _hidden(self, x: Array, labels: Array | None, train: bool) -> Array:
        return jax.nn.relu(ConditionalNorm(self.num_classes, self.norm, train=train)(x, labels))


class DCGANDiscriminator(nn.Module):
    """Halves an image by strided convolutions down to at most 7 x 7, and gives it a logit.

    Attributes:
      width: channels of the first map; every smaller one has twice as many.
      num_classes: of a conditional discriminator; 0 for none.
      kernel_size: of the convolutions.
      norm: of all maps but the first, as in the paper.
      spectral_norm: of every kernel.
      minibatch_std_group: images in a group whose mean standard deviation is one more feature before
        the logit (after Karras et al., arXiv:1710.10196, section 3, who add it as a map before the
        last convolution); 0 for none. It divides the batch.
    """

    width: int = 64
    num_classes: int = 0
    kernel_size: int = 4
    norm: NormName = "batch"
    spectral_norm: bool = False
    minibatch_std_group: int = 0

    role: ClassVar[str] = "discriminator"

    @nn.compact
    def __call__(
        self,
        images: Float[Array, "batch height width channels"],
        labels: Int32[Array, " batch"] | None = None,
        train: bool = False,
    ) -> Float[Array, " batch"]:
        """Logits of images in [0, 1]: the higher, the more they look real."""
        stages = range(_halvings(images.shape[1:], _SMALLEST))
        layers = [
            (self.width * 2**i, self.kernel_size, 2, self.norm if i else "none") for i in stages
        ]
        x = _convolved(self, images, layers, 0.2, train)
        return _logits(self, x.reshape(len(x), -1), x, labels, train)


class SNGANDiscriminator(nn.Module):
    """The convolutional discriminator of arXiv:1802.05957, table 3: 3x3, then 4x4 with stride 2.

    Attributes: as for `DCGANDiscriminator`; the paper's has width 64 and spectral normalisation.
    """

    width: int = 64
    num_classes: int = 0
    norm: NormName = "none"
    spectral_norm: bool = True
    minibatch_std_group: int = 0

    role: ClassVar[str] = "discriminator"

    @nn.compact
    def __call__(
        self,
        images: Float[Array, "batch height width channels"],
        labels: Int32[Array, " batch"] | None = None,
        train: bool = False,
    ) -> Float[Array, " batch"]:
        """Logits of images in [0, 1]: the higher, the more they look real."""
        stages = _halvings(images.shape[1:], _SMALLEST)
        layers = [
            (self.width * 2**i, kernel_size, stride, self.norm)
            for i in range(stages + 1)
            for kernel_size, stride in ((3, 1), (4, 2))
        ]
        x = _convolved(self, images, layers[:-1], 0.1, train)
        return _logits(self, x.reshape(len(x), -1), x, labels, train)


class ResNetGenerator(nn.Module):
    """The residual generator of arXiv:1802.05957, table 4, at any width and size.

    Attributes: as for `DCGANGenerator`; every map has `width` channels, 256 in the paper.
    """

    image_shape: tuple[int, int, int] = (32, 32, 3)
    latent_dim: int = 128
    width: int = 128
    num_classes: int = 0
    upsampling: UpsampleMethod = "resize"
    kernel_size: int | None = None
    norm: NormName = "batch"

    role: ClassVar[str] = "generator"

    @nn.compact
    def __call__(
        self,
        latents: Float[Array, "batch latent_dim"],
        labels: Int32[Array, " batch"] | None = None,
        train: bool = False,
    ) -> Float[Array, "batch height width channels"]:
        """Latents to images in [0, 1]; raises InputError for shapes or labels that do not fit."""
        stages = _halvings(self.image_shape, _SMALLEST)

        def hidden(x: Array) -> Array:
            return jax.nn.relu(ConditionalNorm(self.num_classes, self.norm, train=train)(x, labels))

        x = _first_map(latents, self.latent_dim, self.image_shape, stages, self.width)
        for _ in range(stages):
            size = [2 * n for n in x.shape[1:3]]
            branch = Upsample(
                self.width,
                method=self.upsampling,
                kernel_size=self.kernel_size,
                use_bias=self.norm == "none",
                gain=RELU_GAIN,
            )(hidden(x))
            branch = Conv(self.width, gain=RELU_GAIN)(hidden(branch))
            # Both orders are the same, and this one the cheaper.
            x = ops.resize(Conv(self.width, kernel_size=1)(x), size, method="nearest") + branch
        return _to_unit_range(Conv(self.image_shape[-1])(hidden(x)))


class ResNetDiscriminator(nn.Module):
    """The residual discriminator of arXiv:1802.05957, table 4, at any width and size.

    Blocks halve the image down to at most 8 x 8, two more keep the size, and the sum over all places
    gives the logit.

    Attributes: as for `DCGANDiscriminator`; every map has `width` channels, 128 in the paper.
    """

    width: int = 128
    num_classes: int = 0
    spectral_norm: bool = True
    minibatch_std_group: int = 0

    role: ClassVar[str] = "discriminator"

    @nn.compact
    def __call__(
        self,
        images: Float[Array, "batch height width channels"],
        labels: Int32[Array, " batch"] | None = None,
        train: bool = False,
    ) -> Float[Array, " batch"]:
        """Logits of images in [0, 1]: the higher, the more they look real."""
        x = _to_signed_range(images)
        halvings = _halvings(images.shape[1:], _SMALLEST_RESIDUAL)
        for i in range(halvings + 2):
            # The first block sees pixels, which no activation may cut.
            branch = _conv(self, self.width, 3, 1, train)(jax.nn.relu(x) if i else x)
            branch = _conv(self, self.width, 3, 1, train)(jax.nn.relu(branch))
            if i < halvings:
                branch, x = ops.avg_pool(branch, 2), ops.avg_pool(x, 2)
                x = _conv(self, self.width, 1, 1, train)(x)
            x = x + branch
        x = jax.nn.relu(x)
        return _logits(self, jnp.sum(x, axis=(1, 2)), x, labels, train)


Generator = DCGANGenerator | ResNetGenerator
Discriminator = DCGANDiscriminator | SNGANDiscriminator | ResNetDiscriminator


def minibatch_deviation(
    x: Float[Array, "batch height width channels"], group: int
) -> Float[Array, "batch"]:
    """The standard deviation within a group of images, mean over all places, for each image.

    Args:
      x: features; neighbouring rows make a group.
      group: images in a group.

    Raises:
      InputError: the group does not divide the batch.
    """
    at_least("minibatch_std_group", group, 2)
    if len(x) % group:
        raise InputError(f"minibatch_std_group={group} does not divide a batch of {len(x)} images")
    groups = x.reshape(-1, group, *x.shape[1:])
    deviation = jnp.mean(jnp.sqrt(jnp.var(groups, axis=1) + 1e-8), axis=(1, 2, 3))
    return jnp.repeat(deviation, group)


def _halvings(image_shape: tuple[int, ...], largest: int) -> int:
    """How often the sides of an image are halved until neither exceeds `largest`."""
    height, width = image_shape[:2]
    halvings = 0
    while max(height, width) >> halvings > largest:
        halvings += 1
    if halvings < 1 or height % 2**halvings or width % 2**halvings:
        raise InputError(
            f"images of {height} x {width} pixels do not fit this network: both sides must be "
            f"halved alike, without rest, until they are at most {largest} (28, 32, 64, 96 x 80)"
        )
    return halvings


def _first_map(
    latents: Array,
    latent_dim: int,
    image_shape: tuple[int, ...],
    stages: int,
    features: int,
    use_bias: bool = True,
) -> Array:
    """A latent as the small map that a generator starts from."""
    if latents.shape[-1] != latent_dim:
        raise InputError(f"this generator takes latents of {latent_dim}; got {latents.shape}")
    height, width = (n >> stages for n in image_shape[:2])
    x = Dense(height * width * features, use_bias=use_bias, gain=RELU_GAIN)(latents)
    return x.reshape(len(latents), height, width, features)


def _conv(
    discriminator: Discriminator,
    features: int,
    kernel_size: int,
    stride: int,
    train: bool,
    use_bias: bool = True,
) -> Conv:
    return Conv(
        features,
        kernel_size=kernel_size,
        stride=stride,
        use_bias=use_bias,
        gain=RELU_GAIN,
        kernel_norm="spectral" if discriminator.spectral_norm else "none",
        train=train,
    )


def _convolved(
    discriminator: Discriminator,
    images: Array,
    layers: Sequence[tuple[int, int, int, NormName]],
    slope: float,
    train: bool,
) -> Array:
    """Features of images in [0, 1] by layers of (features, kernel size, stride, norm).

    Negative values are multiplied by `slope` after each.
    """
    x = _to_signed_range(images)
    for features, kernel_size, stride, norm in layers:
        x = _conv(discriminator, features, kernel_size, stride, train, norm == "none")(x)
        x = jax.nn.leaky_relu(Norm(norm, train=train)(x), slope)
    return x


def _logits(
    discriminator: Discriminator, features: Array, map_: Array, labels: Array | None, train: bool
) -> Array:
    """Logits (batch,) of features (batch, dims), a dense layer and the projection on the class."""
    check_labels(discriminator.num_classes, labels)
    options: dict[str, Any] = {"spectral_norm": discriminator.spectral_norm, "train": train}
    seen = features
    if discriminator.minibatch_std_group:
        deviation = minibatch_deviation(map_, discriminator.minibatch_std_group)
        seen = jnp.concatenate([features, deviation[:, None].astype(features.dtype)], axis=-1)
    logits = Dense(1, **options)(seen)[:, 0]
    if labels is None:
        return logits
    one_hot = jax.nn.one_hot(labels, discriminator.num_classes, dtype=features.dtype)
    vectors = Dense(features.shape[-1], use_bias=False, **options)(one_hot)
    return logits + jnp.sum(vectors * features, axis=-1)


def _to_signed_range(images: Array) -> Array:
    return 2.0 * images - 1.0


def _to_unit_range(x: Array) -> Array:
    return 0.5 * (jnp.tanh(x) + 1.0)
