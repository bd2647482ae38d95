"""A run that is killed or stopped ends bit for bit as an uninterrupted run."""

import json
import random
import signal
import time

import pytest

from deconv_jax.cli import EXIT_INTERRUPTED
from deconv_jax.workdir import CHECKPOINTS, RESULT

pytestmark = pytest.mark.slow

STEPS, EVERY = 300, 20


def wait_until(process, happened):
    deadline = time.monotonic() + 120
    while not happened():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.0005)


def training_beyond(process, step):
    """Wait until the process has logged a step after `step`."""
    for line in process.stderr:
        word = line.split()[1] if line.startswith("step ") else ""
        if "/" in word and int(word.split("/")[0]) > step:
            return
    pytest.fail("the run ended too early")


def saving(workdir, after):
    folder = workdir / CHECKPOINTS
    names = [p.name.split(".") for p in folder.glob("*.orbax-checkpoint-tmp")]
    return any(int(name[0]) > after for name in names)


def test_run_killed_twice_and_stopped_once_ends_bit_exactly(
    tmp_path, command, ended, config_file, short_config, last_state, logged, assert_trees_equal
):
    config = config_file(
        short_config(
            training__num_steps=STEPS,
            training__eval_every=EVERY,
            training__save_every=EVERY,
            training__log_every=EVERY // 2,
            training__steps_per_call=2,
            optimizer__ema_decay=0.9,
        )
    )
    arguments = ["train", "--config", config, "--workdir"]
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    code, _, errors = ended(command(*arguments, whole))
    assert code == 0, errors

    # Killed at a random step.
    at = random.randrange(EVERY, 3 * EVERY)
    process = command(*arguments, broken)
    print(f"killed after step {at}")  # Shown if the test fails.
    training_beyond(process, at)
    process.kill()
    assert ended(process)[0] == -signal.SIGKILL

    # Killed during a later save.
    process = command(*arguments, broken)
    wait_until(process, lambda: saving(broken, after=at + EVERY))
    process.kill()
    assert ended(process)[0] == -signal.SIGKILL

    # Asked to stop.
    process = command(*arguments, broken)
    last = max(int(p.name) for p in (broken / CHECKPOINTS).iterdir() if p.name.isdecimal())
    training_beyond(process, last + EVERY)
    process.send_signal(signal.SIGTERM)
    code, output, errors = ended(process)
    assert code == EXIT_INTERRUPTED, errors
    assert "stopped and saved at step" in output
    assert not (broken / RESULT).exists()

    code, _, errors = ended(command(*arguments, broken))
    assert code == 0, errors
    assert "resuming from the checkpoint of step" in errors
    (step, state), (whole_step, whole_state) = last_state(broken), last_state(whole)
    assert step == whole_step == STEPS
    assert_trees_equal(state, whole_state)
    assert logged(broken) == logged(whole)
    tests = [json.loads((w / RESULT).read_text())["metrics"] for w in (whole, broken)]
    assert tests[0] == tests[1]
