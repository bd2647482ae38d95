"""DeconvNet: a mirrored encoder-decoder that unpools with the encoder's switches.

Noh, Hong & Han, "Learning deconvolution network for semantic segmentation", arXiv:1505.04366,
section 3 and figure 2. The encoder has blocks of 3x3 convolutions and max pooling, which stores the
positions of the maxima (switches). After a bottleneck the decoder mirrors the blocks. Each one
unpools its input to the stored positions and fills in the sparse map by transposed convolutions of
stride 1.

Note: The bottleneck differs from the paper's, which is dense: a 7x7 convolution of a 7x7 map and
its transpose, for images of 224 pixels only. Here both have padding "SAME" and
`bottleneck_kernel_size`, so the image may have any size that the poolings divide.
"""

import flax.linen as nn
from jaxtyping import Array, Float

from deconv_jax.errors import InputError
from deconv_jax.models.layers import (
    RELU_GAIN,
    Activation,
    Conv,
    ConvTranspose,
    Pool,
    Unpool,
    check_sides,
)
from deconv_jax.models.normalization import Norm, NormName


class DeconvNet(nn.Module):
    """A segmentation network of convolutions and poolings, and their mirror image.

    Attributes:
      num_classes: Number of channels of the logits.
      features: Number of channels of each block, from full resolution down; each pooling halves it.
      convs_per_block: Number of convolutions before a pooling, and of transposed ones after its
        unpooling.
      bottleneck_features: Number of channels of the bottleneck.
      bottleneck_kernel_size: Kernel size of the first and last bottleneck layers; the middle one is
        1x1.
      norm: Normalization before the activations: "batch", "group" (8 groups), "layer" (over the
        channels) or "none".
      activation: Activation function: "relu", "leaky_relu" (slope 0.2), "elu", "gelu", "silu" or
        "tanh".
    """

    num_classes: int = 2
    features: tuple[int, ...] = (16, 32, 64, 96)
    convs_per_block: int = 2
    bottleneck_features: int = 128
    bottleneck_kernel_size: int = 3
    norm: NormName = "batch"
    activation: str = "relu"

    @property
    def multiple(self) -> int:
        """Required divisor of the image's height and width."""
        return 2 ** len(self.features)

    @nn.compact
    def __call__(
        self, images: Float[Array, "batch height width channels"], train: bool = False
    ) -> Float[Array, "batch height width num_classes"]:
        """Return the logits of each pixel of images in [0, 1].

        `train` makes batch norm use and update the statistics of the batch.

        Raises:
          InputError: The sides are not multiples of `multiple`, an attribute is out of range, or
            `norm` or `activation` is unknown.
        """
        positive = (
            *self.features,
            self.num_classes,
            self.convs_per_block,
            self.bottleneck_features,
            self.bottleneck_kernel_size,
        )
        if not self.features or min(positive) < 1:
            raise InputError(
                "features must be one or more positive numbers, and the others positive; got "
                f"features={self.features}, num_classes={self.num_classes}, "
                f"convs_per_block={self.convs_per_block}, "
                f"bottleneck_features={self.bottleneck_features} and "
                f"bottleneck_kernel_size={self.bottleneck_kernel_size}"
            )
        check_sides("DeconvNet", images, self.multiple)
        x, unpool = images, []
        for block, features in enumerate(self.features, 1):
            for conv in range(1, self.convs_per_block + 1):
                x = self._layer(Conv(features, **self._options(f"conv{block}_{conv}")), x, train)
            size = x.shape[1:3]
            x, switches = Pool(name=f"pool{block}").with_switches(x)
            unpool.append((size, switches))
        wide, kernel_size = self.bottleneck_features, self.bottleneck_kernel_size
        x = self._layer(Conv(wide, kernel_size, **self._options("conv_bottleneck")), x, train)
        x = self._layer(Conv(wide, 1, **self._options("conv_middle")), x, train)
        last = ConvTranspose(self.features[-1], kernel_size, **self._options("deconv_bottleneck"))
        x = self._layer(last, x, train)
        for block in range(len(self.features), 0, -1):
            size, switches = unpool.pop()
            x = Unpool(name=f"unpool{block}")(x, size, switches)
            # The mirror image of the block's convolutions; the last one leads to the block before.
            outputs = [self.features[block - 1]] * (self.convs_per_block - 1)
            outputs.append(self.features[max(block - 2, 0)])
            for i, features in enumerate(outputs):
                name = f"deconv{block}_{self.convs_per_block - i}"
                x = self._layer(ConvTranspose(features, 3, **self._options(name)), x, train)
        return Conv(self.num_classes, kernel_size=1, name="to_logits")(x)

    @nn.nowrap
    def _options(self, name: str) -> dict:
        return {"use_bias": self.norm == "none", "gain": RELU_GAIN, "name": name}

    @nn.nowrap
    def _layer(self, convolve: Conv | ConvTranspose, x: Array, train: bool) -> Array:
        x = Norm(self.norm, train=train, name=f"norm_{convolve.name}")(convolve(x))
        return Activation(self.activation, name=f"{self.activation}_{convolve.name}")(x)
