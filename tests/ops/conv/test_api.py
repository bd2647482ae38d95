"""Tests of `conv` and `conv_transpose` against the adjoint identity and PyTorch."""

import dataclasses
import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from arrays import draw
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from deconv_jax.errors import InputError
from deconv_jax.ops import conv, conv_transpose

torch.set_num_threads(1)
"""The arrays are tiny: more threads would contend with those of JAX."""


def assert_close(actual, expected, tolerance=1e-10):
    """Compare elementwise, relative to the larger of 1 and the largest element."""
    scale = max(1.0, float(np.max(np.abs(np.asarray(expected)))))
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance * scale)


@dataclasses.dataclass(frozen=True)
class Case:
    """Arguments of an operator and the shapes of its arrays.

    Attributes:
      size: Size of the images that `conv` takes and `conv_transpose` returns.
      channels: Input and output channels of each group.
    """

    size: tuple[int, ...] = (7, 8)
    kernel_size: tuple[int, ...] = (3, 3)
    stride: Any = 1
    padding: Any = "SAME"
    padding_mode: str = "zeros"
    dilation: Any = 1
    groups: int = 1
    channels: tuple[int, int] = (1, 1)
    batch: tuple[int, ...] = (2,)

    @property
    def options(self):
        names = ("stride", "padding", "padding_mode", "dilation", "groups")
        return {name: getattr(self, name) for name in names}

    def image(self):
        return draw(*self.batch, *self.size, self.channels[0] * self.groups, seed=1)

    def kernel(self):
        return draw(*self.kernel_size, self.channels[0], self.channels[1] * self.groups, seed=2)

    def conv(self, x, kernel):
        return conv(jnp.asarray(x), jnp.asarray(kernel), **self.options)

    def conv_transpose(self, y, kernel, **which):
        """Compute images of `size`, or of the size that `which` selects."""
        arrays = jnp.asarray(y), jnp.asarray(kernel)
        return conv_transpose(*arrays, **self.options, **(which or {"output_size": self.size}))

    def output_padding(self, output_size):
        """Return the `output_padding` with which `conv_transpose` returns `size`.

        An independent implementation of arXiv:1603.07285, relationship 14.
        """
        rank = len(self.size)
        pads = {"VALID": ((0, 0),) * rank}.get(self.padding, self.padding)
        total = np.broadcast_to(pads, (rank, 2)).sum(axis=1)
        extent = np.broadcast_to(self.dilation, rank) * (np.array(self.kernel_size) - 1) + 1
        smallest = (np.array(output_size) - 1) * np.broadcast_to(self.stride, rank) + extent - total
        extra = np.subtract(self.size, smallest)
        assert (extra >= 0).all()
        assert (extra < np.broadcast_to(self.stride, rank)).all()
        return tuple(int(e) for e in extra)


@st.composite
def cases(draw_one, padding_mode):
    """Draw arguments that `conv` accepts, in 1, 2 or 3 dimensions."""
    rank = draw_one(st.integers(1, 3))

    def each(values):
        return st.tuples(*[values] * rank)

    def one_or_each(values):
        return st.one_of(values, each(values))

    side = st.tuples(st.integers(0, 3), st.integers(0, 3))
    return Case(
        size=draw_one(each(st.integers(2, {1: 12, 2: 8, 3: 6}[rank]))),
        kernel_size=draw_one(each(st.integers(1, 4 if rank < 3 else 3))),
        stride=draw_one(one_or_each(st.integers(1, 3))),
        dilation=draw_one(one_or_each(st.integers(1, 3))),
        padding=draw_one(
            st.one_of(st.sampled_from(["SAME", "VALID"]), st.integers(0, 3), each(side))
        ),
        padding_mode=padding_mode,
        groups=draw_one(st.integers(1, 3)),
        channels=draw_one(st.tuples(st.integers(1, 2), st.integers(1, 2))),
        batch=draw_one(st.sampled_from([(), (1,), (2,), (2, 1)])),
    )


