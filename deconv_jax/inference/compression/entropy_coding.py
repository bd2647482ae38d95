"""Whole numbers to bytes and back, by integer tables: the same on every machine.

A decoder that computed probabilities in floats would, on another machine, one day round one of them
otherwise and read nonsense from there on (Balle et al., "Integer networks for data compression with
latent-variable models", ICLR 2019). Here a table of frequencies is made once, of floats, and kept as
integers with the model; and the network that says which table a number is coded by works on integers too.
NumPy carries them in float64, where sums below 2^53 are exact in any order. The range coder is
`constriction`'s.

What lies beyond a table is coded by its last entry, the escape, and after all tables' numbers by the
length and the digits of how far beyond it lies.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import constriction
import numpy as np
from jaxtyping import Float64, Int

from deconv_jax.errors import InputError

Integers = Int[np.ndarray, " count"]
Map = Float64[np.ndarray, "height width channels"]

MOST = 2**15 - 1
"""Of the absolute value of a number that is coded."""

_PRECISION = 24
"""Bits of constriction's frequencies."""
_TOTAL = 2**_PRECISION
_TAIL = 2.0**-20
"""Mass that a table may leave to the escape, at either end."""
_LONGEST = 2**15
"""Entries of a table."""
_DIGITS = 17
"""Binary digits after the first of how far beyond a table a number lies: 0 to 16 of them."""
_WORD = np.dtype("<u4")


@dataclasses.dataclass(frozen=True, eq=False)
class FrequencyTables:
    """Frequencies of whole numbers, several tables.

    Attributes:
      frequencies: all tables one after the other, int32; each sums to 2^24, its last entry is that of
        the escape, and none is 0.
      lengths: entries of each, the escape included, int32.
      firsts: the number that each one's first entry is of, int32.
    """

    frequencies: Integers
    lengths: Integers
    firsts: Integers

    def __post_init__(self) -> None:
        sane = (
            all(np.ndim(a) == 1 for a in (self.frequencies, self.lengths, self.firsts))
            and len(self.lengths) == len(self.firsts) > 0
            and self.lengths.min() >= 2
            and self.lengths.sum(dtype=np.int64) == len(self.frequencies)
            and self.frequencies.min() >= 1
            and np.all(np.abs(self.firsts.astype(np.int64)) <= MOST)
            and np.all(np.add.reduceat(self.frequencies.astype(np.int64), self._starts) == _TOTAL)
        )
        if not sane:
            raise InputError(
                "tables of frequencies are damaged: each has two entries or more, none of them 0, that "
                "sum to 2^24"
            )

    @classmethod
    def of_masses(cls, masses: Sequence[tuple[int, np.ndarray]]) -> "FrequencyTables":
        """FrequencyTables of probabilities: the first number, and the masses of it and those that follow."""
        found = [_frequencies(mass) for _, mass in masses]
        return cls(
            np.concatenate(found),
            np.array([len(table) for table in found], np.int32),
            np.array([first for first, _ in masses], np.int32),
        )

    def __len__(self) -> int:
        return len(self.lengths)

    def entry_count(self, table: int) -> int:
        """Numbers that a table has, without the escape."""
        return int(self.lengths[table]) - 1

    def model(self, table: int) -> Any:
        """A table as constriction takes it."""
        start = self._starts[table]
        frequencies = self.frequencies[start : start + self.lengths[table]]
        # It gives every entry a frequency of 1 and shares out what is left, rounding sums down: the
        # half keeps them from falling just below the whole numbers that they are.
        weights = (frequencies - 1).astype(np.float64)
        weights[0] += 0.5
        return constriction.stream.model.Categorical(weights, perfect=False)

    def least_bits(self) -> np.ndarray:
        """What a number costs at least, by each table."""
        most = np.maximum.reduceat(self.frequencies, self._starts)
        return -np.log2(most / _TOTAL)

    @property
    def _starts(self) -> np.ndarray:
        return np.concatenate([[0], np.cumsum(self.lengths, dtype=np.int64)[:-1]])


def probability_masses(logits: Any) -> tuple[int, np.ndarray]:
    """First number and masses of a distribution, without its tails.

    Args:
      logits: of the distribution function at x (count,); rises.

    Raises:
      InputError: the distribution is too wide for a table.
    """
    low, high = -1, 1
    # In float64: sigmoid(a) < tail where a < log(tail).
    while logits(np.array([low - 0.5]))[0] > math.log(_TAIL):
        low *= 2
        _check_width(high - low)
    while -logits(np.array([high + 0.5]))[0] > math.log(_TAIL):
        high *= 2
        _check_width(high - low)
    edges = np.arange(low, high + 2) - 0.5
    values = logits(edges)
    # The smaller of sigmoid and its complement has all digits.
    below, above = _sigmoid(values), _sigmoid(-values)
    mass = np.where(values[1:] < 0, np.diff(below), -np.diff(above))
    inside = np.flatnonzero((below[1:] > _TAIL) & (above[:-1] > _TAIL))
    first, last = (inside[0], inside[-1]) if len(inside) else (0, 0)
    return low + int(first), np.maximum(mass[first : last + 1], 0.0)


