"""DnCNN: a residual denoiser of stacked convolutions.

Zhang et al., "Beyond a Gaussian denoiser: residual learning of deep CNN for image denoising",
arXiv:1608.03981, section III: convolution and ReLU, `depth - 2` times convolution, batch
normalization and ReLU, then a convolution, all 3x3 with 64 channels. DnCNN-S, for one known noise
level, has depth 17, and the blind DnCNN-B depth 20 (section IV-A).

Two other published denoisers are variants. IRCNN (arXiv:1704.03264, section 3.2) has seven layers
with the dilations `IRCNN_DILATIONS`. FDnCNN, in the repository of the same authors, takes a noise-level
map and returns the clean image (`residual=False`).

The module returns the image minus the predicted noise, so the target of the loss is the clean
image. Unlike the paper's, the last layer is initialized near zero, so that the network starts near
the identity. `fold_batch_norm` folds the batch normalization into the convolutions for faster
inference; published weights have this form.
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
"""Constant that `flax.linen.BatchNorm`, and therefore `Norm`, adds to the variance."""

IRCNN_DILATIONS = (1, 2, 3, 4, 3, 2, 1)


class DnCNN(nn.Module):
    """A denoiser: returns the image minus the predicted noise.

    Attributes:
      channels: Number of image channels.
      depth: Number of convolutions, at least 2; 17 for DnCNN-S and 20 for DnCNN-B.
      features: Number of channels of the hidden layers.
      kernel_size: Size of all kernels, in pixels; should be odd, so that the output is aligned to
        the image.
      norm: "batch" normalizes all layers but the first and the last. "none" replaces normalization
        by a bias, as for the parameters of `fold_batch_norm`.
      residual: Whether the layers predict the noise, which is subtracted from the image, instead of
        the clean image.
      dilations: Dilation of each convolution; () for 1.
    """

    channels: int = 1
    depth: int = 17
    features: int = 64
    kernel_size: int = 3
    norm: Literal["batch", "none"] = "batch"
    residual: bool = True
    dilations: tuple[int, ...] = ()

    scale: ClassVar[int] = 1
    """Ratio of output to input height and width."""

    @nn.compact
    def __call__(
        self, images: Float[Array, "batch height width all_channels"], train: bool = False
    ) -> Float[Array, "batch height width channels"]:
        """Denoise images, which may be followed along the channel axis by conditioning maps.

        The result is not clipped. `train` makes batch norm use and update the statistics of the
        batch.

        Raises:
          InputError: Too few channels, `depth` or `kernel_size` is out of range, `norm` is unknown,
            or there are not `depth` dilations.
        """
        dilations = self._dilations()
        image = take_image_channels(images, self.channels)
        x = images
        for i in range(self.depth - 1):
            norm = "none" if i == 0 else self.norm
            x = _Layer(self.features, self.kernel_size, norm, dilations[i], name=f"layer_{i}")(
                x, train
            )
        last = Conv(
            self.channels,
            kernel_size=self.kernel_size,
            dilation=dilations[-1],
            gain=RESIDUAL_GAIN if self.residual else 1.0,
            name="to_noise" if self.residual else "to_image",
        )
        return image - last(x) if self.residual else last(x)

    @nn.nowrap
    def receptive_field(self) -> ReceptiveField:
        """Return the receptive field of an output pixel.

        Raises:
          InputError: The kernel size or a dilation is below 1, or there are not `depth` dilations.
        """
        tracker = ReceptiveFieldTracker()
        for dilation in self._dilations():
            tracker = tracker.conv(self.kernel_size, dilation=dilation)
        return tracker.receptive_field()

    @nn.nowrap
    def _dilations(self) -> tuple[int, ...]:
        at_least("depth", self.depth, 2)
        if self.dilations and len(self.dilations) != self.depth:
            raise InputError(
                f"dilations must have one number for each of {self.depth} layers, or none; got "
                f"{self.dilations}"
            )
        return self.dilations or (1,) * self.depth


class _Layer(nn.Module):
    features: int
    kernel_size: int
    norm: Literal["batch", "none"]
    dilation: int

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        x = Conv(
            self.features,
            kernel_size=self.kernel_size,
            dilation=self.dilation,
            use_bias=self.norm == "none",
            gain=RELU_GAIN,
        )(x)
        return Activation("relu")(Norm(self.norm, train=train)(x))


def fold_batch_norm(
    params: Mapping[str, Any],
    batch_stats: Mapping[str, Any],
    epsilon: float = BATCH_NORM_EPSILON,
) -> dict[str, Any]:
    """Fold batch normalization into the convolutions before it, for inference.

    The normalization `Norm_i` follows `Conv_i` or `ConvTranspose_i` of the same module. In
    evaluation it is the affine map y -> (y - mean) / sqrt(variance + epsilon) * scale + bias of
    each channel.

    Args:
      params: Parameters of a network with `Norm("batch")` after convolutions, the value of "params"
        in its variables.
      batch_stats: Running statistics of the network, the value of "batch_stats".
      epsilon: Constant that the normalization adds to the variance.

    Returns:
      Parameters of the same network with norm "none": the same tree without the entries `Norm_i`,
      in which the folded layers have a bias.

    Raises:
      InputError: A normalization has no statistics, no layer before it, or follows a transposed
        convolution with groups.
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
                f"{name} must be a batch normalization with statistics after one of {layers}; got "
                f"parameters {sorted(params)} and statistics {sorted(batch_stats)}"
            )
        folded[layer] = _fold(
            folded[layer],
            norm,
            statistics["BatchNorm_0"],
            epsilon,
            transposed=layer.startswith("ConvTranspose"),
        )
    return folded


def _fold(
    layer: Mapping[str, ArrayLike],
    norm: Mapping[str, ArrayLike],
    statistics: Mapping[str, ArrayLike],
    epsilon: float,
    *,
    transposed: bool,
) -> dict[str, Array]:
    """Return a convolution's parameters with the normalization after it folded in."""
    mean, variance = (jnp.asarray(statistics[name]) for name in ("mean", "var"))
    scale = jnp.asarray(norm["scale"]) / jnp.sqrt(variance + epsilon)
    kernel = jnp.asarray(layer["kernel"])
    outputs = kernel.shape[-2 if transposed else -1]
    if outputs != scale.size:
        raise InputError(
            "folding supports transposed convolutions without groups only; got batch normalization "
            f"of {scale.size} channels after a kernel of shape {kernel.shape}"
        )
    shape = (1,) * (kernel.ndim - 2) + ((-1, 1) if transposed else (1, -1))
    bias = jnp.asarray(layer.get("bias", jnp.zeros_like(scale)))
    return {
        "kernel": kernel * scale.reshape(shape),
        "bias": (bias - mean) * scale + jnp.asarray(norm["bias"]),
    }
