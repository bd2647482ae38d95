"""The data of a run: open its splits, read batches ahead, and place them on devices."""

from collections.abc import Iterator, Mapping

import jax
import jax.numpy as jnp
import numpy as np

from deconv_jax.data.batch import Batch
from deconv_jax.data.config import Data
from deconv_jax.data.pipeline import Prefetched, evaluation_batches, training_iterator
from deconv_jax.data.sources import Source, in_memory
from deconv_jax.errors import InputError
from deconv_jax.io import to_json
from deconv_jax.training.loop import LoopData, TrainingConfig
from deconv_jax.training.parallel import Devices, any_process, same_on_all_processes, wait_for_all

NUM_PICTURED = 12
"""Number of validation examples in logged pictures."""


def open_splits(data: Data) -> dict[str, Source]:
    """Return the splits by name, "train", "validation" and "test", opened in every process.

    The first process opens them before the others, because it may have to prepare a bundled data set.

    Raises:
      InputError: A process cannot open the data, or processes see different examples. All processes raise it.
    """
    if jax.process_index() != 0:
        wait_for_all("data prepared")
    sources: dict[str, Source] = {}
    error = None
    try:
        sources = {split: data.open(split) for split in ("train", "validation", "test")}
    except InputError as raised:
        error = raised
    if jax.process_index() == 0:
        wait_for_all("data prepared")
    if any_process(error is not None):
        raise error or InputError(f"another process cannot open data set {str(data.source)!r}")
    seen = to_json({split: dict(source.fingerprint) for split, source in sources.items()})
    if not same_on_all_processes(seen):
        raise InputError(
            f"the processes see different examples of data set {str(data.source)!r}; process "
            f"{jax.process_index()} has {seen.strip()}"
        )
    return sources


def open_loop_data(
    data: Data, training: TrainingConfig, seed: int, devices: Devices, sources: Mapping[str, Source]
) -> LoopData:
    """Return the data of the training loop, placed on the devices.

    Args:
      data: Data set, which determines whether the training split is kept on the devices.
      training: Length of training and batch sizes.
      seed: Seed of the order of the training examples.
      devices: Devices to place batches on.
      sources: Splits by name, among them "train" and "validation".

    Raises:
      InputError: The training split is empty.
    """
    on_device = data.cache == "device"
    batches = training_iterator(
        sources["train"],
        batch_size=training.batch_size,
        batches=training.num_steps,
        seed=seed,
        indices_only=on_device,
        workers=data.workers,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )
    train = Prefetched(
        batches,
        devices.put_batches,
        batches_per_put=training.steps_per_call,
        depth=data.prefetch,
        fingerprint=sources["train"].fingerprint,
    )
    cached = devices.replicate(dict(in_memory(sources["train"]).arrays)) if on_device else {}
    validation = sources["validation"]
    return LoopData(
        train=train,
        cached=cached,
        validation=lambda: device_batches(training, devices, validation),
        examples=picture_examples(devices, validation),
    )


def device_batches(
    training: TrainingConfig, devices: Devices, source: Source
) -> Iterator[dict[str, jax.Array]]:
    """Yield all batches of a split for evaluation, placed on the devices; none if it is empty.

    All have the same size, the evaluation batch size rounded up to a multiple of the number of devices. Beside
    the arrays of the source, they hold "index" and "mask", which is 0 for padding in the last batch.
    """
    batch_size = training.eval_batch_size or training.batch_size
    batches = evaluation_batches(
        source,
        # Padding is masked out, so a batch can be rounded up to any number of devices.
        batch_size=-(-batch_size // devices.mesh.size) * devices.mesh.size,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )
    return map(devices.put_batch, batches)


def picture_examples(devices: Devices, source: Source) -> dict[str, jax.Array]:
    """Return the first examples of a split, at most `NUM_PICTURED` (12), with "index", replicated."""
    indices = np.arange(min(NUM_PICTURED, len(source)), dtype=np.int32)
    return devices.replicate(source.gather(indices) | {"index": indices})


def first_example(source: Source) -> Batch:
    """Return the first example of a split, with "index", as a batch of one on the default device.

    Raises:
      InputError: The split is empty.
    """
    if len(source) == 0:
        raise InputError("a split of the data set is empty")
    rows = source.gather(np.zeros(1, np.int32)) | {"index": np.zeros(1, np.int32)}
    return jax.tree.map(jnp.asarray, rows)
