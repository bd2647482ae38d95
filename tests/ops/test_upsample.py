"""Tests of pixel shuffles and learned upsampling against PyTorch, ONNX and their definitions."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from arrays import draw, from_torch, to_torch

from deconv_jax.errors import InputError
from deconv_jax.ops.conv import conv
from deconv_jax.ops.resize import resize
from deconv_jax.ops.upsample import depth_to_space, space_to_depth, upsample, upsample_kernel_shape

torch.set_num_threads(1)
"""The arrays are tiny: more threads would contend with those of JAX."""


assert_close = functools.partial(np.testing.assert_allclose, rtol=0, atol=1e-12)


@pytest.mark.parametrize("factor", [1, 2, 3])
def test_crd_shuffles_equal_pytorch(factor):
    deep = jnp.asarray(draw(2, 3, 4, 2 * factor**2), jnp.float32)
    wide = depth_to_space(deep, factor)
    shuffled = torch.nn.functional.pixel_shuffle(to_torch(deep), factor)
    np.testing.assert_array_equal(wide, from_torch(shuffled))
    unshuffled = torch.nn.functional.pixel_unshuffle(to_torch(wide), factor)
    np.testing.assert_array_equal(space_to_depth(wide, factor), from_torch(unshuffled))


@pytest.mark.parametrize("channel_order", ["CRD", "DCR"])
def test_depth_to_space_equals_the_definition_of_onnx(channel_order):
    height, width, channels, rows, columns = 2, 3, 4, 2, 3
    x = jnp.arange(height * width * channels * rows * columns).reshape(height, width, -1)
    y = depth_to_space(x, (rows, columns), channel_order=channel_order)
    assert y.shape == (height * rows, width * columns, channels)
    for i, j, c in np.ndindex(y.shape):
        within = i % rows * columns + j % columns
        depth = {"CRD": c * rows * columns + within, "DCR": within * channels + c}[channel_order]
        assert y[i, j, c] == x[i // rows, j // columns, depth]


@pytest.mark.slow
@pytest.mark.parametrize("channel_order", ["CRD", "DCR"])
@pytest.mark.parametrize("factors", [(3,), (2, 3), (1, 2, 3)])
@pytest.mark.parametrize("batch", [(), (2, 3)])
def test_space_to_depth_inverts_depth_to_space(batch, factors, channel_order):
    size = [2 * f for f in factors]
    x = jnp.asarray(draw(*batch, *size, 5))
    deep = space_to_depth(x, factors, channel_order=channel_order)
    assert deep.shape == (*batch, *(2 for _ in factors), 5 * math.prod(factors))
    np.testing.assert_array_equal(depth_to_space(deep, factors, channel_order=channel_order), x)


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_an_int_factor_applies_to_every_spatial_axis(rank):
    x = jnp.asarray(draw(2, *(4,) * rank, 3))
    np.testing.assert_array_equal(space_to_depth(x, 2), space_to_depth(x, (2,) * rank))


@pytest.mark.parametrize("method", ["transposed", "subpixel", "resize"])
@pytest.mark.parametrize(("kernel_size", "factor"), [(3, 1), (3, 2), (4, 2), (5, 3)])
def test_upsample_multiplies_the_size_by_the_factor(method, kernel_size, factor):
    kernel = jnp.zeros(upsample_kernel_shape(method, kernel_size, 4, 3, factor))
    y = jax.eval_shape(
        lambda x: upsample(x, kernel, factor, method=method), jnp.zeros((2, 5, 6, 4))
    )
    assert y.shape == (2, 5 * factor, 6 * factor, 3)


@pytest.mark.usefixtures("float64")
def test_transposed_upsampling_is_the_adjoint_of_a_strided_convolution():
    x, y = draw(2, 4, 5, 4), draw(2, 8, 10, 3)
    kernel = jnp.asarray(draw(*upsample_kernel_shape("transposed", 4, 4, 3, 2)))
    up = upsample(jnp.asarray(x), kernel, 2, method="transposed")
    down = conv(jnp.asarray(y), kernel, stride=2)
    assert_close(np.vdot(up, y), np.vdot(x, down), atol=1e-10)


@pytest.mark.usefixtures("float64")
def test_subpixel_upsampling_equals_convolution_and_shuffle_of_pytorch():
    x, kernel = draw(2, 4, 5, 4), draw(*upsample_kernel_shape("subpixel", 3, 4, 3, 2))
    weights = torch.from_numpy(kernel.transpose(3, 2, 0, 1).copy())
    expected = torch.nn.functional.conv2d(to_torch(x), weights, padding=1)
    expected = from_torch(torch.nn.functional.pixel_shuffle(expected, 2))
    assert_close(upsample(jnp.asarray(x), jnp.asarray(kernel), 2, method="subpixel"), expected)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("factor", [2, 3])
def test_subpixel_upsampling_with_a_repeated_kernel_is_nearest_neighbor(factor):
    """ICNR (arXiv:1707.02937) starts with such a kernel, without checkerboard artifacts."""
    x, kernel = jnp.asarray(draw(2, 4, 5, 4)), jnp.asarray(draw(3, 3, 4, 3))
    repeated = jnp.repeat(kernel, factor**2, axis=-1)
    y = upsample(x, repeated, factor, method="subpixel")
    small = conv(x, kernel)
    assert_close(y, resize(small, (4 * factor, 5 * factor), method="nearest"))
    assert_close(y, small.repeat(factor, axis=1).repeat(factor, axis=2))


@pytest.mark.usefixtures("float64")
def test_resize_upsampling_convolves_the_repeated_pixels():
    x, kernel = jnp.asarray(draw(2, 4, 5, 4)), jnp.asarray(draw(3, 3, 4, 3))
    expected = conv(x.repeat(2, axis=1).repeat(2, axis=2), kernel)
    assert_close(upsample(x, kernel, 2, method="resize"), expected)


OPERATORS = {
    "depth_to_space": lambda x: depth_to_space(x, (2, 2)),
    "space_to_depth": lambda x: space_to_depth(x, (2, 2)),
    "transposed": lambda x: upsample(x, jnp.ones((4, 4, 3, 4)), 2, method="transposed"),
    "subpixel": lambda x: upsample(x, jnp.ones((3, 3, 4, 8)), 2, method="subpixel"),
    "resize convolution": lambda x: upsample(x, jnp.ones((3, 3, 4, 3)), 2, method="resize"),
}
every = pytest.mark.parametrize("operator", OPERATORS.values(), ids=OPERATORS)


@pytest.mark.slow
@every
def test_leading_axes_are_batch_axes_under_jit_and_vmap(operator):
    x = jnp.asarray(draw(2, 3, 6, 8, 4), jnp.float32)
    many = operator(x)
    assert many.shape[:2] == x.shape[:2]

    @jax.jit
    def other_ways(x):
        mapped = jax.vmap(operator, in_axes=2, out_axes=1)(jnp.moveaxis(x[1], 0, 2))
        return operator(x), operator(x[1]), operator(x[1, 2]), mapped.swapaxes(0, 1)

    expected = many, many[1], many[1, 2], many[1]
    for y, the_same in zip(other_ways(x), expected, strict=True):
        np.testing.assert_allclose(y, the_same, rtol=1e-5, atol=1e-5)


def test_empty_batches_stay_empty():
    assert space_to_depth(jnp.ones((0, 4, 4, 1)), 2).shape == (0, 2, 2, 4)
    assert depth_to_space(jnp.ones((0, 2, 2, 4)), 2).shape == (0, 4, 4, 1)


X = (2, 6, 6, 8)
ERRORS = [
    (lambda x: depth_to_space(x, 3), X, ["divisible by 9", "(2, 6, 6, 8)"]),
    (lambda x: depth_to_space(x, 0), X, ["factor", ">= 1", "0"]),
    (lambda x: depth_to_space(x, 2), (6, 8), ["factor", "(batch, *size, channels)", "(6, 8)"]),
    (lambda x: depth_to_space(x, (2,) * 4), X, ["factor", "(2, 2, 2, 2)", "(2, 6, 6, 8)"]),
    (lambda x: depth_to_space(x, 2, channel_order="DRC"), X, ["channel_order", "'DRC'", "'DCR'"]),
    (lambda x: space_to_depth(x, 4), X, ["divisible", "4", "(2, 6, 6, 8)"]),
    (
        lambda x: upsample(x, jnp.ones((3, 3, 8, 8)), 0, method="resize"),
        X,
        ["factor", "at least 1", "0"],
    ),
    (
        lambda x: upsample(x, jnp.ones((3, 3, 8, 8)), 2, method="subpixels"),
        X,
        ["method", "'subpixels'", "'subpixel'"],
    ),
    (
        lambda x: upsample(x, jnp.ones((3, 3, 8, 6)), 2, method="subpixel"),
        X,
        ["divisible by 4", "(2, 6, 6, 6)"],
    ),
    (
        lambda x: upsample_kernel_shape("transpose", 3, *x.shape[-2:], 2),
        X,
        ["method", "'transpose'", "'transposed'"],
    ),
]


@pytest.mark.usefixtures("no_type_checks")
@pytest.mark.parametrize(("operator", "shape", "words"), ERRORS)
def test_errors_name_the_argument_and_its_value(operator, shape, words):
    with pytest.raises(InputError) as raised:
        operator(jnp.ones(shape))
    message = str(raised.value)
    assert [word for word in words if word not in message] == []
