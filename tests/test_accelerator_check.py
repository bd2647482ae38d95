"""The check of a machine runs on a CPU at tiny sizes, and reports parts that fail or take too long."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from deconv_jax.config_arguments import load_module

SCRIPT = Path(__file__).parents[1] / "experiments" / "accelerator" / "check.py"

pytestmark = pytest.mark.slow


def read(path):
    return json.loads(path.read_text())


def test_small_check_passes_on_a_cpu_and_writes_every_part(tmp_path):
    environment = os.environ | {"XLA_FLAGS": "--xla_backend_optimization_level=0"}
    environment.pop("DECONV_JAX_DATA", None)
    command = [sys.executable, SCRIPT, "--small", "--output", tmp_path]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    parts = read(tmp_path / "check.json")["parts"]
    assert list(parts) == ["device", "tests", "operators", "steps", "processes", "training"]
    assert {part["status"] for part in parts.values()} == {"passed"}
    results = {name: read(tmp_path / part["result"]) for name, part in parts.items()}
    assert results["tests"]["finished"]
    assert results["tests"]["passed"] >= 10
    assert results["tests"]["failed"] == []
    for name, cases in (("operators", 4), ("steps", 2)):
        rows = results[name]["cases"]
        assert len(rows) == cases
        assert all(row["agrees"] and "torch.compile" in row["median_ms"] for row in rows)
    assert all(group["agree"] for group in results["processes"]["groups"].values())
    for speed in results["training"]["speed"].values():
        assert speed["images_per_second"] == pytest.approx(8 * speed["steps_per_second"])
        assert speed["fraction_of_matrix_product_rate"] > 0
    assert results["training"]["metrics"]["test"]["psnr"] > 15


def test_a_part_that_fails_or_takes_too_long_is_named(tmp_path, monkeypatch):
    check = load_module(SCRIPT)
    failed = check.run_part("unknown", tmp_path, 60.0, small=True)
    assert (failed["status"], failed["reason"]) == ("failed", "KeyError: 'unknown'")
    monkeypatch.setattr(check, "GRACE", 0.0)
    stopped = check.run_part("steps", tmp_path, 0.01, small=True)
    assert (stopped["status"], stopped["reason"]) == ("stopped", "not finished after 0 s")
    assert (failed["result"], stopped["result"]) == (None, None)


def test_a_missing_device_of_pytorch_and_missing_time_are_named(tmp_path, monkeypatch, capsys):
    speed = load_module(SCRIPT.with_name("speed.py"))
    monkeypatch.setattr(speed.jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(speed.torch.cuda, "is_available", lambda: False)
    output = tmp_path / "operators.json"
    (problem,) = speed.measure_operators(output, speed.Setup.of(small=True, seconds=0.0))
    assert "has no gpu device here" in problem
    assert "note: the time was too short for 3 of 4 cases" in capsys.readouterr().out
    record = read(output)
    assert (record["missing"], record["number_of_all_cases"]) == (problem, 4)
    assert [set(row["median_ms"]) for row in record["cases"]] == [{"deconv_jax", "flax.linen"}]
