"""The operators against their defining law, against PyTorch, and against JAX's own derivatives."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from jax import lax
from jax.extend.core import Var, jaxprs_in_params
from jaxtyping import config as jaxtyping_config

from deconv_jax.errors import InputError
from deconv_jax.ops import conv, conv_transpose

torch.set_num_threads(1)
"""The arrays are tiny: threads would only contend with JAX's."""

LAYOUT = ("NHWC", "HWIO", "NHWC")


def draw(*shape, seed=0):
    """Standard normal numbers, float64, different for every shape and seed."""
    return np.random.default_rng((seed, *shape)).standard_normal(shape)


def assert_close(actual, expected, tolerance=1e-10):
    """Elementwise, relative to the larger of 1 and the largest element."""
    scale = max(1.0, float(np.max(np.abs(np.asarray(expected)))))
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance * scale)


@dataclasses.dataclass(frozen=True)
class Case:
    """Arguments of an operator with the shapes it is applied to."""

    size: tuple[int, int] = (7, 8)
    """Of the images: what `conv` takes and, unless stated otherwise, `conv_transpose` gives."""
    kernel_size: tuple[int, int] = (3, 3)
    stride: Any = 1
    padding: Any = "SAME"
    padding_mode: str = "zeros"
    dilation: Any = 1
    groups: int = 1
    channels: tuple[int, int] = (1, 1)
    """Input and output channels of each group."""
    batch: int = 2

    @property
    def options(self):
        names = ("stride", "padding", "padding_mode", "dilation", "groups")
        return {name: getattr(self, name) for name in names}

    def image(self):
        return draw(self.batch, *self.size, self.channels[0] * self.groups, seed=1)

    def kernel(self):
        return draw(*self.kernel_size, self.channels[0], self.channels[1] * self.groups, seed=2)

    def conv(self, x, kernel):
        return conv(jnp.asarray(x), jnp.asarray(kernel), **self.options)

    def conv_transpose(self, y, kernel, output_padding=0):
        arrays = jnp.asarray(y), jnp.asarray(kernel)
        return conv_transpose(*arrays, **self.options, output_padding=output_padding)

    def output_padding(self, output_size):
        """What makes `conv_transpose` return `size` and not another that `conv` maps as far."""
        if self.padding == "SAME":
            return 0
        stride = np.broadcast_to(self.stride, 2)
        smallest = smallest_transposed_size(self, output_size)
        extra = np.subtract(self.size, smallest)
        assert (extra >= 0).all()
        assert (extra < stride).all()
        return tuple(int(e) for e in extra)


def smallest_transposed_size(case, output_size):
    """Relationship 14 of arXiv:1603.07285 with a = 0."""
    pads = {"VALID": ((0, 0), (0, 0))}.get(case.padding, case.padding)
    total = np.broadcast_to(pads, (2, 2)).sum(axis=1)
    extent = np.broadcast_to(case.dilation, 2) * (np.array(case.kernel_size) - 1) + 1
    return (np.array(output_size) - 1) * np.broadcast_to(case.stride, 2) + extent - total


ints_or_pairs = {
    name: st.one_of(st.integers(1, 3), st.tuples(st.integers(1, 3), st.integers(1, 3)))
    for name in ("stride", "dilation")
}
side = st.tuples(st.integers(0, 3), st.integers(0, 3))


