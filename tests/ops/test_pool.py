"""Pooling against PyTorch, against its adjoints' defining law, and in every mode of derivative."""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from jaxtyping import config as jaxtyping_config

from deconv_jax.errors import InputError
from deconv_jax.ops.pool import (
    avg_pool,
    avg_unpool,
    global_avg_pool,
    global_max_pool,
    max_pool,
    max_pool_with_switches,
    max_unpool,
)

torch.set_num_threads(1)
"""The arrays are tiny: threads would only contend with JAX's."""


def draw(*shape, seed=0):
    """Standard normal numbers, float64, different for every shape and seed."""
    return np.random.default_rng((seed, *shape)).standard_normal(shape)


def draw_with_ties(*shape):
    """Normal numbers in the first image; small integers, equal in most windows, in the others."""
    x = np.random.default_rng(shape).integers(0, 3, shape).astype(np.float64)
    x[0] = draw(*shape[1:])
    return x


def assert_close(actual, expected, tolerance=1e-12):
    """Elementwise, relative to the larger of 1 and the largest element."""
    scale = max(1.0, float(np.max(np.abs(np.asarray(expected)))))
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance * scale)


@dataclasses.dataclass(frozen=True)
class Case:
    """Arguments of a pooling with the spatial size it is applied to."""

    size: tuple[int, ...]
    window: tuple[int, ...]
    stride: Any = None
    padding: Any = "VALID"

    @property
    def rank(self):
        return len(self.size)

    @property
    def options(self):
        return {"stride": self.stride, "padding": self.padding}

    @property
    def shape(self):
        return (2, *self.size, 3)

    def pooled(self, pool, **options):
        """A function of the images alone."""
        return functools.partial(pool, window=self.window, **self.options, **options)


# PyTorch allows padding on every side alike, up to half the window.
GRID = {
    "1-d": Case((7,), (2,)),
    "1-d, overlapping, padded": Case((8,), (3,), 2, 1),
    "2x2": Case((6, 8), (2, 2)),
    "2x2, rest left over": Case((7, 9), (2, 2)),
    "3x3, stride 2": Case((7, 8), (3, 3), 2),
    "3x3, stride 2, padded": Case((7, 8), (3, 3), 2, 1),
    "3x3, stride 1, padded": Case((5, 6), (3, 3), 1, 1),
    "2x5, stride (3, 1), padded": Case((7, 8), (2, 5), (3, 1), ((1, 1), (2, 2))),
    "stride larger than the window": Case((9, 8), (2, 2), 3, 1),
    "one window": Case((4, 5), (4, 5)),
    "3-d": Case((4, 5, 6), (2, 2, 2)),
    "3-d, overlapping, padded": Case((4, 5, 6), (3, 2, 3), (2, 1, 2), 1),
}
on_grid = pytest.mark.parametrize("case", GRID.values(), ids=GRID.keys())

UNLIKE_PYTORCH = {
    "SAME, even": Case((7, 6), (2, 2), None, "SAME"),
    "SAME, 3x3, stride 2": Case((7, 8), (3, 3), 2, "SAME"),
    "SAME, 4x3, stride 1": Case((5, 6), (4, 3), 1, "SAME"),
    "asymmetric": Case((6, 7), (3, 3), 2, ((0, 2), (2, 1))),
    "window larger than the image": Case((2, 3), (4, 5), 1, ((3, 1), (2, 4))),
}
OF_ALL_KINDS = UNLIKE_PYTORCH | {
    name: GRID[name]
    for name in ("1-d", "2x2, rest left over", "3x3, stride 2", "3-d, overlapping, padded")
}
on_all_kinds = pytest.mark.parametrize("case", OF_ALL_KINDS.values(), ids=OF_ALL_KINDS.keys())
on_rest = pytest.mark.parametrize("case", UNLIKE_PYTORCH.values(), ids=UNLIKE_PYTORCH.keys())


def channels_first(x):
    return torch.movedim(x, -1, 1)


def channels_last(x):
    return torch.movedim(x, 1, -1)


def torch_pool(name, case, x, **options):
    """PyTorch's `{name}_pool{rank}d` on our layout."""
    padding = 0 if case.padding == "VALID" else case.padding
    if not isinstance(padding, int):
        padding = tuple(before for before, _ in padding)
    pool = getattr(torch.nn.functional, f"{name}_pool{case.rank}d")
    stride = {} if case.stride is None else {"stride": case.stride}
    result = pool(channels_first(x), case.window, padding=padding, **stride, **options)
    return tuple(map(channels_last, result)) if isinstance(result, tuple) else channels_last(result)


