"""Tests of initializers against counted weights, measured variances and exact interpolation."""

import dataclasses
import functools
import itertools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deconv_jax.errors import InputError
from deconv_jax.ops import conv, conv_transpose, depth_to_space, resize, upsample
from deconv_jax.ops.initializers import bilinear, fans, icnr, variance_scaling

KEY = jax.random.key(0, impl="rbg")
"""A key of the generator that compiles ten times faster than the default one on a CPU."""


def draw(*shape, seed=0):
    """Draw standard normal float32 numbers, different for every shape and seed."""
    random = np.random.default_rng((seed, *shape))
    return jnp.asarray(random.standard_normal(shape, np.float32))


@dataclasses.dataclass(frozen=True)
class Case:
    """A layer whose fans are counted.

    Attributes:
      channels: Input and output channels of each group of the convolution; of the transposed
        convolution, output and input channels.
    """

    kernel_size: tuple[int, ...]
    stride: int | tuple[int, ...] = 1
    dilation: int = 1
    groups: int = 1
    channels: tuple[int, int] = (2, 3)
    transposed: bool = False

    @property
    def rank(self):
        return len(self.kernel_size)

    @property
    def strides(self):
        return np.broadcast_to(self.stride, self.rank)

    @property
    def shape(self):
        return (*self.kernel_size, self.channels[0], self.channels[1] * self.groups)

    def fans(self):
        geometry = {"stride": self.stride, "groups": self.groups}
        return fans(self.shape, transposed=self.transposed, **geometry)

    def connections(self):
        """Return whether each input (*size, channel) affects each output (*size, channel).

        A layer of ones without padding is applied to a batch of impulses, one per input.
        """
        reach = np.multiply(self.dilation, np.array(self.kernel_size) - 1)
        # The larger image has a border of the kernel's extent and two whole periods of the stride.
        size = 2 * reach + 3 * self.strides
        channels = self.channels[0] * self.groups
        if self.transposed:
            size = (size - reach - 1) // self.strides + 1
            channels = self.channels[1] * self.groups
        inputs = (*size.tolist(), channels)
        impulses = np.eye(math.prod(inputs), dtype=np.float32).reshape(-1, *inputs)
        operator = functools.partial(
            conv_transpose if self.transposed else conv,
            stride=self.stride if isinstance(self.stride, int) else tuple(self.stride),
            dilation=self.dilation,
            groups=self.groups,
            padding="VALID",
        )
        responses = np.asarray(jax.jit(operator)(impulses, jnp.ones(self.shape)))
        return responses.reshape(*inputs, *responses.shape[1:]) > 0.5

    def counted_fans(self):
        """Count (fan_in, fan_out), averaged over whole periods in the interior of the larger image.

        Without padding, all pixels of the smaller image have equally many connections.
        """
        connections = self.connections()
        image = tuple(range(self.rank + 1))
        into_output = connections.sum(image)
        from_input = connections.sum(tuple(self.rank + 1 + axis for axis in image))
        larger, smaller = (
            (into_output, from_input) if self.transposed else (from_input, into_output)
        )
        assert (smaller == smaller.flat[0]).all()
        reach = np.multiply(self.dilation, np.array(self.kernel_size) - 1)
        periods = (np.array(larger.shape[:-1]) - 2 * reach) // self.strides
        assert (periods >= 2).all()
        interior = tuple(
            slice(start, start + length)
            for start, length in zip(reach, periods * self.strides, strict=True)
        )
        mean = float(np.mean(larger[interior]))
        one = float(smaller.flat[0])
        return (mean, one) if self.transposed else (one, mean)


LAYERS = [
    *(Case((k,), stride) for k, stride in itertools.product((1, 2, 3, 4), (1, 2, 3))),
    Case((3,), dilation=2),
    Case((2,), 2, dilation=2),
    Case((4,), 2, groups=2),
    Case((3,), 3, groups=3, channels=(1, 2)),
    Case((3, 3)),
    Case((4, 4), 2),
    Case((3, 2), 2, groups=2, channels=(2, 1)),
    Case((4, 3), (2, 3)),
    Case((2, 3), (3, 1), dilation=2),
    Case((2, 2, 2), 2, channels=(1, 2)),
]


def named(case):
    kernel_size = "x".join(map(str, case.kernel_size))
    return f"k{kernel_size}-s{case.stride}-d{case.dilation}-g{case.groups}"


@pytest.mark.slow
@pytest.mark.parametrize("transposed", [False, True], ids=["conv", "conv_transpose"])
@pytest.mark.parametrize("case", LAYERS, ids=named)
def test_fans_equal_the_counted_weights(case, transposed):
    case = dataclasses.replace(case, transposed=transposed)
    assert case.fans() == pytest.approx(case.counted_fans(), rel=1e-6)


def test_fans_of_a_strided_transposed_convolution():
    """With a 4 x 4 kernel and stride 2, an output pixel sums over two taps per axis."""
    assert fans((4, 4, 32, 64), transposed=True, stride=2) == (2 * 2 * 64, 4 * 4 * 32)
    assert fans((4, 4, 32, 64)) == (4 * 4 * 32, 4 * 4 * 64)


