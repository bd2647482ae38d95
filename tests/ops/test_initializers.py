"""Initialisers against weights that are counted, variances that are measured and exact ramps."""

import dataclasses
import functools
import itertools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import config as jaxtyping_config

from deconv_jax.errors import InputError
from deconv_jax.ops import conv, conv_transpose, depth_to_space, resize, upsample
from deconv_jax.ops.initializers import bilinear, fans, icnr, variance_scaling

KEY = jax.random.key(0, impl="rbg")
"""Of the generator that compiles ten times faster than the default one on a CPU."""


def draw(*shape, seed=0):
    """Draw standard normal float32 numbers, different for every shape and seed."""
    random = np.random.default_rng((seed, *shape))
    return jnp.asarray(random.standard_normal(shape, np.float32))


@dataclasses.dataclass(frozen=True)
class Case:
    """A layer whose fans are to be counted."""

    kernel_size: tuple[int, ...]
    stride: int | tuple[int, ...] = 1
    dilation: int = 1
    groups: int = 1
    channels: tuple[int, int] = (2, 3)
    """Of the convolution's input and output, in each group; the transposed one has them swapped."""
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
        """Whether (*input size, input channel) goes into (*output size, output channel).

        Each input pixel alone, as a batch, through a layer of ones without padding.
        """
        reach = np.multiply(self.dilation, np.array(self.kernel_size) - 1)
        # Of the larger image: what reaches over its border on both sides, and two whole periods.
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
        """(fan in, fan out), means over the interior of the larger image, whole periods of it.

        Without padding, the pixels of the smaller image are all connected alike.
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
def test_fans_are_the_weights_that_a_pixel_meets(case, transposed):
    case = dataclasses.replace(case, transposed=transposed)
    assert case.fans() == pytest.approx(case.counted_fans(), rel=1e-6)


def test_fans_of_a_strided_transposed_convolution_in_figures():
    """A 4 x 4 kernel from 64 to 32 channels with stride 2: of an axis a pixel meets two taps."""
    assert fans((4, 4, 32, 64), transposed=True, stride=2) == (2 * 2 * 64, 4 * 4 * 32)
    assert fans((4, 4, 32, 64)) == (4 * 4 * 32, 4 * 4 * 64)


@pytest.mark.parametrize("mode", ["fan_in", "fan_out", "fan_avg"])
@pytest.mark.parametrize("distribution", ["truncated_normal", "normal", "uniform"])
@pytest.mark.parametrize(
    "geometry",
    [{}, {"transposed": True, "stride": (2, 3), "groups": 4}],
    ids=["conv", "conv_transpose"],
)
def test_weights_have_the_variance_of_the_gain_over_the_fan(geometry, distribution, mode):
    """4 * 6 * 16 * 64 = 24576 weights: a relative standard error of less than 1%."""
    shape = (4, 6, 16, 64)
    init = variance_scaling(3.0, mode, distribution, **geometry)
    weights = np.asarray(init(KEY, shape), np.float64)
    fan_in, fan_out = fans(shape, **geometry)
    fan = {"fan_in": fan_in, "fan_out": fan_out, "fan_avg": (fan_in + fan_out) / 2}[mode]
    variance = 3.0 / fan
    assert np.var(weights) == pytest.approx(variance, rel=0.04)
    assert abs(np.mean(weights)) < 4 * math.sqrt(variance / weights.size)
    # And the distribution is the one asked for: in deviations, how far do the largest reach?
    largest = np.max(np.abs(weights)) / math.sqrt(variance)
    # A normal number cut at 2 has the deviation 0.8796.
    low, high = {
        "uniform": (1.72, math.sqrt(3)),
        "truncated_normal": (2.2, 2 / 0.8796),
        "normal": (3.5, 6.0),
    }[distribution]
    assert low < largest < high * 1.0001


def test_of_a_plain_convolution_it_is_what_jax_calls_he_and_glorot():
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
def test_flaxs_conv_transpose_keeps_the_variance_with_our_initialiser_and_not_with_its_own(
    kernel_init, transpose_kernel, variance
):
    """16 -> 64 channels, stride 2: its default overlooks the stride, and here mistakes out for in.

    The kernel has 4 * 4 * 16 * 64 = 16384 weights and the noise as many numbers: 10% is far more
    than the standard error of a mean of so many squares, 1.1%.
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
    """By the transposed convolution with the bilinear kernel, and where no border is met.

    There an output pixel lies between the centres of two input pixels along each axis.
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
def test_bilinear_continues_a_linear_ramp_at_pixel_centres(stride, groups, rank):
    """Pixel i of the image is centred at i + 1/2, pixel p of the output at (p + 1/2) / stride."""
    slopes, offset = draw(rank, CHANNELS), draw(CHANNELS)

    def ramp(size, pitch):
        centres = jnp.stack(
            jnp.meshgrid(*[(jnp.arange(n) + 0.5) * pitch for n in size], indexing="ij"), -1
        )
        return (centres @ slopes + offset.reshape(*(1,) * rank, -1))[None]

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
def test_icnr_starts_as_the_small_convolution_enlarged_to_the_nearest_pixel(factor, rank):
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
def test_initialisers_return_the_shape_and_type_they_are_asked_for(init, shape, dtype):
    kernel = jax.eval_shape(lambda: init(KEY, shape, dtype))
    assert (kernel.shape, kernel.dtype) == (shape, dtype)


def initialise(init, shape):
    return lambda: init(KEY, shape)


ERRORS = [
    (lambda: fans((3, 3)), ["3, 4 or 5 axes", "(3, 3)"]),
    (lambda: fans((1,) * 6), ["3, 4 or 5 axes", "(1, 1, 1, 1, 1, 1)"]),
    (lambda: fans((3, 3, 2, 4), groups=3), ["divisible by groups", "(3, 3, 2, 4)", "groups=3"]),
    (lambda: fans((3, 3, 2, 4), groups=0), ["at least 1", "groups=0"]),
    (lambda: fans((3, 3, 2, 4), stride=0), ["at least 1", "stride=0"]),
    (lambda: fans((3, 3, 2, 4), stride=(2,)), ["one for each axis", "stride=(2,)"]),
    (lambda: fans((3, 0, 2, 4)), ["at least 1", "(3, 0, 2, 4)"]),
    (initialise(variance_scaling(), (3, 3)), ["3, 4 or 5 axes", "(3, 3)"]),
    (lambda: variance_scaling(mode="fan_on"), ["mode 'fan_on'; did you mean 'fan_in'"]),
    (
        lambda: variance_scaling(distribution="uniforn"),
        ["distribution 'uniforn'; did you mean 'uniform'"],
    ),
    (
        initialise(bilinear(2), (3, 3, 4, 4)),
        ["stride 2", "4 taps an axis", "(3, 3, 4, 4)", "groups=1"],
    ),
    (initialise(bilinear(3), (5, 6, 4, 4)), ["stride 3", "5 taps an axis", "(5, 6, 4, 4)"]),
    (initialise(bilinear(2), (4, 4, 3, 4)), ["as many outputs as inputs", "(4, 4, 3, 4)"]),
    (
        initialise(bilinear(2, groups=2), (4, 4, 4, 4)),
        ["as many outputs as inputs", "(4, 4, 4, 4)", "groups=2"],
    ),
    (
        initialise(icnr(variance_scaling(), 2), (3, 3, 4, 6)),
        ["factor 2", "multiple of 4", "(3, 3, 4, 6)"],
    ),
]


@pytest.mark.parametrize(("call", "words"), ERRORS)
def test_errors_name_the_argument_and_its_value(monkeypatch, call, words):
    """As a user sees them, who has no run-time type checker in front of the functions."""
    monkeypatch.setattr(jaxtyping_config, "jaxtyping_disable", True)
    with pytest.raises(InputError) as raised:
        call()
    assert [word for word in words if word not in str(raised.value)] == []