def torch_value_and_gradient(function, x):
    """The value, and the gradient of its product with `draw(*shape, seed=4)`."""
    x = torch.tensor(x, requires_grad=True)
    value = function(x)
    value.backward(torch.tensor(draw(*value.shape, seed=4)))
    return value.detach().numpy(), x.grad.numpy()


@functools.partial(jax.jit, static_argnums=0, static_argnames="has_aux")
def value_and_gradient(function, x, has_aux=False):
    """The same of ours, then what else the function returns."""
    value, pull, *aux = jax.vjp(function, x, has_aux=has_aux)
    return value, pull(jnp.asarray(draw(*value.shape, seed=4)))[0], *aux


@pytest.mark.slow
@on_grid
def test_max_pool_its_gradient_and_switches_equal_pytorch(case):
    x = draw_with_ties(*case.shape)
    value, gradient = torch_value_and_gradient(functools.partial(torch_pool, "max", case), x)
    _, indices = torch_pool("max", case, torch.tensor(x), return_indices=True)
    with jax.enable_x64(True):
        ours = value_and_gradient(case.pooled(max_pool_with_switches), x, has_aux=True)
    our_value, our_gradient, switches = ours
    np.testing.assert_array_equal(our_value, value)
    np.testing.assert_array_equal(switches, indices.numpy())
    assert switches.dtype == jnp.int32
    assert_close(our_gradient, gradient)


@pytest.mark.slow
@pytest.mark.parametrize("count_include_pad", [True, False])
@on_grid
def test_avg_pool_and_its_gradient_equal_pytorch(case, count_include_pad):
    x = draw(*case.shape)
    theirs = functools.partial(torch_pool, "avg", case, count_include_pad=count_include_pad)
    ours = case.pooled(avg_pool, count_include_pad=count_include_pad)
    with jax.enable_x64(True):
        results = value_and_gradient(ours, x)
    for mine, other in zip(results, torch_value_and_gradient(theirs, x), strict=True):
        assert_close(mine, other)


