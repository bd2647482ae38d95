"""From a source to batches, on grain: shuffled by (seed, epoch), sharded by process, checkpointable.

The order of examples is a pure function of (seed, length, global batch size): step t takes places
t * B to (t + 1) * B of the endless sequence permutation(seed, 0), permutation(seed, 1), ... Every
process computes the global order and loads its own rows of it, so a run may be continued on
another number of processes and still see the same batches.
"""

import collections
import contextlib
import dataclasses
import functools
import sys
from collections.abc import Callable, Iterator
from typing import Any, Literal, get_args

import grain
import numpy as np
from absl import flags

from deconv_jax.data.annotated_folders import AnnotatedSource
from deconv_jax.data.batch import HostBatch
from deconv_jax.data.folders import FolderSource, seeded_splits
from deconv_jax.data.images import Color
from deconv_jax.data.sources import (
    ArraySource,
    Fingerprint,
    Source,
    image_files,
    in_memory,
    load,
)
from deconv_jax.errors import InputError, at_least, printable
from deconv_jax.io import kind_of

Split = Literal["train", "validation", "test"]
_SPLITS: tuple[Split, ...] = get_args(Split)


@dataclasses.dataclass(frozen=True)
class Data:
    """Which data set, and how it is held.

    Attributes:
      name: an embedded set ("digits", "photographs"), a folder of images ("folder:PATH") or of
        annotated ones ("penn_fudan:PATH", "image_label:PATH", "dark_lines:PATH", see `annotated`),
        or a TFDS name ("mnist").
      data_dir: where TFDS sets are, or a folder whose path is not absolute; see `sources.load`.
      train_split, validation_split, test_split: TFDS split expressions, or those of
        `folders.find_files`; see `with_splits` for folders without such subfolders. Validation is looked at while training (and picks the best
        checkpoint); test only once, at the end.
      tile: pixels a side of the overlapping parts of an image file that the training split's
        examples are; None for whole images.
      color: what image files are turned into, see `images.read_pixels`.
      canvas: pixels a side of the square that whole images of annotated sets and of TFDS are resized
        to fit with their annotations, at its top left; None leaves their size.
      cache: "none" decodes examples as they are needed; "memory" decodes each split once, into
        host memory; "device" then also keeps the training split on every device, so that a step
        takes only indices from the host.
      workers: processes that read and decode ahead; 0 uses threads of this process.
      prefetch: batches on their way to the device ahead of the step.
    """

    name: str
    data_dir: str | None = None
    train_split: str = "train"
    validation_split: str = "validation"
    test_split: str = "test"
    tile: int | None = None
    color: Color = "rgb"
    canvas: int | None = None
    cache: Literal["none", "memory", "device"] = "none"
    workers: int = 0
    prefetch: int = 2

    def __post_init__(self) -> None:
        at_least("data.workers", self.workers, 0)
        at_least("data.prefetch", self.prefetch, 0)
        if self.tile is not None:
            at_least("data.tile", self.tile, 1)
        if self.canvas is not None:
            at_least("data.canvas", self.canvas, 1)

    def with_splits(self) -> "Data":
        """The same with a split of the files by chance, if this is a folder that nothing splits.

        That is one without the subfolders train, validation and test, where the config names no others.

        Raises:
          InputError: there is no such folder, or there are too few files in it.
        """
        splits = [f"{split}_split" for split in _SPLITS]
        if any(getattr(self, split) != getattr(Data, split) for split in splits):
            return self
        with self._naming("name"):
            files = image_files(self.name, "all", self.data_dir)
            if files is None or any(kind_of(files.root / split) == "folder" for split in _SPLITS):
                return self
            made = seeded_splits(files)
        return dataclasses.replace(
            self,
            train_split=made["train"],
            validation_split=made["validation"],
            test_split=made["test"],
        )

    def source(self, split: Split) -> Source:
        """Opens a split, held as `cache` says; names image files left out on standard error."""
        key = f"{split}_split"
        tile = self.tile if split == "train" else None
        with self._naming("name", key):
            source = load(
                self.name,
                getattr(self, key),
                self.data_dir,
                tile=tile,
                color=self.color,
                canvas=self.canvas,
            )
        if isinstance(source, FolderSource | AnnotatedSource) and source.skipped:
            print(
                f"warning: image files left out of the {split} split: {len(source.skipped)}",
                *map(printable, source.skipped),
                sep="\n  ",
                file=sys.stderr,
            )
        return source if self.cache == "none" else in_memory(source)

    @contextlib.contextmanager
    def _naming(self, *keys: str) -> Iterator[None]:
        """Has errors begin with the settings that they are about."""
        try:
            yield
        except InputError as error:
            named = ", ".join(f"config.data.{key}={getattr(self, key)!r}" for key in keys)
            raise InputError(f"{named}: {error}") from error