@pytest.mark.slow
@pytest.mark.parametrize("padding_mode", ["zeros", "circular", "reflect", "edge"])
def test_conv_transpose_is_the_adjoint_of_conv(padding_mode):
    examples = 0

    @settings(max_examples=40, deadline=None, derandomize=True)
    @given(case=cases(padding_mode), by_size=st.booleans())
    def identity(case, by_size):
        nonlocal examples
        x, kernel = case.image(), case.kernel()
        try:
            shape = jax.eval_shape(case.conv, x, kernel).shape
        except (
            InputError
        ):  # the kernel is larger than the image, or the padding too large for the mode
            assume(False)
        y, size = draw(*shape, seed=3), shape[len(case.batch) : -1]
        which = (
            {"output_size": case.size}
            if by_size or case.padding == "SAME"
            else {"output_padding": case.output_padding(size)}
        )
        output, back = jax.jit(
            lambda x, kernel, y: (case.conv(x, kernel), case.conv_transpose(y, kernel, **which))
        )(x, kernel, y)
        assert back.shape == x.shape
        scale = np.linalg.norm(output) * np.linalg.norm(y)
        assert abs(np.vdot(output, y) - np.vdot(x, back)) <= 1e-10 * max(1.0, scale)
        examples += 1

    with jax.enable_x64(True):
        identity()
    assert examples >= 40


# One argument at a time differs from its default, then all of them.
GRID = {
    "1x1": Case(kernel_size=(1, 1), padding="VALID", channels=(2, 3)),
    "even": Case(kernel_size=(4, 4), padding=1, stride=2, channels=(2, 3)),
    "non-square": Case(kernel_size=(2, 5), padding=((1, 1), (2, 2)), channels=(2, 3)),
    "no padding": Case(padding="VALID", channels=(2, 3)),
    "stride 2": Case(padding=1, stride=2, channels=(2, 3)),
    "stride (3, 1)": Case(padding=1, stride=(3, 1), channels=(2, 3)),
    "dilation 2": Case(padding=2, dilation=2, channels=(2, 3)),
    "groups": Case(padding=1, groups=2, channels=(2, 3)),
    "depthwise": Case(padding=1, groups=4, channels=(1, 1)),
    "asymmetric": Case(padding=((0, 2), (1, 0)), stride=2, channels=(2, 3)),
    "circular": Case(padding=2, padding_mode="circular", channels=(2, 3)),
    "reflect": Case(padding=2, padding_mode="reflect", stride=2, channels=(2, 3)),
    "edge": Case(padding=((2, 1), (0, 3)), padding_mode="edge", channels=(2, 3)),
    "all": Case(
        size=(9, 11),
        kernel_size=(3, 2),
        stride=(2, 3),
        dilation=(1, 2),
        padding=((2, 0), (1, 2)),
        padding_mode="reflect",
        groups=2,
        channels=(2, 3),
    ),
}
on_grid = pytest.mark.parametrize("case", GRID.values(), ids=GRID.keys())


def torch_kernel(kernel):
    """Convert a kernel to PyTorch's layout, which is the same for both operators."""
    rank = kernel.ndim - 2
    return kernel.permute(rank + 1, rank, *range(rank))


def channels_first(images):
    return images.movedim(-1, 1)


def channels_last(images):
    return images.movedim(1, -1)


def torch_conv(case, x, kernel):
    """Compute `conv` by PyTorch, in our layout."""
    rank = len(case.size)
    mode = {"zeros": "constant", "edge": "replicate"}.get(case.padding_mode, case.padding_mode)
    padding = 0 if case.padding == "VALID" else case.padding
    sides = np.broadcast_to(padding, (rank, 2))[::-1].ravel().tolist()
    x = torch.nn.functional.pad(channels_first(x), sides, mode=mode)
    function = getattr(torch.nn.functional, f"conv{rank}d")
    options = {"stride": case.stride, "dilation": case.dilation, "groups": case.groups}
    return channels_last(function(x, torch_kernel(kernel), **options))


def torch_value_and_gradients(function, cotangent, *arrays):
    tensors = [torch.tensor(a, requires_grad=True) for a in arrays]
    value = function(*tensors)
    value.backward(torch.tensor(cotangent(value.shape, value.detach().numpy().dtype)))
    return [value.detach().numpy(), *(t.grad.numpy() for t in tensors)]


