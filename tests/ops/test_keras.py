"""Tests of "SAME" and "VALID" padding against layers of Keras and the definition of TensorFlow.

Keras runs on its JAX backend here. Transposed layers, in which the side of the extra pixel matters,
are therefore also compared to TensorFlow's definition, written with loops.
"""

import dataclasses
import itertools
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest

os.environ.setdefault("KERAS_BACKEND", "jax")

import keras

from deconv_jax.ops import conv, conv_transpose, layer_from_keras


def draw(*shape, seed=0):
    """Draw standard normal float32 numbers, different for every shape and seed."""
    return np.random.default_rng((seed, *shape)).standard_normal(shape, np.float32)


def assert_close(actual, expected, tolerance=1e-5):
    """Compare elementwise, relative to the larger of 1 and the largest element."""
    assert actual.shape == expected.shape
    scale = max(1.0, float(np.max(np.abs(expected))))
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance * scale)


@dataclasses.dataclass(frozen=True)
class Case:
    """Arguments of a layer and the size of its images."""

    size: tuple[int, ...]
    kernel_size: tuple[int, ...]
    stride: int = 1
    dilation: int = 1
    padding: str = "SAME"

    @property
    def options(self):
        return {"stride": self.stride, "dilation": self.dilation, "padding": self.padding}

    @property
    def keras_options(self):
        return {
            "kernel_size": self.kernel_size,
            "strides": self.stride,
            "dilation_rate": self.dilation,
            "padding": self.padding.lower(),
            "data_format": "channels_last",
        }

    @property
    def extent(self):
        return tuple(self.dilation * (k - 1) + 1 for k in self.kernel_size)

    @property
    def fits(self):
        """Return whether the kernel fits into the image."""
        return self.padding == "SAME" or all(np.greater_equal(self.size, self.extent))

    def __str__(self):
        size, kernel_size = ("x".join(map(str, n)) for n in (self.size, self.kernel_size))
        return f"{size}-k{kernel_size}-s{self.stride}-d{self.dilation}-{self.padding}"


SIZES = {1: [(4,), (5,)], 2: [(4, 5)], 3: [(4, 5, 3)]}
KERNEL_SIZES = {
    1: [(k,) for k in (1, 2, 3, 4, 5)],
    2: [(k, k) for k in (1, 2, 3, 4, 5)] + [(2, 3)],
    3: [(2, 2, 2), (3, 2, 4)],
}
# Keras does not support stride and dilation together.
STRIDES_AND_DILATIONS = {
    1: [(1, 1), (2, 1), (3, 1), (1, 2)],
    2: [(1, 1), (2, 1), (3, 1), (1, 2)],
    3: [(1, 1), (2, 1), (1, 2)],
}
CASES = [
    Case(size, kernel_size, stride, dilation, padding)
    for rank in (1, 2, 3)
    for size, kernel_size, (stride, dilation), padding in itertools.product(
        SIZES[rank], KERNEL_SIZES[rank], STRIDES_AND_DILATIONS[rank], ("SAME", "VALID")
    )
]
FITTING = [case for case in CASES if case.fits]


def test_the_grid_has_150_cases():
    assert len(CASES) + len(FITTING) >= 150


def test_keras_runs_on_jax():
    """Layers of another backend cannot be compiled together with ours."""
    assert keras.config.backend() == "jax"


INPUTS, OUTPUTS = 2, 3


def keras_layer(kind, case, **options):
    """Build a layer with random weights, without running its slow initializers."""
    rank = len(case.size)
    kernel = "depthwise" if "Depthwise" in kind else "kernel"
    options |= {f"{kernel}_initializer": "zeros", "dtype": "float32"}
    layer = getattr(keras.layers, kind.format(rank))(**case.keras_options, **options)
    layer.build((None, *case.size, INPUTS))
    for weight in layer.weights:
        weight.assign(draw(*weight.shape, seed=1))
    return layer


def weights_of(layer):
    """Return `layer.get_weights()` without its warning from NumPy."""
    return [keras.ops.convert_to_numpy(weight.value) for weight in layer.weights]


def theirs(layer):
    """Return a layer of Keras as a function of its weights and images."""
    return lambda weights, x: layer.stateless_call(weights, [], x)[0]


def ours(operator, case, **options):
    """Return an operator and a bias as a function of parameters and images."""

    def apply(parameters, x):
        y = operator(x, parameters["kernel"], **case.options, **options)
        return y + parameters["bias"].reshape((1,) * (y.ndim - 1) + (-1,))

    return apply


