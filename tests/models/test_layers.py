"""Layers: variance at initialization, equality with their operators, and error messages."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import config as jaxtyping_config

from deconv_jax import ops
from deconv_jax.errors import InputError
from deconv_jax.models.layers import (
    ACTIVATIONS,
    RELU_GAIN,
    Conv,
    ConvTranspose,
    Dense,
    Pool,
    PReLU,
    Unpool,
    Upsample,
    activation,
)

FAST_KEY = jax.random.key(0, impl="rbg")
"""A key of the PRNG that compiles ten times faster than the default on a CPU."""


def normal(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape, np.float32))


def output_at_init(layer, size, channels=16):
    """Return the output of an initialized layer for white noise of variance 1."""
    x = normal(8, size, size, channels, seed=1)
    return jax.jit(layer.init_with_output)(FAST_KEY, x)[0]


def interior(x, margin):
    """Crop the border, whose pixels see fewer weights."""
    return x[:, margin:-margin, margin:-margin]


# The mean of n squared normal samples has relative standard error sqrt(2 / n). The kernels below
# have at least 3 * 3 * 8 * 32 = 2304 weights (3%; a truncated normal distribution has less), and
# the noise at least 8 * 12 * 12 * 16 = 18432 samples (1%). So 10% is three standard errors.
TOLERANCE = 0.1

strides_and_groups = pytest.mark.parametrize(
    ("stride", "groups"), [(s, g) for s in (1, 2, 3) for g in (1, 2)]
)


@pytest.mark.slow
@strides_and_groups
def test_conv_output_variance_is_the_gain_at_init(stride, groups):
    layer = Conv(32, stride=stride, groups=groups, gain=RELU_GAIN)
    y = interior(output_at_init(layer, size=12 * stride), 1)
    assert jnp.var(y) == pytest.approx(RELU_GAIN, rel=TOLERANCE)


@pytest.mark.slow
@strides_and_groups
def test_conv_transpose_output_variance_is_the_gain_at_init(stride, groups):
    """The interior contains whole periods of the stride, so every phase has the same weight."""
    layer = ConvTranspose(32, kernel_size=4, stride=stride, groups=groups, gain=RELU_GAIN)
    x = interior(output_at_init(layer, size=12), 2 * stride)
    assert jnp.var(x) == pytest.approx(RELU_GAIN, rel=TOLERANCE)


def test_conv_transpose_has_equal_variance_at_all_phases_if_stride_divides_kernel():
    """Unequal phases would show as a checkerboard."""
    x = interior(output_at_init(ConvTranspose(128, kernel_size=4, stride=2), size=12), 4)
    phases = np.array([[jnp.var(x[:, i::2, j::2]) for j in range(2)] for i in range(2)])
    np.testing.assert_allclose(phases, 1.0, rtol=TOLERANCE)


def test_flax_conv_transpose_has_the_wrong_variance_at_init():
    """For 16 -> 64 channels with stride 2, Flax's lecun_normal divides by kernel area * 64.

    The fan-in is kernel area * 16 / 2**2, so the output variance is 1 / 16 of the input's.
    """
    layer = nn.ConvTranspose(64, (4, 4), strides=(2, 2), transpose_kernel=True)
    x = interior(output_at_init(layer, size=12), 4)
    assert jnp.var(x) == pytest.approx(16 / 4 / 64, rel=TOLERANCE)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("layer", "operator"),
    [
        (Conv(6, kernel_size=3, stride=2, groups=2, dilation=2), ops.conv),
        (Conv(6, padding=((1, 0), (2, 1)), padding_mode="reflect"), ops.conv),
        (ConvTranspose(6, stride=2, padding=1, groups=2, output_padding=1), ops.conv_transpose),
        (ConvTranspose(6, padding=2, padding_mode="circular", dilation=2), ops.conv_transpose),
    ],
)
def test_layer_equals_operator_plus_bias(random_variables, apply, layer, operator):
    x = normal(2, 7, 8, 4)
    variables = random_variables(layer, x)
    kernel, bias = map(jnp.asarray, (variables["params"][name] for name in ("kernel", "bias")))
    names = ["stride", "padding", "padding_mode", "dilation", "groups"]
    names += ["output_padding"] if operator is ops.conv_transpose else []
    options = {name: getattr(layer, name) for name in names}
    expected = operator(x, kernel, **options) + bias.reshape(1, 1, 1, -1)
    np.testing.assert_allclose(apply(layer, variables, x), expected, rtol=1e-5, atol=1e-5)


LAYERS_IN_1D_AND_3D = {
    "1d": (Conv(6, kernel_size=(3,), stride=2, groups=2), ops.conv, (9,)),
    "3d": (Conv(6, kernel_size=(3, 2, 1), stride=(1, 2, 1)), ops.conv, (4, 5, 3)),
    "1d, transposed": (ConvTranspose(6, kernel_size=(4,), stride=2), ops.conv_transpose, (5,)),
    "3d, transposed": (
        ConvTranspose(6, kernel_size=(2, 3, 1), stride=(1, 2, 1), groups=2),
        ops.conv_transpose,
        (4, 3, 5),
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("layer", "operator", "size"), LAYERS_IN_1D_AND_3D.values(), ids=LAYERS_IN_1D_AND_3D
)
def test_layer_equals_operator_plus_bias_in_1d_and_3d(
    random_variables, apply, layer, operator, size
):
    x = normal(2, *size, 4)
    variables = random_variables(layer, x)
    kernel, bias = map(jnp.asarray, (variables["params"][name] for name in ("kernel", "bias")))
    assert kernel.shape[:-2] == layer.kernel_size
    expected = operator(x, kernel, stride=layer.stride, groups=layer.groups)
    expected += bias.reshape((1,) * (x.ndim - 1) + (-1,))
    np.testing.assert_allclose(apply(layer, variables, x), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("layer", "size", "margin"),
    [
        (Conv(64, kernel_size=(5,), stride=2, gain=RELU_GAIN), (256,), 2),
        (Conv(32, kernel_size=(3, 3, 3), gain=RELU_GAIN), (8, 8, 8), 1),
        (ConvTranspose(64, kernel_size=(6,), stride=2, gain=RELU_GAIN), (256,), 4),
        (
            ConvTranspose(32, kernel_size=(4, 3, 2), stride=(2, 3, 1), gain=RELU_GAIN),
            (8, 8, 8),
            6,
        ),
    ],
    ids=LAYERS_IN_1D_AND_3D,
)
def test_output_variance_is_the_gain_at_init_in_1d_and_3d(layer, size, margin):
    x = normal(8, *size, 16, seed=1)
    y = jax.jit(layer.init_with_output)(FAST_KEY, x)[0]
    inside = [slice(margin, n - margin) if n > 2 * margin else slice(None) for n in y.shape[1:-1]]
    assert jnp.var(y[:, *inside]) == pytest.approx(RELU_GAIN, rel=TOLERANCE)


@pytest.mark.parametrize(
    ("make", "options", "words"),
    [
        (Conv, {"features": 6, "groups": 0}, ["groups", "input", "groups=0", "4 input channels"]),
        (Conv, {"features": 6, "groups": 3}, ["groups", "input", "groups=3", "4 input channels"]),
        (Conv, {"features": 5, "groups": 2}, ["groups=2", "(3, 3, 2, 5)"]),
        (
            ConvTranspose,
            {"features": 5, "groups": 2},
            ["groups", "output", "groups=2", "5 output channels"],
        ),
        (
            ConvTranspose,
            {"features": 6, "groups": -1},
            ["groups", "output", "groups=-1", "6 output channels"],
        ),
        (ConvTranspose, {"features": 6, "groups": 3}, ["groups=3", "(4, 4, 2, 4)"]),
        (ConvTranspose, {"features": 6, "stride": 0}, ["stride", "at least 1", "stride=0"]),
        (Conv, {"features": 6, "kernel_size": (3,) * 4}, ["3, 4 or 5 axes", "(3, 3, 3, 3, 4, 6)"]),
        (
            Conv,
            {"features": 6, "kernel_size": (3, 0)},
            ["kernel_size must be an int >= 1", "(3, 0)"],
        ),
        (Upsample, {"features": 6, "factor": 0}, ["factor", "at least 1", "0"]),
        (Upsample, {"features": 6, "kernel_size": 0}, ["kernel_size", "at least 1", "0"]),
        (
            Upsample,
            {"features": 6, "method": "subpixels"},
            ["'subpixels'; did you mean 'subpixel'"],
        ),
        (Pool, {"kind": "avarage"}, ["'avarage'; did you mean 'average'"]),
    ],
)
def test_invalid_arguments_are_named(monkeypatch, make, options, words):
    monkeypatch.setattr(jaxtyping_config, "jaxtyping_disable", True)
    with pytest.raises(InputError) as raised:
        jax.eval_shape(make(**options).init, jax.random.key(0), normal(1, 4, 4, 4))
    assert [word for word in words if word not in str(raised.value)] == []


UPSAMPLING = ("transposed", "subpixel", "resize")


@pytest.mark.slow
@pytest.mark.parametrize("method", UPSAMPLING)
@pytest.mark.parametrize(("factor", "kernel_size"), [(2, None), (3, None), (2, 5)])
def test_upsample_equals_operator_plus_bias(random_variables, apply, factor, kernel_size, method):
    layer = Upsample(6, factor=factor, method=method, kernel_size=kernel_size)
    x = normal(2, 4, 5, 3)
    variables = random_variables(layer, x)
    kernel, bias = map(jnp.asarray, (variables["params"][name] for name in ("kernel", "bias")))
    taps = kernel_size or (2 * factor if method == "transposed" else 3)
    assert kernel.shape == ops.upsample_kernel_shape(method, taps, 3, 6, factor)
    y = apply(layer, variables, x)
    assert y.shape == (2, 4 * factor, 5 * factor, 6)
    expected = ops.upsample(x, kernel, factor, method=method) + bias.reshape(1, 1, 1, -1)
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("factor", [2, 3])
@pytest.mark.parametrize("method", UPSAMPLING)
def test_upsample_variance_is_the_gain_at_every_phase_at_init(method, factor):
    """For "resize", whose weights share input pixels, this holds in expectation over kernels.

    A phase then averages over 16 * 128 independent sums of weights: a standard error of 3%.
    """
    layer = Upsample(128, factor=factor, method=method, gain=RELU_GAIN)
    y = interior(output_at_init(layer, size=14), 2 * factor)
    phases = [[jnp.var(y[:, i::factor, j::factor]) for j in range(factor)] for i in range(factor)]
    np.testing.assert_allclose(np.array(phases), RELU_GAIN, rtol=TOLERANCE)


def test_subpixel_upsampling_has_no_checkerboard_at_init():
    """ICNR (arXiv:1707.02937): each block of factor x factor pixels is constant, and blocks differ."""
    x, factor = normal(2, 4, 5, 3), 3
    y = jax.jit(Upsample(6, factor=factor, method="subpixel").init_with_output)(FAST_KEY, x)[0]
    blocks = y.reshape(2, 4, factor, 5, factor, 6)
    first = jnp.broadcast_to(blocks[:, :, :1, :, :1], blocks.shape)
    np.testing.assert_allclose(blocks, first, rtol=1e-5, atol=1e-5)
    assert jnp.std(first) > 0.5


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"window": 3, "stride": 2, "padding": "SAME"},
        {"window": (2, 3), "padding": ((1, 0), (1, 1))},
    ],
    ids=["default", "overlapping", "per-axis"],
)
def test_pool_and_unpool_equal_their_operators(options):
    window, size = options.get("window", 2), (7, 8)
    rest = {name: value for name, value in options.items() if name != "window"}
    pool, unpool = functools.partial(Pool, **options), functools.partial(Unpool, **options)

    @jax.jit
    def both(x):
        y, switches = ops.max_pool_with_switches(x, window, **rest)
        by_operators = {
            "max": y,
            "switches": (y, switches),
            "average": ops.avg_pool(x, window, **rest),
            "unpooled": ops.max_unpool(y, switches, size),
            "spread": ops.avg_unpool(y, window, **rest, output_size=size),
        }
        by_layers = {
            "max": pool().apply({}, x),
            "switches": pool().apply({}, x, method="with_switches"),
            "average": pool(kind="average").apply({}, x),
            "unpooled": unpool().apply({}, y, size, switches),
            "spread": unpool(kind="average").apply({}, y, size),
        }
        return by_layers, by_operators

    jax.tree.map(np.testing.assert_array_equal, *both(normal(2, *size, 3)))


def test_unpool_places_maxima_at_their_positions():
    """Zeiler & Fergus, arXiv:1311.2901: pooling again gives the same maxima, and the rest is zero."""
    x = jnp.abs(normal(2, 6, 9, 3))
    y, switches = Pool((2, 3)).apply({}, x, method="with_switches")
    back = Unpool((2, 3)).apply({}, y, (6, 9), switches)
    np.testing.assert_array_equal(Pool((2, 3)).apply({}, back), y)
    np.testing.assert_array_equal(back, jnp.where(back > 0, x, 0.0))
    assert jnp.sum(back > 0) == y.size


@pytest.mark.parametrize(
    ("kind", "given", "words"),
    [
        ("max", False, ["kind='max' requires switches; got none"]),
        ("average", True, ["kind='average' takes no switches; got switches"]),
        ("maximum", True, ["'maximum'; did you mean 'max'"]),
        ("averaged", False, ["'averaged'; did you mean 'average'"]),
    ],
)
def test_unpool_requires_switches_for_max_only(monkeypatch, kind, given, words):
    monkeypatch.setattr(jaxtyping_config, "jaxtyping_disable", True)
    y, switches = Pool().apply({}, normal(1, 4, 4, 1), method="with_switches")
    with pytest.raises(InputError) as raised:
        Unpool(kind=kind).apply({}, y, (4, 4), switches if given else None)
    assert [word for word in words if word not in str(raised.value)] == []


def test_layer_without_bias_has_only_a_kernel():
    variables = jax.eval_shape(Conv(6, use_bias=False).init, jax.random.key(0), normal(1, 4, 4, 2))
    assert set(variables["params"]) == {"kernel"}


def test_unknown_activation_suggests_the_closest_name():
    with pytest.raises(InputError, match="'leaky'; did you mean 'leaky_relu'"):
        activation("leaky")


def test_relu_gain_preserves_the_mean_square():
    """He et al., arXiv:1502.01852: E[relu(x)**2] = 1/2 for a standard normal x."""
    x = normal(100_000)
    assert RELU_GAIN * jnp.mean(activation("relu")(x) ** 2) == pytest.approx(1.0, rel=0.03)


def test_leaky_relu_has_the_slope_of_dcgan():
    assert activation("leaky_relu")(jnp.array(-1.0)) == pytest.approx(-0.2)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_are_identity_for_large_inputs_except_tanh(name):
    """At 10, gelu and silu differ from the identity by less than 10 * exp(-10)."""
    value = activation(name)(jnp.array(10.0))
    assert value == pytest.approx(1.0 if name == "tanh" else 10.0, abs=1e-3)


@pytest.mark.parametrize(
    "layer", [Conv(1, 1), ConvTranspose(1, 1), Upsample(1, 1), Dense(1), PReLU()], ids=type
)
def test_gradients_of_vectors_are_summed_in_float32(layer):
    """A sum of 2048 equal numbers in bfloat16 stops at 256 times their size."""
    x = -jnp.ones((2, 32, 32, 1), jnp.bfloat16)
    params = jax.eval_shape(layer.init, FAST_KEY, x)["params"]
    params = {name: jnp.ones(a.shape, jnp.bfloat16) for name, a in params.items()}
    gradient = jax.grad(lambda params: jnp.sum(layer.apply({"params": params}, x)))(params)
    (vector,) = (g for g in gradient.values() if g.ndim == 1)
    np.testing.assert_array_equal(np.abs(np.asarray(vector, np.float32)), [2048.0])
