"""Check a machine with an accelerator in a few minutes: tests, speed, processes, and a training run.

  python experiments/accelerator/check.py --output runs/check        # at most 12 minutes
  python experiments/accelerator/check.py --output runs/check --small    # tiny sizes, also on a CPU

Needs the extras `test` and `bench`. The folder receives a log and a JSON file of each part as soon as it ends, so a
check that is cut short keeps its results; check.json says which parts passed, failed or are missing, and why:

  tests       quick tests of operators, layers and training steps, on the device
  operators   operators and gradients in float32 and bfloat16, as ratios to PyTorch and torch.compile
  steps       training steps, likewise
  processes   a step of processes that join, compared with that of one process
  training    DnCNN at sigma 25 with the paper's batch for the remaining time: images/s, fraction of the measured
              rate of matrix products, and PSNR on Set12, if $DECONV_JAX_DATA has train400/, bsd68/ and set12/;
              otherwise on the embedded photographs

The exit code is 1 unless all parts pass.
"""

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from deconv_jax.io import write_json

ROOT = Path(__file__).parents[2]
SHARES = {
    "device": 0.1,
    "tests": 0.25,
    "operators": 0.18,
    "steps": 0.15,
    "processes": 0.1,
    "training": 1.0,
}
"""Largest share of the time of each part. The last one gets all that is left."""
GRACE = 20.0
"""Seconds for a part to save its results after it is told to stop."""


def main() -> int:
    """Run all parts, one after the other."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--minutes", type=float, default=12.0, help="time for all parts (default: %(default)s)"
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("runs/check"),
        metavar="DIR",
        help="folder of the results (default: %(default)s)",
    )
    parser.add_argument("--small", action="store_true", help="use tiny sizes, to try this script")
    parser.add_argument("--part", help=argparse.SUPPRESS)
    parser.add_argument("--seconds", type=float, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.part:
        import parts

        return parts.run(arguments.part, arguments.output, arguments.seconds, arguments.small)
    if arguments.output.exists() and any(arguments.output.iterdir()):
        parser.error(f"--output must be a new or empty folder; got {arguments.output}")
    return check(arguments.output, 60.0 * arguments.minutes, small=arguments.small)


def check(output: Path, seconds: float, *, small: bool) -> int:
    """Run all parts within `seconds`, write check.json after each, and return the exit code."""
    ends = time.monotonic() + seconds - GRACE
    output.mkdir(parents=True, exist_ok=True)
    results: dict[str, Any] = {}
    for part, share in SHARES.items():
        limit = max(1.0, min(share * seconds, ends - time.monotonic()))
        results[part] = run_part(part, output, limit, small=small)
        said = results[part]
        print(
            f"{part:<10}{said['status']:<8}{said['seconds']:>7.1f} s  {said['reason']}", flush=True
        )
        write_json(output / "check.json", {"small": small, "seconds": seconds, "parts": results})
        if part == "device" and said["status"] != "passed":
            break
    return int(any(result["status"] != "passed" for result in results.values()))


def run_part(part: str, output: Path, limit: float, *, small: bool) -> dict[str, Any]:
    """Run a part in a process of its own, which is stopped after `limit` seconds.

    Returns:
      "status" ("passed", "failed" or "stopped"), "reason" (why it did not pass, or what it left out), "seconds",
      and "result" (name of the JSON file, or None).
    """
    started = time.monotonic()
    result, log = output / f"{part}.json", output / f"{part}.log"
    result.unlink(missing_ok=True)
    command = [sys.executable, __file__, "--part", part, "--output", str(output)]
    command += ["--seconds", str(limit), *(["--small"] if small else [])]
    # Two frameworks share the memory of the device.
    environment = os.environ | {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    paths = [str(ROOT), environment.get("PYTHONPATH", "")]
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    with log.open("w") as file:
        process = subprocess.Popen(
            command, stdout=file, stderr=subprocess.STDOUT, env=environment, start_new_session=True
        )
        try:
            code: int | None = process.wait(timeout=limit + GRACE)
        except subprocess.TimeoutExpired:
            code = None
        finally:  # Also ends its children.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    last = lines[-1].strip() if lines else "no output"
    note = last.removeprefix("note: ") if last.startswith("note: ") else ""
    reasons = {0: note, None: f"not finished after {limit + GRACE:.0f} s"}
    return {
        "status": {0: "passed", None: "stopped"}.get(code, "failed"),
        "reason": reasons.get(code, last),
        "seconds": round(time.monotonic() - started, 1),
        "result": result.name if result.exists() else None,
    }


if __name__ == "__main__":
    sys.exit(main())