@functools.partial(jax.jit, static_argnums=(0, 1))
def value_and_gradients(function, cotangent, *arrays):
    value, pull = jax.vjp(function, *arrays)
    return [value, *pull(jnp.asarray(cotangent(value.shape, value.dtype)))]


def cotangent(shape, dtype):
    return draw(*shape, seed=4).astype(dtype)


@pytest.mark.slow
@on_grid
def test_conv_and_its_gradients_equal_pytorch_in_float64(case):
    arrays = case.image(), case.kernel()
    expected = torch_value_and_gradients(functools.partial(torch_conv, case), cotangent, *arrays)
    with jax.enable_x64(True):
        for ours, theirs in zip(
            value_and_gradients(case.conv, cotangent, *arrays), expected, strict=True
        ):
            assert_close(ours, theirs)


@pytest.mark.slow
@on_grid
def test_conv_transpose_with_any_padding_is_the_gradient_of_conv_in_pytorch(case):
    x, kernel = case.image(), torch.tensor(case.kernel())
    y, gradient = torch_value_and_gradients(
        lambda x: torch_conv(case, x, kernel), cotangent, case.image()
    )
    with jax.enable_x64(True):
        ours = case.conv_transpose(cotangent(y.shape, y.dtype), case.kernel())
    assert ours.shape == x.shape
    assert_close(ours, gradient)


def pytorch_grid():
    """Yield every combination of arguments that PyTorch accepts.

    In 1-d and 3-d, which take the same branches, the number of groups changes from case to case.
    """
    sizes = {1: (9,), 2: (6, 7), 3: (5, 4, 6)}
    grouped = ((1, (2, 3)), (2, (2, 1)), (3, (1, 1)))
    for taps, stride, padding, dilation in itertools.product(
        (1, 2, 3, 4), (1, 2, 3), (0, 1), (1, 2)
    ):
        if padding >= taps:
            continue
        for rank, size in sizes.items():
            which = (taps + stride + padding + dilation) % 3
            for groups, channels in grouped if rank == 2 else (grouped[which],):
                if dilation * (taps - 1) + 1 <= min(size) + 2 * padding:
                    yield Case(
                        size=size,
                        kernel_size=(taps, *(2,) * (rank - 1)),
                        stride=stride,
                        padding=padding,
                        dilation=dilation,
                        groups=groups,
                        channels=channels,
                    )


def named(case):
    rank, taps = len(case.size), case.kernel_size[0]
    return f"{rank}d-k{taps}-s{case.stride}-p{case.padding}-d{case.dilation}-g{case.groups}"


PYTORCH_GRID = list(pytorch_grid())
on_pytorch_grid = pytest.mark.parametrize("case", PYTORCH_GRID, ids=map(named, PYTORCH_GRID))


def assert_close_in_float32(ours, theirs):
    for mine, other in zip(ours, theirs, strict=True):
        assert mine.dtype == other.dtype == np.float32
        assert_close(mine, other, tolerance=1e-5)


@pytest.mark.slow
@on_pytorch_grid
def test_both_operators_and_their_gradients_equal_pytorch_layers(case):
    """Compare in float32, with the largest output padding that the stride admits."""
    x, kernel = (a.astype(np.float32) for a in (case.image(), case.kernel()))
    expected = torch_value_and_gradients(functools.partial(torch_conv, case), cotangent, x, kernel)
    y, extra = cotangent(expected[0].shape, np.float32), case.stride - 1
    rank = len(case.size)

    def transposed(y, kernel):
        function = getattr(torch.nn.functional, f"conv_transpose{rank}d")
        options = {
            name: getattr(case, name) for name in ("stride", "padding", "dilation", "groups")
        }
        x = function(channels_first(y), torch_kernel(kernel), output_padding=extra, **options)
        return channels_last(x)

    expected_transposed = torch_value_and_gradients(transposed, cotangent, y, kernel)

    @jax.jit
    def both(x, y, kernel):
        ours = functools.partial(case.conv_transpose, output_padding=extra)
        return (
            value_and_gradients(case.conv, cotangent, x, kernel),
            value_and_gradients(ours, cotangent, y, kernel),
        )

    ours, ours_transposed = both(x, y, kernel)
    assert_close_in_float32(ours, expected)
    assert_close_in_float32(ours_transposed, expected_transposed)


