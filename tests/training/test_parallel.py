"""A step gives the same numbers on any devices and with either compiler."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from deconv_jax.errors import InputError
from deconv_jax.models import Autoencoder
from deconv_jax.tasks import Autoencoding
from deconv_jax.training import parallel
from deconv_jax.training.checkpoint import Checkpoints
from deconv_jax.training.loop import TrainingConfig
from deconv_jax.training.optimizer import Optimizer
from deconv_jax.training.parallel import Devices, PeriodicAgreement, initialize_processes

STEPS, BATCH = 6, 16
RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (64, 16, 16, 1)).astype(np.uint8)
INDICES = RNG.integers(0, len(IMAGES), (STEPS, BATCH)).astype(np.int32)

# Plain SGD, because the first steps of Adam divide by the magnitude of the gradient: the rounding error of a
# gradient near zero would become as large as the step.
TASK = Autoencoding(
    model=Autoencoder(image_shape=(16, 16, 1), features=(4,), latent_dim=6, norm="batch"),
    optimizer=Optimizer(name="sgd", learning_rate=0.1, ema_decay=0.9),
)


def devices(count, **options):
    mesh = jax.sharding.Mesh(
        jax.devices()[:count], ("data",), axis_types=(jax.sharding.AxisType.Auto,)
    )
    return Devices(mesh, **options)


@functools.cache
def initial(task):
    state = devices(8).init(lambda key: task.init(key, {"image": IMAGES[:1]}), jax.random.key(0))
    return jax.device_get(state)


@functools.cache
def compiled(placed, task):
    return placed.compile(task.train_step)


@functools.cache
def run(placed, steps=STEPS, *, per_call=1, cached=False, task=TASK):
    """Return the state after `steps` steps on fixed batches, and the scalars of every step."""
    state, call = placed.replicate(initial(task)), compiled(placed, task)
    arrays = placed.replicate({"image": IMAGES}) if cached else {}
    scalars = []
    for start in range(0, steps, per_call):
        batches = [{"index": i} for i in INDICES[start : start + per_call]]
        if not cached:
            batches = [b | {"image": IMAGES[b["index"]]} for b in batches]
        state, of_call = call(state, placed.put_batches(batches), arrays)
        scalars.append(jax.device_get(of_call))
    stacked = {name: np.concatenate([s[name] for s in scalars]) for name in scalars[0]}
    assert all(len(values) == steps for values in stacked.values())
    return jax.device_get(state), stacked


@pytest.mark.slow
def test_step_on_eight_devices_equals_step_on_one(assert_trees_equal):
    one, one_scalars = run(devices(1), 1)
    eight, eight_scalars = run(devices(8), 1)
    assert jax.tree.leaves(one.batch_stats), "this test must cover batch norm"
    assert_trees_equal(eight, one, relative=1e-5)
    assert_trees_equal(eight_scalars, one_scalars, relative=1e-5)


def test_jit_equals_pmap_after_six_steps(assert_trees_equal):
    jitted, _ = run(devices(8, compiler="jit"))
    mapped, _ = run(devices(8, compiler="pmap"))
    assert_trees_equal(mapped, jitted, relative=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("compiler", ["jit", "pmap"])
@pytest.mark.parametrize(("per_call", "cached"), [(1, True), (3, False), (3, True)])
def test_steps_per_call_and_device_cache_are_bit_exact(
    assert_trees_equal, compiler, per_call, cached
):
    placed = devices(8, compiler=compiler)
    plain, plain_scalars = run(placed)
    other, other_scalars = run(placed, per_call=per_call, cached=cached)
    assert_trees_equal(other, plain)
    # The logged loss may be fused with the slicing of the batch, which changes the order of its sum.
    # Nothing is computed from it.
    assert_trees_equal(other_scalars, plain_scalars, relative=1e-6)


@pytest.mark.slow
def test_bfloat16_keeps_float32_state_and_is_close():
    task = dataclasses.replace(TASK, precision="bf16")
    _, full_scalars = run(devices(8), 2)
    half, half_scalars = run(devices(8), 2, task=task)
    assert {a.dtype for a in jax.tree.leaves(half.params)} == {np.dtype("float32")}
    # bfloat16 has 8 significant bits, so the loss agrees to about one percent without being equal.
    np.testing.assert_allclose(half_scalars["loss"], full_scalars["loss"], rtol=2e-2)
    assert not np.array_equal(half_scalars["loss"], full_scalars["loss"])


def test_optimizer_state_on_all_devices_or_split_gives_the_same_steps(assert_trees_equal):
    task = dataclasses.replace(
        TASK, optimizer=Optimizer(name="sgd", learning_rate=0.1, momentum=0.9, clip_norm=0.1)
    )
    whole, whole_scalars = run(devices(8), 3, task=task)
    split, split_scalars = run(devices(8, shard_optimizer=True), 3, task=task)
    assert_trees_equal(split, whole, relative=1e-5)
    assert_trees_equal(split_scalars, whole_scalars, relative=1e-5)


def test_split_optimizer_state_is_restored_on_other_numbers_of_devices(
    tmp_path, assert_trees_equal
):
    """The first kernel of the encoder has 4 output channels: it is split over 4 devices, not over 8."""
    task = dataclasses.replace(TASK, optimizer=Optimizer())
    placed = devices(8, shard_optimizer=True)
    state = placed.init(lambda key: task.init(key, {"image": IMAGES[:1]}), jax.random.key(0))
    parts = {a.addressable_shards[0].data.size / a.size for a in jax.tree.leaves(state.opt_state)}
    assert parts == {1 / 8, 1.0}
    assert all(a.is_fully_replicated for a in jax.tree.leaves(state.params))
    with Checkpoints(tmp_path, monitor="psnr") as checkpoints:
        checkpoints.save(state, {}, None)
        checkpoints.wait()
        for count, sharded in ((1, False), (4, True), (8, True)):
            other = devices(count, shard_optimizer=sharded)
            restored = checkpoints.restore(state, other.state_shardings(state)).state
            assert_trees_equal(jax.device_get(restored), jax.device_get(state))
            kernel = restored.opt_state[0].mu["down_0"]["Conv_0"]["kernel"]
            assert kernel.sharding.is_fully_replicated == (count != 4)


def test_optimizer_state_is_split_only_under_jit():
    with pytest.raises(InputError, match=r"requires training.compiler='jit'; got 'pmap'"):
        TrainingConfig(num_steps=500, batch_size=8, compiler="pmap", shard_optimizer=True)


def test_batch_size_must_divide_over_devices():
    with pytest.raises(InputError, match="divisible by the number of devices, 8; got 12"):
        Devices.all().check_batch_size(12)
    Devices.all().check_batch_size(16)


def test_malformed_process_address_is_rejected():
    with pytest.raises(InputError, match="HOST:PORT,INDEX,COUNT; got 'here'"):
        initialize_processes("here")


def test_processes_agree_every_two_seconds_of_the_slowest_one(monkeypatch):
    """Two processes with steps of 10 and 20 ms; the second one gets a flag at step 300."""
    clock, gathered, flagged = [0.0], [], []
    monkeypatch.setattr(parallel.time, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(parallel.jax, "process_count", lambda: 2)

    def allgather(own):
        gathered.append(step)
        return np.stack([own, np.array([step >= 300, 2 * own[1]], np.float32)])

    monkeypatch.setattr(parallel.multihost_utils, "process_allgather", allgather)
    agreement = PeriodicAgreement(seconds=2.0)
    for step in range(1, 401):
        clock[0] += 0.01
        if agreement.any(False):
            flagged.append(step)
    # The number of steps at most doubles, up to the 100 that take two seconds.
    assert gathered == [1, 3, 7, 15, 31, 63, 127, 227, 327]
    assert flagged == [327]


def test_agreement_of_one_process_is_its_own_flag(monkeypatch):
    monkeypatch.delattr(parallel, "multihost_utils")
    agreement = PeriodicAgreement()
    assert [agreement.any(flag) for flag in (False, True, False)] == [False, True, False]


@pytest.mark.slow
def test_program_lowered_from_shapes_is_that_of_training():
    placed = devices(8)
    batches = [{"index": i, "image": IMAGES[i]} for i in INDICES[:2]]
    state = placed.replicate(initial(TASK))
    trained = compiled(placed, TASK).lower(state, placed.put_batches(batches), {})
    example = {name: array[:1] for name, array in batches[0].items()}
    abstract = placed.lower(TASK.train_step, jax.eval_shape(lambda: state), example, (2, BATCH))
    assert abstract.as_text() == trained.as_text()


def test_sum_over_all_devices_is_right(monkeypatch):
    assert parallel.all_reduce_is_right()
    monkeypatch.setattr(parallel, "jit", lambda *_, **__: jax.numpy.max)
    assert not parallel.all_reduce_is_right()


def test_pmap_is_for_one_process(monkeypatch):
    monkeypatch.setattr(parallel.jax, "process_count", lambda: 2)
    with pytest.raises(
        InputError, match="must be 'jit' for more than one process; got 'pmap' and 2"
    ):
        Devices.all("pmap")
