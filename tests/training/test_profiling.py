"""Profiler traces of some steps of a run."""

import pytest

from deconv_jax.errors import InputError
from deconv_jax.experiment import Experiment
from deconv_jax.train import train
from deconv_jax.training.profiling import PROFILES, StepProfiler, check_profiled_steps


@pytest.mark.parametrize("steps", [(4, 4), (6, 4), (-2, 2), (0, 10), (1, 4), (2, 5)])
def test_profiled_steps_must_be_whole_calls_of_the_run(steps):
    check_profiled_steps(0, 8, num_steps=8, steps_per_call=2)
    with pytest.raises(InputError, match=rf"START:STOP .* got {steps[0]}:{steps[1]}$"):
        check_profiled_steps(*steps, num_steps=8, steps_per_call=2)


@pytest.mark.slow
def test_profiled_run_writes_a_trace_and_the_same_records(
    tmp_path, capfd, short_config, uninterrupted, logged
):
    experiment = Experiment.from_dict(short_config())
    result = train(experiment, tmp_path / "run", profile=(4, 6))
    assert "profile" not in result
    (folder,) = (tmp_path / "run" / PROFILES).iterdir()
    assert folder.name == "steps_4_6"
    (trace,) = folder.rglob("*.xplane.pb")
    assert b"train" in trace.read_bytes()
    assert [path.stat().st_size > 0 for path in folder.rglob("*.trace.json.gz")] == [True]
    assert f"profile: {folder}" in capfd.readouterr().err
    assert logged(tmp_path / "run") == logged(uninterrupted(experiment))


@pytest.mark.parametrize(
    ("resumed_at", "said"), [(None, []), (4, []), (5, ["step 4 is before the checkpoint"])]
)
def test_trace_starts_once_and_not_in_the_middle(tmp_path, resumed_at, said):
    lines = []
    options = {"resumed_at": resumed_at, "say": lines.append}
    with StepProfiler((4, 6), tmp_path, **options) as profiler:
        for step in (4, 5):
            with profiler.step(step):
                profiler.stop_at(step, {})
    # The end of the run is the end of the trace.
    assert bool(list(tmp_path.rglob("*.xplane.pb"))) == (not said)
    assert [s in line for s, line in zip(said, lines, strict=False)] == [True] * len(said)
    StepProfiler((4, 6), tmp_path, **options)
    assert said or "not profiled again" in lines[-1]
