"""Tests of the derivatives of both operators against JAX's derivatives of plain `lax`."""

import functools

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from arrays import draw
from jax import lax
from jax.extend.core import jaxprs_in_params
from jax.sharding import AxisType, PartitionSpec

from deconv_jax.ops import conv, conv_transpose


def assert_close(actual, expected, tolerance=1e-10):
    """Compare elementwise, relative to the larger of 1 and the largest element."""
    scale = max(1.0, float(np.max(np.abs(np.asarray(expected)))))
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance * scale)


def plain_conv(x, kernel, *, stride=1, padding=1, dilation=1, groups=1):
    """Compute `conv` by `lax` alone, which JAX differentiates by its own rules."""
    rank = kernel.ndim - 2
    space = "DHW"[3 - rank :]
    return lax.conv_general_dilated(
        x,
        kernel,
        (stride,) * rank,
        np.broadcast_to(padding, (rank, 2)).tolist(),
        rhs_dilation=(dilation,) * rank,
        dimension_numbers=(f"N{space}C", f"{space}IO", f"N{space}C"),
        feature_group_count=groups,
    )


def plain_conv_transpose(y, kernel, *, size, groups=1, **options):
    """Compute `conv_transpose` to images of `size` by `lax` alone."""
    x = jax.ShapeDtypeStruct((y.shape[0], *size, kernel.shape[-2] * groups), y.dtype)
    transpose = jax.linear_transpose(lambda x: plain_conv(x, kernel, groups=groups, **options), x)
    return transpose(y)[0]


PLAIN = {
    "1d, stride 2": {"size": (9,), "kernel_size": (4,), "stride": 2},
    "2d, stride 3, groups 2": {"stride": 3, "groups": 2},
    "2d, dilation 2, stride 2": {"dilation": 2, "stride": 2, "padding": ((2, 1), (0, 3))},
    "2d, depthwise": {"groups": 4, "channels": (1, 1)},
    "3d, stride 2": {"size": (6, 7, 5), "kernel_size": (3, 2, 3), "stride": 2},
}
on_plain = pytest.mark.parametrize("options", PLAIN.values(), ids=PLAIN.keys())


def operators(options):
    """Return (our operator, the one in plain lax, arrays) by name."""
    options = {"padding": 1, "groups": 1} | options
    inputs, outputs = options.pop("channels", (2, 3))
    size, kernel_size = options.pop("size", (7, 8)), options.pop("kernel_size", (3, 4))
    groups = options["groups"]
    x = draw(2, *size, inputs * groups)
    kernel = draw(*kernel_size, inputs, outputs * groups)
    y = draw(*jax.eval_shape(functools.partial(plain_conv, **options), x, kernel).shape)
    return {
        "conv": (
            functools.partial(conv, **options),
            functools.partial(plain_conv, **options),
            (x, kernel),
        ),
        "conv_transpose": (
            functools.partial(conv_transpose, output_size=size, **options),
            functools.partial(plain_conv_transpose, size=size, **options),
            (y, kernel),
        ),
    }


both_operators = pytest.mark.parametrize("name", ["conv", "conv_transpose"])


def compare(derivative, options, name, tolerance=1e-10):
    """Assert that a derivative of our operator equals that of plain lax."""
    ours, reference, arrays = operators(options)[name]
    with jax.enable_x64(True):
        arrays = tuple(map(jnp.asarray, arrays))
        results = [jax.tree.leaves(jax.jit(derivative(f))(*arrays)) for f in (ours, reference)]
        for mine, native in zip(*results, strict=True):
            assert_close(mine, native, tolerance)


def pulled_back(operator):
    def derivative(*arrays):
        value, pull = jax.vjp(operator, *arrays)
        return value, pull(jnp.cos(value))

    return derivative