def test_empty_batches_and_images_without_pixels_are_accepted():
    kernel = jnp.ones((3, 3, 2, 4))
    assert conv(jnp.ones((0, 3, 5, 5, 2)), kernel).shape == (0, 3, 5, 5, 4)
    padding_alone = conv(jnp.ones((2, 0, 5, 2)), kernel, padding=2)
    np.testing.assert_array_equal(padding_alone, np.zeros((2, 2, 7, 4)))


@pytest.mark.slow
@pytest.mark.parametrize("batch", [(), (1,), (2, 3)], ids=["none", "one", "two"])
@pytest.mark.parametrize("size", [(7,), (6, 5), (4, 5, 3)], ids=["1d", "2d", "3d"])
def test_batch_axes_are_independent(size, batch):
    rank = len(size)
    x, kernel = draw(*batch, *size, 2), draw(*(3,) * rank, 2, 4)
    with jax.enable_x64(True):
        y = conv(jnp.asarray(x), jnp.asarray(kernel), stride=2)
        back = conv_transpose(y, jnp.asarray(kernel), stride=2, output_size=size)
        assert y.shape == (*batch, *(-(-n // 2) for n in size), 4)
        assert back.shape == x.shape
        for index in np.ndindex(batch):
            one = conv(jnp.asarray(x[index]), jnp.asarray(kernel), stride=2)
            assert_close(y[index], one)
            assert_close(
                back[index], conv_transpose(one, jnp.asarray(kernel), stride=2, output_size=size)
            )


def sum_of_sines(operator):
    return lambda a, kernel: jnp.sum(jnp.sin(operator(a, kernel).astype(jnp.float32)))


HALVES = {
    "conv": functools.partial(conv, stride=2),
    "conv_transpose": functools.partial(conv_transpose, stride=2),
}
both_operators = pytest.mark.parametrize("operator", HALVES.values(), ids=HALVES)


@pytest.mark.slow
@both_operators
@pytest.mark.parametrize("padding_mode", ["zeros", "edge"])
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_is_the_float32_result_rounded_once(operator, dtype, padding_mode):
    """A sum of a thousand products kept in bfloat16 would be wrong in the second digit."""
    images, kernel = (jnp.asarray(draw(*shape), dtype) for shape in ((2, 6, 6, 64), (4, 4, 64, 64)))
    operator = functools.partial(operator, padding_mode=padding_mode)
    cotangent = jnp.asarray(draw(*operator(images, kernel).shape), dtype)

    def both(*arrays):
        value, pull = jax.vjp(operator, *arrays[:2])
        return value, *pull(arrays[2])

    arrays = images, kernel, cotangent
    full = jax.jit(both)(*(a.astype(jnp.float32) for a in arrays))
    for half, single in zip(jax.jit(both)(*arrays), full, strict=True):
        assert half.dtype == dtype
        assert_close(half.astype(jnp.float32), single, tolerance=jnp.finfo(dtype).eps / 2)


@pytest.mark.slow
@both_operators
@pytest.mark.parametrize("low", [0, 1], ids=["images", "kernel"])
def test_mixed_types_compute_in_the_wider_and_keep_the_type_of_each_gradient(operator, low):
    arrays = [
        jnp.asarray(draw(2, 6, 6, 3), jnp.float32),
        jnp.asarray(draw(3, 4, 3, 3), jnp.float32),
    ]
    arrays[low] = arrays[low].astype(jnp.bfloat16)
    value = operator(*arrays)
    assert value.dtype == jnp.float32
    np.testing.assert_array_equal(value, operator(*(a.astype(jnp.float32) for a in arrays)))
    gradients = jax.grad(sum_of_sines(operator), argnums=(0, 1))(*arrays)
    assert [g.dtype for g in gradients] == [a.dtype for a in arrays]


@pytest.mark.usefixtures("no_type_checks")
@both_operators
def test_integers_are_refused_unless_the_kernel_is_float(operator):
    images, kernel = jnp.ones((1, 6, 6, 3), jnp.uint8), jnp.ones((3, 3, 3, 3))
    assert operator(images, kernel).dtype == jnp.float32
    with pytest.raises(InputError, match="floating-point numbers; got uint8 and int32"):
        operator(images, kernel.astype(jnp.int32))