def normal_masses(scale: float) -> tuple[int, np.ndarray]:
    """As `probability_masses`, of a normal distribution with mean 0."""
    most = math.ceil(5.0 * scale + 0.5)
    numbers = np.arange(0, most + 1)
    # erfc keeps the tail's digits; the distribution is symmetric.
    edges = [0.5 * math.erfc((n - 0.5) / (scale * math.sqrt(2))) for n in range(most + 2)]
    mass = edges[:-1] - np.array(edges[1:])
    mass[0] = 1.0 - 2.0 * edges[1]
    return -most, np.concatenate([mass[:0:-1], mass[: len(numbers)]])


class Encoder:
    """Collects numbers and gives their bytes."""

    SLACK = 128
    """Bits by which these may be fewer than what the numbers cost: what the coder keeps, and zeros."""

    def __init__(self) -> None:
        self._coder = constriction.stream.queue.RangeEncoder()

    def put(self, groups: Sequence[Integers], tables: FrequencyTables) -> None:
        """Codes numbers, of absolute values up to `MOST`: those of each group by the table of its place."""
        beyond = [np.zeros(0, np.int64)]
        for table, numbers in enumerate(groups):
            if not len(numbers):
                continue
            count = tables.entry_count(table)
            places = numbers.astype(np.int64) - tables.firsts[table]
            inside = (places >= 0) & (places < count)
            self._put(np.where(inside, places, count), tables.model(table))
            # Below the table -1, -2, ...; above it 1, 2, ...
            outside = places[~inside]
            beyond.append(np.where(outside < 0, outside, outside - count + 1))
        distance = np.concatenate(beyond)
        if len(distance):
            size, uniform = np.abs(distance), constriction.stream.model.Uniform
            digits = np.floor(np.log2(size)).astype(np.int64)
            self._put(distance < 0, uniform(2))
            self._put(digits, uniform(_DIGITS))
            long = digits > 0
            if long.any():
                room = 1 << digits[long]
                self._put(size[long] - room, uniform(), room.astype(np.int32))

    def bytes(self) -> bytes:
        """All that was put, without up to eight zeros at the end, which a decoder takes to follow."""
        data = self._coder.get_compressed().astype(_WORD).tobytes()
        return data[:-8] + data[-8:].rstrip(b"\0")

    def _put(self, symbols: np.ndarray, *model: Any) -> None:
        self._coder.encode(np.ascontiguousarray(symbols, np.int32), *model)


class Decoder:
    """Gives the numbers of an `Encoder`'s bytes, asked for in the order in which they were put.

    Of bytes that are none of an encoder's it gives other numbers, or raises InputError.
    """

    def __init__(self, data: bytes):
        padded = data + bytes(-len(data) % _WORD.itemsize)
        words = np.frombuffer(padded, _WORD).astype(np.uint32)
        self._coder = constriction.stream.queue.RangeDecoder(words)

    def take(self, counts: Sequence[int], tables: FrequencyTables) -> list[Integers]:
        """The numbers of the next groups, int32, of which there are so many in each.

        Raises:
          InputError: one is too large to have been put.
        """
        groups, escaped = [], []
        for table, count in enumerate(counts):
            symbols = (
                self._take(tables.model(table), int(count)) if count else np.zeros(0, np.int32)
            )
            groups.append(symbols + tables.firsts[table])
            escaped.append(np.flatnonzero(symbols == tables.entry_count(table)))
        total = sum(map(len, escaped))
        if total:
            uniform = constriction.stream.model.Uniform
            negative = self._take(uniform(2), total).astype(bool)
            digits = self._take(uniform(_DIGITS), total)
            size = 1 << digits.astype(np.int64)
            long = digits > 0
            if long.any():
                size[long] += self._take(uniform(), size[long].astype(np.int32))
            start = 0
            for table, (numbers, places) in enumerate(zip(groups, escaped, strict=True)):
                part = slice(start, start + len(places))
                first, last = (
                    tables.firsts[table],
                    tables.firsts[table] + tables.entry_count(table) - 1,
                )
                values = np.where(negative[part], first - size[part], last + size[part])
                if len(values) and np.abs(values).max() > MOST:
                    raise InputError("the coded numbers are damaged: one is out of range")
                numbers[places] = values
                start = part.stop
        return groups

    def _take(self, *model_and_argument: Any) -> np.ndarray:
        try:
            return self._coder.decode(*model_and_argument)
        except (AssertionError, ValueError) as error:
            raise InputError(f"the coded numbers are damaged: {error}") from error


