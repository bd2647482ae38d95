"""Checkpoints: complete or absent, on any devices, with damage detected."""

import gc
import itertools
import json
import logging
import resource
import shutil

import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from deconv_jax.errors import InputError
from deconv_jax.training import checkpoint, read_errors
from deconv_jax.training.checkpoint import Checkpoints
from deconv_jax.training.checksum import state_checksum
from deconv_jax.training.orbax_logs import silence_orbax
from deconv_jax.training.state import TrainState

# Tasks that orbax abandons after a failed read complain that the event loop is closed.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture(autouse=True)
def collect_abandoned_tasks():
    """Collect abandoned tasks now, since they complain when they are collected."""
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
    """Save a checkpoint per step with its PSNR or None; return the kept steps and the best step."""
    checkpoints = Checkpoints(folder, monitor="psnr", config={"seed": 0})
    for step, psnr in measured.items():
        state = jax.device_put(state_of(step), replicated(count))
        checkpoints.save(state, {"next_index": step}, psnr and {"psnr": psnr})
    checkpoints.wait()
    steps = checkpoints.steps(), checkpoints.best_step()
    checkpoints.close()
    return steps


def read(folder, count=1, which="last", **options):
    reports = []
    options = {"report": reports.append} | options
    with Checkpoints(folder, monitor="psnr", **options) as checkpoints:
        return checkpoints.restore(state_of(0), replicated(count), which), reports


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Return a folder with checkpoints of steps 5 and 10. Tests damage copies of it."""
    folder = tmp_path_factory.mktemp("written") / "c"
    assert write(folder, {5: None, 10: 1.0}) == ([5, 10], 10)
    return folder


@pytest.mark.parametrize(("written_on", "read_on"), [(8, 1), (1, 8)])
def test_restore_on_another_number_of_devices(tmp_path, assert_trees_equal, written_on, read_on):
    write(tmp_path / "c", {7: 1.0}, written_on)
    restored, reports = read(tmp_path / "c", read_on)
    assert (restored.step, restored.iterator_state, reports) == (7, {"next_index": 7}, [])
    assert_trees_equal(restored.state, state_of(7))
    assert {len(a.sharding.device_set) for a in jax.tree.leaves(restored.state)} == {read_on}


def test_last_two_and_best_are_kept(tmp_path):
    measured = {0: 3.0, 5: 9.0, 10: None, 15: 1.0, 20: None, 25: float("inf")}
    assert write(tmp_path / "c", measured) == ([5, 20, 25], 5)


def test_metric_with_minus_is_minimized(tmp_path):
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
def test_damaged_last_checkpoint_is_reported_and_the_previous_one_used(
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
    for options in ({"read_only": True}, {}):
        restored, reports = read(tmp_path / "c", **options)
        assert restored.step == 5
        assert_trees_equal(restored.state, state_of(5))
        assert len(reports) == 1
        assert "checkpoint of step 10 is damaged" in reports[0]
    # The run resumes from there, and can save the damaged step again.
    assert (tmp_path / "c" / "10.damaged").exists()
    assert write(tmp_path / "c", {7: None, 10: None})[0] == [7, 10]
    assert read(tmp_path / "c")[0].step == 10


def test_any_flipped_bit_of_the_weights_is_detected(tmp_path, written):
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
    # The same object reads the file again each time.
    data.write_bytes(content)
    assert checkpoints.restore(state_of(0), replicated(1)).step == 10
    checkpoints.close()


def test_unfinished_checkpoint_is_ignored_and_removed(tmp_path):
    write(tmp_path / "c", {5: None})
    unfinished = tmp_path / "c" / "10.orbax-checkpoint-tmp"
    unfinished.mkdir()
    (unfinished / "state").write_text("half")
    restored, reports = read(tmp_path / "c")
    assert (restored.step, reports) == (5, [])
    assert not unfinished.exists()


def edit(folder, change):
    """Change the metadata of a checkpoint."""
    path = folder / "_CHECKPOINT_METADATA"
    metadata = json.loads(path.read_text())
    change(metadata["custom_metadata"])
    path.write_text(json.dumps(metadata))


@pytest.mark.parametrize(
    "change",
    [
        lambda extra: extra["data"].update(next_index=9),
        lambda extra: extra["config"].update(seed=1),
        lambda extra: extra.update(step=5),
        lambda extra: extra.pop("step"),
        lambda extra: extra.update(data=None),
        lambda extra: extra.pop("checksum"),
    ],
    ids=["data", "config", "step", "no step", "no data", "no checksum"],
)
def test_changed_metadata_is_detected(tmp_path, written, change):
    folder = shutil.copytree(written, tmp_path / "c")
    edit(folder / "10", change)
    restored, reports = read(folder)
    assert (restored.step, restored.iterator_state) == (5, {"next_index": 5})
    assert len(reports) == 1


def test_changed_metric_is_detected(tmp_path, written):
    folder = shutil.copytree(written, tmp_path / "c")
    (folder / "10" / "metrics" / "metrics").write_text('{"psnr": 99.0}')
    assert read(folder)[0].step == 5


def test_checkpoint_in_the_folder_of_another_step_is_detected(tmp_path, written):
    folder = shutil.copytree(written, tmp_path / "c")
    (folder / "10").rename(folder / "15")
    restored, reports = read(folder)
    assert restored.step == 5
    assert reports == [
        "checkpoint of step 15 is damaged, renamed to STEP.damaged: it holds the state of step 10"
    ]


def test_checkpoints_of_older_versions_are_read(tmp_path, written, assert_trees_equal):
    """Their checksum covers only the state."""
    folder = shutil.copytree(written, tmp_path / "c")

    def age(extra):
        del extra["step"]
        extra["checksum"] = state_checksum(state_of(10), None)

    edit(folder / "10", age)
    restored, reports = read(folder)
    assert (restored.step, restored.iterator_state, reports) == (10, {"next_index": 10}, [])
    assert_trees_equal(restored.state, state_of(10))


@pytest.mark.parametrize("victim", ["_CHECKPOINT_METADATA", "metrics/metrics"])
def test_damaged_best_checkpoint_falls_back_to_the_second_best(tmp_path, victim):
    folder = tmp_path / "c"
    assert write(folder, {5: 3.0, 10: 1.0, 15: 2.0})[0] == [5, 10, 15]
    (folder / "5" / victim).write_text("null")
    restored, reports = read(folder, which="best", read_only=True)
    assert restored.step == 15
    assert len(reports) == 1
    assert "checkpoint of step 5 is damaged, passed over" in reports[0]
    for step in ("10", "15"):
        (folder / step / victim).write_text("null")
    with pytest.raises(InputError, match=r"none is best|no readable checkpoint"):
        read(folder, which="best", read_only=True)


def test_damaged_checkpoint_of_a_requested_step_is_an_error(tmp_path, written):
    folder = shutil.copytree(written, tmp_path / "c")
    (folder / "10" / "_CHECKPOINT_METADATA").unlink()
    with pytest.raises(
        InputError, match=r"checkpoint of step 10 .* is damaged: .*other checkpoints: steps \[5\]"
    ):
        read(folder, which=10, read_only=True)


def test_damage_is_reported_on_standard_error(tmp_path, written, capfd):
    folder = shutil.copytree(written, tmp_path / "c")
    edit(folder / "10", lambda extra: extra["data"].update(next_index=9))
    assert read(folder, read_only=True, report=checkpoint.warn)[0].step == 5
    said = "checkpoint of step 10 is damaged, passed over: its checksum does not match"
    assert capfd.readouterr().err == f"warning: {said}\n"


def test_checkpoint_removed_while_reading_is_not_damage(tmp_path, written, monkeypatch):
    """A run that is writing there has saved another one since."""
    folder = shutil.copytree(written, tmp_path / "c")
    reports = []
    checkpoints = Checkpoints(folder, monitor="psnr", report=reports.append, read_only=True)
    load = checkpoints._load

    def removed(step, *arguments):
        if step == 10:
            (folder / "5").rename(tmp_path / "5")
            (folder / "10").rename(tmp_path / "10")
            write(folder, {15: None})
        return load(step, *arguments)

    monkeypatch.setattr(checkpoints, "_load", removed)
    assert (checkpoints.restore(state_of(0), replicated(1)).step, reports) == (15, [])


@pytest.mark.parametrize("waits", [False, True])
def test_full_disk_is_one_error_and_the_last_checkpoint_is_intact(tmp_path, capfd, waits):
    """A limited file size makes writing fail as on a full disk."""
    silence_orbax()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def save():
        with Checkpoints(tmp_path / "c", monitor="psnr") as checkpoints:
            checkpoints.save(jax.device_put(state_of(5), replicated(1)), {}, None)
            checkpoints.wait()
            resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, limits[1]))
            checkpoints.save(jax.device_put(state_of(10), replicated(1)), {}, None)
            if waits:
                checkpoints.wait()

    try:
        with pytest.raises(InputError) as raised:
            save()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert str(raised.value) == (
        f"cannot write {tmp_path / 'c' / '10'}: File too large (free some space and run "
        "the same command again); the checkpoint of step 5 is intact"
    )
    assert capfd.readouterr().err == ""
    assert read(tmp_path / "c")[0].step == 5


def test_missing_permission_is_not_damage(tmp_path, written, monkeypatch):
    folder = shutil.copytree(written, tmp_path / "c")
    checkpoints = Checkpoints(folder, monitor="psnr", read_only=True)

    def forbidden(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(checkpoints, "_load", forbidden)
    with pytest.raises(InputError, match=r"cannot read .*10: permission denied"):
        checkpoints.restore(state_of(0), replicated(1))


def test_missing_permission_of_a_subfolder_is_not_damage(tmp_path, written, monkeypatch):
    """Its files look as if they were missing."""
    folder = shutil.copytree(written, tmp_path / "c")
    state = folder / "10" / "state"
    (state / "_METADATA").unlink()
    monkeypatch.setattr(read_errors.os, "access", lambda path, _: path != state)
    for read_only in (True, False):
        with pytest.raises(InputError, match=r"cannot read .*10/state: permission denied"):
            read(folder, read_only=read_only)
    assert (folder / "10").exists()


def test_silencing_orbax_keeps_other_log_records(caplog):
    """Abandoned tasks of orbax are recognized without a frame of orbax on the stack."""
    silence_orbax()
    other = ValueError("of another task")
    for error in (ValueError('PERMISSION_DENIED: Error opening "zarr3" driver: ...'), other):
        logging.getLogger("asyncio").error("Task exception was never retrieved", exc_info=error)
    assert [record.exc_info[1] for record in caplog.records] == [other]


def test_errors_list_the_existing_steps(tmp_path, monkeypatch):
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
