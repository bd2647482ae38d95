"""Whole numbers to bytes: exact tables, exact inverses, exact sums."""

import itertools

import constriction
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from deconv_jax import ops
from deconv_jax.errors import InputError
from deconv_jax.inference.compression.entropy_coding import (
    MOST,
    Decoder,
    Encoder,
    FixedPointLayer,
    FrequencyTables,
    normal_masses,
    probability_masses,
)

TOTAL = 2**24


@pytest.fixture
def tables():
    return FrequencyTables.of_masses([normal_masses(scale) for scale in (0.11, 1.0, 30.0)])


def test_tables_sum_to_the_total_and_follow_the_masses():
    for scale in (0.11, 0.5, 7.0, 128.0):
        first, mass = normal_masses(scale)
        numbers = first + np.arange(len(mass))
        expected = stats.norm.cdf(numbers + 0.5, 0, scale) - stats.norm.cdf(numbers - 0.5, 0, scale)
        np.testing.assert_allclose(mass, expected, atol=1e-12)
        table = FrequencyTables.of_masses([(first, mass)])
        assert table.frequencies.sum() == TOTAL
        # Each has 1 at least, which takes from the others; what rounding leaves goes to the largest.
        share = expected * TOTAL
        taken = share * len(mass) / TOTAL + len(mass) * (share == share.max())
        assert np.all(np.abs(table.frequencies[:-1] - share) <= 2 + taken)


def test_masses_of_a_distribution_function_leave_no_more_than_the_tails():
    first, mass = probability_masses(lambda x: (x - 3.3) / 2.0)  # A logistic distribution.
    numbers = first + np.arange(len(mass))
    expected = stats.logistic.cdf(numbers + 0.5, 3.3, 2) - stats.logistic.cdf(numbers - 0.5, 3.3, 2)
    np.testing.assert_allclose(mass, expected, rtol=1e-9)
    assert 1 - 2**-18 < mass.sum() < 1
    # All of the mass on one number, and all beyond the first guess.
    assert probability_masses(lambda x: 1e4 * (x - 0.2))[0] == 0
    assert probability_masses(lambda x: 1e4 * (x - 700.0))[0] in (699, 700)
    with pytest.raises(InputError, match="wider"):
        probability_masses(lambda x: x / 1e6)


def test_the_coder_uses_exactly_these_frequencies(tables):
    """Of a stream that begins with the 24 bits q, the first number is the one whose share holds q."""
    for table in range(len(tables)):
        start = tables.lengths[:table].sum()
        frequencies = tables.frequencies[start : start + tables.lengths[table]].astype(np.int64)
        ends = np.cumsum(frequencies)
        for symbol, (low, high) in enumerate(zip(ends - frequencies, ends - 1, strict=True)):
            for q in (low, high):
                words = np.array([(int(q) << 8) | 0x80, 0], np.uint32)
                decoder = constriction.stream.queue.RangeDecoder(words)
                assert decoder.decode(tables.model(table)) == symbol


def test_numbers_come_back_also_those_beyond_the_tables(tables):
    random = np.random.default_rng(0)
    groups = [
        np.rint(random.normal(0, scale, count)).astype(np.int32)
        for scale, count in ((0.1, 500), (40.0, 300), (30.0, 0))
    ]
    groups[0][:4] = [MOST, -MOST, 1, -1]
    second = [np.array([5], np.int32), np.zeros(0, np.int32), np.array([-700, 3], np.int32)]
    encoder = Encoder()
    encoder.put(groups, tables)
    encoder.put(second, tables)
    decoder = Decoder(encoder.bytes())
    for put in (groups, second):
        for numbers, taken in zip(put, decoder.take([len(g) for g in put], tables), strict=True):
            np.testing.assert_array_equal(taken, numbers)


def test_bits_are_those_of_the_frequencies(tables):
    numbers = np.rint(np.random.default_rng(1).normal(0, 30, 5000)).astype(np.int32)
    encoder = Encoder()
    encoder.put([np.zeros(0, np.int32)] * 2 + [numbers], tables)
    frequencies = tables.frequencies[tables.lengths[:2].sum() :]
    cost = -np.log2(frequencies[numbers - tables.firsts[2]] / TOTAL).sum()
    assert 0 <= 8 * len(encoder.bytes()) - cost <= 64
    assert np.all(tables.least_bits() > 0)


def test_damaged_tables_are_refused(tables):
    wrong = tables.frequencies.copy()
    wrong[0] += 1
    with pytest.raises(InputError, match="2\\^24"):
        FrequencyTables(wrong, tables.lengths, tables.firsts)
    with pytest.raises(InputError, match="2\\^24"):
        FrequencyTables(tables.frequencies[:-1], tables.lengths, tables.firsts)


@pytest.mark.parametrize("stride", [1, 2])
def test_fixed_point_layers_are_the_layers_in_exact_arithmetic(stride):
    random = np.random.default_rng(stride)
    size = 3 if stride == 1 else 5
    kernel = random.normal(0, 0.2, (size, size, 4, 6)).astype(np.float32)
    bias = random.normal(size=6 if stride == 1 else 4).astype(np.float32)
    layer = FixedPointLayer.of({"kernel": kernel, "bias": bias}, stride)
    x = random.integers(-40, 40, (5, 7, 4 if stride == 1 else 6)).astype(np.float64)
    apply = ops.conv if stride == 1 else ops.conv_transpose
    expected = np.asarray(
        apply(jnp.asarray(x[None], jnp.float32), jnp.asarray(kernel), stride=stride)
    )
    got = layer(x)
    np.testing.assert_allclose(got, expected[0] + bias, atol=40 * size**2 * 6 * 2**-13 + 2**-10)
    # Whole numbers of 2^-10, and the same of integers without any float.
    np.testing.assert_array_equal(got * 2**10, np.rint(got * 2**10))
    whole, weights = x.astype(np.int64) << 10, layer.kernel.astype(np.int64)
    summed = np.zeros((*got.shape[:2], len(layer.bias)), np.int64) + layer.bias
    for (row, column), (i, j) in itertools.product(np.ndindex(5, 7), np.ndindex(size, size)):
        # Of the convolution, output (row, column) looks at input (row + i - 1, column + j - 1); its
        # transpose puts input (row, column) there, in steps of two.
        other = stride * row + i - 1, stride * column + j - 1
        room = summed.shape if stride > 1 else x.shape
        if not (0 <= other[0] < room[0] and 0 <= other[1] < room[1]):
            continue
        if stride == 1:
            summed[row, column] += whole[other] @ weights[i, j]
        else:
            summed[other] += weights[i, j] @ whole[row, column]
    np.testing.assert_array_equal(got * 2**10, (summed + (1 << 11)) >> 12)


def test_weights_beyond_fixed_point_are_refused():
    weights = {"kernel": np.full((3, 3, 1, 1), 1e7), "bias": np.zeros(1)}
    with pytest.raises(InputError, match="too large"):
        FixedPointLayer.of(weights, 1)
