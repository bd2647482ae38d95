"""Tests of unpooling: adjoint and inverse of pooling."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from arrays import draw
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from deconv_jax import ops
from deconv_jax.errors import InputError


def assert_close(actual, expected, tolerance=1e-12):
    scale = max(1.0, float(np.max(np.abs(expected))))
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance * scale)


# (size of the images, arguments of the pooling).
CASES = {
    "1-d": ((7,), {"window": (2,)}),
    "2x2, remainder": ((7, 9), {"window": (2, 2)}),
    "3x3, stride 2": ((7, 8), {"window": (3, 3), "stride": 2}),
    "3-d, overlapping, padded": (
        (4, 5, 6),
        {"window": (3, 2, 3), "stride": (2, 1, 2), "padding": 1},
    ),
    "SAME, even": ((7, 6), {"window": (2, 2), "padding": "SAME"}),
    "SAME, 3x3, stride 2": ((7, 8), {"window": (3, 3), "stride": 2, "padding": "SAME"}),
    "SAME, 4x3, stride 1": ((5, 6), {"window": (4, 3), "stride": 1, "padding": "SAME"}),
    "asymmetric": ((6, 7), {"window": (3, 3), "stride": 2, "padding": ((0, 2), (2, 1))}),
    "window larger than the image": (
        (2, 3),
        {"window": (4, 5), "stride": 1, "padding": ((3, 1), (2, 4))},
    ),
}
on_cases = pytest.mark.parametrize(("size", "options"), CASES.values(), ids=CASES)


@pytest.mark.slow
@on_cases
def test_max_unpool_is_the_adjoint_of_the_linearized_max_pool(size, options):
    """<max_pool'(x) d, y> = <d, ops.max_unpool(y, switches)>, in forward and reverse mode."""

    @jax.jit
    def forward_and_back(x, d):
        y, forward = jax.jvp(functools.partial(ops.max_pool, **options), (x,), (d,))
        y = jnp.asarray(draw(*y.shape, seed=2))
        (pulled,) = jax.vjp(functools.partial(ops.max_pool, **options), x)[1](y)
        _, switches = ops.max_pool_with_switches(x, **options)
        return y, forward, pulled, ops.max_unpool(y, switches, size)

    x, d = draw(2, *size, 3), draw(2, *size, 3, seed=1)
    x[1] = np.random.default_rng(0).integers(0, 3, x[1].shape)  # many ties
    with jax.enable_x64(True):
        y, forward, pulled, back = forward_and_back(x, d)
    assert back.shape == x.shape
    assert abs(np.vdot(forward, y) - np.vdot(d, back)) <= 1e-11
    assert_close(back, pulled)


@pytest.mark.parametrize(
    ("size", "window"), [((6,), (2,)), ((6, 9), (2, 3)), ((4, 4, 6), (2, 2, 2))]
)
def test_max_unpool_equals_pytorch_if_windows_do_not_overlap(size, window):
    x = torch.tensor(draw(2, *size, 3)).movedim(-1, 1)
    pool = getattr(torch.nn.functional, f"max_pool{len(size)}d")
    unpool = getattr(torch.nn.functional, f"max_unpool{len(size)}d")
    y, indices = pool(x, window, return_indices=True)
    expected = unpool(y, indices, window).movedim(1, -1)
    with jax.enable_x64(True):
        unpooled = jax.jit(ops.max_unpool, static_argnums=2)
        ours = unpooled(y.movedim(1, -1).numpy(), indices.movedim(1, -1).numpy(), size)
    np.testing.assert_array_equal(ours, expected.numpy())


@functools.partial(jax.jit, static_argnames=("window", "stride"))
def pooled_and_unpooled(x, **options):
    """Return maxima, switches, and the image unpooled from them."""
    y, switches = ops.max_pool_with_switches(x, **options)
    return y, switches, ops.max_unpool(y, switches, x.shape[-1 - len(options["window"]) : -1])


def test_max_unpool_sums_values_sent_to_one_pixel():
    x = np.array([0.0, 5.0, 0.0, 1.0, 0.0], np.float32).reshape(5, 1)
    y, switches, back = map(np.ravel, pooled_and_unpooled(x, window=(3,), stride=1))
    assert y.tolist() == [5.0, 5.0, 1.0]
    assert switches.tolist() == [1, 1, 3]
    assert back.tolist() == [0.0, 10.0, 0.0, 1.0, 0.0]


