"""Generators and discriminators of GANs: DCGAN and SNGAN networks, optionally class-conditional.

A generator maps standard normal latents to images by upsampling a small feature map; the upsampling
method is a choice, and transposed convolution the classic one. A discriminator maps each image to a
logit. DCGAN is Radford et al., arXiv:1511.06434 (there with uniform latents and 5x5 kernels). The
convolutional and residual networks with spectral normalization are those of tables 3 and 4 of
Miyato et al., arXiv:1802.05957, at any width.

With classes, a generator uses conditional batch norm, and a discriminator adds the projection of
its features on a class embedding (Miyato & Koyama, arXiv:1802.05637, equation 3).

Note: Images are in [0, 1]. The networks convert to and from [-1, 1] internally.

Note: A discriminator with batch norm requires real and generated images in separate batches.
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

_MAX_BASE_SIDE = 7
"""Largest side, in pixels, of a generator's first and a discriminator's last feature map."""
_MAX_RESIDUAL_BASE_SIDE = 8
"""Largest side, in pixels, of a residual discriminator's last feature map."""


class Generator(nn.Module):
    """Base class of generators.

    Attributes:
      image_shape: Shape (height, width, channels) of the images. The sides must be divisible by a
        common power of two with quotients of at most 7: 28, 32, 64, 96x80, ... The larger side must
        be at least 8.
      latent_dim: Length of a latent.
      width: Number of channels of the largest hidden map.
      num_classes: Number of classes of a conditional generator; 0 for none.
      upsampling: Upsampling layer: "transposed" (transposed convolution), "subpixel" (sub-pixel
        convolution) or "resize" (nearest-neighbor upsampling and a convolution).
      kernel_size: Kernel size of the upsampling layers; None for 4 with "transposed" and 3
        otherwise.
      norm: Normalization of the hidden maps: "batch", "group", "layer" or "none"; with a scale and
        an offset for each class if there are classes.
    """

    image_shape: tuple[int, int, int] = (28, 28, 1)
    latent_dim: int = 64
    width: int = 64
    num_classes: int = 0
    upsampling: UpsampleMethod = "transposed"
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
        """Generate images in [0, 1].

        Args:
          latents: Standard normal latents.
          labels: Classes from 0 (their range is not checked); required for a conditional generator,
            and not allowed otherwise.
          train: Whether batch norm uses and updates the statistics of the batch.

        Raises:
          InputError: The image shape is not supported, latents or labels do not match the
            generator, or `upsampling` or `norm` is unknown.
        """
        stages = _halvings(self.image_shape, _MAX_BASE_SIDE)
        return _to_unit_range(self._image(latents, labels, stages, train))

    def _image(self, latents: Array, labels: Array | None, stages: int, train: bool) -> Array:
        """Map latents to images before the final tanh, by upsampling in `stages` stages."""
        raise NotImplementedError

    def _upsample(self, features: int, gain: float = 1.0, use_bias: bool = True) -> Upsample:
        return Upsample(
            features,
            method=self.upsampling,
            kernel_size=self.kernel_size,
            use_bias=use_bias,
            gain=gain,
        )

    def _hidden(self, x: Array, labels: Array | None, train: bool) -> Array:
        return jax.nn.relu(ConditionalNorm(self.num_classes, self.norm, train=train)(x, labels))


