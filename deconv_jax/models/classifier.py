"""Small convolutional classifier: blocks of convolution and pooling, then a dense softmax.

The LeNet pattern (LeCun et al., "Gradient-based learning applied to document recognition", Proc.
IEEE 1998) with two 3x3 convolutions a block, batch normalisation and ReLU. With `up_features`, transposed
convolutions enlarge what the blocks have made before the dense layers see it: conv, deconv, dense. `embed`
gives the penultimate activations; a distance between those of two sets of images compares the sets.
"""

import flax.linen as nn
from jaxtyping import Array, Float

from deconv_jax.errors import InputError
from deconv_jax.models.layers import RELU_GAIN, Activation, Conv, ConvTranspose, Pool
from deconv_jax.models.normalization import Norm, NormName


class Classifier(nn.Module):
    """Convolutional classifier.

    Attributes:
      num_classes: number of classes.
      features: channels of each block; a block halves the image, odd sizes rounded down.
      convs_per_block: 3x3 convolutions before each pooling.
      up_features: channels of each step of the way up between the blocks and the dense layers, a 4x4
        transposed convolution that doubles height and width.
      embedding_dim: width of the dense layer before the logits.
      norm, activation: by name, see `layers`.
      remat: recompute each block, and each step of the way up, in the backward pass instead of storing its activations.
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
        """Lays out the blocks."""
        block = nn.remat(_Block, static_argnums=(2,)) if self.remat else _Block
        rise = nn.remat(_Rise, static_argnums=(2,)) if self.remat else _Rise
        self.blocks = [
            block(f, self.convs_per_block, self.norm, self.activation) for f in self.features
        ]
        self.rises = [rise(f, self.norm, self.activation) for f in self.up_features]
        self.to_embedding = nn.Dense(self.embedding_dim)
        self.activate = Activation(self.activation)
        self.to_logits = nn.Dense(self.num_classes)

    def embed(
        self, images: Float[Array, "batch height width channels"], train: bool = False
    ) -> Float[Array, "batch embedding_dim"]:
        """Penultimate activations of images in [0, 1]."""
        halvings = 2 ** len(self.features)
        if min(images.shape[1:3]) < halvings:
            raise InputError(
                f"images of {images.shape[1]}x{images.shape[2]} pixels do not fit this "
                f"classifier: its {len(self.features)} blocks need at least {halvings} pixels a side"
            )
        x = images
        for part in (*self.blocks, *self.rises):
            x = part(x, train)
        return self.activate(self.to_embedding(x.reshape(x.shape[0], -1)))

    def __call__(
        self, images: Float[Array, "batch height width channels"], train: bool = False
    ) -> Float[Array, "batch num_classes"]:
        """Logits of images in [0, 1]."""
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


class _Rise(nn.Module):
    features: int
    norm: NormName
    activation: str

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        # The kernel is twice the stride, so that every output pixel sees as many taps.
        plain = self.norm == "none"
        x = ConvTranspose(self.features, 4, stride=2, use_bias=plain, gain=RELU_GAIN)(x)
        return Activation(self.activation)(Norm(self.norm, train=train)(x))
