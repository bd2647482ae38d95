"""Tests that converted weights give equal outputs in both libraries.

This file covers PyTorch, Flax and `jax.lax`; `test_keras.py` covers Keras.
"""

import dataclasses
import functools
import itertools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from jax import lax

from deconv_jax import ops
from deconv_jax.errors import InputError
from deconv_jax.models.layers import Conv, ConvTranspose

torch.set_num_threads(1)
"""The arrays are tiny: more threads would contend with those of JAX."""


def draw(*shape, seed=0):
    """Draw standard normal float32 numbers, different for every shape and seed."""
    return np.random.default_rng((seed, *shape)).standard_normal(shape, np.float32)


def assert_close(actual, expected, tolerance=1e-5):
    """Compare elementwise, relative to the larger of 1 and the largest element."""
    assert actual.shape == expected.shape
    scale = max(1.0, float(np.max(np.abs(expected))))
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance * scale)


SIZES = {1: (9,), 2: (7, 6), 3: (5, 6, 7)}
on_ranks = pytest.mark.parametrize("rank", [1, 2, 3], ids="{}d".format)


@dataclasses.dataclass(frozen=True)
class TorchCase:
    """Arguments of a layer of PyTorch and of ours.

    Attributes:
      kernel_size: Kernel size of a 3-d layer; layers of lower rank use its first entries. No two
        are equal, so that exchanged axes are detected.
      channels: Number of input and output channels.
      options: Other arguments. Tuples have one entry per axis, like `kernel_size`.
    """

    kernel_size: tuple[int, int, int]
    channels: tuple[int, int]
    use_bias: bool
    options: dict[str, Any]

    @classmethod
    def of(cls, kernel_size=(3, 2, 4), channels=(4, 6), use_bias=True, **options):
        return cls(kernel_size, channels, use_bias, options)

    def options_in(self, rank):
        return {
            name: value[:rank] if isinstance(value, tuple) else value
            for name, value in self.options.items()
        }

    def module(self, kind, rank):
        torch.manual_seed(0)
        make = getattr(torch.nn, f"{kind}{rank}d")
        options = {"bias": self.use_bias, **self.options_in(rank)}
        return make(*self.channels, self.kernel_size[:rank], **options)

    def layer(self, kind, rank):
        options = {"padding": 0, "use_bias": self.use_bias, **self.options_in(rank)}
        if isinstance(options["padding"], tuple):
            options["padding"] = tuple((p, p) for p in options["padding"])
        make = {"Conv": Conv, "ConvTranspose": ConvTranspose}[kind]
        return make(self.channels[1], self.kernel_size[:rank], **options)


BUSY = {"stride": 3, "padding": 2, "dilation": 2, "groups": 2}
CONVS = {
    "default": TorchCase.of(),
    "other taps": TorchCase.of((2, 5, 1)),
    "no bias": TorchCase.of(use_bias=False),
    "stride": TorchCase.of(stride=2),
    "padding": TorchCase.of(padding=1),
    "dilation": TorchCase.of(dilation=2),
    "groups": TorchCase.of(groups=2),
    "depthwise": TorchCase.of(channels=(3, 6), groups=3),
    "all": TorchCase.of((4, 2, 3), **BUSY),
    "one per axis": TorchCase.of(stride=(2, 1, 3), padding=(1, 0, 2), dilation=(1, 2, 1)),
}
TRANSPOSED = CONVS | {
    "output padding": TorchCase.of(stride=2, padding=1, output_padding=1),
    "stride above kernel": TorchCase.of((2, 1, 3), stride=4, output_padding=(3, 0, 2)),
    "all": TorchCase.of((4, 2, 3), **BUSY, output_padding=1),
}


CASES_IN_3D = {"default", "groups", "all", "one per axis", "output padding", "strides"}
"""Cases to run in 3-d, where compilation takes twice as long."""