class DCGANGenerator(Generator):
    """The DCGAN generator: every stage doubles the sides and halves the channels.

    Attributes:
      max_width: Limit of the number of channels of a map, for large images; None for no limit.
      final_conv: Whether to upsample to full resolution in hidden layers and end with a 3x3
        convolution, as the SNGAN generator does. Otherwise the last upsampling layer gives the
        image.
      Others: See `Generator` (image_shape, latent_dim, width, num_classes, upsampling, kernel_size
        and norm).
    """

    max_width: int | None = None
    final_conv: bool = False

    def _image(self, latents: Array, labels: Array | None, stages: int, train: bool) -> Array:
        channels = self.image_shape[-1]
        widths = _widths(self.width, stages, self.max_width)[::-1]
        if self.final_conv:
            widths = _widths(self.width, stages + 1, self.max_width)[::-1]
        # A norm has its own offset, so the layer before it needs no bias.
        use_bias = self.norm == "none"
        x = _base_map(latents, self.latent_dim, self.image_shape, stages, widths[0], use_bias)
        x = self._hidden(x, labels, train)
        for features in widths[1:]:
            x = self._upsample(features, gain=RELU_GAIN, use_bias=use_bias)(x)
            x = self._hidden(x, labels, train)
        return (Conv(channels) if self.final_conv else self._upsample(channels))(x)


class ResNetGenerator(Generator):
    """The residual generator of arXiv:1802.05957, table 4, at any width and size.

    Attributes:
      image_shape: Shape (height, width, channels) of the images, as in `Generator`.
      latent_dim: Length of a latent.
      width: Number of channels of every hidden map; 256 in the paper.
      upsampling: Upsampling layer of the residual branches: "transposed", "subpixel" or "resize",
        as in `Generator`.
      Others: See `Generator` (num_classes, kernel_size and norm).
    """

    image_shape: tuple[int, int, int] = (32, 32, 3)
    latent_dim: int = 128
    width: int = 128
    upsampling: UpsampleMethod = "resize"

    def _image(self, latents: Array, labels: Array | None, stages: int, train: bool) -> Array:
        x = _base_map(latents, self.latent_dim, self.image_shape, stages, self.width)
        for _ in range(stages):
            size = [2 * n for n in x.shape[1:3]]
            upsample = self._upsample(self.width, RELU_GAIN, use_bias=self.norm == "none")
            branch = upsample(self._hidden(x, labels, train))
            branch = Conv(self.width, gain=RELU_GAIN)(self._hidden(branch, labels, train))
            # A 1x1 convolution commutes with nearest-neighbor upsampling, and is cheaper before it.
            x = ops.resize(Conv(self.width, kernel_size=1)(x), size, method="nearest") + branch
        return Conv(self.image_shape[-1])(self._hidden(x, labels, train))


class Discriminator(nn.Module):
    """Base class of discriminators.

    Attributes:
      width: Number of channels of the first map.
      num_classes: Number of classes of a conditional discriminator; 0 for none.
      spectral_norm: Whether to divide every kernel by an estimate of its largest singular value.
      minibatch_std_group: Group size of the minibatch standard deviation feature, see
        `minibatch_deviation`; 0 for none. It must divide the batch. The feature is concatenated to
        the input of the logit layer; Karras et al., arXiv:1710.10196, section 3, concatenate it as
        a map to the input of the last convolution.
    """

    width: int = 64
    num_classes: int = 0
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
        """Return one logit per image; higher means more likely real.

        Args:
          images: Images in [0, 1]; the larger side must exceed that of the last feature map.
          labels: Classes from 0 (their range is not checked); required for a conditional
            discriminator, and not allowed otherwise.
          train: Whether batch norm uses the statistics of the batch, and batch norm and spectral
            normalization update theirs.

        Raises:
          InputError: The image size is not supported, labels or the batch size do not match, or
            `norm` is unknown.
        """
        features, last_map = self._features(images, train)
        return _logits(self, features, last_map, labels, train)

    def _features(self, images: Array, train: bool) -> tuple[Array, Array]:
        """Return the features (batch, dims) for the logit, and the last feature map."""
        raise NotImplementedError


