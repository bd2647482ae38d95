"""Tests of the error messages of pooling."""

import jax.numpy as jnp
import pytest

from deconv_jax import ops
from deconv_jax.errors import InputError

IMAGE = (1, 6, 6, 2)
ERRORS = [
    (ops.max_pool, IMAGE, {"window": 0}, ["window", ">= 1", "0"]),
    (ops.max_pool, IMAGE, {"window": (2, 1.5)}, ["window", ">= 1", "(2, 1.5)"]),
    (ops.max_pool, IMAGE, {"window": "2"}, ["window", "'2'"]),
    (ops.max_pool, IMAGE, {"window": ()}, ["window=()", "spatial axis", "(1, 6, 6, 2)"]),
    (ops.max_pool, (6, 2), {"window": 2}, ["window=2", "one batch axis", "(6, 2)"]),
    (ops.max_pool, (6, 2), {"window": (2, 2)}, ["window=(2, 2)", "spatial axis", "(6, 2)"]),
    (ops.max_pool, IMAGE, {"window": 2, "stride": 0}, ["stride", ">= 1", "0"]),
    (
        ops.max_pool,
        IMAGE,
        {"window": 2, "stride": (1, 2, 1)},
        ["stride", "2 of them", "(1, 2, 1)"],
    ),
    (ops.max_pool, IMAGE, {"window": 2, "padding": "same"}, ["padding", '"SAME"', "'same'"]),
    (ops.max_pool, IMAGE, {"window": 2, "padding": -1}, ["padding", ">= 0", "-1"]),
    (ops.max_pool, IMAGE, {"window": 2, "padding": (1, 1)}, ["padding", "2 pairs", "(1, 1)"]),
    (
        ops.max_pool,
        IMAGE,
        {"window": 2, "padding": ((0, 1),)},
        ["padding", "2 pairs", "((0, 1),)"],
    ),
    (
        ops.max_pool,
        IMAGE,
        {"window": 2, "padding": 2},
        ["padding", "smaller than", "(2, 2)", "got 2"],
    ),
    (
        ops.avg_pool,
        IMAGE,
        {"window": (3, 2), "padding": ((2, 2), (0, 2))},
        ["padding", "smaller than the window (3, 2)", "((2, 2), (0, 2))"],
    ),
    (
        ops.avg_pool,
        IMAGE,
        {"window": 7},
        ["(7, 7)", "smaller than the dilated kernel or window", "(6, 6)"],
    ),
    (
        ops.avg_pool,
        (1, 0, 6, 2),
        {"window": 2},
        ["(2, 2)", "smaller than the dilated kernel or window", "(0, 6)"],
    ),
    (
        ops.avg_unpool,
        IMAGE,
        {"window": 2, "output_size": (12, 14)},
        ["output_size (12, 14)", "(6, 6)", "12 to 13, 12 to 13"],
    ),
    (ops.avg_unpool, IMAGE, {"window": 2, "output_size": (12,)}, ["output_size", "2 of", "(12,)"]),
    (
        ops.avg_unpool,
        (1, 1, 1, 2),
        {"window": 3, "padding": 2},
        ["padding ((2, 2), (2, 2))", "crops the whole output", "(1, 1)", "(3, 3)"],
    ),
    (ops.avg_unpool, (6, 2), {"window": 2}, ["window=2", "y", "(6, 2)"]),
    (ops.global_max_pool, IMAGE, {"rank": 4}, ["rank", "from 1 to 3", "(1, 6, 6, 2)", "got 4"]),
    (ops.global_max_pool, (6, 2), {}, ["rank", "from 1 to 1", "(6, 2)", "got 0"]),
    (ops.global_avg_pool, (1, 0, 6, 2), {}, ["at least one pixel", "(1, 0, 6, 2)"]),
    (ops.blur_pool, IMAGE, {"stride": 0}, ["stride", "at least 1", "0"]),
    (ops.blur_pool, IMAGE, {"stride": 2, "filter_size": 0}, ["filter_size", "at least 1", "0"]),
    (ops.blur_pool, IMAGE, {"stride": 2, "filter_size": 13}, ["'reflect'", "at most 5"]),
]


def assert_message(words, function, *arguments, **options):
    with pytest.raises(InputError) as raised:
        function(*arguments, **options)
    message = str(raised.value)
    assert "\n" not in message
    assert [word for word in words if word not in message] == []


@pytest.mark.usefixtures("no_type_checks")
@pytest.mark.parametrize(("function", "shape", "options", "words"), ERRORS)
def test_errors_name_the_argument_and_its_value(function, shape, options, words):
    assert_message(words, function, jnp.ones(shape), **options)


@pytest.mark.usefixtures("no_type_checks")
@pytest.mark.parametrize("pool", [ops.max_pool, ops.avg_pool])
def test_integer_images_are_refused(pool):
    assert_message(["x", "floating", "uint8"], pool, jnp.zeros(IMAGE, jnp.uint8), 2)
    assert_message(["x", "floating", "uint8"], ops.global_avg_pool, jnp.zeros(IMAGE, jnp.uint8))
