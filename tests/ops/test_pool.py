"""Tests of pooling against PyTorch, and of its derivatives in every mode."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from arrays import draw
from hypothesis import given, settings
from hypothesis import strategies as st

from deconv_jax import ops

torch.set_num_threads(1)
"""The arrays are tiny: more threads would contend with those of JAX."""


def draw_with_ties(*shape):
    """Draw normal numbers for the first image, and for the others integers with many ties."""
    x = np.random.default_rng(shape).integers(0, 3, shape).astype(np.float64)
    x[0] = draw(*shape[1:])
    return x


def assert_close(actual, expected, tolerance=1e-12):
    """Compare elementwise, relative to the larger of 1 and the largest element."""
    scale = max(1.0, float(np.max(np.abs(np.asarray(expected)))))
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance * scale)


@dataclasses.dataclass(frozen=True)
class Case:
    """Arguments of a pooling and the size of its images."""

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
        """Return a pooling function of the images alone."""
        return functools.partial(pool, window=self.window, **self.options, **options)


# PyTorch pads opposite sides equally, by at most half the window.
GRID = {
    "1-d": Case((7,), (2,)),
    "1-d, overlapping, padded": Case((8,), (3,), 2, 1),
    "2x2": Case((6, 8), (2, 2)),
    "2x2, remainder": Case((7, 9), (2, 2)),
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
on_rest = pytest.mark.parametrize("case", UNLIKE_PYTORCH.values(), ids=UNLIKE_PYTORCH.keys())


def channels_first(x):
    return torch.movedim(x, -1, 1)


def channels_last(x):
    return torch.movedim(x, 1, -1)


def torch_pool(name, case, x, **options):
    """Compute PyTorch's `{name}_pool{rank}d` in our layout."""
    padding = 0 if case.padding == "VALID" else case.padding
    if not isinstance(padding, int):
        padding = tuple(before for before, _ in padding)
    pool = getattr(torch.nn.functional, f"{name}_pool{case.rank}d")
    stride = {} if case.stride is None else {"stride": case.stride}
    result = pool(channels_first(x), case.window, padding=padding, **stride, **options)
    return tuple(map(channels_last, result)) if isinstance(result, tuple) else channels_last(result)


def torch_value_and_gradient(function, x):
    """Return the value and its vector-Jacobian product with `draw(*shape, seed=4)`."""
    x = torch.tensor(x, requires_grad=True)
    value = function(x)
    value.backward(torch.tensor(draw(*value.shape, seed=4)))
    return value.detach().numpy(), x.grad.numpy()


@functools.partial(jax.jit, static_argnums=0, static_argnames="has_aux")
def value_and_gradient(function, x, has_aux=False):
    """Return the same for JAX, then the auxiliary output."""
    value, pull, *aux = jax.vjp(function, x, has_aux=has_aux)
    return value, pull(jnp.asarray(draw(*value.shape, seed=4)))[0], *aux


@pytest.mark.slow
@on_grid
def test_max_pool_its_gradient_and_switches_equal_pytorch(case):
    x = draw_with_ties(*case.shape)
    value, gradient = torch_value_and_gradient(functools.partial(torch_pool, "max", case), x)
    _, indices = torch_pool("max", case, torch.tensor(x), return_indices=True)
    with jax.enable_x64(True):
        ours = value_and_gradient(case.pooled(ops.max_pool_with_switches), x, has_aux=True)
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
    ours = case.pooled(ops.avg_pool, count_include_pad=count_include_pad)
    with jax.enable_x64(True):
        results = value_and_gradient(ours, x)
    for mine, other in zip(results, torch_value_and_gradient(theirs, x), strict=True):
        assert_close(mine, other)


