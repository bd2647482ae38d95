"""Training over three input paths: decoded records, host memory, and device memory.

The training loop trains the digits autoencoder on examples that are decoded from records on demand, on examples
decoded once into host memory, and on examples in device memory. In the last case a batch is only its indices, and
one call runs several steps. All three compute the same result.

Loading overlaps with computation, so the paths hardly differ if a step takes longer than loading its batch. A
second, tiny model shows the cost of the input path itself.

The CPU time of the input per image is measured for photographs of the size of those in ImageNet, and compared with
the images per second that an accelerator trains on, by the FLOPs of a training step and an assumed utilization.

  python experiments/benchmarks/input_path.py
"""

import contextlib
import io
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from PIL import Image
from timing import ROOT, interleaved_order, parse_arguments, time_ratios, write_record

from deconv_jax.cli import load_config
from deconv_jax.cost.accelerators import ACCELERATORS
from deconv_jax.cost.report import cost_of
from deconv_jax.data.file_splits import find_files
from deconv_jax.data.folders import FolderSource
from deconv_jax.data.images import read_pixels
from deconv_jax.data.source_configs import Digits, Photographs
from deconv_jax.data.sources import in_memory
from deconv_jax.experiment import Experiment
from deconv_jax.train import train
from deconv_jax.training.parallel import Devices
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

PHOTO, PHOTOS, QUALITY = (500, 400), 48, 90
"""Width and height in pixels of the JPEG files, their number and their quality."""
NETWORKS: dict[str, tuple[str, dict[str, Any], tuple[int, ...]]] = {
    "DCGAN, 64 px": ("synthesis/celeba.py", dict(tile=64, color="rgb"), (64, 64, 3)),
    "DnCNN, 40 px": ("restoration/dncnn.py", dict(tile=180, color="gray"), (180, 180, 1)),
}
"""Config, options of the source, and shape of its examples. DnCNN crops its patches on the device."""
PHOTO_BATCH = 128
CHIP, UTILIZATION = "H200", 0.4


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
        per_image = input_times(folder / "photos", arguments.rounds)
    write_record(
        arguments.output,
        measured="one training step in the training loop, loading included; and the CPU time of the input "
        "per image",
        protocol="median over rounds of the mean time per step of a run, from the first record in "
        "metrics.jsonl to the last, without evaluations and checkpoints; runs interleaved in one "
        f"process, each with a new workdir; input of one example by one thread, from a JPEG file of {PHOTO[0]} x "
        f"{PHOTO[1]} pixels (quality {QUALITY}) in the page cache to a batch of {PHOTO_BATCH} on the device",
        times=times | per_image,
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
        feeding=feeding({name: float(np.median(values)) for name, values in per_image.items()}),
        feeding_assumption=f"one {CHIP} at {UTILIZATION:.0%} of its peak rate in bfloat16, "
        f"{_peak() / 1e12:.0f} TFLOP/s; FLOPs of a training step as by `deconv-jax cost`",
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


def input_times(folder: Path, rounds: int) -> dict[str, list[float]]:
    """Return milliseconds of CPU time per image of decoding, and of each network's input from each cache."""
    write_photos(folder)
    files = find_files(str(folder), "all")
    devices = Devices.all()
    indices = np.random.default_rng(0).permutation(10 * PHOTO_BATCH)
    candidates: dict[str, tuple[Callable[[], Any], int]] = {}
    for color in ("rgb", "gray"):
        candidates[f"decode {color}"] = (
            lambda c=color: [read_pixels(p, c) for p in files.paths],
            PHOTOS,
        )
    for network, (_, options, _) in NETWORKS.items():
        source = FolderSource(files, **options, cache_bytes=0)  # A large data set does not fit.
        rows = indices % len(source)
        stored = in_memory(source)

        def batch(gather: Callable[[np.ndarray], Any], rows: np.ndarray = rows) -> None:
            jax.block_until_ready(devices.put_batches([gather(rows[:PHOTO_BATCH])]))

        def position(rows: np.ndarray) -> dict[str, np.ndarray]:
            return {"index": rows.astype(np.int32)}

        for cache, gather in (
            ("none", source.gather),
            ("memory", stored.gather),
            ("device", position),
        ):
            candidates[f"{network}, {cache}"] = (lambda b=batch, g=gather: b(g), PHOTO_BATCH)
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for name in interleaved_order(list(candidates), rounds):
        call, images = candidates[name]
        call()
        calls = 1 if images == PHOTOS or name.endswith("none") else 20
        started = time.process_time()
        for _ in range(calls):
            call()
        times[name].append(1e3 * (time.process_time() - started) / (calls * images))
    return times


def write_photos(folder: Path) -> None:
    """Write JPEG files of random crops of the photographs of scikit-image, enlarged to the size of `PHOTO`."""
    folder.mkdir()
    random = np.random.default_rng(0)
    source = Photographs().open("all")
    for i in range(PHOTOS):
        example = source.gather(np.array([i % len(source)]))
        height, width = example["size"][0]
        crop_height, crop_width = int(0.8 * height), int(0.8 * width)
        top, left = random.integers(height - crop_height), random.integers(width - crop_width)
        crop = example["image"][0, top : top + crop_height, left : left + crop_width]
        Image.fromarray(crop).resize(PHOTO).save(folder / f"{i}.jpg", quality=QUALITY)


def feeding(cpu_ms: Mapping[str, float]) -> list[dict[str, Any]]:
    """Return the cores that feed a chip with the images of each network, for each cache."""
    rows = []
    for network, (config, _, shape) in NETWORKS.items():
        experiment = Experiment.from_dict(load_config(str(ROOT / "experiments" / config)))
        shapes = {
            "image": jax.ShapeDtypeStruct((1, *shape), np.uint8),
            "size": jax.ShapeDtypeStruct((1, 2), np.int32),
            "index": jax.ShapeDtypeStruct((1,), np.int32),
        }
        cost = cost_of(network, experiment, shapes)
        flops = cost.step_flops / cost.batch_size
        rate = UTILIZATION * _peak() / flops
        for cache in ("none", "memory", "device"):
            milliseconds = cpu_ms[f"{network}, {cache}"]
            rows.append(
                {
                    "network": network,
                    "config": config,
                    "flops_per_image": flops,
                    "images_per_second": round(rate),
                    "cache": cache,
                    "cpu_ms_per_image": float(f"{milliseconds:.4g}"),
                    "cores": float(f"{rate * milliseconds / 1e3:.3g}"),
                }
            )
    return rows


def _peak() -> float:
    return next(chip.bf16_flops for chip in ACCELERATORS if chip.name == CHIP)


if __name__ == "__main__":
    main()
