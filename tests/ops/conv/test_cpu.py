"""The ways that a convolution is computed, against one another: all of them are the same."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from deconv_jax.ops.formulations import Geometry
from hypothesis import given, settings
from hypothesis import strategies as st

from deconv_jax.ops import cpu, formulations

NAMES = ("conv", "conv_transpose", "kernel_gradient")


def draw(*shape, seed=0):
    return np.random.default_rng((seed, *shape)).standard_normal(shape)


@st.composite
def problems(draw_one):
    """Arguments of a Geometry, negative padding included, groups and (batch, inputs, outputs)."""
    rank = draw_one(st.integers(1, 3))

    def each(values):
        return draw_one(st.tuples(*[values] * rank))

    taps, strides = st.integers(1, 4), st.integers(1, 3)
    kernel_size, stride = each(taps), each(strides)
    dilation = draw_one(st.sampled_from([(1,) * rank, each(st.integers(1, 2))]))
    output_size, before = each(st.integers(1, 4 if rank < 3 else 2)), each(st.integers(0, 2))
    after = each(st.integers(-2, 2))
    smallest = [
        s * (m - 1) + d * (k - 1) + 1 - low - high
        for s, m, d, k, low, high in zip(
            stride, output_size, dilation, kernel_size, before, after, strict=True
        )
    ]
    size = tuple(max(1, n) for n in smallest)
    geometry = size, output_size, kernel_size, stride, dilation, before
    return geometry, draw_one(st.integers(1, 3)), draw_one(st.tuples(*[st.integers(1, 3)] * 3))


def operands(geometry, groups, sizes):
    batch, inputs, outputs = sizes
    x = draw(batch, *geometry.input_size, groups, inputs, seed=1)
    kernel = draw(*geometry.kernel_size, inputs, groups, outputs, seed=2)
    y = draw(batch, *geometry.output_size, groups, outputs, seed=3)
    return {"conv": (x, kernel), "conv_transpose": (kernel, y), "kernel_gradient": (x, y)}


def written_out(name, a, b, geometry):
    """The trilinear form, tap by tap and pixel by pixel."""
    if name == "conv":
        result = np.zeros((len(a), *geometry.output_size, *b.shape[-2:]))
    elif name == "conv_transpose":
        result = np.zeros((len(b), *geometry.input_size, a.shape[-2], a.shape[-3]))
    else:
        result = np.zeros((*geometry.kernel_size, a.shape[-1], *b.shape[-2:]))
    for pixel in np.ndindex(*geometry.output_size):
        for tap in np.ndindex(*geometry.kernel_size):
            axes = zip(geometry.stride, pixel, geometry.dilation, tap, geometry.before, strict=True)
            place = tuple(s * i + d * t - low for s, i, d, t, low in axes)
            if not all(0 <= p < n for p, n in zip(place, geometry.input_size, strict=True)):
                continue
            here, there = (slice(None), *pixel), (slice(None), *place)
            if name == "conv":
                result[here] += np.einsum("ngi,igo->ngo", a[there], b[tap])
            elif name == "conv_transpose":
                result[there] += np.einsum("igo,ngo->ngi", a[tap], b[here])
            else:
                result[tap] += np.einsum("ngi,ngo->igo", a[there], b[here])
    return result


@pytest.mark.slow
@settings(max_examples=60, deadline=None, derandomize=True)
@given(problem=problems())
def test_every_formulation_is_the_sum_over_taps_and_pixels(problem):
    geometry, groups, sizes = Geometry(*problem[0]), *problem[1:]
    with jax.enable_x64(True):
        for name, arrays in operands(geometry, groups, sizes).items():
            expected = written_out(name, *arrays, geometry)
            on_cpu = getattr(cpu, name)(*map(jnp.asarray, arrays), geometry)
            np.testing.assert_allclose(on_cpu, expected, rtol=0, atol=1e-11)


FEW_OUTPUTS = {
    "same": Geometry((5, 6), (5, 6), (3, 4), (1, 1), (1, 1), (1, 2)),
    "valid": Geometry((5, 6), (3, 3), (3, 4), (1, 1), (1, 1), (0, 0)),
    "cropped": Geometry((6, 7), (2, 3), (3, 2), (1, 1), (1, 1), (-1, 0)),
    "wide": Geometry((3, 2), (9, 8), (2, 3), (1, 1), (1, 1), (4, 5)),
}


@pytest.mark.parametrize("geometry", FEW_OUTPUTS.values(), ids=FEW_OUTPUTS)
@pytest.mark.parametrize("outputs", [1, 3])
@pytest.mark.parametrize("name", NAMES)
def test_few_outputs_are_the_same_sum_by_patches(name, outputs, geometry):
    arrays = operands(geometry, 1, (2, 9, outputs))[name]
    with jax.enable_x64(True):
        ours = jax.jit(getattr(cpu, name), static_argnums=2)
        made = jax.make_jaxpr(getattr(cpu, name), static_argnums=2)(*arrays, geometry)
        result = ours(*map(jnp.asarray, arrays), geometry)
    np.testing.assert_allclose(result, written_out(name, *arrays, geometry), rtol=0, atol=1e-11)
    assert ("conv_general_dilated" in str(made)) == (name == "conv_transpose")


NATIVE_CASES = {
    "1d": Geometry((9,), (4,), (4,), (2,), (1,), (1,)),
    "2d": Geometry((9, 10), (5, 4), (3, 4), (2, 3), (1, 1), (1, 2)),
    "2d, dilated": Geometry((9, 10), (4, 3), (3, 2), (2, 3), (2, 1), (1, 0)),
    "3d": Geometry((6, 7, 5), (3, 4, 3), (3, 2, 3), (2, 2, 2), (1, 1, 1), (1, 1, 1)),
}


@pytest.mark.parametrize("geometry", NATIVE_CASES.values(), ids=NATIVE_CASES)
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("name", NAMES)
def test_the_formulation_of_other_platforms_is_the_same_sum(name, groups, geometry):
    arrays = operands(geometry, groups, (2, 3, 2))[name]
    native = getattr(formulations, f"native_{name}")
    with jax.enable_x64(True):
        result = jax.jit(native, static_argnums=2)(*map(jnp.asarray, arrays), geometry)
    np.testing.assert_allclose(result, written_out(name, *arrays, geometry), rtol=0, atol=1e-11)


def test_the_kernel_gradient_of_other_platforms_spreads_no_image_with_zeros():
    geometry = NATIVE_CASES["2d"]
    x, y = operands(geometry, 1, (2, 3, 2))["kernel_gradient"]
    traced = jax.make_jaxpr(formulations.native_kernel_gradient, static_argnums=2)(x, y, geometry)
    (found,) = [e for e in traced.jaxpr.eqns if e.primitive.name == "conv_general_dilated"]
    assert found.params["lhs_dilation"] == (1, 1)


MANY_TAPS = {
    "fcn": Geometry((18, 27), (2, 3), (18, 18), (9, 9), (1, 1), (5, 4)),
    "gaps": Geometry((30, 61), (2, 3), (17, 19), (19, 20), (1, 1), (3, -1)),
}


@pytest.mark.parametrize("geometry", MANY_TAPS.values(), ids=MANY_TAPS)
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("name", NAMES)
def test_many_taps_are_the_same_sum_by_few_operations(name, groups, geometry):
    arrays = operands(geometry, groups, (2, 3, 2))[name]
    with jax.enable_x64(True):
        made = jax.make_jaxpr(getattr(cpu, name), static_argnums=2)(*arrays, geometry)
        ours = jax.jit(getattr(cpu, name), static_argnums=2)
        result = ours(*map(jnp.asarray, arrays), geometry)
    np.testing.assert_allclose(result, written_out(name, *arrays, geometry), rtol=0, atol=1e-11)
    assert len(made.jaxpr.eqns) < 50


LARGE = {
    # Overlaps much, so goes to phases; and many patches, so goes by parts of the batch.
    "phases": (Geometry((64, 64), (32, 32), (4, 4), (2, 2), (1, 1), (1, 1)), 24, 64),
    # The same with little overlap to save: patches that are added, by parts.
    "patches": (Geometry((64, 64), (32, 32), (5, 5), (2, 2), (1, 1), (1, 1)), 32, 64),
    # Patches of an image that would leave the cache: a convolution, of a few images at a time.
    "large images": (Geometry((128, 96), (128, 96), (3, 3), (1, 1), (1, 1), (1, 1)), 24, 32),
    # Stride 1 with a few rows computed too many.
    "rows": (Geometry((32, 32), (32, 32), (3, 3), (1, 1), (1, 1), (1, 1)), 24, 32),
    "few outputs": (Geometry((32, 32), (32, 32), (5, 5), (1, 1), (1, 1), (2, 2)), 32, 4),
    "rows, valid": (Geometry((34, 34), (32, 32), (3, 3), (1, 1), (1, 1), (0, 0)), 24, 32),
}


@pytest.mark.parametrize(("batch", "size"), [(64, 64), (1, 256)])
def test_the_patches_of_a_kernel_gradient_stay_small(batch, size):
    """In parts of a batch of small images, and of large ones none: all would be nine times x."""
    geometry = Geometry((size,) * 2, (size,) * 2, (3, 3), (1, 1), (1, 1), (1, 1))
    shapes = ((batch, size, size, 1, 32),) * 2
    x, y = (jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes)
    compiled = jax.jit(cpu.kernel_gradient, static_argnums=2).lower(x, y, geometry).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 2 * 4 * (x.size + y.size)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("case", LARGE.values(), ids=LARGE)
def test_what_large_arrays_choose_is_the_same_too(name, case):
    """The adjoint law between what CPU and other platforms do, at sizes where the rules differ."""
    geometry, inputs, outputs = case
    arrays = operands(geometry, 1, (12, inputs, outputs))
    a, b = (jnp.asarray(array, jnp.float32) for array in arrays[name])
    ours = jax.jit(getattr(cpu, name), static_argnums=2)(a, b, geometry)
    if name == "kernel_gradient":
        other = jnp.asarray(arrays["conv"][1], jnp.float32)
        theirs = jnp.vdot(formulations.native_conv(a, other, geometry), b)
    else:
        native = getattr(formulations, f"native_{name}")
        other, theirs = ours, jax.jit(native, static_argnums=2)(a, b, geometry)
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5 * math.sqrt(theirs.size))
        return
    np.testing.assert_allclose(jnp.vdot(ours, other), theirs, rtol=1e-3)
