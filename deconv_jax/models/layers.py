"""The layers that every network here is made of: thin Flax modules over `deconv_jax.ops`.

The trap they avoid: a transposed convolution's output pixel sees `in * kernel area / stride**2`
weights, not `in * kernel area`, and its kernel is stored in the layout of the convolution it
transposes. An initialiser that reads the fan off the kernel's shape gets it wrong twice; the ones
below keep the variance of activations through both kinds of layer.
"""

import math
from collections.abc import Callable
from typing import Literal

import flax.linen as nn
import jax
from jax.nn.initializers import variance_scaling
from jaxtyping import Array, Float

from deconv_jax import ops
from deconv_jax.errors import InputError, closest
from deconv_jax.ops.collectives import bound_data_axis
from deconv_jax.ops.conv import Padding, PaddingMode

NormName = Literal["batch", "group", "layer", "none"]

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "relu": jax.nn.relu,
    "leaky_relu": lambda x: jax.nn.leaky_relu(x, 0.2),
    "elu": jax.nn.elu,
    "gelu": jax.nn.gelu,
    "silu": jax.nn.silu,
    "tanh": jax.numpy.tanh,
}

RELU_GAIN = 2.0
"""Variance gain that makes up for a ReLU's zeroing half of its input (He et al., arXiv:1502.01852)."""


def activation(name: str) -> Callable[[Array], Array]:
    """The activation function called `name`; `leaky_relu` has slope 0.2 as in DCGAN."""
    if name not in ACTIVATIONS:
        raise InputError(f"no activation {name!r}; {closest(name, ACTIVATIONS)}")
    return ACTIVATIONS[name]


class Conv(nn.Module):
    """`ops.conv` with a kernel and a bias; weights are truncated normal of variance gain / fan-in.

    Attributes:
      features: output channels.
      kernel_size: height and width of the kernel, pixels.
      gain: output variance over input variance at initialisation; `RELU_GAIN` before a ReLU.
      Others as for `ops.conv`.
    """

    features: int
    kernel_size: int = 3
    stride: int = 1
    padding: Padding = "SAME"
    padding_mode: PaddingMode = "zeros"
    dilation: int = 1
    groups: int = 1
    use_bias: bool = True
    gain: float = 1.0

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width in_channels"]
    ) -> Float[Array, "batch out_height out_width features"]:
        """The convolution of x; raises InputError as `ops.conv` does."""
        shape = (self.kernel_size, self.kernel_size, x.shape[-1] // self.groups, self.features)
        init = variance_scaling(self.gain, "fan_in", "truncated_normal", in_axis=-2, out_axis=-1)
        y = ops.conv(
            x,
            self.param("kernel", init, shape),
            stride=self.stride,
            padding=self.padding,
            padding_mode=self.padding_mode,
            dilation=self.dilation,
            groups=self.groups,
        )
        return _add_bias(self, y)


class ConvTranspose(nn.Module):
    """`ops.conv_transpose` with a kernel and a bias, initialised from its true fan-in.

    The fan-in of an output pixel is `kernel_size**2 * in / (groups * stride**2)`: exact where the
    stride divides the kernel size, the mean over the stride's phases elsewhere.

    Attributes: as for `Conv`; `output_padding` as for `ops.conv_transpose`.
    """

    features: int
    kernel_size: int = 4
    stride: int = 1
    padding: Padding = "SAME"
    padding_mode: PaddingMode = "zeros"
    dilation: int = 1
    groups: int = 1
    output_padding: int | None = None
    use_bias: bool = True
    gain: float = 1.0

    @nn.compact
    def __call__(
        self, y: Float[Array, "batch height width in_channels"]
    ) -> Float[Array, "batch out_height out_width features"]:
        """The transposed convolution of y; raises InputError as `ops.conv_transpose` does."""
        shape = (self.kernel_size, self.kernel_size, self.features // self.groups, y.shape[-1])
        gain = self.gain * self.groups * self.stride**2
        init = variance_scaling(gain, "fan_in", "truncated_normal", in_axis=-1, out_axis=-2)
        x = ops.conv_transpose(
            y,
            self.param("kernel", init, shape),
            stride=self.stride,
            padding=self.padding,
            padding_mode=self.padding_mode,
            dilation=self.dilation,
            groups=self.groups,
            output_padding=self.output_padding,
        )
        return _add_bias(self, x)


def _add_bias(layer: Conv | ConvTranspose, x: Array) -> Array:
    if not layer.use_bias:
        return x
    bias = layer.param("bias", nn.initializers.zeros, (layer.features,))
    return x + bias.astype(x.dtype).reshape((1,) * (x.ndim - 1) + (-1,))


class Norm(nn.Module):
    """Normalisation chosen by name: "batch" (of the whole global batch), "group", "layer", "none".

    Attributes:
      kind: which.
      train: "batch" uses and updates the batch's statistics if True, else the running ones.
      groups: number of channel groups of "group"; its greatest common divisor with the channels.
    """

    kind: NormName = "batch"
    train: bool = False
    groups: int = 8

    @nn.compact
    def __call__(self, x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """x, normalised; raises InputError for an unknown `kind`."""
        if self.kind == "batch":
            return nn.BatchNorm(
                use_running_average=not self.train, momentum=0.9, axis_name=bound_data_axis()
            )(x)
        if self.kind == "group":
            return nn.GroupNorm(num_groups=math.gcd(self.groups, x.shape[-1]))(x)
        if self.kind == "layer":
            return nn.LayerNorm()(x)
        if self.kind == "none":
            return x
        kinds = ("batch", "group", "layer", "none")
        raise InputError(f"no normalisation {self.kind!r}; {closest(self.kind, kinds)}")
