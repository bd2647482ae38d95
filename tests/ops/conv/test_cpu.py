"""Tests of every formulation of a convolution against the sum over taps and pixels."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from arrays import draw
from hypothesis import given, settings
from hypothesis import strategies as st

from deconv_jax.ops.conv import cpu
from deconv_jax.ops.conv import lax as lax_conv
from deconv_jax.ops.conv.lax import Geometry

NAMES = ("conv", "conv_transpose", "kernel_gradient")


@st.composite
def problems(draw_one):
    """Draw arguments of a Geometry, groups, and (batch, inputs, outputs)."""
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
    """Compute a derivative of the trilinear form, tap by tap and pixel by pixel."""
    if name == "conv":
        result = np.zeros((len(a), *geometry.output_size, *b.shape[-2:]))
    elif name == "conv_transpose":
        result = np.zeros((len(b), *geometry.input_size, a.shape[-2], a.shape[-3]))
    else:
        result = np.zeros((*geometry.kernel_size, a.shape[-1], *b.shape[-2:]))
    for pixel in np.ndindex(*geometry.output_size):
        for tap in np.ndindex(*geometry.kernel_size):
            axes = zip(
                geometry.stride, pixel, geometry.dilation, tap, geometry.pad_before, strict=True
            )
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
@settings(max_examples=40, deadline=None, derandomize=True)
@given(problem=problems())
def test_formulations_equal_the_sum_over_taps_and_pixels(problem):
    geometry, groups, sizes = Geometry(*problem[0]), *problem[1:]
    arrays = operands(geometry, groups, sizes)

    @jax.jit
    def all_three(arrays):
        return {name: getattr(cpu, name)(*pair, geometry) for name, pair in arrays.items()}

    with jax.enable_x64(True):
        results = all_three({name: tuple(map(jnp.asarray, pair)) for name, pair in arrays.items()})
    for name, pair in arrays.items():
        expected = written_out(name, *pair, geometry)
        np.testing.assert_allclose(results[name], expected, rtol=0, atol=1e-11)


# Cases that select each formulation: (geometry, groups, (inputs, outputs)).
FORMULATIONS = {
    "sub-pixel": (Geometry((9, 10), (4, 5), (4, 4), (2, 2), (1, 1), (1, 1)), 1, (3, 5)),
    "sub-pixel, odd kernel": (Geometry((8, 9), (4, 5), (5, 3), (2, 2), (1, 1), (1, 1)), 1, (3, 5)),
    "sub-pixel, groups": (Geometry((9, 8), (3, 4), (4, 2), (3, 2), (1, 1), (1, 0)), 2, (5, 3)),
    "sub-pixel, 3-d": (
        Geometry((6, 6, 4), (3, 3, 2), (4, 3, 2), (2, 2, 2), (1, 1, 1), (1, 1, 0)),
        1,
        (5, 3),
    ),
    "sub-pixel, large stride": (
        Geometry((18, 27), (2, 3), (18, 17), (9, 9), (1, 1), (5, 4)),
        1,
        (3, 2),
    ),
    "phases": (Geometry((9, 10), (4, 5), (4, 4), (2, 2), (1, 1), (1, 1)), 1, (5, 3)),
    "phases, odd kernel": (Geometry((8, 9), (4, 5), (5, 3), (2, 2), (1, 1), (1, 1)), 2, (5, 3)),
    "phases, 3-d": (
        Geometry((6, 6, 4), (3, 3, 2), (4, 3, 2), (2, 2, 2), (1, 1, 1), (1, 1, 0)),
        1,
        (8, 3),
    ),
    "phases, cropped": (Geometry((9, 8), (5, 3), (4, 5), (2, 3), (1, 1), (-1, 3)), 1, (6, 3)),
    "patches": (Geometry((9, 10), (4, 5), (4, 4), (2, 2), (1, 1), (1, 1)), 1, (1, 9)),
    "patches, stride above kernel": (
        Geometry((30, 31), (2, 3), (7, 9), (9, 10), (1, 1), (3, -1)),
        1,
        (1, 2),
    ),
    "patches, stride 1": (Geometry((5, 6), (5, 6), (3, 4), (1, 1), (1, 1), (1, 2)), 1, (12, 1)),
    "patches, cropped": (Geometry((6, 7), (2, 3), (3, 2), (1, 1), (1, 1), (-1, 0)), 1, (9, 1)),
    "depthwise": (Geometry((9, 10), (4, 3), (3, 2), (2, 3), (2, 1), (1, 0)), 4, (1, 1)),
    "depthwise, transposed": (Geometry((9, 10), (5, 4), (3, 4), (2, 3), (1, 1), (1, 2)), 4, (1, 1)),
    "depthwise, 3-d": (
        Geometry((6, 7, 5), (3, 4, 3), (3, 2, 3), (2, 2, 2), (1, 1, 1), (1, 1, 1)),
        3,
        (1, 1),
    ),
    "3-d": (Geometry((6, 7, 5), (4, 7, 3), (3, 2, 3), (1, 1, 2), (2, 1, 1), (1, 1, 1)), 2, (2, 3)),
    "strided and dilated": (Geometry((9, 10), (4, 3), (3, 2), (2, 3), (2, 1), (1, 0)), 2, (3, 2)),
    "1-d": (Geometry((9,), (4,), (4,), (2,), (1,), (1,)), 2, (3, 2)),
}


@pytest.mark.slow
@pytest.mark.parametrize("module", [cpu, lax_conv], ids=["cpu", "lax"])
@pytest.mark.parametrize("case", FORMULATIONS.values(), ids=FORMULATIONS)
def test_each_formulation_equals_the_sum_over_taps_and_pixels(case, module):
    geometry, groups, channels = case
    arrays = operands(geometry, groups, (2, *channels))

    @jax.jit
    def all_three(arrays):
        return {name: getattr(module, name)(*pair, geometry) for name, pair in arrays.items()}

    with jax.enable_x64(True):
        results = all_three({name: tuple(map(jnp.asarray, pair)) for name, pair in arrays.items()})
    for name, pair in arrays.items():
        expected = written_out(name, *pair, geometry)
        np.testing.assert_allclose(results[name], expected, rtol=0, atol=1e-11)


def convolutions(name, case, module=cpu):
    """Return the `lax` convolutions of a formulation."""
    geometry, groups, channels = case
    arrays = operands(geometry, groups, (2, *channels))[name]
    traced = jax.make_jaxpr(getattr(module, name), static_argnums=2)(*arrays, geometry)
    return [e.params for e in traced.jaxpr.eqns if e.primitive.name == "conv_general_dilated"]


@pytest.mark.parametrize("case", FORMULATIONS.values(), ids=FORMULATIONS)
@pytest.mark.parametrize("name", NAMES)
def test_no_formulation_does_the_work_it_avoids(name, case):
    """No image is dilated, no groups multiply each other, and no convolution is 3-d."""
    for found in convolutions(name, case):
        assert len(found["window_strides"]) < 3
        assert found["batch_group_count"] == 1
        assert set(found["lhs_dilation"]) == {1}


@pytest.mark.parametrize("case", ["patches", "depthwise, transposed", "patches, stride 1"])
def test_few_channels_use_a_matrix_product_instead_of_a_convolution(case):
    name = "conv" if case == "patches, stride 1" else "conv_transpose"
    assert convolutions(name, FORMULATIONS[case]) == []


def test_odd_kernel_computes_no_output_that_is_cropped():
    """5 taps with stride 2 and "SAME" padding need 3 taps per output pixel."""
    (found,) = convolutions("conv_transpose", FORMULATIONS["sub-pixel, odd kernel"])
    kernel_size, size = (3, 2), (4, 5)
    pads = [low + high for low, high in found["padding"]]
    assert [n + p - k + 1 for n, p, k in zip((4, 5), pads, kernel_size, strict=True)] == list(size)


def test_phases_use_each_kernel_tap_once():
    """With stride 2, 5 x 3 taps split into 3 x 2, 3 x 1, 2 x 2 and 2 x 1 taps."""
    geometry, groups, channels = FORMULATIONS["phases, odd kernel"]
    kernel, y = operands(geometry, groups, (2, *channels))["conv_transpose"]
    traced = jax.make_jaxpr(cpu.conv_transpose, static_argnums=2)(kernel, y, geometry)
    convs = [e for e in traced.jaxpr.eqns if e.primitive.name == "conv_general_dilated"]
    assert {e.invars[1].aval.shape[:2] for e in convs} == {(3, 2), (3, 1), (2, 2), (2, 1)}


def test_kernel_gradient_in_lax_dilates_no_image():
    (found,) = convolutions("kernel_gradient", FORMULATIONS["sub-pixel"], lax_conv)
    assert found["lhs_dilation"] == (1, 1)