def compiled(function, *arguments):
    """Compile and run a function."""
    return jax.tree.map(np.asarray, jax.jit(function)(*arguments))


def both(operator, case, layer, *, depthwise=False):
    """Apply a layer of Keras, and the operator with its converted weights, to random images."""
    options = {"groups": INPUTS} if depthwise else {}
    weights, x = weights_of(layer), draw(2, *case.size, INPUTS, seed=2)
    parameters = layer_from_keras(weights, depthwise=depthwise)
    return compiled(
        lambda weights, parameters, x: (
            theirs(layer)(weights, x),
            ours(operator, case, **options)(parameters, x),
        ),
        weights,
        parameters,
        x,
    )


@pytest.mark.slow
@pytest.mark.parametrize("case", FITTING, ids=str)
def test_conv_equals_keras(case):
    expected, y = both(conv, case, keras_layer("Conv{}D", case, filters=OUTPUTS))
    assert_close(y, expected)


def tensorflows_conv_transpose(case, y, kernel, bias):
    """Compute TensorFlow's transposed convolution: the gradient of a convolution.

    The output has the size `size * stride` for "SAME" and `size * stride + max(extent - stride, 0)`
    for "VALID". Each input pixel adds a multiple of the kernel.
    """
    overhang = np.maximum(np.subtract(case.extent, case.stride), 0)
    size = np.multiply(case.size, case.stride)
    size, before = (size, overhang // 2) if case.padding == "SAME" else (size + overhang, 0)
    x = np.zeros((len(y), *size, kernel.shape[-2]))
    for pixel in np.ndindex(case.size):
        for tap in np.ndindex(case.kernel_size):
            place = np.multiply(pixel, case.stride) + np.multiply(tap, case.dilation) - before
            if (place >= 0).all() and (place < size).all():
                x[:, *place] += y[:, *pixel] @ kernel[tap].T
    return x + bias


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=str)
def test_conv_transpose_equals_keras_and_tensorflows_definition(case):
    layer = keras_layer("Conv{}DTranspose", case, filters=OUTPUTS)
    by_keras, x = both(conv_transpose, case, layer)
    y = draw(2, *case.size, INPUTS, seed=2)
    defined = tensorflows_conv_transpose(case, y, *weights_of(layer))
    assert_close(by_keras, defined)
    assert_close(x, defined)


DEPTHWISE = [
    Case((4, 5), (k, k), stride, dilation, padding)
    for k, (stride, dilation), padding in itertools.product(
        (2, 3), ((1, 1), (2, 1), (1, 2)), ("SAME", "VALID")
    )
] + [Case((5,), (3,), stride=2)]


@pytest.mark.slow
@pytest.mark.parametrize("multiplier", [1, 2])
@pytest.mark.parametrize("case", [case for case in DEPTHWISE if case.fits], ids=str)
def test_depthwise_conv_equals_keras(case, multiplier):
    layer = keras_layer("DepthwiseConv{}D", case, depth_multiplier=multiplier)
    expected, y = both(conv, case, layer, depthwise=True)
    assert_close(y, expected)


@pytest.mark.parametrize(
    "case",
    [
        Case((5, 6), (4, 3), stride=2),
        Case((5, 6), (2, 3), stride=3, padding="VALID"),
        Case((5, 6), (3, 2), dilation=2),
    ],
    ids=str,
)
@pytest.mark.parametrize("operator", [conv, conv_transpose], ids=["conv", "conv_transpose"])
def test_gradients_equal_keras(operator, case):
    """Compare the gradients by images and by weights."""
    layer = keras_layer(
        "Conv{}D" if operator is conv else "Conv{}DTranspose", case, filters=OUTPUTS
    )
    weights, x = weights_of(layer), jnp.asarray(draw(2, *case.size, INPUTS, seed=2))

    def gradients(function):
        def loss(weights, x):
            y = function(weights, x)
            return jnp.sum(y * draw(*y.shape, seed=3))

        return jax.grad(loss, argnums=(0, 1))

    parameters = layer_from_keras(weights)
    (expected, expected_x), (by_weights, by_x) = compiled(
        lambda weights, parameters, x: (
            gradients(theirs(layer))(weights, x),
            gradients(ours(operator, case))(parameters, x),
        ),
        weights,
        parameters,
        x,
    )
    assert_close(by_x, expected_x)
    assert_close(by_weights["kernel"], expected[0])
    assert_close(by_weights["bias"], expected[1])