def pushed_forward(operator):
    def derivative(*arrays):
        both = [jax.jvp(operator, arrays, tuple(map(jnp.cos, arrays)))]
        for i in range(2):  # one argument alone: the tangent of the other is a symbolic zero
            one = lambda a, i=i: operator(*arrays[:i], a, *arrays[i + 1 :])  # noqa: E731
            both.append(jax.jvp(one, (arrays[i],), (jnp.sin(arrays[i]),)))
        return both

    return derivative


def transposed(operator):
    """Transpose the operator as a linear map of each argument, without differentiating it."""

    def derivative(*arrays):
        cotangent = jnp.cos(operator(*arrays))
        by_images = jax.linear_transpose(lambda a: operator(a, arrays[1]), arrays[0])
        by_kernel = jax.linear_transpose(lambda k: operator(arrays[0], k), arrays[1])
        return by_images(cotangent), by_kernel(cotangent)

    return derivative


@pytest.mark.parametrize("derivative", [pulled_back, pushed_forward, transposed])
@both_operators
@on_plain
def test_first_derivatives_equal_those_of_lax(options, name, derivative):
    compare(derivative, options, name)


def gradient_penalty(operator):
    """Return (|d critic / d input| - 1)**2 of a two-layer critic, as in WGAN-GP (arXiv:1704.00028).

    Its gradient uses the second derivatives of the operator by every pair of its arguments: tanh
    makes the inner gradient depend on the input as well.
    """

    def critic(a, kernel):
        return jnp.sum(jnp.tanh(operator(jnp.tanh(a), kernel)) ** 2)

    def penalty(a, kernel):
        gradient = jax.grad(critic)(a, kernel)
        norm = jnp.sqrt(jnp.sum(gradient**2, axis=range(1, a.ndim)))
        return jnp.mean((norm - 1.0) ** 2)

    return penalty


def kernel_curvature(operator):
    """Return a function of the kernel gradient, to differentiate through that gradient."""

    def loss(a, kernel):
        return jnp.sum(jnp.sin(operator(a, kernel)))

    def curvature(a, kernel):
        return jnp.sum(jax.grad(loss, argnums=1)(a, kernel) ** 2)

    return curvature


def reverse_over_reverse(through):
    return lambda operator: jax.value_and_grad(through(operator), (0, 1))


def hessian_product(operator):
    """Return the product of the Hessian with a direction, by forward over reverse mode."""

    def derivative(*arrays):
        gradient = jax.grad(lambda *a: jnp.sum(jnp.sin(operator(*a))), (0, 1))
        return jax.jvp(gradient, arrays, tuple(map(jnp.cos, arrays)))

    return derivative


SECOND = {
    "gradient penalty": reverse_over_reverse(gradient_penalty),
    "kernel curvature": reverse_over_reverse(kernel_curvature),
    "Hessian product": hessian_product,
}
second_derivatives = pytest.mark.parametrize("derivative", SECOND.values(), ids=SECOND)


@pytest.mark.slow
@second_derivatives
@both_operators
@on_plain
def test_second_derivatives_equal_those_of_lax(options, name, derivative):
    compare(derivative, options, name)


def primitives(jaxpr):
    """Yield the names of all primitives in a jaxpr, including those of inner jaxprs."""
    for equation in jaxpr.eqns:
        yield equation.primitive.name
        for inner in jaxprs_in_params(equation.params):
            yield from primitives(inner)


@pytest.mark.parametrize(
    "derivative", [pulled_back, pushed_forward, *SECOND.values()], ids=lambda d: d.__name__
)
@both_operators
def test_derivatives_use_no_convolution_but_the_three_primitives(name, derivative):
    """Therefore no derivative is computed by JAX's automatic transposition."""
    ours, reference, arrays = operators({"stride": 2})[name]
    found = set(primitives(jax.make_jaxpr(derivative(ours))(*map(jnp.float32, arrays)).jaxpr))
    ours_alone = {"convolution_dx", "convolution_dkernel", "convolution_dy"}
    assert found & ours_alone
    assert "conv_general_dilated" not in found
    found = set(primitives(jax.make_jaxpr(derivative(reference))(*map(jnp.float32, arrays)).jaxpr))
    assert "conv_general_dilated" in found


