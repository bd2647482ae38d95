"""DnCNN: a deep stack of convolutions that estimates the noise, which is then subtracted.

Zhang et al., "Beyond a Gaussian denoiser: residual learning of deep CNN for image denoising",
arXiv:1608.03981, section III: convolution and ReLU, `depth - 2` times convolution, batch
normalisation and ReLU, and a convolution, all 3x3 with 64 channels. DnCNN-S, for one known noise
level, has depth 17, DnCNN-B, blind, depth 20 (section IV-A).

What a reader would get wrong: the network's output is the image *minus* what the layers make of it,
so the target of the loss is still the clean image. `fold_batch_norm` moves the normalisation into
the convolutions for use, where it costs time and memory and does nothing else; the published
weights are of that form. The last layer starts near zero, and so the network as the identity, where
the paper's starts like the others.
"""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float
from numpy.typing import ArrayLike

from deconv_jax.errors import InputError, at_least
from deconv_jax.models.layers import RELU_GAIN, RESIDUAL_GAIN, Activation, Conv, take_image_channels
from deconv_jax.models.normalization import Norm
from deconv_jax.models.receptive_field import ReceptiveField, ReceptiveFieldTracker

BATCH_NORM_EPSILON = 1e-5
"""What `flax.linen.BatchNorm`, and so `Norm`, adds to the variance."""


class DnCNN(nn.Module):
    """The image minus an estimate of its noise.

    Attributes:
      channels: of the image.
      depth: convolutions; 17 for DnCNN-S and 20 for DnCNN-B.
      features: channels of the layers between.
      kernel_size: of every layer, odd for an estimate in its place, pixels.
      norm: "batch" in all layers but the first and the last, or "none": no normalisation, and a
        bias instead, as `fold_batch_norm` gives.
    """

    channels: int = 1
    depth: int = 17
    features: int = 64
    kernel_size: int = 3
    norm: Literal["batch", "none"] = "batch"

    scale: ClassVar[int] = 1

    @nn.compact
    def __call__(
        self, images: Float[Array, "batch height width all_channels"], train: bool = False
    ) -> Float[Array, "batch height width channels"]:
        """Noisy images, and maps after their channels if any, to clean images.

        Raises:
          InputError: too few channels, a field out of range, or an unknown norm.
        """
        at_least("depth", self.depth, 2)
        image = take_image_channels(images, self.channels)
        x = images
        for i in range(self.depth - 1):
            norm = "none" if i == 0 else self.norm
            x = _Layer(self.features, self.kernel_size, norm, name=f"layer_{i}")(x, train)
        noise = Conv(
            self.channels, kernel_size=self.kernel_size, gain=RESIDUAL_GAIN, name="to_noise"
        )(x)
        return image - noise

    @nn.nowrap
    def receptive_field(self) -> ReceptiveField:
        """Of an output pixel; raises InputError for a field out of range."""
        tracker = ReceptiveFieldTracker()
        for _ in range(self.depth):
            tracker = tracker.conv(self.kernel_size)
        return tracker.receptive_field()


class _Layer(nn.Module):
    features: int
    kernel_size: int
    norm: Literal["batch", "none"]

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        x = Conv(
            self.features,
            kernel_size=self.kernel_size,
            use_bias=self.norm == "none",
            gain=RELU_GAIN,
        )(x)
        return Activation("relu")(Norm(self.norm, train=train)(x))


def fold_batch_norm(
    params: Mapping[str, Any],
    batch_stats: Mapping[str, Any],
    epsilon: float = BATCH_NORM_EPSILON,
) -> dict[str, Any]:
    """Parameters of the same network without its batch normalisation, equal to it in evaluation.

    A normalisation `Norm_i` after the layer `Conv_i` or `ConvTranspose_i` of the same module is
    y -> (y - mean) / sqrt(variance + epsilon) * scale + bias, which is linear: the layer's kernel
    and bias can do it.

    Args:
      params: of a network with `Norm("batch")` after convolutions.
      batch_stats: its running statistics.
      epsilon: that its normalisation adds to the variance.

    Returns:
      Parameters for the network with norm "none", whose layers have a bias there.

    Raises:
      InputError: a normalisation without statistics or without a layer before it, or after one
        with groups.
    """
    folded: dict[str, Any] = {}
    for name, value in params.items():
        if not isinstance(value, Mapping):
            folded[name] = value
        elif not name.startswith("Norm_"):
            folded[name] = fold_batch_norm(value, batch_stats.get(name, {}), epsilon)
    for name in params:
        if not name.startswith("Norm_"):
            continue
        layers = [f"{kind}_{name.removeprefix('Norm_')}" for kind in ("Conv", "ConvTranspose")]
        layer = next((layer for layer in layers if layer in folded), None)
        norm, statistics = params[name].get("BatchNorm_0"), batch_stats.get(name)
        if layer is None or norm is None or statistics is None:
            raise InputError(
                f"{name} is no batch normalisation with statistics after one of {layers}: there "
                f"are {sorted(params)}, statistics of {sorted(batch_stats)}"
            )
        folded[layer] = _scaled(
            folded[layer],
            norm,
            statistics["BatchNorm_0"],
            epsilon,
            transposed=layer.startswith("ConvTranspose"),
        )
    return folded


def _scaled(
    layer: Mapping[str, ArrayLike],
    norm: Mapping[str, ArrayLike],
    statistics: Mapping[str, ArrayLike],
    epsilon: float,
    *,
    transposed: bool,
) -> dict[str, Array]:
    """A convolution's parameters with the normalisation after it inside."""
    mean, variance = (jnp.asarray(statistics[name]) for name in ("mean", "var"))
    scale = jnp.asarray(norm["scale"]) / jnp.sqrt(variance + epsilon)
    kernel = jnp.asarray(layer["kernel"])
    outputs = kernel.shape[-2 if transposed else -1]
    if outputs != scale.size:
        raise InputError(
            f"batch normalisation of {scale.size} channels after a kernel {kernel.shape}: folding "
            "takes transposed convolutions without groups"
        )
    shape = (1,) * (kernel.ndim - 2) + ((-1, 1) if transposed else (1, -1))
    bias = jnp.asarray(layer.get("bias", jnp.zeros_like(scale)))
    return {
        "kernel": kernel * scale.reshape(shape),
        "bias": (bias - mean) * scale + jnp.asarray(norm["bias"]),
    }
