"""Checkpoints: whole or absent, on any devices, with damage noticed."""

import gc
import itertools
import shutil

import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from deconv_jax.errors import InputError
from deconv_jax.training.checkpoint import Checkpoints
from deconv_jax.training.state import TrainState

# orbax leaves tasks of a failed read behind, which complain that its event loop has gone.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture(autouse=True)
def collected():
    """They complain when they are collected, which must not be during another test."""
    yield
    for _ in range(3):
        gc.collect()


def state_of(step, size=300):
    rng = np.random.default_rng(step)
    params = {"kernel": rng.standard_normal((size, size), np.float32)}
    return TrainState(np.int32(step), params, {"mean": np.ones(3, np.float32)}, (), {})


def replicated(count):
    mesh = jax.sharding.Mesh(jax.devices()[:count], ("data",))
    return NamedSharding(mesh, PartitionSpec())


def write(folder, measured, count=1):
    """Saves a checkpoint a step, each with its psnr (or None), and returns the kept steps."""
    checkpoints = Checkpoints(folder, monitor="psnr", config={"seed": 0})
    for step, psnr in measured.items():
        state = jax.device_put(state_of(step), replicated(count))
        checkpoints.save(state, {"next_index": step}, psnr and {"psnr": psnr})
    checkpoints.wait()
    steps = checkpoints.steps(), checkpoints.best_step()
    checkpoints.close()
    return steps


def read(folder, count=1, **options):
    reports = []
    checkpoints = Checkpoints(folder, monitor="psnr", report=reports.append, **options)
    try:
        return checkpoints.restore(state_of(0), replicated(count)), reports
    finally:
        checkpoints.close()


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A folder with checkpoints of steps 5 and 10; tests damage copies of it."""
    folder = tmp_path_factory.mktemp("written") / "c"
    assert write(folder, {5: None, 10: 1.0}) == ([5, 10], 10)
    return folder


@pytest.mark.parametrize(("written_on", "read_on"), [(8, 1), (1, 8)])
def test_restores_onto_another_number_of_devices(tmp_path, assert_trees_equal, written_on, read_on):
    write(tmp_path / "c", {7: 1.0}, written_on)
    restored, reports = read(tmp_path / "c", read_on)
    assert (restored.step, restored.data, reports) == (7, {"next_index": 7}, [])
    assert_trees_equal(restored.state, state_of(7))
    assert {len(a.sharding.device_set) for a in jax.tree.leaves(restored.state)} == {read_on}


def test_keeps_the_last_two_and_the_best(tmp_path):
    measured = {0: 3.0, 5: 9.0, 10: None, 15: 1.0, 20: None, 25: float("inf")}
    assert write(tmp_path / "c", measured) == ([5, 20, 25], 5)


def test_a_measure_with_a_minus_is_better_the_lower(tmp_path):
    checkpoints = Checkpoints(tmp_path / "c", monitor="-fid")
    measured = {0: 90.0, 5: 7.5, 10: None, 15: 8.0, 20: float("nan"), 25: 40.0}
    for step, fid in measured.items():
        state = jax.device_put(state_of(step, size=3), replicated(1))
        checkpoints.save(state, None, fid and {"fid": fid, "coverage": 0.5})
    checkpoints.wait()
    assert (checkpoints.steps(), checkpoints.best_step()) == ([5, 20, 25], 5)
    checkpoints.close()
    again = Checkpoints(tmp_path / "c", monitor="-fid", read_only=True)
    assert again.best_step() == 5
    again.close()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("victim", "damage"),
    [
        *itertools.product(
            ["state/d/*", "_CHECKPOINT_METADATA", "state/_METADATA"], ["flip", "truncate", "delete"]
        ),
        ("metrics/metrics", "truncate"),
    ],
)
def test_a_damaged_newest_checkpoint_is_reported_and_the_one_before_used(
    tmp_path, written, assert_trees_equal, damage, victim
):
    shutil.copytree(written, tmp_path / "c")
    (path,) = sorted((tmp_path / "c" / "10").glob(victim), key=lambda p: p.stat().st_size)[-1:]
    content = bytearray(path.read_bytes())
    if damage == "delete":
        path.unlink()
    elif damage == "truncate":
        path.write_bytes(content[: len(content) // 2])
    else:
        content[len(content) // 2] ^= 0x40
        path.write_bytes(content)
    restored, reports = read(tmp_path / "c")
    assert restored.step == 5
    assert_trees_equal(restored.state, state_of(5))
    assert len(reports) == 1
    assert "checkpoint of step 10 is damaged" in reports[0]
    # The run goes on from there, and its next checkpoint may be of the very step that was damaged.
    assert (tmp_path / "c" / "10.damaged").exists()
    assert write(tmp_path / "c", {7: None, 10: None})[0] == [7, 10]
    assert read(tmp_path / "c")[0].step == 10


def test_every_flipped_byte_of_the_weights_is_noticed(tmp_path, written):
    folder = shutil.copytree(written, tmp_path / "c")
    data = max((folder / "10" / "state" / "d").iterdir(), key=lambda p: p.stat().st_size)
    content = data.read_bytes()
    reports = []
    checkpoints = Checkpoints(folder, monitor="psnr", report=reports.append, read_only=True)
    places = np.linspace(0, len(content) - 1, 12).astype(int)
    for place in places:
        flipped = bytearray(content)
        flipped[place] ^= 1
        data.write_bytes(flipped)
        assert checkpoints.restore(state_of(0), replicated(1)).step == 5
    assert len(reports) == len(places)
    # The same object reads the file anew each time.
    data.write_bytes(content)
    assert checkpoints.restore(state_of(0), replicated(1)).step == 10
    checkpoints.close()


def test_an_unfinished_checkpoint_is_not_seen_and_is_removed(tmp_path):
    write(tmp_path / "c", {5: None})
    unfinished = tmp_path / "c" / "10.orbax-checkpoint-tmp"
    unfinished.mkdir()
    (unfinished / "state").write_text("half")
    restored, reports = read(tmp_path / "c")
    assert (restored.step, reports) == (5, [])
    assert not unfinished.exists()


def test_errors_name_what_is_there(tmp_path, monkeypatch):
    with pytest.raises(InputError, match="holds no checkpoints"):
        read(tmp_path / "none", read_only=True)
    write(tmp_path / "c", {5: None})
    checkpoints = Checkpoints(tmp_path / "c", monitor="psnr", read_only=True)
    with pytest.raises(InputError, match=r"no checkpoint of step 6; it has \[5\]"):
        checkpoints.restore(state_of(0), replicated(1), 6)
    reports = []
    monkeypatch.setattr(checkpoints, "_report", reports.append)
    with pytest.raises(InputError, match=r"no readable checkpoint; tried steps \[5\]"):
        checkpoints.restore(state_of(0, size=200), replicated(1))
    assert len(reports) == 1
    checkpoints.close()