@pytest.mark.slow
@both_operators
@pytest.mark.parametrize("transformed", [jax.jit, jax.checkpoint], ids=["jit", "checkpoint"])
def test_jit_and_checkpoint_change_no_gradient(name, transformed):
    ours, _, arrays = operators({"stride": 2, "groups": 2})[name]
    with jax.enable_x64(True):
        arrays = tuple(map(jnp.asarray, arrays))
        expected = pulled_back(ours)(*arrays)
        actual = pulled_back(transformed(ours))(*arrays)
        jax.tree.map(assert_close, actual, expected)


@pytest.mark.slow
@both_operators
@pytest.mark.parametrize("out_of", [pulled_back, pushed_forward, lambda f: f])
@pytest.mark.parametrize("in_axes", [(0, None), (None, 0), (0, 0), (2, -1)])
def test_vmap_equals_a_loop(name, in_axes, out_of):
    """The combinations of batched arrays cover every batching rule of the three primitives."""
    ours, _, arrays = operators({"stride": 2, "groups": 2})[name]
    count = 3
    with jax.enable_x64(True):
        arrays = tuple(map(jnp.asarray, arrays))
        stacked = [
            a if axis is None else jnp.stack([i * a for i in range(1, count + 1)], axis)
            for a, axis in zip(arrays, in_axes, strict=True)
        ]
        mapped = jax.jit(jax.vmap(out_of(ours), in_axes))(*stacked)
        one = jax.jit(out_of(ours))
        for i in range(count):
            each = [
                a if axis is None else (i + 1) * a for a, axis in zip(arrays, in_axes, strict=True)
            ]
            jax.tree.map(lambda m, e, i=i: assert_close(m[i], e), mapped, one(*each))


@pytest.mark.slow
@both_operators
def test_nested_vmap_equals_a_loop(name):
    ours, _, arrays = operators({"stride": 2})[name]
    with jax.enable_x64(True):
        images, kernel = map(jnp.asarray, arrays)
        kernels = jnp.stack([kernel, 2 * kernel])
        mapped = jax.vmap(jax.vmap(ours, (0, None)), (None, 0))(images[:, None], kernels)
        for i, j in np.ndindex(2, 2):
            assert_close(mapped[i, j], (i + 1) * ours(images[j : j + 1], kernel))


@both_operators
def test_empty_batch_has_a_zero_kernel_gradient(name):
    ours, _, (images, kernel) = operators({"stride": 2})[name]
    images, kernel = jnp.float32(images[:0]), jnp.float32(kernel)
    value, (by_images, by_kernel) = jax.jit(pulled_back(ours))(images, kernel)
    assert value.shape[0] == 0
    assert by_images.shape == images.shape
    np.testing.assert_array_equal(by_kernel, np.zeros(kernel.shape))
    assert jax.vmap(ours, (None, 0))(images, kernel[None]).shape == (1, *value.shape)


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
@both_operators
def test_other_platforms_run_three_convolutions_of_which_one_is_dilated(name, platform):
    """Only the transposed convolution dilates its image; no kernel gradient does."""
    ours, _, arrays = operators({"stride": 2})[name]
    exported = jax.export.export(jax.jit(pulled_back(ours)), platforms=[platform])(
        *map(jnp.float32, arrays)
    )
    lines = exported.mlir_module().splitlines()
    found = [line for line in lines if "stablehlo.convolution" in line]
    assert len(found) == 3
    assert sum("lhs_dilate = [2, 2]" in line for line in found) == 1


@both_operators
def test_disabling_jit_changes_no_result(name):
    ours, _, arrays = operators({"stride": 2})[name]
    with jax.enable_x64(True):
        arrays = tuple(map(jnp.asarray, arrays))
        expected = pulled_back(ours)(*arrays)
        with jax.disable_jit():
            jax.tree.map(assert_close, pulled_back(ours)(*arrays), expected)