class DCGANDiscriminator(Discriminator):
    """The DCGAN discriminator: strided convolutions halve the image to at most 7x7 pixels.

    Every map has twice as many channels as the one before.

    Attributes:
      kernel_size: Kernel size of the convolutions.
      max_width: Limit of the number of channels of a map, for large images; None for no limit.
      norm: Normalization of all maps but the first, as in the paper: "batch", "group", "layer" or
        "none".
      Others: See `Discriminator` (width, num_classes, spectral_norm and minibatch_std_group).
    """

    kernel_size: int = 4
    max_width: int | None = None
    norm: NormName = "batch"

    def _features(self, images: Array, train: bool) -> tuple[Array, Array]:
        stages = _halvings(images.shape[1:], _MAX_BASE_SIDE)
        layers = [
            (width, self.kernel_size, 2, self.norm if i else "none")
            for i, width in enumerate(_widths(self.width, stages, self.max_width))
        ]
        x = _conv_stack(self, images, layers, 0.2, train)
        return x.reshape(x.shape[0], -1), x


class SNGANDiscriminator(Discriminator):
    """The convolutional discriminator of arXiv:1802.05957, table 3.

    It alternates 3x3 convolutions and 4x4 convolutions with stride 2, down to at most 7x7 pixels.

    Attributes:
      spectral_norm: Whether to divide every kernel by an estimate of its largest singular value, as
        in the paper.
      norm: Normalization of all maps: "batch", "group", "layer" or "none".
      Others: See `Discriminator` (width, 64 in the paper, num_classes and minibatch_std_group).
    """

    spectral_norm: bool = True
    norm: NormName = "none"

    def _features(self, images: Array, train: bool) -> tuple[Array, Array]:
        stages = _halvings(images.shape[1:], _MAX_BASE_SIDE)
        layers = [
            (self.width * 2**i, kernel_size, stride, self.norm)
            for i in range(stages + 1)
            for kernel_size, stride in ((3, 1), (4, 2))
        ]
        x = _conv_stack(self, images, layers[:-1], 0.1, train)
        return x.reshape(x.shape[0], -1), x


class ResNetDiscriminator(Discriminator):
    """The residual discriminator of arXiv:1802.05957, table 4, at any width and size.

    Blocks halve the image to at most 8x8 pixels, and two more keep the size. The features are
    summed over all positions before the logit.

    Attributes:
      width: Number of channels of every map; 128 in the paper.
      spectral_norm: Whether to divide every kernel by an estimate of its largest singular value, as
        in the paper.
      Others: See `Discriminator` (num_classes and minibatch_std_group).
    """

    width: int = 128
    spectral_norm: bool = True

    def _features(self, images: Array, train: bool) -> tuple[Array, Array]:
        x = _to_signed_range(images)
        halvings = _halvings(images.shape[1:], _MAX_RESIDUAL_BASE_SIDE)
        for i in range(halvings + 2):
            # The first block has no activation before it, because its input is the image.
            branch = _conv(self, self.width, 3, 1, train)(jax.nn.relu(x) if i else x)
            branch = _conv(self, self.width, 3, 1, train)(jax.nn.relu(branch))
            if i < halvings:
                branch, x = ops.avg_pool(branch, 2), ops.avg_pool(x, 2)
                x = _conv(self, self.width, 1, 1, train)(x)
            x = x + branch
        x = jax.nn.relu(x)
        return jnp.sum(x, axis=(1, 2)), x


def minibatch_deviation(
    x: Float[Array, "batch height width channels"], group: int
) -> Float[Array, "batch"]:
    """Return the standard deviation within each image's group, averaged over the feature map.

    All images of a group get the same value.

    Args:
      x: Feature maps; a group consists of consecutive images.
      group: Number of images in a group.

    Raises:
      InputError: The group size is below 2 or does not divide the batch.
    """
    at_least("minibatch_std_group", group, 2)
    if len(x) % group:
        raise InputError(
            f"minibatch_std_group must divide the batch; got minibatch_std_group={group} for a batch of "
            f"{len(x)} images"
        )
    groups = x.reshape(-1, group, *x.shape[1:])
    deviation = jnp.mean(jnp.sqrt(jnp.var(groups, axis=1) + 1e-8), axis=(1, 2, 3))
    return jnp.repeat(deviation, group)


