"""Tests of the size arithmetic of both operators."""

import jax.numpy as jnp
import numpy as np
import pytest

from deconv_jax.errors import InputError
from deconv_jax.ops import conv, conv_output_size, conv_transpose, conv_transpose_output_size


@pytest.mark.slow
@pytest.mark.parametrize("size", [5, 6, 7])
@pytest.mark.parametrize("kernel_size", [1, 2, 3, 4])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("padding", ["SAME", "VALID", 1])
def test_output_size_accepts_exactly_the_sizes_that_conv_maps_to_the_input(
    size, kernel_size, stride, padding
):
    def reached(n):
        try:
            return conv_output_size((n,), (kernel_size,), stride=stride, padding=padding) == (size,)
        except InputError:
            return False

    for n in range(1, 40):
        try:
            chosen = conv_transpose_output_size(
                (size,), (kernel_size,), stride=stride, padding=padding, output_size=n
            )
        except InputError:
            assert not reached(n)
        else:
            assert chosen == (n,)
            assert reached(n)
    default = conv_transpose_output_size((size,), (kernel_size,), stride=stride, padding=padding)
    assert reached(*default)


@pytest.mark.slow
@pytest.mark.parametrize("kernel_size", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_same_padding_divides_and_multiplies_the_size_by_the_stride(kernel_size, stride):
    kernel = jnp.ones((kernel_size, kernel_size, 1, 1))
    x = jnp.ones((1, 7, 9, 1))
    down = conv(x, kernel, stride=stride)
    assert down.shape == (1, -(-7 // stride), -(-9 // stride), 1)
    up = conv_transpose(x, kernel, stride=stride)
    assert up.shape == (1, 7 * stride, 9 * stride, 1)


def test_same_padding_puts_the_extra_pixel_at_the_end():
    """A 2-tap kernel that selects its second tap shifts the image by one pixel."""
    x = jnp.arange(1.0, 5.0).reshape(1, 4, 1, 1)
    second_tap = jnp.array([0.0, 1.0]).reshape(2, 1, 1, 1)
    assert conv(x, second_tap)[0, :, 0, 0].tolist() == [2.0, 3.0, 4.0, 0.0]


@pytest.mark.parametrize("output_padding", [0, 1, 2])
def test_output_padding_chooses_among_the_sizes_that_conv_maps_to_the_input(output_padding):
    """arXiv:1603.07285, relationship 14: 3 * (4 - 1) + 5 - 2 * 1 + a = 12 + a."""
    kernel = jnp.ones((5, 5, 1, 1))
    y = jnp.ones((1, 4, 4, 1))
    options = {"stride": 3, "padding": 1}
    x = conv_transpose(y, kernel, **options, output_padding=output_padding)
    assert x.shape == (1, 12 + output_padding, 12 + output_padding, 1)
    assert conv(x, kernel, **options).shape == y.shape


@pytest.mark.usefixtures("no_type_checks")
@pytest.mark.parametrize("function", [conv_output_size, conv_transpose_output_size])
@pytest.mark.parametrize(
    ("size", "kernel_size", "word"),
    [
        ((32, 32, 32), (3, 3), "2 of them"),
        ((32,), (3, 3), "2 of them"),
        (32, 3, "one int per axis"),
    ],
)
def test_size_and_kernel_size_must_have_equal_rank(function, size, kernel_size, word):
    with pytest.raises(InputError, match=word):
        function(size, kernel_size)


@pytest.mark.usefixtures("no_type_checks")
def test_arguments_may_be_numpy_integers():
    two, one = np.int64(2), np.uint8(1)
    x, kernel = jnp.arange(144.0).reshape(1, 6, 6, 4), jnp.arange(72.0).reshape(3, 3, 2, 4)
    expected = conv(x, kernel, stride=2, padding=1, dilation=1, groups=2)
    options = {"padding": one, "dilation": (one, one), "groups": two}
    np.testing.assert_array_equal(conv(x, kernel, stride=two, **options), expected)
    back = conv_transpose(expected, kernel, stride=(two, two), output_padding=one, **options)
    assert back.shape == x.shape
    again = conv(x, kernel, stride=np.array([2, 2]), **options)
    np.testing.assert_array_equal(again, expected)
    with pytest.raises(InputError, match="stride must be an int >= 1"):
        conv(x, kernel, stride=2.0, groups=2)
