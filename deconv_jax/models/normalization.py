"""Normalization of activations and of kernels.

`Norm` and `ConditionalNorm` normalize activations. `normalize_kernel` and `spectral_norm` normalize
the weights of a layer in every call; the layers of `layers.py` use them.
"""

import math
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int32

from deconv_jax.errors import InputError, check_choice
from deconv_jax.ops.collectives import bound_data_axis
from deconv_jax.ops.conv.window import IntOrPerAxis
from deconv_jax.ops.initializers import fans

NormName = Literal["batch", "group", "layer", "none"]
"""Normalization of activations, see `Norm`."""
KernelNorm = Literal["none", "spectral", "standardized"]
"""Normalization of a kernel, seen as a matrix (fan-in, output channels).

"spectral" divides the kernel by its largest singular value (Miyato et al., arXiv:1802.05957).
"standardized" gives the weights of each output channel mean 0 and variance gain / fan-in (scaled
weight standardization, Brock et al., arXiv:2101.08692, equation 1).
"""

_MIN_DEVIATION = 1e-6
_MIN_LENGTH = 1e-12


class Norm(nn.Module):
    """A normalization of activations, chosen by name.

    Attributes:
      kind: "batch" (each channel over the global batch, with decay 0.9 of the running statistics),
        "group" (each image over its positions and a group of channels), "layer" (each position over
        its channels) or "none" (x unchanged).
      train: Whether "batch" uses the batch's statistics and updates the running ones. Otherwise it
        uses the running ones. No effect on other kinds.
      groups: Number of channel groups for "group"; reduced to its greatest common divisor with the
        number of channels.
      affine: Whether to learn a scale and an offset for each channel.
    """

    kind: NormName = "batch"
    train: bool = False
    groups: int = 8
    affine: bool = True

    @nn.compact
    def __call__(self, x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """Normalize x.

        Raises:
          InputError: Unknown `kind`.
        """
        check_choice("norm", self.kind, NormName)
        affine: dict[str, Any] = {"use_scale": self.affine, "use_bias": self.affine}
        if self.kind == "batch":
            return nn.BatchNorm(
                use_running_average=not self.train,
                momentum=0.9,
                axis_name=bound_data_axis(),
                **affine,
            )(x)
        if self.kind == "group":
            return nn.GroupNorm(num_groups=math.gcd(self.groups, x.shape[-1]), **affine)(x)
        if self.kind == "layer":
            return nn.LayerNorm(**affine)(x)
        return x


class ConditionalNorm(nn.Module):
    """A normalization with a learned scale and offset for each class (arXiv:1707.00683, section 3).

    Attributes:
      num_classes: Number of classes; 0 for a plain `Norm`, which takes no labels.
      kind: Normalization: "batch", "group", "layer" or "none", see `Norm`. With classes, "none"
        still applies their scale and offset.
      train: Whether "batch" uses the batch's statistics and updates the running ones.
    """

    num_classes: int = 0
    kind: NormName = "batch"
    train: bool = False

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch *size channels"], labels: Int32[Array, " batch"] | None = None
    ) -> Float[Array, "batch *size channels"]:
        """Normalize x; `labels` are classes from 0, whose range is not checked.

        Raises:
          InputError: Labels without classes, classes without labels, or an unknown `kind`.
        """
        check_labels(self.num_classes, labels)
        if labels is None:
            return Norm(self.kind, train=self.train)(x)
        shape = (self.num_classes, x.shape[-1])
        broadcast = (x.shape[0], *(1,) * (x.ndim - 2), -1)
        scale = self.param("scale", nn.initializers.ones, shape).astype(x.dtype)[labels]
        bias = self.param("bias", nn.initializers.zeros, shape).astype(x.dtype)[labels]
        x = Norm(self.kind, train=self.train, affine=False)(x)
        return x * scale.reshape(broadcast) + bias.reshape(broadcast)


def check_labels(num_classes: int, labels: Int32[Array, " batch"] | None) -> None:
    """Raise InputError for labels without classes, or classes without labels."""
    if num_classes and labels is None:
        raise InputError(f"a network with num_classes={num_classes} requires labels; got none")
    if labels is not None and not num_classes:
        raise InputError("a network with num_classes=0 takes no labels; got labels")


def normalize_kernel(
    layer: nn.Module,
    kernel: Array | np.ndarray,
    kind: KernelNorm,
    *,
    gain: float,
    train: bool,
    transposed: bool,
    stride: IntOrPerAxis,
    groups: int,
) -> Array:
    """Return the normalized kernel of a convolution or transposed convolution, in its own shape.

    Args:
      layer: Module that owns the kernel and the variable of `spectral_norm`.
      kernel: Kernel (*size, in / groups, out), or (*size, out / groups, in) if transposed.
      kind: "none" (kernel unchanged), "spectral" or "standardized", see `KernelNorm`.
      gain: Variance gain of "standardized"; not used by the others.
      train: Whether "spectral" updates its variable; not used by the others.
      transposed: Whether the layer is a transposed convolution.
      stride: Stride of the layer.
      groups: Number of channel groups of the layer.

    Raises:
      InputError: Unknown `kind`.
    """
    check_choice("kernel_norm", kind, KernelNorm)
    kernel = jnp.asarray(kernel)
    if kind == "none":
        return kernel
    first, second = kernel.shape[-2:]
    split = kernel.reshape(-1, first, groups, second // groups)
    fan_in_axes = (0, 3) if transposed else (0, 1)
    if kind == "spectral":
        features = first * groups if transposed else second
        matrix = jnp.moveaxis(split, fan_in_axes, (0, 1)).reshape(-1, features)
        return (kernel / spectral_norm(layer, matrix, train)).astype(kernel.dtype)
    fan_in, _ = fans(kernel.shape, transposed=transposed, stride=stride, groups=groups)
    centered = split - jnp.mean(split, fan_in_axes, keepdims=True)
    deviation = jnp.sqrt(jnp.mean(centered**2, fan_in_axes, keepdims=True))
    scale = (gain / fan_in) ** 0.5 / jnp.maximum(deviation, _MIN_DEVIATION)
    return (centered * scale).reshape(kernel.shape)


def spectral_norm(
    layer: nn.Module, matrix: Float[Array, "fan_in features"], train: bool
) -> Float[Array, ""]:
    """Estimate the largest singular value of a matrix by one step of power iteration.

    Args:
      layer: Module that stores the right singular vector between calls, as the variable `u` of the
        collection "batch_stats".
      matrix: Weights of the layer.
      train: Whether to update `u`. It is not updated while the layer is initialized.
    """

    def init() -> Array:
        return _unit(jax.random.normal(layer.make_rng("params"), matrix.shape[1:]))

    u = layer.variable("batch_stats", "u", init)
    fixed = jax.lax.stop_gradient(matrix)
    v = _unit(fixed @ u.value)
    next_u = _unit(fixed.T @ v)
    if train and not layer.is_initializing():
        u.value = next_u
    return v @ matrix @ next_u


def _unit(vector: Float[Array, "n"]) -> Float[Array, "n"]:
    return vector / jnp.maximum(jnp.linalg.norm(vector), _MIN_LENGTH)