class _GlobalOrder:
    """Random access to the batches of example indices of an endless, reshuffled pass."""

    def __init__(self, length: int, batch_size: int, batches: int, seed: int):
        self.length, self.batch_size, self.batches, self.seed = length, batch_size, batches, seed
        self._permutation = functools.lru_cache(maxsize=2)(self._shuffle)

    def _shuffle(self, epoch: int) -> np.ndarray:
        return np.random.default_rng((self.seed, epoch)).permutation(self.length).astype(np.int32)

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k != "_permutation"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    def __len__(self) -> int:
        return self.batches

    def __getitem__(self, step: int) -> np.ndarray:
        places = np.arange(step * self.batch_size, (step + 1) * self.batch_size)
        epochs, within = np.divmod(places, self.length)
        parts = [self._permutation(int(e))[within[epochs == e]] for e in np.unique(epochs)]
        return np.concatenate(parts)


def _share(rows: np.ndarray, process_index: int, process_count: int) -> np.ndarray:
    """The contiguous part of a global batch's rows that belongs to one process."""
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
) -> grain.DatasetIterator[HostBatch]:
    """A checkpointable iterator over this process's rows of `batches` global batches.

    Each batch holds the source's arrays and "index", the examples' places in the source (int32).

    Args:
      source: the training split.
      batch_size: examples in a global batch; a multiple of `process_count`.
      batches: where the iterator ends.
      seed: of the order.
      indices_only: give "index" alone, for a set that the device holds.
      workers: processes that load ahead; 0 for threads.
      process_index, process_count: which rows of each batch are this process's.
    """
    if len(source) == 0:
        raise InputError("data.train_split is empty")

    def examples(indices: np.ndarray) -> HostBatch:
        rows = _share(indices, process_index, process_count)
        return ({} if indices_only else source.gather(rows)) | {"index": rows}

    order = _GlobalOrder(len(source), batch_size, batches, seed)
    dataset = grain.MapDataset.source(order).map(examples)
    if workers:
        if not flags.FLAGS.is_parsed():
            flags.FLAGS.mark_as_parsed()  # grain reads flags, and only absl.app.run parses them.
        options = grain.MultiprocessingOptions(num_workers=workers)
        return iter(dataset.to_iter_dataset().mp_prefetch(options))
    # Gathering from memory is a copy: threads would only contend with the computation.
    threads = 0 if isinstance(source, ArraySource) or indices_only else 4
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * threads)
    return iter(dataset.to_iter_dataset(options))


class Prefetched:
    """Batches put on the device `depth` ahead of use; its state is that of the last batch used.

    grain's own state would run ahead by the batches in flight; a checkpoint written from it would
    skip them on resume. It is a place in an order of indices, which means other examples where the
    source has changed: `fingerprint`, that of the source, is therefore part of the state.
    """

    def __init__(
        self,
        batches: grain.DatasetIterator[HostBatch],
        put: Callable[[list[HostBatch]], Any],
        *,
        group: int,
        depth: int,
        fingerprint: Fingerprint,
    ):
        self._batches, self._put, self._group, self._depth = batches, put, group, depth
        self._fingerprint = dict(fingerprint)
        self._queue: collections.deque[tuple[Any, Any]] = collections.deque()
        self._state = batches.get_state()

    def get_state(self) -> Any:
        """Where the next batch will come from: grain's state and of what source, JSON-able."""
        return {"batches": self._state, "source": self._fingerprint}

    def set_state(self, state: Any) -> None:
        """Continues from a `get_state`.

        Raises:
          InputError: it is of another source; grain's state alone is taken to be of this one.
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
                    "the training examples are others than when the run was stopped, so it would "
                    "not go on as it began; bring them back or use another workdir:\n  "
                    + "\n  ".join(changes)
                )
            state = state["batches"]
        self._queue.clear()
        self._batches.set_state(state)
        self._state = state

    def __next__(self) -> Any:
        while len(self._queue) <= self._depth:
            try:
                batches = [next(self._batches) for _ in range(self._group)]
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
    """This process's rows of every example of `source` once, in order.

    The last batch is filled with repeats of example 0; "mask" (float32) is 1 for an example and 0
    for a filling, so that means over the set are exact on any number of devices.
    """
    for start in range(0, len(source), batch_size):
        places = np.arange(start, start + batch_size, dtype=np.int32)
        real = places < len(source)
        rows = _share(np.where(real, places, 0), process_index, process_count)
        mask = _share(real.astype(np.float32), process_index, process_count)
        yield source.gather(rows) | {"index": rows, "mask": mask}
