"""The layers that every network here is made of: thin Flax modules over `deconv_jax.ops`.

The trap they avoid: a transposed convolution's output pixel sees `in * kernel area / stride**2`
weights, not `in * kernel area`, and its kernel is stored in the layout of the convolution it
transposes. An initialiser that reads the fan off the kernel's shape gets it wrong twice; the ones
below keep the variance of activations through both kinds of layer.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int32

from deconv_jax import ops
from deconv_jax.errors import InputError, at_least, did_you_mean
from deconv_jax.ops.collectives import bound_data_axis
from deconv_jax.ops.conv import PaddingMode
from deconv_jax.ops.conv.window import OnePerAxis, Padding, per_axis
from deconv_jax.ops.initializers import fans, icnr, variance_scaling
from deconv_jax.ops.upsample import UpsampleMethod

NormName = Literal["batch", "group", "layer", "none"]
Initializer = Callable[..., Array]
"""(key, shape, dtype) -> array, as those of `jax.nn.initializers`."""
PoolKind = Literal["max", "average"]
KernelNorm = Literal["none", "spectral", "standardized"]
"""How a kernel is normalised, as a matrix of all that an output sums over by the outputs.

"spectral" divides it by its largest singular value (Miyato et al., arXiv:1802.05957), estimated by
a step of power iteration a call with `train`; the vector that is kept between steps is the variable
`u` of the collection "batch_stats". "standardized" gives the weights of each output mean zero and
variance gain / fan-in (scaled weight standardisation, Brock et al., arXiv:2101.08692, equation 1).
"""

_LEAST_DEVIATION = 1e-6

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

PRELU_SLOPE = 0.25
"""Slope of negative values that a `PReLU` starts with (arXiv:1502.01852, section 2.1)."""

PRELU_GAIN = RELU_GAIN / (1 + PRELU_SLOPE**2)
"""Variance gain before a `PReLU`, likewise (equation 15 there)."""

RESIDUAL_GAIN = 1e-3
"""Variance gain of the last layer of what is added to an image: a network starts as the identity."""


def activation(name: str) -> Callable[[Array], Array]:
    """The activation function called `name`; `leaky_relu` has slope 0.2 as in DCGAN."""
    if name not in ACTIVATIONS:
        raise InputError(f"no activation {name!r}; {did_you_mean(name, ACTIVATIONS)}")
    return ACTIVATIONS[name]


class Activation(nn.Module):
    """The activation function of a name as a layer, so that what looks inside a network can find it.

    Attributes:
      kind: see `activation`.
    """

    kind: str

    def __call__(self, x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """x through the function, elementwise; raises InputError for an unknown name."""
        return activation(self.kind)(x)


class Conv(nn.Module):
    """`ops.conv` with a kernel and a bias; weights are truncated normal of variance gain / fan-in.

    Attributes:
      features: output channels.
      kernel_size: taps of each axis of space; an int for images in two dimensions.
      gain: output variance over input variance at initialisation; `RELU_GAIN` before a ReLU.
      kernel_init: what the kernel starts as, in place of that.
      kernel_norm: what the kernel goes through before it is used, see `KernelNorm`.
      train: whether spectral normalisation takes its step.
      Others as for `ops.conv`.
    """

    features: int
    kernel_size: OnePerAxis = 3
    stride: OnePerAxis = 1
    padding: Padding = "SAME"
    padding_mode: PaddingMode = "zeros"
    dilation: OnePerAxis = 1
    groups: int = 1
    use_bias: bool = True
    gain: float = 1.0
    kernel_init: Initializer | None = None
    kernel_norm: KernelNorm = "none"
    train: bool = False

    @nn.compact
    def __call__(
        self, x: Float[Array, "*batch_and_size in_channels"]
    ) -> Float[Array, "*batch_and_output_size features"]:
        """The convolution of x; raises InputError as `ops.conv` does."""
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
    """`ops.conv_transpose` with a kernel and a bias, initialised from its true fan-in.

    The fan-in of an output pixel is `kernel area * in / (groups * stride**rank)`: exact where the
    stride divides the kernel size, the mean over the stride's phases elsewhere.

    Attributes: as for `Conv`; `output_padding` and `output_size` as for `ops.conv_transpose`.
    """

    features: int
    kernel_size: OnePerAxis = 4
    stride: OnePerAxis = 1
    padding: Padding = "SAME"
    padding_mode: PaddingMode = "zeros"
    dilation: OnePerAxis = 1
    groups: int = 1
    output_padding: OnePerAxis | None = None
    output_size: OnePerAxis | None = None
    use_bias: bool = True
    gain: float = 1.0
    kernel_init: Initializer | None = None
    kernel_norm: KernelNorm = "none"
    train: bool = False

    @nn.compact
    def __call__(
        self, y: Float[Array, "*batch_and_size in_channels"]
    ) -> Float[Array, "*batch_and_output_size features"]:
        """The transposed convolution of y; raises InputError as `ops.conv_transpose` does."""
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
    """`ops.upsample` with a kernel and a bias: one layer, three ways to enlarge an image.

    Attributes:
      features: output channels.
      factor: of height and width.
      method: "transposed", "subpixel" (initialised by ICNR) or "resize", see `ops.upsample`.
      kernel_size: taps of height and width; unless given `2 * factor` for "transposed", which the
        stride divides so that every output pixel sees as many taps, and 3 for the others.
      use_bias: as for `Conv`.
      gain: as for `Conv`.
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
        """x enlarged; raises InputError as `ops.upsample` does."""
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
    """An affine map of the channels; weights are truncated normal of variance gain / fan-in.

    Attributes:
      features: output channels.
      use_bias, gain, train: as for `Conv`.
      spectral_norm: whether the kernel is divided by its largest singular value, see `KernelNorm`.
    """

    features: int
    use_bias: bool = True
    gain: float = 1.0
    spectral_norm: bool = False
    train: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "*shape channels"]) -> Float[Array, "*shape features"]:
        """x, mapped."""
        init = nn.initializers.variance_scaling(self.gain, "fan_in", "truncated_normal")
        kernel = self.param("kernel", init, (x.shape[-1], self.features))
        if self.spectral_norm:
            kernel = kernel / _spectral_norm(self, kernel)
        return _add_bias(self, x @ kernel.astype(x.dtype))