def assert_equal_to_pytorch(module, layer, parameters, rank):
    x = draw(2, *SIZES[rank], module.in_channels)
    with torch.no_grad():
        expected = module(torch.tensor(x).movedim(-1, 1)).movedim(1, -1).numpy()
    assert_close(jax.jit(layer.apply)({"params": parameters}, x), expected)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "case", "rank"),
    [
        pytest.param(kind, case, rank, id=f"{kind}-{name}-{rank}d")
        for kind, cases in (("Conv", CONVS), ("ConvTranspose", TRANSPOSED))
        for name, case in cases.items()
        for rank in (1, 2, 3)
        if rank < 3 or name in CASES_IN_3D
    ],
)
def test_converted_layer_of_pytorch_computes_the_same_here(kind, case, rank):
    module = case.module(kind, rank)
    parameters = ops.layer_from_torch(module.state_dict())
    assert set(parameters) == ({"kernel", "bias"} if case.use_bias else {"kernel"})
    assert_equal_to_pytorch(module, case.layer(kind, rank), parameters, rank)


@pytest.mark.parametrize("kind", ["Conv", "ConvTranspose"])
def test_converted_layer_computes_the_same_in_pytorch(kind):
    case, rank = CONVS["groups"], 2
    layer, module = case.layer(kind, rank), case.module(kind, rank)
    x = jax.ShapeDtypeStruct((1, *SIZES[rank], case.channels[0]), jnp.float32)
    shapes = jax.eval_shape(layer.init, jax.random.key(0), x)["params"]
    parameters = {name: jnp.asarray(draw(*leaf.shape)) for name, leaf in shapes.items()}
    weights = ops.layer_to_torch(parameters)
    module.load_state_dict({name: torch.from_numpy(weight) for name, weight in weights.items()})
    assert_equal_to_pytorch(module, layer, parameters, rank)


@pytest.mark.parametrize("taps", [1, 3])
def test_training_in_pytorch_does_not_change_converted_weights(taps):
    """No memory is shared, even if a kernel of one tap has the same order in both layouts."""
    module = torch.nn.Conv1d(64, 1, taps)
    parameters = ops.layer_from_torch(module.state_dict())
    before = {name: np.array(leaf) for name, leaf in parameters.items()}
    weights = ops.layer_to_torch(parameters)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(1.0)
        for weight in weights.values():
            torch.from_numpy(weight).add_(1.0)
    for name, leaf in parameters.items():
        np.testing.assert_array_equal(leaf, before[name])


def random_parameters(layer, x):
    """Draw parameters of a layer of Flax, without compiling its initializers."""
    shapes = jax.eval_shape(layer.init, jax.random.key(0), x)["params"]
    return {name: draw(*leaf.shape, seed=1) for name, leaf in shapes.items()}


FLAX_CONVS = {
    "SAME": {},
    "VALID": {"padding": "VALID"},
    "strides": {"strides": 2},
    "strides, VALID": {"strides": 3, "padding": "VALID"},
    "groups": {"feature_group_count": 2},
    "dilation": {"kernel_dilation": 2},
    "no bias": {"use_bias": False},
}
TO_OURS = {"strides": "stride", "kernel_dilation": "dilation", "feature_group_count": "groups"}


def assert_equal_to_flax(make_ours, theirs, options, **which):
    """Compare a layer of Flax with ours; `options` has the names of Flax."""
    rank = len(theirs.kernel_size)
    x = draw(2, *SIZES[rank], 4)
    parameters = random_parameters(theirs, x)
    layer = make_ours(
        6, theirs.kernel_size, **{TO_OURS.get(name, name): value for name, value in options.items()}
    )
    expected, y = jax.jit(
        lambda theirs_parameters, our_parameters, x: (
            theirs.apply({"params": theirs_parameters}, x),
            layer.apply({"params": our_parameters}, x),
        )
    )(parameters, ops.layer_from_lax(parameters, **which), x)
    assert_close(np.asarray(y), np.asarray(expected))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "rank"),
    [
        pytest.param(options, rank, id=f"{name}-{rank}d")
        for name, options in FLAX_CONVS.items()
        for rank in (1, 2, 3)
        if rank < 3 or name in CASES_IN_3D
    ],
)
def test_converted_conv_of_flax_computes_the_same_here(options, rank):
    assert_equal_to_flax(Conv, nn.Conv(6, (4, 3, 2)[:rank], **options), options)


