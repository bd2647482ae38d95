"""Minimal filtering against the formulation of other platforms, and where the CPU's uses it."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deconv_jax.ops import conv, conv_transpose, cpu, formulations
from deconv_jax.ops import minimal_filtering as filtering
from deconv_jax.ops.formulations import Geometry

NAMES = ("conv", "conv_transpose", "kernel_gradient")


def draw(*shape, seed=0):
    return np.random.default_rng((seed, *shape)).standard_normal(shape)


def operands(geometry, sizes, dtype=float):
    batch, inputs, outputs = sizes
    x = draw(batch, *geometry.input_size, 1, inputs, seed=1).astype(dtype)
    kernel = draw(*geometry.kernel_size, inputs, 1, outputs, seed=2).astype(dtype)
    y = draw(batch, *geometry.output_size, 1, outputs, seed=3).astype(dtype)
    return {"conv": (x, kernel), "conv_transpose": (kernel, y), "kernel_gradient": (x, y)}


def filtered(name, a, b, geometry):
    """What `cpu` composes, whatever the rules say."""
    if name == "conv":
        return filtering.conv(a, filtering.transform_kernel(b, geometry), geometry)
    if name == "conv_transpose":
        return filtering.conv_transpose(filtering.transform_kernel(a, geometry), b, geometry)
    return filtering.transpose_kernel(filtering.weights_gradient(a, b, geometry), geometry)


def assert_native(name, arrays, geometry, tolerance):
    """Equal to the native formulation, relative to the largest element."""
    arrays = [jnp.asarray(array) for array in arrays]
    result = jax.jit(filtered, static_argnums=(0, 3))(name, *arrays, geometry)
    native = getattr(formulations, f"native_{name}")
    expected = jax.jit(native, static_argnums=2)(*arrays, geometry)
    assert result.dtype == expected.dtype
    scale = float(jnp.max(jnp.abs(expected)))
    np.testing.assert_allclose(result, expected, rtol=0, atol=tolerance * max(scale, 1))


@pytest.mark.parametrize("before", [(0, 0), (1, 1), (2, 1), (4, 5), (-1, -3)], ids=str)
@pytest.mark.parametrize("stride", [(2, 2), (3, 3), (2, 3)], ids=str)
@pytest.mark.parametrize(
    ("size", "output_size"),
    [((8, 8), (4, 4)), ((7, 9), (3, 5)), ((9, 6), (4, 3)), ((5, 12), (1, 2)), ((3, 3), (7, 2))],
    ids=str,
)
@pytest.mark.parametrize("name", NAMES)
def test_it_is_the_same_sum_at_all_sizes_and_paddings(name, size, output_size, stride, before):
    """Whatever an image lacks after it is zeros, and what it has too much is left out."""
    kernel_size = tuple(2 * s for s in stride)
    geometry = Geometry(size, output_size, kernel_size, stride, (1, 1), before)
    with jax.enable_x64(True):
        assert_native(name, operands(geometry, (2, 3, 2))[name], geometry, 1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_in_single_precision_it_is_as_close_as_the_transforms_allow(name):
    geometry = Geometry((14, 16), (7, 8), (4, 4), (2, 2), (1, 1), (1, 1))
    arrays = operands(geometry, (4, 32, 48), np.float32)[name]
    assert_native(name, arrays, geometry, 1e-5)


@pytest.fixture
def everywhere(monkeypatch):
    """Lifts the rules that keep it from few channels, small batches and odd outputs."""

    def parts(geometry, batch, inputs, groups, outputs, **_):
        del inputs, outputs
        two = [k == 2 * s for k, s in zip(geometry.kernel_size, geometry.stride, strict=True)]
        return float(math.gcd(batch, 2)) if len(two) == 2 and all(two) and groups == 1 else 0.0

    monkeypatch.setattr(cpu, "_parts_to_filter", parts)
    jax.clear_caches()
    yield
    jax.clear_caches()


def is_filtered(name, arrays, geometry):
    """By what only it puts into a program: products of nine matrices at a time."""
    traced = str(jax.make_jaxpr(getattr(cpu, name), static_argnums=2)(*arrays, geometry))
    return (
        "(([2], [1]), ([0], [0]))" in traced
        or "(([2], [2]), ([0], [0]))" in traced
        or (name == "kernel_gradient" and "(([1], [1]), ([0], [0]))" in traced)
    )


@pytest.mark.usefixtures("everywhere")
@pytest.mark.parametrize("padding", ["SAME", "VALID", 1, ((2, 1), (0, 3))], ids=str)
@pytest.mark.parametrize("size", [(8, 8), (9, 7), (12, 6)], ids=str)
@pytest.mark.parametrize("stride", [2, 3])
def test_the_operators_by_it_are_adjoint_and_their_gradients_too(stride, size, padding):
    options = {"stride": stride, "padding": padding}
    x, kernel = draw(2, *size, 3), draw(2 * stride, 2 * stride, 3, 4)
    with jax.enable_x64(True):
        x, kernel = jnp.asarray(x), jnp.asarray(kernel)
        y = jnp.asarray(draw(*jax.eval_shape(lambda: conv(x, kernel, **options)).shape))

        def form(x, kernel, y):
            return jnp.vdot(conv(x, kernel, **options), y)

        def adjoint_form(x, kernel, y):
            return jnp.vdot(x, conv_transpose(y, kernel, output_size=size, **options))

        value, gradients = jax.value_and_grad(form, (0, 1, 2))(x, kernel, y)
        other, others = jax.value_and_grad(adjoint_form, (0, 1, 2))(x, kernel, y)
    np.testing.assert_allclose(other, value, rtol=1e-10)
    for one, another in zip(gradients, others, strict=True):
        np.testing.assert_allclose(one, another, rtol=0, atol=1e-10)


@pytest.mark.usefixtures("everywhere")
@pytest.mark.parametrize("operator", [conv, conv_transpose])
@pytest.mark.parametrize("axes", [(None, 0), (0, None), (0, 0)], ids=str)
def test_vmap_and_second_derivatives_by_it_are_those_of_a_loop(axes, operator):
    shapes = ((4, 4, 2, 2), (2, 5, 6, 2))
    arrays = [
        draw(*shape) if a is None else draw(3, *shape)
        for shape, a in zip(shapes, axes, strict=True)
    ]

    def penalty(kernel, images):
        gradient = jax.grad(lambda i: jnp.sum(jnp.sin(operator(i, kernel, stride=2))))(images)
        return jnp.sum(gradient**2)

    with jax.enable_x64(True):
        arrays = [jnp.asarray(array) for array in arrays]
        together = jax.jit(jax.vmap(jax.grad(penalty), axes))(*arrays)
        each = [
            [a if axis is None else a[i] for a, axis in zip(arrays, axes, strict=True)]
            for i in range(3)
        ]
        alone = [jax.jit(jax.grad(penalty))(*one) for one in each]
    np.testing.assert_allclose(together, jnp.stack(alone), rtol=0, atol=1e-9)


@pytest.mark.usefixtures("everywhere")
@pytest.mark.parametrize("name", NAMES)
def test_half_precision_is_computed_in_single_and_rounded_once(name):
    geometry = Geometry((8, 8), (4, 4), (4, 4), (2, 2), (1, 1), (1, 1))
    low = [jnp.asarray(a, jnp.bfloat16) for a in operands(geometry, (2, 4, 4))[name]]
    result = getattr(cpu, name)(*low, geometry)
    wide = getattr(cpu, name)(*(a.astype(jnp.float32) for a in low), geometry)
    assert result.dtype == jnp.bfloat16
    np.testing.assert_array_equal(result, wide.astype(jnp.bfloat16))


def square(size, *, kernel=4, stride=2, dilation=1):
    """The geometry of "SAME", of an image twice as large as `size`, or so."""
    before = max(0, dilation * (kernel - 1) + 1 - stride) // 2
    return Geometry(
        (stride * size,) * 2,
        (size,) * 2,
        (kernel,) * 2,
        (stride,) * 2,
        (dilation,) * 2,
        (before,) * 2,
    )


ALL = set(NAMES)
RULES = {
    "dcgan, 8": (square(8), (64, 64, 128), ALL),
    "dcgan, 4": (square(4), (64, 128, 256), ALL),
    "stride 3": (square(8, kernel=6, stride=3), (64, 64, 128), ALL),
    "odd": (square(7), (64, 64, 128), {"conv", "conv_transpose"}),
    "32 and 64 channels": (square(14), (64, 32, 64), {"conv", "conv_transpose"}),
    "32 and 63": (square(14), (64, 32, 63), {"conv_transpose"}),
    "32 both": (square(14), (64, 32, 32), {"conv_transpose"}),
    "31 inputs": (square(14), (64, 31, 128), set()),
    "colours": (square(16), (64, 3, 64), set()),
    "many tiles too many": (square(5), (64, 64, 128), set()),
    "one image": (square(4), (1, 128, 256), set()),
    "a batch of no parts": (square(8), (127, 64, 128), set()),
    "kernel 3": (square(8, kernel=3), (64, 64, 128), set()),
    "kernel 5": (square(8, kernel=5), (64, 64, 128), set()),
    "stride 1": (square(8, kernel=2, stride=1), (64, 64, 128), set()),
    "dilated": (square(8, dilation=2), (64, 64, 128), set()),
}


@pytest.mark.parametrize(("geometry", "sizes", "taken"), RULES.values(), ids=RULES)
def test_it_is_used_where_it_gains(geometry, sizes, taken):
    batch, inputs, outputs = sizes
    x = jax.ShapeDtypeStruct((batch, *geometry.input_size, 1, inputs), jnp.float32)
    kernel = jax.ShapeDtypeStruct((*geometry.kernel_size, inputs, 1, outputs), jnp.float32)
    y = jax.ShapeDtypeStruct((batch, *geometry.output_size, 1, outputs), jnp.float32)
    arrays = {"conv": (x, kernel), "conv_transpose": (kernel, y), "kernel_gradient": (x, y)}
    assert {name for name in NAMES if is_filtered(name, arrays[name], geometry)} == taken


@pytest.mark.parametrize("name", NAMES)
def test_by_parts_of_the_batch_it_is_the_same(name):
    geometry = square(16)
    arrays = [jnp.asarray(a, jnp.float32) for a in operands(geometry, (32, 64, 64))[name]]
    assert is_filtered(name, arrays, geometry)
    result = jax.jit(getattr(cpu, name), static_argnums=2)(*arrays, geometry)
    expected = jax.jit(getattr(formulations, f"native_{name}"), static_argnums=2)(*arrays, geometry)
    scale = float(jnp.max(jnp.abs(expected)))
    np.testing.assert_allclose(result, expected, rtol=0, atol=1e-5 * scale)