@pytest.mark.parametrize("mode", ["fan_in", "fan_out", "fan_avg"])
@pytest.mark.parametrize("distribution", ["truncated_normal", "normal", "uniform"])
@pytest.mark.parametrize(
    "geometry",
    [{}, {"transposed": True, "stride": (2, 3), "groups": 4}],
    ids=["conv", "conv_transpose"],
)
def test_variance_of_the_weights_is_the_gain_over_the_fan(geometry, distribution, mode):
    """The relative standard error of 4 * 6 * 16 * 64 weights is below 1%."""
    shape = (4, 6, 16, 64)
    init = variance_scaling(3.0, mode, distribution, **geometry)
    weights = np.asarray(init(KEY, shape), np.float64)
    fan_in, fan_out = fans(shape, **geometry)
    fan = {"fan_in": fan_in, "fan_out": fan_out, "fan_avg": (fan_in + fan_out) / 2}[mode]
    variance = 3.0 / fan
    assert np.var(weights) == pytest.approx(variance, rel=0.04)
    assert abs(np.mean(weights)) < 4 * math.sqrt(variance / weights.size)
    # The largest weight, in standard deviations, identifies the distribution.
    largest = np.max(np.abs(weights)) / math.sqrt(variance)
    # A normal distribution truncated at 2 has the standard deviation 0.8796.
    low, high = {
        "uniform": (1.72, math.sqrt(3)),
        "truncated_normal": (2.2, 2 / 0.8796),
        "normal": (3.5, 6.0),
    }[distribution]
    assert low < largest < high * 1.0001


def test_variance_scaling_of_a_convolution_equals_he_and_glorot_of_jax():
    """arXiv:1502.01852, equation 10, and Glorot & Bengio (2010), equation 16."""
    shape = (3, 3, 8, 16)
    he, glorot = variance_scaling(2.0), variance_scaling(1.0, "fan_avg", "uniform")
    np.testing.assert_array_equal(he(KEY, shape), nn.initializers.he_normal()(KEY, shape))
    np.testing.assert_array_equal(glorot(KEY, shape), nn.initializers.glorot_uniform()(KEY, shape))


OURS = variance_scaling(transposed=True, stride=2)
FLAXS = nn.linear.default_kernel_init


@pytest.mark.parametrize(
    ("kernel_init", "transpose_kernel", "variance"),
    [(OURS, True, 1.0), (FLAXS, True, 16 / 64 / 2**2), (FLAXS, False, 1 / 2**2)],
    ids=["ours", "Flax's", "Flax's in its own layout"],
)
def test_conv_transpose_of_flax_keeps_the_variance_only_with_our_initializer(
    kernel_init, transpose_kernel, variance
):
    """The default initializer ignores the stride, and with `transpose_kernel` exchanges the fans.

    With 16384 weights and inputs, the standard error of the variance is 1.1%.
    """
    layer = nn.ConvTranspose(
        64,
        (4, 4),
        strides=(2, 2),
        transpose_kernel=transpose_kernel,
        use_bias=False,
        kernel_init=kernel_init,
    )
    x = draw(4, 16, 16, 16)
    y = jax.jit(layer.init_with_output)(KEY, x)[0]
    assert jnp.var(y[:, 2:-2, 2:-2]) == pytest.approx(variance, rel=0.1)


CHANNELS = 4
enlargements = [
    pytest.param(stride, groups, rank, id=f"{rank}d-s{stride}-g{groups}")
    for rank, stride, groups in [
        *itertools.product((1, 2), (1, 2, 3, 4), (1, CHANNELS)),
        (2, 2, 2),
        (3, 2, 1),
    ]
]


