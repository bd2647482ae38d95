"""Tests of the error messages of `conv` and `conv_transpose`."""

import jax.numpy as jnp
import pytest

from deconv_jax.errors import InputError
from deconv_jax.ops import conv, conv_transpose

X, K = (1, 6, 6, 2), (3, 3, 2, 4)
Y = (1, 6, 6, 4)
ERRORS = [
    (conv, (6, 2), K, {}, ["kernel (3, 3, 2, 4)", "images (6, 2)"]),
    (conv, X, (3, 2), {}, ["1, 2 or 3 spatial axes", "(3, 2)"]),
    (
        conv,
        (1, 6, 6, 3),
        K,
        {},
        ["requires images with 2 channels", "(3, 3, 2, 4)", "(1, 6, 6, 3)"],
    ),
    (conv, X, (3, 3, 1, 3), {"groups": 2}, ["groups=2", "divisible", "(3, 3, 1, 3)"]),
    (conv, X, K, {"groups": 1.0}, ["groups", ">= 1", "1.0"]),
    (conv, (1, 6, 6, 0), (3, 3, 0, 4), {}, ["empty", "(3, 3, 0, 4)", "(1, 6, 6, 0)"]),
    (conv, X, K, {"stride": 0}, ["stride", ">= 1", "0"]),
    (conv, X, K, {"stride": (1, 2, 1)}, ["stride", "2 of them", "(1, 2, 1)"]),
    (conv, X, K, {"dilation": -1}, ["dilation", ">= 1", "-1"]),
    (conv, X, K, {"dilation": 1.5}, ["dilation", "1.5"]),
    (conv, X, K, {"padding": "same"}, ["padding", '"SAME"', "'same'"]),
    (conv, X, K, {"padding": 0.5}, ["padding", "pairs (before, after)", "0.5"]),
    (conv, X, K, {"padding": (1, 2)}, ["padding", "pairs (before, after)", "(1, 2)"]),
    (conv, X, K, {"padding": ((1, 1),)}, ["padding", "pairs (before, after)", "((1, 1),)"]),
    (conv, X, K, {"padding": ((1, 1), (0, -1))}, ["padding", ">= 0", "(0, -1)"]),
    (conv, X, K, {"padding": -1}, ["padding", ">= 0", "-1"]),
    (conv, X, K, {"padding_mode": "mirror"}, ["padding_mode", "reflect", "'mirror'"]),
    (
        conv,
        X,
        K,
        {"padding": "VALID", "dilation": 3},
        ["(6, 6)", "smaller than the dilated kernel or window", "(7, 7)"],
    ),
    (
        conv,
        X,
        K,
        {"padding": 6, "padding_mode": "reflect"},
        ["'reflect'", "at most 5", "(6, 6)", "((6, 6), (6, 6))"],
    ),
    (
        conv,
        X,
        K,
        {"padding": 7, "padding_mode": "circular"},
        ["'circular'", "at most 6", "(6, 6)", "((7, 7), (7, 7))"],
    ),
    (conv_transpose, (6, 4), K, {}, ["kernel (3, 3, 2, 4)", "images (6, 4)"]),
    (conv_transpose, X, K, {}, ["requires images with 4 channels", "(3, 3, 2, 4)", "(1, 6, 6, 2)"]),
    (conv_transpose, Y, K, {"groups": 3}, ["groups=3", "divisible", "(1, 6, 6, 4)"]),
    (conv_transpose, Y, K, {"stride": "2"}, ["stride", "'2'"]),
    (conv_transpose, Y, K, {"stride": 2, "output_padding": 1}, ['"SAME"', "output_padding=1"]),
    (
        conv_transpose,
        Y,
        K,
        {"stride": 2, "output_size": 13},
        ["output_size 13", "valid: 11 to 12"],
    ),
    (
        conv_transpose,
        Y,
        K,
        {"stride": 2, "padding": 1, "output_size": 12, "output_padding": 1},
        ["exclude each other", "output_padding=1", "output_size=12"],
    ),
    (
        conv_transpose,
        Y,
        K,
        {"stride": 2, "padding": 1, "output_padding": 2},
        ["output_padding", "smaller than the stride (2, 2)", "2"],
    ),
    (conv_transpose, Y, K, {"padding": 1, "output_padding": -1}, ["output_padding", ">= 0", "-1"]),
    (
        conv_transpose,
        Y,
        K,
        {"padding": 4},
        ["padding ((4, 4), (4, 4))", "crops the whole output", "(6, 6)", "(3, 3)"],
    ),
    (conv_transpose, Y, K, {"padding_mode": "mirror"}, ["padding_mode", "'mirror'"]),
]


@pytest.mark.usefixtures("no_type_checks")
@pytest.mark.parametrize(("operator", "images", "kernel", "options", "words"), ERRORS)
def test_errors_name_the_argument_and_its_value(operator, images, kernel, options, words):
    with pytest.raises(InputError) as raised:
        operator(jnp.ones(images), jnp.ones(kernel), **options)
    message = str(raised.value)
    assert [word for word in words if word not in message] == []
