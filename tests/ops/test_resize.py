"""Tests of resizing against PyTorch, a dense matrix and published PSNRs."""

import functools
import itertools
import math
import os
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from arrays import draw, from_torch, to_torch
from PIL import Image

from deconv_jax.errors import InputError
from deconv_jax.ops.resize import imresize, resize

torch.set_num_threads(1)
"""The arrays are tiny: more threads would contend with those of JAX."""


assert_close = functools.partial(np.testing.assert_allclose, rtol=0, atol=1e-12)


# `resize`

SIZES = [((5, 7), (10, 21)), ((9, 8), (3, 2)), ((6, 7), (5, 13)), ((1, 6), (4, 1))]
TIES = [((14, 18), (9, 21)), ((20, 22), (22, 25)), ((6, 2), (5, 49))]
"""Sizes with equally near pixels, where rounding decides which one is the nearest."""
INTERPOLATIONS = [
    *(("nearest", False, *sizes) for sizes in SIZES + TIES),
    *itertools.chain.from_iterable(
        (("bilinear", antialias, *sizes), ("bicubic", antialias, *sizes))
        for antialias in (False, True)
        for sizes in SIZES
    ),
]


@pytest.mark.slow
@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(("method", "antialias", "old", "new"), INTERPOLATIONS)
def test_resize_and_its_gradient_equal_pytorch(method, antialias, old, new):
    x, cotangent = draw(2, *old, 3), draw(2, *new, 3)

    @jax.jit
    def value_and_gradient(x, cotangent):
        y, pull = jax.vjp(lambda x: resize(x, new, method=method, antialias=antialias), x)
        return y, pull(cotangent)[0]

    theirs = to_torch(x).requires_grad_()
    mode = "nearest-exact" if method == "nearest" else method
    options = {} if method == "nearest" else {"align_corners": False, "antialias": antialias}
    expected = torch.nn.functional.interpolate(theirs, new, mode=mode, **options)
    expected.backward(to_torch(cotangent))
    y, gradient = value_and_gradient(jnp.asarray(x), jnp.asarray(cotangent))
    assert_close(y, from_torch(expected))
    assert_close(gradient, from_torch(theirs.grad))


# `imresize`

METHODS = ["nearest", "box", "bilinear", "bicubic"]


def weights_of_rows(scale, method, size=16):
    """Return the matrix that `imresize` applies to columns of `size` pixels."""
    return imresize(jnp.eye(size)[..., None], (scale, 1.0), method=method)[..., 0]


def row(start, numerators, denominator, size=16):
    weights = np.zeros(size)
    weights[start : start + len(numerators)] = np.divide(numerators, denominator)
    return weights


BY_HAND = [
    # Keys' kernel at distances 1/4, 3/4, 5/4, 7/4 is (111, 29, -9, -3) / 128. At scale 1/2 it is
    # halved and widened by 2, and covers pixels at distances 1/2, 3/2, 5/2, 7/2.
    ("bicubic", 0.5, 4, row(5, [-3, -9, 29, 111, 111, 29, -9, -3], 256)),
    # The three taps left of the image are mirrored onto its first three pixels.
    ("bicubic", 0.5, 0, row(0, [111 + 29, 111 - 9, 29 - 3, -9, -3], 256)),
    ("bicubic", 2.0, 8, row(2, [-3, 29, 111, -9], 128)),
    ("bicubic", 2.0, 0, row(0, [111 + 29, -9 - 3], 128)),
    ("bilinear", 0.5, 4, row(7, [1, 3, 3, 1], 8)),
    ("bilinear", 2.0, 8, row(3, [1, 3], 4)),
    ("box", 0.5, 4, row(8, [1, 1], 2)),
    ("box", 0.25, 1, row(4, [1, 1, 1, 1], 4)),
    ("nearest", 0.5, 4, row(9, [1], 1)),
    ("nearest", 2.0, 8, row(4, [1], 1)),
]


@pytest.mark.slow
@pytest.mark.parametrize(("method", "scale", "index", "expected"), BY_HAND)
def test_imresize_weights_equal_those_derived_by_hand(method, scale, index, expected):
    np.testing.assert_array_equal(weights_of_rows(scale, method)[index], expected)


def keys_cubic(t):
    t = abs(t)
    if t <= 1:
        return 1.5 * t**3 - 2.5 * t**2 + 1
    return -0.5 * t**3 + 2.5 * t**2 - 4 * t + 2 if t <= 2 else 0.0


SHAPES = {
    "nearest": lambda t: float(-0.5 <= t < 0.5),
    "box": lambda t: float(-0.5 <= t < 0.5),
    "bilinear": lambda t: max(0.0, 1.0 - abs(t)),
    "bicubic": keys_cubic,
}


def mirrored(pixel, size):
    while not 0 <= pixel < size:
        pixel = -1 - pixel if pixel < 0 else 2 * size - 1 - pixel
    return pixel