def test_max_unpool_drops_values_outside_of_the_output():
    unpool = jax.jit(lambda y, switches: ops.max_unpool(y, switches, (3,)))
    x = unpool(np.ones((3, 1), np.float32), np.array([[1], [7], [3]]))
    assert np.ravel(x).tolist() == [0.0, 1.0, 0.0]


def test_max_pool_inverts_max_unpool_if_windows_do_not_overlap():
    """The values are positive, so they are the maxima of the unpooled image."""
    x = np.abs(draw(2, 6, 6, 3).astype(np.float32))
    y, switches, back = pooled_and_unpooled(x, window=(2, 2))
    again, same, _ = pooled_and_unpooled(back, window=(2, 2))
    np.testing.assert_array_equal(again, y)
    np.testing.assert_array_equal(same, switches)


@on_cases
def test_avg_unpool_is_the_adjoint_of_avg_pool_times_the_area(size, options):
    @jax.jit
    def forward_and_back(x):
        pooled = ops.avg_pool(x, **options)
        y = jnp.asarray(draw(*pooled.shape, seed=1))
        return pooled, y, ops.avg_unpool(y, **options, output_size=size)

    x = draw(2, *size, 3)
    with jax.enable_x64(True):
        pooled, y, back = forward_and_back(x)
    assert back.shape == x.shape
    assert abs(math.prod(options["window"]) * np.vdot(pooled, y) - np.vdot(x, back)) <= 1e-11


def test_avg_unpool_copies_each_value_to_its_window():
    y = draw(2, 3, 4, 5).astype(np.float32)
    x = jax.jit(lambda y: ops.avg_unpool(y, (2, 3)))(y)
    np.testing.assert_array_equal(x, y.repeat(2, axis=1).repeat(3, axis=2))


disjoint = st.lists(
    st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(0, 2)), min_size=1, max_size=3
)


@settings(max_examples=10, deadline=None, derandomize=True)
@given(axes=disjoint)
def test_avg_pool_inverts_avg_unpool_if_windows_do_not_overlap(axes):
    size, window, gap = zip(*axes, strict=True)
    stride = tuple(w + g for w, g in zip(window, gap, strict=True))
    y = draw(*size, 2).astype(np.float32)
    options = {"window": window, "stride": stride}
    again = jax.jit(lambda y: ops.avg_pool(ops.avg_unpool(y, **options), **options))(y)
    assert_close(again, y, 1e-6)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    size=st.integers(1, 9),
    window=st.integers(1, 4),
    stride=st.integers(1, 5),
    padding=st.tuples(st.integers(0, 3), st.integers(0, 3)),
)
def test_avg_unpool_returns_the_smallest_size_that_is_pooled_to_its_input(
    size, window, stride, padding
):
    assume(max(padding) < window)
    options = {"window": (window,), "stride": (stride,), "padding": (padding,)}
    y = jax.ShapeDtypeStruct((size, 1), jnp.float32)
    try:
        x = jax.eval_shape(functools.partial(ops.avg_unpool, **options), y)
    except InputError:  # the padding crops the whole output
        assume(False)
    pool = functools.partial(ops.avg_pool, **options)
    assert jax.eval_shape(pool, x).shape == y.shape
    smaller = jax.ShapeDtypeStruct((x.shape[0] - 1, 1), jnp.float32)
    if x.shape[0] - 1 + sum(padding) >= window:
        assert jax.eval_shape(pool, smaller).shape != y.shape


def test_max_unpool_drops_negative_positions():
    y, switches = jnp.ones((1, 1, 3, 1)), jnp.array([-1, 2, 99], jnp.int32).reshape(1, 1, 3, 1)
    assert ops.max_unpool(y, switches, (2, 2)).ravel().tolist() == [0.0, 0.0, 1.0, 0.0]


IMAGE = (1, 6, 6, 2)


@pytest.mark.usefixtures("no_type_checks")
@pytest.mark.parametrize(
    ("switches_shape", "output_size", "words"),
    [
        ((1, 6, 5, 2), (12, 12), ["switches", "(1, 6, 6, 2)", "(1, 6, 5, 2)"]),
        (IMAGE, (12, 0), ["output_size", ">= 1", "(12, 0)"]),
        (IMAGE, (4, 4, 4, 4), ["output_size=(4, 4, 4, 4)", "y"]),
    ],
)
def test_errors_name_the_argument_and_its_value(switches_shape, output_size, words):
    with pytest.raises(InputError) as raised:
        ops.max_unpool(jnp.ones(IMAGE), jnp.zeros(switches_shape, jnp.int32), output_size)
    assert [word for word in words if word not in str(raised.value)] == []
