"""Layers: the statistics they promise at initialisation and of normalised activations."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import config as jaxtyping_config

from deconv_jax import ops
from deconv_jax.errors import InputError
from deconv_jax.models.layers import ACTIVATIONS, RELU_GAIN, Conv, ConvTranspose, Norm, activation
from deconv_jax.ops.collectives import DATA_AXIS


def normal(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape, np.float32))


def output_at_init(layer, size, channels=16):
    """What a fresh layer makes of white noise of variance 1."""
    x = normal(8, size, size, channels, seed=1)
    return layer.init_with_output(jax.random.key(2), x)[0]


def interior(x, margin):
    """Without the border, whose pixels see fewer weights."""
    return x[:, margin:-margin, margin:-margin]


# A mean of n squared normal numbers has the relative standard error sqrt(2 / n). A kernel below has
# at least 3 * 3 * 8 * 32 = 2304 weights (3%; truncated normal numbers scatter less than normal
# ones), and the noise at least 8 * 12 * 12 * 16 = 18432 numbers (1%): 10% is three standard errors.
TOLERANCE = 0.1

strides_and_groups = pytest.mark.parametrize(
    ("stride", "groups"), [(s, g) for s in (1, 2, 3) for g in (1, 2)]
)


@strides_and_groups
def test_conv_at_init_has_the_variance_of_its_gain(stride, groups):
    layer = Conv(32, stride=stride, groups=groups, gain=RELU_GAIN)
    y = interior(output_at_init(layer, size=12 * stride), 1)
    assert jnp.var(y) == pytest.approx(RELU_GAIN, rel=TOLERANCE)


@strides_and_groups
def test_conv_transpose_at_init_has_the_variance_of_its_gain(stride, groups):
    """The interior holds whole periods of the stride, so its mean is over all phases alike."""
    layer = ConvTranspose(32, kernel_size=4, stride=stride, groups=groups, gain=RELU_GAIN)
    x = interior(output_at_init(layer, size=12), 2 * stride)
    assert jnp.var(x) == pytest.approx(RELU_GAIN, rel=TOLERANCE)


def test_conv_transpose_whose_stride_divides_its_kernel_treats_all_phases_alike():
    """Else every image it starts from would show a checkerboard."""
    x = interior(output_at_init(ConvTranspose(128, kernel_size=4, stride=2), size=12), 4)
    phases = np.array([[jnp.var(x[:, i::2, j::2]) for j in range(2)] for i in range(2)])
    np.testing.assert_allclose(phases, 1.0, rtol=TOLERANCE)


def test_flaxs_default_reads_the_fan_off_the_kernels_shape():
    """The trap that `ConvTranspose` avoids, in 16 -> 64 channels with stride 2.

    Flax's lecun_normal divides by kernel area * 64, what it takes for the fan-in; an output pixel
    sees kernel area * 16 / 2**2 weights. So its variance is 1 / 16 of the input's.
    """
    layer = nn.ConvTranspose(64, (4, 4), strides=(2, 2), transpose_kernel=True)
    x = interior(output_at_init(layer, size=12), 4)
    assert jnp.var(x) == pytest.approx(16 / 4 / 64, rel=TOLERANCE)


@pytest.mark.parametrize(
    ("layer", "operator"),
    [
        (Conv(6, kernel_size=3, stride=2, groups=2, dilation=2), ops.conv),
        (Conv(6, padding=((1, 0), (2, 1)), padding_mode="reflect"), ops.conv),
        (ConvTranspose(6, stride=2, padding=1, groups=2, output_padding=1), ops.conv_transpose),
        (ConvTranspose(6, padding=2, padding_mode="circular", dilation=2), ops.conv_transpose),
    ],
)
def test_a_layer_is_its_operator_plus_a_bias(random_variables, apply, layer, operator):
    x = normal(2, 7, 8, 4)
    variables = random_variables(layer, x)
    kernel, bias = map(jnp.asarray, (variables["params"][name] for name in ("kernel", "bias")))
    names = ["stride", "padding", "padding_mode", "dilation", "groups"]
    names += ["output_padding"] if operator is ops.conv_transpose else []
    options = {name: getattr(layer, name) for name in names}
    expected = operator(x, kernel, **options) + bias.reshape(1, 1, 1, -1)
    np.testing.assert_allclose(apply(layer, variables, x), expected, rtol=1e-5, atol=1e-5)


def test_a_layer_without_bias_has_a_kernel_alone():
    variables = jax.eval_shape(Conv(6, use_bias=False).init, jax.random.key(0), normal(1, 4, 4, 2))
    assert set(variables["params"]) == {"kernel"}


@functools.partial(jax.jit, static_argnums=0)
def normalise(norm, x):
    """Output and updated variables of a fresh layer."""
    variables = norm.init(jax.random.key(0), x)
    y, updated = norm.apply(variables, x, mutable=["batch_stats"])
    return y, variables | updated


def assert_standard(x, axes):
    """Mean 0 and variance 1 over `axes`, up to the epsilon in the denominator."""
    np.testing.assert_allclose(jnp.mean(x, axes), 0.0, atol=1e-5)
    np.testing.assert_allclose(jnp.var(x, axes), 1.0, rtol=1e-3)


def test_batch_norm_in_training_standardises_a_channel_over_the_whole_batch():
    x = 5.0 + 3.0 * normal(8, 6, 6, 4)
    y, variables = normalise(Norm("batch", train=True), x)
    assert_standard(y, (0, 1, 2))
    assert jnp.std(jnp.mean(y, (1, 2))) > 0.01  # and not an image's
    # One step of a running average with momentum 0.9 from mean 0 and variance 1.
    stats = variables["batch_stats"]["BatchNorm_0"]
    np.testing.assert_allclose(stats["mean"], 0.1 * jnp.mean(x, (0, 1, 2)), rtol=1e-4)
    np.testing.assert_allclose(stats["var"], 0.9 + 0.1 * jnp.var(x, (0, 1, 2)), rtol=1e-4)


def test_batch_norm_in_evaluation_uses_the_running_statistics():
    x = normal(2, 4, 4, 3)
    _, variables = normalise(Norm("batch"), x)
    mean, variance = jnp.array([1.0, 2.0, 3.0]), jnp.array([4.0, 9.0, 16.0])
    stats = {"batch_stats": {"BatchNorm_0": {"mean": mean, "var": variance}}}
    y = Norm("batch").apply(variables | stats, x)
    expected = (x - mean.reshape(1, 1, 1, 3)) / jnp.sqrt(variance).reshape(1, 1, 1, 3)
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)


def test_batch_norm_of_a_batch_in_shares_is_that_of_the_whole_batch():
    """As under `pmap`: each device holds a share, and the statistics are the global batch's."""
    x = normal(8, 4, 4, 3)
    norm = Norm("batch", train=True)
    expected, variables = normalise(norm, x)

    def apply(share):
        return norm.apply(variables, share, mutable=["batch_stats"])[0]

    shares = jax.vmap(apply, axis_name=DATA_AXIS)(x.reshape(4, 2, 4, 4, 3))
    np.testing.assert_allclose(shares.reshape(x.shape), expected, rtol=1e-5, atol=1e-5)


