"""Training over three input paths: decoded records, host memory, and device memory.

The training loop trains the digits autoencoder on examples that are decoded from records on demand, on examples
decoded once into host memory, and on examples in device memory. In the last case a batch is only its indices, and
one call runs several steps. All three compute the same result.

Loading overlaps with computation, so the paths hardly differ if a step takes longer than loading its batch. A
second, tiny model shows the cost of the input path itself.

  python experiments/benchmarks/input_path.py
"""

import contextlib
import io
import tempfile
from pathlib import Path
from typing import Any

import jax
import numpy as np
from timing import ROOT, interleaved_order, parse_arguments, time_ratios, write_record

from deconv_jax.cli import load_config
from deconv_jax.data.source_configs import Digits
from deconv_jax.experiment import Experiment
from deconv_jax.train import train
from deconv_jax.training.run_log import METRICS, read_metrics

CONFIG = ROOT / "experiments" / "autoencoding" / "digits.py"
RECORDS, MEMORY, DEVICE = "records", "memory", "device"
PATHS = {
    RECORDS: (dict(cache="none"), dict(steps_per_call=1)),
    MEMORY: (dict(cache="memory"), dict(steps_per_call=1)),
    DEVICE: (dict(cache="device"), dict(steps_per_call=10)),
}
"""Overrides of config.data and config.training."""
MODELS: dict[str, tuple[dict[str, Any], dict[str, int]]] = {
    "digits": (dict(), dict(batch_size=64, num_steps=60, log_every=20)),
    "tiny": (dict(features=(4, 8)), dict(batch_size=16, num_steps=800, log_every=200)),
}
"""Overrides of config.task.model and config.training; the first `log_every` steps are not timed."""


def main() -> None:
    """Train each model over each path once per round."""
    arguments = parse_arguments(__file__, __doc__, rounds=3)
    runs = {f"{model}, {path}": (model, path) for model in MODELS for path in PATHS}
    times: dict[str, list[float]] = {name: [] for name in runs}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data_dir = folder / "data"
        Digits().prepare(str(data_dir))
        # The runs of a round compile the same programs as those of the one before.
        jax.config.update("jax_compilation_cache_dir", str(folder / "compiled"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        for run in interleaved_order(list(runs), arguments.rounds):
            workdir = Path(tempfile.mkdtemp(prefix="workdir_", dir=folder))
            times[run].append(step_time(experiment(*runs[run], data_dir), workdir))
    write_record(
        arguments.output,
        measured="one training step in the training loop, loading included",
        protocol="median over rounds of the mean time per step of a run, from the first record in "
        "metrics.jsonl to the last, without evaluations and checkpoints; runs interleaved in one "
        "process, each with a new workdir",
        times=times,
        ratios=time_ratios(
            times,
            *((run, f"{model}, {DEVICE}") for run, (model, path) in runs.items() if path != DEVICE),
        ),
        images_per_second={
            run: round(1e3 * MODELS[model][1]["batch_size"] / float(np.median(times[run])))
            for run, (model, _) in runs.items()
        },
        shapes={"images": load_config(str(CONFIG))["task"]["model"]["image_shape"]},
        models={name: model | training for name, (model, training) in MODELS.items()},
        paths={name: data | training for name, (data, training) in PATHS.items()},
        config=str(CONFIG.relative_to(ROOT)),
    )


def experiment(model: str, path: str, data_dir: Path) -> Experiment:
    """Return the digits experiment with the overrides of a model and a path."""
    config = load_config(str(CONFIG))
    model_settings, training = MODELS[model]
    data, calls = PATHS[path]
    config["task"]["model"] |= model_settings
    config["data"] |= data | dict(data_dir=str(data_dir))
    rare = dict(eval_every=training["num_steps"], save_every=training["num_steps"])
    config["training"] |= training | rare | calls
    config["optimizer"]["warmup_steps"] = 0
    return Experiment.from_dict(config)


def step_time(experiment: Experiment, workdir: Path) -> float:
    """Return milliseconds per training step, without the first `log_every` steps."""
    with contextlib.redirect_stderr(io.StringIO()):  # The run's own log.
        train(experiment, workdir)
    records = [r for r in read_metrics(workdir / METRICS) if r["split"] == "train"]
    first = next(r for r in records if r["step"] == experiment.training.log_every)
    last = records[-1]
    return 1e3 * (last["time"] - first["time"]) / (last["step"] - first["step"])


if __name__ == "__main__":
    main()
