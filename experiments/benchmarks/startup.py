"""Time from the command to the first training step, with an empty and with a filled compilation cache.

The time covers Python, imports, loading the data, compilation, evaluating the untrained model, and one step. The
first start has an empty compilation cache. The second start has a new workdir and the cache of the first. The
data set is prepared beforehand. An uncounted start fills the file cache and compiles Python's bytecode.

  python experiments/benchmarks/startup.py
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from timing import ROOT, parse_arguments, time_ratios, write_record

from deconv_jax.data.source_configs import Digits
from deconv_jax.training.run_log import METRICS, read_metrics

CONFIG = ROOT / "experiments" / "autoencoding" / "digits.py"
OVERRIDES = (
    "--config.training.steps_per_call=1",
    "--config.training.num_steps=2",
    "--config.training.eval_every=2",
    "--config.training.save_every=2",
    "--config.training.log_every=1",
    "--config.optimizer.warmup_steps=0",
)
"""As short as a run gets."""
FIRST, SECOND = "first start", "second start"


def main() -> None:
    """Start twice per round."""
    arguments = parse_arguments(__file__, __doc__, rounds=5)
    times: dict[str, list[float]] = {FIRST: [], SECOND: []}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        Digits().prepare(str(folder / "data"))
        start(folder / "uncounted", folder / "data")
        for number in range(arguments.rounds):
            for which in times:
                times[which].append(start(folder / f"round_{number}", folder / "data"))
    write_record(
        arguments.output,
        measured="time from the command to the end of the first training step on digits",
        protocol="median over rounds of a first start with an empty compilation cache and a second start, each a "
        "process of its own, until the time of the first training record in metrics.jsonl; data set "
        "prepared and one uncounted start beforehand; overrides: " + " ".join(OVERRIDES),
        times=times,
        ratios=time_ratios(times, (FIRST, SECOND)),
        config=str(CONFIG.relative_to(ROOT)),
    )


def start(folder: Path, data_dir: Path) -> float:
    """Return milliseconds from the command to its first training step.

    Args:
      folder: Folder for the compilation cache and the workdirs.
      data_dir: Folder of the data set.
    """
    folder.mkdir(exist_ok=True)
    workdir = Path(tempfile.mkdtemp(prefix="workdir_", dir=folder))
    command = [sys.executable, "-m", "deconv_jax.cli", "train"]
    command += ["--config", str(CONFIG), "--workdir", str(workdir), *OVERRIDES]
    command += [f"--config.data.data_dir={data_dir}"]
    settings = {k: v for k, v in os.environ.items() if not k.startswith("JAX_PERSISTENT_CACHE")}
    settings["JAX_COMPILATION_CACHE_DIR"] = str(folder / "compiled")
    started = time.time()  # The clock that metrics.jsonl is stamped with.
    done = subprocess.run(command, env=settings, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr}")
    records = read_metrics(workdir / METRICS)
    first = next(record for record in records if record["split"] == "train")
    return 1e3 * (first["time"] - started)


if __name__ == "__main__":
    main()