def _halvings(image_shape: tuple[int, ...], max_side: int) -> int:
    """Return how often to halve an image until neither side exceeds `max_side`."""
    height, width = image_shape[:2]
    halvings = 0
    while max(height, width) >> halvings > max_side:
        halvings += 1
    if halvings < 1 or height % 2**halvings or width % 2**halvings:
        raise InputError(
            f"images of {height}x{width} pixels do not fit this network: both sides must be divisible by "
            f"the same power of two with quotients of at most {max_side} (28, 32, 64, 96x80, ...)"
        )
    return halvings


def _widths(width: int, count: int, max_width: int | None) -> list[int]:
    """Return numbers of channels that double from map to map, up to a limit."""
    if max_width is None:
        return [width * 2**i for i in range(count)]
    at_least("max_width", max_width, width)
    return [min(width * 2**i, max_width) for i in range(count)]


def _base_map(
    latents: Array,
    latent_dim: int,
    image_shape: tuple[int, ...],
    stages: int,
    features: int,
    use_bias: bool = True,
) -> Array:
    """Map latents to the small feature map that a generator starts from."""
    if latents.shape[-1] != latent_dim:
        raise InputError(
            f"latents must have length {latent_dim} for this generator; got shape {latents.shape}"
        )
    height, width = (n >> stages for n in image_shape[:2])
    x = Dense(height * width * features, use_bias=use_bias, gain=RELU_GAIN)(latents)
    return x.reshape(latents.shape[0], height, width, features)


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


def _conv_stack(
    discriminator: Discriminator,
    images: Array,
    layers: Sequence[tuple[int, int, int, NormName]],
    slope: float,
    train: bool,
) -> Array:
    """Apply convolutions to images in [0, 1], each followed by a norm and a leaky ReLU.

    Args:
      discriminator: Module that owns the layers.
      images: Images in [0, 1].
      layers: Options (features, kernel size, stride, norm) of each layer.
      slope: Slope of the leaky ReLU for negative values.
      train: Whether batch norm and spectral normalization update their statistics.
    """
    x = _to_signed_range(images)
    for features, kernel_size, stride, norm in layers:
        x = _conv(discriminator, features, kernel_size, stride, train, norm == "none")(x)
        x = jax.nn.leaky_relu(Norm(norm, train=train)(x), slope)
    return x


def _logits(
    discriminator: Discriminator,
    features: Array,
    last_map: Array,
    labels: Array | None,
    train: bool,
) -> Array:
    """Return the logits (batch,) of features: a dense layer, and the class projection if any.

    Args:
      discriminator: Module that owns the layers.
      features: Flattened or summed features (batch, dims).
      last_map: Feature map for the minibatch standard deviation.
      labels: Classes, if any.
      train: Whether spectral normalization updates its estimate.
    """
    check_labels(discriminator.num_classes, labels)
    options: dict[str, Any] = {"spectral_norm": discriminator.spectral_norm, "train": train}
    inputs = features
    if discriminator.minibatch_std_group:
        deviation = minibatch_deviation(last_map, discriminator.minibatch_std_group)
        inputs = jnp.concatenate([features, deviation[:, None].astype(features.dtype)], axis=-1)
    logits = Dense(1, **options)(inputs)[:, 0]
    if labels is None:
        return logits
    one_hot = jax.nn.one_hot(labels, discriminator.num_classes, dtype=features.dtype)
    embedding = Dense(features.shape[-1], use_bias=False, **options)(one_hot)
    return logits + jnp.sum(embedding * features, axis=-1)


def _to_signed_range(images: Array) -> Array:
    return 2.0 * images - 1.0


def _to_unit_range(x: Array) -> Array:
    return 0.5 * (jnp.tanh(x) + 1.0)
