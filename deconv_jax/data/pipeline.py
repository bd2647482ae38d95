"""The input pipeline on grain: shuffled by (seed, epoch), sharded by process, checkpointable.

The order of examples is a pure function of (seed, length, global batch size). Step t takes positions t * B to
(t + 1) * B of the infinite sequence permutation(seed, 0), permutation(seed, 1), ... Every process computes the
global order and loads its own rows, so a run can resume on another number of processes with the same batches.
"""

import collections
import functools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from absl import flags

from deconv_jax.data.batch import HostBatch
from deconv_jax.data.sources import ArraySource, Fingerprint, Source
from deconv_jax.errors import InputError


class _GlobalOrder:
    """Random access to batches of example indices, reshuffled in every epoch."""

    def __init__(self, length: int, batch_size: int, batches: int, seed: int):
        self.length, self.batch_size, self.batches, self.seed = length, batch_size, batches, seed
        self._permutation = functools.lru_cache(maxsize=2)(self._shuffle)

    def _shuffle(self, epoch: int) -> np.ndarray:
        return np.random.default_rng((self.seed, epoch)).permutation(self.length).astype(np.int32)

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k != "_permutation"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._permutation = functools.lru_cache(maxsize=2)(self._shuffle)

    def __len__(self) -> int:
        return self.batches

    def __getitem__(self, step: int) -> np.ndarray:
        places = np.arange(step * self.batch_size, (step + 1) * self.batch_size)
        epochs, within = np.divmod(places, self.length)
        parts = [self._permutation(int(e))[within[epochs == e]] for e in np.unique(epochs)]
        return np.concatenate(parts)


def _share(rows: np.ndarray, process_index: int, process_count: int) -> np.ndarray:
    """Return the contiguous rows of a global batch that belong to one process."""
    share = len(rows) // process_count
    return rows[process_index * share : (process_index + 1) * share]


def training_iterator(
    source: Source,
    *,
    batch_size: int,
    batches: int,
    seed: int,
    indices_only: bool = False,
    workers: int = 0,
    process_index: int = 0,
    process_count: int = 1,
) -> Any:
    """Return grain's checkpointable iterator over this process's rows of the global batches.

    It yields `batches` batches of the features of the source and "index". A batch may span two epochs.

    Args:
      source: Training split.
      batch_size: Number of examples in a global batch, a multiple of `process_count`.
      batches: Number of batches.
      seed: Seed of the order.
      indices_only: Return only "index", for a data set that the devices hold.
      workers: Number of loading processes; 0 for threads, or none for a source in memory.
      process_index, process_count: Index of this process and number of processes.

    Raises:
      InputError: The source is empty.
    """
    import grain  # Slow to import, and inference does not need it.

    if len(source) == 0:
        raise InputError("data.train_split is empty")

    def examples(indices: np.ndarray) -> HostBatch:
        rows = _share(indices, process_index, process_count)
        return ({} if indices_only else source.gather(rows)) | {"index": rows}

    order = _GlobalOrder(len(source), batch_size, batches, seed)
    dataset = grain.MapDataset.source(order).map(examples)
    if workers:
        if not flags.FLAGS.is_parsed():
            flags.FLAGS.mark_as_parsed()  # grain reads flags, which only absl.app.run parses.
        options = grain.MultiprocessingOptions(num_workers=workers)
        return iter(dataset.to_iter_dataset().mp_prefetch(options))
    # Gathering from memory is a copy, so threads would only compete with the computation.
    threads = 0 if isinstance(source, ArraySource) or indices_only else 4
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * threads)
    return iter(dataset.to_iter_dataset(options))


class Prefetched:
    """Batches that are transferred to the devices ahead of use. `next` returns what `put` returned.

    The state is that of the last batch used. The state of grain's iterator would be ahead by the batches in
    flight, and a run that resumes from it would skip them. The state includes the fingerprint of the source,
    because a position in the order means other examples if the source has changed.

    Args:
      batches: Iterator over host batches.
      put: Transfers a list of batches to the devices.
      batches_per_put: Number of batches in one call of `put`. A last group with fewer is dropped.
      depth: Number of calls of `put` ahead of use.
      fingerprint: Fingerprint of the source.
    """

    def __init__(
        self,
        batches: Any,
        put: Callable[[list[HostBatch]], Any],
        *,
        batches_per_put: int,
        depth: int,
        fingerprint: Fingerprint,
    ):
        self._batches, self._put, self._batches_per_put, self._depth = (
            batches,
            put,
            batches_per_put,
            depth,
        )
        self._fingerprint = dict(fingerprint)
        self._queue: collections.deque[tuple[Any, Any]] = collections.deque()
        self._state = batches.get_state()

    def get_state(self) -> Any:
        """Return the JSON-able state: that of the iterator as "batches", the fingerprint as "source"."""
        return {"batches": self._state, "source": self._fingerprint}

    def set_state(self, state: Any) -> None:
        """Continue from a state that `get_state` returned.

        Raises:
          InputError: The fingerprint is that of another source. A state of grain's iterator alone, without a
            fingerprint, is accepted.
        """
        if "source" in state:
            was, now = state["source"], self._fingerprint
            changes = [
                f"{key}: {was.get(key)} -> {now.get(key)}"
                for key in sorted({*was, *now})
                if was.get(key) != now.get(key)
            ]
            if changes:
                raise InputError(
                    "the training data changed since the checkpoint; restore the data or use another "
                    "workdir:\n  " + "\n  ".join(changes)
                )
            state = state["batches"]
        self._queue.clear()
        self._batches.set_state(state)
        self._state = state

    def __next__(self) -> Any:
        while len(self._queue) <= self._depth:
            try:
                batches = [next(self._batches) for _ in range(self._batches_per_put)]
            except StopIteration:
                break
            self._queue.append((self._put(batches), self._batches.get_state()))
        if not self._queue:
            raise StopIteration
        batch, self._state = self._queue.popleft()
        return batch


def evaluation_batches(
    source: Source, *, batch_size: int, process_index: int = 0, process_count: int = 1
) -> Iterator[HostBatch]:
    """Yield this process's rows of batches that contain every example once, in order.

    The batches have the features of the source, "index" and "mask". The last batch is padded with example 0.
    "mask" (float32) is 1 for an example and 0 for padding, so means over the data set are exact on any number of
    devices. An empty source yields no batch. `batch_size` is global, a multiple of `process_count`.
    """
    for start in range(0, len(source), batch_size):
        places = np.arange(start, start + batch_size, dtype=np.int32)
        real = places < len(source)
        rows = _share(np.where(real, places, 0), process_index, process_count)
        mask = _share(real.astype(np.float32), process_index, process_count)
        yield source.gather(rows) | {"index": rows, "mask": mask}