class Pool(nn.Module):
    """`ops.max_pool` or `ops.avg_pool`.

    Attributes:
      window, stride, padding: as for `ops.max_pool`.
      kind: which.
    """

    window: OnePerAxis = 2
    stride: OnePerAxis | None = None
    padding: Padding = "VALID"
    kind: PoolKind = "max"

    def __call__(
        self, x: Float[Array, "*batch_and_size channels"]
    ) -> Float[Array, "*batch_and_output_size channels"]:
        """x, pooled; raises InputError as the operators do."""
        _check_kind(self.kind)
        pool = {"max": ops.max_pool, "average": ops.avg_pool}[self.kind]
        return pool(x, self.window, stride=self.stride, padding=self.padding)

    def with_switches(
        self, x: Float[Array, "*batch_and_size channels"]
    ) -> tuple[
        Float[Array, "*batch_and_output_size channels"],
        Int32[Array, "*batch_and_output_size channels"],
    ]:
        """The maxima of x and where they were, for `Unpool`."""
        return ops.max_pool_with_switches(x, self.window, stride=self.stride, padding=self.padding)


class Unpool(nn.Module):
    """Undoes `Pool` as far as it can be: the adjoint of `ops.max_pool`, or `ops.avg_unpool`.

    Attributes: those of the `Pool`.
    """

    window: OnePerAxis = 2
    stride: OnePerAxis | None = None
    padding: Padding = "VALID"
    kind: PoolKind = "max"

    def __call__(
        self,
        y: Float[Array, "*batch_and_size channels"],
        output_size: Sequence[int],
        switches: Int32[Array, "*batch_and_size channels"] | None = None,
    ) -> Float[Array, "*batch_and_output_size channels"]:
        """y at the size of the image before pooling.

        Args:
          y: what was made of the pooled image.
          output_size: of that image, pixels.
          switches: of `Pool.with_switches`; for "max" alone, and needed there.

        Raises:
          InputError: switches missing or too many, an unknown kind, or as the operators do.
        """
        _check_kind(self.kind)
        if (switches is None) == (self.kind == "max"):
            raise InputError(
                f'Unpool needs switches for kind "max" and no other; got kind {self.kind!r} '
                f"{'without' if switches is None else 'with'} switches"
            )
        if switches is not None:
            return ops.max_unpool(y, switches, output_size)
        return ops.avg_unpool(
            y,
            self.window,
            stride=self.stride,
            padding=self.padding,
            output_size=tuple(output_size),
        )