def enlarged(x, stride, groups):
    """Enlarge x by a transposed convolution with the bilinear kernel.

    Returns:
      (output, interior). The centers of interior pixels lie between those of two input pixels.
    """
    rank, channels = x.ndim - 2, x.shape[-1]
    taps = 2 * stride - stride % 2
    shape = (*(taps,) * rank, channels // groups, channels)
    kernel = bilinear(stride, groups=groups)(KEY, shape)
    y = jax.jit(functools.partial(conv_transpose, stride=stride, groups=groups))(x, kernel)
    margin = stride // 2
    inside = [slice(margin, stride * n - margin) for n in x.shape[1:-1]]
    return y, (slice(None), *inside)


@pytest.mark.slow
@pytest.mark.parametrize(("stride", "groups", "rank"), enlargements)
def test_bilinear_reproduces_a_linear_ramp(stride, groups, rank):
    """Input pixel i has its center at i + 1/2, and output pixel p at (p + 1/2) / stride."""
    slopes, offset = draw(rank, CHANNELS), draw(CHANNELS)

    def ramp(size, pitch):
        centers = jnp.stack(
            jnp.meshgrid(*[(jnp.arange(n) + 0.5) * pitch for n in size], indexing="ij"), -1
        )
        return (centers @ slopes + offset.reshape(*(1,) * rank, -1))[None]

    size = (5, 6, 4)[:rank]
    y, inside = enlarged(ramp(size, 1.0), stride, groups)
    expected = ramp([stride * n for n in size], 1 / stride)
    assert y.shape == expected.shape
    np.testing.assert_allclose(y[inside], expected[inside], rtol=0, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(("stride", "groups", "rank"), [e for e in enlargements if e.values[2] < 3])
def test_bilinear_equals_resize_in_the_interior(stride, groups, rank):
    x = draw(2, *(5, 6)[:rank], CHANNELS)
    y, inside = enlarged(x, stride, groups)
    image = x if rank == 2 else x[:, :, None]
    size = [stride * n for n in x.shape[1:-1]] + [1] * (2 - rank)
    expected = resize(image, size, method="bilinear").reshape(y.shape)
    np.testing.assert_allclose(y[inside], expected[inside], rtol=0, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("factor", [2, 3])
def test_icnr_equals_a_convolution_and_nearest_neighbor_interpolation(factor, rank):
    x, shape = draw(2, *(4, 5, 3)[:rank], 3), (*(3,) * rank, 3, 2 * factor**rank)
    small = variance_scaling(2.0)

    @jax.jit
    def both(x):
        kernel = icnr(small, factor)(KEY, shape)
        y = depth_to_space(conv(x, kernel), (factor,) * rank)
        few = conv(x, small(KEY, (*shape[:-1], 2)))
        if rank == 2:
            y = upsample(x, kernel, factor, method="subpixel")
            return y, resize(few, y.shape[1:-1], method="nearest")
        return y, functools.reduce(lambda x, a: jnp.repeat(x, factor, a), range(1, rank + 1), few)

    y, expected = both(x)
    assert y.shape == expected.shape == (2, *(factor * n for n in x.shape[1:-1]), 2)
    np.testing.assert_allclose(y, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize(
    ("init", "shape"),
    [
        (variance_scaling(), (3, 3, 2, 4)),
        (bilinear(2), (4, 4, 2, 2)),
        (icnr(variance_scaling(), 2), (3, 3, 2, 8)),
    ],
    ids=["variance_scaling", "bilinear", "icnr"],
)
def test_initializers_return_the_requested_shape_and_type(init, shape, dtype):
    kernel = jax.eval_shape(lambda: init(KEY, shape, dtype))
    assert (kernel.shape, kernel.dtype) == (shape, dtype)


def initialize(init, shape):
    return lambda: init(KEY, shape)


ERRORS = [
    (lambda: fans((3, 3)), ["3, 4 or 5 axes", "(3, 3)"]),
    (lambda: fans((1,) * 6), ["3, 4 or 5 axes", "(1, 1, 1, 1, 1, 1)"]),
    (lambda: fans((3, 3, 2, 4), groups=3), ["divisible by groups", "(3, 3, 2, 4)", "groups=3"]),
    (lambda: fans((3, 3, 2, 4), groups=0), ["at least 1", "groups=0"]),
    (lambda: fans((3, 3, 2, 4), stride=0), ["at least 1", "stride=0"]),
    (lambda: fans((3, 3, 2, 4), stride=(2,)), ["one per spatial axis", "stride=(2,)"]),
    (lambda: fans((3, 0, 2, 4)), ["at least 1", "(3, 0, 2, 4)"]),
    (initialize(variance_scaling(), (3, 3)), ["3, 4 or 5 axes", "(3, 3)"]),
    (lambda: variance_scaling(mode="fan_on"), ["mode 'fan_on'; did you mean 'fan_in'"]),
    (
        lambda: variance_scaling(distribution="uniforn"),
        ["distribution 'uniforn'; did you mean 'uniform'"],
    ),
    (
        initialize(bilinear(2), (3, 3, 4, 4)),
        ["stride 2", "4 taps per axis", "(3, 3, 4, 4)", "groups=1"],
    ),
    (initialize(bilinear(3), (5, 6, 4, 4)), ["stride 3", "5 taps per axis", "(5, 6, 4, 4)"]),
    (
        initialize(bilinear(2), (4, 4, 3, 4)),
        ["equal numbers of input and output channels", "(4, 4, 3, 4)"],
    ),
    (
        initialize(bilinear(2, groups=2), (4, 4, 4, 4)),
        ["equal numbers of input and output channels", "(4, 4, 4, 4)", "groups=2"],
    ),
    (
        initialize(icnr(variance_scaling(), 2), (3, 3, 4, 6)),
        ["factor 2", "multiple of 4", "(3, 3, 4, 6)"],
    ),
]


@pytest.mark.usefixtures("no_type_checks")
@pytest.mark.parametrize(("call", "words"), ERRORS)
def test_errors_name_the_argument_and_its_value(call, words):
    with pytest.raises(InputError) as raised:
        call()
    assert [word for word in words if word not in str(raised.value)] == []
