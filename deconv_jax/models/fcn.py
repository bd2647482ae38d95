"""FCN-32s, 16s and 8s: a classifier's convolutions, then learned upsampling of class scores.

Long, Shelhamer & Darrell, "Fully convolutional networks for semantic segmentation",
arXiv:1411.4038, section 4 and figure 3: five blocks of convolutions and max pooling as in VGG, two
more layers in place of the dense ones, and 1x1 convolutions that score the classes. Scores of the
last and of earlier poolings are enlarged two times, added, and enlarged by the stride to the image.
The transposed convolutions that enlarge start as bilinear interpolation, the score layers at zero, as
in section 4.2. All are learnt, where the paper keeps the last interpolation as it is; and there is
batch norm unless `norm` says otherwise, and no dropout, where the paper has the opposite.

What a reader would get wrong: the paper pads the image by 100 pixels and crops every skip and the
output, as its first dense layer of 7x7 is not padded. Here that layer is 3x3, every layer has
padding "SAME" and sides are multiples of 32, so that nothing is cropped and all is aligned. Within
half a stride of the image's border the interpolation then shrinks scores, to about a half at an edge
and a quarter in a corner, which changes no largest score of a single resolution.
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
    """Fully convolutional network of class scores, refined by skips down to a stride.

    Attributes:
      num_classes: channels of the logits.
      stride: of the finest scores in the image: 32 of the top alone, 16 with the fourth pooling's,
        8 with the third's too.
      features: channels of each of the five blocks; a block halves the image.
      convs_per_block: 3x3 convolutions before each pooling.
      top_features: channels of the two layers above the last pooling, 3x3 and 1x1.
      norm, activation: by name, see `layers`.
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
        """Of the image's sides."""
        return 2**_BLOCKS

    @nn.compact
    def __call__(
        self, images: Float[Array, "batch height width channels"], train: bool = False
    ) -> Float[Array, "batch height width num_classes"]:
        """Logits of each pixel of images in [0, 1].

        Raises:
          InputError: sides that are no multiples of 32, or a field out of range.
        """
        positive = (
            *self.features,
            self.num_classes,
            self.convs_per_block,
            self.top_features,
        )
        if len(self.features) != _BLOCKS or self.stride not in (32, 16, 8) or min(positive) < 1:
            raise InputError(
                f"an FCN has {_BLOCKS} features, one a block, stride 32, 16 or 8, and positive "
                f"numbers; got features={self.features}, stride={self.stride}, "
                f"num_classes={self.num_classes}, convs_per_block={self.convs_per_block} and "
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
            scores, stride = self._enlarged("enlarge", scores, 2, stride), stride // 2
            scores = scores + self._score(f"score_stride{stride}", pooled[stride])
        return self._enlarged("enlarge", scores, stride, stride)

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
    def _enlarged(self, name: str, scores: Array, factor: int, stride: int) -> Array:
        enlarge = ConvTranspose(
            self.num_classes,
            kernel_size=2 * factor,
            stride=factor,
            use_bias=False,
            kernel_init=bilinear(factor),
            name=f"{name}_stride{stride}",
        )
        return enlarge(scores)