@dataclasses.dataclass(frozen=True, eq=False)
class FixedPointLayer:
    """A layer with the weights of `Conv` or `ConvTranspose` as whole multiples of 2^-12.

    Attributes:
      kernel: int32, as the layer's.
      bias: int32 multiples of 2^-22, of what an input of multiples of 2^-10 is summed to.
      stride: 1 for a convolution, 2 or more for a transposed one.
    """

    kernel: Int[np.ndarray, "rows columns first second"]
    bias: Integers
    stride: int

    WEIGHT_BITS, VALUE_BITS, MOST_VALUE = 12, 10, 2**10

    @property
    def channels(self) -> tuple[int, int]:
        """Of the input and of the output."""
        first, second = self.kernel.shape[2:]
        return (first, second) if self.stride == 1 else (second, first)

    @classmethod
    def of(cls, weights: Mapping[str, Any], stride: int) -> "FixedPointLayer":
        """Rounds the weights of a layer; raises InputError for some that are out of range."""
        kernel = np.rint(np.asarray(weights["kernel"], np.float64) * 2**cls.WEIGHT_BITS)
        bits = cls.WEIGHT_BITS + cls.VALUE_BITS
        bias = np.rint(np.asarray(weights["bias"], np.float64) * 2**bits)
        largest = max(np.abs(kernel).max(), np.abs(bias).max())
        if not largest < 2**31:
            raise InputError(
                f"weights of the side information are too large for fixed point: {largest:g}"
            )
        return cls(kernel.astype(np.int32), bias.astype(np.int32), stride)

    def __post_init__(self) -> None:
        if self.bias.shape != (self.channels[1],):
            raise InputError(
                f"a layer of {self.channels[1]} outputs has as many biases; got {self.bias.shape}"
            )
        summed = np.abs(self.kernel.astype(np.float64)).sum() * self.MOST_VALUE * 2**self.VALUE_BITS
        if not summed + 2.0**31 < 2.0**53:
            raise InputError("weights of the side information are too large for exact sums")

    def __call__(self, values: Map) -> Map:
        """The layer's output, rounded to the nearest multiple of 2^-10, halves up, and cut at +-2^10."""
        kernel = self.kernel.astype(np.float64)
        scaled = values * 2**self.VALUE_BITS
        summed = (
            _fixed_conv(scaled, kernel)
            if self.stride == 1
            else _fixed_conv_transpose(scaled, kernel, self.stride)
        )
        rounded = np.floor((summed + self.bias) * 2.0**-self.WEIGHT_BITS + 0.5)
        return np.clip(rounded * 2.0**-self.VALUE_BITS, -self.MOST_VALUE, self.MOST_VALUE)


def _fixed_conv(x: Map, kernel: np.ndarray) -> Map:
    """`ops.conv` with zeros around, stride 1."""
    height, width, _ = x.shape
    rows, columns = kernel.shape[:2]
    padded = np.pad(x, ((rows // 2, rows // 2), (columns // 2, columns // 2), (0, 0)))
    return sum(
        padded[i : i + height, j : j + width] @ kernel[i, j]
        for i in range(rows)
        for j in range(columns)
    )


def _fixed_conv_transpose(y: Map, kernel: np.ndarray, stride: int) -> Map:
    """`ops.conv_transpose` with padding "SAME"."""
    height, width, _ = y.shape
    size = kernel.shape[0]
    before = (size - stride) // 2
    full = np.zeros(((height - 1) * stride + size, (width - 1) * stride + size, kernel.shape[2]))
    for i in range(size):
        for j in range(size):
            full[i : i + height * stride : stride, j : j + width * stride : stride] += (
                y @ kernel[i, j].T
            )
    return full[before : before + height * stride, before : before + width * stride]


def _frequencies(mass: np.ndarray) -> Integers:
    """Masses and the escape as frequencies that sum to 2^24, none of them 0; int32."""
    escape = max(1.0 - float(mass.sum()), 0.0)
    shares = np.append(mass, escape)
    free = _TOTAL - len(shares)
    frequencies = 1 + np.floor(shares / shares.sum() * free).astype(np.int64)
    frequencies[np.argmax(frequencies)] += _TOTAL - frequencies.sum()
    return frequencies.astype(np.int32)


def _check_width(width: int) -> None:
    if width > _LONGEST:
        raise InputError(
            f"a prior is wider than {_LONGEST} whole numbers; the codec has not been trained"
        )


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return np.exp(-np.logaddexp(0.0, -x))
