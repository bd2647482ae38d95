"""Range coding of integers with integer frequency tables, identical on every machine.

If a decoder computed probabilities in floating point, a different rounding on another machine would
make the rest of the file unreadable (Balle et al., "Integer networks for data compression with
latent-variable models", ICLR 2019). Frequency tables are therefore derived once, and stored with the
model as integers; the network that selects the table of each latent works on integers too
(`fixed_point`). The range coder is that of `constriction`.

A value outside its table is coded as the table's last entry, the escape. The values of all tables
come first. They are followed by the distances of all escaped values from their tables: all signs,
then all numbers of binary digits after the leading one, then all these digits.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import constriction
import numpy as np
from jaxtyping import Float, Int

from deconv_jax.errors import InputError

Integers = Int[np.ndarray, " count"]
Logits = Callable[[Float[np.ndarray, " count"]], Float[np.ndarray, " count"]]

MAX_VALUE = 2**15 - 1
"""Largest absolute value that can be coded."""

_TOTAL = 2**24
"""Sum of a table's frequencies; constriction works with 24 bits."""
_TAIL_MASS = 2.0**-20
"""Maximum probability mass at either end that a table leaves to the escape."""
_MAX_TABLE_LENGTH = 2**15
_DISTANCE_DIGITS = 17
"""Number of possible digit counts: a distance has 0 to 16 binary digits after its leading one."""
_WORD = np.dtype("<u4")


@dataclasses.dataclass(frozen=True, eq=False)
class FrequencyTables:
    """Frequencies of integers, for several distributions.

    Attributes:
      frequencies: All tables concatenated, int32. Each sums to 2^24, ends with the frequency of the
        escape, and has no zeros.
      lengths: Number of entries of each table, with the escape, int32.
      firsts: Integer that the first entry of each table stands for, int32.

    Raises:
      InputError: There is no table, or the arrays are not such tables.
    """

    frequencies: Integers
    lengths: Integers
    firsts: Integers

    def __post_init__(self) -> None:
        valid = (
            all(np.ndim(a) == 1 for a in (self.frequencies, self.lengths, self.firsts))
            and len(self.lengths) == len(self.firsts) > 0
            and self.lengths.min() >= 2
            and self.lengths.sum(dtype=np.int64) == len(self.frequencies)
            and self.frequencies.min() >= 1
            and np.all(np.abs(self.firsts.astype(np.int64)) <= MAX_VALUE)
            and np.all(np.add.reduceat(self.frequencies.astype(np.int64), self._starts) == _TOTAL)
        )
        if not valid:
            raise InputError(
                "frequency tables are damaged: each must have at least two positive entries that sum "
                "to 2^24"
            )

    @classmethod
    def from_masses(cls, masses: Sequence[tuple[int, np.ndarray]]) -> "FrequencyTables":
        """Return the tables of distributions.

        Args:
          masses: For each table its first integer, and the probabilities of it and its successors. The
            rest of the probability goes to the escape.
        """
        tables = [_quantize_masses(mass) for _, mass in masses]
        return cls(
            np.concatenate(tables),
            np.array([len(table) for table in tables], np.int32),
            np.array([first for first, _ in masses], np.int32),
        )

    def __len__(self) -> int:
        return len(self.lengths)

    def num_values(self, table: int) -> int:
        """Return the number of integers in a table, without the escape."""
        return int(self.lengths[table]) - 1

    def to_constriction(self, table: int) -> Any:
        """Return a table as an entropy model of `constriction`."""
        start = self._starts[table]
        frequencies = self.frequencies[start : start + self.lengths[table]]
        # constriction gives each entry a frequency of 1 and distributes the rest, rounding cumulative
        # sums down. The half keeps these sums from falling just below an integer.
        weights = (frequencies - 1).astype(np.float64)
        weights[0] += 0.5
        return constriction.stream.model.Categorical(weights, perfect=False)

    def min_bits(self) -> Float[np.ndarray, " tables"]:
        """Return the bits of the cheapest entry of each table."""
        most = np.maximum.reduceat(self.frequencies, self._starts)
        return -np.log2(most / _TOTAL)

    @property
    def _starts(self) -> np.ndarray:
        return np.concatenate([[0], np.cumsum(self.lengths, dtype=np.int64)[:-1]])


def probability_masses(logits: Logits) -> tuple[int, np.ndarray]:
    """Return the first integer and the probability masses of a distribution, without its tails.

    Each tail has at most a mass of 2^-20.

    Args:
      logits: Increasing function whose sigmoid is the cumulative distribution function.

    Raises:
      InputError: The distribution is too wide for a table.
    """
    low, high = -1, 1
    # In float64, sigmoid(a) < tail where a < log(tail).
    while logits(np.array([low - 0.5]))[0] > math.log(_TAIL_MASS):
        low *= 2
        _check_width(high - low)
    while -logits(np.array([high + 0.5]))[0] > math.log(_TAIL_MASS):
        high *= 2
        _check_width(high - low)
    edges = np.arange(low, high + 2) - 0.5
    values = logits(edges)
    # Differences of the smaller of sigmoid and its complement keep all digits.
    below, above = _sigmoid(values), _sigmoid(-values)
    mass = np.where(values[1:] < 0, np.diff(below), -np.diff(above))
    inside = np.flatnonzero((below[1:] > _TAIL_MASS) & (above[:-1] > _TAIL_MASS))
    first, last = (inside[0], inside[-1]) if len(inside) else (0, 0)
    return low + int(first), np.maximum(mass[first : last + 1], 0.0)


