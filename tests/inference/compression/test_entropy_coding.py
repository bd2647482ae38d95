"""Range coding of integers: exact tables, exact round trips, and the expected size."""

import constriction
import numpy as np
import pytest
from scipy import stats

from deconv_jax.errors import InputError
from deconv_jax.inference.compression.entropy_coding import (
    MAX_VALUE,
    Decoder,
    Encoder,
    FrequencyTables,
    normal_masses,
    probability_masses,
)

TOTAL = 2**24


@pytest.fixture
def tables():
    return FrequencyTables.from_masses([normal_masses(scale) for scale in (0.11, 1.0, 30.0)])


def test_tables_sum_to_the_total_and_match_the_masses():
    for scale in (0.11, 0.5, 7.0, 128.0):
        first, mass = normal_masses(scale)
        numbers = first + np.arange(len(mass))
        expected = stats.norm.cdf(numbers + 0.5, 0, scale) - stats.norm.cdf(numbers - 0.5, 0, scale)
        np.testing.assert_allclose(mass, expected, atol=1e-12)
        table = FrequencyTables.from_masses([(first, mass)])
        assert table.frequencies.sum() == TOTAL
        # Each entry is at least 1 at the others' expense; the largest absorbs the rounding.
        share = expected * TOTAL
        taken = share * len(mass) / TOTAL + len(mass) * (share == share.max())
        assert np.all(np.abs(table.frequencies[:-1] - share) <= 2 + taken)


def test_masses_miss_at_most_the_tails():
    first, mass = probability_masses(lambda x: (x - 3.3) / 2.0)  # A logistic distribution.
    numbers = first + np.arange(len(mass))
    expected = stats.logistic.cdf(numbers + 0.5, 3.3, 2) - stats.logistic.cdf(numbers - 0.5, 3.3, 2)
    np.testing.assert_allclose(mass, expected, rtol=1e-9)
    assert 1 - 2**-18 < mass.sum() < 1
    # All mass is on one integer, and beyond the first search interval.
    assert probability_masses(lambda x: 1e4 * (x - 0.2))[0] == 0
    assert probability_masses(lambda x: 1e4 * (x - 700.0))[0] in (699, 700)
    with pytest.raises(InputError, match="at most 32768 integers wide"):
        probability_masses(lambda x: x / 1e6)


def test_constriction_uses_exactly_these_frequencies(tables):
    """A stream that starts with the 24 bits q decodes to the symbol whose cumulative interval contains q."""
    for table in range(len(tables)):
        start = tables.lengths[:table].sum()
        frequencies = tables.frequencies[start : start + tables.lengths[table]].astype(np.int64)
        ends = np.cumsum(frequencies)
        for symbol, (low, high) in enumerate(zip(ends - frequencies, ends - 1, strict=True)):
            for q in (low, high):
                words = np.array([(int(q) << 8) | 0x80, 0], np.uint32)
                decoder = constriction.stream.queue.RangeDecoder(words)
                assert decoder.decode(tables.to_constriction(table)) == symbol


def test_values_inside_and_outside_the_tables_round_trip(tables):
    random = np.random.default_rng(0)
    groups = [
        np.rint(random.normal(0, scale, count)).astype(np.int32)
        for scale, count in ((0.1, 500), (40.0, 300), (30.0, 0))
    ]
    groups[0][:4] = [MAX_VALUE, -MAX_VALUE, 1, -1]
    second = [np.array([5], np.int32), np.zeros(0, np.int32), np.array([-700, 3], np.int32)]
    encoder = Encoder()
    encoder.encode(groups, tables)
    encoder.encode(second, tables)
    decoder = Decoder(encoder.to_bytes())
    for encoded in (groups, second):
        counts = [len(group) for group in encoded]
        for values, decoded in zip(encoded, decoder.decode(counts, tables), strict=True):
            np.testing.assert_array_equal(decoded, values)


def test_size_is_the_cost_by_the_frequencies(tables):
    values = np.rint(np.random.default_rng(1).normal(0, 30, 5000)).astype(np.int32)
    encoder = Encoder()
    encoder.encode([np.zeros(0, np.int32)] * 2 + [values], tables)
    frequencies = tables.frequencies[tables.lengths[:2].sum() :]
    cost = -np.log2(frequencies[values - tables.firsts[2]] / TOTAL).sum()
    assert 0 <= 8 * len(encoder.to_bytes()) - cost <= 64
    assert np.all(tables.min_bits() > 0)


def test_damaged_tables_are_refused(tables):
    wrong = tables.frequencies.copy()
    wrong[0] += 1
    with pytest.raises(InputError, match="2\\^24"):
        FrequencyTables(wrong, tables.lengths, tables.firsts)
    with pytest.raises(InputError, match="2\\^24"):
        FrequencyTables(tables.frequencies[:-1], tables.lengths, tables.firsts)