def _check_kind(kind: str) -> None:
    if kind not in get_args(PoolKind):
        raise InputError(f"no kind of pooling {kind!r}; {did_you_mean(kind, get_args(PoolKind))}")


def _per_group(layer: Conv | ConvTranspose, which: str, channels: int) -> int:
    if layer.groups < 1 or channels % layer.groups:
        raise InputError(
            f"groups is at least 1 and divides the {which} channels; got groups={layer.groups} and "
            f"{channels} {which} channels"
        )
    return channels // layer.groups


def _kernel(layer: Conv | ConvTranspose, first: int, second: int) -> Array:
    """The layer's kernel, its last two axes of these lengths, ready for use."""
    size = layer.kernel_size
    rank = len(size) if isinstance(size, tuple | list) else 2
    kernel_size = per_axis("kernel_size", size, rank, 1)
    geometry: dict[str, Any] = {
        "transposed": isinstance(layer, ConvTranspose),
        "stride": layer.stride,
        "groups": layer.groups,
    }
    shape = (*kernel_size, first, second)
    init = layer.kernel_init or variance_scaling(layer.gain, **geometry)
    kernel = layer.param("kernel", init, shape)
    if layer.kernel_norm == "none":
        return kernel
    # The axes that an output sums over come to the front, in the kernel of either layer.
    split = kernel.reshape(-1, first, layer.groups, second // layer.groups)
    summed = (0, 3) if geometry["transposed"] else (0, 1)
    if layer.kernel_norm == "spectral":
        matrix = jnp.moveaxis(split, summed, (0, 1)).reshape(-1, layer.features)
        return (kernel / _spectral_norm(layer, matrix)).astype(kernel.dtype)
    if layer.kernel_norm == "standardized":
        fan_in, _ = fans(shape, **geometry)
        centred = split - jnp.mean(split, summed, keepdims=True)
        deviation = jnp.sqrt(jnp.mean(centred**2, summed, keepdims=True))
        scale = (layer.gain / fan_in) ** 0.5 / jnp.maximum(deviation, _LEAST_DEVIATION)
        return (centred * scale).reshape(shape)
    raise InputError(
        f"no kernel_norm {layer.kernel_norm!r}; {did_you_mean(layer.kernel_norm, get_args(KernelNorm))}"
    )


def _spectral_norm(
    layer: Conv | ConvTranspose | Dense, matrix: Float[Array, "fan_in features"]
) -> Float[Array, ""]:
    """The largest singular value, by one step of power iteration on a vector kept between calls."""

    def start() -> Array:
        return _unit(jax.random.normal(layer.make_rng("params"), (layer.features,)))

    u = layer.variable("batch_stats", "u", start)
    fixed = jax.lax.stop_gradient(matrix)
    v = _unit(fixed @ u.value)
    next_u = _unit(fixed.T @ v)
    if layer.train and not layer.is_initializing():
        u.value = next_u
    return v @ matrix @ next_u


def _unit(vector: Float[Array, "n"]) -> Float[Array, "n"]:
    return vector / jnp.maximum(jnp.linalg.norm(vector), 1e-12)


def _add_bias(layer: Conv | ConvTranspose | Upsample | Dense, x: Array) -> Array:
    if not layer.use_bias:
        return x
    bias = layer.param("bias", nn.initializers.zeros, (layer.features,))
    return x + bias.astype(x.dtype).reshape((1,) * (x.ndim - 1) + (-1,))


class PReLU(nn.Module):
    """A ReLU whose slope of negative values is learnt, one a channel (arXiv:1502.01852)."""

    @nn.compact
    def __call__(self, x: Float[Array, "*shape channels"]) -> Float[Array, "*shape channels"]:
        """max(x, 0) + slope * min(x, 0)."""
        start = nn.initializers.constant(PRELU_SLOPE)
        slope = self.param("slope", start, (x.shape[-1],)).astype(x.dtype)
        return jnp.where(x < 0, x * slope.reshape((1,) * (x.ndim - 1) + (-1,)), x)


def take_image_channels(
    images: Float[Array, "*shape all_channels"], channels: int
) -> Float[Array, "*shape channels"]:
    """The image itself of what a restoration network is given: the first of the channels.

    Args:
      images: the image and, after it, maps that tell the network more, such as a noise level.
      channels: of the image.

    Raises:
      InputError: there are fewer.
    """
    if not 1 <= channels <= images.shape[-1]:
        raise InputError(
            f"this network takes images of {channels} channels, at least 1, and maps after them; "
            f"got images {images.shape}"
        )
    return images[..., :channels]


def check_sides(
    network: str, images: Float[Array, "batch height width channels"], multiple: int
) -> None:
    """Raises InputError unless both sides of the images are multiples of what the network halves."""
    height, width = images.shape[1:3]
    if height % multiple or width % multiple:
        raise InputError(
            f"images of {height}x{width} pixels do not fit this {network}: both sides must be "
            f"multiples of {multiple}; pad or crop them (in a config by data.canvas or a view's crop)"
        )


class Norm(nn.Module):
    """Normalisation chosen by name: "batch" (of the whole global batch), "group", "layer", "none".

    Attributes:
      kind: which.
      train: "batch" uses and updates the batch's statistics if True, else the running ones.
      groups: number of channel groups of "group"; its greatest common divisor with the channels.
      affine: whether a scale and an offset a channel are learnt.
    """

    kind: NormName = "batch"
    train: bool = False
    groups: int = 8
    affine: bool = True

    @nn.compact
    def __call__(self, x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """x, normalised; raises InputError for an unknown `kind`."""
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
        if self.kind == "none":
            return x
        kinds = ("batch", "group", "layer", "none")
        raise InputError(f"no normalisation {self.kind!r}; {did_you_mean(self.kind, kinds)}")


class ConditionalNorm(nn.Module):
    """Normalisation whose scale and offset are learnt for each class (arXiv:1707.00683, section 3).

    Attributes:
      num_classes: number of classes; 0 for `Norm` itself, which takes no labels.
      kind, train: as for `Norm`.
    """

    num_classes: int = 0
    kind: NormName = "batch"
    train: bool = False

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch *size channels"], labels: Int32[Array, " batch"] | None = None
    ) -> Float[Array, "batch *size channels"]:
        """x, normalised; raises InputError for labels without classes, or classes without labels."""
        check_labels(self.num_classes, labels)
        if labels is None:
            return Norm(self.kind, train=self.train)(x)
        shape = (self.num_classes, x.shape[-1])
        broadcast = (len(x), *(1,) * (x.ndim - 2), -1)
        scale = self.param("scale", nn.initializers.ones, shape).astype(x.dtype)[labels]
        bias = self.param("bias", nn.initializers.zeros, shape).astype(x.dtype)[labels]
        x = Norm(self.kind, train=self.train, affine=False)(x)
        return x * scale.reshape(broadcast) + bias.reshape(broadcast)


def check_labels(num_classes: int, labels: Int32[Array, " batch"] | None) -> None:
    """Raises InputError for labels without classes, or classes without labels."""
    if (labels is None) == bool(num_classes):
        raise InputError(
            f"a network of num_classes={num_classes} takes {'labels' if num_classes else 'no labels'}; "
            f"got {'none' if labels is None else 'some'}"
        )