@both_operators
def test_debug_nans_raises_for_a_nan(name):
    ours, _, (images, kernel) = operators({"stride": 2})[name]
    with jax.debug_nans(True), pytest.raises(FloatingPointError, match="nan"):
        ours(jnp.full(images.shape, jnp.nan), jnp.float32(kernel))


@pytest.mark.slow
@pytest.mark.parametrize("padding_mode", ["zeros", "reflect"])
@both_operators
def test_sharded_gradients_equal_those_of_the_whole_batch(name, padding_mode):
    """The devices share the kernel, so its gradient is the sum of their gradients."""
    ours, _, (images, kernel) = operators({"stride": 2})[name]
    ours = functools.partial(ours, padding_mode=padding_mode)
    mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,))
    batch, everywhere = PartitionSpec("data"), PartitionSpec()
    sharded = jax.shard_map(ours, mesh=mesh, in_specs=(batch, everywhere), out_specs=batch)
    with jax.enable_x64(True):
        arrays = jnp.asarray(images), jnp.asarray(kernel)
        actual = jax.jit(pulled_back(sharded))(*arrays)
        jax.tree.map(assert_close, actual, jax.jit(pulled_back(ours))(*arrays))


@pytest.mark.skipif(jax.device_count() < 2, reason="needs two devices")
@both_operators
def test_explicit_mesh_axes_shard_the_batch_and_replicate_the_kernel(name):
    ours, _, arrays = operators({"stride": 2})[name]
    mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Explicit,))
    with jax.enable_x64(True):
        arrays = tuple(map(jnp.asarray, arrays))
        expected = jax.jit(pulled_back(ours))(*arrays)
        with jax.set_mesh(mesh):
            images = jax.device_put(arrays[0], PartitionSpec("data"))
            kernel = jax.device_put(arrays[1], PartitionSpec())
            value, (by_images, by_kernel) = jax.jit(pulled_back(ours))(images, kernel)
    for array in (value, by_images):
        assert jax.typeof(array).sharding.spec[0] == "data"
    assert jax.typeof(by_kernel).sharding.is_fully_replicated
    jax.tree.map(assert_close, jax.device_get((value, (by_images, by_kernel))), expected)


@pytest.mark.slow
@pytest.mark.parametrize(
    "layer",
    [
        lambda x, k: conv(x, k, stride=2),
        lambda x, k: conv(x, k, padding=4, dilation=2),
        lambda x, k: conv_transpose(x, k, stride=2),
        lambda x, k: conv_transpose(x, k, stride=2, padding=2, output_padding=1),
    ],
)
def test_symbolic_image_size_can_be_exported(layer):
    shape = jax.export.symbolic_shape("batch, 2*height, 2*width, 3")
    kernel = jnp.asarray(np.random.default_rng(0).standard_normal((5, 5, 3, 3), np.float32))
    program = jax.jit(lambda x: layer(x, kernel))
    exported = jax.export.export(program)(jax.ShapeDtypeStruct(shape, jnp.float32))
    x = jnp.asarray(np.random.default_rng(1).random((2, 6, 10, 3), np.float32))
    assert_close(exported.call(x), program(x), tolerance=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("platform", ["cpu", "cuda", "tpu"])
@both_operators
@on_plain
def test_symbolic_batch_size_can_be_exported(options, name, platform):
    ours, _, (images, kernel) = operators(options)[name]
    (batch,) = jax.export.symbolic_shape("batch")
    shaped = jax.ShapeDtypeStruct((batch, *images.shape[1:]), jnp.float32)
    program = jax.jit(lambda images, kernel: pulled_back(ours)(images, kernel))
    exported = jax.export.export(program, platforms=[platform])(shaped, jnp.float32(kernel))
    if platform == "cpu":
        more = jnp.float32(np.concatenate([images, images, images]))
        results = exported.call(more, jnp.float32(kernel))
        jax.tree.map(
            functools.partial(assert_close, tolerance=1e-5),
            results,
            program(more, jnp.float32(kernel)),
        )