@st.composite
def cases(draw_one):
    """Any arguments that `conv` accepts."""
    case = Case(
        size=draw_one(st.tuples(st.integers(2, 9), st.integers(2, 9))),
        kernel_size=draw_one(st.tuples(st.integers(1, 4), st.integers(1, 4))),
        stride=draw_one(ints_or_pairs["stride"]),
        dilation=draw_one(ints_or_pairs["dilation"]),
        padding=draw_one(
            st.one_of(st.sampled_from(["SAME", "VALID"]), st.integers(0, 3), st.tuples(side, side))
        ),
        padding_mode=draw_one(st.sampled_from(["zeros", "circular", "reflect", "edge"])),
        groups=draw_one(st.integers(1, 3)),
        channels=draw_one(st.tuples(st.integers(1, 2), st.integers(1, 2))),
        batch=1,
    )
    if case.padding == "SAME":
        # Otherwise the image is not the one size that conv_transpose gives back.
        stride = np.broadcast_to(case.stride, 2)
        case = dataclasses.replace(
            case, size=tuple(int(-(-n // s) * s) for n, s in zip(case.size, stride, strict=True))
        )
    return case


@settings(max_examples=60, deadline=None, derandomize=True)
@given(case=cases())
def test_conv_transpose_is_the_adjoint_of_conv(case):
    with jax.enable_x64(True):
        x, kernel = case.image(), case.kernel()
        try:
            shape = jax.eval_shape(case.conv, x, kernel).shape
        except InputError:  # a kernel larger than the image, or more padding than a mode can fill
            assume(False)
        y = draw(*shape, seed=3)
        extra = case.output_padding(shape[1:3])
        output, back = jax.jit(
            lambda x, kernel, y: (case.conv(x, kernel), case.conv_transpose(y, kernel, extra))
        )(x, kernel, y)
        assert back.shape == x.shape
        scale = np.linalg.norm(output) * np.linalg.norm(y)
        assert abs(np.vdot(output, y) - np.vdot(x, back)) <= 1e-10 * max(1.0, scale)


# One argument at a time away from the default, then all at once.
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
    """(height, width, in / groups, out) to PyTorch's layout; the same for both operators."""
    return kernel.permute(3, 2, 0, 1)


def torch_conv(case, x, kernel):
    """What `conv` computes, by PyTorch, on the same layouts."""
    mode = {"zeros": "constant", "edge": "replicate"}.get(case.padding_mode, case.padding_mode)
    padding = 0 if case.padding == "VALID" else case.padding
    (top, bottom), (left, right) = np.broadcast_to(padding, (2, 2)).tolist()
    x = torch.nn.functional.pad(x.permute(0, 3, 1, 2), (left, right, top, bottom), mode=mode)
    options = {"stride": case.stride, "dilation": case.dilation, "groups": case.groups}
    y = torch.nn.functional.conv2d(x, torch_kernel(kernel), **options)
    return y.permute(0, 2, 3, 1)


def torch_value_and_gradients(function, cotangent, *arrays):
    tensors = [torch.tensor(a, requires_grad=True) for a in arrays]
    value = function(*tensors)
    value.backward(torch.tensor(cotangent(value.shape)))
    return [value.detach().numpy(), *(t.grad.numpy() for t in tensors)]


@functools.partial(jax.jit, static_argnums=(0, 1))
def value_and_gradients(function, cotangent, *arrays):
    value, pull = jax.vjp(function, *arrays)
    return [value, *pull(jnp.asarray(cotangent(value.shape)))]


def cotangent(shape):
    return draw(*shape, seed=4)


@on_grid
def test_conv_and_its_gradients_equal_pytorch(case):
    arrays = case.image(), case.kernel()
    expected = torch_value_and_gradients(functools.partial(torch_conv, case), cotangent, *arrays)
    with jax.enable_x64(True):
        for ours, theirs in zip(
            value_and_gradients(case.conv, cotangent, *arrays), expected, strict=True
        ):
            assert_close(ours, theirs)


@pytest.mark.parametrize("extra", [0, 1])
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize(
    ("kernel_size", "stride", "padding", "dilation"),
    [((4, 4), 2, 1, 1), ((3, 3), 2, 1, 1), ((5, 2), (2, 3), 0, 1), ((3, 2), (2, 3), 1, 2)],
)
def test_conv_transpose_and_its_gradients_equal_pytorch(
    kernel_size, stride, padding, dilation, groups, extra
):
    """PyTorch's kernel is (in, out / groups, height, width) here: the transposed conv's own layout."""
    y, kernel = draw(2, 4, 5, 2 * groups), draw(*kernel_size, 3, 2 * groups)
    options = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}

    def theirs(y, kernel):
        x = torch.nn.functional.conv_transpose2d(
            y.permute(0, 3, 1, 2), torch_kernel(kernel), output_padding=extra, **options
        )
        return x.permute(0, 2, 3, 1)

    ours = functools.partial(conv_transpose, output_padding=extra, **options)
    expected = torch_value_and_gradients(theirs, cotangent, y, kernel)
    with jax.enable_x64(True):
        for mine, other in zip(
            value_and_gradients(ours, cotangent, y, kernel), expected, strict=True
        ):
            assert_close(mine, other)


@on_grid
def test_conv_transpose_with_any_padding_is_the_gradient_of_pytorchs_conv(case):
    x, kernel = case.image(), torch.tensor(case.kernel())
    y, gradient = torch_value_and_gradients(
        lambda x: torch_conv(case, x, kernel), cotangent, case.image()
    )
    with jax.enable_x64(True):
        extra = case.output_padding(y.shape[1:3])
        ours = case.conv_transpose(cotangent(y.shape), case.kernel(), extra)
    assert ours.shape == x.shape
    assert_close(ours, gradient)


def plain_conv(x, kernel, *, stride=1, padding=((1, 1), (1, 1)), dilation=1, groups=1):
    """`conv` in lax alone: what JAX's own derivatives of every order are taken of."""
    return lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        padding,
        rhs_dilation=(dilation, dilation),
        dimension_numbers=LAYOUT,
        feature_group_count=groups,
    )


def plain_conv_transpose(y, kernel, *, size, groups=1, **options):
    """`conv_transpose` to images of `size` in lax alone."""
    x = jax.ShapeDtypeStruct((y.shape[0], *size, kernel.shape[2] * groups), y.dtype)
    transpose = jax.linear_transpose(lambda x: plain_conv(x, kernel, groups=groups, **options), x)
    return transpose(y)[0]


PLAIN = {
    "stride 3, groups 2": {"stride": 3, "groups": 2},
    "dilation 2, stride 2": {"dilation": 2, "stride": 2, "padding": ((2, 1), (0, 3))},
}
on_plain = pytest.mark.parametrize("options", PLAIN.values(), ids=PLAIN.keys())


def operators(options, inputs=2, outputs=3):
    """(ours, lax's, arrays) of both operators with the same arguments."""
    groups = options.get("groups", 1)
    options = {"padding": ((1, 1), (1, 1))} | options
    x = draw(2, 7, 8, inputs * groups)
    kernel = draw(3, 4, inputs, outputs * groups)
    with jax.enable_x64(True):
        y_shape = plain_conv(x, kernel, **options).shape
        smallest = conv_transpose(jnp.zeros(y_shape), jnp.asarray(kernel), **options).shape
    extra = tuple(int(e) for e in np.subtract(x.shape, smallest)[1:3])
    y = draw(*y_shape)
    return {
        "conv": (
            functools.partial(conv, **options),
            functools.partial(plain_conv, **options),
            (x, kernel),
        ),
        "conv_transpose": (
            functools.partial(conv_transpose, output_padding=extra, **options),
            functools.partial(plain_conv_transpose, size=x.shape[1:3], **options),
            (y, kernel),
        ),
    }


both_operators = pytest.mark.parametrize("name", ["conv", "conv_transpose"])


@both_operators
@on_plain
def test_first_derivatives_equal_those_of_lax(options, name):
    ours, plain, arrays = operators(options)[name]
    with jax.enable_x64(True):
        for mine, native in zip(
            value_and_gradients(ours, cotangent, *arrays),
            value_and_gradients(plain, cotangent, *arrays),
            strict=True,
        ):
            assert_close(mine, native)


def gradient_penalty(operator):
    """(|d critic / d input| - 1)**2 of a two-layer critic, as of WGAN-GP (arXiv:1704.00028).

    Its gradients by input and kernel take second derivatives of the operator in every pair of its
    arguments: tanh makes the inner gradient depend on the input as well.
    """

    def critic(a, kernel):
        return jnp.sum(jnp.tanh(operator(jnp.tanh(a), kernel)) ** 2)

    def penalty(a, kernel):
        gradient = jax.grad(critic)(a, kernel)
        norm = jnp.sqrt(jnp.sum(gradient**2, axis=(1, 2, 3)))
        return jnp.mean((norm - 1.0) ** 2)

    return penalty


def kernel_curvature(operator):
    """A function of the kernel's gradient: differentiates through the gradient by the kernel."""

    def loss(a, kernel):
        return jnp.sum(jnp.sin(operator(a, kernel)))

    def curvature(a, kernel):
        return jnp.sum(jax.grad(loss, argnums=1)(a, kernel) ** 2)

    return curvature


@pytest.mark.parametrize("through", [gradient_penalty, kernel_curvature])
@both_operators
@on_plain
def test_second_derivatives_equal_those_of_lax(options, name, through):
    ours, plain, arrays = operators(options)[name]
    with jax.enable_x64(True):
        arrays = tuple(map(jnp.asarray, arrays))
        differentiate = [jax.jit(jax.value_and_grad(through(f), (0, 1))) for f in (ours, plain)]
        (value, gradients), (expected_value, expected) = (f(*arrays) for f in differentiate)
        assert_close(value, expected_value)
        for mine, native in zip(gradients, expected, strict=True):
            assert_close(mine, native)


def needed(jaxpr):
    """The equations that its outputs depend on: what the compiler keeps."""
    wanted = {v for v in jaxpr.outvars if isinstance(v, Var)}
    for equation in reversed(jaxpr.eqns):
        if wanted.intersection(equation.outvars):
            wanted.update(v for v in equation.invars if isinstance(v, Var))
            yield equation


def convolutions(jaxpr):
    """Every convolution that a jaxpr needs, those of inner jaxprs included."""
    for equation in needed(jaxpr):
        if equation.primitive is lax.conv_general_dilated_p:
            yield equation
        for inner in jaxprs_in_params(equation.params):
            yield from convolutions(inner)


def is_dilated(convolution):
    """Whether its image is spread with zeros."""
    return max(convolution.params["lhs_dilation"]) > 1


def window(convolution):
    """Height and width of what it slides over the image."""
    layout = convolution.params["dimension_numbers"].rhs_spec
    shape = convolution.invars[1].aval.shape
    return tuple(shape[axis] for axis in layout[2:])


def pullback_by_kernel(operator, a, kernel):
    """The convolutions of the kernel's gradient alone, without those of the value."""
    value, pull = jax.vjp(lambda k: operator(a, k), kernel)
    return list(convolutions(jax.make_jaxpr(pull)(value).jaxpr))


@both_operators
def test_the_kernels_gradient_dilates_no_image(name):
    ours, _, arrays = operators({"stride": 2})[name]
    found = pullback_by_kernel(ours, *map(jnp.float32, arrays))
    assert found
    assert not any(map(is_dilated, found))


def test_automatic_transposition_would_dilate_an_image():
    """The test above can fail: JAX's own gradient of a transposed convolution takes that path."""
    _, plain, arrays = operators({"stride": 2})["conv_transpose"]
    assert any(map(is_dilated, pullback_by_kernel(plain, *map(jnp.float32, arrays))))


@pytest.mark.parametrize("through", [gradient_penalty, kernel_curvature])
@both_operators
def test_second_derivatives_slide_no_image_over_a_dilated_one(name, through):
    """A convolution over a dilated image is slow when its window is image-sized.

    With the kernel as window it is the transposed convolution itself, which the second derivative
    of a strided convolution contains by definition.
    """
    ours, plain, arrays = operators({"stride": 2})[name]
    arrays = tuple(map(jnp.float32, arrays))
    kernel_size = arrays[1].shape[:2]

    def slow(operator):
        derivative = jax.grad(through(operator), argnums=(0, 1))
        found = list(convolutions(jax.make_jaxpr(derivative)(*arrays).jaxpr))
        assert found
        return [c for c in found if is_dilated(c) and window(c) != kernel_size]

    assert not slow(ours)
    if name == "conv_transpose":
        assert slow(plain)


def gradients_of_loss(operator):
    return jax.grad(lambda a, kernel: jnp.sum(jnp.sin(operator(a, kernel))), argnums=(0, 1))


@both_operators
@pytest.mark.parametrize("transformed", [jax.jit, jax.checkpoint], ids=["jit", "checkpoint"])
def test_transformations_change_no_gradient(name, transformed):
    ours, _, arrays = operators({"stride": 2, "groups": 2})[name]
    with jax.enable_x64(True):
        arrays = tuple(map(jnp.asarray, arrays))
        expected = gradients_of_loss(ours)(*arrays)
        for mine, plain in zip(
            gradients_of_loss(transformed(ours))(*arrays), expected, strict=True
        ):
            assert_close(mine, plain)


@both_operators
@pytest.mark.parametrize("in_axes", [(0, None), (None, 0), (0, 0)])
def test_vmap_equals_a_loop(name, in_axes):
    ours, _, arrays = operators({"stride": 2, "groups": 2})[name]
    count = 3
    with jax.enable_x64(True):
        stacked = [
            jnp.asarray(a) if axis is None else jnp.stack([i * a for i in range(1, count + 1)])
            for a, axis in zip(arrays, in_axes, strict=True)
        ]
        for function in (jax.jit(ours), jax.jit(lambda *a: gradients_of_loss(ours)(*a)[1])):
            mapped = jax.vmap(function, in_axes)(*stacked)
            for i in range(count):
                each = [
                    a if axis is None else a[i] for a, axis in zip(stacked, in_axes, strict=True)
                ]
                assert_close(mapped[i], function(*each))


@both_operators
def test_bfloat16_stays_bfloat16_and_is_the_rounded_value(name):
    ours, _, arrays = operators({"stride": 2})[name]
    low = tuple(jnp.asarray(a, jnp.bfloat16) for a in arrays)
    high = tuple(a.astype(jnp.float32) for a in low)
    value, gradients = ours(*low), gradients_of_loss(ours)(*low)
    assert value.dtype == jnp.bfloat16
    assert [g.dtype for g in gradients] == [jnp.bfloat16] * 2
    # bfloat16 keeps 8 bits; sums of at most 24 products may be added up in it.
    assert_close(value.astype(jnp.float32), ours(*high), tolerance=24 * 2**-9)


@both_operators
@pytest.mark.parametrize("low", [0, 1], ids=["images", "kernel"])
def test_mixed_types_compute_in_the_wider_and_return_each_gradient_in_its_own(name, low):
    ours, _, arrays = operators({"stride": 2})[name]
    arrays = [jnp.asarray(a, jnp.float32) for a in arrays]
    arrays[low] = arrays[low].astype(jnp.bfloat16)
    value = ours(*arrays)
    assert value.dtype == jnp.float32
    np.testing.assert_array_equal(value, ours(*(a.astype(jnp.float32) for a in arrays)))
    assert [g.dtype for g in gradients_of_loss(ours)(*arrays)] == [a.dtype for a in arrays]


@pytest.mark.parametrize("kernel_size", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_same_padding_divides_and_multiplies_the_size_by_the_stride(kernel_size, stride):
    kernel = jnp.ones((kernel_size, kernel_size, 1, 1))
    x = jnp.ones((1, 7, 9, 1))
    down = conv(x, kernel, stride=stride)
    assert down.shape == (1, -(-7 // stride), -(-9 // stride), 1)
    up = conv_transpose(x, kernel, stride=stride)
    assert up.shape == (1, 7 * stride, 9 * stride, 1)


def test_same_padding_puts_the_odd_pixel_after_the_image():
    """A 2-tap kernel picking its second tap shifts the image by one: the zero comes in at the end."""
    x = jnp.arange(1.0, 5.0).reshape(1, 4, 1, 1)
    second_tap = jnp.array([0.0, 1.0]).reshape(2, 1, 1, 1)
    assert conv(x, second_tap)[0, :, 0, 0].tolist() == [2.0, 3.0, 4.0, 0.0]


@pytest.mark.parametrize("output_padding", [0, 1, 2])
def test_output_padding_chooses_among_the_sizes_that_conv_maps_alike(output_padding):
    """arXiv:1603.07285, relationship 14: 3 * (4 - 1) + 5 - 2 * 1 + a = 12 + a."""
    kernel = jnp.ones((5, 5, 1, 1))
    y = jnp.ones((1, 4, 4, 1))
    options = {"stride": 3, "padding": 1}
    x = conv_transpose(y, kernel, **options, output_padding=output_padding)
    assert x.shape == (1, 12 + output_padding, 12 + output_padding, 1)
    assert conv(x, kernel, **options).shape == y.shape


X, K = (1, 6, 6, 2), (3, 3, 2, 4)
Y = (1, 6, 6, 4)
ERRORS = [
    (conv, (6, 6, 2), K, {}, ["4 axes", "(6, 6, 2)"]),
    (conv, X, (3, 3, 2), {}, ["4 axes", "(3, 3, 2)"]),
    (conv, (1, 6, 6, 3), K, {}, ["takes 2 input channels", "(3, 3, 2, 4)", "(1, 6, 6, 3)"]),
    (conv, X, (3, 3, 1, 3), {"groups": 2}, ["groups=2", "divisible", "(3, 3, 1, 3)"]),
    (conv, X, K, {"stride": 0}, ["stride", ">= 1", "0"]),
    (conv, X, K, {"stride": (1, 2, 1)}, ["stride", "pair", "(1, 2, 1)"]),
    (conv, X, K, {"dilation": -1}, ["dilation", ">= 1", "-1"]),
    (conv, X, K, {"dilation": 1.5}, ["dilation", "1.5"]),
    (conv, X, K, {"padding": "same"}, ["padding", '"SAME"', "'same'"]),
    (conv, X, K, {"padding": 0.5}, ["padding", "((top, bottom)", "0.5"]),
    (conv, X, K, {"padding": (1, 2)}, ["padding", "((top, bottom)", "(1, 2)"]),
    (conv, X, K, {"padding": ((1, 1),)}, ["padding", "((top, bottom)", "((1, 1),)"]),
    (conv, X, K, {"padding": ((1, 1), (0, -1))}, ["padding", ">= 0", "(0, -1)"]),
    (conv, X, K, {"padding": -1}, ["padding", ">= 0", "-1"]),
    (conv, X, K, {"padding_mode": "mirror"}, ["padding_mode", "reflect", "'mirror'"]),
    (
        conv,
        X,
        K,
        {"padding": "VALID", "dilation": 3},
        ["(6, 6)", "smaller than the dilated kernel", "(7, 7)"],
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
    (conv_transpose, (6, 6, 4), K, {}, ["4 axes", "(6, 6, 4)"]),
    (conv_transpose, X, K, {}, ["takes 4 input channels", "(3, 3, 2, 4)", "(1, 6, 6, 2)"]),
    (conv_transpose, Y, K, {"groups": 3}, ["groups=3", "divisible", "(1, 6, 6, 4)"]),
    (conv_transpose, Y, K, {"stride": "2"}, ["stride", "'2'"]),
    (conv_transpose, Y, K, {"stride": 2, "output_padding": 1}, ['"SAME"', "output_padding", "1"]),
    (
        conv_transpose,
        Y,
        K,
        {"stride": 2, "padding": 1, "output_padding": 2},
        ["output_padding", "smaller than the stride (2, 2)", "2"],
    ),
    (conv_transpose, Y, K, {"padding": 1, "output_padding": -1}, ["output_padding", ">= 0", "-1"]),
    (conv_transpose, Y, K, {"padding": 4}, ["padding 4", "leaves nothing", "(6, 6)", "(3, 3)"]),
    (conv_transpose, Y, K, {"padding_mode": "mirror"}, ["padding_mode", "'mirror'"]),
]


@pytest.fixture
def as_without_type_checks(monkeypatch):
    """A user has no run-time type checker in front of the operators, and sees their own errors."""
    monkeypatch.setattr(jaxtyping_config, "jaxtyping_disable", True)


@pytest.mark.usefixtures("as_without_type_checks")
@pytest.mark.parametrize(("operator", "images", "kernel", "options", "words"), ERRORS)
def test_errors_name_the_argument_and_its_value(operator, images, kernel, options, words):
    with pytest.raises(InputError) as raised:
        operator(jnp.ones(images), jnp.ones(kernel), **options)
    message = str(raised.value)
    assert [word for word in words if word not in message] == []
