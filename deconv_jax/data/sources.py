"""Sources of examples: the protocol, arrays in memory, and stacked gray images.

A source gives random access to the examples of one split. `source_configs` describes the sources that a
config can name and opens them.
"""

import dataclasses
from collections.abc import Mapping
from typing import Protocol

import numpy as np

from deconv_jax.data.batch import HostBatch
from deconv_jax.data.overlap import FileRecords
from deconv_jax.errors import InputError

Fingerprint = Mapping[str, int | str]


class Source(Protocol):
    """The examples of one split of a data set."""

    @property
    def fingerprint(self) -> Fingerprint:
        """A cheap, JSON-able identification of the examples, equal in every process."""
        ...

    @property
    def files(self) -> tuple[FileRecords, ...]:
        """The files and records that the examples come from; empty for arrays."""
        ...

    def __len__(self) -> int: ...

    def gather(self, indices: np.ndarray) -> HostBatch:
        """Return the examples at `indices`, in this order, as a batch without "index" and "mask".

        Raises:
          InputError: A file has become unreadable, or the images of a batch have different shapes.
        """
        ...


@dataclasses.dataclass(frozen=True, eq=False)
class ArraySource:
    """Examples held in memory.

    Attributes:
      arrays: Features by name, with one row per example.
      source_fingerprint: Fingerprint of the source that was read into memory, if any.
      files: Files of that source; see `Source.files`.

    Raises:
      InputError: There are no arrays, or they have different lengths.
    """

    arrays: Mapping[str, np.ndarray]
    source_fingerprint: Fingerprint | None = None
    files: tuple[FileRecords, ...] = ()

    def __post_init__(self) -> None:
        lengths = {name: len(array) for name, array in self.arrays.items()}
        if len(set(lengths.values())) != 1:
            raise InputError(
                f"the arrays of a source must have one row per example; got lengths {lengths}"
            )

    def __len__(self) -> int:
        return len(next(iter(self.arrays.values())))

    @property
    def fingerprint(self) -> Fingerprint:
        """That of the source that was read into memory; else {"examples": number of examples}."""
        return self.source_fingerprint or {"examples": len(self)}

    def gather(self, indices: np.ndarray) -> HostBatch:
        """Return the rows of all arrays at `indices`, as copies."""
        return {name: array[indices] for name, array in self.arrays.items()}


def in_memory(source: Source) -> ArraySource:
    """Decode all examples of a source once, in the same order; return an `ArraySource` unchanged."""
    if isinstance(source, ArraySource):
        return source
    return ArraySource(source.gather(np.arange(len(source))), source.fingerprint, source.files)


@dataclasses.dataclass(frozen=True, eq=False)
class StackedSource:
    """Images of three channels, each a random gray image of a base set (Metz et al., arXiv:1611.02163, 3.3.1).

    Ten classes give 1,000 combinations, so a generator that drops modes is easy to detect. There are as
    many examples as in the base set, and they are the same in every process and run.

    Attributes:
      base: The gray images with their labels.
      base_indices: Positions in `base`, int32 (examples, channels).
    """

    base: ArraySource
    base_indices: np.ndarray

    CHANNELS = 3

    @classmethod
    def of(cls, source: Source) -> "StackedSource":
        """Read a source into memory and stack its images, chosen by a fixed seed, with replacement.

        Raises:
          InputError: The images are not gray or were padded (have a "size"), or the labels are missing or
            above 9.
        """
        base = in_memory(source)
        image, label = base.arrays["image"], base.arrays.get("label")
        if image.shape[-1] != 1 or label is None or label.max() > 9 or "size" in base.arrays:
            raise InputError(
                f"a stacked source requires unpadded gray images in ten classes; got images {image.shape[1:]} "
                + ("without labels" if label is None else f"and labels up to {label.max()}")
            )
        shape = (len(base), cls.CHANNELS)
        return cls(base, np.random.default_rng(0).integers(0, len(base), shape, dtype=np.int32))

    def __len__(self) -> int:
        return len(self.base_indices)

    @property
    def files(self) -> tuple[FileRecords, ...]:
        """The files and records of the base set."""
        return self.base.files

    @property
    def fingerprint(self) -> Fingerprint:
        """Number of examples, {"examples": number}."""
        return {"examples": len(self)}

    def gather(self, indices: np.ndarray) -> HostBatch:
        """Return "image" (three channels), "digits" (a, b, c) and "label" 100 a + 10 b + c, for `indices`."""
        channels = [self.base.gather(rows) for rows in self.base_indices[indices].T]
        digits = np.stack([channel["label"].astype(np.int32) for channel in channels], axis=-1)
        label = np.zeros(len(indices), np.int32)
        for digit in digits.T:
            label = 10 * label + digit
        image = np.concatenate([channel["image"] for channel in channels], axis=-1)
        return {"image": image, "label": label, "digits": digits}