def normal_masses(scale: float) -> tuple[int, np.ndarray]:
    """Return the first integer and the probability masses of N(0, scale^2), within 5 scales of 0."""
    most = math.ceil(5.0 * scale + 0.5)
    # erfc keeps the digits of the tail; the distribution is symmetric.
    edges = [0.5 * math.erfc((n - 0.5) / (scale * math.sqrt(2))) for n in range(most + 2)]
    mass = edges[:-1] - np.array(edges[1:])
    mass[0] = 1.0 - 2.0 * edges[1]
    return -most, np.concatenate([mass[:0:-1], mass])


class Encoder:
    """A range encoder of integers."""

    SLACK_BITS = 128
    """Maximum number of bits by which the output is shorter than the sum of -log2 p of the values, due to
    the coder's state and dropped trailing zeros."""

    def __init__(self) -> None:
        self._coder = constriction.stream.queue.RangeEncoder()

    def encode(self, groups: Sequence[Integers], tables: FrequencyTables) -> None:
        """Encode groups of integers, group i with table i.

        The integers must be in [-MAX_VALUE, MAX_VALUE], which is not checked. A group may be empty.
        """
        escapes = [np.zeros(0, np.int64)]
        for table, values in enumerate(groups):
            if not len(values):
                continue
            count = tables.num_values(table)
            entries = values.astype(np.int64) - tables.firsts[table]
            inside = (entries >= 0) & (entries < count)
            self._encode(np.where(inside, entries, count), tables.to_constriction(table))
            # Signed distances: -1, -2, ... below the table and 1, 2, ... above it.
            outside = entries[~inside]
            escapes.append(np.where(outside < 0, outside, outside - count + 1))
        distance = np.concatenate(escapes)
        if len(distance):
            size, uniform = np.abs(distance), constriction.stream.model.Uniform
            digits = np.floor(np.log2(size)).astype(np.int64)
            self._encode(distance < 0, uniform(2))
            self._encode(digits, uniform(_DISTANCE_DIGITS))
            long = digits > 0
            if long.any():
                leading = 1 << digits[long]
                self._encode(size[long] - leading, uniform(), leading.astype(np.int32))

    def to_bytes(self) -> bytes:
        """Return the code without up to eight trailing zeros, which a decoder assumes."""
        data = self._coder.get_compressed().astype(_WORD).tobytes()
        return data[:-8] + data[-8:].rstrip(b"\0")

    def _encode(self, symbols: np.ndarray, *model: Any) -> None:
        self._coder.encode(np.ascontiguousarray(symbols, np.int32), *model)


class Decoder:
    """A range decoder of the integers of an `Encoder`, in the order in which they were encoded.

    For bytes that do not come from an encoder it returns arbitrary integers or raises InputError.
    """

    def __init__(self, data: bytes):
        padded = data + bytes(-len(data) % _WORD.itemsize)
        words = np.frombuffer(padded, _WORD).astype(np.uint32)
        self._coder = constriction.stream.queue.RangeDecoder(words)

    def decode(self, counts: Sequence[int], tables: FrequencyTables) -> list[Integers]:
        """Return the next groups of integers, int32.

        Args:
          counts: Number of integers of each group.
          tables: Tables; group i has table i.

        Raises:
          InputError: An integer is out of range.
        """
        groups, escaped = [], []
        for table, count in enumerate(counts):
            entries = (
                self._decode(tables.to_constriction(table), int(count))
                if count
                else np.zeros(0, np.int32)
            )
            groups.append(entries + tables.firsts[table])
            escaped.append(np.flatnonzero(entries == tables.num_values(table)))
        total = sum(map(len, escaped))
        if total:
            uniform = constriction.stream.model.Uniform
            negative = self._decode(uniform(2), total).astype(bool)
            digits = self._decode(uniform(_DISTANCE_DIGITS), total)
            size = 1 << digits.astype(np.int64)
            long = digits > 0
            if long.any():
                size[long] += self._decode(uniform(), size[long].astype(np.int32))
            start = 0
            for table, (values, places) in enumerate(zip(groups, escaped, strict=True)):
                part = slice(start, start + len(places))
                first = tables.firsts[table]
                last = first + tables.num_values(table) - 1
                outside = np.where(negative[part], first - size[part], last + size[part])
                if len(outside) and np.abs(outside).max() > MAX_VALUE:
                    raise InputError("the coded integers are damaged: one is out of range")
                values[places] = outside
                start = part.stop
        return groups

    def _decode(self, *model_and_argument: Any) -> np.ndarray:
        try:
            return self._coder.decode(*model_and_argument)
        except (AssertionError, ValueError) as error:
            raise InputError(f"the coded integers are damaged: {error}") from error


def _quantize_masses(mass: np.ndarray) -> Integers:
    """Return positive frequencies of the masses and the escape that sum to 2^24, int32."""
    escape = max(1.0 - float(mass.sum()), 0.0)
    shares = np.append(mass, escape)
    free = _TOTAL - len(shares)
    frequencies = 1 + np.floor(shares / shares.sum() * free).astype(np.int64)
    frequencies[np.argmax(frequencies)] += _TOTAL - frequencies.sum()
    return frequencies.astype(np.int32)


def _check_width(width: int) -> None:
    if width > _MAX_TABLE_LENGTH:
        raise InputError(
            f"a prior must be at most {_MAX_TABLE_LENGTH} integers wide; the codec seems untrained"
        )


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return np.exp(-np.logaddexp(0.0, -x))