def padded_by_hand(case, x, fill):
    """Pad x, and return it with the same pooling without padding."""
    with jax.enable_x64(True):
        pooled_size = jax.eval_shape(case.pooled(ops.max_pool), x).shape[1:-1]
    widths = case.padding
    if case.padding == "SAME":
        stride = np.broadcast_to(case.window if case.stride is None else case.stride, case.rank)
        total = (np.array(pooled_size) - 1) * stride + case.window - case.size
        widths = [(max(t, 0) // 2, max(t, 0) - max(t, 0) // 2) for t in total.tolist()]
    x = np.pad(x, ((0, 0), *widths, (0, 0)), constant_values=fill)
    return x, dataclasses.replace(case, size=x.shape[1:-1], padding="VALID")


@on_rest
def test_any_padding_equals_pytorch_on_a_padded_image(case):
    x = draw(*case.shape)
    with jax.enable_x64(True):
        ours = jax.jit(lambda x: [case.pooled(pool)(x) for pool in (ops.max_pool, ops.avg_pool)])(x)
    for pooled, name, fill in zip(ours, ("max", "avg"), (-np.inf, 0.0), strict=True):
        padded, plain = padded_by_hand(case, x, fill)
        assert_close(pooled, torch_pool(name, plain, torch.tensor(padded)).numpy())


@on_rest
def test_switch_is_the_position_of_the_maximum_in_the_unpadded_image(case):
    x = draw_with_ties(*case.shape).astype(np.float32) - 5
    y, switches = case.pooled(ops.max_pool_with_switches)(jnp.asarray(x))
    flat, places = x.reshape(2, -1, 3), np.asarray(switches).reshape(2, -1, 3)
    np.testing.assert_array_equal(np.take_along_axis(flat, places, axis=1).reshape(y.shape), y)


@st.composite
def same_cases(draw_one):
    """Draw size, window and stride of 1 to 3 spatial axes."""
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
    for pool in (ops.max_pool, ops.avg_pool):
        assert jax.eval_shape(case.pooled(pool), x).shape == y.shape
    assert jax.eval_shape(case.pooled(ops.avg_unpool), x).shape == (2, *multiplied, 3)
    assert jax.eval_shape(case.pooled(ops.avg_unpool, output_size=case.size), y).shape == x.shape


def test_same_padding_puts_the_extra_pixel_at_the_end():
    x = jnp.asarray([[1.0], [2.0], [3.0]])
    y, switches = ops.max_pool_with_switches(x, (2,), stride=1, padding="SAME")
    assert y.tolist() == [[2.0], [3.0], [3.0]]
    assert switches.tolist() == [[1], [2], [2]]
    mean = ops.avg_pool(x, (2,), stride=1, padding="SAME")
    assert mean.tolist() == [[1.5], [2.5], [1.5]]


@on_rest
def test_avg_pool_without_counting_padding_keeps_a_constant_image(case):
    x = np.full(case.shape, 0.7, np.float32)
    y = jax.jit(case.pooled(ops.avg_pool, count_include_pad=False))(x)
    np.testing.assert_allclose(y, 0.7, rtol=1e-6)


@jax.jit
def all_functions(x):
    """Apply every function of the module to images of 6x5 pixels."""
    options = {"window": (3, 2), "stride": (2, 1), "padding": 1}
    y, switches = ops.max_pool_with_switches(x, **options)
    return (
        y,
        switches,
        ops.max_pool(x, **options),
        ops.max_unpool(y, switches, (6, 5)),
        ops.avg_pool(x, **options),
        ops.avg_pool(x, **options, count_include_pad=False),
        ops.avg_unpool(y, **options, output_size=(6, 5)),
        ops.global_max_pool(x, rank=2),
        ops.global_avg_pool(x, rank=2),
        ops.blur_pool(x, 2),
    )


@pytest.mark.parametrize("batch", [(), (2, 3), (0,)])
def test_batch_axes_are_independent(batch):
    x = draw(*batch, 6, 5, 2).astype(np.float32)
    together = jax.device_get(all_functions(x))
    assert all(y.shape[: len(batch)] == batch for y in together)
    for place in np.ndindex(batch):
        for alone, y in zip(all_functions(x[place]), together, strict=True):
            np.testing.assert_array_equal(alone, y[place])


def test_vmap_equals_a_batch_axis():
    x = draw(2, 6, 5, 2).astype(np.float32)
    for mapped, batched in zip(jax.vmap(all_functions)(x), all_functions(x), strict=True):
        np.testing.assert_allclose(mapped, batched, rtol=1e-6)


def test_an_int_window_applies_to_every_axis_after_one_batch_axis():
    @jax.jit
    def with_ints_and_tuples(x):
        tuples = {"stride": (3, 3), "padding": ((1, 1), (1, 1))}
        return (
            (ops.max_pool(x, 3), ops.max_pool(x, (3, 3))),
            (ops.avg_pool(x, 3, stride=3, padding=1), ops.avg_pool(x, (3, 3), **tuples)),
            (
                ops.avg_unpool(x, 3, output_size=18),
                ops.avg_unpool(x, [3, 3], output_size=(18, 18)),
            ),
            (ops.global_max_pool(x), ops.global_max_pool(x, rank=2)),
            (ops.global_avg_pool(x), ops.global_avg_pool(x, rank=2)),
        )

    for an_int, a_tuple in with_ints_and_tuples(draw(2, 6, 6, 3).astype(np.float32)):
        np.testing.assert_array_equal(an_int, a_tuple)


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_global_pooling_equals_adaptive_pooling_of_pytorch(rank):
    x = draw_with_ties(2, *(5, 4, 3)[:rank], 3)
    for ours, name in ((ops.global_max_pool, "max"), (ops.global_avg_pool, "avg")):
        pool = getattr(torch.nn.functional, f"adaptive_{name}_pool{rank}d")

        def theirs(x, pool=pool):
            return pool(channels_first(x), 1).reshape(2, 3)

        value, gradient = torch_value_and_gradient(theirs, x)
        with jax.enable_x64(True):
            our_value, our_gradient = value_and_gradient(jax.jit(ours), x)
        assert_close(our_value, value)
        assert_close(our_gradient, gradient)


DIFFERENTIABLE = {
    "max_pool": lambda x: ops.max_pool(x, (3, 2), stride=(2, 1), padding=1),
    "avg_pool": lambda x: ops.avg_pool(x, (3, 2), stride=2, padding=1, count_include_pad=False),
    "max_unpool": lambda x: ops.max_unpool(x, switches_for(x.shape), (4, 4)),
    "avg_unpool": lambda x: ops.avg_unpool(x, (3, 2), stride=(2, 1), padding=1),
    "global_max_pool": ops.global_max_pool,
    "global_avg_pool": ops.global_avg_pool,
}


def switches_for(shape):
    """Draw positions in an image of 4x4 pixels, some of them repeatedly."""
    return jnp.asarray(np.random.default_rng(0).integers(0, 16, shape))


@pytest.mark.slow
@pytest.mark.parametrize("function", DIFFERENTIABLE.values(), ids=DIFFERENTIABLE.keys())
def test_first_and_second_derivatives_equal_finite_differences(function):
    """Compose with a nonlinear function for nonzero second derivatives, and with `checkpoint`."""

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


def test_nan_propagates_to_the_windows_that_contain_it():
    x = draw(1, 6, 7, 2)
    x[0, 2, 3, 0] = np.nan
    case = Case((6, 7), (3, 3), 2, 1)
    expected, indices = torch_pool("max", case, torch.tensor(x), return_indices=True)
    assert expected.isnan().any()
    with jax.enable_x64(True):
        y, switches = case.pooled(ops.max_pool_with_switches)(jnp.asarray(x))
        over_all, gradient = value_and_gradient(ops.global_max_pool, x)
    np.testing.assert_array_equal(y, expected.numpy())
    np.testing.assert_array_equal(switches, indices.numpy())
    assert np.isnan(over_all).tolist() == [[True, False]]
    assert np.argwhere(np.asarray(gradient)[..., 0]).tolist() == [[0, 2, 3]]


@pytest.mark.parametrize("padding", [1, "SAME", ((2, 2), (0, 2))])
def test_padding_is_never_the_maximum(padding):
    """The gradient of each window goes to the first pixel of equal ones, even if all are -inf."""
    options = {"window": 3, "stride": 2, "padding": padding}

    @jax.jit
    def gradients(x):
        y, pull = jax.vjp(functools.partial(ops.max_pool, **options), x)
        _, switches = ops.max_pool_with_switches(x, **options)
        ones = jnp.ones_like(y)
        return y, pull(ones)[0], ops.max_unpool(ones, switches, x.shape[1:-1])

    for fill in (-np.inf, -1e30):
        x = np.full((1, 5, 4, 1), fill, np.float32)
        y, gradient, unpooled = jax.device_get(gradients(x))
        assert (y == x[0, 0, 0, 0]).all()
        assert gradient.sum() == y.size
        np.testing.assert_array_equal(gradient, unpooled)


EXTREME = {
    "several NaNs": np.where(draw(2, 5, 6, 3) > 0.5, np.nan, draw(2, 5, 6, 3)),
    "minus infinity": np.full((2, 5, 6, 3), -np.inf),
}


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("x", EXTREME.values(), ids=EXTREME)
@pytest.mark.parametrize("case", [Case((5, 6), (3, 2), 1, 1), Case((5, 6), (3, 3), 2, 1)])
def test_switches_of_extreme_values_equal_pytorch(x, case):
    expected, indices = torch_pool("max", case, torch.tensor(x), return_indices=True)
    y, switches = case.pooled(ops.max_pool_with_switches)(jnp.asarray(x))
    np.testing.assert_array_equal(y, expected.numpy())
    np.testing.assert_array_equal(switches, indices.numpy())


def test_bfloat16_is_the_float32_result_rounded_once():

    @jax.jit
    def pooled(x):
        return (
            ops.max_pool(x, 3, stride=2),
            ops.avg_pool(x, 8, stride=3, padding=2, count_include_pad=False),
            ops.avg_unpool(x, 5, stride=1),
            ops.global_max_pool(x),
            ops.global_avg_pool(x),
        )

    x = draw(2, 16, 16, 3).astype(jnp.bfloat16)
    for y, exact in zip(pooled(x), pooled(x.astype(np.float32)), strict=True):
        assert y.dtype == jnp.bfloat16
        np.testing.assert_array_equal(y, np.asarray(exact).astype(jnp.bfloat16))


def test_averages_in_bfloat16_are_exact_beyond_256_ones():
    """A sum kept in bfloat16 stops at 256."""
    ones = np.ones((1, 32, 32, 1), jnp.bfloat16)
    for mean in jax.jit(lambda x: (ops.avg_pool(x, 32), ops.global_avg_pool(x)))(ones):
        assert mean.item() == 1.0


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(
    ("filter_size", "stride", "taps"),
    [
        (1, 2, [1]),
        (2, 2, [1, 1]),
        (3, 2, [1, 2, 1]),
        (3, 1, [1, 2, 1]),
        (4, 3, [1, 3, 3, 1]),
        (5, 2, [1, 4, 6, 4, 1]),
    ],
)
def test_blur_pool_equals_a_depthwise_convolution_of_pytorch(filter_size, stride, taps):
    x = draw(2, 7, 9, 3)
    before, after = (filter_size - 1) // 2, filter_size // 2
    padded = torch.nn.functional.pad(
        channels_first(torch.tensor(x)), (before, after) * 2, mode="reflect"
    )
    binomial = torch.tensor(taps, dtype=torch.float64) / sum(taps)
    weights = torch.outer(binomial, binomial).expand(3, 1, -1, -1)
    expected = torch.nn.functional.conv2d(padded, weights, stride=stride, groups=3)
    y = ops.blur_pool(jnp.asarray(x), stride, filter_size=filter_size)
    assert y.shape == (2, -(-7 // stride), -(-9 // stride), 3)
    assert_close(y, channels_last(expected).numpy())
