"""FCN-32s, FCN-16s and FCN-8s: convolutional class scores and learned upsampling.

Long, Shelhamer & Darrell, "Fully convolutional networks for semantic segmentation",
arXiv:1411.4038, section 4 and figure 3: five blocks of convolutions and max pooling as in VGG, two
convolutions in place of the dense layers, and 1x1 convolutions that score the classes. The scores
are upsampled by 2 and added to those of an earlier pooling, repeatedly, and finally upsampled to
the image. The transposed convolutions are initialized as bilinear interpolation and the score
layers as zero (section 4.2).

It differs from the paper in three ways. All upsampling layers are learned; the paper's last one is
fixed. There is batch norm by default and no dropout. Every layer has padding "SAME", the first
convolution after the blocks is 3x3 and the image's sides are multiples of 32; the paper has an
unpadded 7x7 convolution, pads the image by 100 pixels and crops every skip and the output.

Note: Within half a stride of the border, upsampling attenuates the scores, to about one half at an
edge and one quarter in a corner. With a single resolution (stride 32) this does not change the
predicted class.
"""

from typing import Literal

import flax.linen as nn
from jaxtyping import Array, Float

from deconv_jax.errors import InputError
from deconv_jax.models.layers import RELU_GAIN, Activation, Conv, ConvTranspose, Pool, check_sides
from deconv_jax.models.normalization import Norm, NormName
from deconv_jax.ops.initializers import bilinear

Stride = Literal[32, 16, 8]
_BLOCKS = 5


class FCN(nn.Module):
    """A fully convolutional segmentation network.

    Attributes:
      num_classes: Number of channels of the logits.
      stride: Stride of the finest scores: 32 (FCN-32s), 16 (with a skip from the fourth pooling) or
        8 (with another skip from the third).
      features: Number of channels of each of the five blocks; a block halves the image.
      convs_per_block: Number of 3x3 convolutions before each pooling.
      top_features: Number of channels of the 3x3 and 1x1 convolutions after the last pooling.
      norm: Normalization before the activations: "batch", "group" (8 groups), "layer" (over the
        channels) or "none".
      activation: Activation function: "relu", "leaky_relu" (slope 0.2), "elu", "gelu", "silu" or
        "tanh".
    """

    num_classes: int = 2
    stride: Stride = 8
    features: tuple[int, ...] = (16, 32, 64, 96, 128)
    convs_per_block: int = 2
    top_features: int = 128
    norm: NormName = "batch"
    activation: str = "relu"

    @property
    def multiple(self) -> int:
        """Required divisor of the image's height and width."""
        return 2**_BLOCKS

    @nn.compact
    def __call__(
        self, images: Float[Array, "batch height width channels"], train: bool = False
    ) -> Float[Array, "batch height width num_classes"]:
        """Return the logits of each pixel of images in [0, 1].

        `train` makes batch norm use and update the statistics of the batch.

        Raises:
          InputError: The sides are not multiples of 32, an attribute is out of range, or `norm` or
            `activation` is unknown.
        """
        positive = (
            *self.features,
            self.num_classes,
            self.convs_per_block,
            self.top_features,
        )
        if len(self.features) != _BLOCKS or self.stride not in (32, 16, 8) or min(positive) < 1:
            raise InputError(
                f"an FCN requires {_BLOCKS} positive features, one per block, stride 32, 16 or 8, "
                "and num_classes, convs_per_block and top_features of at least 1; got "
                f"features={self.features}, stride={self.stride}, num_classes={self.num_classes}, "
                f"convs_per_block={self.convs_per_block} and "
                f"top_features={self.top_features}"
            )
        check_sides("FCN", images, self.multiple)
        x, pooled = images, {}
        for block, features in enumerate(self.features, 1):
            for conv in range(1, self.convs_per_block + 1):
                x = self._layer(x, features, 3, f"conv{block}_{conv}", train)
            x = Pool(name=f"pool{block}")(x)
            pooled[2**block] = x
        x = self._layer(x, self.top_features, 3, "conv6", train)
        x = self._layer(x, self.top_features, 1, "conv7", train)
        scores, stride = self._score("score_top", x), 2**_BLOCKS
        while stride > self.stride:
            scores, stride = self._upsample(scores, 2, stride), stride // 2
            scores = scores + self._score(f"score_stride{stride}", pooled[stride])
        return self._upsample(scores, stride, stride)

    @nn.nowrap
    def _layer(self, x: Array, features: int, kernel_size: int, name: str, train: bool) -> Array:
        convolve = Conv(
            features, kernel_size, use_bias=self.norm == "none", gain=RELU_GAIN, name=name
        )
        x = Norm(self.norm, train=train, name=f"norm_{name}")(convolve(x))
        return Activation(self.activation, name=f"{self.activation}_{name}")(x)

    @nn.nowrap
    def _score(self, name: str, x: Array) -> Array:
        zeros = nn.initializers.zeros
        return Conv(self.num_classes, kernel_size=1, kernel_init=zeros, name=name)(x)

    @nn.nowrap
    def _upsample(self, scores: Array, factor: int, stride: int) -> Array:
        upsample = ConvTranspose(
            self.num_classes,
            kernel_size=2 * factor,
            stride=factor,
            use_bias=False,
            kernel_init=bilinear(factor),
            name=f"enlarge_stride{stride}",
        )
        return upsample(scores)