@pytest.mark.slow
@pytest.mark.parametrize("transpose_kernel", [False, True])
@pytest.mark.parametrize("padding", ["SAME", "VALID"])
@pytest.mark.parametrize(
    ("kernel_size", "options"),
    [
        ((3,), {}),
        ((4,), {"strides": 2}),
        ((2,), {"strides": 3}),
        ((3, 4), {"strides": 2}),
        ((2, 5), {"strides": 3}),
        ((3, 2), {"kernel_dilation": 2}),
        ((4, 3), {"use_bias": False}),
        ((2, 3, 4), {"strides": 2}),
    ],
)
def test_converted_conv_transpose_of_flax_computes_the_same_here(
    kernel_size, options, padding, transpose_kernel
):
    """The transposed layer of Flax requires one stride per axis."""
    options = options | {"padding": padding}
    strides = (options.get("strides", 1),) * len(kernel_size)
    theirs = nn.ConvTranspose(
        6, kernel_size, **options | {"strides": strides}, transpose_kernel=transpose_kernel
    )
    assert_equal_to_flax(
        ConvTranspose, theirs, options, transposed=True, transpose_kernel=transpose_kernel
    )


DIMENSIONS = {
    1: ("NWC", "WIO", "NWC"),
    2: ("NHWC", "HWIO", "NHWC"),
    3: ("NDHWC", "DHWIO", "NDHWC"),
}


@pytest.mark.slow
@pytest.mark.parametrize("transpose_kernel", [False, True])
@pytest.mark.parametrize("padding", ["SAME", "VALID"])
@pytest.mark.parametrize(
    ("rank", "stride", "dilation"),
    [(1, 1, 1), (1, 2, 1), (1, 3, 2), (2, 1, 1), (2, 2, 1), (2, 3, 2), (3, 3, 2)],
)
def test_converted_kernel_of_lax_conv_transpose_computes_the_same_here(
    rank, stride, dilation, padding, transpose_kernel
):
    y, channels = draw(2, *SIZES[rank], 3), (2, 3) if transpose_kernel else (3, 2)
    kernel = draw(*(3, 2, 4)[:rank], *channels)
    per_axis = {"strides": (stride,) * rank, "rhs_dilation": (dilation,) * rank}
    theirs = functools.partial(
        lax.conv_transpose,
        padding=padding,
        dimension_numbers=DIMENSIONS[rank],
        transpose_kernel=transpose_kernel,
        **per_axis,
    )
    ours = functools.partial(ops.conv_transpose, stride=stride, padding=padding, dilation=dilation)
    ported = ops.kernel_from_lax(kernel, transposed=True, transpose_kernel=transpose_kernel)
    x, expected = jax.jit(lambda y, kernel, ported: (ours(y, ported), theirs(y, kernel)))(
        y, kernel, ported
    )
    assert_close(np.asarray(x), np.asarray(expected))


@on_ranks
def test_converted_kernel_of_lax_convolution_computes_the_same_here(rank):
    x, kernel = draw(2, *SIZES[rank], 4), draw(*(3, 2, 4)[:rank], 2, 6)
    expected = lax.conv_general_dilated(
        x, kernel, (2,) * rank, "SAME", dimension_numbers=DIMENSIONS[rank], feature_group_count=2
    )
    ported = ops.kernel_from_lax(kernel)
    assert_close(ops.conv(jnp.asarray(x), ported, stride=2, groups=2), expected)


