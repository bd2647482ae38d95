"""Fixed-point layers equal the floating-point layers, and integer arithmetic exactly."""

import itertools

import jax.numpy as jnp
import numpy as np
import pytest

from deconv_jax import ops
from deconv_jax.errors import InputError
from deconv_jax.inference.compression.fixed_point import FixedPointLayer


@pytest.mark.parametrize("stride", [1, 2])
def test_layer_equals_float_layer_and_integer_arithmetic(stride):
    random = np.random.default_rng(stride)
    size = 3 if stride == 1 else 5
    kernel = random.normal(0, 0.2, (size, size, 4, 6)).astype(np.float32)
    bias = random.normal(size=6 if stride == 1 else 4).astype(np.float32)
    layer = FixedPointLayer.from_weights({"kernel": kernel, "bias": bias}, stride)
    x = random.integers(-40, 40, (5, 7, 4 if stride == 1 else 6)).astype(np.float64)
    apply = ops.conv if stride == 1 else ops.conv_transpose
    expected = np.asarray(
        apply(jnp.asarray(x[None], jnp.float32), jnp.asarray(kernel), stride=stride)
    )
    output = layer(x)
    np.testing.assert_allclose(output, expected[0] + bias, atol=40 * size**2 * 6 * 2**-13 + 2**-10)
    # The output is a multiple of 2^-10 and equals a computation in integers only.
    np.testing.assert_array_equal(output * 2**10, np.rint(output * 2**10))
    integers, weights = x.astype(np.int64) << 10, layer.kernel.astype(np.int64)
    summed = np.zeros((*output.shape[:2], len(layer.bias)), np.int64) + layer.bias
    for (row, column), (i, j) in itertools.product(np.ndindex(5, 7), np.ndindex(size, size)):
        # The convolution's output (row, column) reads input (row + i - 1, column + j - 1); the
        # transposed one adds input (row, column) to that output, in steps of two.
        other = stride * row + i - 1, stride * column + j - 1
        bounds = summed.shape if stride > 1 else x.shape
        if not (0 <= other[0] < bounds[0] and 0 <= other[1] < bounds[1]):
            continue
        if stride == 1:
            summed[row, column] += integers[other] @ weights[i, j]
        else:
            summed[other] += weights[i, j] @ integers[row, column]
    np.testing.assert_array_equal(output * 2**10, (summed + (1 << 11)) >> 12)


def test_too_large_weights_are_refused():
    weights = {"kernel": np.full((3, 3, 1, 1), 1e7), "bias": np.zeros(1)}
    with pytest.raises(InputError, match="too large"):
        FixedPointLayer.from_weights(weights, 1)