def dense_matrix(old, new, scale, method):
    """Compute the weight of each old pixel in each new one by the definition."""
    width = 1.0 if method == "nearest" or scale > 1 else 1.0 / scale
    matrix = np.zeros((new, old))
    for i in range(new):
        center = (i + 0.5) / scale - 0.5
        for pixel in range(math.floor(center - 3 * width), math.ceil(center + 3 * width) + 1):
            matrix[i, mirrored(pixel, old)] += SHAPES[method]((center - pixel) / width)
    return matrix / matrix.sum(axis=1, keepdims=True)


@pytest.mark.slow
@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("scale", "size"),
    [
        (1 / 3, None),
        ((0.7, 1.9), None),
        ((4.0, 0.15), None),
        (1, None),
        (None, (5, 17)),
        (None, (23, 1)),
    ],
)
def test_imresize_equals_the_dense_matrix_of_its_definition(method, scale, size):
    x = draw(11, 14, 2)
    scales = np.divide(size, (11, 14)) if scale is None else np.broadcast_to(scale, 2)
    new = [math.ceil(n * s) for n, s in zip((11, 14), scales, strict=True)] if scale else size
    rows, columns = (
        dense_matrix(*of_axis, method) for of_axis in zip((11, 14), new, scales, strict=True)
    )
    y = imresize(jnp.asarray(x), scale, size=size, method=method)
    assert y.shape == (*new, 2)
    assert_close(y, np.einsum("ah,bw,hwc->abc", rows, columns, x))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("scale", [(0.3, 0.5), (1.7, 3.0)])
def test_imresize_keeps_a_constant_image(method, scale):
    y = imresize(jnp.full((10, 12, 1), 0.7), scale, method=method)
    np.testing.assert_allclose(y, 0.7, rtol=1e-6)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(("method", "degree"), [("bilinear", 1), ("bicubic", 2)])
@pytest.mark.parametrize("scale", [2.0, 1.3])
def test_imresize_reproduces_polynomials_in_the_interior(method, degree, scale):
    """Linear interpolation is exact for ramps, Keys' cubic with a = -1/2 also for parabolas."""
    size = 12
    new = math.ceil(size * scale)
    center = (np.arange(new) + 0.5) / scale - 0.5
    inside = (center >= 1) & (center <= size - 2)
    for power in range(1, degree + 1):
        x = jnp.arange(float(size)).reshape(size, 1, 1) ** power
        y = imresize(x, (scale, 1.0), method=method)[:, 0, 0]
        assert_close(y[inside], center[inside] ** power, atol=1e-10)


@pytest.mark.parametrize(
    ("old", "scale", "new"),
    [((7, 9), 0.5, (4, 5)), ((7, 9), (0.3, 1.5), (3, 14)), ((255, 256), 1 / 3, (85, 86))],
)
def test_imresize_rounds_the_size_up(old, scale, new):
    shape = jax.eval_shape(lambda x: imresize(x, scale), jnp.zeros((*old, 1))).shape
    assert shape == (*new, 1)


# Published PSNRs

PUBLISHED = {"set5": (33.66, 30.39, 28.42), "set14": (30.24, 27.54, 26.00)}
"""PSNR in dB of bicubic super-resolution by 2, 3 and 4."""


def luminance(path):
    """Return MATLAB's `rgb2ycbcr(imread(path))(:, :, 1)`, in studio range."""
    pixels = np.asarray(Image.open(path), np.float64)
    if pixels.ndim == 2:
        return pixels
    return np.floor(16 + pixels @ [65.481, 128.553, 24.966] / 255 + 0.5)


@functools.partial(jax.jit, static_argnames="factor")
def reduced_and_enlarged(x, factor):
    return imresize(imresize(x, 1 / factor), float(factor))


def bicubic_psnr(path, factor):
    """Return the PSNR of an image that is reduced and enlarged again by bicubic interpolation.

    As in the test code published with arXiv:1501.00092, only the enlarged image is rounded to 8
    bits.
    """
    y = luminance(path)
    height, width = (n - n % factor for n in y.shape)
    y = y[:height, :width]
    large = reduced_and_enlarged(jnp.asarray(y[..., None] / 255, jnp.float32), factor)
    large = np.asarray(large, np.float64)[..., 0]
    large = np.clip(np.floor(255 * large + 0.5), 0, 255)
    error = (large - y)[factor:-factor, factor:-factor]
    return 10 * math.log10(255**2 / np.mean(error**2))


@pytest.mark.slow
@pytest.mark.skipif("DECONV_JAX_DATA" not in os.environ, reason="$DECONV_JAX_DATA is not set")
@pytest.mark.parametrize("folder", PUBLISHED)
def test_bicubic_super_resolution_has_the_published_psnr(folder):
    paths = sorted(Path(os.environ["DECONV_JAX_DATA"], folder).glob("*.bmp"))
    assert len(paths) == int(folder.removeprefix("set"))
    means = [np.mean([bicubic_psnr(path, factor) for path in paths]) for factor in (2, 3, 4)]
    np.testing.assert_allclose(means, PUBLISHED[folder], rtol=0, atol=0.01)


# Properties of both