@pytest.mark.slow
@pytest.mark.parametrize("multiplier", [1, 2])
@pytest.mark.parametrize("rank", [1, 2])
def test_depthwise_kernel_of_keras_filters_each_channel_on_its_own(rank, multiplier):
    """Output channel `channel * multiplier + m` is input `channel` filtered by (channel, m)."""
    x, kernel = jnp.asarray(draw(2, *SIZES[rank], 3)), draw(*(3, 2)[:rank], 3, multiplier)
    y = ops.conv(x, ops.kernel_from_keras(kernel, depthwise=True), groups=3)
    for channel, m in itertools.product(range(3), range(multiplier)):
        one = jnp.asarray(kernel[..., channel, m].reshape(*kernel.shape[:-2], 1, 1))
        alone = ops.conv(x[..., channel : channel + 1], one)
        assert_close(y[..., channel * multiplier + m], alone[..., 0])


ONE, TWO, SIX = np.zeros(3), np.zeros((3, 3)), np.zeros((1,) * 6)
KERNEL = np.zeros((3, 3, 2, 4))
DEPTHWISE = np.zeros((3, 3, 1, 4))
AXES = "3, 4 or 5 axes: 1, 2 or 3 spatial ones and two of channels"
ERRORS = [
    (lambda: ops.kernel_from_torch(TWO), ["weight", AXES, "(3, 3)"]),
    (lambda: ops.kernel_to_torch(SIX), ["kernel", AXES, "(1, 1, 1, 1, 1, 1)"]),
    (lambda: ops.kernel_from_keras(ONE), ["kernel", AXES, "(3,)"]),
    (lambda: ops.kernel_from_keras(TWO, depthwise=True), ["kernel", AXES, "(3, 3)"]),
    (lambda: ops.kernel_to_keras(TWO), ["kernel", AXES, "(3, 3)"]),
    (
        lambda: ops.kernel_to_keras(KERNEL, depthwise_inputs=2),
        ["depthwise kernel for 2 inputs", "one channel per group", "(3, 3, 2, 4)"],
    ),
    (
        lambda: ops.kernel_to_keras(DEPTHWISE, depthwise_inputs=3),
        ["depthwise kernel for 3 inputs", "multiple of 3 outputs", "(3, 3, 1, 4)"],
    ),
    (
        lambda: ops.kernel_to_keras(DEPTHWISE, depthwise_inputs=0),
        ["depthwise kernel for 0 inputs", "(3, 3, 1, 4)"],
    ),
    (lambda: ops.kernel_from_lax(TWO), ["kernel", AXES, "(3, 3)"]),
    (lambda: ops.kernel_to_lax(SIX, transposed=True), ["kernel", AXES, "(1, 1, 1, 1, 1, 1)"]),
    (
        lambda: ops.layer_from_torch({"kernel": KERNEL}),
        ['a layer of PyTorch must have a "weight"', "kernel"],
    ),
    (lambda: ops.layer_from_torch({"weight": TWO}), ["weight", AXES]),
    (
        lambda: ops.layer_to_torch({"weight": KERNEL}),
        ['a layer must have a "kernel"', "['weight']"],
    ),
    (lambda: ops.layer_from_keras([]), ["a kernel and at most a bias", "0 arrays"]),
    (lambda: ops.layer_from_keras([KERNEL] * 3), ["a kernel and at most a bias", "3 arrays"]),
    (lambda: ops.layer_to_keras({"bias": ONE}), ['a layer must have a "kernel"', "['bias']"]),
    (lambda: ops.layer_from_lax({"scale": ONE}), ['a layer must have a "kernel"', "['scale']"]),
    (lambda: ops.layer_to_lax({}), ['a layer must have a "kernel"', "[]"]),
]


@pytest.mark.parametrize(("call", "words"), ERRORS)
def test_errors_name_the_argument_and_its_value(call, words):
    with pytest.raises(InputError) as raised:
        call()
    assert [word for word in words if word not in str(raised.value)] == []
