"""The input pipeline: order of examples, sharding, evaluation of every example once, and exact resumption."""

import json

import jax
import numpy as np
import pytest
from absl import flags
from hypothesis import given, settings
from hypothesis import strategies as st

from deconv_jax.data.config import Data
from deconv_jax.data.pipeline import Prefetched, evaluation_batches, training_iterator
from deconv_jax.data.source_configs import Digits
from deconv_jax.data.sources import ArraySource
from deconv_jax.errors import InputError

many = settings(max_examples=60, deadline=None, derandomize=True)


def source_of(length):
    """Return a source whose examples all differ in both arrays."""
    places = np.arange(length)
    images = np.stack([places % 256, places // 256], axis=1).astype(np.uint8)
    return ArraySource({"image": images.reshape(-1, 1, 2, 1), "label": places.astype(np.int32)})


def training(length=10, *, batch_size=4, batches=20, seed=0, source=None, **options):
    source = source or source_of(length)
    return training_iterator(source, batch_size=batch_size, batches=batches, seed=seed, **options)


def order(*args, **options):
    """Return the indices of all batches, one row per batch."""
    return np.array([batch["index"] for batch in training(*args, **options)])


@many
@given(length=st.integers(1, 12), batch_size=st.integers(1, 15), seed=st.integers(0, 2**31))
def test_every_epoch_is_a_permutation(length, batch_size, seed):
    """Also if an epoch ends inside a batch, or a batch contains several epochs."""
    epochs = 3
    batches = -(-length * epochs // batch_size)
    indices = order(length, batch_size=batch_size, batches=batches, seed=seed).ravel()
    for epoch in indices[: length * epochs].reshape(epochs, length):
        np.testing.assert_array_equal(np.sort(epoch), np.arange(length))


def test_order_depends_only_on_seed_and_epoch():
    length = 50
    rows = {
        seed: order(length, batch_size=25, batches=6, seed=seed).reshape(3, length)
        for seed in (0, 1)
    }
    np.testing.assert_array_equal(
        order(length, batch_size=25, batches=6).reshape(3, length), rows[0]
    )
    # The 50! orders make an accidental repetition impossible.
    assert len(np.unique(np.concatenate(list(rows.values())), axis=0)) == 6
    # Another batch size cuts the same sequence elsewhere.
    np.testing.assert_array_equal(order(length, batch_size=10, batches=15).ravel(), rows[0].ravel())


def test_batch_has_the_examples_at_its_indices():
    source = source_of(300)
    for batch in training(source=source, batch_size=7, batches=5):
        assert batch["index"].dtype == np.int32
        np.testing.assert_array_equal(batch["label"], batch["index"])
        np.testing.assert_array_equal(batch["image"], source.arrays["image"][batch["index"]])


def test_indices_only_keeps_the_order():
    batches = list(training(indices_only=True))
    assert all(set(batch) == {"index"} for batch in batches)
    np.testing.assert_array_equal([batch["index"] for batch in batches], order())


@pytest.mark.parametrize("process_count", [1, 2, 4])
def test_shards_of_processes_form_the_global_batch(process_count):
    shares = [
        list(training(batch_size=8, process_index=i, process_count=process_count))
        for i in range(process_count)
    ]
    for whole, *parts in zip(training(batch_size=8), *shares, strict=True):
        assert {len(part["index"]) for part in parts} == {8 // process_count}
        for name, array in whole.items():
            np.testing.assert_array_equal(np.concatenate([part[name] for part in parts]), array)


def test_empty_training_split_is_an_error():
    with pytest.raises(InputError, match=r"data\.train_split is empty"):
        training(0)


@many
@given(
    length=st.integers(0, 40),
    share=st.integers(1, 6),
    process_count=st.integers(1, 4),
)
def test_evaluation_covers_each_example_exactly_once(length, share, process_count):
    source, size = source_of(length), share * process_count
    per_process = [
        list(
            evaluation_batches(
                source, batch_size=size, process_index=i, process_count=process_count
            )
        )
        for i in range(process_count)
    ]
    # All processes take part in the same number of steps, or they would wait for one another.
    assert {len(batches) for batches in per_process} == {-(-length // size)}
    seen = []
    for parts in zip(*per_process, strict=True):
        batch = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        assert {array.shape[0] for array in batch.values()} == {size}
        assert batch["mask"].dtype == np.float32
        assert set(batch["mask"]) <= {0.0, 1.0}
        np.testing.assert_array_equal(batch["label"], batch["index"])
        assert (batch["index"][batch["mask"] == 0] == 0).all()
        seen.extend(batch["index"][batch["mask"] == 1])
    assert seen == list(range(length))


SOURCE = {"examples": 10, "files": 3}


def prefetched(depth, batches_per_put=2, put=None, fingerprint=SOURCE, **options):
    put = put or (lambda batches: np.concatenate([batch["index"] for batch in batches]))
    return Prefetched(
        training(**options),
        put,
        batches_per_put=batches_per_put,
        depth=depth,
        fingerprint=fingerprint,
    )


def take(iterator, count):
    return [next(iterator) for _ in range(count)]


depths = pytest.mark.parametrize("depth", [0, 1, 2, 3])


@depths
def test_prefetching_keeps_batches_and_drops_an_incomplete_last_put(depth):
    """7 batches make 3 groups of 2."""
    ahead = prefetched(depth, batches=7)
    np.testing.assert_array_equal(take(ahead, 3), order(batches=6).reshape(3, 8))
    with pytest.raises(StopIteration):
        next(ahead)


@depths
def test_batches_are_put_on_the_device_ahead_of_use(depth):
    put = []
    next(prefetched(depth, put=put.append))
    assert len(put) == depth + 1


@depths
def test_the_state_is_that_of_the_last_batch_used(depth):
    """Equal to the state of an iterator without prefetching."""
    ahead, plain = prefetched(depth), training()
    for _ in range(4):
        assert ahead.get_state() == {"batches": plain.get_state(), "source": SOURCE}
        next(ahead)
        take(plain, 2)


@pytest.mark.parametrize("used", [0, 1, 3])
@depths
def test_a_state_resumes_exactly(depth, used):
    """Through JSON, as in a checkpoint, on a new iterator of another depth and on a used one."""
    first = prefetched(depth)
    take(first, used)
    state = json.loads(json.dumps(first.get_state()))
    expected = take(first, 4)
    fresh = prefetched(3 - depth)
    for iterator in (fresh, first):
        iterator.set_state(state)
        assert iterator.get_state() == state
        np.testing.assert_array_equal(take(iterator, 4), expected)


def test_state_of_another_source_is_an_error_that_names_the_changes():
    stopped = prefetched(1)
    next(stopped)
    other = prefetched(1, fingerprint={"examples": 10, "files": 2})
    with pytest.raises(InputError, match=r"data changed since .*\n  files: 3 -> 2$"):
        other.set_state(stopped.get_state())
    np.testing.assert_array_equal(next(other), order(batches=2).ravel())


def test_state_without_fingerprint_is_accepted():
    plain, fresh = training(), prefetched(1)
    take(plain, 2)
    fresh.set_state(json.loads(json.dumps(plain.get_state())))
    np.testing.assert_array_equal(next(fresh), order(batches=4)[2:].ravel())


def test_run_resumes_on_another_number_of_processes():
    one = training(batch_size=8)
    take(one, 3)
    halves = [training(batch_size=8, process_index=i, process_count=2) for i in range(2)]
    for half in halves:
        half.set_state(one.get_state())
    for whole, *parts in zip(one, *halves, strict=True):
        joined = np.concatenate([part["index"] for part in parts])
        np.testing.assert_array_equal(joined, whole["index"])


@pytest.mark.parametrize("cache", ["none", "memory", "device"])
def test_cache_does_not_change_examples(digits_dir, cache):
    data = Data(Digits(), data_dir=digits_dir, validation_split="test[:20]", cache=cache)
    source = data.open("validation")
    assert isinstance(source, ArraySource) == (cache != "none")
    expected = Digits().open("test[:20]", digits_dir).gather(np.arange(20))
    for name, array in source.gather(np.arange(20)).items():
        np.testing.assert_array_equal(array, expected[name])


def test_reading_threads_keep_the_order(digits_dir):
    """Records are read by threads, arrays are not."""
    source = Digits().open("validation", digits_dir)
    batches = list(training(source=source, batch_size=50, batches=6))
    np.testing.assert_array_equal(
        [batch["index"] for batch in batches], order(len(source), batch_size=50, batches=6)
    )
    for batch in batches:
        np.testing.assert_array_equal(batch["image"], source.gather(batch["index"])["image"])


@pytest.mark.slow
def test_worker_processes_give_the_same_batches_and_resume_exactly(digits_dir):
    """With TFDS records, in a program that absl did not start."""
    flags.FLAGS.unparse_flags()
    source = Digits().open("validation", digits_dir)
    options = {"source": source, "batch_size": 5, "batches": 7}

    def batches_of(**more):
        return Prefetched(
            training(**options, **more),
            jax.device_put,
            batches_per_put=1,
            depth=1,
            fingerprint=SOURCE,
        )

    expected = take(batches_of(), 7)
    workers = batches_of(workers=2)
    got = take(workers, 3)
    state = workers.get_state()
    got += take(workers, 4)
    workers.set_state(state)
    for (batch,), (other,) in zip(expected + expected[3:], got + take(workers, 4), strict=True):
        assert set(batch) == set(other) == {"image", "label", "index"}
        for name, array in batch.items():
            np.testing.assert_array_equal(array, other[name])
