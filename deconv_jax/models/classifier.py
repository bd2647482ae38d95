"""Small convolutional classifier: blocks of convolutions and pooling, then two dense layers.

The LeNet pattern (LeCun et al., "Gradient-based learning applied to document recognition", Proc.
IEEE 1998) with two 3x3 convolutions per block, batch normalization and ReLU. With `up_features`,
transposed convolutions upsample the feature map before the dense layers. The penultimate
activations, `embed`, serve as features for comparing sets of images.
"""

import flax.linen as nn
from jaxtyping import Array, Float

from deconv_jax.errors import InputError
from deconv_jax.models.layers import RELU_GAIN, Activation, Conv, ConvTranspose, Dense, Pool
from deconv_jax.models.normalization import Norm, NormName


class Classifier(nn.Module):
    """A convolutional classifier.

    Attributes:
      num_classes: Number of classes.
      features: Number of channels of each block; a block halves the image and rounds odd sizes
        down.
      convs_per_block: Number of 3x3 convolutions before each pooling.
      up_features: Number of channels of each upsampling block between the pooling blocks and the
        dense layers: a 4x4 transposed convolution that doubles height and width.
      embedding_dim: Width of the dense layer before the logits.
      norm: Normalization before the activations: "batch", "group" (8 groups), "layer" (over the
        channels) or "none".
      activation: Activation function: "relu", "leaky_relu" (slope 0.2), "elu", "gelu", "silu" or
        "tanh".
      remat: Whether to recompute each block in the backward pass instead of storing its
        activations.
    """

    num_classes: int = 10
    features: tuple[int, ...] = (16, 32, 64)
    convs_per_block: int = 2
    up_features: tuple[int, ...] = ()
    embedding_dim: int = 128
    norm: NormName = "batch"
    activation: str = "relu"
    remat: bool = False

    def setup(self) -> None:
        """Define the blocks and the dense layers."""
        block = nn.remat(_Block, static_argnums=(2,)) if self.remat else _Block
        up_block = nn.remat(_UpBlock, static_argnums=(2,)) if self.remat else _UpBlock
        self.blocks = [
            block(f, self.convs_per_block, self.norm, self.activation) for f in self.features
        ]
        # The names are those of existing checkpoints.
        self.up_blocks = [
            up_block(f, self.norm, self.activation, name=f"rises_{i}")
            for i, f in enumerate(self.up_features)
        ]
        self.to_embedding = Dense(self.embedding_dim)
        self.activate = Activation(self.activation)
        self.to_logits = Dense(self.num_classes)

    def embed(
        self, images: Float[Array, "batch height width channels"], train: bool = False
    ) -> Float[Array, "batch embedding_dim"]:
        """Return the penultimate activations of images in [0, 1].

        `train` makes batch norm use and update the statistics of the batch.

        Raises:
          InputError: A side is below `2 ** len(features)` pixels, or `norm` or `activation` is
            unknown.
        """
        halvings = 2 ** len(self.features)
        if min(images.shape[1:3]) < halvings:
            raise InputError(
                f"images of {images.shape[1]}x{images.shape[2]} pixels do not fit this "
                f"classifier: its {len(self.features)} blocks require sides of at least {halvings} pixels"
            )
        x = images
        for part in (*self.blocks, *self.up_blocks):
            x = part(x, train)
        return self.activate(self.to_embedding(x.reshape(x.shape[0], -1)))

    def __call__(
        self, images: Float[Array, "batch height width channels"], train: bool = False
    ) -> Float[Array, "batch num_classes"]:
        """Return the logits of images in [0, 1]; for `train` and errors see `embed`."""
        return self.to_logits(self.embed(images, train))


class _Block(nn.Module):
    features: int
    convs: int
    norm: NormName
    activation: str

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        for _ in range(self.convs):
            x = Conv(self.features, use_bias=self.norm == "none", gain=RELU_GAIN)(x)
            x = Activation(self.activation)(Norm(self.norm, train=train)(x))
        return Pool()(x)


class _UpBlock(nn.Module):
    features: int
    norm: NormName
    activation: str

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        # The kernel size is a multiple of the stride, so every output pixel sees equally many
        # weights.
        use_bias = self.norm == "none"
        x = ConvTranspose(self.features, 4, stride=2, use_bias=use_bias, gain=RELU_GAIN)(x)
        return Activation(self.activation)(Norm(self.norm, train=train)(x))
