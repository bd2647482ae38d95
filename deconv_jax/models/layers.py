"""The layers that all networks are built from: thin Flax modules over `deconv_jax.ops`.

`Conv` and `ConvTranspose` keep the variance of activations at initialization. An output pixel of a
transposed convolution sees `in * kernel area / stride**2` weights, and its kernel is stored in the
layout of the convolution it transposes. Flax's initializers derive the fan-in from the kernel's
shape, so they ignore the stride and confuse fan-in with fan-out.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int32

from deconv_jax import ops
from deconv_jax.errors import InputError, at_least, check_choice, did_you_mean
from deconv_jax.models.normalization import KernelNorm, normalize_kernel, spectral_norm
from deconv_jax.ops.conv import PaddingMode
from deconv_jax.ops.conv.window import Dimension, IntOrPerAxis, Padding, per_axis
from deconv_jax.ops.initializers import icnr, variance_scaling
from deconv_jax.ops.upsample import UpsampleMethod

Initializer = Callable[..., Array]
"""Function (key, shape, dtype) -> array, as in `jax.nn.initializers`."""
PoolKind = Literal["max", "average"]

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "relu": jax.nn.relu,
    "leaky_relu": lambda x: jax.nn.leaky_relu(x, 0.2),
    "elu": jax.nn.elu,
    "gelu": jax.nn.gelu,
    "silu": jax.nn.silu,
    "tanh": jax.numpy.tanh,
}
"""Activation functions by name."""

RELU_GAIN = 2.0
"""Variance gain before a ReLU, which halves the mean square (He et al., arXiv:1502.01852)."""

PRELU_SLOPE = 0.25
"""Initial slope of a `PReLU` for negative values (arXiv:1502.01852, section 2.1)."""

PRELU_GAIN = RELU_GAIN / (1 + PRELU_SLOPE**2)
"""Variance gain before a `PReLU` (arXiv:1502.01852, equation 15)."""

RESIDUAL_GAIN = 1e-3
"""Variance gain of the last layer of a residual branch, which starts the network near identity."""


def activation(name: str) -> Callable[[Array], Array]:
    """Return an activation function by name.

    Args:
      name: "relu", "leaky_relu" (slope 0.2, as in DCGAN), "elu", "gelu", "silu" or "tanh".

    Raises:
      InputError: Unknown name.
    """
    if name not in ACTIVATIONS:
        raise InputError(f"no activation {name!r}; {did_you_mean(name, ACTIVATIONS)}")
    return ACTIVATIONS[name]


class Activation(nn.Module):
    """An activation function as a module, so that interpretation tools can find it in a network.

    Attributes:
      kind: Name of the function, as for `activation`.
    """

    kind: str

    def __call__(self, x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """Apply the function elementwise.

        Raises:
          InputError: Unknown name.
        """
        return activation(self.kind)(x)


class Conv(nn.Module):
    """A convolution layer: `ops.conv` with a learned kernel and bias.

    The initial weights are truncated normal with variance gain / fan-in.

    Attributes:
      features: Number of output channels.
      kernel_size: Kernel size along each spatial axis; an int means two axes.
      stride: Step between output positions, in pixels.
      padding: "SAME" for output size ceil(size / stride), "VALID", or pixels, see `ops.conv`.
      padding_mode: Values of the padding: "zeros", "circular", "reflect" or "edge".
      dilation: Distance between neighboring weights of the kernel, in pixels.
      groups: Number of channel groups, each convolved on its own.
      use_bias: Whether to add a learned bias to each channel.
      gain: Ratio of output to input variance at initialization; `RELU_GAIN` before a ReLU.
      kernel_init: Initializer of the kernel, in place of the one that `gain` describes.
      bias_init: Initializer of the bias.
      kernel_norm: Normalization of the kernel in every call: "none", "spectral" or "standardized",
        see `KernelNorm`.
      train: Whether "spectral" updates its estimate; no effect on other norms.
    """

    features: int
    kernel_size: IntOrPerAxis = 3
    stride: IntOrPerAxis = 1
    padding: Padding = "SAME"
    padding_mode: PaddingMode = "zeros"
    dilation: IntOrPerAxis = 1
    groups: int = 1
    use_bias: bool = True
    gain: float = 1.0
    kernel_init: Initializer | None = None
    bias_init: Initializer = nn.initializers.zeros
    kernel_norm: KernelNorm = "none"
    train: bool = False

    @nn.compact
    def __call__(
        self, x: Float[Array, "*batch_and_size in_channels"]
    ) -> Float[Array, "*batch_and_output_size features"]:
        """Convolve x.

        Raises:
          InputError: An attribute is invalid or does not match x, see `ops.conv`.
        """
        y = ops.conv(
            x,
            _kernel(self, _per_group(self, "input", x.shape[-1]), self.features),
            stride=self.stride,
            padding=self.padding,
            padding_mode=self.padding_mode,
            dilation=self.dilation,
            groups=self.groups,
        )
        return _add_bias(self, y)


class ConvTranspose(nn.Module):
    """A transposed convolution layer: `ops.conv_transpose` with a learned kernel and bias.

    The fan-in of an output pixel is `kernel area * in / (groups * stride**rank)`. This is exact if
    the stride divides the kernel size, and otherwise the mean over the phases of the stride.

    Attributes:
      output_padding: Pixels to add to the smallest possible output size; not with "SAME".
      output_size: Spatial size of the output; None for `stride * size` with padding "SAME".
      Others: See `Conv` (features, kernel_size, stride, padding, padding_mode, dilation, groups,
        use_bias, gain, kernel_init, kernel_norm and train). Strides and padding are those of the
        convolution that the layer transposes, so a stride upsamples.
    """

    features: int
    kernel_size: IntOrPerAxis = 4
    stride: IntOrPerAxis = 1
    padding: Padding = "SAME"
    padding_mode: PaddingMode = "zeros"
    dilation: IntOrPerAxis = 1
    groups: int = 1
    output_padding: IntOrPerAxis | None = None
    output_size: IntOrPerAxis | None = None
    use_bias: bool = True
    gain: float = 1.0
    kernel_init: Initializer | None = None
    kernel_norm: KernelNorm = "none"
    train: bool = False

    @nn.compact
    def __call__(
        self, y: Float[Array, "*batch_and_size in_channels"]
    ) -> Float[Array, "*batch_and_output_size features"]:
        """Apply the transposed convolution to y.

        Raises:
          InputError: An attribute is invalid or does not match y, see `ops.conv_transpose`.
        """
        x = ops.conv_transpose(
            y,
            _kernel(self, _per_group(self, "output", self.features), y.shape[-1]),
            stride=self.stride,
            padding=self.padding,
            padding_mode=self.padding_mode,
            dilation=self.dilation,
            groups=self.groups,
            output_padding=self.output_padding,
            output_size=self.output_size,
        )
        return _add_bias(self, x)


class Upsample(nn.Module):
    """A learned upsampling layer: `ops.upsample` with a kernel and a bias.

    Attributes:
      features: Number of output channels.
      factor: Ratio of output to input height and width.
      method: "transposed" (transposed convolution), "subpixel" (sub-pixel convolution with ICNR
        initialization) or "resize" (nearest-neighbor upsampling and a convolution).
      kernel_size: Kernel height and width. By default `2 * factor` for "transposed", so that every
        output pixel sees equally many weights, and 3 for the others.
      use_bias: Whether to add a learned bias to each channel.
      gain: Ratio of output to input variance at initialization.
    """

    features: int
    factor: int = 2
    method: UpsampleMethod = "transposed"
    kernel_size: int | None = None
    use_bias: bool = True
    gain: float = 1.0

    @nn.compact
    def __call__(
        self, x: Float[Array, "*batch height width in_channels"]
    ) -> Float[Array, "*batch out_height out_width features"]:
        """Upsample x.

        Raises:
          InputError: `factor` or `kernel_size` is below 1, or `method` is unknown.
        """
        at_least("factor", self.factor, 1)
        transposed = self.method == "transposed"
        kernel_size = self.kernel_size
        if kernel_size is None:
            kernel_size = 2 * self.factor if transposed else 3
        shape = ops.upsample_kernel_shape(
            self.method, kernel_size, x.shape[-1], self.features, self.factor
        )
        stride = self.factor if transposed else 1
        init = variance_scaling(self.gain, transposed=transposed, stride=stride)
        if self.method == "subpixel":
            init = icnr(init, self.factor)
        kernel = self.param("kernel", init, shape)
        return _add_bias(self, ops.upsample(x, kernel, self.factor, method=self.method))


class Dense(nn.Module):
    """A dense layer over the channels, with truncated normal weights of variance gain / fan-in.

    Attributes:
      features: Number of output channels.
      use_bias: Whether to add a learned bias.
      gain: Ratio of output to input variance at initialization.
      spectral_norm: Whether to divide the kernel by its largest singular value, see `KernelNorm`.
      train: Whether spectral normalization updates its estimate.
    """

    features: int
    use_bias: bool = True
    gain: float = 1.0
    spectral_norm: bool = False
    train: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "*shape channels"]) -> Float[Array, "*shape features"]:
        """Apply the affine map to the channels of x."""
        init = nn.initializers.variance_scaling(self.gain, "fan_in", "truncated_normal")
        kernel = self.param("kernel", init, (x.shape[-1], self.features))
        if self.spectral_norm:
            kernel = kernel / spectral_norm(self, kernel, self.train)
        return _add_bias(self, x @ kernel.astype(x.dtype))


class Pool(nn.Module):
    """Max or average pooling.

    Attributes:
      window: Height and width of the window, in pixels.
      stride: Step between windows, in pixels; None for the window's size.
      padding: "VALID" for no padding, "SAME", or pixels, see `ops.max_pool`.
      kind: "max" or "average". Average pooling counts the padding as zeros.
    """

    window: IntOrPerAxis = 2
    stride: IntOrPerAxis | None = None
    padding: Padding = "VALID"
    kind: PoolKind = "max"

    def __call__(
        self, x: Float[Array, "*batch_and_size channels"]
    ) -> Float[Array, "*batch_and_output_size channels"]:
        """Pool x.

        Raises:
          InputError: `kind` is unknown, or another attribute is invalid or does not match x.
        """
        check_choice("kind of pooling", self.kind, PoolKind)
        pool = {"max": ops.max_pool, "average": ops.avg_pool}[self.kind]
        return pool(x, self.window, stride=self.stride, padding=self.padding)

    def with_switches(
        self, x: Float[Array, "*batch_and_size channels"]
    ) -> tuple[
        Float[Array, "*batch_and_output_size channels"],
        Int32[Array, "*batch_and_output_size channels"],
    ]:
        """Return the maxima of x and their positions (switches), for `Unpool`.

        This is max pooling whatever `kind` is.

        Raises:
          InputError: An attribute is invalid or does not match x.
        """
        return ops.max_pool_with_switches(x, self.window, stride=self.stride, padding=self.padding)


class Unpool(nn.Module):
    """Unpooling to the size before a `Pool`: `ops.max_unpool` or `ops.avg_unpool`.

    Attributes:
      window, stride, padding: Attributes of the `Pool` to undo; only "average" uses them.
      kind: "max" or "average".
    """

    window: IntOrPerAxis = 2
    stride: IntOrPerAxis | None = None
    padding: Padding = "VALID"
    kind: PoolKind = "max"

    def __call__(
        self,
        y: Float[Array, "*batch_and_size channels"],
        output_size: Sequence[Dimension],
        switches: Int32[Array, "*batch_and_size channels"] | None = None,
    ) -> Float[Array, "*batch_and_output_size channels"]:
        """Unpool y.

        Args:
          y: Feature map at the size of the pooled one.
          output_size: Spatial size before pooling, in pixels.
          switches: Positions of the maxima from `Pool.with_switches`. Required for "max", and not
            allowed for "average".

        Raises:
          InputError: Missing or superfluous switches, an unknown `kind`, or sizes that do not
            match.
        """
        check_choice("kind of pooling", self.kind, PoolKind)
        if self.kind == "max":
            if switches is None:
                raise InputError("Unpool with kind='max' requires switches; got none")
            return ops.max_unpool(y, switches, output_size)
        if switches is not None:
            raise InputError(f"Unpool with kind={self.kind!r} takes no switches; got switches")
        return ops.avg_unpool(
            y,
            self.window,
            stride=self.stride,
            padding=self.padding,
            output_size=tuple(output_size),
        )


class PReLU(nn.Module):
    """A ReLU with a learned slope for negative values in each channel (arXiv:1502.01852)."""

    @nn.compact
    def __call__(self, x: Float[Array, "*shape channels"]) -> Float[Array, "*shape channels"]:
        """Return max(x, 0) + slope * min(x, 0)."""
        init = nn.initializers.constant(PRELU_SLOPE)
        return jnp.where(x < 0, x * _at_each_pixel(self.param("slope", init, (x.shape[-1],)), x), x)


def add_bias(x: Float[Array, "*shape channels"], bias: ArrayLike) -> Array:
    """Add a bias (channels,) to each pixel; the sum has the shape and dtype of x."""
    return x + _at_each_pixel(bias, x)


def take_image_channels(
    images: Float[Array, "*shape all_channels"], channels: int
) -> Float[Array, "*shape channels"]:
    """Return the image from the input of a restoration network, without its conditioning maps.

    Args:
      images: Images, followed along the channel axis by any conditioning maps, such as a noise
        level.
      channels: Number of image channels.

    Raises:
      InputError: Too few channels.
    """
    if not 1 <= channels <= images.shape[-1]:
        raise InputError(
            f"this network takes images of {channels} channels, at least 1, and optional conditioning "
            f"maps after them; got an input of shape {images.shape}"
        )
    return images[..., :channels]


def check_sides(
    network: str, images: Float[Array, "batch height width channels"], multiple: int
) -> None:
    """Raise InputError unless the images' height and width are multiples of a number.

    Args:
      network: Name of the network, for the message.
      images: Images to check.
      multiple: Required divisor of both sides.
    """
    height, width = images.shape[1:3]
    if height % multiple or width % multiple:
        raise InputError(
            f"images of {height}x{width} pixels do not fit this {network}: both sides must be "
            f"multiples of {multiple}; pad or crop them (in a config by data.source.canvas or a view's crop)"
        )


def _per_group(layer: Conv | ConvTranspose, which: str, channels: int) -> int:
    if layer.groups < 1 or channels % layer.groups:
        raise InputError(
            f"groups must be at least 1 and divide the {which} channels; got "
            f"groups={layer.groups} and {channels} {which} channels"
        )
    return channels // layer.groups


def _kernel(layer: Conv | ConvTranspose, first: int, second: int) -> Array:
    """Return the layer's normalized kernel, with its last two axes of the given lengths."""
    size = layer.kernel_size
    rank = len(size) if isinstance(size, tuple | list) else 2
    kernel_size = per_axis("kernel_size", size, rank, 1)
    geometry: dict[str, Any] = {
        "transposed": isinstance(layer, ConvTranspose),
        "stride": layer.stride,
        "groups": layer.groups,
    }
    init = layer.kernel_init or variance_scaling(layer.gain, **geometry)
    kernel = layer.param("kernel", init, (*kernel_size, first, second))
    return normalize_kernel(
        layer, kernel, layer.kernel_norm, gain=layer.gain, train=layer.train, **geometry
    )


def _add_bias(layer: Conv | ConvTranspose | Upsample | Dense, x: Array) -> Array:
    if not layer.use_bias:
        return x
    init = layer.bias_init if isinstance(layer, Conv) else nn.initializers.zeros
    return add_bias(x, layer.param("bias", init, (layer.features,)))


def _at_each_pixel(vector: ArrayLike, x: Array) -> Array:
    """Return one number per channel at each pixel of x, in the dtype of x.

    The cast follows the broadcast, so the gradient of the vector sums over the pixels in float32. A sum in
    bfloat16 stops growing once its terms are below 1/256 of it.
    """
    wide = jnp.asarray(vector, jnp.promote_types(x.dtype, jnp.float32))
    return jnp.broadcast_to(wide.reshape((1,) * (x.ndim - 1) + (-1,)), x.shape).astype(x.dtype)