LINEAR = {
    "resize": lambda x: resize(x, (3, 16), method="bicubic"),
    "resize antialiased": lambda x: resize(x, (3, 16), method="bilinear", antialias=True),
    "imresize": lambda x: imresize(x, (0.4, 1.5)),
    "imresize nearest": lambda x: imresize(x, (0.4, 1.5), method="nearest"),
}
linear = pytest.mark.parametrize("operator", LINEAR.values(), ids=LINEAR)


@pytest.mark.usefixtures("float64")
@linear
def test_linear_transpose_is_the_adjoint(operator):
    x = jnp.asarray(draw(2, 8, 10, 3))
    y = jnp.asarray(draw(*jax.eval_shape(operator, x).shape))
    (adjoint,) = jax.jit(lambda y: jax.linear_transpose(operator, x)(y))(y)
    assert_close(jnp.vdot(operator(x), y), jnp.vdot(x, adjoint), atol=1e-10)
    (again,) = jax.linear_transpose(lambda y: jax.linear_transpose(operator, x)(y)[0], y)(x)
    assert_close(again, operator(x))


@pytest.mark.slow
@pytest.mark.usefixtures("float64")
@linear
def test_forward_and_reverse_mode_give_the_same_hessian(operator):
    """The Hessian of |A x|^2 / 2 is A* A, so its product with v is the gradient at v."""
    x = jnp.asarray(draw(4, 6, 1))
    v = jnp.asarray(draw(4, 6, 1, seed=1))
    gradient = jax.grad(lambda x: jnp.sum(operator(x) ** 2) / 2)
    forward = jax.jvp(gradient, (x,), (v,))[1]
    reverse = jax.grad(lambda x: jnp.vdot(gradient(x), v))(x)
    assert_close(forward, gradient(v))
    assert_close(reverse, gradient(v))


@linear
def test_adjoint_gathers_and_never_scatters(operator):
    x = jnp.zeros((8, 10, 3))
    y = jax.eval_shape(operator, x)
    lowered = jax.jit(lambda y: jax.linear_transpose(operator, x)(y)).lower(y).as_text()
    assert "gather" in lowered
    assert "scatter" not in lowered


@pytest.mark.slow
@linear
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


@linear
def test_half_precision_is_the_float32_result_rounded_once(operator):
    x = jnp.asarray(draw(8, 10, 3), jnp.bfloat16)
    y = operator(x)
    assert y.dtype == jnp.bfloat16
    np.testing.assert_array_equal(y, operator(x.astype(jnp.float32)).astype(jnp.bfloat16))


# Errors

X = (2, 6, 6, 8)
ERRORS = [
    (lambda x: resize(x, 12), X, ["size", "height and a width", "12"]),
    (lambda x: resize(x, (12, 0)), X, ["size", ">= 1", "(12, 0)"]),
    (lambda x: resize(x, (12, 6.0)), X, ["size", "ints", "(12, 6.0)"]),
    (lambda x: resize(x, (3, 3), method="bicubi"), X, ["method", "'bicubi'", "'bicubic'"]),
    (lambda x: resize(x, (3, 3), method="nearest", antialias=True), X, ["antialias", "bilinear"]),
    (lambda x: resize(x.astype(int), (3, 3)), X, ["floats", "int32"]),
    (lambda x: imresize(x), X, ["one of scale and size", "None"]),
    (lambda x: imresize(x, 2.0, size=(3, 3)), X, ["one of scale and size", "2.0", "(3, 3)"]),
    (lambda x: imresize(x, -0.5), X, ["scale", "> 0", "-0.5"]),
    (lambda x: imresize(x, (0.5, math.inf)), X, ["scale", "pair", "(0.5, inf)"]),
    (lambda x: imresize(x, (0.5, 0.5, 1.0)), X, ["scale", "pair", "(0.5, 0.5, 1.0)"]),
    (lambda x: imresize(x, 0.5, method="cubic"), X, ["method", "'cubic'", "'bicubic'"]),
]


@pytest.mark.usefixtures("no_type_checks")
@pytest.mark.parametrize(("operator", "shape", "words"), ERRORS)
def test_errors_name_the_argument_and_its_value(operator, shape, words):
    with pytest.raises(InputError) as raised:
        operator(jnp.ones(shape))
    message = str(raised.value)
    assert [word for word in words if word not in message] == []


def test_disabling_jit_changes_no_result():
    x = jnp.asarray(np.random.default_rng(0).random((5, 6, 2)), jnp.float32)
    expected = imresize(x, 0.5)
    with jax.disable_jit():
        np.testing.assert_allclose(imresize(x, 0.5), expected, rtol=1e-6)


@pytest.mark.parametrize("shape", [(4, 4), (0, 4, 1)])
@pytest.mark.usefixtures("no_type_checks")
def test_arrays_that_are_no_images_are_refused(shape):
    for function in (functools.partial(resize, size=(2, 2)), functools.partial(imresize, scale=2)):
        with pytest.raises(InputError, match=re.escape(str(shape))):
            function(jnp.ones(shape))