def padded_by_hand(case, x, fill):
    """`x` with its padding, and the same pooling without."""
    with jax.enable_x64(True):
        pooled_size = jax.eval_shape(case.pooled(max_pool), x).shape[1:-1]
    widths = case.padding
    if case.padding == "SAME":
        stride = np.broadcast_to(case.window if case.stride is None else case.stride, case.rank)
        total = (np.array(pooled_size) - 1) * stride + case.window - case.size
        widths = [(max(t, 0) // 2, max(t, 0) - max(t, 0) // 2) for t in total.tolist()]
    x = np.pad(x, ((0, 0), *widths, (0, 0)), constant_values=fill)
    return x, dataclasses.replace(case, size=x.shape[1:-1], padding="VALID")


@on_rest
def test_any_padding_equals_pytorch_on_an_image_padded_by_hand(case):
    x = draw(*case.shape)
    with jax.enable_x64(True):
        ours = jax.jit(lambda x: [case.pooled(pool)(x) for pool in (max_pool, avg_pool)])(x)
    for pooled, name, fill in zip(ours, ("max", "avg"), (-np.inf, 0.0), strict=True):
        padded, plain = padded_by_hand(case, x, fill)
        assert_close(pooled, torch_pool(name, plain, torch.tensor(padded)).numpy())


@on_rest
def test_the_switch_is_the_place_of_the_value_in_the_unpadded_image(case):
    x = draw_with_ties(*case.shape).astype(np.float32) - 5
    y, switches = case.pooled(max_pool_with_switches)(jnp.asarray(x))
    flat, places = x.reshape(2, -1, 3), np.asarray(switches).reshape(2, -1, 3)
    np.testing.assert_array_equal(np.take_along_axis(flat, places, axis=1).reshape(y.shape), y)


@pytest.mark.slow
@on_all_kinds
def test_max_unpool_is_the_adjoint_of_the_linearised_max_pool(case):
    """<d max_pool(x), y> = <d, max_unpool(y, switches)>, for the derivative of either mode."""
    pool, with_switches = case.pooled(max_pool), case.pooled(max_pool_with_switches)

    @jax.jit
    def forward_and_back(x, d):
        y, forward = jax.jvp(pool, (x,), (d,))
        y = jnp.asarray(draw(*y.shape, seed=2))
        (pulled,) = jax.vjp(pool, x)[1](y)
        return y, forward, pulled, max_unpool(y, with_switches(x)[1], case.size)

    d = draw(*case.shape, seed=1)
    with jax.enable_x64(True):
        y, forward, pulled, back = forward_and_back(draw_with_ties(*case.shape), d)
    assert back.shape == case.shape
    assert abs(np.vdot(forward, y) - np.vdot(d, back)) <= 1e-11
    assert_close(back, pulled)


@pytest.mark.parametrize(
    "case", [Case((6,), (2,)), Case((6, 9), (2, 3)), Case((4, 4, 6), (2,) * 3)]
)
def test_max_unpool_equals_pytorch_where_windows_do_not_overlap(case):
    x = draw(*case.shape)
    y, indices = torch_pool("max", case, torch.tensor(x), return_indices=True)
    unpool = getattr(torch.nn.functional, f"max_unpool{case.rank}d")
    expected = channels_last(unpool(channels_first(y), channels_first(indices), case.window))
    with jax.enable_x64(True):
        unpooled = jax.jit(max_unpool, static_argnums=2)
        ours = unpooled(y.numpy(), indices.numpy(), case.size)
    np.testing.assert_array_equal(ours, expected.numpy())


@functools.partial(jax.jit, static_argnames=("window", "stride"))
def pooled_and_unpooled(x, **options):
    """Maxima and switches of images of 1 or 2 axes of space, and the image made of them."""
    y, switches = max_pool_with_switches(x, **options)
    return y, switches, max_unpool(y, switches, x.shape[-1 - len(options["window"]) : -1])


def test_max_unpool_adds_what_overlapping_windows_send_to_one_pixel():
    x = np.array([0.0, 5.0, 0.0, 1.0, 0.0], np.float32).reshape(5, 1)
    y, switches, back = map(np.ravel, pooled_and_unpooled(x, window=(3,), stride=1))
    assert y.tolist() == [5.0, 5.0, 1.0]
    assert switches.tolist() == [1, 1, 3]
    assert back.tolist() == [0.0, 10.0, 0.0, 1.0, 0.0]


def test_max_unpool_drops_values_whose_switch_lies_beyond_the_output():
    unpool = jax.jit(lambda y, switches: max_unpool(y, switches, (3,)))
    x = unpool(np.ones((3, 1), np.float32), np.array([[1], [7], [3]]))
    assert np.ravel(x).tolist() == [0.0, 1.0, 0.0]


def test_max_pool_undoes_max_unpool():
    """Of positive values, where windows do not overlap: they are the maxima of the unpooled image."""
    x = np.abs(draw(2, 6, 6, 3).astype(np.float32))
    y, switches, back = pooled_and_unpooled(x, window=(2, 2))
    again, same, _ = pooled_and_unpooled(back, window=(2, 2))
    np.testing.assert_array_equal(again, y)
    np.testing.assert_array_equal(same, switches)


@on_all_kinds
def test_avg_unpool_is_the_adjoint_of_avg_pool_times_the_area(case):
    @jax.jit
    def forward_and_back(x):
        pooled = case.pooled(avg_pool)(x)
        y = jnp.asarray(draw(*pooled.shape, seed=1))
        return pooled, y, case.pooled(avg_unpool, output_size=case.size)(y)

    x = draw(*case.shape)
    with jax.enable_x64(True):
        pooled, y, back = forward_and_back(x)
    assert back.shape == x.shape
    assert abs(math.prod(case.window) * np.vdot(pooled, y) - np.vdot(x, back)) <= 1e-11


def test_avg_unpool_copies_each_value_over_its_window():
    y = draw(2, 3, 4, 5).astype(np.float32)
    x = jax.jit(lambda y: avg_unpool(y, (2, 3)))(y)
    np.testing.assert_array_equal(x, y.repeat(2, axis=1).repeat(3, axis=2))


disjoint = st.lists(
    st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(0, 2)), min_size=1, max_size=3
)


@settings(max_examples=10, deadline=None, derandomize=True)
@given(axes=disjoint)
def test_avg_pool_undoes_avg_unpool_where_windows_do_not_overlap(axes):
    size, window, gap = zip(*axes, strict=True)
    stride = tuple(w + g for w, g in zip(window, gap, strict=True))
    y = draw(*size, 2).astype(np.float32)
    options = {"window": window, "stride": stride}
    again = jax.jit(lambda y: avg_pool(avg_unpool(y, **options), **options))(y)
    assert_close(again, y, 1e-6)


@st.composite
def same_cases(draw_one):
    """Size, window and stride of 1 to 3 axes of space."""
    rank = draw_one(st.integers(1, 3))
    numbers = [st.tuples(*[st.integers(1, most)] * rank) for most in (12, 5, 6)]
    size, window, stride = map(draw_one, numbers)
    return Case(size, window, stride, "SAME")


@pytest.mark.slow
@settings(max_examples=30, deadline=None, derandomize=True)
@given(case=same_cases())
def test_same_padding_divides_and_multiplies_the_size_by_the_stride(case):
    divided = tuple(-(-n // s) for n, s in zip(case.size, case.stride, strict=True))
    multiplied = tuple(n * s for n, s in zip(case.size, case.stride, strict=True))
    x = jax.ShapeDtypeStruct(case.shape, jnp.float32)
    y = jax.ShapeDtypeStruct((2, *divided, 3), jnp.float32)
    for pool in (max_pool, avg_pool):
        assert jax.eval_shape(case.pooled(pool), x).shape == y.shape
    assert jax.eval_shape(case.pooled(avg_unpool), x).shape == (2, *multiplied, 3)
    assert jax.eval_shape(case.pooled(avg_unpool, output_size=case.size), y).shape == x.shape


def test_same_padding_puts_the_odd_pixel_after_the_image():
    x = jnp.asarray([[1.0], [2.0], [3.0]])
    y, switches = max_pool_with_switches(x, (2,), stride=1, padding="SAME")
    assert y.tolist() == [[2.0], [3.0], [3.0]]
    assert switches.tolist() == [[1], [2], [2]]
    mean = avg_pool(x, (2,), stride=1, padding="SAME")
    assert mean.tolist() == [[1.5], [2.5], [1.5]]


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
        x = jax.eval_shape(functools.partial(avg_unpool, **options), y)
    except InputError:  # more padding than window and strides cover: not even one pixel is needed
        assume(False)
    pool = functools.partial(avg_pool, **options)
    assert jax.eval_shape(pool, x).shape == y.shape
    smaller = jax.ShapeDtypeStruct((x.shape[0] - 1, 1), jnp.float32)
    if x.shape[0] - 1 + sum(padding) >= window:
        assert jax.eval_shape(pool, smaller).shape != y.shape


@on_rest
def test_a_constant_image_stays_constant_when_padding_is_not_counted(case):
    x = np.full(case.shape, 0.7, np.float32)
    y = jax.jit(case.pooled(avg_pool, count_include_pad=False))(x)
    np.testing.assert_allclose(y, 0.7, rtol=1e-6)


@jax.jit
def pooled_everyhow(x):
    """Every function of the module, of images of 6x5 pixels with any number of batch axes."""
    options = {"window": (3, 2), "stride": (2, 1), "padding": 1}
    y, switches = max_pool_with_switches(x, **options)
    return (
        y,
        switches,
        max_pool(x, **options),
        max_unpool(y, switches, (6, 5)),
        avg_pool(x, **options),
        avg_pool(x, **options, count_include_pad=False),
        avg_unpool(y, **options, output_size=(6, 5)),
        global_max_pool(x, rank=2),
        global_avg_pool(x, rank=2),
    )


@pytest.mark.parametrize("batch", [(), (2, 3), (0,)])
def test_batch_axes_are_carried_along(batch):
    x = draw(*batch, 6, 5, 2).astype(np.float32)
    together = jax.device_get(pooled_everyhow(x))
    assert all(y.shape[: len(batch)] == batch for y in together)
    for place in np.ndindex(batch):
        for alone, y in zip(pooled_everyhow(x[place]), together, strict=True):
            np.testing.assert_array_equal(alone, y[place])


def test_vmap_equals_a_batch_axis():
    x = draw(2, 6, 5, 2).astype(np.float32)
    for mapped, batched in zip(jax.vmap(pooled_everyhow)(x), pooled_everyhow(x), strict=True):
        np.testing.assert_allclose(mapped, batched, rtol=1e-6)


def test_an_int_is_all_axes_after_one_batch_axis():
    @jax.jit
    def with_ints_and_tuples(x):
        tuples = {"stride": (3, 3), "padding": ((1, 1), (1, 1))}
        return (
            (max_pool(x, 3), max_pool(x, (3, 3))),
            (avg_pool(x, 3, stride=3, padding=1), avg_pool(x, (3, 3), **tuples)),
            (avg_unpool(x, 3, output_size=18), avg_unpool(x, [3, 3], output_size=(18, 18))),
            (global_max_pool(x), global_max_pool(x, rank=2)),
            (global_avg_pool(x), global_avg_pool(x, rank=2)),
        )

    for an_int, a_tuple in with_ints_and_tuples(draw(2, 6, 6, 3).astype(np.float32)):
        np.testing.assert_array_equal(an_int, a_tuple)


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_global_pooling_equals_pytorchs_adaptive_pooling_to_one_pixel(rank):
    x = draw_with_ties(2, *(5, 4, 3)[:rank], 3)
    for ours, name in ((global_max_pool, "max"), (global_avg_pool, "avg")):
        pool = getattr(torch.nn.functional, f"adaptive_{name}_pool{rank}d")

        def theirs(x, pool=pool):
            return pool(channels_first(x), 1).reshape(2, 3)

        value, gradient = torch_value_and_gradient(theirs, x)
        with jax.enable_x64(True):
            our_value, our_gradient = value_and_gradient(jax.jit(ours), x)
        assert_close(our_value, value)
        assert_close(our_gradient, gradient)


DIFFERENTIABLE = {
    "max_pool": lambda x: max_pool(x, (3, 2), stride=(2, 1), padding=1),
    "avg_pool": lambda x: avg_pool(x, (3, 2), stride=2, padding=1, count_include_pad=False),
    "max_unpool": lambda x: max_unpool(x, switches_for(x.shape), (4, 4)),
    "avg_unpool": lambda x: avg_unpool(x, (3, 2), stride=(2, 1), padding=1),
    "global_max_pool": global_max_pool,
    "global_avg_pool": global_avg_pool,
}


def switches_for(shape):
    """Places in 4x4 pixels, some of them more than once."""
    return jnp.asarray(np.random.default_rng(0).integers(0, 16, shape))


@pytest.mark.slow
@pytest.mark.parametrize("function", DIFFERENTIABLE.values(), ids=DIFFERENTIABLE.keys())
def test_derivatives_of_both_modes_and_second_order_agree_with_differences(function):
    """Inside a curved function, so that its second derivative is not zero, and rematerialised."""

    def loss(x):
        return jnp.sum(jnp.sin(jax.checkpoint(function)(jnp.tanh(x))) ** 2)

    def slope(x, d):
        return jax.jvp(loss, (x,), (d,))[1]

    @jax.jit
    def derivatives(x, d):
        gradient, forward_over_reverse = jax.jvp(jax.grad(loss), (x,), (d,))
        return loss(x), slope(x, d), gradient, forward_over_reverse, jax.grad(slope)(x, d)

    with jax.enable_x64(True):
        x, d = draw(2, 5, 4, 2, seed=1), draw(2, 5, 4, 2, seed=2)
        step = 1e-6
        points = (x + step * d, x - step * d, x)
        above, below, here = (jax.device_get(derivatives(point, d)) for point in points)
    _, slope_here, gradient, curvature, reverse_over_forward = here
    assert_close(slope_here, np.vdot(gradient, d))
    assert_close(slope_here, (above[0] - below[0]) / (2 * step), 1e-8)
    assert_close(curvature, (above[2] - below[2]) / (2 * step), 1e-8)
    assert_close(reverse_over_forward, curvature)


def test_nan_reaches_every_window_that_holds_it_and_no_other():
    x = draw(1, 6, 7, 2)
    x[0, 2, 3, 0] = np.nan
    case = Case((6, 7), (3, 3), 2, 1)
    expected, indices = torch_pool("max", case, torch.tensor(x), return_indices=True)
    assert expected.isnan().any()
    with jax.enable_x64(True):
        y, switches = case.pooled(max_pool_with_switches)(jnp.asarray(x))
        over_all, gradient = value_and_gradient(global_max_pool, x)
    np.testing.assert_array_equal(y, expected.numpy())
    np.testing.assert_array_equal(switches, indices.numpy())
    assert np.isnan(over_all).tolist() == [[True, False]]
    assert np.argwhere(np.asarray(gradient)[..., 0]).tolist() == [[0, 2, 3]]


def test_several_nans_in_a_window_as_in_pytorch():
    x = np.where(draw(2, 5, 6, 3) > 0.5, np.nan, draw(2, 5, 6, 3))
    case = Case((5, 6), (3, 2), 1, 1)
    expected, indices = torch_pool("max", case, torch.tensor(x), return_indices=True)
    with jax.enable_x64(True):
        y, switches = case.pooled(max_pool_with_switches)(jnp.asarray(x))
    np.testing.assert_array_equal(y, expected.numpy())
    np.testing.assert_array_equal(switches, indices.numpy())


@pytest.mark.parametrize("padding", [1, "SAME", ((2, 2), (0, 2))])
def test_padding_never_wins_even_against_minus_infinity(padding):
    """Each window's gradient lands in the image, on the first pixel among equals, and is no NaN."""
    options = {"window": 3, "stride": 2, "padding": padding}

    @jax.jit
    def gradients(x):
        y, pull = jax.vjp(functools.partial(max_pool, **options), x)
        _, switches = max_pool_with_switches(x, **options)
        ones = jnp.ones_like(y)
        return y, pull(ones)[0], max_unpool(ones, switches, x.shape[1:-1])

    for fill in (-np.inf, -1e30):
        x = np.full((1, 5, 4, 1), fill, np.float32)
        y, gradient, unpooled = jax.device_get(gradients(x))
        assert (y == x[0, 0, 0, 0]).all()
        assert gradient.sum() == y.size
        np.testing.assert_array_equal(gradient, unpooled)


def test_switches_of_an_image_of_minus_infinity_equal_pytorch():
    case = Case((5, 6), (3, 3), 2, 1)
    x = np.full(case.shape, -np.inf, np.float32)
    _, indices = torch_pool("max", case, torch.tensor(x), return_indices=True)
    _, switches = case.pooled(max_pool_with_switches)(jnp.asarray(x))
    np.testing.assert_array_equal(switches, indices.numpy())


def test_bfloat16_stays_bfloat16_and_is_the_rounded_value():
    """Of the averages too: they are summed in float32."""

    @jax.jit
    def pooled(x):
        return (
            max_pool(x, 3, stride=2),
            avg_pool(x, 8, stride=3, padding=2, count_include_pad=False),
            avg_unpool(x, 5, stride=1),
            global_max_pool(x),
            global_avg_pool(x),
        )

    x = draw(2, 16, 16, 3).astype(jnp.bfloat16)
    for y, exact in zip(pooled(x), pooled(x.astype(np.float32)), strict=True):
        assert y.dtype == jnp.bfloat16
        np.testing.assert_array_equal(y, np.asarray(exact).astype(jnp.bfloat16))


def test_averages_in_bfloat16_count_beyond_256():
    """Where bfloat16 itself stops."""
    ones = np.ones((1, 32, 32, 1), jnp.bfloat16)
    for mean in jax.jit(lambda x: (avg_pool(x, 32), global_avg_pool(x)))(ones):
        assert mean.item() == 1.0


IMAGE = (1, 6, 6, 2)
ERRORS = [
    (max_pool, IMAGE, {"window": 0}, ["window", ">= 1", "0"]),
    (max_pool, IMAGE, {"window": (2, 1.5)}, ["window", ">= 1", "(2, 1.5)"]),
    (max_pool, IMAGE, {"window": "2"}, ["window", "'2'"]),
    (max_pool, IMAGE, {"window": ()}, ["window=()", "spatial axes", "(1, 6, 6, 2)"]),
    (max_pool, (6, 2), {"window": 2}, ["window=2", "one batch axis", "(6, 2)"]),
    (max_pool, (6, 2), {"window": (2, 2)}, ["window=(2, 2)", "spatial axes", "(6, 2)"]),
    (max_pool, IMAGE, {"window": 2, "stride": 0}, ["stride", ">= 1", "0"]),
    (max_pool, IMAGE, {"window": 2, "stride": (1, 2, 1)}, ["stride", "2 of them", "(1, 2, 1)"]),
    (max_pool, IMAGE, {"window": 2, "padding": "same"}, ["padding", '"SAME"', "'same'"]),
    (max_pool, IMAGE, {"window": 2, "padding": -1}, ["padding", ">= 0", "-1"]),
    (max_pool, IMAGE, {"window": 2, "padding": (1, 1)}, ["padding", "2 pairs", "(1, 1)"]),
    (max_pool, IMAGE, {"window": 2, "padding": ((0, 1),)}, ["padding", "2 pairs", "((0, 1),)"]),
    (max_pool, IMAGE, {"window": 2, "padding": 2}, ["padding", "smaller than", "(2, 2)", "got 2"]),
    (
        avg_pool,
        IMAGE,
        {"window": (3, 2), "padding": ((2, 2), (0, 2))},
        ["padding", "smaller than the window (3, 2)", "((2, 2), (0, 2))"],
    ),
    (
        avg_pool,
        IMAGE,
        {"window": 7},
        ["(7, 7)", "smaller than the dilated kernel or window", "(6, 6)"],
    ),
    (
        avg_pool,
        (1, 0, 6, 2),
        {"window": 2},
        ["(2, 2)", "smaller than the dilated kernel or window", "(0, 6)"],
    ),
    (
        avg_unpool,
        IMAGE,
        {"window": 2, "output_size": (12, 14)},
        ["output_size (12, 14)", "(6, 6)", "12 to 13, 12 to 13"],
    ),
    (avg_unpool, IMAGE, {"window": 2, "output_size": (12,)}, ["output_size", "2 of", "(12,)"]),
    (
        avg_unpool,
        (1, 1, 1, 2),
        {"window": 3, "padding": 2},
        ["padding ((2, 2), (2, 2))", "leaves nothing", "(1, 1)", "(3, 3)"],
    ),
    (avg_unpool, (6, 2), {"window": 2}, ["window=2", "y", "(6, 2)"]),
    (global_max_pool, IMAGE, {"rank": 4}, ["rank", "from 1 to 3", "(1, 6, 6, 2)", "got 4"]),
    (global_max_pool, (6, 2), {}, ["rank", "from 1 to 1", "(6, 2)", "got 0"]),
    (global_avg_pool, (1, 0, 6, 2), {}, ["at least one pixel", "(1, 0, 6, 2)"]),
]


@pytest.fixture
def as_without_type_checks(monkeypatch):
    """A user has no run-time type checker in front of the operators, and sees their own errors."""
    monkeypatch.setattr(jaxtyping_config, "jaxtyping_disable", True)


def assert_message(words, function, *arguments, **options):
    with pytest.raises(InputError) as raised:
        function(*arguments, **options)
    message = str(raised.value)
    assert "\n" not in message
    assert [word for word in words if word not in message] == []


@pytest.mark.usefixtures("as_without_type_checks")
@pytest.mark.parametrize(("function", "shape", "options", "words"), ERRORS)
def test_errors_name_the_argument_and_its_value(function, shape, options, words):
    assert_message(words, function, jnp.ones(shape), **options)


@pytest.mark.usefixtures("as_without_type_checks")
def test_max_unpool_refuses_what_does_not_fit():
    y, switches = jnp.ones(IMAGE), jnp.zeros(IMAGE, jnp.int32)
    words = ["switches", "(1, 6, 6, 2)", "(1, 6, 5, 2)"]
    assert_message(words, max_unpool, y, switches[:, :, :5], (12, 12))
    assert_message(["output_size", ">= 1", "(12, 0)"], max_unpool, y, switches, (12, 0))
    assert_message(["output_size=(4, 4, 4, 4)", "y"], max_unpool, y, switches, (4, 4, 4, 4))


@pytest.mark.usefixtures("as_without_type_checks")
@pytest.mark.parametrize("pool", [max_pool, avg_pool])
def test_integer_images_are_refused(pool):
    assert_message(["x", "floating", "uint8"], pool, jnp.zeros(IMAGE, jnp.uint8), 2)
    assert_message(["x", "floating", "uint8"], global_avg_pool, jnp.zeros(IMAGE, jnp.uint8))


def test_switches_outside_the_output_are_dropped():
    y, switches = jnp.ones((1, 1, 3, 1)), jnp.array([-1, 2, 99], jnp.int32).reshape(1, 1, 3, 1)
    assert max_unpool(y, switches, (2, 2)).ravel().tolist() == [0.0, 0.0, 1.0, 0.0]
