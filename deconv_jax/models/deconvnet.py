"""DeconvNet: a mirrored encoder-decoder that unpools with the encoder's switches.

Noh, Hong & Han, "Learning deconvolution network for semantic segmentation", arXiv:1505.04366,
section 3 and figure 2: blocks of 3x3 convolutions and max pooling that keeps where each maximum was,
a bottleneck, and the same blocks backwards, each beginning by putting its values back to those
places and filling the sparse map in by transposed convolutions of stride 1.

What a reader would get wrong: the paper's bottleneck is dense, a 7x7 convolution over a map of 7x7
that leaves one pixel, and a 7x7 transposed one back, which ties the network to images of 224 pixels.
Here both have padding "SAME", so that any multiple of the poolings fits; the bottleneck sees
`bottleneck_kernel_size` pixels of the smallest map and not always all of it.
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
    """Convolutions and poolings, and their mirror image.

    Attributes:
      num_classes: channels of the logits.
      features: channels of each block, the full resolution first; each pooling halves it.
      convs_per_block: convolutions before a pooling, and transposed ones after its unpooling.
      bottleneck_features: channels of the layers between the last pooling and its unpooling.
      bottleneck_kernel_size: taps of the first and the last of them; between them is one of 1x1.
      norm, activation: by name, see `layers`.
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
        """Of the image's sides."""
        return 2 ** len(self.features)

    @nn.compact
    def __call__(
        self, images: Float[Array, "batch height width channels"], train: bool = False
    ) -> Float[Array, "batch height width num_classes"]:
        """Logits of each pixel of images in [0, 1].

        Raises:
          InputError: sides that the poolings do not divide, or a field out of range.
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
                "a DeconvNet has one or more positive features, and positive numbers; got "
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
        wide, taps = self.bottleneck_features, self.bottleneck_kernel_size
        x = self._layer(Conv(wide, taps, **self._options("conv_bottleneck")), x, train)
        x = self._layer(Conv(wide, 1, **self._options("conv_middle")), x, train)
        last = ConvTranspose(self.features[-1], taps, **self._options("deconv_bottleneck"))
        x = self._layer(last, x, train)
        for block in range(len(self.features), 0, -1):
            size, switches = unpool.pop()
            x = Unpool(name=f"unpool{block}")(x, size, switches)
            # The mirror image of the block's convolutions: the last leads to the block before.
            outputs = [self.features[block - 1]] * (self.convs_per_block - 1)
            outputs.append(self.features[max(block - 2, 0)])
            for place, features in enumerate(outputs):
                name = f"deconv{block}_{self.convs_per_block - place}"
                x = self._layer(ConvTranspose(features, 3, **self._options(name)), x, train)
        return Conv(self.num_classes, kernel_size=1, name="to_logits")(x)

    @nn.nowrap
    def _options(self, name: str) -> dict:
        return {"use_bias": self.norm == "none", "gain": RELU_GAIN, "name": name}

    @nn.nowrap
    def _layer(self, convolve: Conv | ConvTranspose, x: Array, train: bool) -> Array:
        x = Norm(self.norm, train=train, name=f"norm_{convolve.name}")(convolve(x))
        return Activation(self.activation, name=f"{self.activation}_{convolve.name}")(x)