def test_group_norm_standardises_the_groups_of_an_image():
    x = 5.0 + 3.0 * normal(2, 16, 16, 32)
    y, _ = normalise(Norm("group"), x)
    assert_standard(y.reshape(2, 16, 16, 8, 4), (1, 2, 4))


@pytest.mark.parametrize(("channels", "groups"), [(4, 4), (12, 4), (7, 1)])
def test_group_norm_takes_as_many_groups_as_divide_the_channels(channels, groups):
    """The greatest common divisor of 8 and the channels."""
    x = 5.0 + 3.0 * normal(2, 16, 16, channels)
    y, _ = normalise(Norm("group"), x)
    assert_standard(y.reshape(2, 16, 16, groups, channels // groups), (1, 2, 4))


def test_layer_norm_standardises_the_channels_of_a_pixel():
    y, _ = normalise(Norm("layer"), 5.0 + 3.0 * normal(2, 4, 4, 64))
    assert_standard(y, -1)


def test_no_norm_is_the_identity_without_parameters():
    x = normal(2, 4, 4, 3)
    y, variables = normalise(Norm("none"), x)
    np.testing.assert_array_equal(y, x)
    assert not variables


def test_an_unknown_norm_names_the_nearest(monkeypatch):
    monkeypatch.setattr(jaxtyping_config, "jaxtyping_disable", True)
    with pytest.raises(InputError, match="'bacth'; did you mean 'batch'"):
        normalise(Norm("bacth"), normal(1, 2, 2, 1))


def test_an_unknown_activation_names_the_nearest():
    with pytest.raises(InputError, match="'leaky'; did you mean 'leaky_relu'"):
        activation("leaky")


def test_relu_gain_makes_up_for_what_a_relu_takes():
    """He et al., arXiv:1502.01852: E[relu(x)**2] = 1/2 for a standard normal x."""
    x = normal(100_000)
    assert RELU_GAIN * jnp.mean(activation("relu")(x) ** 2) == pytest.approx(1.0, rel=0.03)


def test_leaky_relu_has_the_slope_of_dcgan():
    assert activation("leaky_relu")(jnp.array(-1.0)) == pytest.approx(-0.2)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_are_nearly_the_identity_far_above_zero_or_saturate(name):
    """10 is far enough: gelu and silu differ from it by less than 10 * exp(-10)."""
    value = activation(name)(jnp.array(10.0))
    assert value == pytest.approx(1.0 if name == "tanh" else 10.0, abs=1e-3)
